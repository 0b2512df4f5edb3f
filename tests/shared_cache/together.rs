//! Machines that are at the same work at once: each layer that takes long is made by one of them.

use std::io::Read;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::support::depot::Fault;

const CLAIM: &str = "dev.sbx.claim";

/// A shell, and nothing else.
const ROOT: &str = "layer \"root\" {
    files \"busybox\" into=\"/bin/busybox\"
    link \"/bin/sh\" to=\"busybox\"
    link \"/bin/sleep\" to=\"busybox\"
}
";

struct World {
    depot: Depot,
    cache: String,
}

impl World {
    fn new() -> Self {
        let depot = Depot::start();
        let cache = format!("{}/cache", depot.host);
        World { depot, cache }
    }

    /// A machine that makes a chain of commands, each of which says so and takes a while.
    fn machine(&self, steps: usize, seconds: u32) -> Project {
        let runs = (0..steps).map(|at| format!("run \"echo made {at}; sleep {seconds}\"; "));
        let app = format!("layer \"app\" needs=\"root\" {{ {}}}\n", runs.collect::<String>());
        let text = format!("{ROOT}{app}sandbox \"s\" {{ layers \"app\"; command \"/bin/sh\"; }}\n");
        let machine = Project::new().file("sandboxes.kdl", &text);
        let busybox = machine.dir.path().join("busybox");
        fs::copy("/bin/busybox", busybox).expect("tests/run installs busybox-static");
        with_keys(&machine);
        machine
    }

    /// A machine that has made what lies below already.
    fn prepared(&self, first: &Project, steps: usize, seconds: u32) -> Project {
        let machine = self.machine(steps, seconds);
        let copied = Command::new("cp").arg("-a").arg(first.cache()).arg(machine.cache()).status();
        assert!(copied.unwrap().success());
        machine
    }

    fn first(&self, steps: usize, seconds: u32) -> Project {
        let first = self.machine(steps, seconds);
        let text = first.read("sandboxes.kdl");
        first.write("sandboxes.kdl", &text.replace("layers \"app\"", "layers \"root\""));
        first.build();
        first.write("sandboxes.kdl", &text);
        first
    }

    /// Builds with a key of the machine, and trusts no other.
    fn start(&self, machine: &Project, key: &str) -> Child {
        let (cache, key) = (self.cache.as_str(), format!("{key}.pem"));
        let arguments =
            ["build", "s", "--cache-from", cache, "--cache-to", cache, "--cache-key", &key];
        let mut command = machine.command(&arguments);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }
}

/// What a build said; it must have ended well.
fn end(mut child: Child) -> String {
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success(), "{said}");
    said
}

/// Commands that were run by a machine.
fn made(machine: &Project) -> usize {
    let logs = fs::read_dir(machine.cache().join("logs"));
    let texts =
        logs.into_iter().flatten().map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
    texts.map(|text| text.lines().filter(|line| line.starts_with("made ")).count()).sum()
}

#[test]
fn two_machines_at_once_make_each_layer_once_between_them() {
    const STEPS: usize = 3;
    let world = World::new();
    let first = world.first(STEPS, 3);
    for pause in [Duration::from_secs(2), Duration::ZERO] {
        world.depot.clear();
        let (one, two) = (world.prepared(&first, STEPS, 3), world.prepared(&first, STEPS, 3));
        let begun = Instant::now();
        let earlier = world.start(&one, "key");
        thread::sleep(pause);
        let later = world.start(&two, "key");
        let said = [end(earlier), end(later)].concat();
        let took = begun.elapsed();
        assert_eq!(made(&one) + made(&two), STEPS, "after {pause:?}: {said}");
        assert!(said.contains("another machine makes it, and is waited for"), "{said}");
        assert!(took < Duration::from_secs(40), "{took:?}");
        assert_eq!(one.build(), two.build());
    }
}

/// Waits until the cache has claims.
fn claims(depot: &Depot) -> Vec<String> {
    let begun = Instant::now();
    loop {
        let tags = depot.tags("cache").into_iter().filter(|tag| tag.starts_with("claim-"));
        let tags: Vec<String> = tags.collect();
        if !tags.is_empty() {
            return tags;
        }
        assert!(begun.elapsed() < Duration::from_secs(60));
        thread::sleep(Duration::from_millis(20));
    }
}

/// The envelope of a claim, and what stands in it.
fn claim(manifest: &[u8]) -> Value {
    let manifest: Value = serde_json::from_slice(manifest).unwrap();
    check_schema("image-manifest", &manifest.to_string());
    let envelope = manifest["annotations"][CLAIM].as_str().unwrap();
    let envelope: Value = serde_json::from_str(envelope).unwrap();
    let payload = BASE64_STANDARD.decode(envelope["payload"].as_str().unwrap()).unwrap();
    serde_json::from_slice(&payload).unwrap()
}

/// A claim that says something else, of the same key.
fn claimed_anew(manifest: &[u8], change: impl Fn(&mut Value)) -> Vec<u8> {
    let mut said = claim(manifest);
    change(&mut said);
    let key = PrivateKey::parse(KEY, None).unwrap();
    let kind = "application/vnd.sbx.claim.v1+json";
    let envelope = Envelope::sign(&key, kind, said.to_string().as_bytes()).to_bytes();
    let mut manifest: Value = serde_json::from_slice(manifest).unwrap();
    manifest["annotations"][CLAIM] = json!(String::from_utf8(envelope).unwrap());
    manifest.to_string().into_bytes()
}

#[test]
fn who_was_ended_here_is_not_waited_for_and_who_is_elsewhere_until_he_says_that_it_ended() {
    let world = World::new();
    let first = world.first(1, 3);
    let machine = || world.prepared(&first, 1, 3);
    let (dead, heir, stranger, reader, other) =
        (machine(), machine(), machine(), machine(), machine());
    let mut child = world.start(&dead, "key");
    let tag = claims(&world.depot).remove(0);
    child.kill().unwrap();
    child.wait().unwrap();
    let manifest = world.depot.manifest("cache", &tag).unwrap();
    let from = ["build", "s", "--cache-from", &world.cache, "--cache-trust", "key.pub"];
    thread::scope(|scope| {
        let strange = scope.spawn(|| end(world.start(&stranger, "other")));
        let reads = scope.spawn(|| reader.sbx(&from).success().stderr);
        let inherits = end(world.start(&heir, "key"));
        for said in [strange.join().unwrap(), reads.join().unwrap(), inherits] {
            assert!(!said.contains("waited for"), "{said}");
        }
    });
    assert_eq!([&heir, &stranger, &reader].map(made), [1, 1, 1]);
    // what was claimed and made is no longer claimed
    let tags = claims(&world.depot);
    assert_eq!(tags.len(), 2, "one of each key");
    for tag in tags {
        assert_eq!(claim(&world.depot.manifest("cache", &tag).unwrap())["ended"], true);
    }

    // another machine's process is not looked for
    world.depot.clear();
    let elsewhere = |ended: bool| {
        let who = json!("0123456789abcdef-1-1-1");
        claimed_anew(&manifest, |said| (said["who"], said["ended"]) = (who.clone(), json!(ended)))
    };
    world.depot.put("cache", &tag, elsewhere(false));
    let child = world.start(&other, "key");
    let begun = Instant::now();
    while world.depot.count("GET", &tag) < 3 {
        assert!(begun.elapsed() < Duration::from_secs(60));
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(made(&other), 0);
    world.depot.put("cache", &tag, elsewhere(true));
    let said = end(child);
    assert!(said.contains("another machine makes it, and is waited for"), "{said}");
    assert_eq!(made(&other), 1, "and left it");
}

#[test]
fn a_strangers_entry_does_not_keep_machines_from_waiting_for_each_other() {
    let world = World::new();
    let first = world.first(1, 3);
    let machine = || world.prepared(&first, 1, 3);
    let (stranger, one, two) = (machine(), machine(), machine());
    end(world.start(&stranger, "other"));
    let earlier = world.start(&one, "key");
    thread::sleep(Duration::from_secs(1));
    let later = world.start(&two, "key");
    let said = [end(earlier), end(later)].concat();
    assert_eq!(made(&one) + made(&two), 1, "{said}");
    assert_eq!(said.matches("not taken: who signed it is not trusted").count(), 2, "{said}");
}

#[test]
fn a_cache_that_is_given_up_is_waited_for_by_nobody() {
    let world = World::new();
    let first = world.first(1, 4);
    let (one, two) = (world.prepared(&first, 1, 4), world.prepared(&first, 1, 4));
    let earlier = world.start(&one, "key");
    claims(&world.depot);
    world.depot.trap("GET", "/manifests/key-", Fault::Status(403));
    let said = end(world.start(&two, "key"));
    assert!(said.contains("nothing is taken from cache"), "{said}");
    assert!(!said.contains("waited for"), "{said}");
    end(earlier);
    assert_eq!([made(&one), made(&two)], [1, 1]);
}

#[test]
fn whoever_comes_late_to_claim_a_layer_takes_what_was_made_meanwhile() {
    let world = World::new();
    let first = world.first(1, 1);
    let (slow, quick) = (world.prepared(&first, 1, 1), world.prepared(&first, 1, 1));
    world.depot.trap("PUT", "/manifests/claim-", Fault::Late(Duration::from_millis(4500)));
    let late = world.start(&slow, "key");
    let begun = Instant::now();
    while world.depot.count("PUT", "/manifests/claim-") == 0 {
        assert!(begun.elapsed() < Duration::from_secs(60));
        thread::sleep(Duration::from_millis(20));
    }
    let said = end(world.start(&quick, "key"));
    assert!(world.depot.count("PUT", "/manifests/key-") > 0, "{said}");
    let said = [said, end(late)].concat();
    assert_eq!([made(&slow), made(&quick)], [0, 1], "{said}");
}
