//! A cap beside images that were pulled and instances that start; and stores that are collected in from outside
//! of any project.

use std::fs;

use serde_json::json;

use sbx::digest::Digest;
use sbx::platform::Platform;
use sbx::store::{Held, Store};

use crate::gc::{check_whole, collected, disk, noise, put};
use crate::support::depot::Depot;
use crate::support::launch::Bench;
use crate::support::project::Project;

const MEBIBYTE: u64 = 1 << 20;

/// Pushes images of 2 MiB each under the tags of these numbers.
fn publish(depot: &Depot, tags: std::ops::Range<u64>) {
    let machine = Project::new().file(
        "sandboxes.kdl",
        "layer \"own\" { files \"own\" into=\"/srv/own\"; }\nsandbox \"s\" { layers \"own\"; }\n",
    );
    for tag in tags {
        put(&machine, "own/file", &noise(tag + 1, 2 << 20));
        machine.build();
        machine.sbx(&["push", "s", &reference(depot, tag)]).success();
    }
}

fn reference(depot: &Depot, tag: u64) -> String {
    format!("{}/s:{tag}", depot.host)
}

/// Has an image of two layers of so many bytes each, if one believes it.
fn lie(depot: &Depot, tag: &str, size: u64) {
    let digests = [1, 2].map(|layer| Digest::of(&[layer]).to_string());
    let (os, architecture) = Platform::host().as_str().split_once('/').unwrap();
    let config = json!({
        "architecture": architecture, "os": os, "config": {},
        "rootfs": {"type": "layers", "diff_ids": digests},
    });
    let config = serde_json::to_vec(&config).unwrap();
    let digest = Digest::of(&config).to_string();
    depot.put_blob("s", &digest, &config);
    let described = |kind: &str, digest: &str, size: u64| json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest, "size": size});
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described("config.v1+json", &digest, config.len() as u64),
        "layers": digests.each_ref().map(|digest| described("layer.v1.tar", digest, size)),
    });
    depot.put("s", tag, serde_json::to_vec(&manifest).unwrap());
}

/// What is listed as pulled.
fn pulled(machine: &Project) -> Vec<String> {
    let dry = collected(machine, &["--dry-run"]);
    let shares = dry["shares"].as_array().cloned().unwrap_or_default();
    let pulled = shares.iter().filter(|share| share["pulled"] == true);
    let mut names: Vec<_> =
        pulled.map(|share| share["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// What was last used so long ago.
fn age(machine: &Project, minutes: u64) {
    for entry in fs::read_dir(machine.cache().join("images")).unwrap() {
        let path = entry.unwrap().path();
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        let file = fs::File::open(&path).unwrap();
        file.set_modified(time - std::time::Duration::from_secs(minutes * 60)).unwrap();
    }
}

#[test]
fn under_a_cap_the_longest_unused_of_pulled_images_go() {
    let depot = Depot::start();
    publish(&depot, 0..5);
    let machine = Project::new().file("sandboxes.kdl", "");
    let cap = (9 * MEBIBYTE).to_string();
    for tag in 0..5 {
        machine.sbx(&["pull", &reference(&depot, tag), "--cap", &cap]).success();
        assert!(disk(&machine.cache()) <= 9 * MEBIBYTE, "after tag {tag}");
        check_whole(&machine.cache());
        age(&machine, 1);
        // the first is used again and again
        if tag < 4 {
            machine.sbx(&["save", &reference(&depot, 0), "-o", "image.tar"]).success();
        }
    }
    let left = pulled(&machine);
    assert!(
        left.contains(&reference(&depot, 4)) && left.contains(&reference(&depot, 0)),
        "{left:?}"
    );
    assert!(!left.contains(&reference(&depot, 1)), "{left:?}");
    assert_eq!(check_whole(&machine.cache()), left.len());
    let gone = reference(&depot, 1);
    machine.sbx(&["save", &gone, "-o", "image.tar"]).fails(1, &["is not in the store", "sbx pull"]);
    machine.sbx(&["pull", &gone, "--cap", &cap]).success();
    assert!(pulled(&machine).contains(&gone), "it is had again");
    // the cap of a collection says what goes before it does
    let little = (3 * MEBIBYTE).to_string();
    let dry = collected(&machine, &["--cap", &little, "--dry-run"]);
    let done = collected(&machine, &["--cap", &little]);
    assert_eq!(done["forgotten"], dry["forgotten"]);
    assert_eq!(pulled(&machine), [gone], "the last that was used");
    assert_eq!(check_whole(&machine.cache()), 1);
}

#[test]
fn a_pulled_image_in_use_keeps_its_name_though_it_is_the_oldest() {
    let depot = Depot::start();
    publish(&depot, 0..3);
    let machine = Project::new().file("sandboxes.kdl", "");
    let names = [0, 1, 2].map(|tag| reference(&depot, tag));
    for name in &names {
        machine.sbx(&["pull", name]).success();
        age(&machine, 1);
    }
    let store = Store::open(&machine.cache()).unwrap();
    let lease = store.lease().unwrap();
    let key = Store::pulled_key(&names[0], Platform::host());
    lease.hold([Held::Image(&key)]).unwrap();
    let cap = (5 * MEBIBYTE).to_string();
    let done = collected(&machine, &["--cap", &cap]);
    assert_eq!(done["forgotten"], json!([names[1]]));
    assert_eq!(pulled(&machine), [&*names[0], &*names[2]]);
    assert_eq!(check_whole(&machine.cache()), 2);
}

#[test]
fn what_was_not_used_for_long_is_told_of_before_it_goes_and_what_runs_stays() {
    let depot = Depot::start();
    publish(&depot, 0..3);
    let machine = Project::new().file("sandboxes.kdl", "");
    let names = [0, 1, 2].map(|tag| reference(&depot, tag));
    names[..2].iter().for_each(|name| drop(machine.sbx(&["pull", name]).success()));
    age(&machine, 40 * 24 * 60);
    machine.sbx(&["pull", &names[2]]).success();
    let store = Store::open(&machine.cache()).unwrap();
    let lease = store.lease().unwrap();
    let key = Store::pulled_key(&names[0], Platform::host());
    lease.hold([Held::Image(&key)]).unwrap();
    let dry = collected(&machine, &["--dry-run"]);
    assert_eq!(dry["forgotten"], json!([names[1]]));
    assert!(dry["removed"]["image"]["bytes"].as_u64().unwrap() > MEBIBYTE, "{dry}");
    let shown = machine.sbx(&["gc", "--dry-run"]).success().stdout;
    assert!(shown.contains(&format!("would go  {}, which was pulled", names[1])), "{shown}");
    assert_eq!(pulled(&machine), [&*names[0], &*names[2]], "what would stay");
    assert_eq!(check_whole(&machine.cache()), 3, "nothing went");
    let done = collected(&machine, &[]);
    for what in ["forgotten", "removed", "kept", "after"] {
        assert_eq!(done[what], dry[what], "{what}");
    }
    assert_eq!(check_whole(&machine.cache()), 2);
    // it ended, and is old
    drop(lease);
    assert_eq!(collected(&machine, &[])["forgotten"], json!([names[0]]));
    assert_eq!(pulled(&machine), [&*names[2]]);
}

#[test]
fn an_image_that_can_never_fit_is_refused_and_drives_no_other_out() {
    let depot = Depot::start();
    publish(&depot, 0..1);
    let (good, bad) = (reference(&depot, 0), reference(&depot, 1));
    let machine = Project::new().file("sandboxes.kdl", "");
    machine.sbx(&["pull", &good]).success();
    let cap = (9 * MEBIBYTE).to_string();
    // of two layers, whose sizes together come to nothing in 64 bits
    for size in [1u64 << 62, 1 << 63] {
        lie(&depot, "1", size);
        machine.sbx(&["pull", &bad, "--cap", &cap]).fails(3, &["cap"]);
        assert_eq!(pulled(&machine), [&*good], "{size}");
    }
    machine.sbx(&["save", &good, "-o", "image.tar"]).success();
}

#[test]
fn who_names_a_store_needs_no_project_for_what_is_pulled() {
    let depot = Depot::start();
    publish(&depot, 0..1);
    let elsewhere = Project::new();
    let name = reference(&depot, 0);
    elsewhere.sbx(&["pull", &name]).fails(1, &["there is no `sandboxes.kdl`", "`--cache`"]);
    let store = elsewhere.dir.path().join("store");
    let store = ["--cache", store.to_str().unwrap()];
    elsewhere.sbx(&[&["pull", &name], &store[..]].concat()).success();
    elsewhere.sbx(&[&["save", &name, "-o", "image.tar"], &store[..]].concat()).success();
    assert!(elsewhere.dir.path().join("image.tar").is_file());
    let unknown = elsewhere.sbx(&[&["save", "s", "-o", "image.tar"], &store[..]].concat());
    unknown.fails(1, &["there is no `sandboxes.kdl`"]);
}

#[test]
fn one_pulled_image_is_taken_away_by_its_name() {
    let depot = Depot::start();
    publish(&depot, 0..2);
    let machine = Project::new().file("sandboxes.kdl", "");
    let [one, two] = [0, 1].map(|tag| reference(&depot, tag));
    for name in [&one, &two] {
        machine.sbx(&["pull", name]).success();
    }
    let before = disk(&machine.cache());
    machine.sbx(&["gc", "--forget", &one]).success();
    assert_eq!(pulled(&machine), [two]);
    assert_eq!(check_whole(&machine.cache()), 1);
    assert!(disk(&machine.cache()) + 2 * MEBIBYTE < before + 64 * 1024);
    machine.sbx(&["gc", "--forget", &one]).fails(1, &["no image was pulled by", "--dry-run"]);
}

#[test]
fn unpacking_for_an_instance_keeps_to_the_cap() {
    let bench = Bench::new(None);
    let machine = &bench.project;
    bench.sbx(&["build", "s"]).success();
    let store = machine.cache();
    collected(machine, &["--cap", "1GiB"]);
    let whole = disk(&store);
    fs::remove_dir_all(store.join("trees/0")).unwrap();
    let packed = disk(&store);
    assert!(whole > packed + MEBIBYTE / 2, "the tree takes {} bytes", whole - packed);
    let cap = ((packed + whole) / 2).to_string();
    let refused = machine.sbx(&["run", "--cap", &cap, "s", "--", "/bin/true"]);
    refused.fails(3, &["the store may take", "raise `store-cap`"]);
    assert!(disk(&store) <= (packed + whole) / 2);
    let cap = (whole + 3 * MEBIBYTE).to_string();
    machine.sbx(&["run", "--cap", &cap, "s", "--", "/bin/true"]).success();
    assert!(store.join("trees/0").read_dir().unwrap().next().is_some());
    assert!(disk(&store) <= whole + 3 * MEBIBYTE);
}

#[test]
fn a_store_is_collected_in_from_anywhere() {
    let machine = Project::new().file(
        "sandboxes.kdl",
        "layer \"own\" { files \"own\" into=\"/srv/own\"; }\nsandbox \"s\" { layers \"own\"; }\n",
    );
    put(&machine, "own/file", &noise(1, 64 << 10));
    machine.build();
    put(&machine, "own/file", &noise(2, 64 << 10));
    let image = machine.build();
    let elsewhere = Project::new();
    let store = machine.cache();
    let store = store.to_str().unwrap();
    elsewhere.sbx(&["gc"]).fails(1, &["there is no `sandboxes.kdl`", "sbx init"]);
    let lost = elsewhere.dir.path().join("nothing");
    elsewhere
        .sbx(&["gc", "--cache", lost.to_str().unwrap()])
        .fails(1, &["there is no store at", lost.to_str().unwrap()]);
    let slip = ["gc", "--cache", lost.to_str().unwrap()];
    machine.sbx(&slip).fails(1, &["there is no store at"]);
    assert!(!lost.exists(), "a store is not made for it");
    let before = disk(&machine.cache());
    elsewhere.sbx(&["gc", "--cache", store]).success();
    assert!(disk(&machine.cache()) < before);
    assert_eq!(check_whole(&machine.cache()), 1);
    // one typo, and the store of that project is collected in all the same
    let text = machine.read("sandboxes.kdl");
    machine.write("sandboxes.kdl", "sandbox {");
    put(&machine, "own/file", &noise(3, 64 << 10));
    machine.sbx(&["gc"]).success().says("what it told of last");
    machine.write("sandboxes.kdl", &text);
    put(&machine, "own/file", &noise(2, 64 << 10));
    assert_eq!(machine.build(), image);
}

#[test]
fn a_dry_run_counts_what_the_dead_left_and_leaves_it() {
    let machine = Project::new().file(
        "sandboxes.kdl",
        "layer \"own\" { files \"own\" into=\"/srv/own\"; }\nsandbox \"s\" { layers \"own\"; }\n",
    );
    put(&machine, "own/file", &noise(1, 256 << 10));
    machine.build();
    let corner = machine.cache().join("tmp/4194303-0");
    fs::create_dir(&corner).unwrap();
    fs::write(corner.join("lock"), "").unwrap();
    fs::write(corner.join("0"), noise(9, 128 << 10)).unwrap();
    let dry = collected(&machine, &["--dry-run"]);
    let draft = &dry["removed"]["draft"];
    assert_eq!(draft["count"], 1, "{dry}");
    assert!(draft["bytes"].as_u64().unwrap() >= 128 << 10, "{dry}");
    assert!(corner.join("0").exists(), "nothing is taken away");
    let share = &dry["shares"][0];
    assert_eq!((share["name"].as_str(), share["pulled"].as_bool()), (Some("s"), Some(false)));
    let [bytes, alone] = ["bytes", "alone"].map(|name| share[name].as_u64().unwrap());
    assert!(bytes == alone && bytes >= 2 * (256 << 10), "layer and tree: {dry}");
    collected(&machine, &[]);
    assert!(!corner.exists());
}
