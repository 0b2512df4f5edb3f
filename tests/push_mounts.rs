//! Pushes of an index whose blobs another repository has, against a registry that misbehaves at every single
//! request; what a push waits for, and what it says on the way.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::push_faults::{Image, Tally, client, count, faults, keychain, saw_nothing, tar};
use crate::support::depot::{Asked, Depot, Fault};
use sbx::digest::Digest;
use sbx::fetch::{MirrorMap, NoProgress, Progress};
use sbx::image::Form;
use sbx::oci::{Access, Registry};
use sbx::platform::Platform;
use sbx::reference::Reference;
use sbx::ship::{Push, Pushed, ShipError};
use sbx::store::Store;
use serde_json::Value;

/// A depot, and images of two platforms that go to it.
struct Bench {
    depot: Depot,
    store: Store,
    images: Vec<Image>,
    _home: tempfile::TempDir,
}

impl Bench {
    fn new(platforms: &[Platform]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        let image = |platform: &Platform| {
            let tars = [tar("name", platform.to_string().as_bytes()), tar("common", b"common")];
            Image::for_platform(&store, *platform, &tars)
        };
        let images = platforms.iter().map(image).collect();
        Bench { depot: Depot::start(), store, images, _home: home }
    }

    /// With an image of one blob, whose requests come one after the other.
    fn lone() -> Self {
        let mut bench = Bench::new(&[]);
        bench.images = vec![Image::of(&bench.store, &[])];
        bench
    }

    /// `homes`: where blobs may be mounted from.
    fn push(
        &self,
        repository: &str,
        homes: &BTreeMap<Digest, String>,
        progress: &dyn Progress,
    ) -> Result<Pushed, ShipError> {
        let text = format!("{}/{repository}:1", self.depot.host);
        let (client, keychain, mirrors) = (client(), keychain(&text), MirrorMap::default());
        let reference: Reference = text.parse().unwrap();
        let registry = Registry::new(&client, &keychain, &mirrors, &reference)?;
        let access = Access::Write { mounts: homes.values().cloned().collect() };
        let (registry, store) = (&registry.with_access(access), &self.store);
        let homes = homes.clone();
        let push = Push { store, registry, form: Form::default(), homes, last: None, progress };
        let images: Vec<_> = self.images.iter().map(Image::shipped).collect();
        push.run(&images, &reference.version(), None)
    }

    /// Where a request stands among those of a push.
    fn find(&self, is_meant: impl Fn(&Asked) -> bool) -> usize {
        self.depot.asked().iter().position(is_meant).unwrap()
    }

    /// Whether the tag names the index, which then is whole.
    fn check(&self, expected: &Pushed) -> bool {
        let Some(bytes) = self.depot.manifest("a", "1") else { return false };
        assert_eq!(Digest::of(&bytes), expected.root.digest);
        let parse = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        let index = parse(&bytes);
        for entry in index["manifests"].as_array().unwrap() {
            let bytes = self.depot.manifest("a", entry["digest"].as_str().unwrap()).unwrap();
            let manifest = parse(&bytes);
            for part in manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]) {
                let digest = part["digest"].as_str().unwrap();
                assert_eq!(Digest::of(&self.depot.blob("a", digest).unwrap()).to_string(), digest);
            }
        }
        true
    }
}

#[test]
fn a_push_of_an_index_that_mounts_ends_well_or_says_why() {
    let bench = Bench::new(&[Platform::Amd64, Platform::Arm64]);
    let (depot, other) = (&bench.depot, Depot::start());
    depot.guard("geheim");
    other.guard("fremd");
    bench.push("first", &BTreeMap::new(), &NoProgress).unwrap();
    let homes = bench.store.find_homes(&depot.host);
    let push = || bench.push("a", &homes, &NoProgress);
    depot.forget();
    let expected = push().unwrap();
    assert!(bench.check(&expected) && expected.traffic.mounted > 3, "{expected:?}");
    let is_mount = |asked: &&Asked| asked.query.contains("mount=");
    let mounts = depot.asked().iter().filter(is_mount).count();
    assert_eq!((mounts, depot.count("PUT", "/manifests/")), (expected.traffic.mounted, 3));
    let requests = depot.asked().len();
    let mut tally = Tally::new();
    // one that stands still costs its time, and is met by every kind of request elsewhere
    for fault in faults(&other).into_iter().filter(|fault| *fault != Fault::Stall) {
        for number in 0..requests {
            depot.drop_repository("a");
            depot.fail(number, fault.clone());
            let result = push();
            let told =
                format!("{fault:?} at {number}: {result:?}, {:?}", depot.asked().get(number));
            match &result {
                Ok(pushed) => {
                    assert_eq!(
                        (&pushed.root, &pushed.manifests),
                        (&expected.root, &expected.manifests)
                    );
                    assert!(bench.check(&expected), "{told}");
                }
                Err(error) => {
                    assert!(error.to_string().len() > 20, "{told}");
                    bench.check(&expected);
                    push().unwrap();
                    assert!(bench.check(&expected), "{told}");
                }
            }
            count(&mut tally, &fault, result.is_ok());
        }
    }
    saw_nothing(&other);
    for passing in ["Status(500)", "Busy", "Half", "Lost"] {
        assert_eq!(tally[passing].1, 0, "{passing}: {tally:?}");
    }
}

#[test]
fn the_pause_that_a_registry_asks_for_is_kept() {
    let bench = Bench::lone();
    bench.push("a", &BTreeMap::new(), &NoProgress).unwrap();
    let blob = bench.find(|one| one.method == "PUT" && one.path.contains("/uploads/"));
    let manifest = bench.find(|one| one.method == "PUT" && one.path.contains("/manifests/"));
    // a stream and a letter
    for number in [blob, manifest] {
        bench.depot.drop_repository("a");
        bench.depot.fail(number, Fault::Later);
        let begun = Instant::now();
        bench.push("a", &BTreeMap::new(), &NoProgress).unwrap();
        assert!(begun.elapsed() >= Duration::from_secs(1), "{number}");
        assert!(begun.elapsed() < Duration::from_secs(3), "{number}");
    }
}

/// Hears what is tried again.
#[derive(Default)]
struct Heard(Mutex<Vec<(String, String)>>);

impl Progress for Heard {
    fn started(&self, _: &str, _: Option<u64>) {}
    fn advanced(&self, _: u64) {}
    fn finished(&self, _: &str) {}
    fn retried(&self, label: &str, reason: &str) {
        self.0.lock().unwrap().push((label.to_owned(), reason.to_owned()));
    }
}

#[test]
fn what_is_tried_again_is_named_once() {
    let bench = Bench::lone();
    bench.push("a", &BTreeMap::new(), &NoProgress).unwrap();
    let blob = bench.find(|one| one.method == "PUT" && one.path.contains("/uploads/"));
    bench.depot.drop_repository("a");
    bench.depot.fail(blob, Fault::Half);
    let heard = Heard::default();
    bench.push("a", &BTreeMap::new(), &heard).unwrap();
    let heard = heard.0.into_inner().unwrap();
    let [(label, reason)] = heard.as_slice() else { panic!("{heard:?}") };
    assert!(!label.is_empty() && !reason.contains(label.as_str()), "{heard:?}");
    assert!(reason.starts_with("http://"), "{heard:?}");
}
