//! One client for all fetching: its limits, its threads, the number of transfers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinHandle;
use url::Url;

use super::by_digest::{self, SourceRegistry, add_urls};
use super::connect::{Authorities, Line, Lines, Trust};
use super::error::FetchError;
use super::login::Login;
use super::npmrc::Credentials;
use super::pace::Pace;
use super::progress::{Hearer, Progress};
use super::proxy::ProxyConfig;
use super::resolver::Names;
use super::retry::Unreachable;
use super::transfer;
use crate::decl::{Ask, SourceMirror};
use crate::digest::Integrity;

/// Most bytes that a question may bring, and be no transfer.
const SMALL: u64 = 4 << 20;

/// How to reach the network. Values of the environment are passed in by the binary.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    pub offline: bool,
    /// Transfers at a time.
    pub parallel: usize,
    /// Tries per address.
    pub tries: u32,
    /// The first pause between tries; it doubles.
    pub pause: Duration,
    pub connect_timeout: Duration,
    /// Longest time without a byte.
    pub stall_timeout: Duration,
    /// How slow a server may be, where it may not take its time.
    pub pace: Option<Pace>,
    /// Files of certificates (PEM) to trust beside the platform's.
    pub certificates: Vec<PathBuf>,
    /// Registries (`HOST[:PORT]`) that are spoken to over plain http.
    pub plain_http: Vec<String>,
    pub proxies: ProxyConfig,
    /// How one is known at addresses of npm's.
    pub credentials: Credentials,
    /// Directories of certificates by host, as docker has them (`HOST[:PORT]/ca.crt`, `client.cert`,
    /// `client.key`).
    pub host_certificates: Vec<PathBuf>,
    pub authorities: Authorities,
    /// A local server that is spoken to in place of every host.
    pub socket: Option<PathBuf>,
    /// Where sources may lie under their digests. Directories are absolute.
    pub mirrors: Vec<SourceMirror>,
    /// Of these, the registries.
    pub registries: Vec<Arc<dyn SourceRegistry>>,
    /// Hears of requests that are made again and that nobody else hears of.
    pub hearer: Hearer,
}

impl Default for ClientConfig {
    fn default() -> Self {
        ClientConfig {
            offline: false,
            parallel: 8,
            tries: 6,
            pause: Duration::from_millis(400),
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
            pace: None,
            certificates: Vec::new(),
            plain_http: Vec::new(),
            proxies: ProxyConfig::default(),
            credentials: Credentials::default(),
            host_certificates: Vec::new(),
            authorities: Authorities::default(),
            socket: None,
            mirrors: Vec::new(),
            registries: Vec::new(),
            hearer: Hearer::default(),
        }
    }
}

/// A file to be fetched.
#[derive(Clone, Debug)]
pub struct Want {
    /// What it is, for people.
    pub label: String,
    /// Tried in order; a 404 goes on to the next.
    pub urls: Vec<Url>,
    /// Bytes, where known.
    pub size: Option<u64>,
    pub digest: Integrity,
    /// Whether a lock pins it, so that mirrors by digest may have it.
    pub is_pinned: bool,
    /// Who one is at its addresses.
    pub login: Login,
    /// Where it gathers; may hold the beginning already.
    pub part: PathBuf,
    /// Its name once it is whole and right.
    pub into: PathBuf,
}

/// What a document is asked for with, beside its address.
#[derive(Clone, Default)]
pub struct Headers {
    /// The forms that are understood.
    pub accept: Option<String>,
    /// Who one is at the address.
    pub login: Login,
    /// Fields of a form, encoded: then the document is asked for by POST, and no redirect is followed.
    pub form: Option<String>,
}

impl std::fmt::Debug for Headers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Headers")
            .field("accept", &self.accept)
            .field("login", &self.login)
            .finish_non_exhaustive()
    }
}

/// A small document.
#[derive(Clone, Debug)]
pub struct Document {
    pub bytes: Vec<u8>,
    /// Its media type, as the server says.
    pub media_type: Option<String>,
    /// Where it came from in the end, without credentials.
    pub url: String,
}

/// Fetches. Blocking, for threads that are not the runtime's own; may be shared by many of them. Its
/// runtime and its connections are made when the first fetch needs them.
pub struct Client {
    config: ClientConfig,
    engine: OnceLock<Engine>,
}

/// What is there once something is fetched.
pub(super) struct Engine {
    /// Taken only when the engine goes.
    runtime: Option<Runtime>,
    lines: Lines,
    pub(super) names: Names,
    pub(super) unreachable: Unreachable,
    transfers: Semaphore,
    questions: Semaphore,
}

impl Client {
    pub fn new(config: ClientConfig) -> Self {
        Client { config, engine: OnceLock::new() }
    }

    /// Likewise, for what can be done without: it gives up soon.
    pub fn hasty(&self) -> Self {
        Client::new(ClientConfig {
            tries: 2,
            pause: Duration::from_millis(200),
            connect_timeout: Duration::from_secs(3),
            stall_timeout: Duration::from_secs(10),
            pace: Some(Pace {
                head: Duration::from_secs(5),
                bytes: 320 << 10,
                span: Duration::from_secs(10),
            }),
            hearer: Hearer::default(),
            ..self.config.clone()
        })
    }

    pub fn is_offline(&self) -> bool {
        self.config.offline
    }

    /// How long whoever is asked may say nothing.
    pub fn stall_timeout(&self) -> Duration {
        self.config.stall_timeout
    }

    /// Who hears of requests that are made again.
    pub fn hearer(&self) -> &dyn Progress {
        self.config.hearer.progress()
    }

    pub(super) fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// Whether this machine has certificates for a host (`HOST[:PORT]`): then it speaks TLS.
    pub fn has_certificates(&self, host: &str) -> bool {
        Trust::find(&self.config, host).is_some()
    }

    /// Whether somebody said that a registry is spoken to over plain http.
    pub fn is_plain(&self, host: &str) -> bool {
        self.config.plain_http.iter().any(|plain| plain == host)
    }

    /// Makes ready what the first request would wait for, certificates above all. What is wrong with it,
    /// that request says.
    pub fn prepare(&self) {
        self.engine().map(drop).unwrap_or_default();
    }

    pub(super) fn engine(&self) -> Result<&Engine, FetchError> {
        if let Some(engine) = self.engine.get() {
            return Ok(engine);
        }
        let engine = Engine::new(&self.config)?;
        Ok(self.engine.get_or_init(|| engine))
    }

    /// Fetches every file that is not there yet, each once; answers the failures by digest. One that
    /// fails does not keep the others from being fetched.
    pub fn fetch_all(
        &self,
        wants: Vec<Want>,
        progress: &dyn Progress,
    ) -> Result<BTreeMap<Integrity, FetchError>, FetchError> {
        let mut wants = missing(wants);
        let mirrors = &self.config.mirrors;
        let before = |mirror: &&SourceMirror| self.config.offline || mirror.ask == Ask::First;
        let mut damaged = by_digest::take(mirrors.iter().filter(before), &mut wants, progress);
        damaged.extend(self.take_registered(Ask::First, &mut wants, progress));
        let mut all = wants.clone();
        all.values_mut().for_each(|want| add_urls(mirrors, want));
        let mut failures = self.transfer_all(all, progress)?;
        wants.retain(|digest, _| failures.contains_key(digest));
        let after = mirrors.iter().filter(|mirror| !before(mirror));
        damaged.extend(by_digest::take(after, &mut wants, progress));
        damaged.extend(self.take_registered(Ask::Last, &mut wants, progress));
        failures.retain(|digest, _| wants.contains_key(digest));
        blame(&mut failures, damaged);
        Ok(failures)
    }

    /// Likewise, from the addresses alone: no mirror is asked, or shown a credential.
    pub fn fetch_directly(
        &self,
        wants: Vec<Want>,
        progress: &dyn Progress,
    ) -> Result<BTreeMap<Integrity, FetchError>, FetchError> {
        self.transfer_all(missing(wants), progress)
    }

    /// Looks for files in mirrors by digest alone, in those that are asked then: for sources that no
    /// address leads to. Without a network, directories are all asked first.
    pub fn fetch_mirrored(
        &self,
        wants: Vec<Want>,
        ask: Ask,
        progress: &dyn Progress,
    ) -> Result<BTreeMap<Integrity, FetchError>, FetchError> {
        let mut wants = missing(wants);
        let asked = |mirror: &SourceMirror| match self.config.offline {
            true => ask == Ask::First,
            false => mirror.ask == ask,
        };
        let mirrors: Vec<SourceMirror> =
            self.config.mirrors.iter().filter(|mirror| asked(mirror)).cloned().collect();
        let mut damaged = by_digest::take(mirrors.iter(), &mut wants, progress);
        damaged.extend(self.take_registered(ask, &mut wants, progress));
        for want in wants.values_mut() {
            want.urls.clear();
            add_urls(&mirrors, want);
        }
        let (nowhere, wants): (BTreeMap<_, _>, BTreeMap<_, _>) =
            wants.into_iter().partition(|(_, want)| want.urls.is_empty());
        let mut failures = self.transfer_all(wants, progress)?;
        let none = |want: Want| FetchError::NoUrl { label: want.label };
        failures.extend(nowhere.into_iter().map(|(digest, want)| (digest, none(want))));
        blame(&mut failures, damaged);
        Ok(failures)
    }

    /// Takes out of `wants` what the registries have that are asked then.
    fn take_registered(
        &self,
        ask: Ask,
        wants: &mut BTreeMap<Integrity, Want>,
        progress: &dyn Progress,
    ) -> BTreeMap<Integrity, FetchError> {
        let asked =
            |registry: &&Arc<dyn SourceRegistry>| !self.config.offline && registry.ask() == ask;
        by_digest::take_from(self.config.registries.iter().filter(asked), self, wants, progress)
    }

    /// Fetches over the network, or answers that there is none.
    fn transfer_all(
        &self,
        wants: BTreeMap<Integrity, Want>,
        progress: &dyn Progress,
    ) -> Result<BTreeMap<Integrity, FetchError>, FetchError> {
        if wants.is_empty() {
            return Ok(BTreeMap::new());
        }
        if self.config.offline {
            let offline = |want: Want| FetchError::Offline { label: want.label };
            return Ok(wants.into_iter().map(|(digest, want)| (digest, offline(want))).collect());
        }
        let engine = self.engine()?;
        let one = |want: Want| async move {
            let result = transfer::fetch(engine, &self.config, &want, progress).await;
            result.err().map(|error| (want.digest, error))
        };
        let all = futures::future::join_all(wants.into_values().map(one));
        Ok(engine.block_on(all).into_iter().flatten().collect())
    }

    /// Reads a small document from the first address that has it.
    pub fn get(&self, label: &str, urls: &[Url], limit: u64) -> Result<Document, FetchError> {
        self.get_with(label, urls, &Headers::default(), limit)
    }

    /// Likewise, asked for in a certain form or with a credential.
    pub fn get_with(
        &self,
        label: &str,
        urls: &[Url],
        headers: &Headers,
        limit: u64,
    ) -> Result<Document, FetchError> {
        if self.config.offline {
            return Err(FetchError::Offline { label: label.to_owned() });
        }
        let engine = self.engine()?;
        engine.block_on(transfer::get(engine, &self.config, label, urls, headers, limit))
    }

    /// Reads several small documents at once, in order.
    pub fn get_all(
        &self,
        asks: &[(String, Vec<Url>)],
        headers: &Headers,
        limit: u64,
    ) -> Vec<Result<Document, FetchError>> {
        let engine = match self.config.offline {
            true => {
                let offline = |label: &String| FetchError::Offline { label: label.clone() };
                return asks.iter().map(|(label, _)| Err(offline(label))).collect();
            }
            false => self.engine(),
        };
        let engine = match engine {
            Ok(engine) => engine,
            Err(error) => {
                let reason = error.to_string();
                return asks.iter().map(|_| Err(FetchError::Setup(reason.clone()))).collect();
            }
        };
        let one = |(label, urls)| transfer::get(engine, &self.config, label, urls, headers, limit);
        let asks = asks.iter().map(|(label, urls)| (label.as_str(), urls.as_slice()));
        engine.block_on(futures::future::join_all(asks.map(one)))
    }
}

/// Files that are not there yet, each once.
fn missing(wants: Vec<Want>) -> BTreeMap<Integrity, Want> {
    let missing = wants.into_iter().filter(|want| !want.into.exists());
    missing.map(|want| (want.digest, want)).collect()
}

/// Bytes that were wrong say more than bytes that are missing.
fn blame(
    failures: &mut BTreeMap<Integrity, FetchError>,
    mut damaged: BTreeMap<Integrity, FetchError>,
) {
    for (digest, failure) in failures.iter_mut().filter(|(_, failure)| failure.is_absence()) {
        if let Some(error) = damaged.remove(digest) {
            *failure = error;
        }
    }
}

impl Engine {
    fn new(config: &ClientConfig) -> Result<Self, FetchError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("fetch")
            .enable_all()
            .build()
            .map_err(|error| FetchError::Setup(error.to_string()))?;
        let engine = Engine {
            lines: Lines::default(),
            runtime: Some(runtime),
            names: Names::default(),
            unreachable: Unreachable::default(),
            transfers: Semaphore::new(config.parallel.max(1)),
            questions: Semaphore::new(config.parallel.max(1)),
        };
        // certificates that cannot be read are told of before anything is asked
        engine.lines.usual(config, &engine.names, Line::Asking)?;
        Ok(engine)
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("an engine has its runtime until it goes")
    }

    pub(super) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime().block_on(work)
    }

    pub(super) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.runtime().spawn(work)
    }

    /// What asks a host.
    pub(super) fn http(
        &self,
        config: &ClientConfig,
        url: &Url,
    ) -> Result<reqwest::Client, FetchError> {
        self.lines.get(config, &self.names, url, Line::Asking)
    }

    /// What asks a host alone, and nobody that it sends to.
    pub(super) fn confidant(
        &self,
        config: &ClientConfig,
        url: &Url,
    ) -> Result<reqwest::Client, FetchError> {
        self.lines.get(config, &self.names, url, Line::Confiding)
    }

    /// What sends to a host.
    pub(super) fn sender(
        &self,
        config: &ClientConfig,
        url: &Url,
    ) -> Result<reqwest::Client, FetchError> {
        // a proxy may be spoken to over TLS all the same
        match url.scheme() == "http" && config.proxies.http.is_none() {
            true => self.lines.usual(config, &self.names, Line::SendingPlain),
            false => self.lines.get(config, &self.names, url, Line::Sending),
        }
    }

    /// Waits for one of the few transfers that may run at a time.
    pub(super) async fn transfer(&self) -> Result<SemaphorePermit<'_>, FetchError> {
        acquire(&self.transfers).await
    }

    /// Likewise, for what brings so many bytes at most. What is small waits for no transfer, which may take
    /// minutes.
    pub(super) async fn question(&self, limit: u64) -> Result<SemaphorePermit<'_>, FetchError> {
        acquire(if limit <= SMALL { &self.questions } else { &self.transfers }).await
    }
}

async fn acquire(slots: &Semaphore) -> Result<SemaphorePermit<'_>, FetchError> {
    slots.acquire().await.map_err(|error| FetchError::Setup(error.to_string()))
}

impl Drop for Engine {
    fn drop(&mut self) {
        // a question to a silent name server would otherwise hold up the end of the program
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
