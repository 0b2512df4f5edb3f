//! Pushes where something is missing: room on the disk, a repository that was there.

use std::fs;

use crate::push_faults::noise;
use crate::support::depot::Depot;
use crate::support::project::Project;
use serde_json::{Value, json};

/// A sandbox of two layers, of which the lower one is compressed while it is sent.
fn project() -> Project {
    let project = Project::new().file(
        "sandboxes.kdl",
        "layer \"lib\" { files \"lib\" into=\"/srv/lib\"; }\n\
         layer \"app\" needs=\"lib\" { files \"app\" into=\"/srv/app\"; }\n\
         sandbox \"s\" { layers \"lib\" \"app\"; }\n",
    );
    fs::create_dir(project.dir.path().join("lib")).unwrap();
    fs::write(project.dir.path().join("lib/noise"), noise(15 << 20)).unwrap();
    project.file("app/run", "#!/bin/sh\necho 1\n")
}

#[test]
fn a_push_on_a_full_disk_says_that_it_is_full() {
    let project = project();
    project.build();
    let depot = Depot::start();
    let reference = format!("{}/s:1", depot.host);
    let small = project.dir.path().join("small");
    // the store, and less than the layer's compressed form
    let script = format!(
        "mkdir {0}; size=$(du -sm cache | cut -f1); mount -t tmpfs -o size=$((size + 6))m tmpfs {0}; cp -a cache {0}/cache",
        small.display()
    );
    let run = project.run(&["push", "s", &reference]).mounts(&script);
    let outcome = run.env("SBX_CACHE", small.join("cache").to_str().unwrap()).outcome();
    outcome.fails(3, &["the compressed layer cannot be written", "No space left on device"]);
    assert!(depot.manifest("s", "1").is_none());
    project.sbx(&["push", "s", &reference]).success();
}

#[test]
fn a_store_that_may_only_be_read_is_pushed_from_and_looked_at() {
    let project = project();
    project.build();
    let depot = Depot::start();
    let push = |name: &str| ["push".to_owned(), "s".to_owned(), format!("{}/{name}", depot.host)];
    // with its compressed layers
    project.sbx(&push("s:1").each_ref().map(|word| &**word)).success();
    let store = project.cache();
    let only = format!("mount --bind {0} {0} && mount -o remount,bind,ro {0}", store.display());
    let read = |words: &[&str]| project.run(words).mounts(&only).outcome();
    read(&push("other:2").each_ref().map(|word| &**word)).success();
    assert_eq!(depot.manifest("other", "2"), depot.manifest("s", "1"));
    let dry = ["gc", "--dry-run", "--json"];
    // what it measures it remembers where it may
    let expected = project.sbx(&dry).success().stdout;
    assert_eq!(read(&dry).success().stdout, expected);
    read(&["gc"]).fails(3, &[store.to_str().unwrap(), "Read-only file system"]);
}

#[test]
fn blobs_are_mounted_from_where_they_went_last() {
    let project = project();
    project.build();
    let depot = Depot::start();
    let push = |repository: &str| {
        let reference = format!("{}/{repository}:1", depot.host);
        let said = project.sbx(&["--json", "push", "s", &reference]).success().stdout;
        let answer: Value = serde_json::from_str(&said).unwrap();
        (answer["blobs"]["sent"].clone(), answer["blobs"]["mounted"].clone())
    };
    assert_eq!(push("t"), (json!(3), json!(0)));
    depot.drop_repository("t");
    assert_eq!(push("u"), (json!(3), json!(0)));
    assert_eq!(push("v"), (json!(0), json!(3)));
}
