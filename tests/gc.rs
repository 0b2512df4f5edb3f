//! The collector: what nobody needs goes, what somebody needs stays, and a cap is held, whoever builds
//! beside it and however it ends.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::support::project::Project;
use crate::support::{is_full, tool};
use sbx::digest::Digest;
use serde_json::Value;

/// Bytes that no two calls share.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length / 8).flat_map(next).collect()
}

pub fn put(project: &Project, path: &str, bytes: &[u8]) {
    let full = project.dir.path().join(path);
    fs::create_dir_all(full.parent().unwrap()).unwrap();
    fs::write(full, bytes).unwrap();
}

/// A sandbox of an archive, of shared files and of files that change.
fn project(number: u64) -> Project {
    let mut tar = tar::Builder::new(Vec::new());
    let body = noise(1000 + number, 64 << 10);
    let mut header = tar::Header::new_ustar();
    header.set_size(body.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "data", &body[..]).unwrap();
    let tar = tar.into_inner().unwrap();
    let text = format!(
        r#"project "p{number}"
        layer "data" {{ archive "data.tar" digest="{}" into="/srv/data"; }}
        layer "common" {{ files "common" into="/srv/common"; }}
        layer "own" {{ files "own" into="/srv/own"; }}
        sandbox "s" {{ layers "data" "common" "own"; }}
        "#,
        Digest::of(&tar)
    );
    let project = Project::new().file("sandboxes.kdl", &text);
    put(&project, "data.tar", &tar);
    put(&project, "common/file", &noise(1, 64 << 10));
    put(&project, "own/file", &noise(2 + number, 32 << 10));
    project
}

fn blobs(store: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(store.join("blobs/sha256")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn document(store: &Path, digest: &Value) -> Value {
    let hex = digest.as_str().unwrap().strip_prefix("sha256:").unwrap().to_owned();
    let bytes = fs::read(store.join("blobs/sha256").join(&hex))
        .unwrap_or_else(|error| panic!("{hex} is missing: {error}"));
    assert_eq!(Digest::of(&bytes).hex(), hex, "its bytes are its own");
    serde_json::from_slice(&bytes).unwrap()
}

/// Every image that the store lists is there, to its last byte.
pub fn check_whole(store: &Path) -> usize {
    let index: Value =
        serde_json::from_slice(&fs::read(store.join("index.json")).unwrap()).unwrap();
    let mut images = 0;
    for nested in index["manifests"].as_array().unwrap() {
        for manifest in document(store, &nested["digest"])["manifests"].as_array().unwrap() {
            let manifest = document(store, &manifest["digest"]);
            document(store, &manifest["config"]["digest"]);
            for layer in manifest["layers"].as_array().unwrap() {
                let hex = layer["digest"].as_str().unwrap().replace("sha256:", "");
                let bytes = fs::read(store.join("blobs/sha256").join(&hex))
                    .unwrap_or_else(|error| panic!("layer {hex} is missing: {error}"));
                assert_eq!(Digest::of(&bytes).hex(), hex);
            }
            images += 1;
        }
    }
    images
}

pub fn collected(project: &Project, arguments: &[&str]) -> Value {
    let outcome = project.sbx(&[&["gc", "--json"], arguments].concat()).success();
    serde_json::from_str(&outcome.stdout).unwrap()
}

#[test]
fn what_nobody_needs_goes_and_the_rest_stays() {
    let project = project(0);
    let first = project.build();
    let before = blobs(&project.cache());
    put(&project, "own/file", b"other");
    let second = project.build();
    assert_ne!(first, second);
    let dry = collected(&project, &["--dry-run"]);
    assert!(dry["removed"]["image"]["count"].as_u64().unwrap() >= 3, "{dry}");
    assert!(before.is_subset(&blobs(&project.cache())), "a dry run takes nothing");
    let kept = collected(&project, &["--keep", "1"]);
    assert_eq!(kept["removed"], serde_json::json!({}), "it was used today");
    let done = collected(&project, &[]);
    assert_eq!(done["removed"], dry["removed"]);
    assert_eq!(done["after"], dry["after"]);
    let left = blobs(&project.cache());
    assert!(before.difference(&left).count() >= 3, "layer, config and manifest of the first");
    assert_eq!(check_whole(&project.cache()), 1);
    assert!(project.drafts().is_empty());
    assert_eq!(project.build(), second, "nothing is missing");
    assert_eq!(collected(&project, &[])["removed"], serde_json::json!({}));
    put(&project, "own/file", &noise(2, 32 << 10));
    assert_eq!(project.build(), first, "what went is made again");
}

#[test]
fn a_cap_takes_what_can_be_had_again_and_leaves_the_image() {
    let project = project(0);
    let image = project.build();
    let trees = || fs::read_dir(project.cache().join("trees/0")).map_or(0, Iterator::count);
    let all = collected(&project, &[]);
    let [size, images] =
        ["after", "images"].map(|name| all[name].as_u64().unwrap_or_else(|| panic!("{all}")));
    let some = (size - 4096).to_string();
    let done = collected(&project, &["--cap", &some]);
    assert_eq!(done["removed"]["tree"]["count"], 1, "one tree is enough: {done}");
    let little = (images + (150 << 10)).to_string();
    let done = collected(&project, &["--cap", &little]);
    assert!(done["after"].as_u64().unwrap() <= images + (150 << 10), "{done}");
    assert_eq!(check_whole(&project.cache()), 1);
    assert_eq!(project.build(), image);
    put(&project, "own/more", b"more");
    project.build();
    assert_eq!(check_whole(&project.cache()), 1);
    let outcome = project.sbx(&["gc", "--cap", "100KiB"]);
    outcome.fails(3, &["the store is larger than its cap", "are the newest images of projects"]);
    assert_eq!(check_whole(&project.cache()), 1, "a cap touches no newest image");
    assert_eq!(trees(), 0);
}

#[test]
fn a_build_that_cannot_fit_says_so() {
    let project = project(0);
    put(&project, "own/large", &noise(7, 8 << 20));
    let outcome = project.sbx(&["build", "s", "--cap", "2MiB"]);
    let outcome = outcome.fails(3, &["the store may take 2.1 MB", "help: raise `store-cap`"]);
    assert!(outcome.stdout.is_empty());
    assert!(project.drafts().is_empty(), "nothing is left half done");
    let config = project.dir.path().join(".config/sbx");
    fs::create_dir_all(&config).unwrap();
    fs::write(config.join("settings.kdl"), "store-cap \"2MiB\"\n").unwrap();
    project.sbx(&["build", "s"]).fails(3, &["the store may take 2.1 MB"]);
    fs::write(config.join("settings.kdl"), "store-cap \"150%\"\n").unwrap();
    project.sbx(&["build", "s"]).fails(1, &["no share of the disk"]);
    fs::write(config.join("settings.kdl"), "store-cap \"90%\"\n").unwrap();
    project.build();
}

#[test]
fn what_the_lock_of_another_project_needs_stays_until_that_project_is_gone() {
    let home = tempfile::tempdir().unwrap();
    let [one, two] = [0, 1].map(|number| project(number).store(&home.path().join("store")));
    one.build();
    two.sbx(&["fetch"]).success();
    let source = Digest::of(&fs::read(two.dir.path().join("data.tar")).unwrap());
    let path = home.path().join("store/blobs/sha256").join(source.hex());
    assert!(path.exists());
    collected(&one, &[]);
    assert!(path.exists(), "the other project's lock needs it");
    let place = fs::read_dir(home.path().join("store/projects")).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        (fs::read_to_string(&path).unwrap(), path)
    });
    let place = place.into_iter().find(|(text, _)| text.contains("\"p1\"")).unwrap().1;
    let root = two.dir.path().to_owned();
    drop(two);
    collected(&one, &[]);
    assert!(path.exists(), "it may be on a disk that is not there just now");
    tool("touch", &["-d", "40 days ago", place.to_str().unwrap()]);
    let dry = collected(&one, &["--dry-run"]);
    assert_eq!(dry["absent"], serde_json::json!([root]));
    assert!(path.exists() && place.exists());
    let done = collected(&one, &[]);
    for what in ["absent", "removed"] {
        assert_eq!(done[what], dry[what], "{what}");
    }
    assert_eq!(done["removed"]["source"]["count"], 1);
    assert!(!path.exists() && !place.exists());
    assert_eq!(collected(&one, &[])["absent"], serde_json::Value::Null);
    assert_eq!(check_whole(&home.path().join("store")), 1);
}

#[test]
fn a_store_in_use_is_not_removed() {
    let project = project(0);
    project.build();
    let store = sbx::store::Store::open(&project.cache()).unwrap();
    let lease = store.lease().unwrap();
    let process = format!("in use by process {}", std::process::id());
    project.sbx(&["clean", "--all"]).fails(3, &[&process]);
    assert_eq!(check_whole(&project.cache()), 1);
    drop(lease);
    project.sbx(&["clean", "--all"]).success();
    assert!(!project.cache().join("blobs").exists());
}

#[test]
fn what_a_lease_holds_stays_though_nothing_else_needs_it() {
    let project = project(0);
    let image = project.build();
    let store = sbx::store::Store::open(&project.cache()).unwrap();
    let record = fs::read_dir(project.cache().join("images")).unwrap().next().unwrap().unwrap();
    let hex = record.file_name().into_string().unwrap();
    let key = sbx::store::Key(Digest::parse_hex(&hex).unwrap());
    let lease = store.lease().unwrap();
    lease.hold([sbx::store::Held::Image(&key)]).unwrap();
    put(&project, "own/file", b"other");
    project.build();
    let done = collected(&project, &["--cap", "1KiB", "--dry-run"]);
    assert!(done["held"].as_u64().unwrap() > 0, "{done}");
    project.sbx(&["gc", "--cap", "1KiB"]).fails(3, &["held by builds and instances"]);
    assert_eq!(store.find_image(&key).unwrap().unwrap().image.to_string(), image);
    let trees = fs::read_dir(project.cache().join("trees/0")).unwrap().count();
    assert_eq!(trees, 3, "what is mounted stays, too");
    drop(lease);
    collected(&project, &[]);
    assert!(store.find_image(&key).unwrap().is_none());
}

/// Bytes that a directory takes of the disk. Names move while one looks: the least of a few looks.
pub fn disk(path: &Path) -> u64 {
    fn sum(path: &Path) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
        let inner = fs::read_dir(path).into_iter().flatten().flatten();
        let inner: u64 = if meta.is_dir() { inner.map(|one| sum(&one.path())).sum() } else { 0 };
        meta.blocks() * 512 + inner
    }
    sum(path)
}

const BUILDERS: u64 = 8;
const CAP: u64 = 5 << 20;

fn rounds() -> u64 {
    if is_full() { 200 } else { 15 }
}

/// Collects all the time, and is killed every other time.
fn collect_until(done: &AtomicBool, project: &Project, count: &AtomicU64) {
    let mut seed = 1u64;
    while !done.load(Ordering::Relaxed) {
        let cap = CAP.to_string();
        let mut command = project.command(&["gc", "--cap", &cap]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        if seed >> 60 & 1 == 1 {
            std::thread::sleep(Duration::from_millis(seed >> 33 & 31));
            child.kill().unwrap();
        }
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(matches!(output.status.code(), Some(0) | None), "{said}");
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Watches the sum until all is done; answers the largest.
fn watch_until(done: &AtomicBool, store: &Path) -> u64 {
    let mut most = 0;
    while !done.load(Ordering::Relaxed) {
        let mut now = disk(store);
        for _ in 0..3 {
            if now > CAP {
                now = now.min(disk(store));
            }
        }
        most = most.max(now);
        std::thread::sleep(Duration::from_millis(3));
    }
    most
}

fn build_rounds(project: &Project, number: u64) -> Vec<PathBuf> {
    for round in 0..rounds() {
        put(project, "own/file", &noise(number * 1_000_000 + round + 77, 32 << 10));
        let outcome = project.sbx(&["build", "s", "--cap", &CAP.to_string()]).success();
        let hex = outcome.answer().strip_prefix("sha256:").unwrap().to_owned();
        let config = project.cache().join("blobs/sha256").join(hex);
        assert!(config.exists(), "round {round} of {number}: the image that was built is there");
    }
    project.drafts()
}

#[test]
fn eight_builds_and_a_collector_share_a_small_store() {
    let home = tempfile::tempdir().unwrap();
    let store = home.path().join("store");
    let projects: Vec<Project> =
        (0..BUILDERS).map(|number| project(number).store(&store)).collect();
    projects[0].build();
    let (done, collections) = (AtomicBool::new(false), AtomicU64::new(0));
    let most = std::thread::scope(|scope| {
        let watch = scope.spawn(|| watch_until(&done, &store));
        let collect = scope.spawn(|| collect_until(&done, &projects[0], &collections));
        let builds: Vec<_> = (0..)
            .zip(&projects)
            .map(|(number, project)| scope.spawn(move || build_rounds(project, number)))
            .collect();
        let ends: Vec<_> = builds.into_iter().map(|build| build.join()).collect();
        done.store(true, Ordering::Relaxed);
        collect.join().unwrap();
        let most = watch.join().unwrap();
        ends.into_iter().for_each(|end| drop(end.unwrap()));
        most
    });
    assert_eq!(check_whole(&store), BUILDERS as usize);
    assert!(most <= CAP, "the store took {most} of {CAP} bytes");
    assert!(collections.load(Ordering::Relaxed) > 3);
    for project in &projects {
        let again = project.sbx(&["build", "s", "--locked", "--offline"]).success();
        assert!(!again.answer().is_empty());
    }
    let last = collected(&projects[0], &[]);
    assert!(last["after"].as_u64().unwrap() < CAP);
    assert_eq!(check_whole(&store), BUILDERS as usize);
}
