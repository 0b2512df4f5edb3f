//! Fetching from servers that are slow, broken, dead or lying.

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use sbx::blame::Blame;
use sbx::digest::Digest;
use sbx::fetch::{Client, ClientConfig, FetchError, NoProgress, Progress, ProxyConfig, Want};
use tempfile::TempDir;
use url::Url;

use crate::support::http::{Authority, Fault, Server};

/// A file that servers have and clients want; large enough to come in many pieces.
fn bytes() -> Vec<u8> {
    (0..200_000u32).flat_map(|number| number.to_le_bytes()).collect()
}

/// Quick to despair, so that tests are quick.
fn quick() -> ClientConfig {
    ClientConfig {
        tries: 3,
        pause: Duration::from_millis(2),
        connect_timeout: Duration::from_secs(2),
        stall_timeout: Duration::from_millis(150),
        ..ClientConfig::default()
    }
}

/// Where fetched files go.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        let home = Home(tempfile::tempdir().unwrap());
        fs::create_dir(home.0.path().join("parts")).unwrap();
        fs::create_dir(home.0.path().join("blobs")).unwrap();
        home
    }

    fn want(&self, bytes: &[u8], urls: impl IntoIterator<Item = Url>) -> Want {
        let digest = Digest::of(bytes);
        Want {
            label: "package `tool` 1.0".to_owned(),
            urls: urls.into_iter().collect(),
            size: Some(bytes.len() as u64),
            digest: digest.into(),
            is_pinned: true,
            part: self.0.path().join("parts").join(digest.hex()),
            into: self.0.path().join("blobs").join(digest.hex()),
        }
    }

    fn parts(&self) -> Vec<PathBuf> {
        let parts = fs::read_dir(self.0.path().join("parts")).unwrap();
        parts.map(|entry| entry.unwrap().path()).collect()
    }
}

/// Fetches one file.
fn fetch(config: ClientConfig, want: &Want) -> Result<Vec<u8>, FetchError> {
    fetch_hearing(config, want, &NoProgress)
}

fn fetch_hearing(
    config: ClientConfig,
    want: &Want,
    progress: &dyn Progress,
) -> Result<Vec<u8>, FetchError> {
    let failures = Client::new(config).fetch_all(vec![want.clone()], progress)?;
    match failures.into_values().next() {
        None => Ok(fs::read(&want.into).unwrap()),
        Some(error) => {
            assert!(!want.into.exists(), "what failed has no name");
            Err(error)
        }
    }
}

/// An error with what differs from run to run taken out.
fn told(error: &FetchError, server: &Server) -> String {
    error.to_string().replace(&server.address().port().to_string(), "PORT")
}

#[derive(Default)]
struct Heard {
    advanced: AtomicU64,
    events: Mutex<Vec<&'static str>>,
}

impl Heard {
    fn note(&self, event: &'static str) {
        self.events.lock().unwrap().push(event);
    }
}

impl Progress for Heard {
    fn started(&self, _: &str, _: Option<u64>) {
        self.note("started");
    }
    fn advanced(&self, bytes: u64) {
        self.advanced.fetch_add(bytes, Ordering::SeqCst);
    }
    fn finished(&self, _: &str) {
        self.note("finished");
    }
    fn retried(&self, _: &str, _: &str) {
        self.note("retried");
    }
}

#[test]
fn what_is_fetched_has_its_bytes_and_leaves_no_part() {
    let (server, home) = (Server::start(), Home::new());
    server.put("/tool.deb", bytes());
    let want = home.want(&bytes(), [server.url("/tool.deb")]);
    assert_eq!(fetch(quick(), &want).unwrap(), bytes());
    assert!(home.parts().is_empty());
    assert_eq!(server.requests()[0].header("referer"), None);
    // and is not asked for again, even without a network
    fetch(ClientConfig { offline: true, ..quick() }, &want).unwrap();
    assert_eq!(server.total_hits(), 1);
}

#[test]
fn a_busy_server_is_asked_again() {
    let (server, home) = (Server::start(), Home::new());
    server.put("/tool.deb", bytes());
    server.script("/tool.deb", [Fault::Status(503), Fault::Drop]);
    let heard = Heard::default();
    let want = home.want(&bytes(), [server.url("/tool.deb")]);
    assert_eq!(fetch_hearing(quick(), &want, &heard).unwrap(), bytes());
    assert_eq!(server.hits("/tool.deb"), 3);
    let events = heard.events.into_inner().unwrap();
    assert_eq!(events, ["started", "retried", "retried", "finished"]);
}

#[test]
fn a_server_that_stays_busy_is_named_with_the_number_of_tries() {
    let (server, home) = (Server::start(), Home::new());
    server.always("/tool.deb", Fault::Status(503));
    let want = home.want(&bytes(), [server.url("/tool.deb")]);
    let error = fetch(quick(), &want).unwrap_err();
    insta::assert_snapshot!(told(&error, &server), @"package `tool` 1.0: http://127.0.0.1:PORT/tool.deb answers 503 (tried 3 times)");
    assert_eq!(error.blame(), Blame::World);
    assert!(home.parts().is_empty());
}

#[test]
fn retry_after_is_obeyed() {
    let (server, home) = (Server::start(), Home::new());
    server.put("/tool.deb", bytes());
    server.script("/tool.deb", [Fault::Busy(429, "1")]);
    let begun = Instant::now();
    fetch(quick(), &home.want(&bytes(), [server.url("/tool.deb")])).unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1));
}

#[test]
fn what_is_not_there_is_asked_for_once_and_then_elsewhere() {
    let (first, second, home) = (Server::start(), Server::start(), Home::new());
    second.put("/tool.deb", bytes());
    let want = home.want(&bytes(), [first.url("/tool.deb"), second.url("/tool.deb")]);
    assert_eq!(fetch(quick(), &want).unwrap(), bytes());
    assert_eq!((first.total_hits(), second.total_hits()), (1, 1));
}

#[test]
fn what_vanished_everywhere_is_gone() {
    let (server, home) = (Server::start(), Home::new());
    server.always("/b.deb", Fault::Status(410));
    let want = home.want(&bytes(), [server.url("/a.deb"), server.url("/b.deb")]);
    let error = fetch(quick(), &want).unwrap_err();
    assert!(error.is_gone(), "{error}");
    // but a mirror that could not be asked may have it still
    server.always("/c.deb", Fault::Status(500));
    let want = home.want(&bytes(), [server.url("/c.deb"), server.url("/a.deb")]);
    let error = fetch(quick(), &want).unwrap_err();
    assert!(!error.is_gone(), "{error}");
}

#[test]
fn half_a_file_is_continued() {
    let (server, home) = (Server::start(), Home::new());
    server.put("/tool.deb", bytes());
    server.script("/tool.deb", [Fault::Cut(300_000)]);
    let heard = Heard::default();
    let want = home.want(&bytes(), [server.url("/tool.deb")]);
    assert_eq!(fetch_hearing(quick(), &want, &heard).unwrap(), bytes());
    assert_eq!(server.requests()[1].header("range"), Some("bytes=300000-"));
    assert_eq!(heard.advanced.into_inner(), 800_000, "each byte is told of once");
}

#[test]
fn half_a_file_is_continued_by_the_next_process_and_from_another_mirror() {
    let (dead, server, home) = (Server::start(), Server::start(), Home::new());
    dead.put("/tool.deb", bytes());
    dead.script("/tool.deb", [Fault::Cut(100_000), Fault::Status(404)]);
    let error = fetch(quick(), &home.want(&bytes(), [dead.url("/tool.deb")])).unwrap_err();
    assert!(error.is_gone(), "{error}");
    server.put("/tool.deb", bytes());
    let want = home.want(&bytes(), [server.url("/tool.deb")]);
    assert_eq!(fs::metadata(&want.part).unwrap().len(), 100_000);
    assert_eq!(fetch(quick(), &want).unwrap(), bytes());
    assert_eq!(server.requests()[0].header("range"), Some("bytes=100000-"));
}

#[test]
fn servers_that_misunderstand_ranges_are_asked_for_the_whole() {
    for fault in [Fault::IgnoreRange, Fault::WrongRange, Fault::Status(416)] {
        let (server, home) = (Server::start(), Home::new());
        server.put("/tool.deb", bytes());
        server.script("/tool.deb", [Fault::Cut(300_000), fault.clone()]);
        let heard = Heard::default();
        let want = home.want(&bytes(), [server.url("/tool.deb")]);
        assert_eq!(fetch_hearing(quick(), &want, &heard).unwrap(), bytes(), "{fault:?}");
        assert_eq!(heard.advanced.into_inner(), 800_000, "{fault:?}");
    }
}

#[test]
fn a_part_of_other_bytes_does_not_stand_in_the_way() {
    for length in [1, 300_000, 800_000, 900_000] {
        let (server, home) = (Server::start(), Home::new());
        server.put("/tool.deb", bytes());
        let want = home.want(&bytes(), [server.url("/tool.deb")]);
        fs::write(&want.part, vec![7; length]).unwrap();
        assert_eq!(fetch(quick(), &want).unwrap(), bytes(), "{length}");
        assert!(server.total_hits() <= 2, "{length}");
        // likewise where the size is not known
        let (home, mut want) = (Home::new(), want);
        want = Want { size: None, ..home.want(&bytes(), want.urls) };
        fs::write(&want.part, vec![7; length]).unwrap();
        assert_eq!(fetch(quick(), &want).unwrap(), bytes(), "{length}");
    }
}

#[test]
fn a_whole_part_needs_no_request() {
    let (server, home) = (Server::start(), Home::new());
    let want = home.want(&bytes(), [server.url("/tool.deb")]);
    fs::write(&want.part, bytes()).unwrap();
    assert_eq!(fetch(quick(), &want).unwrap(), bytes());
    assert_eq!(server.total_hits(), 0);
}

#[test]
fn wrong_bytes_are_refused_and_the_next_mirror_is_asked() {
    let (liar, server, home) = (Server::start(), Server::start(), Home::new());
    let mut other = bytes();
    other[123_456] ^= 1;
    liar.put("/tool.deb", other);
    server.put("/tool.deb", bytes());
    let error = fetch(quick(), &home.want(&bytes(), [liar.url("/tool.deb")])).unwrap_err();
    insta::assert_snapshot!(told(&error, &liar), @"package `tool` 1.0: http://127.0.0.1:PORT/tool.deb gave other bytes: expected sha256:2fadeb03b6d797daf4d2a3fdfdbe5662d50eaa343fc153b249894a336bf0ebba, found sha256:c0bfa4e4b5e884e4f26f684d9d377c0736a0f2b0e1e2b87effd1e3bed90c450a");
    assert_eq!(liar.total_hits(), 1, "the same lie is not asked for twice");
    assert!(home.parts().is_empty());
    let want = home.want(&bytes(), [liar.url("/tool.deb"), server.url("/tool.deb")]);
    assert_eq!(fetch(quick(), &want).unwrap(), bytes());
    assert_eq!(server.requests()[0].header("range"), None);
}

#[test]
fn a_liar_who_broke_off_does_not_spoil_the_next_mirror() {
    let (liar, server, home) = (Server::start(), Server::start(), Home::new());
    liar.put("/tool.deb", vec![7; 800_000]);
    liar.always("/tool.deb", Fault::Cut(1000));
    server.put("/tool.deb", bytes());
    let want = home.want(&bytes(), [liar.url("/tool.deb"), server.url("/tool.deb")]);
    assert_eq!(fetch(quick(), &want).unwrap(), bytes());
    assert_eq!(server.total_hits(), 2, "continued, found wrong, fetched whole");
}

#[test]
fn other_lengths_are_refused() {
    for (length, hits) in [(799_999, 1), (800_001, 1), (12, 1)] {
        let (server, home) = (Server::start(), Home::new());
        server.put("/tool.deb", vec![7; length]);
        let error = fetch(quick(), &home.want(&bytes(), [server.url("/tool.deb")])).unwrap_err();
        let said = format!("gave {length} bytes, expected 800000");
        assert!(error.to_string().ends_with(&said), "{error}");
        assert_eq!(server.total_hits(), hits);
    }
}

#[test]
fn without_a_promise_too_much_is_cut_off_and_too_little_asked_for_again() {
    let (server, home) = (Server::start(), Home::new());
    server.always("/tool.deb", Fault::Unannounced(vec![7; 50_000_000]));
    let error = fetch(quick(), &home.want(&bytes(), [server.url("/tool.deb")])).unwrap_err();
    let FetchError::Size { found, .. } = error else { panic!("{error}") };
    assert!(found < 2_000_000, "{found}");
    assert!(home.parts().is_empty());

    let server = Server::start();
    server.put("/tool.deb", bytes());
    server.script("/tool.deb", [Fault::Unannounced(bytes()[..5000].to_vec())]);
    let want = home.want(&bytes(), [server.url("/tool.deb")]);
    assert_eq!(fetch(quick(), &want).unwrap(), bytes());
    assert_eq!(server.requests()[1].header("range"), Some("bytes=5000-"));
}

#[test]
fn a_stalled_transfer_is_continued() {
    let (server, home) = (Server::start(), Home::new());
    server.put("/tool.deb", bytes());
    server.script("/tool.deb", [Fault::Stall(1000), Fault::Stall(0)]);
    let want = home.want(&bytes(), [server.url("/tool.deb")]);
    assert_eq!(fetch(quick(), &want).unwrap(), bytes());
    server.put("/slow.deb", "slow");
    server.always("/slow.deb", Fault::Stall(0));
    let error = fetch(quick(), &home.want(b"slow", [server.url("/slow.deb")])).unwrap_err();
    insta::assert_snapshot!(told(&error, &server), @"package `tool` 1.0: http://127.0.0.1:PORT/slow.deb broke off: no byte for 150ms (tried 3 times)");
}

#[test]
fn redirects_are_followed_but_not_in_circles() {
    let (server, home) = (Server::start(), Home::new());
    server.put("/5", bytes());
    for at in 0..5 {
        server.always(&format!("/{at}"), Fault::Redirect(format!("/{}", at + 1)));
    }
    server.always("/loop", Fault::Redirect("/loop".to_owned()));
    let want = home.want(&bytes(), [server.url("/0")]);
    assert_eq!(fetch(quick(), &want).unwrap(), bytes());
    let error = fetch(quick(), &home.want(b"other", [server.url("/loop")])).unwrap_err();
    insta::assert_snapshot!(told(&error, &server), @"package `tool` 1.0: http://127.0.0.1:PORT/loop redirects more than 5 times");
    assert_eq!(server.hits("/loop"), 6);
}

#[test]
fn credentials_reach_their_own_host_and_no_message() {
    let (private, other, home) = (Server::start(), Server::start(), Home::new());
    let url = |path: &str| {
        let mut url = private.url(path);
        url.set_username("me").unwrap();
        url.set_password(Some("secret")).unwrap();
        url.set_query(Some("token=secret"));
        url
    };
    private.put("/tool.deb", bytes());
    private
        .always("/away.deb", Fault::Redirect(other.url_at("localhost", "/away.deb").to_string()));
    fetch(quick(), &home.want(&bytes(), [url("/tool.deb")])).unwrap();
    assert_eq!(private.requests()[0].header("authorization"), Some("Basic bWU6c2VjcmV0"));

    let heard = fetch(quick(), &home.want(b"away", [url("/away.deb")])).unwrap_err();
    assert!(private.requests()[1].header("authorization").is_some());
    assert_eq!(other.requests()[0].header("authorization"), None);
    let dead = {
        let gone = Server::start();
        Url::parse(&format!("http://me:secret@127.0.0.1:{}/x?t=secret", gone.address().port()))
            .unwrap()
    };
    let unreachable = fetch(quick(), &home.want(b"dead", [dead])).unwrap_err();
    private.always("/cut.deb", Fault::Drop);
    let broken = fetch(quick(), &home.want(b"cut", [url("/cut.deb")])).unwrap_err();
    for error in [heard, unreachable, broken] {
        assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
    }
}

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

#[test]
fn offline_refuses_the_network_and_names_the_way_out() {
    let (server, home) = (Server::start(), Home::new());
    let offline = ClientConfig { offline: true, ..quick() };
    let error =
        fetch(offline.clone(), &home.want(&bytes(), [server.url("/tool.deb")])).unwrap_err();
    insta::assert_snapshot!(error, @"package `tool` 1.0 is not in the store, and `--offline` refuses the network");
    assert_eq!(
        error.help(),
        Some("run `sbx fetch` where there is a network, or `sbx vendor` there and `--mirror` here")
    );
    let client = Client::new(offline);
    let urls = [server.url("/InRelease")];
    assert!(matches!(client.get("release", &urls, 10), Err(FetchError::Offline { .. })));
    let asks = [("release".to_owned(), urls.to_vec())];
    assert!(matches!(&client.get_all(&asks, 10)[0], Err(FetchError::Offline { .. })));
    assert_eq!(server.connections(), 0);
}

#[test]
fn small_documents_are_read_in_order_and_within_their_limit() {
    let server = Server::start();
    server.put("/a", "first");
    server.put("/b", vec![7; 2000]);
    server.always("/c", Fault::Unannounced(vec![7; 2000]));
    server.script("/a", [Fault::Status(502)]);
    let client = Client::new(quick());
    let ask = |path: &str| (format!("release {path}"), vec![server.url("/none"), server.url(path)]);
    let answers = client.get_all(&[ask("/b"), ask("/a"), ask("/c")], 1000);
    let [Err(announced), Ok(read), Err(unannounced)] = answers.as_slice() else {
        panic!("{answers:?}")
    };
    insta::assert_snapshot!(told(announced, &server), @"release /b: http://127.0.0.1:PORT/b gave more than 1000 bytes");
    assert!(matches!(unannounced, FetchError::TooLarge { .. }), "{unannounced}");
    assert_eq!(
        (read.bytes.as_slice(), read.url.as_str()),
        (&b"first"[..], server.url("/a").as_str())
    );
    assert!(matches!(client.get("nothing", &[], 10), Err(FetchError::NoUrl { .. })));
}

#[test]
fn an_authority_of_ones_own_is_trusted_when_named_and_only_then() {
    let authority = Authority::new();
    let (server, home) = (Server::start_tls(&authority), Home::new());
    server.put("/tool.deb", bytes());
    let want = home.want(&bytes(), [server.url("/tool.deb")]);
    let error = fetch(quick(), &want).unwrap_err();
    assert!(matches!(error, FetchError::Untrusted { .. }), "{error}");
    assert!(error.help().is_some_and(|help| help.contains("SSL_CERT_FILE")));
    assert_eq!(server.connections(), 1, "a certificate does not get better by asking again");

    let pem = home.0.path().join("company.pem");
    fs::write(&pem, &authority.pem).unwrap();
    let trusting = ClientConfig { certificates: vec![pem], ..quick() };
    assert_eq!(fetch(trusting.clone(), &want).unwrap(), bytes());

    let plain = Server::start();
    server.always("/down.deb", Fault::Redirect(plain.url("/down.deb").to_string()));
    let error = fetch(trusting, &home.want(b"down", [server.url("/down.deb")])).unwrap_err();
    insta::assert_snapshot!(told(&error, &server), @"package `tool` 1.0: https://127.0.0.1:PORT/down.deb redirects from https to http");
    assert_eq!(plain.total_hits(), 0);
}

#[test]
fn bad_certificate_files_are_the_users_to_mend() {
    let (server, home) = (Server::start(), Home::new());
    let path = home.0.path().join("bad.pem");
    for content in [
        None,
        Some("no pem"),
        Some("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"),
    ] {
        if let Some(text) = content {
            fs::write(&path, text).unwrap();
        }
        let config = ClientConfig { certificates: vec![path.clone()], ..quick() };
        let error = fetch(config, &home.want(&bytes(), [server.url("/tool.deb")])).unwrap_err();
        assert!(error.to_string().contains("bad.pem"), "{content:?}: {error}");
        assert_eq!(error.blame(), Blame::Input, "{content:?}");
    }
}

#[test]
fn a_machine_without_authorities_still_speaks_http() {
    const INNER: &str = "what_is_fetched_has_its_bytes_and_leaves_no_part";
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", INNER])
        .env("SSL_CERT_FILE", "/dev/null")
        .env("SSL_CERT_DIR", "/nonexistent")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn proxies_carry_what_they_are_named_for() {
    let authority = Authority::new();
    let (proxy, secure, home) = (Server::start(), Server::start_tls(&authority), Home::new());
    proxy.put("/debian/tool.deb", bytes());
    secure.put("/tool.deb", "over tls");
    proxy.tunnel_to(secure.address());
    let pem = home.0.path().join("company.pem");
    fs::write(&pem, &authority.pem).unwrap();
    let mut address = proxy.url("/");
    address.set_username("me").unwrap();
    address.set_password(Some("secret")).unwrap();
    let variables = [("all_proxy", address.as_str()), ("no_proxy", "direct.example.org,127.0.0.1")];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let proxies = ProxyConfig::from_variables(variables.into_iter()).unwrap();
    let config = ClientConfig { proxies, certificates: vec![pem], ..quick() };

    let plain = Url::parse("http://archive.example.org/debian/tool.deb").unwrap();
    assert_eq!(fetch(config.clone(), &home.want(&bytes(), [plain.clone()])).unwrap(), bytes());
    assert_eq!(proxy.requests()[0].target, plain.as_str());
    assert_eq!(proxy.requests()[0].header("proxy-authorization"), Some("Basic bWU6c2VjcmV0"));

    let tunnelled = secure.url_at("localhost", "/tool.deb");
    assert_eq!(fetch(config.clone(), &home.want(b"over tls", [tunnelled])).unwrap(), b"over tls");
    assert_eq!(proxy.requests()[1].method, "CONNECT");
    assert_eq!(secure.requests()[0].header("proxy-authorization"), None);

    let direct = Server::start();
    direct.put("/tool.deb", "direct");
    fetch(config, &home.want(b"direct", [direct.url("/tool.deb")])).unwrap();
    assert_eq!((proxy.total_hits(), direct.total_hits()), (2, 1));
}

#[test]
fn a_directory_is_served_as_it_is() {
    let (home, tree) = (Home::new(), tempfile::tempdir().unwrap());
    let server = Server::serve_dir(tree.path());
    fs::create_dir(tree.path().join("pool")).unwrap();
    fs::write(tree.path().join("pool/g++_1~2.deb"), "debian").unwrap();
    let url = server.url("/pool/g%2B%2B_1~2.deb");
    assert_eq!(fetch(quick(), &home.want(b"debian", [url])).unwrap(), b"debian");
    let outside = server.url("/%2e%2e/etc/passwd");
    assert!(fetch(quick(), &home.want(b"", [])).is_err());
    assert!(Client::new(quick()).get("outside", &[outside], 1 << 20).unwrap_err().is_gone());
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let (server, home) = (Server::start(), Home::new());
    server.put("/tool.deb", bytes());
    let mut want = home.want(&bytes(), [server.url("/tool.deb")]);
    want.part = home.0.path().join("missing/part");
    let error = fetch(quick(), &want).unwrap_err();
    assert!(error.to_string().contains("missing/part"), "{error}");
    assert_eq!(server.total_hits(), 0);
}
