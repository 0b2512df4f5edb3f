//! Pushes where something is missing: room on the disk, a repository that was there, the truth.

use std::fs;
use std::io::{self, Cursor, Read};
use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::push_faults::{Image, client, keychain, noise, tar};
use crate::support::depot::{Depot, Fault};
use crate::support::project::Project;
use sbx::digest::Digest;
use sbx::fetch::{MirrorMap, Progress};
use sbx::oci::{Access, OciError, Registry, Supplied, Supply};
use sbx::store::Store;
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

/// Bytes that are said to be of this size.
struct Said {
    bytes: Vec<u8>,
    size: u64,
}

impl Supply for Said {
    fn label(&self) -> &str {
        "layer"
    }

    fn known(&self) -> Option<Supplied> {
        Some(Supplied { digest: Digest::of(&self.bytes), size: self.size })
    }

    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + '_>> {
        let mut bytes = Cursor::new(&self.bytes);
        bytes.set_position(offset);
        Ok(Box::new(bytes))
    }
}

#[derive(Default)]
struct Bytes(AtomicU64);

impl Progress for Bytes {
    fn started(&self, _: &str, _: Option<u64>) {}
    fn advanced(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::SeqCst);
    }
    fn finished(&self, _: &str) {}
    fn retried(&self, _: &str, _: &str) {}
}

/// Sends one blob; answers how many bytes were told of.
fn send(depot: &Depot, said: &Said) -> Result<u64, OciError> {
    let text = format!("{}/a:1", depot.host);
    let (client, keychain, mirrors) = (client(), keychain(&text), MirrorMap::default());
    let registry = Registry::new(&client, &keychain, &mirrors, &text.parse().unwrap())?;
    let registry = registry.with_access(Access::Write { mounts: Vec::new() });
    let told = Bytes::default();
    registry.upload(said, None, &told)?;
    Ok(told.0.into_inner())
}

#[test]
fn a_registry_that_boasts_of_what_it_has_is_not_asked_for_ever() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(home.path()).unwrap();
    // compressed while it is sent: nobody knows yet how long it becomes
    let image = Image::of(&store, &[tar("large", &noise(16 << 20))]);
    let depot = Depot::start();
    depot.boast(99_999_999_999);
    depot.fail_first("PATCH", Fault::Half);
    let reference = format!("{}/a:1", depot.host);
    image.push(&store, &client(), &reference).unwrap();
    assert_eq!(depot.count("PATCH", ""), 2, "it goes again as a whole");
}

#[test]
fn a_blob_that_is_not_as_long_as_it_should_be_is_not_sent_for_ever() {
    let depot = Depot::start();
    for size in [(2 << 20) + 1, (2 << 20) - 1] {
        let error = send(&depot, &Said { bytes: noise(2 << 20), size }).unwrap_err();
        assert!(matches!(error, OciError::Source { .. }), "{error}");
    }
    assert!(depot.count("PATCH", "") <= 3);
}

#[test]
fn bytes_that_go_again_are_told_of_once() {
    let depot = Depot::start();
    let said = Said { bytes: noise(3 << 20), size: 3 << 20 };
    for fault in [("PATCH", Fault::Half), ("PUT", Fault::Lost)] {
        depot.fail_first(fault.0, fault.1);
        assert_eq!(send(&depot, &said).unwrap(), 3 << 20);
        assert_eq!(depot.count("PATCH", ""), 2);
        depot.clear();
    }
}

#[test]
fn a_session_that_cannot_be_ended_is_left() {
    let depot = Depot::start();
    depot.refuse_ends(Some(400));
    depot.fail_first("DELETE", Fault::Status(500));
    send(&depot, &Said { bytes: noise(2 << 20), size: 2 << 20 }).unwrap_err();
    assert_eq!(depot.count("DELETE", ""), 2, "once for each session");
}

#[test]
fn a_manifest_that_is_refused_for_what_it_says_is_offered_once() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(home.path()).unwrap();
    let image = Image::of(&store, &[]);
    let depot = Depot::start();
    let reference = format!("{}/a:1", depot.host);
    let push = || image.push(&store, &client(), &reference).unwrap_err();
    depot.refuse_manifests(Some(400));
    depot.explain(r#"{"errors":[{"code":"MANIFEST_INVALID","message":"no annotations"}]}"#);
    let error = push();
    assert!(
        error.to_string().ends_with("answers 400: MANIFEST_INVALID: no annotations"),
        "{error}"
    );
    assert_eq!(error.help(), None);
    assert_eq!(depot.count("PUT", "/manifests/"), 1);
    // as docker's says it of an entry that is being written
    depot.explain(r#"{"errors":[{"code":"DIGEST_INVALID"},{"code":"MANIFEST_BLOB_UNKNOWN"}]}"#);
    depot.forget();
    push();
    assert_eq!(depot.count("PUT", "/manifests/"), 4);
    depot.explain("Client sent an HTTP request to an HTTPS server.");
    assert!(push().help().unwrap().contains("if it speaks TLS"));
}

#[test]
fn a_registry_that_breaks_off_is_not_said_to_speak_tls_once_it_answered() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(home.path()).unwrap();
    let depot = Depot::start();
    let reference = format!("{}/a:1", depot.host);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mute = format!("{}/a:1", listener.local_addr().unwrap());
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let image = Image::of(&store, &[tar("large", &noise(2 << 20))]);
    let error = image.push(&store, &client(), &mute).unwrap_err();
    assert!(error.help().is_some_and(|help| help.contains("if it speaks TLS")), "{error}");
    depot.stay_silent_to("POST");
    let error = image.push(&store, &client(), &reference).unwrap_err();
    assert_eq!(error.help(), None, "{error}");
}

#[test]
fn a_manifest_that_was_taken_by_word_alone_was_not_pushed() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(home.path()).unwrap();
    let image = Image::of(&store, &[]);
    let depot = Depot::start();
    depot.lose_manifests();
    let error = image.push(&store, &client(), &format!("{}/a:1", depot.host)).unwrap_err();
    let told = error.to_string();
    assert!(told.ends_with("says that it took the manifest, and does not have it"), "{told}");
}

#[test]
fn whoever_waits_for_a_registry_knows_what_for() {
    let project = project();
    project.build();
    let depot = Depot::start();
    let reference = format!("{}/s:1", depot.host);
    depot.fail(0, Fault::Later);
    let said = project.sbx(&["push", "s", &reference]).success().stderr;
    assert!(said.contains(&format!("again: manifest of `{reference}`: ")), "{said}");
    depot.fail(0, Fault::Later);
    let said = project.sbx(&["pull", &reference]).success().stderr;
    assert!(said.contains(&format!("again: manifest of `{reference}`: ")), "{said}");
    depot.fail(0, Fault::Later);
    assert_eq!(project.sbx(&["--quiet", "pull", &reference]).success().stderr, "");
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let begun = Instant::now();
    let outcome = project.sbx(&["pull", &format!("{dead}/s:1")]);
    outcome.fails(3, &["again: ", "(tried 3 times)"]);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[test]
fn what_a_registry_says_of_an_image_reaches_no_terminal_as_it_is() {
    let (project, depot) = (project(), Depot::start());
    let odd = "\u{1b}[2J\nerror: all is well";
    let digest = Digest::of(b"");
    let config = "application/vnd.oci.image.config.v1+json";
    let manifest = json!({
        "config": {"mediaType": config, "digest": digest, "size": 2},
        "layers": [{"mediaType": odd, "digest": digest, "size": 2}],
    });
    depot.put("a", "layer", manifest.to_string().into_bytes());
    let entry = json!({"digest": digest, "size": 2, "platform": {"os": odd, "architecture": "z"}});
    depot.put("a", "index", json!({"manifests": [entry]}).to_string().into_bytes());
    let bare = json!({"manifests": [{"digest": digest, "size": 2}]});
    depot.put("a", "bare", bare.to_string().into_bytes());
    let pull = |tag: &str| project.sbx(&["pull", &format!("{}/a:{tag}", depot.host)]);
    for (tag, code) in [("layer", 3), ("index", 1)] {
        let said = pull(tag).fails(code, &["[2J error: all is well"]).stderr;
        assert!(!said.contains('\u{1b}') && !said.contains("\nerror: all"), "{said:?}");
    }
    let said = pull("bare").fails(1, &["what it lists does not say what it is for"]).stderr;
    assert!(said.contains("help: say which is meant: `--platform OS/ARCH`"), "{said}");
}

#[test]
fn whoever_gives_no_tokens_is_not_asked_for_a_lesser_one() {
    let depot = Depot::start();
    depot.guard("geheim");
    depot.stay_silent_to("GET");
    let text = format!("{}/a:1", depot.host);
    let (client, keychain, mirrors) = (client(), keychain(&text), MirrorMap::default());
    let registry = Registry::new(&client, &keychain, &mirrors, &text.parse().unwrap()).unwrap();
    let registry = registry.with_access(Access::Write { mounts: vec!["b".to_owned()] });
    registry.find_manifest("1").unwrap_err();
    assert_eq!(depot.count("GET", "/token"), 4);
}

#[test]
fn a_large_blob_is_asked_for_once() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(home.path()).unwrap();
    let image = Image::of(&store, &[tar("large", &noise(6 << 20))]);
    let depot = Depot::start();
    let reference = format!("{}/a:1", depot.host);
    image.push(&store, &client(), &reference).unwrap();
    // its twin is known now
    depot.clear();
    image.push(&store, &client(), &reference).unwrap();
    assert_eq!((depot.count("HEAD", "/blobs/"), depot.count("PUT", "/uploads/")), (2, 2));
}
