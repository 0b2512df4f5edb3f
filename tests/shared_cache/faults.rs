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
    said.says("nothing is put into cache `127.0.0.1:1/cache`: ");
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
        let noted = said.stderr.contains("nothing is put into cache");
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
    let (origin, depot) = (Origin::new(), Depot::start());
    let cache = format!("{}/cache", depot.host);
    let first = origin.machine();
    let made = fill(&first, &cache);
    let trusted = ["--cache-from", &cache, "--cache-trust", "key.pub"];
    let slow = [
        (0, Fault::Late(Duration::from_secs(8)), "is too slow: no answer within 5s"),
        (3, Fault::Drip(Duration::from_secs(3)), " bytes within 10s"),
    ];
    for (number, fault, why) in slow {
        let machine = origin.second(&first);
        depot.fail(number, fault);
        let begun = Instant::now();
        let (answer, said) = build(&machine, &trusted);
        assert_eq!(answer["image"], made["image"]);
        said.says(&format!("nothing is taken from cache `{cache}`: ")).says(why);
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    }
}
