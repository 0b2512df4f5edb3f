//! Which directories are stores: what is somebody else's is neither made one nor collected in.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::gc::{check_whole, put};
use crate::support::deb::Member;
use crate::support::oci::Image;
use crate::support::project::Project;
use sbx::digest::Digest;

/// A sandbox of an archive.
fn project() -> Project {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(4);
    header.set_mode(0o644);
    tar.append_data(&mut header, "data", &b"data"[..]).unwrap();
    let tar = tar.into_inner().unwrap();
    let text = format!(
        "layer \"l\" {{ archive \"data.tar\" digest=\"{}\" into=\"/srv\"; }}\nsandbox \"s\" {{ layers \"l\"; }}\n",
        Digest::of(&tar)
    );
    let project = Project::new().file("sandboxes.kdl", &text);
    put(&project, "data.tar", &tar);
    project
}

/// Every file below a directory, and every directory, with what it holds.
fn survey(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(survey(&path));
        }
        found.insert(path.clone(), fs::read(&path).unwrap_or_default());
    }
    found
}

#[test]
fn no_directory_of_somebody_elses_becomes_a_store() {
    let project = project();
    let dir = project.dir.path();
    let [home, layout, vendored, file] =
        ["home", "layout", "vendored", "data.tar"].map(|name| dir.join(name));
    for path in ["images/holiday.jpg", "keys/id_rsa", "stats/s.csv", "projects/a/b", "tmp/x"] {
        put(&project, &format!("home/{path}"), b"mine");
    }
    put(&project, "keys/cache.pub", b"key");
    Image::new().layer(&[Member::file("etc/base", "base\n")]).write(&layout, "1");
    project.sbx(&["vendor", "vendored"]).success();
    project.sbx(&["clean", "--all"]).success();
    let before = survey(dir);
    for place in [&home, &layout, &vendored, &dir.to_owned(), &file] {
        for command in [&["gc"][..], &["gc", "--dry-run"], &["clean", "--all"], &["build", "s"]] {
            let place = ["--cache", place.to_str().unwrap()];
            let outcome = project.sbx(&[command, &place].concat());
            outcome.fails(1, &["is neither empty nor a store of sbx", "make a file `sbx-store`"]);
        }
    }
    assert_eq!(survey(dir), before);
}

#[test]
fn a_store_from_before_there_were_seals_is_known_by_having_all_that_a_store_has() {
    let project = project();
    let image = project.build();
    let store = project.cache();
    let seal = store.join("sbx-store");
    assert!(seal.is_file());
    fs::remove_file(&seal).unwrap();
    project.sbx(&["gc"]).success();
    assert!(seal.is_file(), "it has one from now on");
    assert_eq!(check_whole(&store), 1);
    // with something else in it, or with less, it could be anything
    fs::remove_file(&seal).unwrap();
    put(&project, "cache/mine", b"mine");
    project.sbx(&["gc"]).fails(1, &["is neither empty nor a store of sbx"]);
    fs::remove_file(store.join("mine")).unwrap();
    fs::rename(store.join("pushes"), project.dir.path().join("pushes")).unwrap();
    project.sbx(&["clean", "--all"]).fails(1, &["is neither empty nor a store of sbx"]);
    assert!(!seal.exists());
    // its owner knows better
    fs::write(&seal, "").unwrap();
    assert_eq!(project.build(), image);
    project.sbx(&["gc"]).success();
    assert_eq!(check_whole(&store), 1);
}

#[test]
fn a_store_is_made_beside_what_is_nobodys_and_goes_from_outside_of_any_project() {
    let project = project();
    let store = project.cache();
    for path in ["cache/lost+found/x", "cache/README.md", "cache/.gitignore"] {
        put(&project, path, b"");
    }
    let before = survey(&store);
    project.build();
    let elsewhere = Project::new();
    let clean = ["clean", "--all"];
    elsewhere.sbx(&clean).fails(1, &["there is no `sandboxes.kdl`"]);
    let named = [&clean[..], &["--cache", store.to_str().unwrap()]].concat();
    let said = elsewhere.sbx(&named).success().stdout;
    assert!(said.contains("removed") && said.contains("sbx-store"), "{said}");
    assert_eq!(survey(&store), before);
    let said = elsewhere.sbx(&named).success().stdout;
    assert!(said.contains("there is no store at"), "{said}");
    assert_eq!(survey(&store), before, "none is made for it");
}
