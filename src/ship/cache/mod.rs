//! A cache of layers that many machines share: a repository of any registry.
//!
//! Same Key, same layer, on every machine; so whoever has made a layer can spare all others the work.
//! What such a cache says is worth as much as whoever wrote it: entries are signed, and only those of
//! keys that are trusted are taken. A cache is a convenience: nothing that it lacks, refuses or has wrong
//! ends a build, it is told and the layer is made here.

mod claim;
mod entry;
mod manifest;
mod read;
mod write;

pub use entry::Trust;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use self::claim::{Claims, Turn};
use self::entry::{Entry, EntryError, Vouched};
use self::read::Shelf;
use self::write::{Desk, Queue, Writer};
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
            origin: Origin::of_registry(registry, client, reference),
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
        let registry = registry.with_access(Access::Write { mounts });
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
            Claims::new(desk, shelf.map(|shelf| &shelf.trust), plan.platform)
        });
        Exchange {
            reach: self.reach,
            shelves: &self.shelves,
            desk,
            claims,
            platform: plan.platform,
            steps: steps.map(|step| (step.key, step)).collect(),
            events,
            found: Mutex::default(),
            refused: Mutex::default(),
            left_out: Mutex::default(),
            told: Mutex::default(),
            queue: Queue::default(),
            taken: Mutex::default(),
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
    /// By the number of the shelf.
    found: Mutex<BTreeMap<Key, (usize, Vec<Vouched>)>>,
    /// What lies where layers are put, and must not.
    refused: Mutex<BTreeMap<Key, Vec<Entry>>>,
    /// What is not put there, for whoever answers for it.
    left_out: Mutex<BTreeSet<Key>>,
    /// What was not taken, and that was said.
    told: Mutex<BTreeSet<Key>>,
    queue: Queue,
    taken: Mutex<BTreeSet<Key>>,
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
            let _closing = Closing(claims);
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
        Tally { taken: lock(&self.taken).len(), given: self.given.load(Ordering::Relaxed) }
    }

    fn write(&self, desk: &Desk<'_>, writer: &Writer<'_>, key: &Key, record: &LayerRecord) {
        if desk.off.load(Ordering::Relaxed) {
            return;
        }
        let Some(step) = self.steps.get(key) else { return };
        let refused = lock(&self.refused).get(key).cloned().unwrap_or_default();
        match writer.put(step, self.platform, record, &refused) {
            Ok(is_new) => drop(self.given.fetch_add(usize::from(is_new), Ordering::Relaxed)),
            Err(error) if !desk.off.swap(true, Ordering::Relaxed) => {
                let name = &desk.name;
                self.events
                    .note(&format!("nothing is put into cache `{name}`: {}", refusal(&error)));
            }
            Err(_) => {}
        }
    }

    /// An entry that did not hold what it promised makes room for a right one.
    fn refuse(&self, shelf: &Shelf<'_>, key: &Key, entry: &Entry) {
        if self.desk.is_some_and(|desk| desk.name == shelf.name) {
            lock(&self.refused).entry(*key).or_default().push(entry.clone());
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

    /// Says why layers are not taken, those of one reason together.
    fn tell(&self, shelf: &Shelf<'_>, reasons: BTreeMap<String, Vec<Key>>) {
        for (reason, keys) in reasons {
            let (layers, name) = (self.layers(keys), &shelf.name);
            self.events.note(&format!("cache `{name}` has {layers}, not taken: {reason}"));
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

    fn tell_left_out(&self, desk: &Desk<'_>) {
        let keys = std::mem::take(&mut *lock(&self.left_out));
        if !keys.is_empty() {
            let (layers, name) = (self.layers(keys), &desk.name);
            self.events.note(&format!(
                "{layers} is not put into cache `{name}`: who answers for it, or for what it was made \
                 over, is not trusted here (`--cache-trust KEY` trusts a key)"
            ));
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
        let mut left = keys.to_vec();
        left.retain(|key| !lock(&self.told).contains(key));
        for (at, shelf) in self.shelves.iter().enumerate() {
            if left.is_empty() || shelf.off.load(Ordering::Relaxed) {
                continue;
            }
            let mut reasons: BTreeMap<String, Vec<Key>> = BTreeMap::new();
            for (key, answer) in shelf.look(&left, self.platform) {
                match answer {
                    Ok(None) => {}
                    Ok(Some(vouched)) => drop(lock(&self.found).insert(key, (at, vouched))),
                    Err(error) if error.is_of_cache() => self.leave_out(shelf, &error),
                    Err(error) => {
                        lock(&self.told).insert(key);
                        reasons.entry(with_help(&error)).or_default().push(key);
                    }
                }
            }
            self.tell(shelf, reasons);
            let found = lock(&self.found);
            left.retain(|key| !found.contains_key(key));
        }
        let found = lock(&self.found);
        keys.iter().filter(|key| found.contains_key(key)).copied().collect()
    }

    fn take(&self, key: &Key) -> Option<LayerRecord> {
        let (at, all) = lock(&self.found).get(key).cloned()?;
        let (shelf, step) = (&self.shelves[at], self.steps.get(key)?);
        let mut failure = None;
        for vouched in all {
            if shelf.off.load(Ordering::Relaxed) {
                return None;
            }
            match shelf.take(&vouched, step, self.reach.store, self.events) {
                Ok(record) => {
                    lock(&self.taken).insert(*key);
                    if self.desk.is_some_and(|desk| desk.name == shelf.name) {
                        self.queue.pass(key);
                    }
                    return Some(record);
                }
                Err(error) if error.is_of_cache() => {
                    self.leave_out(shelf, &error);
                    return None;
                }
                Err(error) => {
                    self.refuse(shelf, key, &vouched.entry);
                    failure = Some(error);
                }
            }
        }
        lock(&self.told).insert(*key);
        lock(&self.found).remove(key);
        let reason = failure.map(|error| with_help(&error)).unwrap_or_default();
        self.tell(shelf, BTreeMap::from([(reason, vec![*key])]));
        None
    }

    fn give(&self, key: &Key, record: &LayerRecord) {
        let is_own = record.packed.is_none() && self.steps.contains_key(key);
        let Some(desk) = self.desk.filter(|_| is_own) else { return };
        if record.vouchers.iter().all(|voucher| desk.believes(voucher)) {
            self.queue.add(key, record);
        } else {
            lock(&self.left_out).insert(*key);
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
        claims.begin(key, &came, &waits) == Turn::Theirs
    }

    fn abandon(&self, key: &Key) {
        if let Some(claims) = &self.claims {
            claims.end(key);
        }
    }

    fn took(&self, key: &Key) -> bool {
        lock(&self.taken).contains(key)
    }
}

/// Closes claims however the work ends that needs them.
struct Closing<'a>(&'a Claims<'a>);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close();
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
