//! What is sent: requests that change something at a server, and those whose answer is in its headers.
//!
//! A small letter is sent again by itself where that is worth it. A stream is sent once: only its owner
//! knows how much of it arrived and where it goes on, so a failure comes back with the word whether it
//! is worth another try. Nothing that carries a body follows a redirect; HEAD and GET do, and leave
//! their credential behind when the host changes.
//!
//! A stream may take hours, so time limits are for standing still: no byte taken by the server though
//! one was ready, or no answer after the last one.

use std::convert::Infallible;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::Stream;
pub use reqwest::Method;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, LOCATION};
use reqwest::{Body, RequestBuilder, Response};
use tokio::sync::mpsc;
use url::Url;

use super::client::{Client, ClientConfig, Engine};
use super::error::FetchError;
use super::login::{dress, sensitive};
use super::mirror::redact;
use super::pace::{Pace, slow};
use super::progress::Progress;
use super::retry::{Verdict, judge_network, judge_status, rest, try_each};

/// Bytes that go out at a time.
const PIECE: usize = 256 << 10;
/// Largest answer to a stream that is read.
const LARGEST_ANSWER: u64 = 1 << 20;
/// Pieces that wait to go out.
const WAITING: usize = 4;

/// A request beside its body.
#[derive(Clone)]
pub struct Letter<'a> {
    /// What it is, for people.
    pub label: &'a str,
    pub method: Method,
    pub url: &'a Url,
    pub accept: Option<&'a str>,
    /// A credential; nothing else says who one is.
    pub authorization: Option<String>,
    /// Of the body.
    pub media_type: Option<&'a str>,
    /// Of the body: first and last byte.
    pub range: Option<(u64, u64)>,
    /// How many times longer than usual the answer may take.
    pub patience: u32,
    /// Further headers.
    pub headers: Vec<(&'static str, String)>,
}

impl<'a> Letter<'a> {
    pub fn new(label: &'a str, method: Method, url: &'a Url) -> Self {
        Letter {
            label,
            method,
            url,
            accept: None,
            authorization: None,
            media_type: None,
            range: None,
            patience: 1,
            headers: Vec::new(),
        }
    }

    /// Whether it only asks.
    fn asks(&self) -> bool {
        [Method::GET, Method::HEAD].contains(&self.method)
    }

    fn dress(&self, request: RequestBuilder) -> RequestBuilder {
        let mut request = dress(request, self.accept, self.authorization.as_deref());
        if let Some(value) = self.media_type {
            request = request.header(CONTENT_TYPE, value);
        }
        if let Some((first, last)) = self.range {
            request = request.header(CONTENT_RANGE, format!("{first}-{last}"));
        }
        for (name, value) in &self.headers {
            request = request.header(*name, sensitive(value));
        }
        request
    }
}

/// What a server says to a letter that it took.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Where it came from in the end.
    url: Url,
    headers: HeaderMap,
    pub bytes: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers(name).next()
    }

    /// All fields of a name, of which there may be several.
    pub fn headers(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers.get_all(name).iter().filter_map(|value| value.to_str().ok())
    }

    /// Where to go on.
    pub fn location(&self) -> Option<Url> {
        let to = self.url.join(self.header(LOCATION.as_str())?).ok()?;
        ["http", "https"].contains(&to.scheme()).then_some(to)
    }

    /// The size of what was asked after, as the server says.
    pub fn content_length(&self) -> Option<u64> {
        self.header(CONTENT_LENGTH.as_str())?.parse().ok()
    }
}

/// A stream that was not taken.
#[derive(Debug)]
pub enum Refusal {
    /// It is worth another try, after this pause or the usual one.
    Again(FetchError, Option<Duration>),
    Final(FetchError),
    /// What was to be sent could not be read.
    Source(io::Error),
}

impl From<Verdict> for Refusal {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Again(error, wait) | Verdict::Further(error, wait) => {
                Refusal::Again(error, wait)
            }
            Verdict::Next(error) | Verdict::Stop(error) => Refusal::Final(error),
        }
    }
}

impl Client {
    /// Sends a small body, or none, as often as it is worth it. Answers what any 2xx says, of which no
    /// more than `limit` bytes are read.
    pub fn send(
        &self,
        letter: &Letter<'_>,
        body: &[u8],
        limit: u64,
        progress: &dyn Progress,
    ) -> Result<Answer, FetchError> {
        if self.is_offline() {
            return Err(FetchError::Offline { label: letter.label.to_owned() });
        }
        let engine = self.engine()?;
        engine.block_on(send(engine, self.config(), letter, body, limit, progress))
    }

    /// Sends letters without a body, some at a time, each as often as it is worth it; answers in their
    /// order. A server may refuse some of them (4xx); that it does not answer at all ends it.
    pub fn send_all(
        &self,
        letters: &[Letter<'_>],
        limit: u64,
    ) -> Result<Vec<Result<Answer, FetchError>>, FetchError> {
        let Some(first) = letters.first() else { return Ok(Vec::new()) };
        if self.is_offline() {
            return Err(FetchError::Offline { label: first.label.to_owned() });
        }
        let (engine, config) = (self.engine()?, self.config());
        let one =
            async |letter| match send(engine, config, letter, b"", limit, config.hearer.progress())
                .await
            {
                Err(error) if !error.is_refusal() => Err(error),
                answer => Ok(answer),
            };
        engine.block_on(futures::future::try_join_all(letters.iter().map(one)))
    }

    /// Sends all that can be read, once. `size` is known where the server must be told it ahead.
    pub fn stream(
        &self,
        letter: &Letter<'_>,
        body: &mut dyn Read,
        size: Option<u64>,
    ) -> Result<Answer, Refusal> {
        if self.is_offline() {
            let label = letter.label.to_owned();
            return Err(Refusal::Final(FetchError::Offline { label }));
        }
        let engine = self.engine().map_err(Refusal::Final)?;
        let config = self.config();
        let http = engine.sender(config, letter.url).map_err(Refusal::Final)?;
        let (pieces, flow, pulse) = channel();
        let mut request = letter.dress(http.request(letter.method.clone(), letter.url.clone()));
        if let Some(size) = size {
            request = request.header(CONTENT_LENGTH, size);
        }
        let sending = engine.spawn(watched(
            request.body(Body::wrap_stream(flow)),
            pulse,
            config.stall_timeout,
        ));
        // where the request ended early, its answer says why
        let poured = pour(body, &pieces);
        if poured.is_err() {
            sending.abort();
        }
        drop(pieces);
        poured.map_err(Refusal::Source)?;
        let ended = engine.block_on(sending);
        let ended = ended.map_err(|error| Refusal::Final(FetchError::Setup(error.to_string())))?;
        let response = match ended {
            None => return Err(late(config, letter, config.stall_timeout).into()),
            Some(sent) => {
                sent.map_err(|error| judge_network(config, letter.label, letter.url, &error))?
            }
        };
        Ok(engine.block_on(read(config, letter, response, LARGEST_ANSWER))?)
    }

    /// Waits before the next try of a stream; answers whether there is one.
    pub fn wait(&self, tried: u32, wait: Option<Duration>) -> bool {
        if tried >= self.config().tries || Pace::is_exceeded(self.config().pace, wait) {
            return false;
        }
        std::thread::sleep(rest(self.config(), tried, wait));
        true
    }
}

async fn send(
    engine: &Engine,
    config: &ClientConfig,
    letter: &Letter<'_>,
    body: &[u8],
    limit: u64,
    progress: &dyn Progress,
) -> Result<Answer, FetchError> {
    let http = match letter.asks() {
        true => engine.http(config, letter.url)?,
        false => engine.sender(config, letter.url)?,
    };
    let once = async |url: &Url| {
        let request = letter.dress(http.request(letter.method.clone(), url.clone()));
        let request = match letter.asks() {
            true => request,
            false => request.body(body.to_vec()),
        };
        let patience = config.pace.map_or(config.stall_timeout, |pace| pace.head) * letter.patience;
        let sent = tokio::time::timeout(patience, request.send()).await;
        let response = sent
            .map_err(|_| late(config, letter, patience))?
            .map_err(|error| judge_network(config, letter.label, url, &error))?;
        read(config, letter, response, limit).await
    };
    let urls = std::slice::from_ref(letter.url);
    let _slot = engine.question(limit).await?;
    try_each(engine, config, letter.label, urls, progress, once).await
}

/// What is known of a body that goes out.
#[derive(Clone)]
struct Pulse(Arc<Mutex<Beat>>);

struct Beat {
    last: Instant,
    /// Whether the next piece is not there yet: then nobody is to blame but us.
    starved: bool,
}

impl Pulse {
    fn beat(&self, starved: bool) {
        let mut beat = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *beat = Beat { last: Instant::now(), starved };
    }

    /// How long nothing moved though something could have.
    fn still(&self) -> Duration {
        let beat = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if beat.starved { Duration::ZERO } else { beat.last.elapsed() }
    }
}

type Pieces = mpsc::Sender<Vec<u8>>;

fn channel() -> (Pieces, impl Stream<Item = Result<Vec<u8>, Infallible>> + Send + 'static, Pulse) {
    let (pieces, receiver) = mpsc::channel::<Vec<u8>>(WAITING);
    let pulse = Pulse(Arc::new(Mutex::new(Beat { last: Instant::now(), starved: false })));
    let flow = futures::stream::unfold((receiver, pulse.clone()), |(mut receiver, pulse)| async {
        pulse.beat(true);
        let piece = receiver.recv().await;
        pulse.beat(false);
        piece.map(|piece| (Ok(piece), (receiver, pulse)))
    });
    (pieces, flow, pulse)
}

/// Sends, and gives up (`None`) where nothing moves for so long.
async fn watched(
    request: RequestBuilder,
    pulse: Pulse,
    patience: Duration,
) -> Option<Result<Response, reqwest::Error>> {
    let watch = async {
        let look = (patience / 8).clamp(Duration::from_millis(5), Duration::from_secs(1));
        while pulse.still() < patience {
            tokio::time::sleep(look).await;
        }
    };
    tokio::select! {
        sent = request.send() => Some(sent),
        () = watch => None,
    }
}

/// Reads to the end, or until nobody listens any more.
fn pour(body: &mut dyn Read, pieces: &Pieces) -> io::Result<()> {
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        body.take(PIECE as u64).read_to_end(&mut piece)?;
        if piece.is_empty() || pieces.blocking_send(piece).is_err() {
            return Ok(());
        }
    }
}

async fn read(
    config: &ClientConfig,
    letter: &Letter<'_>,
    mut response: Response,
    limit: u64,
) -> Result<Answer, Verdict> {
    let (label, url) = (letter.label, letter.url);
    if response.status().is_redirection() {
        return Err(Verdict::Next(FetchError::not_followed(label, url)));
    }
    if !response.status().is_success() {
        return Err(judge_status(label, url, response).await);
    }
    let (status, from) = (response.status().as_u16(), response.url().clone());
    let headers = response.headers().clone();
    let mut bytes = Vec::new();
    // an answer to HEAD has no body, whatever it promises
    loop {
        let chunk = tokio::time::timeout(config.stall_timeout, response.chunk()).await;
        let chunk = chunk.map_err(|_| late(config, letter, config.stall_timeout))?;
        let chunk = chunk.map_err(|error| judge_network(config, label, url, &error))?;
        let Some(chunk) = chunk else { break };
        if (bytes.len() + chunk.len()) as u64 > limit {
            let (label, url) = (label.to_owned(), redact(url));
            return Err(Verdict::Next(FetchError::TooLarge { label, url, limit }));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Answer { status, url: from, headers, bytes })
}

/// Nothing moved for so long. What can be done without is not tried again.
fn late(config: &ClientConfig, letter: &Letter<'_>, patience: Duration) -> Verdict {
    let (label, reason) = (letter.label.to_owned(), format!("nothing moves for {patience:?}"));
    if config.pace.is_some() {
        return slow(&label, letter.url, reason);
    }
    let (url, tries) = (redact(letter.url), super::error::Tries::default());
    Verdict::Again(FetchError::Broken { label, url, reason, begun: false, tries }, None)
}
