//! One client for all fetching: connections, proxies, certificates, the number of transfers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use reqwest::redirect;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use url::Url;

use super::error::FetchError;
use super::transfer;
use crate::digest::Digest;

/// How to reach the network. Values of the environment are passed in by the binary.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    pub offline: bool,
    /// Transfers at a time.
    pub parallel: usize,
    /// Tries per URL.
    pub tries: u32,
    /// The first pause between tries; it doubles.
    pub pause: Duration,
    pub connect_timeout: Duration,
    /// Longest time without a byte.
    pub stall_timeout: Duration,
    /// Files of certificates (PEM) to trust beside the platform's.
    pub certificates: Vec<PathBuf>,
}

impl Default for ClientConfig {
    fn default() -> Self {
        ClientConfig {
            offline: false,
            parallel: 8,
            tries: 5,
            pause: Duration::from_millis(250),
            connect_timeout: Duration::from_secs(20),
            stall_timeout: Duration::from_secs(30),
            certificates: Vec::new(),
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
    pub digest: Digest,
    /// Where it gathers; may hold the beginning already.
    pub part: PathBuf,
    /// Its name once it is whole and right.
    pub into: PathBuf,
}

/// A small document.
#[derive(Clone, Debug)]
pub struct Document {
    pub bytes: Vec<u8>,
    /// Where it came from in the end, without credentials.
    pub url: String,
}

/// Hears how fetching goes on. Called from many threads.
pub trait Progress: Send + Sync {
    /// A transfer begins; bytes it will bring, where known.
    fn started(&self, label: &str, size: Option<u64>);
    /// Bytes came in.
    fn advanced(&self, bytes: u64);
    fn finished(&self, label: &str);
    fn retried(&self, label: &str, reason: &str);
}

/// Hears nothing.
pub struct NoProgress;

impl Progress for NoProgress {
    fn started(&self, _: &str, _: Option<u64>) {}
    fn advanced(&self, _: u64) {}
    fn finished(&self, _: &str) {}
    fn retried(&self, _: &str, _: &str) {}
}

/// Fetches. Blocking; its threads and connections are made when the first fetch needs them.
pub struct Client {
    config: ClientConfig,
    engine: OnceLock<Engine>,
}

pub(super) struct Engine {
    runtime: Runtime,
    pub(super) http: reqwest::Client,
    pub(super) slots: Semaphore,
}

impl Client {
    pub fn new(config: ClientConfig) -> Self {
        Client { config, engine: OnceLock::new() }
    }

    pub fn is_offline(&self) -> bool {
        self.config.offline
    }

    fn engine(&self) -> Result<&Engine, FetchError> {
        if let Some(engine) = self.engine.get() {
            return Ok(engine);
        }
        let engine = Engine::new(&self.config)?;
        Ok(self.engine.get_or_init(|| engine))
    }

    /// Fetches every file, each once; answers the failures by digest.
    pub fn fetch_all(
        &self,
        wants: Vec<Want>,
        progress: &dyn Progress,
    ) -> Result<BTreeMap<Digest, FetchError>, FetchError> {
        let wants: BTreeMap<Digest, Want> =
            wants.into_iter().map(|want| (want.digest, want)).collect();
        if wants.is_empty() {
            return Ok(BTreeMap::new());
        }
        if self.config.offline {
            let offline = |want: &Want| FetchError::Offline { label: want.label.clone() };
            return Ok(wants.iter().map(|(digest, want)| (*digest, offline(want))).collect());
        }
        let engine = self.engine()?;
        let one = |want: Want| async move {
            let digest = want.digest;
            let result = transfer::fetch(engine, &self.config, &want, progress).await;
            result.err().map(|error| (digest, error))
        };
        let all = futures::future::join_all(wants.into_values().map(one));
        Ok(engine.runtime.block_on(all).into_iter().flatten().collect())
    }

    /// Reads a small document from the first URL that has it.
    pub fn get(&self, label: &str, urls: &[Url], limit: u64) -> Result<Document, FetchError> {
        if self.config.offline {
            return Err(FetchError::Offline { label: label.to_owned() });
        }
        let engine = self.engine()?;
        engine.runtime.block_on(transfer::get(engine, &self.config, label, urls, limit))
    }

    /// Reads several small documents at once, in order.
    pub fn get_all(
        &self,
        asks: &[(String, Vec<Url>)],
        limit: u64,
    ) -> Vec<Result<Document, FetchError>> {
        if self.config.offline {
            return asks
                .iter()
                .map(|(label, _)| Err(FetchError::Offline { label: label.clone() }))
                .collect();
        }
        let engine = match self.engine() {
            Ok(engine) => engine,
            Err(error) => {
                let reason = error.to_string();
                return asks.iter().map(|_| Err(FetchError::Setup(reason.clone()))).collect();
            }
        };
        let one = |(label, urls): &(String, Vec<Url>)| {
            let (label, urls) = (label.clone(), urls.clone());
            async move { transfer::get(engine, &self.config, &label, &urls, limit).await }
        };
        engine.runtime.block_on(futures::future::join_all(asks.iter().map(one)))
    }
}

impl Engine {
    fn new(config: &ClientConfig) -> Result<Self, FetchError> {
        let setup = |error: &dyn std::fmt::Display| FetchError::Setup(error.to_string());
        // somebody may have chosen one before; then that one serves
        rustls::crypto::ring::default_provider().install_default().unwrap_or_default();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|error| setup(&error))?;
        let policy = redirect::Policy::custom(|attempt| {
            let secure = |url: &Url| url.scheme() == "https";
            let downgrade = attempt.previous().last().is_some_and(secure) && !secure(attempt.url());
            if attempt.previous().len() > 5 {
                attempt.error("it redirects more than five times")
            } else if downgrade {
                attempt.error("it redirects from https to http")
            } else {
                attempt.follow()
            }
        });
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("sbx/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            .redirect(policy)
            .pool_max_idle_per_host(config.parallel)
            .connect_timeout(config.connect_timeout)
            .read_timeout(config.stall_timeout);
        for path in &config.certificates {
            let fail = |reason: String| FetchError::Certificates { path: path.clone(), reason };
            let pem = std::fs::read(path).map_err(|error| fail(error.to_string()))?;
            let bundle = reqwest::Certificate::from_pem_bundle(&pem)
                .map_err(|error| fail(error.to_string()))?;
            builder = bundle
                .into_iter()
                .fold(builder, |builder, certificate| builder.tls_certs_merge([certificate]));
        }
        let http = builder.build().map_err(|error| setup(&error))?;
        Ok(Engine { runtime, http, slots: Semaphore::new(config.parallel) })
    }
}
