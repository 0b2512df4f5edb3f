//! A registry of the tests' own (OCI distribution-spec 1.1): counts what it is asked, and misbehaves at
//! the request that it is told to.
//!
//! Written on threads and the standard library alone, in memory. It is strict where registries are: a
//! blob gets its name only with the right digest, a manifest only when all that it names is there.

mod answers;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use wire::converse;

/// A way to misbehave, once.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    Status(u16),
    /// What was asked is done, and refused all the same.
    Denied(u16),
    /// 429 with `Retry-After`: at once.
    Busy,
    /// Likewise: in a second.
    Later,
    /// The connection ends in the middle of the request's body, or of the answer's.
    Half,
    /// Another digest in the answer's header, other bytes in its body.
    OtherDigest,
    OtherType,
    /// To another host.
    Redirect(String),
    /// The answer's body comes byte by byte, one in this time.
    Drip(Duration),
    /// The answer comes so much later.
    Late(Duration),
    /// Nothing happens any more.
    Stall,
    /// All sessions are forgotten.
    Lost,
}

impl Fault {
    /// Whether it is this status.
    pub fn says(&self, status: u16) -> bool {
        matches!(self, Fault::Status(said) | Fault::Denied(said) if *said == status)
    }
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub query: String,
    pub authorization: Option<String>,
    /// Bytes of its body.
    pub bytes: usize,
}

#[derive(Default)]
struct State {
    /// Repository and digest.
    blobs: BTreeMap<(String, String), Vec<u8>>,
    /// Repository and tag or digest.
    manifests: BTreeMap<(String, String), (String, Vec<u8>)>,
    sessions: BTreeMap<String, Vec<u8>>,
    asked: Vec<Asked>,
    fault: Option<(usize, Fault)>,
    /// Method and part of the path of the request that meets a fault.
    trap: Option<(&'static str, &'static str, Fault)>,
    /// Larger bodies are refused (413).
    largest: Option<usize>,
    /// Ends connections that ask so.
    silent: Option<String>,
    /// Says of each session that it has this.
    boasts: Option<u64>,
    /// Says that it took manifests, and takes none.
    loses_manifests: bool,
    lists_referrers: bool,
    /// Referrers of one page.
    page: Option<usize>,
    /// Manifests whose tag ends so are refused.
    refuses_tag: Option<String>,
    /// Manifests whose tag ends so are taken so much later, the first so many of them.
    delay: Option<(String, Duration, usize)>,
    refuses_mounts: Option<u16>,
    /// Answers to the ends of uploads, and to manifests.
    refuses_ends: Option<u16>,
    refuses_manifests: Option<u16>,
    /// What it says of a manifest that it refuses.
    words: String,
    /// Where sessions are, if not here.
    uploads: String,
    token: Option<String>,
    /// How many requests a token is good for, and how many are left of the last.
    life: Option<(usize, usize)>,
    serial: usize,
    streams: Vec<TcpStream>,
    closed: bool,
}

/// A running registry; ends when dropped.
pub struct Depot {
    pub host: String,
    state: Arc<Mutex<State>>,
}

impl Depot {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let name = host.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut state = shared.lock().unwrap();
                if state.closed {
                    return;
                }
                state.streams.extend(stream.try_clone());
                let (shared, host) = (Arc::clone(&shared), name.clone());
                thread::spawn(move || drop(converse(stream, &shared, &host)));
            }
        });
        Depot { host, state }
    }

    /// The request of this number (from 0, counted from now on) meets a fault.
    pub fn fail(&self, number: usize, fault: Fault) {
        let mut state = self.state.lock().unwrap();
        state.asked.clear();
        state.fault = Some((number, fault));
    }

    /// The first request of this kind meets a fault.
    pub fn trap(&self, method: &'static str, part: &'static str, fault: Fault) {
        self.state.lock().unwrap().trap = Some((method, part, fault));
    }

    /// Refuses larger bodies.
    pub fn refuse_larger(&self, largest: Option<usize>) {
        self.state.lock().unwrap().largest = largest;
    }

    /// The first request of this method from now on meets a fault.
    pub fn fail_first(&self, method: &'static str, fault: Fault) {
        let mut state = self.state.lock().unwrap();
        state.asked.clear();
        state.trap = Some((method, "", fault));
    }

    /// Answers no request of this method.
    pub fn stay_silent_to(&self, method: &str) {
        self.state.lock().unwrap().silent = Some(method.to_owned());
    }

    /// Says of each session that its last byte is this one.
    pub fn boast(&self, last: u64) {
        self.state.lock().unwrap().boasts = Some(last);
    }

    /// Says from now on that it took manifests, and takes none.
    pub fn lose_manifests(&self) {
        self.state.lock().unwrap().loses_manifests = true;
    }

    pub fn list_referrers(&self) {
        self.state.lock().unwrap().lists_referrers = true;
    }

    pub fn page_referrers(&self, count: usize) {
        self.state.lock().unwrap().page = Some(count);
    }

    pub fn refuse_tag(&self, end: Option<&str>) {
        self.state.lock().unwrap().refuses_tag = end.map(str::to_owned);
    }

    /// Takes the first so many manifests whose tag ends so that much later.
    pub fn delay(&self, end: &str, pause: Duration, times: usize) {
        self.state.lock().unwrap().delay = Some((end.to_owned(), pause, times));
    }

    pub fn refuse_mounts(&self, status: u16) {
        self.state.lock().unwrap().refuses_mounts = Some(status);
    }

    /// Refuses each blob when it is whole.
    pub fn refuse_ends(&self, status: Option<u16>) {
        self.state.lock().unwrap().refuses_ends = status;
    }

    pub fn refuse_manifests(&self, status: Option<u16>) {
        self.state.lock().unwrap().refuses_manifests = status;
    }

    /// Opens sessions at another host, which is told of none.
    pub fn lead_uploads_to(&self, url: &str) {
        self.state.lock().unwrap().uploads = url.to_owned();
    }

    /// Says this of each manifest that it refuses.
    pub fn explain(&self, words: &str) {
        self.state.lock().unwrap().words = words.to_owned();
    }

    /// Lets in who shows this token, which it gives to whoever asks.
    pub fn guard(&self, token: &str) {
        self.state.lock().unwrap().token = Some(token.to_owned());
    }

    /// Likewise, a token for so many requests.
    pub fn guard_for(&self, requests: usize) {
        self.guard("0");
        self.state.lock().unwrap().life = Some((requests, 0));
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.state.lock().unwrap().asked.clone()
    }

    pub fn count(&self, method: &str, part: &str) -> usize {
        self.asked().iter().filter(|one| one.method == method && one.path.contains(part)).count()
    }

    pub fn forget(&self) {
        self.state.lock().unwrap().asked.clear();
    }

    pub fn clear(&self) {
        let mut state = self.state.lock().unwrap();
        state.blobs.clear();
        state.manifests.clear();
        state.sessions.clear();
        state.asked.clear();
        state.fault = None;
    }

    pub fn manifest(&self, repository: &str, version: &str) -> Option<Vec<u8>> {
        let state = self.state.lock().unwrap();
        let found = state.manifests.get(&(repository.to_owned(), version.to_owned()));
        found.map(|(_, bytes)| bytes.clone())
    }

    pub fn blob(&self, repository: &str, digest: &str) -> Option<Vec<u8>> {
        let state = self.state.lock().unwrap();
        state.blobs.get(&(repository.to_owned(), digest.to_owned())).cloned()
    }

    /// Puts a manifest, or an index, under a tag, whatever it says.
    pub fn put(&self, repository: &str, tag: &str, bytes: Vec<u8>) {
        let kind = if bytes.starts_with(b"{\"manifests\"") { "index" } else { "manifest" };
        let media = format!("application/vnd.oci.image.{kind}.v1+json");
        let mut state = self.state.lock().unwrap();
        state.manifests.insert((repository.to_owned(), tag.to_owned()), (media, bytes));
    }

    /// Changes the bytes of a blob, and none of its names.
    pub fn spoil(&self, repository: &str, digest: &str) {
        let mut state = self.state.lock().unwrap();
        let bytes = state.blobs.get_mut(&(repository.to_owned(), digest.to_owned())).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    }

    /// Forgets manifests of some types of artifacts, but for what tags name.
    pub fn drop_manifests(&self, repository: &str, types: &[&str]) {
        let is_dropped = |(home, version): &(String, String), bytes: &[u8]| {
            let value: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
            let is_of = value["artifactType"].as_str().is_some_and(|one| types.contains(&one));
            home == repository && version.starts_with("sha256:") && is_of
        };
        let mut state = self.state.lock().unwrap();
        state.manifests.retain(|place, (_, bytes)| !is_dropped(place, bytes));
    }

    /// Knows nothing of a repository any more.
    pub fn drop_repository(&self, repository: &str) {
        let mut state = self.state.lock().unwrap();
        state.blobs.retain(|(home, _), _| home != repository);
        state.manifests.retain(|(home, _), _| home != repository);
    }

    pub fn drop_blob(&self, repository: &str, digest: &str) {
        self.state.lock().unwrap().blobs.remove(&(repository.to_owned(), digest.to_owned()));
    }

    /// Has other bytes under a digest than those that it is of.
    pub fn put_blob(&self, repository: &str, digest: &str, bytes: &[u8]) {
        let place = (repository.to_owned(), digest.to_owned());
        self.state.lock().unwrap().blobs.insert(place, bytes.to_vec());
    }

    /// Puts a manifest under another tag.
    pub fn tag(&self, repository: &str, from: &str, to: &str) {
        let mut state = self.state.lock().unwrap();
        let found = state.manifests[&(repository.to_owned(), from.to_owned())].clone();
        state.manifests.insert((repository.to_owned(), to.to_owned()), found);
    }

    pub fn tags(&self, repository: &str) -> BTreeSet<String> {
        let state = self.state.lock().unwrap();
        let own = state.manifests.keys().filter(|(name, _)| name == repository);
        own.map(|(_, version)| version.clone()).filter(|one| !one.starts_with("sha256:")).collect()
    }
}

impl State {
    /// How much later this is answered.
    fn pause_before(&mut self, asked: &Asked) -> Option<Duration> {
        let (end, pause, times) = self.delay.as_mut()?;
        if asked.method != "PUT" || !asked.path.ends_with(end.as_str()) {
            return None;
        }
        *times = times.checked_sub(1)?;
        Some(*pause)
    }
}

impl Drop for Depot {
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap();
        state.closed = true;
        for stream in &state.streams {
            stream.shutdown(Shutdown::Both).unwrap_or_default();
        }
        drop(state);
        // wakes the acceptor, which then sees that it is over
        drop(TcpStream::connect(&self.host));
    }
}
