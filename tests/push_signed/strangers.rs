//! Strangers who write much: it is not read, that is said, and what is one's own counts.

use super::{
    ENVELOPE, SPDX, attach, cosign_tag, key, manifest, project, push, statement, verified,
};
use crate::support::depot::Depot;
use crate::support::project::Project;
use sbx::digest::Digest;
use sbx::report::PAYLOAD_TYPE;
use sbx::report::sign::Envelope;
use serde_json::{Value, json};

/// What `a` attests of an image.
fn envelope(project: &Project, digest: &str) -> Vec<u8> {
    Envelope::sign(&key(project, "a"), PAYLOAD_TYPE, &statement(digest, SPDX)).to_bytes()
}

#[test]
fn a_document_that_is_too_large_is_passed_over_wherever_it_is() {
    let (project, depot) = (project(), Depot::start());
    let reference = format!("{}/s:1", depot.host);
    let digest = push(&project, &reference, &["--key", "a.pem"]);
    let att = cosign_tag(&digest, "att");
    attach(&depot, &digest, ENVELOPE, &envelope(&project, &digest), &att);
    let good = manifest(&depot, &att);
    let large = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": ENVELOPE, "layers": [], "manifests": [],
        "subject": {"digest": digest}, "annotations": {"x": "x".repeat(5 << 20)},
    });
    let large = large.to_string().into_bytes();
    let pull = |attested: usize, count: usize| {
        assert_eq!(verified(&project, &reference, "a"), attested);
        let said = project.sbx(&["pull", &reference, "--verify", "a.pub"]).success();
        said.says(&format!("note: {count} documents about {digest} are not looked at"));
    };
    // in place of what the key attests, of the list, and among what is listed
    depot.put("s", &att, large.clone());
    pull(0, 1);
    depot.put("s", &digest.replace(':', "-"), large.clone());
    pull(0, 2);
    depot.list_referrers();
    depot.put("s", &att, good.to_string().into_bytes());
    depot.put("s", &Digest::of(&large).to_string(), large.clone());
    pull(1, 1);
    // nothing is signed by whom nobody read
    depot.put("s", &cosign_tag(&digest, "sig"), large);
    let artifacts = ["application/vnd.dev.cosign.artifact.sig.v1+json"];
    depot.drop_manifests("s", &artifacts);
    let refused = project.sbx(&["pull", &reference, "--verify", "a.pub"]);
    refused.fails(3, &["are not looked at", "is a signature of this key"]);
}

#[test]
fn what_is_small_is_read_before_there_is_too_much() {
    let (project, depot) = (project(), Depot::start());
    let reference = format!("{}/s:1", depot.host);
    let digest = push(&project, &reference, &["--key", "a.pem"]);
    let att = cosign_tag(&digest, "att");
    attach(&depot, &digest, ENVELOPE, &envelope(&project, &digest), &att);
    let mut crowded = manifest(&depot, &att);
    let own = crowded["layers"][0].take();
    let layer = |digest: Digest, size: usize| -> Value {
        json!({"mediaType": ENVELOPE, "digest": digest, "size": size})
    };
    let junk = (0..20u8).map(|at| layer(Digest::of(&[at]), 64 << 20));
    // one that lies about the size of what is one's own takes nothing from it
    let lie = layer(own["digest"].as_str().unwrap().parse().unwrap(), 1);
    crowded["layers"] = junk.chain([lie, layer(Digest::of(b"x"), 65 << 20), own]).collect();
    depot.put("s", &att, crowded.to_string().into_bytes());
    assert_eq!(verified(&project, &reference, "a"), 1);
    let said = project.sbx(&["pull", &reference, "--verify", "a.pub"]).success();
    let said = said.says("note: 6 documents about").says("too large, or too many");
    said.says("note: 16 attestations do not count");
}
