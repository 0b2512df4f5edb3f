//! Caches that refuse, break off, or take their time: each costs a note, and no build.

use std::time::{Duration, Instant};

use super::*;
use crate::support::depot::Fault;

#[test]
fn a_cache_that_cannot_be_had_ends_no_build() {
    let (origin, depot) = (Origin::new(), Depot::start());
    let first = origin.machine();
    let nowhere = "127.0.0.1:1/cache";
    let all = ["--cache-from", nowhere, "--cache-to", nowhere, "--cache-key", "key.pem"];
    let (answer, said) = build(&first, &all);
    assert_eq!(traffic(&answer), (0, 0));
    let said = said.says("nothing is taken from cache `127.0.0.1:1/cache`: ");
    let said = said.says("nothing is put into cache `127.0.0.1:1/cache`: ");
    assert!(!said.stderr.contains("latest"), "{}", said.stderr);
    let image = answer["image"].clone();

    // at each request something else goes wrong
    let cache = format!("{}/cache", depot.host);
    fill(&first, &cache);
    let second = origin.second(&first);
    let trusted = ["--cache-from", &cache, "--cache-trust", "key.pub"];
    let other = Depot::start();
    let elsewhere = Fault::Redirect(format!("http://{}", other.host));
    // at the first question for a Key, at a listing, at a layer
    let faults = [
        (0, Fault::Status(401)),
        (0, Fault::Status(404)),
        (0, Fault::OtherDigest),
        (0, elsewhere),
        (2, Fault::Status(500)),
        (2, Fault::OtherDigest),
        (3, Fault::Status(404)),
        (3, Fault::OtherType),
        (3, Fault::Half),
    ];
    for (number, fault) in faults {
        drop(fs::remove_dir_all(second.cache()));
        depot.fail(number, fault.clone());
        let (answer, said) = build(&second, &trusted);
        let told = format!("{fault:?} at {number}: {}", said.stderr);
        assert_eq!(answer["image"], image, "{told}");
        // what passes, and what nobody looks at, changes nothing; an absence needs no word
        let passes = matches!(fault, Fault::Half | Fault::Status(500) | Fault::OtherType);
        let absent = matches!(fault, Fault::Status(404) | Fault::Redirect(_));
        let silent = absent && number < 2;
        assert_eq!(traffic(&answer).0 == 2, passes, "{told}");
        assert_eq!(said.stderr.contains("cache `"), !passes && !silent, "{told}");
    }
    // likewise while it is written to: what is there then is whole
    for (number, status) in (0..16).step_by(3).zip([400, 403, 500].into_iter().cycle()) {
        depot.clear();
        depot.fail(number, Fault::Status(status));
        let own = ["--cache-to", &cache, "--cache-key", "key.pem"];
        let (answer, said) = build(&first, &own);
        let told = format!("{status} at {number}: {}", said.stderr);
        assert_eq!(answer["image"], image, "{told}");
        let noted = said.stderr.contains("put into cache");
        assert!(noted || traffic(&answer).1 == 2, "{told}");
        drop(fs::remove_dir_all(second.cache()));
        let (taken, said) = build(&second, &trusted);
        assert_eq!(traffic(&taken).0, traffic(&answer).1, "{told}, {}", said.stderr);
    }
    let (answer, said) = build(&second, &[&["--offline"][..], &trusted].concat());
    assert!(answer["cache"].is_null());
    said.says("no cache is asked: `--offline` refuses the network");
}

#[test]
fn a_slow_cache_costs_a_note_and_the_time_to_make_the_layers() {
    let origin = Origin::new();
    let first = origin.machine();
    let image = build(&first, &[]).0["image"].clone();
    let slow = [
        (0, Fault::Late(Duration::from_secs(8)), "is too slow: no answer within 5s"),
        (3, Fault::Drip(Duration::from_secs(3)), " bytes within 10s"),
    ];
    let try_with = |(number, fault, why): (usize, Fault, &str)| {
        let depot = Depot::start();
        let cache = format!("{}/cache", depot.host);
        fill(&first, &cache);
        let machine = origin.second(&first);
        depot.fail(number, fault);
        let begun = Instant::now();
        let trusted = ["--cache-from", &cache, "--cache-trust", "key.pub"];
        let (answer, said) = build(&machine, &trusted);
        assert_eq!(answer["image"], image);
        said.says(&format!("nothing is taken from cache `{cache}`: ")).says(why);
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    };
    std::thread::scope(|scope| {
        for one in slow {
            scope.spawn(|| try_with(one));
        }
    });
}

#[test]
fn a_layer_that_is_refused_keeps_no_other_from_being_given() {
    let (origin, depot) = (Origin::new(), Depot::start());
    let cache = format!("{}/cache", depot.host);
    let first = origin.machine();
    depot.refuse_larger(Some(10_000));
    let (answer, said) = build(&first, &["--cache-to", &cache, "--cache-key", "key.pem"]);
    assert_eq!(traffic(&answer), (0, 1));
    said.says(&format!("layer `tool` is not put into cache `{cache}`: ")).says("answers 413");
    let second = origin.second(&first);
    let (taken, _) = build(&second, &["--cache-from", &cache, "--cache-trust", "key.pub"]);
    assert_eq!((traffic(&taken), &taken["image"]), ((1, 0), &answer["image"]));
}

#[test]
fn what_one_cache_has_wrong_the_next_one_may_have_right() {
    let (origin, depot) = (Origin::new(), Depot::start());
    let [bad, good] = ["bad", "good"].map(|name| format!("{}/{name}", depot.host));
    let first = origin.machine();
    let made = fill(&first, &good);
    fill(&first, &bad);
    for tag in depot.tags("bad") {
        let said = statement(&depot.manifest("bad", &tag).unwrap());
        depot.drop_blob("bad", said["layer"]["digest"].as_str().unwrap());
    }
    let second = origin.second(&first);
    let both = ["--cache-from", &bad, "--cache-from", &good, "--cache-trust", "key.pub"];
    let (taken, said) = build(&second, &both);
    assert_eq!((traffic(&taken), &taken["image"]), ((2, 0), &made["image"]), "{}", said.stderr);
    said.says(&format!("cache `{bad}` has layer `tool`, not taken: "));
    // one that dies half-way
    forget_store(&second);
    depot.trap("GET", "/bad/blobs/", Fault::Status(403));
    let (taken, said) = build(&second, &both);
    assert_eq!(traffic(&taken), (2, 0), "{}", said.stderr);
    said.says(&format!("nothing is taken from cache `{bad}`: "));
    // what strangers say is of no weight where somebody else has it
    depot.drop_repository("bad");
    build(&first, &["--cache-to", &bad, "--cache-key", "other.pem"]);
    forget_store(&second);
    let (taken, said) = build(&second, &both);
    assert_eq!(traffic(&taken), (2, 0));
    assert!(!said.stderr.contains("not taken"), "{}", said.stderr);
}

#[test]
fn what_the_store_cannot_remember_is_taken_all_the_same() {
    let (origin, depot) = (Origin::new(), Depot::start());
    let cache = format!("{}/cache", depot.host);
    let first = origin.machine();
    fill(&first, &cache);
    let second = origin.second(&first);
    build(&second, &["--cache-from", &cache, "--cache-trust", "key.pub"]);
    // a directory stands where the store notes which repository has what
    for name in ["keys", "images"] {
        fs::remove_dir_all(second.cache().join(name)).unwrap();
    }
    let homes = second.cache().join("pushes").join(Digest::of(depot.host.as_bytes()).hex());
    fs::remove_file(&homes).unwrap();
    fs::create_dir(&homes).unwrap();
    let both = ["--cache-from", &cache, "--cache-to", &cache, "--cache-key", "key.pem"];
    let (taken, said) = build(&second, &both);
    assert_eq!(traffic(&taken), (2, 0), "{}", said.stderr);
}
