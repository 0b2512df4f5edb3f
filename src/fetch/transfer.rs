//! One file over the wire: tried, resumed, hashed, judged.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::time::Duration;

use reqwest::header::{CONTENT_RANGE, RANGE, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use rustix::fs::FlockOperation;
use url::Url;

use super::client::{ClientConfig, Document, Engine, Progress, Want};
use super::error::FetchError;
use super::mirror::redact;
use crate::digest::Hasher;
use crate::fsx::IoAt;

/// Longest pause that a server's `Retry-After` is obeyed for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What a failed try means for the next one.
enum Verdict {
    /// Again, after a pause.
    Again(FetchError, Option<Duration>),
    /// Not here.
    Next(FetchError),
    /// Not at all.
    Stop(FetchError),
}

/// Fetches a file under its name.
pub(super) async fn fetch(
    engine: &Engine,
    config: &ClientConfig,
    want: &Want,
    progress: &dyn Progress,
) -> Result<(), FetchError> {
    let _slot =
        engine.slots.acquire().await.map_err(|error| FetchError::Setup(error.to_string()))?;
    progress.started(&want.label, want.size);
    let mut part = Part::open(want)?;
    // another process may have finished it while this one waited for the part
    if want.into.exists() {
        progress.finished(&want.label);
        return Ok(());
    }
    let mut last = FetchError::NoUrl { label: want.label.clone() };
    for url in &want.urls {
        for attempt in 0..config.tries {
            let verdict = match try_fetch(engine, want, url, &mut part, progress).await {
                Ok(()) => {
                    part.finish(want)?;
                    progress.finished(&want.label);
                    return Ok(());
                }
                Err(verdict) => verdict,
            };
            match verdict {
                Verdict::Stop(error) => return Err(error),
                Verdict::Next(error) => {
                    last = prefer(last, error);
                    break;
                }
                Verdict::Again(error, wait) => {
                    progress.retried(&want.label, &error.to_string());
                    last = prefer(last, error);
                    if attempt + 1 < config.tries {
                        tokio::time::sleep(wait.unwrap_or_else(|| pause(config, attempt))).await;
                    }
                }
            }
        }
    }
    Err(last)
}

/// Of the failures of several URLs, the one that says most: anything but "not here".
fn prefer(old: FetchError, new: FetchError) -> FetchError {
    if new.is_gone() && !old.is_gone() && !matches!(old, FetchError::NoUrl { .. }) {
        old
    } else {
        new
    }
}

/// Doubles with each try, with some jitter, so that clients that failed together do not come back
/// together.
fn pause(config: &ClientConfig, attempt: u32) -> Duration {
    let base = config.pause.saturating_mul(1 << attempt.min(8));
    let jitter =
        std::hash::BuildHasher::hash_one(&std::collections::hash_map::RandomState::new(), attempt)
            % 256;
    base + base.mul_f64(jitter as f64 / 512.0)
}

/// The beginning of a file, held by a lock so that two processes do not write it at once.
struct Part {
    file: File,
    hasher: Hasher,
}

impl Part {
    fn open(want: &Want) -> Result<Self, FetchError> {
        loop {
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(&want.part)
                .at("open", &want.part)?;
            rustix::fs::flock(&file, FlockOperation::LockExclusive).at("lock", &want.part)?;
            // who held it before may have renamed it: only the file that has the name counts
            let ours = crate::fsx::inode(&file);
            if ours.is_some()
                && ours == File::open(&want.part).ok().and_then(|file| crate::fsx::inode(&file))
            {
                let mut part = Part { file, hasher: Hasher::new() };
                part.rehash(want)?;
                return Ok(part);
            }
            if want.into.exists() {
                return Ok(Part { file, hasher: Hasher::new() });
            }
        }
    }

    /// Hashes what is there, so that a transfer can go on behind it.
    fn rehash(&mut self, want: &Want) -> Result<(), FetchError> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            match self.file.read(&mut buffer).at("read", &want.part)? {
                0 => return Ok(()),
                n => self.hasher.update(&buffer[..n]),
            }
        }
    }

    fn restart(&mut self, want: &Want) -> Result<(), FetchError> {
        self.hasher = Hasher::new();
        self.file.set_len(0).at("empty", &want.part)?;
        self.file.seek(SeekFrom::Start(0)).at("rewind", &want.part)?;
        Ok(())
    }

    fn push(&mut self, want: &Want, bytes: &[u8]) -> Result<(), FetchError> {
        self.file.write_all(bytes).at("write", &want.part)?;
        self.hasher.update(bytes);
        Ok(())
    }

    fn finish(&self, want: &Want) -> Result<(), FetchError> {
        self.file.sync_data().at("sync", &want.part)?;
        fs::rename(&want.part, &want.into).at("rename", &want.into)?;
        Ok(())
    }
}

async fn try_fetch(
    engine: &Engine,
    want: &Want,
    url: &Url,
    part: &mut Part,
    progress: &dyn Progress,
) -> Result<(), Verdict> {
    let stop = |error: FetchError| Verdict::Stop(error);
    let have = part.hasher.len();
    if have > 0 && want.size == Some(have) {
        return judge(want, url, part).map_err(|error| Verdict::Again(error, None));
    }
    if want.size.is_some_and(|size| have > size) {
        part.restart(want).map_err(stop)?;
    }
    let have = part.hasher.len();
    let mut request = engine.http.get(url.clone());
    if have > 0 {
        request = request.header(RANGE, format!("bytes={have}-"));
    }
    let mut response = request.send().await.map_err(|error| network(&want.label, url, &error))?;
    match response.status() {
        StatusCode::PARTIAL_CONTENT if have > 0 && range_start(&response) == Some(have) => {}
        StatusCode::OK => part.restart(want).map_err(stop)?,
        // the part is longer than what the server has, or it answers a range nobody asked for
        StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::PARTIAL_CONTENT => {
            part.restart(want).map_err(stop)?;
            return Err(status(&want.label, url, &response, true));
        }
        _ => return Err(status(&want.label, url, &response, false)),
    }
    progress.advanced(part.hasher.len());
    loop {
        match response.chunk().await {
            Ok(Some(bytes)) => {
                let found = part.hasher.len() + bytes.len() as u64;
                if let Some(expected) = want.size.filter(|size| found > *size) {
                    part.restart(want).map_err(stop)?;
                    let (label, url) = (want.label.clone(), redact(url));
                    return Err(Verdict::Next(FetchError::Size { label, url, expected, found }));
                }
                part.push(want, &bytes).map_err(stop)?;
                progress.advanced(bytes.len() as u64);
            }
            Ok(None) => break,
            Err(error) => return Err(network(&want.label, url, &error)),
        }
    }
    judge(want, url, part).map_err(|error| match error {
        FetchError::Size { .. } => Verdict::Again(error, None),
        FetchError::Digest { .. } => match part.restart(want) {
            Ok(()) => Verdict::Next(error),
            Err(error) => Verdict::Stop(error),
        },
        error => Verdict::Stop(error),
    })
}

fn judge(want: &Want, url: &Url, part: &Part) -> Result<(), FetchError> {
    let (label, url) = (want.label.clone(), redact(url));
    let found = part.hasher.len();
    if let Some(expected) = want.size.filter(|size| *size != found) {
        return Err(FetchError::Size { label, url, expected, found });
    }
    match part.hasher.clone().finish() {
        found if found == want.digest => Ok(()),
        found => Err(FetchError::Digest { label, url, expected: want.digest, found }),
    }
}

fn range_start(response: &Response) -> Option<u64> {
    let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

fn network(label: &str, url: &Url, error: &reqwest::Error) -> Verdict {
    // the innermost cause is what a person can act on
    let mut reason = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        reason = inner.to_string();
        source = inner.source();
    }
    let error_kind = FetchError::Network { label: label.to_owned(), url: redact(url), reason };
    if error.is_redirect() || error.is_builder() {
        Verdict::Next(error_kind)
    } else {
        Verdict::Again(error_kind, None)
    }
}

fn status(label: &str, url: &Url, response: &Response, again: bool) -> Verdict {
    let status = response.status();
    let error =
        FetchError::Status { label: label.to_owned(), url: redact(url), status: status.as_u16() };
    let busy = status.is_server_error() || [408, 425, 429].contains(&status.as_u16());
    if !busy && !again {
        return Verdict::Next(error);
    }
    let wait =
        response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    Verdict::Again(error, wait.map(Duration::from_secs).map(|wait| wait.min(LONGEST_PAUSE)))
}

/// Reads a small document.
pub(super) async fn get(
    engine: &Engine,
    config: &ClientConfig,
    label: &str,
    urls: &[Url],
    limit: u64,
) -> Result<Document, FetchError> {
    let _slot =
        engine.slots.acquire().await.map_err(|error| FetchError::Setup(error.to_string()))?;
    let mut last = FetchError::NoUrl { label: label.to_owned() };
    for url in urls {
        for attempt in 0..config.tries {
            match try_get(engine, label, url, limit).await {
                Ok(document) => return Ok(document),
                Err(Verdict::Stop(error)) => return Err(error),
                Err(Verdict::Next(error)) => {
                    last = prefer(last, error);
                    break;
                }
                Err(Verdict::Again(error, wait)) => {
                    last = prefer(last, error);
                    if attempt + 1 < config.tries {
                        tokio::time::sleep(wait.unwrap_or_else(|| pause(config, attempt))).await;
                    }
                }
            }
        }
    }
    Err(last)
}

async fn try_get(engine: &Engine, label: &str, url: &Url, limit: u64) -> Result<Document, Verdict> {
    let mut response =
        engine.http.get(url.clone()).send().await.map_err(|error| network(label, url, &error))?;
    if response.status() != StatusCode::OK {
        return Err(status(label, url, &response, false));
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| network(label, url, &error))? {
        if bytes.len() as u64 + chunk.len() as u64 > limit {
            let (label, url) = (label.to_owned(), redact(url));
            return Err(Verdict::Next(FetchError::TooLarge { label, url, limit }));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Document { bytes, url: redact(response.url()) })
}
