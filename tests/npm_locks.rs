//! Locks of npm's that are wrong, and tarballs that try something: each is refused with a reason that
//! names the thing, and nothing is half done. The registry is the tests' own.

use crate::support::project::{Outcome, Project, root};
use crate::support::registry::{Package, Registry};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha512};

fn registry() -> Registry {
    Registry::of([
        Package::new("a", "1.0.0").file("a.js", "1"),
        Package::new("left", "0.9.9"),
        Package::new("left", "0.9.10"),
    ])
}

/// Project `app`, which depends on this version of a package.
fn manifest(name: &str, version: &str) -> Value {
    json!({"name": "app", "version": "1.0.0", "dependencies": {name: version}})
}

/// The lock of a manifest, with one package.
fn lock(manifest: &Value, place: &str, locked: Value) -> Value {
    json!({"name": "app", "version": "1.0.0", "lockfileVersion": 3,
           "packages": {"": manifest, place: locked}})
}

fn project(registry: &Registry, manifest: &Value, lock: &str) -> Project {
    Project::new()
        .file("app/package.json", &manifest.to_string())
        .file("app/package-lock.json", lock)
        .file(
            "sandboxes.kdl",
            "layer \"l\" { files \"app\" into=\"/app\"; npm; }\nsandbox \"s\" { layers \"l\"; }\n",
        )
        .var("SBX_MIRROR_NPM", &registry.url())
}

fn pretty(lock: &Value) -> String {
    serde_json::to_string_pretty(lock).unwrap()
}

/// Builds from a lock that is what this makes of a sound one.
fn build(change: impl FnOnce(&mut Value)) -> Outcome {
    let registry = registry();
    let manifest = manifest("a", "1.0.0");
    let mut lock = lock(&manifest, "node_modules/a", registry.locked("a", "1.0.0"));
    change(&mut lock);
    project(&registry, &manifest, &pretty(&lock)).sbx(&["build", "s"])
}

fn build_text(text: &str) -> Outcome {
    project(&registry(), &manifest("a", "1.0.0"), text).sbx(&["build", "s"])
}

#[test]
fn where_a_tarball_was_found_does_not_matter() {
    build(|_| ()).success();
    build(|lock| {
        let elsewhere = "https://npm.example.org/repository/own/a/-/a-1.0.0.tgz";
        lock["packages"]["node_modules/a"]["resolved"] = elsewhere.into();
    })
    .success();
}

#[test]
fn a_lock_that_is_none_is_refused() {
    let sound = pretty(&lock(&manifest("a", "1.0.0"), "node_modules/a", json!({})));
    build(|lock| lock["lockfileVersion"] = 1.into()).fails(
        1,
        &[
            "`app/package-lock.json`: it is of version 1, which does not say what is installed where",
            "make it anew with npm 7 or later",
        ],
    );
    build(|lock| lock["lockfileVersion"] = 9.into()).fails(1, &["it is of the unknown version 9"]);
    build(|lock| drop(lock.as_object_mut().unwrap().remove("packages")))
        .fails(1, &["it is damaged: it has no `packages`"]);
    build_text(&sound[..sound.len() - 9]).fails(1, &["line 13: it is damaged: EOF"]);
    let both = format!("{{\n<<<<<<< HEAD\n{sound}\n=======\n{sound}\n>>>>>>> other\n}}");
    build_text(&both).fails(1, &["line 2: it has an unresolved merge conflict"]);
    let project = Project::new().file("app/package.json", "{}").file(
        "sandboxes.kdl",
        "layer \"l\" { npm \"app\" at=\"/app\"; }\nsandbox \"s\" { layers \"l\"; }\n",
    );
    project.write("app/package-lock.json", "[]");
    project.sbx(&["build", "s"]).fails(1, &["`app/package-lock.json`: line 1: it is damaged"]);
}

#[test]
fn a_manifest_that_the_lock_was_not_made_for_is_refused() {
    let registry = registry();
    let locked = |asked: &Value| {
        let lock = lock(&manifest("a", "1.0.0"), "node_modules/a", registry.locked("a", "1.0.0"));
        project(&registry, asked, &pretty(&lock)).sbx(&["build", "s"])
    };
    locked(&manifest("a", "^2.0.0")).fails(
        1,
        &[
            "`a`: package.json asks for `^2.0.0`, the lock was made for `1.0.0`",
            "npm install --package-lock-only",
        ],
    );
    let mut more = manifest("a", "1.0.0");
    more["devDependencies"]["b"] = "1".into();
    locked(&more)
        .fails(1, &["`b`: package.json asks for `1`, the lock was made for nothing of it"]);
    locked(&json!({"name": "app"}))
        .fails(1, &["`a`: package.json asks for nothing of it, the lock was made for `1.0.0`"]);
}

#[test]
fn an_entry_that_cannot_be_installed_is_refused_with_its_line() {
    let entry =
        |change: fn(&mut Value)| build(|lock| change(&mut lock["packages"]["node_modules/a"]));
    let at = "`node_modules/a`";
    // what is at an address of its own, no registry can vouch for
    let (registry, address) = (registry(), "https://h.example.org/a.tgz");
    let asked = manifest("a", address);
    let entry_at = lock(&asked, "node_modules/a", json!({"version": "1.0.0", "resolved": address}));
    let outcome = project(&registry, &asked, &pretty(&entry_at)).sbx(&["build", "s"]);
    outcome.fails(1, &["line 13: ", at, "has no `integrity`, so nothing says which bytes it is"]);
    entry(|entry| entry["os"] = json!(["win32"]))
        .fails(1, &["line 13: ", at, "is for os [\"win32\"] only, and is not optional"]);
    entry(|entry| *entry = json!({"link": true, "resolved": "../out"}))
        .fails(1, &[at, "is a link to `../out`, which the lock does not have"]);
    build(|lock| {
        let entry = lock["packages"]["node_modules/a"].take();
        lock["packages"] = json!({"": lock["packages"][""], "../a": entry});
    })
    .fails(1, &["`../a` lies outside of the project"]);
}

#[test]
fn a_tarball_of_other_bytes_than_the_locks_is_refused() {
    let digest = format!("sha512-{}", BASE64_STANDARD.encode(Sha512::digest(b"something else")));
    let outcome = build(|lock| lock["packages"]["node_modules/a"]["integrity"] = digest.into());
    outcome.fails(
        3,
        &[
            "npm package `a 1.0.0`: http://127.0.0.1:",
            "gave other bytes: expected sha512:",
            "or a file of the project that says the digest is",
        ],
    );
}

#[test]
fn a_version_that_vanished_is_named_with_what_there_is() {
    let registry = registry();
    let locked = |name: &str, version: &str| {
        let entry =
            json!({"version": version, "integrity": registry.locked("a", "1.0.0")["integrity"]});
        let manifest = manifest(name, version);
        let lock = lock(&manifest, &format!("node_modules/{name}"), entry);
        project(&registry, &manifest, &pretty(&lock)).sbx(&["build", "s"])
    };
    locked("left", "0.4.0").fails(
        3,
        &[
            "npm package `left 0.4.0`: http://127.0.0.1:",
            "answers 404; the registry has 0.9.10, 0.9.9",
        ],
    );
    locked("absent", "1.0.0").fails(3, &["answers 404; the registry has no package `absent`"]);
    let elsewhere = registry.server.url("/moved.tgz");
    registry.server.put("/moved.tgz", b"other".to_vec());
    let document = json!({"versions": {"1.0.0": {"dist": {"tarball": elsewhere.as_str(),
        "integrity": format!("sha512-{}", BASE64_STANDARD.encode(Sha512::digest(b"other")))}}}});
    registry.server.put("/replaced", document.to_string());
    locked("replaced", "1.0.0")
        .fails(3, &["answers 404; what the registry has of this version are other bytes"]);
}

/// A tarball of members by name, as they stand; a link where the second word is `-> TARGET`.
fn tarball(members: &[(&str, &[u8])]) -> Vec<u8> {
    let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let mut tar = tar::Builder::new(gzip);
    for (name, body) in members {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_mode(0o644);
        let target = body.strip_prefix(b"-> ");
        if let Some(target) = target {
            header.set_entry_type(tar::EntryType::Symlink);
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target);
        }
        header.set_size(if target.is_some() { 0 } else { body.len() as u64 });
        header.set_cksum();
        tar.append(&header, if target.is_some() { &b""[..] } else { body }).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

/// A project that installs these bytes as package `odd`.
fn odd(bytes: Vec<u8>) -> Project {
    let registry = registry();
    let integrity = format!("sha512-{}", BASE64_STANDARD.encode(Sha512::digest(&bytes)));
    registry.server.put("/odd/-/odd-1.0.0.tgz", bytes);
    let manifest = manifest("odd", "1.0.0");
    let entry = json!({"version": "1.0.0", "integrity": integrity});
    let project =
        project(&registry, &manifest, &pretty(&lock(&manifest, "node_modules/odd", entry)));
    // the registry ends with this function
    project.sbx(&["fetch", "s"]).success();
    project
}

#[test]
fn tarballs_that_try_something_are_refused_by_name() {
    let refused = |bytes: Vec<u8>, why: &str| {
        let project = odd(bytes);
        let named = format!("npm package `odd 1.0.0`: {why}");
        project.sbx(&["build", "s"]).fails(1, &[&named]);
        assert!(project.drafts().is_empty(), "nothing is left half done");
    };
    refused(tarball(&[("package/../../x", b"")]), "`package/../../x` has a `..` component");
    refused(tarball(&[("/package/x", b"")]), "`/package/x` is absolute");
    refused(
        tarball(&[("p/Read", b"1"), ("p/read", b"2")]),
        "`/Read` and `/read` differ in case only",
    );
    refused(
        tarball(&[("p/.wh.x", b"")]),
        "/app/node_modules/odd/.wh.x has a name that stands for a deletion",
    );
    refused(
        tarball(&[("p/zeros", &vec![0; 140 << 20])]),
        "the archive unpacks to more than 134217728 bytes",
    );
    refused(b"no archive at all".to_vec(), "the archive ends in the middle of");
    let mut cut = tarball(&[("p/x", &[7; 4000])]);
    cut.truncate(cut.len() / 2);
    refused(cut, "the archive ");
}

#[test]
fn links_of_a_tarball_lead_nowhere_since_they_are_left_out() {
    let project = odd(tarball(&[
        ("p/package.json", b"{}"),
        ("p/passwd", b"-> /etc/passwd"),
        ("p/up", b"-> ../../.."),
        ("p/up/x", b"written"),
    ]));
    project.build();
    let dir = project.unpack();
    let package = root(&dir).join("app/node_modules/odd");
    assert_eq!(std::fs::read_to_string(package.join("up/x")).unwrap(), "written");
    assert!(std::fs::symlink_metadata(package.join("up")).unwrap().is_dir());
    assert!(std::fs::symlink_metadata(package.join("passwd")).is_err());
}

#[test]
fn install_scripts_are_named_and_run_only_where_they_are_meant() {
    let registry = registry();
    let manifest = manifest("a", "1.0.0");
    let mut entry = registry.locked("a", "1.0.0");
    entry["hasInstallScript"] = true.into();
    let project = project(&registry, &manifest, &pretty(&lock(&manifest, "node_modules/a", entry)));
    project.sbx(&["lock"]).success().says("install scripts that do not run");
    let text = project.read("sandboxes.kdl");
    for (name, why) in [("zz", "is not in the tree"), ("left", "is not in the tree")] {
        project.write("sandboxes.kdl", &text.replace("npm;", &format!("npm scripts=\"{name}\";")));
        let named = format!("`scripts` names `{name}`, which {why}");
        project.sbx(&["lock"]).fails(1, &[&named]);
    }
}
