//! One file over the wire: resumed, hashed, judged.

use std::time::Duration;

use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, RANGE};
use reqwest::{Response, StatusCode};
use url::Url;

use super::client::{ClientConfig, Document, Engine, Headers, Want};
use super::error::FetchError;
use super::login::dress;
use super::mirror::redact;
use super::pace::Paced;
use super::part::{Found, Part};
use super::progress::{Meter, Progress};
use super::retry::{Verdict, try_each};
use crate::fsx::PathIo;

/// The most that a try has to bring.
const ENOUGH: u64 = 1 << 20;
/// How often to look whether somebody else is done with a part.
const LOOK_AGAIN: Duration = Duration::from_millis(40);

impl From<PathIo> for Verdict {
    /// What is wrong with this machine's disk is not mended by asking again.
    fn from(error: PathIo) -> Self {
        Verdict::Stop(error.into())
    }
}

/// Fetches a file under its name.
pub(super) async fn fetch(
    engine: &Engine,
    config: &ClientConfig,
    want: &Want,
    progress: &dyn Progress,
) -> Result<(), FetchError> {
    loop {
        let slot = engine.transfer().await?;
        match Part::find(want).await? {
            Found::Part(part) => {
                let gathering = Gathering { engine, config, want };
                return gathering.fetch(*part, progress).await;
            }
            Found::Busy => {
                drop(slot);
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Found::Whole => {
                let mut meter = Meter::start(progress, &want.label, want.size);
                meter.reach(want.size.unwrap_or_default());
                return Ok(());
            }
        }
    }
}

/// A file that nobody else is fetching.
#[derive(Clone, Copy)]
struct Gathering<'a> {
    engine: &'a Engine,
    config: &'a ClientConfig,
    want: &'a Want,
}

impl Gathering<'_> {
    async fn fetch(&self, mut part: Part, progress: &dyn Progress) -> Result<(), FetchError> {
        let Gathering { engine, config, want } = *self;
        let mut meter = Meter::start(progress, &want.label, want.size);
        let tried = try_each(engine, config, &want.label, &want.urls, progress, async |url| {
            let enough = meter.seen() + enough(want.size);
            let transfer = Transfer { engine, config, want, url };
            transfer.run(&mut part, &mut meter).await.map_err(|verdict| match verdict {
                Verdict::Again(error, wait) if meter.seen() >= enough => {
                    Verdict::Further(error, wait)
                }
                verdict => verdict,
            })
        });
        match tried.await {
            Ok(()) => Ok(part.finish(want)?),
            Err(error) => {
                part.give_up();
                Err(error)
            }
        }
    }
}

/// So many bytes of a file make a try that broke off worth it: a hundred such tries, or as many as it has
/// MiB, are the most.
fn enough(size: Option<u64>) -> u64 {
    size.map_or(ENOUGH, |size| (size / 100).clamp(1, ENOUGH))
}

/// One try of one file at one address.
struct Transfer<'a> {
    engine: &'a Engine,
    config: &'a ClientConfig,
    want: &'a Want,
    url: &'a Url,
}

impl Transfer<'_> {
    async fn run(&self, part: &mut Part, meter: &mut Meter<'_>) -> Result<(), Verdict> {
        if self.is_whole(part) {
            if part.digest() == self.want.digest {
                meter.reach(part.len());
                return Ok(());
            }
            // as long as it should be and not what it should be
            if self.want.size.is_some() {
                part.restart()?;
            }
        }
        let mut paced = self.ask(part).await?;
        let promised = paced.response.content_length();
        if part.len() > 0 && paced.response.status() == StatusCode::OK {
            part.restart()?;
        }
        self.check_promise(part.len(), promised).map_err(Verdict::Next)?;
        meter.reach(part.len());
        while let Some(bytes) = paced.chunk().await? {
            let bytes = bytes.as_ref();
            let found = part.len() + bytes.len() as u64;
            if self.want.size.is_some_and(|size| found > size) {
                part.restart()?;
                return Err(Verdict::Next(self.wrong_size(found)));
            }
            part.push(bytes)?;
            meter.reach(part.len());
        }
        let Err(error) = self.judge(part) else { return Ok(()) };
        // without a promised length, an end that comes too soon may be a connection that broke
        if promised.is_none() && matches!(error, FetchError::Size { .. }) {
            return Err(Verdict::Again(error, None));
        }
        part.restart()?;
        // the wrong bytes may be those that were there before: this server deserves a fresh try
        let continued = paced.response.status() == StatusCode::PARTIAL_CONTENT;
        Err(if continued { again(Verdict::Next(error)) } else { Verdict::Next(error) })
    }

    /// Whether there may be nothing left to ask for.
    fn is_whole(&self, part: &Part) -> bool {
        match self.want.size {
            Some(size) => part.len() >= size,
            None => part.len() > 0,
        }
    }

    /// Asks for what the part lacks.
    async fn ask(&self, part: &mut Part) -> Result<Paced<'_>, Verdict> {
        let http = self.engine.http(self.config, self.url).map_err(Verdict::Stop)?;
        let shown = self.want.login.find(&self.config.credentials, self.url);
        let mut request = dress(http.get(self.url.clone()), None, shown);
        if part.len() > 0 {
            request = request.header(RANGE, format!("bytes={}-", part.len()));
        }
        let paced = Paced::ask(self.config, &self.want.label, self.url, request).await?;
        let range = range_start(&paced.response);
        match paced.response.status() {
            StatusCode::OK => Ok(paced),
            StatusCode::PARTIAL_CONTENT if range == Some(part.len()) => Ok(paced),
            // the server's file ends before our part does, or it answers what nobody asked for
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE if part.len() > 0 => {
                part.restart()?;
                Err(again(paced.judge().await))
            }
            _ => Err(paced.judge().await),
        }
    }

    /// Refuses before a byte is read what promises to be of another length.
    fn check_promise(&self, have: u64, promised: Option<u64>) -> Result<(), FetchError> {
        match (self.want.size, promised) {
            (Some(expected), Some(found)) if have == 0 && found != expected => {
                Err(self.wrong_size(found))
            }
            _ => Ok(()),
        }
    }

    fn judge(&self, part: &Part) -> Result<(), FetchError> {
        if self.want.size.is_some_and(|size| size != part.len()) {
            return Err(self.wrong_size(part.len()));
        }
        match part.digest() {
            found if found == self.want.digest => Ok(()),
            found => {
                let (label, url) = (self.want.label.clone(), redact(self.url));
                Err(FetchError::Digest { label, url, expected: self.want.digest, found })
            }
        }
    }

    fn wrong_size(&self, found: u64) -> FetchError {
        let (label, url) = (self.want.label.clone(), redact(self.url));
        FetchError::Size { label, url, expected: self.want.size.unwrap_or_default(), found }
    }
}

/// At once, where the fault was in what was asked and not in the server's mood.
fn again(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Next(error) | Verdict::Again(error, _) | Verdict::Further(error, _) => {
            Verdict::Again(error, Some(Duration::ZERO))
        }
        stop => stop,
    }
}

fn range_start(response: &Response) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

/// Reads a small document.
pub(super) async fn get(
    engine: &Engine,
    config: &ClientConfig,
    label: &str,
    urls: &[Url],
    headers: &Headers,
    limit: u64,
) -> Result<Document, FetchError> {
    let _slot = engine.question(limit).await?;
    let once = async |url: &Url| try_get(engine, config, label, url, headers, limit).await;
    try_each(engine, config, label, urls, config.hearer.progress(), once).await
}

async fn try_get(
    engine: &Engine,
    config: &ClientConfig,
    label: &str,
    url: &Url,
    headers: &Headers,
    limit: u64,
) -> Result<Document, Verdict> {
    let asked = match &headers.form {
        None => engine.http(config, url).map_err(Verdict::Stop)?.get(url.clone()),
        // whatever stands in it is for nobody else
        Some(form) => {
            let kind = "application/x-www-form-urlencoded";
            let http = engine.confidant(config, url).map_err(Verdict::Stop)?;
            http.post(url.clone()).header(CONTENT_TYPE, kind).body(form.clone())
        }
    };
    let shown = headers.login.find(&config.credentials, url);
    let request = dress(asked, headers.accept.as_deref(), shown);
    let mut paced = Paced::ask(config, label, url, request).await?;
    if headers.form.is_some() && paced.response.status().is_redirection() {
        return Err(Verdict::Next(FetchError::not_followed(label, url)));
    }
    if paced.response.status() != StatusCode::OK {
        return Err(paced.judge().await);
    }
    let too_large = || {
        let (label, url) = (label.to_owned(), redact(url));
        Verdict::Next(FetchError::TooLarge { label, url, limit })
    };
    if paced.response.content_length().is_some_and(|promised| promised > limit) {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = paced.chunk().await? {
        let chunk = chunk.as_ref();
        if (bytes.len() + chunk.len()) as u64 > limit {
            return Err(too_large());
        }
        bytes.extend_from_slice(chunk);
    }
    let response = &paced.response;
    let media_type = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let media_type = media_type.map(str::to_owned);
    Ok(Document { bytes, media_type, url: redact(response.url()) })
}
