//! Pushes and pulls against a registry that misbehaves at every single request, in every way: each ends
//! in success or in an error that says something, and never in a wrong image.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::support::depot::{Depot, Fault};
use sbx::digest::Digest;
use sbx::fetch::{Client, ClientConfig, MirrorMap, NoProgress};
use sbx::image::{Form, ImageLayer, write_image};
use sbx::oci::{Access, Keychain, Origin, Registry};
use sbx::plan::ImageSpec;
use sbx::platform::Platform;
use sbx::reference::Reference;
use sbx::ship::{Pull, Push, Pushed, ShipError, Shipped};
use sbx::store::{ImageRecord, Key, Store};
use serde_json::Value;

/// A client that has no patience.
pub fn client() -> Client {
    Client::new(ClientConfig {
        pause: Duration::from_millis(1),
        tries: 4,
        stall_timeout: Duration::from_millis(300),
        ..ClientConfig::default()
    })
}

/// Somebody whom the registry knows.
pub fn keychain(reference: &str) -> Keychain {
    let host = reference.split('/').next().unwrap();
    let login = format!("{{\"auths\":{{\"{host}\":{{\"auth\":\"bWU6Z2VoZWlt\"}}}}}}");
    Keychain::parse(&[("config.json".to_owned(), login)])
}

/// Another host was shown nothing, whatever it demanded.
#[track_caller]
pub fn saw_nothing(other: &Depot) {
    let asked = other.asked();
    assert!(!asked.is_empty());
    let shown = asked.iter().find(|one| one.authorization.is_some());
    assert!(shown.is_none(), "{shown:?}");
}

/// Some bytes that do not compress.
pub fn noise(len: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// A tar with one file.
pub fn tar(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, name, bytes).unwrap();
    tar.into_inner().unwrap()
}

/// An image of a store.
pub struct Image {
    pub spec: ImageSpec,
    pub record: ImageRecord,
}

impl Image {
    /// A layer that is compressed while it is sent, and one that is not.
    fn new(store: &Store) -> Self {
        let large = noise((4 << 20) + (100 << 10));
        Image::of(store, &[tar("large", &large), tar("small", b"small\n")])
    }

    pub fn of(store: &Store, tars: &[Vec<u8>]) -> Self {
        Image::for_platform(store, Platform::Amd64, tars)
    }

    pub fn for_platform(store: &Store, platform: Platform, tars: &[Vec<u8>]) -> Self {
        let spec = ImageSpec::of_image(platform, &[("cmd", vec!["/bin/sh".to_owned()])]);
        let layer = |(at, bytes): (usize, &Vec<u8>)| {
            let diff_id = store.put_blob(bytes).unwrap();
            let key = Key(Digest::of(format!("{platform} {at}").as_bytes()));
            let record = store.put_layer(&key, diff_id).unwrap();
            ImageLayer { record, created_by: "test".to_owned(), comment: String::new() }
        };
        let layers: Vec<ImageLayer> = tars.iter().enumerate().map(layer).collect();
        let record = write_image(store, &spec, &layers).unwrap();
        Image { spec, record }
    }

    pub fn push(
        &self,
        store: &Store,
        client: &Client,
        reference: &str,
    ) -> Result<Pushed, ShipError> {
        let (keychain, mirrors) = (keychain(reference), MirrorMap::default());
        let reference: Reference = reference.parse().unwrap();
        let access = Access::Write { mounts: Vec::new() };
        let registry = Registry::new(client, &keychain, &mirrors, &reference).unwrap();
        let registry = &registry.with_access(access);
        let homes = store.find_homes(registry.host());
        let progress = &NoProgress;
        let push = Push { store, registry, form: Form::default(), homes, last: None, progress };
        push.run(&[self.shipped()], &reference.version(), None)
    }

    pub fn shipped(&self) -> Shipped<'_> {
        Shipped::Built { spec: &self.spec, record: &self.record }
    }
}

fn pull(dir: &Path, client: &Client, reference: &str) -> Result<(Store, ImageRecord), String> {
    let store = Store::open(dir).unwrap();
    let (keychain, mirrors) = (keychain(reference), MirrorMap::default());
    let reference: Reference = reference.parse().unwrap();
    let registry = Registry::new(client, &keychain, &mirrors, &reference).unwrap();
    let origin = Origin::of_registry(registry, client, &reference);
    let whole = origin.resolve_whole(Platform::Amd64).map_err(|error| error.to_string())?;
    let pull = Pull {
        store: &store,
        origin: &origin,
        reference: &reference,
        platform: Platform::Amd64,
        progress: &NoProgress,
    };
    let record = pull.run(&whole).map_err(|error| error.to_string())?.record;
    Ok((store, record))
}

pub fn faults(other: &Depot) -> Vec<Fault> {
    let statuses = [400, 401, 403, 404, 500].map(Fault::Status);
    let statuses = statuses.into_iter().chain([Fault::Denied(400)]);
    let redirect = Fault::Redirect(format!("http://{}", other.host));
    let odd = [
        Fault::Busy,
        Fault::Half,
        Fault::OtherDigest,
        Fault::OtherType,
        redirect,
        Fault::Stall,
        Fault::Lost,
    ];
    statuses.chain(odd).collect()
}

/// What the registry has under the tag, if it has it, is whole and right.
fn check(depot: &Depot, expected: &Pushed) -> bool {
    let Some(bytes) = depot.manifest("a", "1") else { return false };
    assert_eq!(Digest::of(&bytes), expected.root.digest);
    let value: Value = serde_json::from_slice(&bytes).unwrap();
    let parts = value["layers"].as_array().unwrap().iter().chain([&value["config"]]);
    for part in parts {
        let digest = part["digest"].as_str().unwrap();
        let bytes = depot.blob("a", digest).unwrap();
        assert_eq!(Digest::of(&bytes).to_string(), digest);
        assert_eq!(part["size"].as_u64().unwrap(), bytes.len() as u64);
    }
    true
}

/// What became of each fault, how often.
pub type Tally = BTreeMap<String, (usize, usize)>;

pub fn count(tally: &mut Tally, fault: &Fault, ended_well: bool) {
    let name = match fault {
        Fault::Redirect(_) => "Redirect".to_owned(),
        fault => format!("{fault:?}"),
    };
    let counts = tally.entry(name).or_default();
    *(if ended_well { &mut counts.0 } else { &mut counts.1 }) += 1;
}

#[test]
fn a_push_ends_well_or_says_why() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(home.path()).unwrap();
    let image = Image::new(&store);
    let (depot, other) = (Depot::start(), Depot::start());
    depot.guard("geheim");
    other.guard("fremd");
    let reference = format!("{}/a:1", depot.host);
    let twins = home.path().join("twins");
    let forget = || {
        std::fs::remove_dir_all(&twins).unwrap();
        std::fs::create_dir(&twins).unwrap();
        depot.clear();
    };
    let expected = image.push(&store, &client(), &reference).unwrap();
    assert!(check(&depot, &expected));
    let (requests, patches) = (depot.asked().len(), depot.count("PATCH", ""));
    assert!(requests > 10, "{:?}", depot.asked());
    let mut tally = Tally::new();
    for fault in faults(&other) {
        for number in 0..requests {
            forget();
            depot.fail(number, fault.clone());
            let result = image.push(&store, &client(), &reference);
            let told =
                format!("{fault:?} at {number}: {result:?}, {:?}", depot.asked().get(number));
            match &result {
                Ok(pushed) => {
                    assert_eq!(*pushed, Pushed { traffic: pushed.traffic, ..expected.clone() });
                    assert!(check(&depot, &expected), "{told}");
                }
                Err(error) => {
                    assert!(error.to_string().len() > 20, "{told}");
                    check(&depot, &expected);
                }
            }
            count(&mut tally, &fault, result.is_ok());
            // of two that push the same at once, one may hear that of what is there or soon will be
            let is_put = depot.asked().get(number).is_some_and(|asked| asked.method == "PUT");
            if is_put && [400, 404].iter().any(|status| fault.says(*status)) {
                assert!(result.is_ok(), "{told}");
            }
            if is_put && matches!(fault, Fault::Denied(_)) {
                assert_eq!(depot.count("PATCH", ""), patches, "it was not sent again: {told}");
            }
            // whatever it was, the next push mends it
            if result.is_err() {
                let again = image.push(&store, &client(), &reference);
                assert!(again.is_ok(), "{told}, then {again:?}");
                assert!(check(&depot, &expected), "{told}");
            }
        }
    }
    saw_nothing(&other);
    // what passes by itself is no failure
    for passing in ["Status(500)", "Busy", "Half", "Stall", "Lost"] {
        assert_eq!(tally[passing].1, 0, "{passing}: {tally:?}");
    }
}

#[test]
fn what_is_refused_for_good_is_told_after_a_few_tries() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(home.path()).unwrap();
    let image = Image::of(&store, &[]);
    let depot = Depot::start();
    let reference = format!("{}/a:1", depot.host);
    let push = || image.push(&store, &client(), &reference).map_err(|error| error.to_string());
    depot.refuse_ends(Some(400));
    assert!(push().unwrap_err().contains("answers 400"));
    // in the request that ends a session, as a stream, and twice more
    assert_eq!((depot.count("PUT", "/uploads/"), depot.count("PATCH", "")), (4, 3));
    depot.refuse_ends(None);
    depot.refuse_manifests(Some(400));
    depot.forget();
    assert!(push().unwrap_err().contains("answers 400"));
    assert_eq!((depot.count("PUT", "/manifests/"), depot.count("PUT", "/uploads/")), (4, 1));
    depot.refuse_manifests(Some(403));
    depot.forget();
    depot.explain(r#"{"errors":[{"code":"DENIED","message":"quota exceeded: 10GB"}]}"#);
    let told = push().unwrap_err();
    assert!(
        told.ends_with("does not let strangers write there: DENIED: quota exceeded: 10GB"),
        "{told}"
    );
    assert_eq!(depot.count("PUT", ""), 1);
    depot.refuse_manifests(None);
    push().unwrap();
}

#[test]
fn a_pull_ends_well_or_says_why() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(home.path()).unwrap();
    let image = Image::new(&store);
    let (depot, other) = (Depot::start(), Depot::start());
    let reference = format!("{}/a:1", depot.host);
    image.push(&store, &client(), &reference).unwrap();
    depot.guard("geheim");
    other.guard("fremd");
    depot.forget();
    let dir = |name: &str| home.path().join(name);
    let (_, expected) = pull(&dir("expected"), &client(), &reference).unwrap();
    assert_eq!(expected.image, image.record.image);
    let requests = depot.asked().len();
    assert!(requests >= 5, "{:?}", depot.asked());
    let mut tally = Tally::new();
    for fault in faults(&other) {
        for number in 0..requests {
            let name = format!("{number}{}", tally.len());
            depot.fail(number, fault.clone());
            let result = pull(&dir(&name), &client(), &reference);
            let told = format!("{fault:?} at {number}: {:?}", depot.asked().get(number));
            count(&mut tally, &fault, result.is_ok());
            let result = result.or_else(|error| {
                assert!(error.len() > 20, "{told}: {error}");
                let index = std::fs::read_to_string(dir(&name).join("index.json")).unwrap();
                assert!(!index.contains("a:1"), "{told}: {index}");
                // the store is whole: the next pull goes on
                pull(&dir(&name), &client(), &reference)
            });
            let (store, record) = result.unwrap_or_else(|error| panic!("{told}, then {error}"));
            assert_eq!((record.image, record.manifest), (expected.image, expected.manifest));
            for layer in &record.layers {
                store.verify_blob(layer.blob()).unwrap();
            }
            std::fs::remove_dir_all(dir(&name)).unwrap();
        }
    }
    saw_nothing(&other);
    for passing in ["Status(500)", "Busy", "Half", "Stall", "Lost"] {
        assert_eq!(tally[passing].1, 0, "{passing}: {tally:?}");
    }
}

#[test]
fn two_pushes_at_once_are_as_good_as_one() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(home.path()).unwrap();
    let image = Image::new(&store);
    let depot = Depot::start();
    let reference = format!("{}/a:1", depot.host);
    let push = || image.push(&store, &client(), &reference).unwrap();
    let (one, two) = std::thread::scope(|scope| {
        let one = scope.spawn(push);
        let two = scope.spawn(push);
        (one.join().unwrap(), two.join().unwrap())
    });
    assert_eq!(one.root, two.root);
    assert!(check(&depot, &one));
}

#[test]
fn a_tag_that_moves_while_it_is_pulled_is_what_it_was() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(home.path()).unwrap();
    let image = Image::new(&store);
    let depot = Depot::start();
    let reference = format!("{}/a:1", depot.host);
    let pushed = image.push(&store, &client(), &reference).unwrap();
    let other = ImageRecord { layers: image.record.layers[1..].to_vec(), ..image.record.clone() };
    let other = write_image(&store, &image.spec, &layers_of(&other)).unwrap();
    let moved = Image { spec: image.spec.clone(), record: other };
    let later = moved.push(&store, &client(), &format!("{}/a:2", depot.host)).unwrap();

    let parsed: Reference = reference.parse().unwrap();
    let (client, keychain, mirrors) = (client(), Keychain::default(), MirrorMap::default());
    let registry = Registry::new(&client, &keychain, &mirrors, &parsed).unwrap();
    let origin = Origin::of_registry(registry, &client, &parsed);
    let whole = origin.resolve_whole(Platform::Amd64).unwrap();
    depot.tag("a", "2", "1");
    let into = Store::open(&home.path().join("into")).unwrap();
    let pull = Pull {
        store: &into,
        origin: &origin,
        reference: &parsed,
        platform: Platform::Amd64,
        progress: &NoProgress,
    };
    assert_eq!(pull.run(&whole).unwrap().record.manifest, pushed.root.digest);
    let whole = origin.resolve_whole(Platform::Amd64).unwrap();
    assert_eq!(pull.run(&whole).unwrap().record.manifest, later.root.digest);
}

fn layers_of(record: &ImageRecord) -> Vec<ImageLayer> {
    let layer = |record: &sbx::store::LayerRecord| ImageLayer {
        record: record.clone(),
        created_by: "test".to_owned(),
        comment: String::new(),
    };
    record.layers.iter().map(layer).collect()
}
