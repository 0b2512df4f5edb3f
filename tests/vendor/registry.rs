//! Vendored sources in a registry of images.

use std::fs;

use sbx::digest::Digest;
use serde_json::Value;

use super::{World, locked, tar};
use crate::support::deb::Member;
use crate::support::depot::Depot;
use crate::support::http::Fault;
use crate::support::oci::{Image, Registry, check_schema};

#[test]
fn a_registry_with_the_sources_is_all_that_a_build_needs() {
    let world = World::new();
    let project = world.project();
    let image = project.build();
    let before = world.downloads(&project);
    let depot = Depot::start();
    depot.guard("geheim");
    let place = format!("oci://{}/team/sources:s", depot.host);
    let said = project.sbx(&["vendor", &place]).success();
    let lock = project.read("sbx.lock");
    let count = locked(&lock).len();
    let all = format!("vendored {count} files, {count} of them now");
    assert!(said.stdout.starts_with(&all), "{}", said.stdout);
    assert_eq!(world.downloads(&project), before, "what the store has is not fetched again");
    let manifest = String::from_utf8(depot.manifest("team/sources", "s").unwrap()).unwrap();
    check_schema("image-manifest", &manifest);
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest["layers"].as_array().unwrap().len(), count);

    // what is there is not sent again: each is asked for
    depot.forget();
    let said = project.sbx(&["vendor", &place]).success();
    assert_eq!(said.stdout.trim(), format!("vendored {count} files, 0 of them now (0 bytes)"));
    let mut asked: Vec<String> = depot.asked().into_iter().map(|asked| asked.method).collect();
    assert_eq!(asked.split_off(3), vec!["HEAD"; count]);
    assert_eq!(asked, ["GET", "GET", "GET"], "refused, given a token, answered");

    // what the registry lost is sent again
    let lost = manifest["layers"][0]["digest"].as_str().unwrap();
    let bytes = depot.blob("team/sources", lost).unwrap();
    depot.drop_blob("team/sources", lost);
    let said = project.sbx(&["vendor", &place]).success();
    let mended = format!("vendored {count} files, 1 of them now ({} bytes)", bytes.len());
    assert_eq!(said.stdout.trim(), mended);
    assert_eq!(depot.blob("team/sources", lost), Some(bytes));

    // a machine that reaches that registry alone
    let alone = world.alone(&lock);
    let declared = alone.read("sandboxes.kdl");
    alone.write(
        "sandboxes.kdl",
        &format!("project \"p\" {{ mirrors {place:?} ask=\"first\"; }}\n{declared}"),
    );
    depot.forget();
    assert_eq!(alone.sbx(&["build", "s", "--locked"]).success().answer(), image);
    assert_eq!(world.files.total_hits(), 0, "what the mirror has, nobody else is asked for");
    let lists = depot.count("GET", "/manifests/");
    assert!(lists <= 2, "the list is read once for all: {lists}");
    let blobs: Vec<String> = depot.asked().into_iter().map(|asked| asked.path).collect();
    let of = |hex: &str| blobs.iter().filter(|path| path.ends_with(hex)).count();
    let twice = locked(&lock).into_iter().filter(|one| of(&one.hex()) > 1).count();
    assert!(twice <= 1, "what was refused before the token was there: {twice}");

    // what a project adds is sent alone, and what was there stays listed
    depot.forget();
    let far = Digest::of(&tar("new"));
    fs::write(project.dir.path().join("new.tar"), tar("new")).unwrap();
    let more = format!(
        "layer \"more\" {{ archive \"new.tar\" digest=\"{far}\" into=\"/new\"; }}\nsandbox \"t\" {{ layers \"more\"; }}\n"
    );
    project.write("sandboxes.kdl", &format!("{}{more}", project.read("sandboxes.kdl")));
    let said = project.sbx(&["vendor", &place, "t"]).success();
    assert!(said.stdout.starts_with("vendored 1 files, 1 of them now"), "{}", said.stdout);
    let manifest = depot.manifest("team/sources", "s").unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["layers"].as_array().unwrap().len(), count + 1);
}

#[test]
fn a_registry_that_lies_or_is_not_there_harms_nothing() {
    let world = World::new();
    let project = world.project();
    project.sbx(&["fetch", "s"]).success();
    let registry = Registry::start();
    let place = format!("oci://{}/sources", registry.host);
    project.sbx(&["vendor", &place]).success();
    let lock = project.read("sbx.lock");
    // nobody there: the places of the ecosystems are asked all the same
    let nobody = world.project().file("sbx.lock", &lock);
    let arguments = ["fetch", "s", "--locked", "--mirror", "oci://127.0.0.1:1/sources"];
    nobody
        .sbx(&arguments)
        .success()
        .says("mirror `oci://127.0.0.1:1/sources:latest` is passed over");
    // Debian's registry keeps it as well, and is asked last for what the archive dropped
    let later = world.project().file("sbx.lock", &lock);
    let declared = later.read("sandboxes.kdl");
    world.files.always("/far.tar", Fault::Status(404));
    later.sbx(&["fetch", "s", "--locked"]).fails(3, &["far.tar", "404"]);
    let mirrored = |place: &str| format!("project \"p\" {{ mirrors {place:?}; }}\n{declared}");
    later.write("sandboxes.kdl", &mirrored(&place));
    later.sbx(&["fetch", "s", "--locked"]).success();

    // other bytes are refused by name, and another place may have the right ones
    let depot = Depot::start();
    let place = format!("oci://{}/sources", depot.host);
    project.sbx(&["vendor", &place]).success();
    let far = Digest::of(&tar("far")).to_string();
    depot.put_blob("sources", &far, b"other bytes");
    let later = world.project().file("sbx.lock", &lock);
    later.write("sandboxes.kdl", &mirrored(&place));
    later.sbx(&["fetch", "s", "--locked"]).fails(3, &["far.tar"]);

    // a tag that means something else is not overwritten
    let home = tempfile::tempdir().unwrap();
    Image::new().layer(&[Member::file("a", "a")]).write(home.path(), "1");
    registry.push(&format!("{}:1", home.path().display()), "team/image:1", &[]);
    let image = format!("oci://{}/team/image:1", registry.host);
    project
        .sbx(&["vendor", &image])
        .fails(1, &["is something else than vendored sources", "another tag"]);
    project
        .sbx(&["vendor", "https://example.org/v"])
        .fails(1, &["can be read from only", "oci://"]);
    let digest = format!("oci://{}/sources@{far}", registry.host);
    project.sbx(&["vendor", &digest]).fails(2, &[&format!("`{digest}` is neither")]);
    // a forgotten `oci://` makes no directory
    let bare = format!("{}/sources", registry.host);
    project.sbx(&["vendor", &bare]).fails(1, &["reads like a registry", &format!("oci://{bare}")]);
    assert!(!project.dir.path().join(&registry.host).exists());
}
