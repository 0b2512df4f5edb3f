//! A cache of layers that many machines share: a repository of any registry.
//!
//! Same Key, same layer, on every machine; so whoever has made a layer can spare all others the work.
//! What such a cache says is worth as much as whoever wrote it: entries are signed, and only those of
//! keys that are trusted are taken. A cache is a convenience: nothing that it lacks, refuses or has wrong
//! ends a build, it is told and the layer is made here.

mod alive;
mod claim;
mod entry;
mod known;
mod manifest;
mod read;
mod write;

pub use entry::Trust;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use self::claim::{Claims, Maker};
use self::entry::{EntryError, Vouched};
use self::known::{Known, Spent};
use self::read::Shelf;
use self::write::{Desk, Queue, Untaken, Writer};
use super::ShipError;
use super::push::mounts;
use crate::build::builder::Events;
use crate::build::shared::Shared;
use crate::fetch::{Client, MirrorMap, Progress};
use crate::oci::{Access, Keychain, OciError, Origin, Registry};
use crate::plan::{Plan, Step};
use crate::platform::Platform;
use crate::reference::Repository;
use crate::report::sign::{PrivateKey, PublicKey};
use crate::store::{Key, LayerRecord, Store};

/// Names that a note has room for.
const NAMED: usize = 3;

/// Why a layer that others made is not given on.
const STRANGERS: &str = "who answers for it, or for what it was made over, is not trusted here \
    (`--cache-trust KEY` trusts a key)";

/// What caches are reached with.
#[derive(Clone, Copy)]
pub struct Reach<'a> {
    pub store: &'a Store,
    pub client: &'a Client,
    pub keychain: &'a Keychain,
    pub mirrors: &'a MirrorMap,
}

/// Repositories that layers are taken from, and one that they are put into.
pub struct SharedCache<'a> {
    reach: Reach<'a>,
    shelves: Vec<Shelf<'a>>,
    desk: Option<Desk<'a>>,
}

/// How many layers came out of a cache, and how many were put into it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    pub taken: usize,
    pub given: usize,
}

impl<'a> SharedCache<'a> {
    pub fn new(reach: Reach<'a>) -> Self {
        SharedCache { reach, shelves: Vec::new(), desk: None }
    }

    /// Takes from this repository, too, after those before it.
    pub fn take_from(&mut self, from: &Repository, trust: Trust) -> Result<(), OciError> {
        let Reach { client, keychain, mirrors, .. } = self.reach;
        let reference = from.reference();
        let registry = Registry::new(client, keychain, mirrors, reference)?;
        self.shelves.push(Shelf {
            name: from.to_string(),
            origin: Origin::of_registry(registry.named(from), client, reference),
            trust,
            off: AtomicBool::new(false),
        });
        Ok(())
    }

    /// Puts layers into this repository, signed where there is a key: those that were made here, and
    /// those that a key signed which is trusted.
    pub fn give_to(
        &mut self,
        to: &Repository,
        key: Option<PrivateKey>,
        trusted: &[PublicKey],
        progress: &'a dyn Progress,
    ) -> Result<(), OciError> {
        let Reach { store, client, keychain, .. } = self.reach;
        let registry = Registry::writable(client, keychain, to.reference())?;
        let homes = store.find_homes(registry.host());
        let mounts = mounts(&homes, registry.repository());
        let registry = registry.named(to).with_access(Access::Write { mounts });
        let (name, off) = (to.to_string(), AtomicBool::new(false));
        let believed = trusted.iter().map(PublicKey::id).collect();
        let config = Mutex::default();
        self.desk = Some(Desk { name, registry, homes, key, believed, progress, config, off });
        Ok(())
    }

    /// Whether there is nothing to take from and nothing to put into.
    pub fn is_idle(&self) -> bool {
        self.shelves.is_empty() && self.desk.is_none()
    }

    /// What one plan has to do with it.
    pub fn exchange<'s>(&'s self, plan: &'s Plan, events: &'s dyn Events) -> Exchange<'s> {
        let steps = plan.aside.iter().chain(&plan.steps);
        let desk = self.desk.as_ref();
        let claims = desk.map(|desk| {
            let shelf = self.shelves.iter().find(|shelf| shelf.name == desk.name);
            Claims::new(desk, shelf, plan.platform)
        });
        Exchange {
            reach: self.reach,
            shelves: &self.shelves,
            desk,
            claims,
            platform: plan.platform,
            steps: steps.map(|step| (step.key, step)).collect(),
            events,
            known: Mutex::default(),
            queue: Queue::default(),
            given: AtomicUsize::new(0),
        }
    }
}

/// Layers of one plan, out of a cache and into it.
pub struct Exchange<'a> {
    reach: Reach<'a>,
    shelves: &'a [Shelf<'a>],
    desk: Option<&'a Desk<'a>>,
    /// What is being made for it.
    claims: Option<Claims<'a>>,
    platform: Platform,
    steps: BTreeMap<Key, &'a Step>,
    events: &'a dyn Events,
    known: Mutex<BTreeMap<Key, Known>>,
    queue: Queue,
    given: AtomicUsize,
}

impl Exchange<'_> {
    /// Does some work while what it gives is put into the cache, and waits for the end of both.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        let Some((desk, claims)) = self.desk.zip(self.claims.as_ref()) else { return work() };
        let writer = desk.open(self.reach.store);
        let write = |key: &Key, record: &LayerRecord| {
            self.write(desk, &writer, key, record);
            claims.end(key);
        };
        let done = std::thread::scope(|scope| {
            scope.spawn(|| claims.keep());
            let _closing = Finally(|| claims.close());
            self.queue.during(write, work)
        });
        self.tell_left_out(desk);
        done
    }

    /// Puts all layers of a plan that the store has into the cache, whoever made them. Within
    /// [`Exchange::during`].
    pub fn offer(&self, plan: &Plan) {
        if self.desk.is_none() {
            return;
        }
        let store = self.reach.store;
        for step in plan.aside.iter().chain(&plan.steps) {
            // what is wrong with it, the next build will find and say
            let found = store.find_layer(&step.key, &mut |_| {}).ok().flatten();
            if let Some(record) = found.filter(|one| store.has_listing(one)) {
                self.give(&step.key, &record);
            }
        }
    }

    pub fn tally(&self) -> Tally {
        let taken = lock(&self.known).values().filter(|known| known.taken).count();
        Tally { taken, given: self.given.load(Ordering::Relaxed) }
    }

    /// What is known of a Key, to look at or to change.
    fn known<T>(&self, key: &Key, look: impl FnOnce(&mut Known) -> T) -> T {
        look(lock(&self.known).entry(*key).or_default())
    }

    fn write(&self, desk: &Desk<'_>, writer: &Writer<'_>, key: &Key, record: &LayerRecord) {
        if desk.off.load(Ordering::Relaxed) {
            return;
        }
        let Some(step) = self.steps.get(key) else { return };
        // an entry that did not hold what it promised makes room for a right one
        let at = self.shelves.iter().position(|shelf| shelf.name == desk.name);
        let refused = self.known(key, |known| known.lies(at));
        match writer.put(step, self.platform, record, &refused) {
            Ok(is_new) => drop(self.given.fetch_add(usize::from(is_new), Ordering::Relaxed)),
            Err(Untaken::Layer(error)) => {
                self.known(key, |known| known.left_out = Some(refusal(&error)));
            }
            Err(Untaken::All(error)) if !desk.off.swap(true, Ordering::Relaxed) => {
                let name = &desk.name;
                self.events
                    .note(&format!("nothing is put into cache `{name}`: {}", refusal(&error)));
            }
            Err(Untaken::All(_)) => {}
        }
    }

    fn leave_out(&self, shelf: &Shelf<'_>, error: &EntryError) {
        if !shelf.off.swap(true, Ordering::Relaxed) {
            let reason = match error {
                EntryError::Oci(OciError::Denied { registry, who, .. }) => {
                    format!("{registry} does not let {who} read there")
                }
                error => error.to_string(),
            };
            self.events.note(&format!("nothing is taken from cache `{}`: {reason}", shelf.name));
        }
    }

    /// Asks the shelves from this number on, each for what those before it lack.
    fn ask(&self, first: usize, keys: &[Key]) -> BTreeSet<Key> {
        keys.iter().for_each(|key| self.known(key, |known| known.found = None));
        let (mut left, mut found, mut untaken) = (keys.to_vec(), BTreeSet::new(), Vec::new());
        for (at, shelf) in self.shelves.iter().enumerate().skip(first) {
            if left.is_empty() || shelf.is_off() {
                continue;
            }
            let answers = shelf.look(&left, self.platform);
            let mut failures = answers.iter().filter_map(|(_, answer)| answer.as_ref().err());
            if let Some(error) = failures.find(|error| error.is_of_cache()) {
                self.leave_out(shelf, error);
                continue;
            }
            for (key, answer) in answers {
                match answer {
                    Ok(vouched) => {
                        let all = vouched.unwrap_or_default();
                        if self.known(&key, |known| known.find(at, all)) {
                            found.insert(key);
                        }
                    }
                    Err(error) => untaken.push((at, key, error)),
                }
            }
            left.retain(|key| !found.contains(key));
        }
        // what another cache has is not missed
        self.tell(untaken.into_iter().filter(|(_, key, _)| !found.contains(key)));
        found
    }

    /// Says why layers are not taken, those of one reason together, and each once.
    fn tell(&self, untaken: impl IntoIterator<Item = (usize, Key, EntryError)>) {
        let mut reasons: BTreeMap<(usize, String), Vec<Key>> = BTreeMap::new();
        for (at, key, error) in untaken {
            let reason = (at, with_help(&error));
            if self.known(&key, |known| known.told.insert(reason.clone())) {
                reasons.entry(reason).or_default().push(key);
            }
        }
        for ((at, reason), keys) in reasons {
            let (layers, name) = (self.layers(keys), &self.shelves[at].name);
            self.events.note(&format!("cache `{name}` has {layers}, not taken: {reason}"));
        }
    }

    /// Takes the first of those on a shelf that holds what it promises. Where none does, the shelves behind it
    /// may have a better one; where that is this machine's fault, nobody has.
    fn take_from(&self, at: usize, all: Vec<Vouched>, step: &Step) -> Result<LayerRecord, Next> {
        let (shelf, key) = (&self.shelves[at], &step.key);
        let mut failure = None;
        for vouched in all {
            if shelf.is_off() {
                return Err(Next::Shelf);
            }
            match shelf.take(&vouched, step, self.reach.store, self.events) {
                Ok((record, untold)) => {
                    self.receive(at, &vouched, untold, step);
                    return Ok(record);
                }
                Err(error) if error.is_of_cache() => {
                    self.leave_out(shelf, &error);
                    return Err(Next::Shelf);
                }
                Err(error) => {
                    let lied = !error.is_of_machine();
                    let spent = Spent { at, entry: vouched.entry, lied };
                    self.known(key, |known| known.spent.push(spent));
                    failure = Some(error);
                    if !lied {
                        break;
                    }
                }
            }
        }
        let is_own = failure.as_ref().is_some_and(EntryError::is_of_machine);
        self.tell(failure.map(|error| (at, *key, error)));
        Err(if is_own { Next::Nobody } else { Next::Shelf })
    }

    /// A layer came, with what its entry says of its sources or without.
    fn receive(&self, at: usize, vouched: &Vouched, untold: Option<EntryError>, step: &Step) {
        let (shelf, key) = (&self.shelves[at], &step.key);
        let own = self.desk.filter(|desk| desk.name == shelf.name);
        let own = own.filter(|desk| desk.is_own(&vouched.voucher));
        self.known(key, |known| known.taken = true);
        match untold {
            None => own.into_iter().for_each(|_| self.queue.pass(key)),
            Some(error) => {
                let (layer, name) = (&step.layer, &shelf.name);
                self.events.note(&format!(
                    "cache `{name}` has layer `{layer}`, taken, but not all of it: {error}"
                ));
                if own.is_some() {
                    let spent = Spent { at, entry: vouched.entry.clone(), lied: true };
                    self.known(key, |known| known.spent.push(spent));
                }
            }
        }
    }

    /// Whether what is made over the layers below a step is given on.
    fn gives_over(&self, key: &Key) -> bool {
        let Some((desk, step)) = self.desk.zip(self.steps.get(key)) else { return false };
        let below = step
            .below
            .iter()
            .filter_map(|below| self.reach.store.find_layer(below, &mut |_| {}).ok().flatten());
        below.flat_map(|record| record.vouchers).all(|voucher| desk.believes(&voucher))
    }

    /// Says what is not put there, for one reason together.
    fn tell_left_out(&self, desk: &Desk<'_>) {
        let mut reasons: BTreeMap<String, Vec<Key>> = BTreeMap::new();
        for (key, known) in lock(&self.known).iter_mut() {
            if let Some(reason) = known.left_out.take() {
                reasons.entry(reason).or_default().push(*key);
            }
        }
        for (reason, keys) in reasons {
            let (layers, name) = (self.layers(keys), &desk.name);
            self.events.note(&format!("{layers} is not put into cache `{name}`: {reason}"));
        }
    }

    /// Names of layers, as far as there is room.
    fn layers(&self, keys: impl IntoIterator<Item = Key>) -> String {
        let steps = keys.into_iter().filter_map(|key| self.steps.get(&key));
        let names: BTreeSet<String> = steps.map(|step| format!("`{}`", step.layer)).collect();
        let more = names.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let names: Vec<String> = names.into_iter().take(NAMED).collect();
        format!("layer {}{more}", names.join(", "))
    }
}

impl Shared for Exchange<'_> {
    fn look(&self, keys: &[Key]) -> BTreeSet<Key> {
        self.ask(0, keys)
    }

    fn take(&self, key: &Key) -> Option<LayerRecord> {
        let step = self.steps.get(key)?;
        while let Some((at, all)) = self.known(key, |known| known.found.take()) {
            match self.take_from(at, all, step) {
                Ok(record) => return Some(record),
                Err(Next::Shelf) => drop(self.ask(at + 1, &[*key])),
                Err(Next::Nobody) => break,
            }
        }
        None
    }

    fn give(&self, key: &Key, record: &LayerRecord) {
        let is_own = record.packed.is_none() && self.steps.contains_key(key);
        let Some(desk) = self.desk.filter(|_| is_own) else { return };
        if record.vouchers.iter().all(|voucher| desk.believes(voucher)) {
            self.queue.add(key, record);
        } else {
            self.known(key, |known| known.left_out = Some(STRANGERS.to_owned()));
            self.abandon(key);
        }
    }

    fn begin(&self, key: &Key) -> bool {
        let Some(claims) = self.claims.as_ref().filter(|_| self.gives_over(key)) else {
            return false;
        };
        let came = || self.look(&[*key]).contains(key);
        let waits = || {
            let layer = self.steps.get(key).map_or("", |step| step.layer.as_str());
            self.events
                .note(&format!("layer `{layer}`: another machine makes it, and is waited for"));
        };
        claims.begin(key, &came, &waits) == Maker::Elsewhere
    }

    fn abandon(&self, key: &Key) {
        if let Some(claims) = &self.claims {
            claims.end(key);
        }
    }

    fn took(&self, key: &Key) -> bool {
        self.known(key, |known| known.taken)
    }
}

/// Where a layer may be taken that did not come.
enum Next {
    /// From a cache behind this one.
    Shelf,
    Nobody,
}

/// What is done when a scope ends, however it does.
struct Finally<F: Fn()>(F);

impl<F: Fn()> Drop for Finally<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

fn with_help(error: &EntryError) -> String {
    let help = error.help().map(|help| format!(" ({help})")).unwrap_or_default();
    format!("{error}{help}")
}

fn refusal(error: &ShipError) -> String {
    match error {
        ShipError::Oci(OciError::Denied { registry, who, .. }) => {
            format!("{registry} does not let {who} write there")
        }
        error => error.to_string(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
