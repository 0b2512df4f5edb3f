//! Two who push the same to docker's registry at the same moment: it may tell one of them that what the
//! other sends is not there, and both end well.

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::time::Duration;

use crate::push_faults::{Image, noise, tar};
use crate::support::oci;
use sbx::digest::Digest;
use sbx::fetch::{Client, ClientConfig, MirrorMap, NoProgress};
use sbx::image::Form;
use sbx::oci::{Access, Keychain, Registry, Supplied};
use sbx::reference::Reference;
use sbx::ship::{Push, Pushed, ShipError};
use sbx::store::Store;
use serde_json::Value;

/// How often they meet.
const ROUNDS: usize = 12;

/// Somebody who pushes, with connections of their own.
struct Pusher<'a> {
    image: &'a Image,
    store: &'a Store,
    client: Client,
}

impl<'a> Pusher<'a> {
    fn new(image: &'a Image, store: &'a Store) -> Self {
        let config = ClientConfig {
            pause: Duration::from_millis(20),
            parallel: 16,
            ..ClientConfig::default()
        };
        Pusher { image, store, client: Client::new(config) }
    }

    fn push(
        &self,
        reference: &Reference,
        homes: &BTreeMap<Digest, String>,
    ) -> Result<Pushed, ShipError> {
        let (keychain, mirrors, store) = (Keychain::default(), MirrorMap::default(), self.store);
        let registry = Registry::new(&self.client, &keychain, &mirrors, reference)?;
        let registry = &registry.with_access(Access::Write { mounts: Vec::new() });
        let (homes, progress) = (homes.clone(), &NoProgress);
        let push = Push { store, registry, form: Form::default(), homes, last: None, progress };
        push.run(&[self.image.shipped()], &reference.version(), None)
    }
}

#[test]
fn both_end_well_and_what_the_tag_names_is_whole() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(home.path()).unwrap();
    let large = noise(3 << 20);
    let small = (0..24).map(|at| tar(&format!("file-{at}"), &large[at..at + 100]));
    let tars: Vec<Vec<u8>> = small.chain([tar("large", &large)]).collect();
    let image = Image::of(&store, &tars);
    let registry = oci::Registry::start();
    let reference =
        |name: &str| -> Reference { format!("{}/{name}:1", registry.host).parse().unwrap() };
    let (one, two) = (Pusher::new(&image, &store), Pusher::new(&image, &store));
    let first = one.push(&reference("first"), &BTreeMap::new()).unwrap();
    let homes = store.find_homes(&registry.host);
    assert_eq!(homes.len(), tars.len() + 1);
    let mut mounted = 0;
    for round in 0..ROUNDS {
        // each blob is sent, or mounted
        let homes = if round % 2 == 0 { &BTreeMap::new() } else { &homes };
        let to = reference(&format!("round-{round}"));
        let start = Barrier::new(2);
        let push = |pusher: &Pusher<'_>| {
            start.wait();
            pusher.push(&to, homes)
        };
        let ended = std::thread::scope(|scope| {
            let (push, one, two) = (&push, &one, &two);
            let others = scope.spawn(move || push(two));
            [push(one), others.join().unwrap()]
        });
        for pushed in ended {
            let pushed = pushed.unwrap_or_else(|error| panic!("round {round}: {error}"));
            assert_eq!(pushed.root, first.root, "round {round}");
            mounted += pushed.traffic.mounted;
        }
        check(&one.client, &to, &first);
    }
    // of two, the second may find what the first has mounted
    assert!(mounted >= ROUNDS / 2 * (tars.len() + 1), "{mounted}");
}

fn check(client: &Client, reference: &Reference, expected: &Pushed) {
    let (keychain, mirrors) = (Keychain::default(), MirrorMap::default());
    let registry = Registry::new(client, &keychain, &mirrors, reference).unwrap();
    let document = registry.manifest(&reference.version()).unwrap();
    assert_eq!(Digest::of(&document.bytes), expected.root.digest);
    let manifest: Value = serde_json::from_slice(&document.bytes).unwrap();
    for part in manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]) {
        let digest = part["digest"].as_str().unwrap().parse().unwrap();
        let supplied = Supplied { digest, size: part["size"].as_u64().unwrap() };
        assert!(registry.has_blob("part", &supplied).unwrap(), "{digest}");
    }
}
