//! Servers that are slow, and what can be done without.

use std::time::Duration;

use sbx::fetch::{Letter, Method, Pace, Refusal};

use super::*;

fn paced() -> ClientConfig {
    let millis = Duration::from_millis;
    let pace = Pace { head: millis(400), bytes: 100_000, span: millis(300) };
    ClientConfig { stall_timeout: millis(2000), pace: Some(pace), ..quick() }
}

#[test]
fn what_can_be_done_without_is_given_up_where_it_comes_too_slowly() {
    let (server, home) = (Server::start(), Home::new());
    server.put("/drip", bytes());
    server.put("/late", bytes());
    server.put("/even", bytes());
    let milli = Duration::from_millis(1);
    server.always("/drip", Fault::Drip(10, 20 * milli));
    let begun = Instant::now();
    let slow = home.want(&bytes(), [server.url("/drip")]);
    let error = fetch(paced(), &slow).unwrap_err();
    let told = told(&error, &server);
    assert!(
        told.starts_with("package `tool` 1.0: http://127.0.0.1:PORT/drip is too slow: "),
        "{told}"
    );
    assert!(told.ends_with(" bytes within 300ms"), "{told}");
    assert_eq!(server.hits("/drip"), 1, "it is not asked again");
    let small = Client::new(paced()).get("index", &[server.url("/drip")], 1 << 20).unwrap_err();
    assert!(matches!(small, FetchError::Slow { .. }), "{small}");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    // slow, and fast enough, however long it takes
    server.always("/even", Fault::Drip(80_000, 100 * milli));
    assert_eq!(fetch(paced(), &home.want(&bytes(), [server.url("/even")])).unwrap(), bytes());
    server.delay(600 * milli);
    let late = home.want(b"late", [server.url("/late")]);
    let error = fetch(paced(), &late).unwrap_err().to_string();
    assert!(error.ends_with("is too slow: no answer within 400ms"), "{error}");
    server.delay(Duration::ZERO);
    // what is needed is waited for
    server.put("/small", b"small");
    server.always("/small", Fault::Drip(1, 100 * milli));
    let patient = home.want(b"small", [server.url("/small")]);
    let unhurried = ClientConfig { pace: None, ..paced() };
    assert_eq!(fetch(unhurried, &patient).unwrap(), b"small");
}

#[test]
fn what_can_be_done_without_is_sent_once_and_waited_for_as_long_as_that_is_worth_it() {
    let server = Server::start();
    let config = ClientConfig { stall_timeout: Duration::from_millis(400), ..paced() };
    let client = Client::new(config);
    server.put("/claim", b"");
    server.delay(Duration::from_millis(600));
    let (url, begun) = (server.url("/claim"), Instant::now());
    let letter = Letter::new("claim", Method::PUT, &url);
    let error = client.send(&letter, b"", 1 << 10, &NoProgress).unwrap_err();
    assert!(matches!(error, FetchError::Slow { .. }), "{error}");
    assert!(error.to_string().ends_with("is too slow: nothing moves for 400ms"), "{error}");
    let refusal = client.stream(&letter, &mut &b"claim"[..], Some(5)).unwrap_err();
    assert!(matches!(refusal, Refusal::Final(FetchError::Slow { .. })), "{refusal:?}");
    assert_eq!(server.hits("/claim"), 2);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[test]
fn what_can_be_done_without_is_not_asked_for_again_after_a_long_pause() {
    let server = Server::start();
    server.put("/busy", b"here");
    let (urls, begun) = ([server.url("/busy")], Instant::now());
    let client = Client::new(paced());
    server.script("/busy", [Fault::Busy(429, "0")]);
    assert_eq!(client.get("index", &urls, 1 << 10).unwrap().bytes, b"here");
    server.always("/busy", Fault::Busy(429, "1"));
    let error = client.get("index", &urls, 1 << 10).unwrap_err();
    assert!(matches!(error, FetchError::Status { status: 429, .. }), "{error}");
    assert_eq!(server.hits("/busy"), 3);
    assert!(!client.wait(1, Some(Duration::from_secs(1))));
    assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
}
