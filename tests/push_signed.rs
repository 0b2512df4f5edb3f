//! What is attached to images: signatures, bills of materials, provenance; by several, and by strangers.

mod strangers;
mod together;

use std::fs;

use crate::report::judge;
use crate::support::depot::{Depot, Fault};
use crate::support::oci::check_schema;
use crate::support::project::Project;
use crate::support::repo::{Deb, Repo};
use crate::support::tool;
use sbx::digest::Digest;
use sbx::report::PAYLOAD_TYPE;
use sbx::report::sign::{Envelope, PrivateKey};
use serde_json::{Value, json};

const SPDX: &str = "https://spdx.dev/Document";
const PROVENANCE: &str = "https://slsa.dev/provenance/v1";
const ENVELOPE: &str = "application/vnd.dsse.envelope.v1+json";

/// A built sandbox, and the keys of two, `a` and `b`.
fn project() -> Project {
    let project = Project::new()
        .file(
            "sandboxes.kdl",
            "layer \"app\" { files \"app\" into=\"/srv/app\"; }\n\
             sandbox \"s\" { layers \"app\"; command \"/srv/app/run\"; }\n",
        )
        .file("app/run", "#!/bin/sh\necho 1\n");
    project.build();
    keys(&project, &["a", "b"]);
    project
}

fn keys(project: &Project, names: &[&str]) {
    for name in names {
        let path = project.dir.path().join(format!("{name}.pem"));
        let curve = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out"];
        tool("openssl", &[&["genpkey"], &curve[..], &[path.to_str().unwrap()]].concat());
        project.write(&format!("{name}.pub"), &key(project, name).public().to_pem());
    }
}

fn key(project: &Project, name: &str) -> PrivateKey {
    PrivateKey::parse(&project.read(&format!("{name}.pem")), None).unwrap()
}

fn answer(project: &Project, arguments: &[&str]) -> Value {
    let said = project.sbx(&[&["--json"], arguments].concat()).success().stdout;
    serde_json::from_str(&said).unwrap()
}

/// Pushes sandbox `s`; answers the digest.
fn push(project: &Project, reference: &str, more: &[&str]) -> String {
    let pushed = answer(project, &[&["push", "s", reference], more].concat());
    pushed["digest"].as_str().unwrap().to_owned()
}

/// What a key attests of an image that it signed, the shortest way.
fn verified(project: &Project, reference: &str, key: &str) -> usize {
    let pulled = answer(project, &["pull", reference, "--verify", &format!("{key}.pub")]);
    assert_eq!(pulled["verified"], true);
    pulled["attested"].as_array().unwrap().len()
}

fn cosign_tag(digest: &str, suffix: &str) -> String {
    format!("{}.{suffix}", digest.replace(':', "-"))
}

fn manifest(depot: &Depot, version: &str) -> Value {
    serde_json::from_slice(&depot.manifest("s", version).unwrap()).unwrap()
}

fn layers(depot: &Depot, version: &str) -> Vec<Value> {
    manifest(depot, version)["layers"].as_array().unwrap().clone()
}

/// Puts an artifact that refers to an image, as a stranger or another tool does, under a tag as well.
fn attach(depot: &Depot, subject: &str, media_type: &str, bytes: &[u8], tag: &str) {
    let layer = Digest::of(bytes).to_string();
    depot.put_blob("s", &layer, bytes);
    let artifact = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": media_type,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": Digest::of(b"{}"), "size": 2},
        "layers": [{
            "mediaType": media_type, "digest": layer, "size": bytes.len(),
            "annotations": {"dev.cosignproject.cosign/signature": "", "predicateType": PROVENANCE},
        }],
        "subject": {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": subject, "size": 1},
    });
    let bytes = artifact.to_string().into_bytes();
    depot.put("s", &Digest::of(&bytes).to_string(), bytes.clone());
    depot.put("s", tag, bytes);
}

fn statement(digest: &str, kind: &str) -> Vec<u8> {
    let hex = digest.trim_start_matches("sha256:");
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v1", "subject": [{"digest": {"sha256": hex}}],
        "predicateType": kind, "predicate": {},
    });
    statement.to_string().into_bytes()
}

#[test]
fn what_is_attached_is_found_and_signatures_count() {
    for lists in [false, true] {
        let project = project();
        let depot = Depot::start();
        if lists {
            depot.list_referrers();
        }
        let reference = format!("{}/s:1", depot.host);
        let plain = push(&project, &reference, &[]);
        let pull = |key: &str| project.sbx(&["pull", &reference, "--verify", key]);
        pull("a.pub").fails(3, &["is not signed", "sbx push --key"]);
        let builder = "https://ci.example.org/1";
        let words = ["push", "s", &reference, "--attest", "--builder", builder];
        let attested = answer(&project, &words);
        assert_eq!(attested["digest"], plain, "the image is the same");
        let attached = attested["attached"].as_array().unwrap();
        let document = |digest: &Value| {
            let manifest = manifest(&depot, digest.as_str().unwrap());
            let layer = manifest["layers"][0]["digest"].as_str().unwrap();
            String::from_utf8(depot.blob("s", layer).unwrap()).unwrap()
        };
        let built = attached.iter().filter(|one| document(one).contains(builder));
        assert_eq!((attached.len(), built.count()), (3, 1));
        pull("a.pub").fails(3, &["is not signed"]);
        push(&project, &reference, &["--key", "b.pem"]);
        pull("a.pub").fails(3, &["none of the 1 signatures", "is a signature of this key"]);
        let signed = answer(&project, &["push", "s", &reference, "--attest", "--key", "a.pem"]);
        assert_eq!((&signed["digest"], &signed["blobs"]["sent"]), (&json!(plain), &json!(0)));
        assert_eq!(verified(&project, &reference, "a"), 3);

        let hex = plain.trim_start_matches("sha256:");
        let tags = depot.tags("s");
        for suffix in ["att", "sig"] {
            assert!(tags.contains(&cosign_tag(&plain, suffix)), "{tags:?}");
        }
        assert_eq!(tags.contains(&format!("sha256-{hex}")), !lists, "{tags:?}");
        if !lists {
            let index = manifest(&depot, &format!("sha256-{hex}"));
            check_schema("image-index", &index.to_string());
            let entries = index["manifests"].as_array().unwrap();
            for entry in entries {
                let manifest = depot.manifest("s", entry["digest"].as_str().unwrap()).unwrap();
                check_schema("image-manifest", &String::from_utf8(manifest).unwrap());
            }
            let mut kinds: Vec<&str> =
                entries.iter().map(|entry| entry["artifactType"].as_str().unwrap()).collect();
            kinds.sort_unstable();
            // the first signer's manifest is in the second's, and not listed any more
            let expected = [
                "application/spdx+json",
                "application/vnd.cyclonedx+json",
                "application/vnd.dev.cosign.artifact.sig.v1+json",
                ENVELOPE,
                "application/vnd.in-toto+json",
            ];
            assert_eq!(kinds, expected);
        }
        // a signature is of one image: under another one it is worth nothing
        project.write("app/run", "#!/bin/sh\necho 2\n");
        project.build();
        let other = format!("{}/s:2", depot.host);
        let digest = push(&project, &other, &[]);
        depot.tag("s", &cosign_tag(&plain, "sig"), &cosign_tag(&digest, "sig"));
        let pull = ["pull", &other, "--verify", "a.pub"];
        project.sbx(&pull).fails(3, &["none of the 2", "is a signature of this key"]);
        // neither is an attestation
        push(&project, &other, &["--key", "a.pem"]);
        depot.tag("s", &cosign_tag(&plain, "att"), &cosign_tag(&digest, "att"));
        assert_eq!(verified(&project, &other, "a"), 0);
        let said = project.sbx(&pull).success();
        said.says("3 attestations do not count: they are not of this key, or about something else");
    }
}

#[test]
fn what_cannot_be_attested_or_signed_is_not_pushed() {
    let repo = Repo::with_base().add(Deb::new("thing", "1.0-1").file("/usr/share/thing/x", "x"));
    repo.publish();
    let project = Project::from_repo(&repo).debian_layers(&["", "thing"]);
    project.build();
    keys(&project, &["a"]);
    let depot = Depot::start();
    let reference = format!("{}/s:1", depot.host);
    let push = |more: &[&str]| project.sbx(&[&["push", "s", &reference], more].concat());
    push(&["--key", "none.pem"]).fails(1, &["key none.pem"]);
    push(&["--key", "a.pub"]).fails(1, &["it is no private key"]);
    let pins = project.read("sbx.lock");
    let digest = pins.split("sha256:").nth(1).unwrap()[..64].to_owned();
    fs::remove_file(project.cache().join("blobs/sha256").join(digest)).unwrap();
    fs::remove_dir_all(project.cache().join("facts")).unwrap_or_default();
    push(&["--attest", "--key", "a.pem"]).fails(1, &["is not in the store", "run `sbx fetch`"]);
    assert!(depot.asked().is_empty(), "{:?}", depot.asked());
    push(&["--key", "a.pem"]).success();
}

#[test]
fn a_tag_moves_when_everything_is_attached_and_not_before() {
    let (project, depot) = (project(), Depot::start());
    let reference = format!("{}/s:1", depot.host);
    let first = push(&project, &reference, &[]);
    let puts = |depot: &Depot| -> Vec<String> {
        let asked = depot.asked().into_iter();
        let puts = asked.filter(|one| one.method == "PUT" && one.path.contains("/manifests/"));
        puts.map(|one| one.path.rsplit('/').next().unwrap().to_owned()).collect()
    };
    assert_eq!(puts(&depot), ["1"], "where nothing is attached, the manifest goes to its tag");
    project.write("app/run", "#!/bin/sh\necho 2\n");
    project.build();
    let signed = ["push", "s", &reference, "--attest", "--key", "a.pem"];
    // whatever is refused on the way, the tag stays
    depot.forget();
    depot.refuse_tag(Some("sig"));
    project.sbx(&signed).fails(3, &["does not let strangers write there"]);
    let sent = puts(&depot);
    assert!(sent.last().unwrap().ends_with(".sig"), "{sent:?}");
    assert_eq!(manifest(&depot, "1"), manifest(&depot, &first));
    depot.refuse_tag(None);
    depot.forget();
    let second = answer(&project, &signed[..])["digest"].as_str().unwrap().to_owned();
    assert_eq!(manifest(&depot, "1"), manifest(&depot, &second));
    let sent = puts(&depot);
    assert_eq!(sent.iter().filter(|one| *one == "1").count(), 1);
    assert_eq!(sent.last().unwrap(), "1", "{sent:?}");
    assert_eq!(verified(&project, &reference, "a"), 3);
    // the same again says nothing new
    depot.forget();
    project.sbx(&signed).success();
    assert_eq!((puts(&depot).len(), depot.count("POST", "")), (0, 0));
}

#[test]
fn an_index_is_signed_before_its_tag_moves() {
    let (project, depot) = (project(), Depot::start());
    let text = project.read("sandboxes.kdl");
    let text = format!("project \"p\" {{ platforms \"linux/amd64\" \"linux/arm64\"; }}\n{text}");
    project.write("sandboxes.kdl", &text);
    for platform in ["linux/amd64", "linux/arm64"] {
        project.sbx(&["build", "s", "--platform", platform]).success();
    }
    let reference = format!("{}/s:1", depot.host);
    let index = push(&project, &reference, &["--attest", "--key", "a.pem"]);
    let tags: Vec<String> = depot
        .asked()
        .iter()
        .filter(|one| one.method == "PUT" && one.path.contains("/manifests/"))
        .map(|one| one.path.rsplit('/').next().unwrap().to_owned())
        .collect();
    let at = |name: &str| tags.iter().position(|one| one == name).unwrap();
    assert!(at(&index) < at(&cosign_tag(&index, "sig")), "{tags:?}");
    assert_eq!(tags.last().unwrap(), "1");
    assert_eq!(manifest(&depot, "1")["manifests"].as_array().unwrap().len(), 2);
    assert_eq!(verified(&project, &reference, "a"), 3);
    assert_eq!(verified(&project, &format!("{}/s@{index}", depot.host), "a"), 3);
}

#[test]
fn every_signer_adds_and_takes_nothing_away() {
    for lists in [false, true] {
        let (project, depot) = (project(), Depot::start());
        if lists {
            depot.list_referrers();
        }
        let reference = format!("{}/s:1", depot.host);
        let digest = push(&project, &reference, &["--attest", "--key", "a.pem"]);
        let (sig, att) = (cosign_tag(&digest, "sig"), cosign_tag(&digest, "att"));
        push(&project, &reference, &["--key", "b.pem"]);
        assert_eq!(layers(&depot, &sig).len(), 2);
        // signed by both, attested by one
        assert_eq!(verified(&project, &reference, "a"), 3);
        assert_eq!(verified(&project, &reference, "b"), 0);
        push(&project, &reference, &["--attest", "--key", "b.pem"]);
        push(&project, &reference, &["--attest", "--key", "a.pem"]);
        assert_eq!((layers(&depot, &sig).len(), layers(&depot, &att).len()), (2, 6));
        assert_eq!(verified(&project, &reference, "b"), 3);

        // what another program attested with the same key stays; what this one said before gives way
        let theirs =
            Envelope::sign(&key(&project, "a"), PAYLOAD_TYPE, &statement(&digest, PROVENANCE));
        let theirs = theirs.to_bytes();
        let mut merged = manifest(&depot, &att);
        let layer = json!({
            "mediaType": ENVELOPE, "digest": Digest::of(&theirs), "size": theirs.len(),
            "annotations": {"dev.cosignproject.cosign/signature": "", "predicateType": PROVENANCE},
        });
        depot.put_blob("s", &Digest::of(&theirs).to_string(), &theirs);
        merged["layers"].as_array_mut().unwrap().push(layer.clone());
        depot.put("s", &att, merged.to_string().into_bytes());
        let before = layers(&depot, &att);
        // the lock says more than before, the image is the same
        project.sbx(&["build", "s", "--record"]).success();
        push(&project, &reference, &["--attest", "--key", "a.pem"]);
        let after = layers(&depot, &att);
        assert_eq!(after.len(), 7, "{after:#?}");
        assert!(after.contains(&layer));
        let changed: Vec<&Value> = before.iter().filter(|one| !after.contains(one)).collect();
        assert_eq!(changed.len(), 1, "{changed:#?}");
        assert_eq!(changed[0]["annotations"]["predicateType"], PROVENANCE);
        assert_eq!(verified(&project, &reference, "b"), 3);
    }
}

#[test]
fn a_tag_that_is_full_is_left_as_it_is() {
    let (project, depot) = (project(), Depot::start());
    let reference = format!("{}/s:1", depot.host);
    let digest = push(&project, &reference, &["--key", "a.pem"]);
    let sig = cosign_tag(&digest, "sig");
    let mut full = manifest(&depot, &sig);
    let other = Digest::of(b"payload");
    let other = |n| {
        json!({
            "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json", "digest": other, "size": 7,
            "annotations": {"dev.cosignproject.cosign/signature": format!("{n}")},
        })
    };
    full["layers"].as_array_mut().unwrap().extend((0..999).map(other));
    depot.put("s", &sig, full.to_string().into_bytes());
    let more = ["push", "s", &reference, "--key", "b.pem"];
    project.sbx(&more).fails(3, &["1000 signers have written to", &sig]);
    assert_eq!(manifest(&depot, &sig), full);
    push(&project, &reference, &["--key", "a.pem"]);
}

#[test]
fn strangers_neither_count_nor_stand_in_the_way() {
    for lists in [false, true] {
        let (project, depot) = (project(), Depot::start());
        if lists {
            depot.list_referrers();
        }
        let reference = format!("{}/s:1", depot.host);
        let digest = push(&project, &reference, &["--key", "a.pem"]);
        let att = cosign_tag(&digest, "att");
        let by = |name: &str, of: &str| {
            let envelope = Envelope::sign(&key(&project, name), PAYLOAD_TYPE, &statement(of, SPDX));
            envelope.to_bytes()
        };
        let need = |kind: &str| {
            project.sbx(&["pull", &reference, "--verify", "a.pub", "--attested", kind])
        };
        // signed by one, attested by another
        attach(&depot, &digest, ENVELOPE, &by("b", &digest), &att);
        assert_eq!(verified(&project, &reference, "a"), 0);
        need("spdx").fails(3, &["has no attestation", SPDX, "sbx push --attest --key"]);
        let signer = project.sbx(&["pull", &reference, "--verify", "b.pub"]);
        signer.fails(3, &["is a signature of this key"]);
        // bytes that are no envelope, and one that is about another image
        for bytes in [b"{".to_vec(), by("a", &Digest::of(b"x").to_string())] {
            attach(&depot, &digest, ENVELOPE, &bytes, &att);
            assert_eq!(verified(&project, &reference, "a"), 0);
        }
        // its blob is not there, or has other bytes
        depot.drop_blob("s", &Digest::of(b"{").to_string());
        attach(&depot, &digest, ENVELOPE, b"gone", &att);
        depot.drop_blob("s", &Digest::of(b"gone").to_string());
        assert_eq!(verified(&project, &reference, "a"), 0);
        // attested by both
        attach(&depot, &digest, ENVELOPE, &by("a", &digest), &att);
        assert_eq!(verified(&project, &reference, "a"), 1);
        need("spdx").success();
        need(SPDX).success();
        need("provenance").fails(3, &[PROVENANCE]);
        need("sbom").fails(2, &["neither `spdx`, `cyclonedx`, `provenance` nor a URI"]);
    }
}

#[test]
fn a_list_has_pages_and_an_error_is_no_empty_list() {
    let (project, depot) = (project(), Depot::start());
    depot.list_referrers();
    let reference = format!("{}/s:1", depot.host);
    let digest = push(&project, &reference, &["--attest", "--key", "a.pem", "--bundles"]);
    depot.page_referrers(1);
    depot.forget();
    assert_eq!(verified(&project, &reference, "a"), 3);
    assert!(depot.count("GET", "/referrers/") >= 4);
    let asked = depot.asked();
    let at = asked.iter().position(|one| one.path.contains("/referrers/")).unwrap();
    let pull = ["pull", &reference, "--verify", "a.pub"];
    for at in [at, at + 1] {
        depot.fail(at, Fault::Status(403));
        project.sbx(&pull).fails(3, &["does not let"]);
    }
    // one that does not know the question is asked by the tag
    depot.fail(at, Fault::Status(400));
    project.sbx(&pull).fails(3, &[&digest, "is not signed"]);
}

#[test]
fn bundles_are_of_the_form_that_others_write_and_read() {
    for lists in [false, true] {
        let (project, depot) = (project(), Depot::start());
        if lists {
            depot.list_referrers();
        }
        let reference = format!("{}/s:1", depot.host);
        let more = ["push", "s", &reference, "--attest", "--key", "a.pem", "--bundles"];
        let pushed = answer(&project, &more);
        assert_eq!(pushed["attached"].as_array().unwrap().len(), 4);
        let digest = pushed["digest"].as_str().unwrap();
        let tags = depot.tags("s");
        assert!(!tags.iter().any(|tag| tag.ends_with(".sig") || tag.ends_with(".att")), "{tags:?}");
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        fs::write(at("key.pub"), project.read("a.pub")).unwrap();
        for (at_number, artifact) in pushed["attached"].as_array().unwrap().iter().enumerate() {
            let artifact = manifest(&depot, artifact.as_str().unwrap());
            check_schema("image-manifest", &artifact.to_string());
            assert_eq!(artifact["annotations"]["dev.sigstore.bundle.content"], "dsse-envelope");
            let layer = artifact["layers"][0]["digest"].as_str().unwrap();
            let file = at(&format!("{at_number}.json"));
            fs::write(&file, depot.blob("s", layer).unwrap()).unwrap();
            judge("bundle", &file);
        }
        assert_eq!(verified(&project, &reference, "a"), 3);
        let pull = ["pull", &reference, "--verify", "b.pub"];
        project.sbx(&pull).fails(3, &["none of the 4", "is a signature of this key"]);
        depot.forget();
        project.sbx(&more).success();
        assert_eq!(depot.count("POST", ""), 0, "the same again is there");

        // what another program writes with the other key, as a statement and over the manifest's bytes
        fs::write(at("key.pem"), project.read("b.pem")).unwrap();
        fs::write(at("manifest"), depot.manifest("s", digest).unwrap()).unwrap();
        for form in ["statement", "message"] {
            let depot = Depot::start();
            if lists {
                depot.list_referrers();
            }
            let reference = format!("{}/s:1", depot.host);
            assert_eq!(push(&project, &reference, &["--attest"]), digest);
            judge(&format!("write_{form}"), &at("manifest"));
            let bytes = fs::read(at("bundle.json")).unwrap();
            let media_type = "application/vnd.dev.sigstore.bundle.v0.3+json";
            attach(&depot, digest, media_type, &bytes, "x");
            if !lists {
                // cosign lists the config's type, where the registry keeps no list
                let entry = depot.manifest("s", "x").unwrap();
                let tag = digest.replace(':', "-");
                let mut index = manifest(&depot, &tag);
                index["manifests"].as_array_mut().unwrap().push(json!({
                    "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "digest": Digest::of(&entry), "size": entry.len(),
                    "artifactType": "application/vnd.oci.empty.v1+json",
                }));
                depot.put("s", &tag, index.to_string().into_bytes());
            }
            assert_eq!(verified(&project, &reference, "b"), 0, "{form}");
            let pull = ["pull", &reference, "--verify", "a.pub"];
            project.sbx(&pull).fails(3, &["none of the 1", "is a signature of this key"]);
        }
    }
}

#[test]
fn what_is_not_there_or_has_no_network_is_told_what_mends_it() {
    let (project, depot) = (project(), Depot::start());
    let reference = format!("{}/s:1", depot.host);
    project.sbx(&["pull", &reference]).fails(1, &["look at its name and its tag"]);
    push(&project, &reference, &[]);
    project.sbx(&["pull", &reference]).success();
    let offline = project.sbx(&["--offline", "pull", &reference]);
    offline.fails(3, &["`pull` needs the network", "`sbx run`, `save` and `load` take it"]);
    project.sbx(&["--offline", "push", "s", &reference]).fails(3, &["`push` needs the network"]);
}
