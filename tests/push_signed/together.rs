//! Several who sign at once: no registry keeps one from overwriting another, and all of them stay.

use std::time::Duration;

use super::{PROVENANCE, SPDX, cosign_tag, keys, layers, manifest, project, push, verified};
use crate::support::depot::Depot;
use crate::support::oci::check_schema;

const CYCLONEDX: &str = "https://cyclonedx.org/bom";

#[test]
fn all_who_sign_at_the_same_moment_are_under_the_tag() {
    for lists in [false, true] {
        let (project, depot) = (project(), Depot::start());
        if lists {
            depot.list_referrers();
        }
        let names = ["a", "b", "c", "d", "e"];
        keys(&project, &names);
        let reference = format!("{}/s:1", depot.host);
        let digest = push(&project, &reference, &[]);
        // each reads before any of the others has written
        depot.delay(".sig", Duration::from_millis(300), usize::MAX);
        std::thread::scope(|scope| {
            for name in names {
                let (project, reference) = (&project, &reference);
                scope.spawn(move || push(project, reference, &["--key", &format!("{name}.pem")]));
            }
        });
        let sig = cosign_tag(&digest, "sig");
        let signed = layers(&depot, &sig);
        assert_eq!(signed.len(), names.len(), "{signed:#?}");
        for name in names {
            verified(&project, &reference, name);
        }
        // who signs again finds it there, and writes nothing
        depot.forget();
        push(&project, &reference, &["--key", "a.pem"]);
        assert_eq!(depot.count("PUT", ""), 0);
        if !lists {
            let index = manifest(&depot, &digest.replace(':', "-"));
            check_schema("image-index", &index.to_string());
        }
    }
}

#[test]
fn who_overwrites_what_came_meanwhile_puts_it_back() {
    for lists in [false, true] {
        let (project, depot) = (project(), Depot::start());
        if lists {
            depot.list_referrers();
        }
        let reference = format!("{}/s:1", depot.host);
        let digest = push(&project, &reference, &[]);
        let att = cosign_tag(&digest, "att");
        // the first has read, and what it writes arrives when the second has looked and gone
        depot.delay(".att", Duration::from_secs(3), 1);
        depot.forget();
        std::thread::scope(|scope| {
            let slow = scope.spawn(|| push(&project, &reference, &["--attest", "--key", "a.pem"]));
            while depot.count("PUT", &att) == 0 {
                assert!(!slow.is_finished(), "it writes no {att}");
                std::thread::sleep(Duration::from_millis(5));
            }
            push(&project, &reference, &["--attest", "--key", "b.pem"]);
            assert!(!slow.is_finished());
            assert_eq!(layers(&depot, &att).len(), 3);
        });
        let all = layers(&depot, &att);
        assert_eq!(all.len(), 6, "{all:#?}");
        for kind in [SPDX, CYCLONEDX, PROVENANCE] {
            let of = all.iter().filter(|layer| layer["annotations"]["predicateType"] == kind);
            assert_eq!(of.count(), 2, "{kind}");
        }
        for name in ["a", "b"] {
            assert_eq!(verified(&project, &reference, name), 3);
        }
    }
}
