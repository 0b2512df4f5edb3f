//! Machines that are at the same work at once: each layer that takes long is made by one of them.

use std::io::Read;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::*;

struct World {
    repo: Repo,
    depot: Depot,
    cache: String,
}

impl World {
    fn new() -> Self {
        let repo = Repo::with_base();
        repo.publish();
        let depot = Depot::start();
        let cache = format!("{}/cache", depot.host);
        World { repo, depot, cache }
    }

    /// A machine that makes a chain of commands, each of which says so and takes a while.
    fn machine(&self, steps: usize, seconds: u32) -> Project {
        let machine = Project::from_repo(&self.repo).debian_layers(&[""]);
        let runs = (0..steps).map(|at| format!("run \"echo made {at}; sleep {seconds}\"; "));
        let app = format!("layer \"app\" needs=\"l0\" {{ {}}}\n", runs.collect::<String>());
        let text = machine.read("sandboxes.kdl").replace("layers \"l0\"", "layers \"app\"");
        machine.write("sandboxes.kdl", &(text + &app));
        with_keys(&machine);
        machine
    }

    /// A machine that has made what lies below already.
    fn prepared(&self, first: &Project, steps: usize, seconds: u32) -> Project {
        let machine = self.machine(steps, seconds).file("sbx.lock", &first.read("sbx.lock"));
        let copied = Command::new("cp").arg("-a").arg(first.cache()).arg(machine.cache()).status();
        assert!(copied.unwrap().success());
        machine
    }

    fn first(&self, steps: usize, seconds: u32) -> Project {
        let first = self.machine(steps, seconds);
        let text = first.read("sandboxes.kdl");
        first.write("sandboxes.kdl", &text.replace("layers \"app\"", "layers \"l0\""));
        first.build();
        first.write("sandboxes.kdl", &text);
        first.sbx(&["lock"]).success();
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
    let logs = fs::read_dir(machine.cache().join("logs")).unwrap();
    let texts = logs.map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
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

#[test]
fn who_died_is_not_waited_for_long_and_who_is_not_trusted_not_at_all() {
    let world = World::new();
    let first = world.first(1, 4);
    let machine = || world.prepared(&first, 1, 4);
    let (dead, heir, stranger, reader) = (machine(), machine(), machine(), machine());
    let mut child = world.start(&dead, "key");
    let begun = Instant::now();
    while !world.depot.tags("cache").iter().any(|tag| tag.starts_with("claim-")) {
        assert!(begun.elapsed() < Duration::from_secs(60));
        thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let from = ["build", "s", "--cache-from", &world.cache, "--cache-trust", "key.pub"];
    let begun = Instant::now();
    thread::scope(|scope| {
        let strange = scope.spawn(|| end(world.start(&stranger, "other")));
        let reads = scope.spawn(|| reader.sbx(&from).success().stderr);
        let waits = end(world.start(&heir, "key"));
        let took = begun.elapsed();
        for said in [strange.join().unwrap(), reads.join().unwrap()] {
            assert!(!said.contains("waited for"), "{said}");
        }
        assert!(waits.contains("waited for"), "{waits}");
        assert!((10..40).contains(&took.as_secs()), "{took:?}: {waits}");
    });
    assert_eq!([&heir, &stranger, &reader].map(made), [1, 1, 1]);
    // what it claimed and made, it no longer claims
    let ended = |tag: &String| {
        let manifest = world.depot.manifest("cache", tag).unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        check_schema("image-manifest", &manifest.to_string());
        let envelope = manifest["annotations"]["dev.sbx.claim"].as_str().unwrap();
        let envelope: Value = serde_json::from_str(envelope).unwrap();
        let payload = BASE64_STANDARD.decode(envelope["payload"].as_str().unwrap()).unwrap();
        serde_json::from_slice::<Value>(&payload).unwrap()["ended"] == true
    };
    let tags = world.depot.tags("cache");
    let claims: Vec<&String> = tags.iter().filter(|tag| tag.starts_with("claim-")).collect();
    assert_eq!(claims.len(), 2, "one of each key");
    assert!(claims.into_iter().all(ended));
}
