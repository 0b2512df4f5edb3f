//! Trying again: which failures are worth it, after what pause, and when a host is given up.

use std::collections::BTreeMap;
use std::error::Error;
use std::hash::{BuildHasher, RandomState};
use std::io::ErrorKind;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::fmt::rfc2822;
use reqwest::header::{DATE, HeaderMap, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode};
use url::Url;

use super::client::{ClientConfig, Engine};
use super::error::{FetchError, Tries};
use super::mirror::redact;
use super::pace::Pace;
use super::progress::Progress;
use super::proxy::is_loopback;
use super::words::Said;

/// Tries where nobody listens on this very machine.
const LOCAL_TRIES: u32 = 3;
/// Longest pause that a server's `Retry-After` is obeyed for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What a failed try means for the next one.
pub(super) enum Verdict {
    /// Again, after this pause or the usual one.
    Again(FetchError, Option<Duration>),
    /// Likewise, and no failed try: enough of it came.
    Further(FetchError, Option<Duration>),
    /// Not from here.
    Next(FetchError),
    /// Not at all.
    Stop(FetchError),
}

/// Hosts that could not be reached, and why. A dead mirror costs its tries for one file, not for
/// each of a thousand.
#[derive(Default)]
pub(super) struct Unreachable(Mutex<BTreeMap<String, String>>);

impl Unreachable {
    fn add(&self, url: &Url, reason: &str) {
        let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.insert(url.origin().ascii_serialization(), reason.to_owned());
    }

    fn find(&self, url: &Url) -> Option<String> {
        let hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.get(&url.origin().ascii_serialization()).cloned()
    }
}

/// Tries each address in turn, each as often as it is worth it. The caller's slot is kept through
/// the pauses: a server that asks for patience is not to be met by other requests in the meantime.
pub(super) async fn try_each<T>(
    engine: &Engine,
    config: &ClientConfig,
    label: &str,
    urls: &[Url],
    progress: &dyn Progress,
    mut once: impl AsyncFnMut(&Url) -> Result<T, Verdict>,
) -> Result<T, FetchError> {
    let mut last = FetchError::NoUrl { label: label.to_owned() };
    for url in urls {
        match try_one(engine, config, label, url, progress, &mut once).await {
            Ok(value) => return Ok(value),
            Err(Verdict::Stop(error)) => return Err(error),
            Err(Verdict::Next(error) | Verdict::Again(error, _) | Verdict::Further(error, _)) => {
                last = prefer(last, error)
            }
        }
    }
    Err(last)
}

async fn try_one<T>(
    engine: &Engine,
    config: &ClientConfig,
    label: &str,
    url: &Url,
    progress: &dyn Progress,
    once: &mut impl AsyncFnMut(&Url) -> Result<T, Verdict>,
) -> Result<T, Verdict> {
    let mut count = 0;
    loop {
        if let Some(reason) = engine.unreachable.find(url) {
            let (label, url) = (label.to_owned(), redact(url));
            let (refused, tries) = (false, Tries(count));
            let error = FetchError::Unreachable { label, url, reason, refused, tries };
            return Err(Verdict::Next(error));
        }
        let (error, wait, tried) = match once(url).await {
            Err(Verdict::Again(error, wait)) => (error, wait, count + 1),
            Err(Verdict::Further(error, wait)) => (error, wait, 1),
            ended => return ended,
        };
        count = tried;
        let tries = tries_of(config, &error, url);
        if let FetchError::Unreachable { reason, url: failed, .. } = &error {
            engine.names.forget(url.host_str().unwrap_or_default());
            // what a redirect led to is another host's fault
            if count >= tries && *failed == redact(url) {
                engine.unreachable.add(url, reason);
            }
        }
        if count >= tries || Pace::is_exceeded(config.pace, wait) {
            return Err(Verdict::Next(error.after(count)));
        }
        progress.retried(label, without_label(label, &error.to_string()));
        tokio::time::sleep(rest(config, count, wait)).await;
    }
}

/// How often something is tried that ended so. Whoever does not listen on this machine is not on its way
/// through a network.
fn tries_of(config: &ClientConfig, error: &FetchError, url: &Url) -> u32 {
    let is_refused = matches!(error, FetchError::Unreachable { refused: true, .. });
    if is_refused && is_loopback(url) { config.tries.min(LOCAL_TRIES) } else { config.tries }
}

/// The pause after so many tries. A server may ask for a longer one than the usual, and not for a shorter
/// one; what is to be mended on this side goes at once.
pub(super) fn rest(config: &ClientConfig, tried: u32, wait: Option<Duration>) -> Duration {
    let usual = || pause(config, tried.saturating_sub(1));
    match wait {
        Some(Duration::ZERO) => Duration::ZERO,
        Some(wait) => wait.max(usual()),
        None => usual(),
    }
}

/// What is told of something, beside its name.
pub fn without_label<'t>(label: &str, told: &'t str) -> &'t str {
    let rest = told.strip_prefix(label).and_then(|rest| rest.strip_prefix(": "));
    rest.unwrap_or(told)
}

/// Of the failures of several addresses, the one that says most: anything but "not here".
fn prefer(old: FetchError, new: FetchError) -> FetchError {
    if new.is_gone() && !old.is_gone() && !matches!(old, FetchError::NoUrl { .. }) {
        old
    } else {
        new
    }
}

/// Doubles with each try, with up to half as much again by chance, so that clients that failed
/// together do not come back together.
fn pause(config: &ClientConfig, attempt: u32) -> Duration {
    let base = config.pause.saturating_mul(1 << attempt.min(8)).min(LONGEST_PAUSE);
    let chance = RandomState::new().hash_one(attempt) % 256;
    base + base.mul_f64(chance as f64 / 512.0)
}

/// What an answer's status means, where it is not the one hoped for. Whoever was asked may demand a
/// credential; whoever it sends to may not.
pub(super) async fn judge_status(label: &str, url: &Url, mut response: Response) -> Verdict {
    let status = response.status();
    let is_barred = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&status);
    if is_barred && response.url().origin() != url.origin() {
        let (label, url, to) = (label.to_owned(), redact(url), redact(response.url()));
        let status = status.as_u16();
        return Verdict::Next(FetchError::Elsewhere { label, url, to, status });
    }
    let said = Said::read(&mut response).await;
    let challenge = find_challenge(&response).filter(|_| status == StatusCode::UNAUTHORIZED);
    let (label, url) = (label.to_owned(), redact(url));
    if let Some(challenge) = challenge {
        return Verdict::Next(FetchError::Unauthorized { label, url, challenge, said });
    }
    let (number, tries) = (status.as_u16(), Tries::default());
    let error = FetchError::Status { label, url, status: number, said, tries };
    if status.is_server_error() || [408, 425, 429].contains(&status.as_u16()) {
        Verdict::Again(error, retry_after(response.headers()))
    } else {
        Verdict::Next(error)
    }
}

/// Of several challenges, the one that asks for a token.
fn find_challenge(response: &Response) -> Option<String> {
    let all = response.headers().get_all(WWW_AUTHENTICATE);
    let all: Vec<&str> = all.iter().filter_map(|value| value.to_str().ok()).collect();
    let bearer = all.iter().find(|text| text.to_ascii_lowercase().starts_with("bearer "));
    bearer.or(all.first()).map(|text| (*text).to_owned())
}

/// `Retry-After` in seconds, or as a date, which is taken from the server's own `Date`.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: HeaderName| headers.get(name)?.to_str().ok();
    let date = |text: &str| rfc2822::parse(&text.replace("GMT", "+0000")).ok();
    let value = text(RETRY_AFTER)?;
    let wait = value.parse().map(Duration::from_secs).ok().or_else(|| {
        let (until, now) = (date(value)?.timestamp(), date(text(DATE)?)?.timestamp());
        Some(Duration::try_from(now.duration_until(until)).unwrap_or_default())
    })?;
    Some(wait.min(LONGEST_PAUSE)).filter(|wait| !wait.is_zero())
}

/// What it means that there was no answer, or not all of it.
pub(super) fn judge_network(
    config: &ClientConfig,
    label: &str,
    url: &Url,
    error: &reqwest::Error,
) -> Verdict {
    let label = label.to_owned();
    let at = error.url().unwrap_or(url);
    let proxy = config.proxies.find(at).filter(|_| config.socket.is_none());
    let (url, tries) = (redact(at), Tries::default());
    let reason = innermost(error);
    if error.is_redirect() {
        return Verdict::Next(FetchError::Redirect { label, url, reason });
    }
    if let Some(reason) = certificate_fault(error) {
        return Verdict::Next(FetchError::Untrusted { label, url, reason });
    }
    if let Some(reason) = client_fault(error) {
        return Verdict::Next(FetchError::Unknown { label, url, reason });
    }
    if error.is_connect() {
        let reason = match error.is_timeout() {
            true => format!("no connection within {:?}", config.connect_timeout),
            false => reason,
        };
        let reason = match proxy {
            Some(proxy) => format!("through proxy {}: {reason}", redact(proxy)),
            None => reason,
        };
        let refused = kind_of(error) == Some(ErrorKind::ConnectionRefused);
        return Verdict::Again(
            FetchError::Unreachable { label, url, reason, refused, tries },
            None,
        );
    }
    let reason = match error.is_timeout() {
        true => format!("no byte for {:?}", config.stall_timeout),
        false => reason,
    };
    let broken = FetchError::Broken { label, url, reason, begun: !error.is_request(), tries };
    if error.is_builder() { Verdict::Next(broken) } else { Verdict::Again(broken, None) }
}

/// The innermost cause: what a person can act on. The outer ones repeat the address, credentials
/// included.
pub(super) fn innermost(error: &reqwest::Error) -> String {
    let mut cause = match error.source() {
        None => return "the request cannot be made".to_owned(),
        Some(cause) => cause,
    };
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// What kind of thing the system said.
fn kind_of(error: &(dyn Error + 'static)) -> Option<ErrorKind> {
    let own = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    // the outer ones are of the kind of what they wrap, or of none in particular
    own.filter(|kind| *kind != ErrorKind::Other).or_else(|| kind_of(error.source()?))
}

/// What TLS holds against a server's certificate.
fn certificate_fault(error: &(dyn Error + 'static)) -> Option<String> {
    find_tls(error, |error| match error {
        rustls::Error::InvalidCertificate(fault) => Some(fault.to_string()),
        _ => None,
    })
}

/// What a server holds against a client's certificate, or the lack of one.
fn client_fault(error: &(dyn Error + 'static)) -> Option<String> {
    use rustls::AlertDescription as Alert;
    find_tls(error, |error| match error {
        rustls::Error::AlertReceived(
            alert @ (Alert::AccessDenied
            | Alert::BadCertificate
            | Alert::CertificateExpired
            | Alert::CertificateRequired
            | Alert::CertificateUnknown
            | Alert::UnknownCA),
        ) => Some(format!("{alert:?}")),
        _ => None,
    })
}

/// Looks for something that TLS says, however deep it lies.
fn find_tls(
    error: &(dyn Error + 'static),
    find: fn(&rustls::Error) -> Option<String>,
) -> Option<String> {
    if let Some(found) = error.downcast_ref().and_then(find) {
        return Some(found);
    }
    // an I/O error does not show what it wraps as its source
    let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    let wrapped = wrapped.map(|inner| inner as &(dyn Error + 'static));
    wrapped.or(error.source()).and_then(|inner| find_tls(inner, find))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(headers: &[(HeaderName, &str)]) -> Option<Duration> {
        let parsed = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap()));
        retry_after(&parsed.collect())
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_is_capped() {
        let now = (DATE, "Sat, 21 Nov 2026 09:15:44 GMT");
        assert_eq!(wait(&[(RETRY_AFTER, "3")]), Some(Duration::from_secs(3)));
        assert_eq!(wait(&[(RETRY_AFTER, "86400")]), Some(LONGEST_PAUSE));
        let date = (RETRY_AFTER, "Sat, 21 Nov 2026 09:15:50 GMT");
        assert_eq!(wait(&[now.clone(), date.clone()]), Some(Duration::from_secs(6)));
        let past = (RETRY_AFTER, "Sat, 21 Nov 2026 09:15:00 GMT");
        assert_eq!(wait(&[now, past]), None);
        assert_eq!(wait(&[(RETRY_AFTER, "0")]), None);
        assert_eq!(wait(&[date]), None);
        assert_eq!(wait(&[(RETRY_AFTER, "soon")]), None);
    }

    #[test]
    fn a_server_asks_for_longer_pauses_and_never_for_shorter_ones() {
        let config = ClientConfig { pause: Duration::from_secs(1), ..ClientConfig::default() };
        let rest = |tried, seconds| rest(&config, tried, Some(Duration::from_secs(seconds)));
        assert_eq!(rest(1, 9), Duration::from_secs(9));
        assert!(rest(4, 1) >= Duration::from_secs(8));
        assert_eq!(rest(4, 0), Duration::ZERO);
    }

    #[test]
    fn pauses_double_within_their_chance() {
        let config = ClientConfig { pause: Duration::from_millis(100), ..ClientConfig::default() };
        for (attempt, base) in [(0, 100), (1, 200), (3, 800)] {
            let millis = pause(&config, attempt).as_millis();
            assert!((base..=base * 3 / 2).contains(&millis), "{attempt}: {millis}");
        }
        assert!(pause(&config, 40) <= Duration::from_secs(90));
    }
}
