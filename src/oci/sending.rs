//! One blob on its way up: a session that is opened, filled, taken up again and ended.
//!
//! A stream is one PATCH, as docker's and containers' own tools send it, so every registry takes it; its
//! length and digest need not be known before its end. Where it breaks off, the registry is asked how
//! much it has, and the rest follows; where it has forgotten, everything goes again.
//!
//! A session that is refused or forgotten may have lost against another one: of two that send one blob at
//! once, some registries take one and refuse the other. So whether the blob is there is asked first after
//! that, and then it goes again, a few times, if its bytes are what they should be.
//!
//! Sessions may lead to other hosts (storage behind a registry): no token goes there.

use std::cmp::Ordering;
use std::io::{self, Read};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use url::Url;

use super::error::OciError;
use super::registry::Registry;
use super::upload::{Supplied, Supply};
use crate::digest::Digest;
use crate::fetch::{Answer, FetchError, Letter, Method, Progress, Refusal, without_label};

/// Blobs of at most so many bytes go up in one request.
const SMALL: u64 = 1 << 20;
/// How many times longer than usual a registry may take to judge a blob.
const JUDGEMENT: u32 = 10;
/// How often a registry may refuse one blob that is whole, and the pause after the first time.
const REFUSALS: u32 = 2;
const PAUSE: Duration = Duration::from_millis(50);
const OCTETS: &str = "application/octet-stream";

impl Registry<'_> {
    /// Brings a blob in that is not there, into a session that is open or a new one. Answers whether its
    /// bytes travelled: it may turn out to be there once its digest is known.
    pub fn upload(
        &self,
        supply: &dyn Supply,
        session: Option<Url>,
        progress: &dyn Progress,
    ) -> Result<bool, OciError> {
        let asked = supply.known();
        let mut upload = Upload {
            registry: self,
            supply,
            session: session.map_or(Session::None, Session::Open),
            sent: 0,
            given: 0,
            told: 0,
            refusals: 0,
            whole_refused: false,
            asked,
        };
        let (mut tried, mut best) = (0, 0);
        loop {
            let (error, wait) = match upload.go_on(progress) {
                Ok(travelled) => return Ok(travelled),
                Err(Trouble::Again(error, wait)) => (error, wait),
                Err(Trouble::Final(error)) => return Err(error),
            };
            tried = if upload.sent > best { 1 } else { tried + 1 };
            best = best.max(upload.sent);
            let label = supply.label();
            // a token that ended is no refusal: there is another one
            if !matches!(error, OciError::Denied { .. }) {
                progress.retried(label, without_label(label, &error.to_string()));
            }
            if !self.client.wait(tried, wait) {
                return Err(error);
            }
        }
    }
}

/// A blob on its way.
struct Upload<'a> {
    registry: &'a Registry<'a>,
    supply: &'a dyn Supply,
    session: Session,
    /// Bytes that the registry is known to have.
    sent: u64,
    /// Up to where it was ever given any in this session: it cannot have more.
    given: u64,
    /// Up to where somebody heard of them.
    told: u64,
    /// How often it did not take the whole at the end of a session.
    refusals: u32,
    /// Whether it did not take the whole in the request that ends a session.
    whole_refused: bool,
    /// What the registry was already asked for.
    asked: Option<Supplied>,
}

/// Where a blob goes.
#[derive(Clone)]
enum Session {
    None,
    Open(Url),
    /// It may have more than is known.
    Doubtful(Url),
}

enum Trouble {
    Again(OciError, Option<Duration>),
    Final(OciError),
}

impl From<OciError> for Trouble {
    fn from(error: OciError) -> Self {
        Trouble::Final(error)
    }
}

impl Upload<'_> {
    /// Goes on where the registry is, to the end. Answers whether bytes travelled.
    fn go_on(&mut self, progress: &dyn Progress) -> Result<bool, Trouble> {
        if matches!(self.session, Session::None)
            && let Some(known) = self.supply.known()
            && self.is_there(known)?
        {
            return Ok(false);
        }
        let mut place = self.place()?;
        loop {
            if let Some(known) = self.supply.known() {
                match self.sent.cmp(&known.size) {
                    Ordering::Less => {}
                    Ordering::Equal => return self.finish(place, known),
                    Ordering::Greater => return Err(self.misfit()),
                }
                if self.is_there(known)? {
                    self.cancel(&place);
                    return Ok(false);
                }
                let whole = !self.whole_refused && self.registry.takes_whole.load(Relaxed);
                if self.sent == 0 && known.size <= SMALL && whole {
                    return self.send_whole(&place, known);
                }
            }
            let before = self.sent;
            place = self.pour(&place, progress)?;
            // what ends without a byte is whole, or will never be
            let is_whole = |known: Supplied| known.size == self.sent;
            if self.sent == before && !self.supply.known().is_some_and(is_whole) {
                return Err(self.misfit());
            }
        }
    }

    /// A session: the one that is open, asked how far it came, or a new one.
    fn place(&mut self) -> Result<Url, Trouble> {
        match self.session.clone() {
            Session::None => {}
            Session::Open(place) => return Ok(place),
            Session::Doubtful(place) => {
                if let Some(place) = self.resume(&place) {
                    return Ok(place);
                }
            }
        }
        (self.session, self.sent, self.given) = (Session::None, 0, 0);
        let label = self.supply.label();
        let url = self.registry.uploads();
        let answer = self.registry.write(&Letter::new(label, Method::POST, &url), b"");
        let answer = answer.map_err(|error| self.registry.no_repository(error))?;
        Ok(self.registry.next_place(&answer)?.ok_or_else(|| self.odd("opens no session"))?)
    }

    /// Asks a session how much it has.
    fn resume(&mut self, place: &Url) -> Option<Url> {
        let label = self.supply.label();
        let answer = self.registry.write(&Letter::new(label, Method::GET, place), b"").ok()?;
        let last: u64 = answer.header("range")?.rsplit('-').next()?.parse().ok()?;
        // nothing and one byte look alike
        let has = if last == 0 { return None } else { last.checked_add(1)? };
        if has > self.given {
            return None;
        }
        self.sent = has;
        Some(self.registry.next_place(&answer).ok()?.unwrap_or_else(|| place.clone()))
    }

    /// Nothing is there any more, and whether the blob is, is asked anew.
    fn restart(&mut self) {
        (self.session, self.sent, self.given, self.asked) = (Session::None, 0, 0, None);
    }

    /// Once what it is has become known on the way, it may turn out to be there.
    fn is_there(&mut self, known: Supplied) -> Result<bool, OciError> {
        if self.asked.replace(known).is_some() {
            return Ok(false);
        }
        self.registry.has_blob(self.supply.label(), &known)
    }

    /// What a session holds is the registry's to forget; it does so by itself sooner or later.
    fn cancel(&self, place: &Url) {
        let own = self.registry.is_own(place);
        let letter = Letter {
            authorization: self.registry.known().filter(|_| own),
            ..Letter::new(self.supply.label(), Method::DELETE, place)
        };
        // once: nobody waits for it
        self.registry.client.stream(&letter, &mut io::empty(), Some(0)).map(drop).unwrap_or(());
    }

    fn read_all(&self, known: Supplied) -> Result<Vec<u8>, Trouble> {
        let mut body = Vec::new();
        let read = self.supply.open(0).and_then(|mut bytes| bytes.read_to_end(&mut body));
        read.map_err(|error| Trouble::Final(self.unreadable(&error)))?;
        self.compare(Digest::of(&body), known)?;
        Ok(body)
    }

    /// Sends what follows of a blob, and answers where to go on.
    fn pour(&mut self, place: &Url, progress: &dyn Progress) -> Result<Url, Trouble> {
        self.session = Session::Open(place.clone());
        let body = self.supply.open(self.sent);
        let body = body.map_err(|error| Trouble::Final(self.unreadable(&error)))?;
        let mut body = Counted { body, at: self.sent, told: self.told, progress };
        let known = self.supply.known().filter(|_| self.sent > 0);
        let own = self.registry.is_own(place);
        let letter = Letter {
            media_type: Some(OCTETS),
            authorization: self.registry.known().filter(|_| own),
            range: known.map(|known| (self.sent, known.size - 1)),
            ..Letter::new(self.supply.label(), Method::PATCH, place)
        };
        let streamed = self.registry.client.stream(&letter, &mut body, None);
        let (at, told) = (body.at, body.told);
        (self.given, self.told) = (self.given.max(at), told);
        let answer = streamed.map_err(|refusal| self.judge(refusal, &letter))?;
        self.sent = at;
        let next = self.registry.next_place(&answer)?.unwrap_or_else(|| place.clone());
        self.session = Session::Open(next.clone());
        Ok(next)
    }

    /// Sends a small blob with its end. Not every registry takes that: one that does not gets it as a stream,
    /// and all further ones.
    fn send_whole(&mut self, place: &Url, known: Supplied) -> Result<bool, Trouble> {
        let body = self.read_all(known)?;
        let end = end_of(place, &known);
        let own = self.registry.is_own(&end);
        let letter = Letter {
            media_type: Some(OCTETS),
            authorization: self.registry.known().filter(|_| own),
            ..Letter::new(self.supply.label(), Method::PUT, &end)
        };
        let streamed = self.registry.client.stream(&letter, &mut &*body, Some(known.size));
        let refusal = match streamed {
            Ok(answer) => return self.judge_answer(&answer, known),
            Err(refusal) => refusal,
        };
        if let Refusal::Final(error) | Refusal::Again(error, _) = &refusal
            && matches!(error, FetchError::Status { status, .. } if ![401, 403, 429].contains(status))
        {
            self.whole_refused = true;
        }
        let trouble = self.judge(refusal, &letter);
        self.restart();
        match trouble {
            Trouble::Final(error @ OciError::Fetch(FetchError::Status { .. }))
                if self.whole_refused =>
            {
                Err(Trouble::Again(error, Some(Duration::ZERO)))
            }
            trouble => Err(trouble),
        }
    }

    /// Has the registry judge the whole.
    fn finish(&mut self, place: Url, known: Supplied) -> Result<bool, Trouble> {
        let end = end_of(&place, &known);
        let letter = Letter {
            media_type: Some(OCTETS),
            patience: JUDGEMENT,
            ..Letter::new(self.supply.label(), Method::PUT, &end)
        };
        match self.registry.write(&letter, b"") {
            Ok(answer) => {
                // what it takes as a stream alone, all that follows is
                if self.whole_refused {
                    self.registry.takes_whole.store(false, Relaxed);
                }
                self.judge_answer(&answer, known)
            }
            Err(error) => Err(self.judge_end(error, place, known)),
        }
    }

    fn judge_answer(&self, answer: &Answer, known: Supplied) -> Result<bool, Trouble> {
        match answer.header("docker-content-digest").and_then(|text| text.parse().ok()) {
            Some(found) if found != known.digest => Err(Trouble::Final(OciError::Digest {
                image: self.registry.image.clone(),
                what: "the registry, asked to store a blob,",
                expected: known.digest,
                found,
            })),
            // 201 is the specification's word for it; whoever says something else is asked
            _ if answer.status != 201
                && !self.registry.has_blob(self.supply.label(), &known)? =>
            {
                Err(Trouble::Final(self.odd("says that it took a blob, and does not have it")))
            }
            _ => Ok(true),
        }
    }

    /// The end may have been taken though its answer was lost; a session may be forgotten, or hold
    /// something else than was sent; or another one brought the blob in at the same time.
    fn judge_end(&mut self, error: OciError, place: Url, known: Supplied) -> Trouble {
        self.restart();
        match &error {
            OciError::Missing { .. } => Trouble::Again(self.odd("forgot the session"), None),
            OciError::Fetch(FetchError::Status { status: 400 | 409 | 416, .. })
                if self.refusals < REFUSALS =>
            {
                self.refusals += 1;
                self.cancel(&place);
                match self.check(known) {
                    Ok(()) => Trouble::Again(error, Some(PAUSE * self.refusals)),
                    Err(own) => own,
                }
            }
            _ => Trouble::Final(error),
        }
    }

    /// Whether what is sent is what it should be.
    fn check(&self, known: Supplied) -> Result<(), Trouble> {
        let found = self.supply.open(0).and_then(Digest::of_reader);
        self.compare(found.map_err(|error| Trouble::Final(self.unreadable(&error)))?, known)
    }

    /// What there is to send is shorter or longer than it should be.
    fn misfit(&self) -> Trouble {
        let short = || Trouble::Final(self.unreadable(&io::ErrorKind::UnexpectedEof.into()));
        let checked = self.supply.known().map_or(Ok(()), |known| self.check(known));
        checked.err().unwrap_or_else(short)
    }

    fn compare(&self, found: Digest, known: Supplied) -> Result<(), Trouble> {
        let (image, expected) = (self.registry.image.clone(), known.digest);
        match found == expected {
            true => Ok(()),
            false => {
                let what = "the store";
                Err(Trouble::Final(OciError::Digest { image, what, expected, found }))
            }
        }
    }

    fn judge(&mut self, refusal: Refusal, letter: &Letter<'_>) -> Trouble {
        let registry = self.registry;
        match refusal {
            // what another host demands is not answered
            Refusal::Final(error) if !registry.is_own(letter.url) && error.is_barred() => {
                Trouble::Final(registry.judge(error.from_elsewhere(&registry.base)))
            }
            Refusal::Again(error, wait) => {
                // how much arrived, only the registry knows
                self.session = Session::Doubtful(letter.url.clone());
                Trouble::Again(registry.judge(error), wait)
            }
            Refusal::Source(error) => Trouble::Final(self.unreadable(&error)),
            Refusal::Final(FetchError::Unauthorized { challenge, said, .. }) => {
                self.session = Session::Doubtful(letter.url.clone());
                match registry.renew(&challenge, letter.authorization.as_deref()) {
                    Ok(pass) => {
                        Trouble::Again(registry.denied(said, pass.is_user), Some(Duration::ZERO))
                    }
                    Err(error) => Trouble::Final(error),
                }
            }
            Refusal::Final(error) if error.is_gone() => {
                self.restart();
                Trouble::Again(self.odd("forgot the session"), None)
            }
            Refusal::Final(error @ FetchError::Status { status: 400 | 409 | 416, .. }) => {
                (self.session, self.asked) = (Session::Doubtful(letter.url.clone()), None);
                Trouble::Again(registry.judge(error), None)
            }
            Refusal::Final(error) => Trouble::Final(registry.judge(error)),
        }
    }

    fn odd(&self, what: &'static str) -> OciError {
        let (image, registry) = (self.registry.image.clone(), self.registry.host.clone());
        OciError::Session { image, registry, what }
    }

    fn unreadable(&self, error: &io::Error) -> OciError {
        let (image, blob) = (self.registry.image.clone(), self.supply.label().to_owned());
        OciError::Source { image, blob, reason: error.to_string() }
    }
}

/// Where a session ends with a blob.
fn end_of(place: &Url, known: &Supplied) -> Url {
    let mut end = place.clone();
    end.query_pairs_mut().append_pair("digest", &known.digest.to_string());
    end
}

/// What goes out, each byte told of once, however often it goes.
struct Counted<'a> {
    body: Box<dyn Read + 'a>,
    at: u64,
    told: u64,
    progress: &'a dyn Progress,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.body.read(buffer)?;
        self.at += count as u64;
        self.progress.advanced(self.at.saturating_sub(self.told));
        self.told = self.told.max(self.at);
        Ok(count)
    }
}
