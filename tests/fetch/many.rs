//! Many files at once, and one file that many want.

use std::fs::{self, File};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use sbx::fetch::{Client, ClientConfig, Letter, Method, NoProgress, Want};

use super::{Home, bytes, quick};
use crate::support::http::{Fault, Server};

#[test]
fn a_dead_mirror_costs_its_tries_once() {
    let (server, home) = (Server::start(), Home::new());
    let dead = Server::start().url("");
    let files: Vec<Vec<u8>> = (0..200u32).map(|number| number.to_le_bytes().to_vec()).collect();
    let wants: Vec<Want> = files
        .iter()
        .enumerate()
        .map(|(number, bytes)| {
            server.put(&format!("/{number}"), bytes.clone());
            home.want(
                bytes,
                [dead.join(&number.to_string()).unwrap(), server.url(&format!("/{number}"))],
            )
        })
        .collect();
    let slow = ClientConfig { pause: Duration::from_millis(100), ..quick() };
    let begun = Instant::now();
    let failures = Client::new(slow.clone()).fetch_all(wants.clone(), &NoProgress).unwrap();
    assert!(failures.is_empty(), "{failures:?}");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());

    let home = Home::new();
    let only_dead = |bytes: &Vec<u8>| home.want(bytes, [dead.clone()]);
    let failures = Client::new(slow).fetch_all(files.iter().map(only_dead).collect(), &NoProgress);
    let failures = failures.unwrap();
    assert_eq!(failures.len(), 200, "each failure is told");
    let error = failures.values().next().unwrap();
    assert!(error.to_string().contains("cannot be reached: Connection refused"), "{error}");
    assert!(error.help().is_some());
}

#[test]
fn at_most_so_many_transfers_run_at_a_time_over_kept_connections() {
    let (server, home) = (Server::start(), Home::new());
    server.delay(Duration::from_millis(20));
    let wants: Vec<Want> = (0..40u32)
        .map(|number| {
            let (path, bytes) = (format!("/{number}"), number.to_le_bytes());
            server.put(&path, bytes);
            home.want(&bytes, [server.url(&path)])
        })
        .collect();
    let client = Client::new(ClientConfig { parallel: 3, ..quick() });
    let halves = wants.split_at(20);
    std::thread::scope(|scope| {
        for half in [halves.0, halves.1] {
            scope.spawn(|| {
                assert!(client.fetch_all(half.to_vec(), &NoProgress).unwrap().is_empty())
            });
        }
    });
    assert_eq!(server.peak(), 3);
    // a transfer that begins before the last one's connection is free again opens one of its own
    assert!(server.connections() <= 10, "{} for 40 transfers", server.connections());
    assert!(home.parts().is_empty());
}

#[test]
fn what_is_small_waits_for_no_transfer() {
    let (server, home) = (Server::start(), Home::new());
    server.put("/tool.deb", bytes());
    server.put("/index", "index");
    server.always("/tool.deb", Fault::Drip(80_000, Duration::from_millis(100)));
    let want = home.want(&bytes(), [server.url("/tool.deb")]);
    let client = Client::new(ClientConfig { parallel: 1, ..quick() });
    std::thread::scope(|scope| {
        let fetching = scope.spawn(|| client.fetch_all(vec![want.clone()], &NoProgress).unwrap());
        while server.hits("/tool.deb") == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let url = server.url("/index");
        client.get("index", std::slice::from_ref(&url), 1 << 20).unwrap();
        let letter = Letter::new("index", Method::HEAD, &url);
        client.send(&letter, b"", 1 << 20, &NoProgress).unwrap();
        assert!(!want.into.exists(), "it takes a second");
        // what may be large waits for its turn
        client.get("index", &[url], 1 << 30).unwrap();
        assert!(want.into.exists());
        assert!(fetching.join().unwrap().is_empty());
    });
}

#[test]
fn one_file_wanted_often_is_fetched_once() {
    let (server, home) = (Server::start(), Home::new());
    server.put("/tool.deb", bytes());
    server.delay(Duration::from_millis(50));
    let want = home.want(&bytes(), [server.url("/tool.deb")]);
    // by threads of one client, and by clients that know nothing of each other
    let clients = [Client::new(quick()), Client::new(quick())];
    std::thread::scope(|scope| {
        for client in clients.iter().chain(&clients) {
            let wants = vec![want.clone(), want.clone()];
            scope.spawn(|| assert!(client.fetch_all(wants, &NoProgress).unwrap().is_empty()));
        }
    });
    assert_eq!(server.total_hits(), 1);
    assert!(home.parts().is_empty());
}

#[test]
fn a_part_in_other_hands_holds_up_nothing_else() {
    let (server, home) = (Server::start(), Home::new());
    server.put("/tool.deb", bytes());
    server.put("/other.deb", "other");
    let want = home.want(&bytes(), [server.url("/tool.deb")]);
    let other = home.want(b"other", [server.url("/other.deb")]);
    let held = File::create(&want.part).unwrap();
    rustix::fs::flock(&held, FlockOperation::LockExclusive).unwrap();
    let client = Client::new(ClientConfig { parallel: 1, ..quick() });
    std::thread::scope(|scope| {
        let both = vec![want.clone(), other.clone()];
        let fetching = scope.spawn(|| client.fetch_all(both, &NoProgress).unwrap());
        let begun = Instant::now();
        while !other.into.exists() {
            assert!(begun.elapsed() < Duration::from_secs(5));
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(!want.into.exists());
        drop(held);
        assert!(fetching.join().unwrap().is_empty());
    });
    assert_eq!(fs::read(&want.into).unwrap(), bytes());
}
