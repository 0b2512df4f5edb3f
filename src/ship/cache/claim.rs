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
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::entry::{Trust, tag};
use super::manifest::empty;
use super::write::Desk;
use crate::image::MEDIA_MANIFEST;
use crate::oci::OciError;
use crate::platform::Platform;
use crate::report::sign::{Envelope, PublicKey};
use crate::ship::ShipError;
use crate::store::Key;

/// What a claim is, and what it is signed as.
const TYPE: &str = "application/vnd.sbx.claim.v1+json";
/// The annotation that its envelope stands in.
const CLAIM: &str = "dev.sbx.claim";
/// A claim is written anew after so long.
const BEAT: Duration = Duration::from_secs(3);
/// One that stood still for so long no longer counts.
const STALE: Duration = Duration::from_secs(10);
/// Between two looks at somebody's claim.
const LOOK: Duration = Duration::from_secs(1);
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
    /// How often it was written.
    beat: u64,
    /// The layer is there, or will not be.
    ended: bool,
}

/// What came of the wish to make a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is to be made here.
    Ours,
    /// Another machine has made it.
    Theirs,
}

/// What others say of a layer, by where they say it.
#[derive(Default)]
struct Rivals {
    alive: BTreeMap<String, Claim>,
    /// Whether one has said that it ended.
    any_ended: bool,
}

/// The claims of one build.
pub(super) struct Claims<'a> {
    desk: &'a Desk<'a>,
    /// Whose claims count; none where nothing is taken from the repository.
    trust: Option<&'a Trust>,
    platform: Platform,
    who: String,
    state: Mutex<State>,
    changed: Condvar,
    /// They cannot be read or written.
    off: AtomicBool,
}

#[derive(Default)]
struct State {
    /// What is being made here, and how often that was said.
    held: BTreeMap<Key, u64>,
    closed: bool,
}

impl<'a> Claims<'a> {
    pub(super) fn new(desk: &'a Desk<'a>, trust: Option<&'a Trust>, platform: Platform) -> Self {
        let dice = || RandomState::new().hash_one(std::process::id());
        let who = format!("{:016x}{:016x}", dice(), dice());
        let (state, changed) = (Mutex::default(), Condvar::new());
        Claims { desk, trust, platform, who, state, changed, off: AtomicBool::new(false) }
    }

    /// Waits while another machine makes a layer, and claims it where none does. `came` says whether its
    /// entry is there; `waits` hears that there is somebody to wait for.
    pub(super) fn begin(&self, key: &Key, came: &dyn Fn() -> bool, waits: &dyn Fn()) -> Turn {
        // a registry that does not play along is not asked again
        self.try_to_begin(key, came, waits).unwrap_or_else(|_| {
            self.off.store(true, Ordering::Relaxed);
            Turn::Ours
        })
    }

    fn try_to_begin(
        &self,
        key: &Key,
        came: &dyn Fn() -> bool,
        waits: &dyn Fn(),
    ) -> Result<Turn, ShipError> {
        let (begun, mut dead, mut told) = (Instant::now(), BTreeSet::new(), false);
        while !self.is_off() && begun.elapsed() < LONGEST {
            let asked = Instant::now();
            let rivals = self.rivals(key, &dead)?;
            if rivals.any_ended && came() {
                return Ok(Turn::Theirs);
            }
            if rivals.alive.is_empty() && self.claim(key, &dead, asked)? {
                return Ok(Turn::Ours);
            }
            if !std::mem::replace(&mut told, true) {
                waits();
            }
            if self.watch(key, &mut dead, begun, came)? == Turn::Theirs {
                return Ok(Turn::Theirs);
            }
        }
        Ok(Turn::Ours)
    }

    /// Waits until the entry is there, or nobody is left who would bring it.
    fn watch(
        &self,
        key: &Key,
        dead: &mut BTreeSet<(String, u64)>,
        begun: Instant,
        came: &dyn Fn() -> bool,
    ) -> Result<Turn, ShipError> {
        let (mut seen, mut since) = (BTreeMap::new(), Instant::now());
        while begun.elapsed() < LONGEST {
            if came() {
                return Ok(Turn::Theirs);
            }
            let alive = self.rivals(key, dead)?.alive;
            if alive.is_empty() {
                // the entry goes before the word that it is there
                return Ok(if came() { Turn::Theirs } else { Turn::Ours });
            }
            if alive != seen {
                (seen, since) = (alive, Instant::now());
            } else if since.elapsed() > STALE {
                dead.extend(seen.into_values().map(|claim| (claim.who, claim.beat)));
                return Ok(Turn::Ours);
            }
            std::thread::sleep(LOOK);
        }
        Ok(Turn::Ours)
    }

    /// Claims a layer; answers whether nobody else did at the same time.
    fn claim(
        &self,
        key: &Key,
        dead: &BTreeSet<(String, u64)>,
        asked: Instant,
    ) -> Result<bool, ShipError> {
        self.write(key, 0, false)?;
        if self.trust.is_some() {
            // whoever asked before this claim was there has written his own by then
            let pause = asked.elapsed() * 2;
            std::thread::sleep(pause.clamp(Duration::from_millis(100), LOOK));
            let alive = self.rivals(key, dead)?.alive;
            let own = self.tag(key, self.desk.signer().as_ref());
            let loses = |(at, claim): (&String, &Claim)| *at == own || claim.who < self.who;
            if alive.iter().any(loses) {
                return Ok(false);
            }
        }
        self.state().held.insert(*key, 0);
        Ok(true)
    }

    /// The layer is there, or will not be.
    pub(super) fn end(&self, key: &Key) {
        let mut state = self.state();
        if let Some(beat) = state.held.remove(key).filter(|_| !self.is_off()) {
            self.write(key, beat + 1, true).unwrap_or_default();
        }
    }

    /// Says again and again what is being made, until it is closed.
    pub(super) fn keep(&self) {
        let mut state = self.state();
        while !state.closed {
            let waited = self.changed.wait_timeout(state, BEAT);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            let closed = state.closed;
            for (key, beat) in &mut state.held {
                *beat += 1;
                if !self.is_off() {
                    self.write(key, *beat, closed).unwrap_or_default();
                }
            }
        }
    }

    pub(super) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    fn is_off(&self) -> bool {
        self.off.load(Ordering::Relaxed) || self.desk.off.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tag(&self, key: &Key, signer: Option<&PublicKey>) -> String {
        let signer = signer.map_or("nobody".to_owned(), |key| key.id().short());
        format!("{}-{signer}", tag(key, self.platform).replacen("key-", "claim-", 1))
    }

    fn write(&self, key: &Key, beat: u64, ended: bool) -> Result<(), ShipError> {
        let (who, platform) = (self.who.clone(), self.platform);
        let claim = Claim { key: *key, platform, who, beat, ended };
        let bytes = serde_json::to_vec(&claim).expect("a claim has string keys only");
        let envelope = match &self.desk.key {
            Some(key) => Envelope::sign(key, TYPE, &bytes),
            None => Envelope::bare(TYPE, &bytes),
        };
        let envelope = String::from_utf8(envelope.to_bytes()).expect("an envelope is JSON");
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MEDIA_MANIFEST,
            "artifactType": TYPE,
            "config": empty(),
            "layers": [empty()],
            "annotations": {CLAIM: envelope},
        });
        self.desk.bring_config()?;
        let tag = self.tag(key, self.desk.signer().as_ref());
        let bytes = manifest.to_string().into_bytes();
        self.desk.registry.put_manifest(&tag, MEDIA_MANIFEST, &bytes, || {
            self.desk.forget_config();
            self.desk.bring_config()
        })?;
        Ok(())
    }

    /// What those say of a layer who are believed, but for the dead.
    fn rivals(&self, key: &Key, dead: &BTreeSet<(String, u64)>) -> Result<Rivals, ShipError> {
        let mut rivals = Rivals::default();
        let Some(trust) = self.trust else { return Ok(rivals) };
        let mut signers: Vec<Option<&PublicKey>> = trust.keys.iter().map(Some).collect();
        if trust.everybody {
            signers.insert(0, None);
        }
        signers.dedup();
        for signer in signers.into_iter().take(SIGNERS) {
            let at = self.tag(key, signer);
            let Some(claim) = self.read(&at, key, signer)? else { continue };
            if claim.who == self.who || dead.contains(&(claim.who.clone(), claim.beat)) {
                continue;
            }
            match claim.ended {
                true => rivals.any_ended = true,
                false => drop(rivals.alive.insert(at, claim)),
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
