//! Fetching from servers that are slow, broken, dead or lying.

mod many;
mod pace;
mod ways;

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sbx::blame::Blame;
use sbx::digest::Digest;
use sbx::fetch::{
    Client, ClientConfig, FetchError, Headers, Hearer, Letter, Login, Method, NoProgress, Progress,
    Want,
};
use tempfile::TempDir;
use url::Url;

use crate::support::http::{Fault, Server};

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
            login: Login::Nobody,
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
fn whoever_wants_to_be_asked_at_once_is_asked_after_the_usual_pause() {
    let (server, home) = (Server::start(), Home::new());
    server.put("/tool.deb", bytes());
    server.script("/tool.deb", [Fault::Busy(503, "0"), Fault::Busy(503, "0")]);
    let begun = Instant::now();
    let patient = ClientConfig { pause: Duration::from_millis(200), ..quick() };
    fetch(patient, &home.want(&bytes(), [server.url("/tool.deb")])).unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(600), "{:?}", begun.elapsed());
}

#[test]
fn whoever_waits_for_a_document_hears_of_it() {
    let server = Server::start();
    server.put("/a", "first");
    server.script("/a", [Fault::Status(503), Fault::Drop]);
    let heard = Arc::new(Heard::default());
    let hearer = Hearer::new(Arc::clone(&heard) as Arc<dyn Progress>);
    let client = Client::new(ClientConfig { hearer, ..quick() });
    client.get("release", &[server.url("/a")], 1000).unwrap();
    server.script("/a", [Fault::Status(503)]);
    let url = server.url("/a");
    let letters = [Letter::new("release", Method::HEAD, &url)];
    client.send_all(&letters, 1000).unwrap().pop().unwrap().unwrap();
    assert_eq!(*heard.events.lock().unwrap(), ["retried"; 3]);
}

#[test]
fn where_nobody_listens_on_this_machine_nobody_is_waited_for_long() {
    let dead = Server::start().url("/a");
    let client = Client::new(ClientConfig { tries: 6, ..quick() });
    let error = client.get("release", &[dead], 1000).unwrap_err().to_string();
    assert!(error.ends_with("(tried 3 times)"), "{error}");
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
fn a_file_that_comes_in_small_pieces_comes() {
    let (server, home) = (Server::start(), Home::new());
    server.put("/tool.deb", bytes());
    server.always("/tool.deb", Fault::Cut(80_000));
    let want = home.want(&bytes(), [server.url("/tool.deb")]);
    assert_eq!(fetch(quick(), &want).unwrap(), bytes());
    assert_eq!(server.total_hits(), 10);
    // less than that gets nowhere
    let (server, home) = (Server::start(), Home::new());
    server.put("/tool.deb", bytes());
    server.always("/tool.deb", Fault::Cut(1000));
    let error = fetch(quick(), &home.want(&bytes(), [server.url("/tool.deb")])).unwrap_err();
    assert!(error.to_string().ends_with("(tried 3 times)"), "{error}");
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
fn small_documents_are_read_in_order_and_within_their_limit() {
    let server = Server::start();
    server.put("/a", "first");
    server.put("/b", vec![7; 2000]);
    server.always("/c", Fault::Unannounced(vec![7; 2000]));
    server.script("/a", [Fault::Status(502)]);
    let client = Client::new(quick());
    let ask = |path: &str| (format!("release {path}"), vec![server.url("/none"), server.url(path)]);
    let asks = [ask("/b"), ask("/a"), ask("/c")];
    let answers = client.get_all(&asks, &Headers::default(), 1000);
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
