//! How slow a server may be, where what it has can be done without.
//!
//! What is needed is waited for as long as bytes come at all. What only spares time is given up once it
//! no longer does: no answer for a while, or too few bytes in each of the spans that follow. A span is
//! counted as a whole, so a short silence costs nothing. What is sent is given up where nothing moves.

use std::time::Duration;

use reqwest::{RequestBuilder, Response};
use tokio::time::{Instant, timeout, timeout_at};
use url::Url;

use super::client::ClientConfig;
use super::error::FetchError;
use super::mirror::redact;
use super::retry::{Verdict, judge_network, judge_status};

/// The least that a server must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Longest time until an answer begins, and longest pause that is made because a server asks for it.
    pub head: Duration,
    /// So many bytes must come in each span, but for what ends sooner.
    pub bytes: u64,
    pub span: Duration,
}

impl Pace {
    /// Whether a server asks for more patience than one has.
    pub(super) fn is_exceeded(pace: Option<Self>, wait: Option<Duration>) -> bool {
        pace.zip(wait).is_some_and(|(pace, wait)| wait > pace.head)
    }
}

/// An answer while it comes.
pub(super) struct Paced<'a> {
    config: &'a ClientConfig,
    label: &'a str,
    url: &'a Url,
    pub(super) response: Response,
    since: Instant,
    /// Since then.
    bytes: u64,
}

impl<'a> Paced<'a> {
    /// Asks, and waits until an answer begins.
    pub(super) async fn ask(
        config: &'a ClientConfig,
        label: &'a str,
        url: &'a Url,
        request: RequestBuilder,
    ) -> Result<Self, Verdict> {
        let sent = match config.pace {
            None => request.send().await,
            Some(Pace { head, .. }) => {
                let late = |_| slow(label, url, format!("no answer within {head:?}"));
                timeout(head, request.send()).await.map_err(late)?
            }
        };
        let response = sent.map_err(|error| judge_network(config, label, url, &error))?;
        Ok(Paced { config, label, url, response, since: Instant::now(), bytes: 0 })
    }

    /// What comes next of its body.
    pub(super) async fn chunk(&mut self) -> Result<Option<impl AsRef<[u8]> + use<>>, Verdict> {
        loop {
            let came = match self.config.pace {
                None => Ok(self.response.chunk().await),
                Some(pace) => timeout_at(self.since + pace.span, self.response.chunk()).await,
            };
            if let Ok(piece) = came {
                let piece = piece
                    .map_err(|error| judge_network(self.config, self.label, self.url, &error))?;
                self.bytes += piece.as_ref().map_or(0, |piece| piece.len() as u64);
                return Ok(piece);
            }
            let Some(Pace { bytes, span, .. }) = self.config.pace else { continue };
            if self.bytes < bytes {
                let reason = format!("{} bytes within {span:?}", self.bytes);
                return Err(slow(self.label, self.url, reason));
            }
            (self.since, self.bytes) = (Instant::now(), 0);
        }
    }

    /// What an answer means that is not the one hoped for.
    pub(super) async fn judge(self) -> Verdict {
        let Paced { config, label, url, response, .. } = self;
        let judged = judge_status(label, url, response);
        let Some(Pace { span, .. }) = config.pace else { return judged.await };
        let late = |_| slow(label, url, format!("not all of a refusal within {span:?}"));
        timeout(span, judged).await.unwrap_or_else(late)
    }
}

/// What can be done without, and does not come fast enough.
pub(super) fn slow(label: &str, url: &Url, reason: String) -> Verdict {
    Verdict::Next(FetchError::Slow { label: label.to_owned(), url: redact(url), reason })
}
