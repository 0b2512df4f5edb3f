//! Servers that are slow, and what can be done without.

use std::time::Duration;

use sbx::fetch::Pace;

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
