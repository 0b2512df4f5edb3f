//! Claims: which machine is making a layer that takes long, so that others wait for it.
//!
//! A registry has no locks. A claim is a tag beside the entry's, signed as entries are, that whoever makes
//! the layer writes anew every few seconds until its entry is there. Who would make the same waits while
//! the claim changes; one that stands still is of a machine that died, and no longer counts. So no two
//! clocks are compared. Of two that begin in the same moment one steps back: each looks again a moment
//! after it has written. Claims are a courtesy. What goes wrong with them, or is said by whom nobody trusts,
//! costs no more than the layer being made twice.
//!
//! To look for the entry while one's own run goes on, and to drop that when it comes, was rejected: all
//! machines would do the same work at once, and the slowest would have to kill what it runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::alive::{self, Watched, is_gone, own_name};
use super::entry::{Trust, tag};
use super::read::Shelf;
use super::write::Desk;
use crate::media;
use crate::oci::{OciError, empty_config};
use crate::platform::Platform;
use crate::report::sign::{Envelope, PublicKey};
use crate::ship::ShipError;
use crate::store::Key;

/// What a claim is, and what it is signed as.
const TYPE: &str = "application/vnd.sbx.claim.v1+json";
/// The annotation that its envelope stands in.
const CLAIM: &str = "dev.sbx.claim";
/// Between two looks at somebody's claim: a twentieth of the time that he was waited for, within these.
const LOOK: Duration = Duration::from_secs(1);
const RARE_LOOK: Duration = Duration::from_secs(5);
/// Nobody is waited for longer.
const LONGEST: Duration = Duration::from_secs(30 * 60);
/// Most keys whose claims are looked at.
const SIGNERS: usize = 4;

/// Who makes what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claim {
    key: Key,
    platform: Platform,
    /// A name that one build gives itself.
    who: String,
    /// How often it was said before.
    beat: u64,
    /// It is said anew after so many seconds.
    pause: u64,
    /// The layer is there, or will not be.
    ended: bool,
}

/// Who makes a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Maker {
    Here,
    /// Another machine, and it has.
    Elsewhere,
}

/// What others say of a layer.
#[derive(Default)]
struct Rivals {
    /// Those who make it, by where they say so.
    alive: BTreeMap<String, String>,
    /// Whether one has said that it ended.
    any_ended: bool,
}

/// The claims of one build.
pub(super) struct Claims<'a> {
    desk: &'a Desk<'a>,
    /// What is taken from the repository.
    shelf: Option<&'a Shelf<'a>>,
    /// Whose claims count.
    signers: Vec<Option<PublicKey>>,
    platform: Platform,
    who: String,
    held: Mutex<Held>,
    changed: Condvar,
    /// They cannot be read or written.
    off: AtomicBool,
}

/// What is being made here.
#[derive(Default)]
struct Held {
    claims: BTreeMap<Key, Arc<Mutex<Standing>>>,
    closed: bool,
}

/// A claim that stands. Whoever says it anew holds it meanwhile, and nothing else.
struct Standing {
    since: Instant,
    /// How often it was said.
    beat: u64,
    due: Instant,
    ended: bool,
}

impl Standing {
    fn new() -> Self {
        let now = Instant::now();
        Standing { since: now, beat: 0, due: now, ended: false }
    }
}

impl<'a> Claims<'a> {
    /// Claims count where layers are taken from the same repository, and by whom those are.
    pub(super) fn new(
        desk: &'a Desk<'a>,
        shelf: Option<&'a Shelf<'a>>,
        platform: Platform,
    ) -> Self {
        let own = desk.signer();
        let signers = shelf.map(|shelf| signers(&shelf.trust, own.as_ref())).unwrap_or_default();
        let (held, changed, off) = (Mutex::default(), Condvar::new(), AtomicBool::new(false));
        Claims { desk, shelf, signers, platform, who: own_name(), held, changed, off }
    }

    /// Waits while another machine makes a layer, and claims it where none does. `came` says whether its
    /// entry is there; `waits` hears that there is somebody to wait for.
    pub(super) fn begin(&self, key: &Key, came: &dyn Fn() -> bool, waits: &dyn Fn()) -> Maker {
        // a registry that does not play along is not asked again
        self.try_to_begin(key, came, waits).unwrap_or_else(|_| {
            self.off.store(true, Ordering::Relaxed);
            Maker::Here
        })
    }

    fn try_to_begin(
        &self,
        key: &Key,
        came: &dyn Fn() -> bool,
        waits: &dyn Fn(),
    ) -> Result<Maker, ShipError> {
        let (begun, mut watched, mut told) = (Instant::now(), Watched::default(), false);
        while !self.is_off() && begun.elapsed() < LONGEST {
            let asked = Instant::now();
            let rivals = self.rivals(key, &mut watched)?;
            // the entry goes before the word that it is there
            if (told || rivals.any_ended) && came() {
                return Ok(Maker::Elsewhere);
            }
            if rivals.alive.is_empty() {
                if let Some(maker) = self.claim(key, &mut watched, asked, came)? {
                    return Ok(maker);
                }
            } else if told {
                std::thread::sleep((begun.elapsed() / 20).clamp(LOOK, RARE_LOOK));
            }
            if !std::mem::replace(&mut told, true) {
                waits();
            }
        }
        Ok(Maker::Here)
    }

    /// Claims a layer; `None` where another machine did at the same time.
    fn claim(
        &self,
        key: &Key,
        watched: &mut Watched,
        asked: Instant,
        came: &dyn Fn() -> bool,
    ) -> Result<Option<Maker>, ShipError> {
        let mut standing = Standing::new();
        self.say(key, &mut standing)?;
        if self.is_watching() {
            // whoever asked before this claim was there has written his own by then
            let pause = asked.elapsed() * 2;
            std::thread::sleep(pause.clamp(Duration::from_millis(100), LOOK));
            let rivals = self.rivals(key, watched)?;
            let own = self.tag(key, self.desk.signer().as_ref());
            let loses = |(at, who): (&String, &String)| *at == own || *who < self.who;
            if rivals.alive.iter().any(loses) {
                return Ok(None);
            }
            // where this took long, whoever was faster may be done, and his word written over
            if (rivals.any_ended || asked.elapsed() > LOOK) && came() {
                standing.ended = true;
                self.say(key, &mut standing)?;
                return Ok(Some(Maker::Elsewhere));
            }
        }
        self.held().claims.insert(*key, Arc::new(Mutex::new(standing)));
        self.changed.notify_all();
        Ok(Some(Maker::Here))
    }

    /// The layer is there, or will not be.
    pub(super) fn end(&self, key: &Key) {
        let standing = self.held().claims.remove(key);
        if let Some(standing) = standing {
            let mut standing = lock(&standing);
            standing.ended = true;
            self.say_again(key, &mut standing);
        }
    }

    /// Says again and again what is being made, until it is closed.
    pub(super) fn keep(&self) {
        let mut held = self.held();
        while !held.closed {
            let (now, mut due, mut next) = (Instant::now(), Vec::new(), None);
            for (key, standing) in &held.claims {
                let at = lock(standing).due;
                if at <= now {
                    due.push((*key, Arc::clone(standing)));
                }
                next = Some(next.map_or(at, |next: Instant| next.min(at)));
            }
            // where nothing is said any more, only the end is waited for
            held = match next.filter(|_| !self.is_off()) {
                None => self.changed.wait(held).unwrap_or_else(PoisonError::into_inner),
                Some(next) if due.is_empty() => {
                    let waited = self.changed.wait_timeout(held, next - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                Some(_) => {
                    drop(held);
                    for (key, standing) in due {
                        let mut standing = lock(&standing);
                        // it may have ended meanwhile
                        if !standing.ended {
                            self.say_again(&key, &mut standing);
                        }
                    }
                    self.held()
                }
            };
        }
        let left = std::mem::take(&mut held.claims);
        drop(held);
        for (key, standing) in left {
            let mut standing = lock(&standing);
            standing.ended = true;
            self.say_again(&key, &mut standing);
        }
    }

    pub(super) fn close(&self) {
        self.held().closed = true;
        self.changed.notify_all();
    }

    fn is_off(&self) -> bool {
        self.off.load(Ordering::Relaxed) || self.desk.off.load(Ordering::Relaxed)
    }

    /// Whether others count: what is not taken is not waited for.
    fn is_watching(&self) -> bool {
        self.shelf.is_some_and(|shelf| !shelf.is_off())
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        lock(&self.held)
    }

    fn say_again(&self, key: &Key, standing: &mut Standing) {
        if !self.is_off() && self.say(key, standing).is_err() {
            self.off.store(true, Ordering::Relaxed);
        }
    }

    /// Says a claim once more.
    fn say(&self, key: &Key, standing: &mut Standing) -> Result<(), ShipError> {
        let pause = alive::pause(standing.since.elapsed());
        standing.due = Instant::now() + pause;
        let (who, platform, pause) = (self.who.clone(), self.platform, pause.as_secs());
        let (beat, ended) = (standing.beat, standing.ended);
        standing.beat += 1;
        self.write(&Claim { key: *key, platform, who, beat, pause, ended })
    }

    fn tag(&self, key: &Key, signer: Option<&PublicKey>) -> String {
        let signer = signer.map_or("nobody".to_owned(), |key| key.id().short());
        format!("{}-{signer}", tag(key, self.platform).replacen("key-", "claim-", 1))
    }

    fn write(&self, claim: &Claim) -> Result<(), ShipError> {
        let bytes = serde_json::to_vec(claim).expect("a claim has string keys only");
        let envelope = match &self.desk.key {
            Some(key) => Envelope::sign(key, TYPE, &bytes),
            None => Envelope::bare(TYPE, &bytes),
        };
        let envelope = String::from_utf8(envelope.to_bytes()).expect("an envelope is JSON");
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media::MANIFEST,
            "artifactType": TYPE,
            "config": empty_config(),
            "layers": [empty_config()],
            "annotations": {CLAIM: envelope},
        });
        self.desk.bring_config()?;
        let tag = self.tag(&claim.key, self.desk.signer().as_ref());
        let bytes = manifest.to_string().into_bytes();
        self.desk.registry.put_manifest(&tag, media::MANIFEST, &bytes, || {
            self.desk.forget_config();
            self.desk.bring_config()
        })?;
        Ok(())
    }

    /// What those say of a layer who are believed.
    fn rivals(&self, key: &Key, watched: &mut Watched) -> Result<Rivals, ShipError> {
        let mut rivals = Rivals::default();
        if !self.is_watching() {
            return Ok(rivals);
        }
        for signer in &self.signers {
            let at = self.tag(key, signer.as_ref());
            let Some(claim) = self.read(&at, key, signer.as_ref())? else { continue };
            let (who, now, pause) = (claim.who, Instant::now(), Duration::from_secs(claim.pause));
            if who == self.who {
                continue;
            }
            if claim.ended {
                watched.end(&who, now);
                rivals.any_ended = true;
            } else if watched.is_alive(&who, claim.beat, pause, now) && !is_gone(&who) {
                rivals.alive.insert(at, who);
            }
        }
        Ok(rivals)
    }

    /// One claim; what is none, or of another, says nothing.
    fn read(
        &self,
        at: &str,
        key: &Key,
        signer: Option<&PublicKey>,
    ) -> Result<Option<Claim>, OciError> {
        let document = match self.desk.registry.manifest(at) {
            Err(OciError::Missing { .. }) => return Ok(None),
            document => document?,
        };
        let parse = || -> Option<Claim> {
            let manifest: Value = serde_json::from_slice(&document.bytes).ok()?;
            let envelope = Envelope::parse(manifest["annotations"][CLAIM].as_str()?.as_bytes());
            let envelope = envelope.ok()?;
            let bytes = match signer {
                Some(signer) => envelope.open(signer, TYPE),
                None => envelope.open_unverified(TYPE),
            };
            let claim: Claim = serde_json::from_slice(&bytes.ok()?).ok()?;
            (claim.key == *key && claim.platform == self.platform).then_some(claim)
        };
        Ok(parse())
    }
}

/// Whose claims are looked at, each once, one's own first: machines that share a key are the most.
fn signers(trust: &Trust, own: Option<&PublicKey>) -> Vec<Option<PublicKey>> {
    let is_own = |key: &&PublicKey| own.is_some_and(|own| own.id() == key.id());
    let (first, rest): (Vec<_>, Vec<_>) = trust.keys.iter().partition(is_own);
    let nobody = trust.everybody.then_some(None);
    let keys = first.into_iter().map(Some).chain(nobody).chain(rest.into_iter().map(Some));
    let mut known = BTreeSet::new();
    let new = keys.filter(|key| known.insert(key.map(PublicKey::id)));
    new.take(SIGNERS).map(Option::<&PublicKey>::cloned).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sign::PrivateKey;

    fn key(number: u8) -> PublicKey {
        let key = p256::SecretKey::from_slice(&[number; 32]).unwrap();
        let pem = p256::pkcs8::EncodePrivateKey::to_pkcs8_pem(&key, Default::default()).unwrap();
        PrivateKey::parse(&pem, None).unwrap().public()
    }

    #[test]
    fn claims_of_ones_own_key_are_looked_at_however_many_others_are_trusted() {
        let looked = |keys: &[u8], everybody: bool, own: u8| -> Vec<Option<u8>> {
            let trust = Trust { keys: keys.iter().map(|number| key(*number)).collect(), everybody };
            let found = signers(&trust, Some(&key(own)));
            let number = |one: PublicKey| (1..9).find(|number| key(*number).id() == one.id());
            found.into_iter().map(|one| one.and_then(number)).collect()
        };
        let some = |numbers: [u8; 4]| numbers.map(Some).to_vec();
        assert_eq!(looked(&[1, 2, 3, 4, 5], false, 5), some([5, 1, 2, 3]));
        assert_eq!(looked(&[1, 2, 1, 2, 3, 4], false, 7), some([1, 2, 3, 4]));
        assert_eq!(looked(&[1, 2], true, 2), [Some(2), None, Some(1)]);
    }
}
