//! Layers that others made: what a build asks a shared cache for, and what it hands on.
//!
//! Where such a cache is, whom it believes and how its entries look, the module `ship` knows; a build
//! knows Keys. Nothing here may fail a build: what a cache does not have, or has wrong, is made.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use super::builder::Builder;
use super::error::BuildError;
use crate::plan::Step;
use crate::store::{Key, LayerRecord};

/// Layers on their way at a time.
const PARALLEL: usize = 8;

/// A cache of layers that many machines share. Called from many threads.
pub trait Shared: Sync {
    /// Which of these Keys it has a layer for. What keeps it from knowing is told, and means none.
    fn look(&self, keys: &[Key]) -> BTreeSet<Key>;
    /// Brings the layer of a Key that was found into the store, listing and record included, once all
    /// its bytes are known to be right. What keeps it from that is told.
    fn take(&self, key: &Key) -> Option<LayerRecord>;
    /// The store has the layer of a Key now, made here. Does not wait.
    fn give(&self, key: &Key, record: &LayerRecord);
    /// The layer of a Key is about to be made, which takes long. Waits while another machine makes it;
    /// answers whether that has: then it can be taken.
    fn begin(&self, key: &Key) -> bool;
    /// It is not made after all.
    fn abandon(&self, key: &Key);
    /// Whether it was taken.
    fn took(&self, key: &Key) -> bool;
}

/// What became of a layer that a cache has.
#[derive(Clone, Debug)]
pub(super) enum Arrival {
    /// Nobody has it.
    None,
    Here(LayerRecord),
    /// It did not come, and has to be made.
    Lost,
}

/// Layers that come from a cache while others are made.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    /// In the order in which they are brought.
    keys: Vec<Key>,
    next: AtomicUsize,
    /// `None` is still to come.
    states: Mutex<BTreeMap<Key, Option<Arrival>>>,
    changed: Condvar,
    over: AtomicBool,
}

impl Arrivals {
    pub(super) fn new(keys: Vec<Key>) -> Self {
        let states = keys.iter().map(|key| (*key, None)).collect();
        Arrivals { keys, states: Mutex::new(states), ..Arrivals::default() }
    }

    /// How many hands bring them.
    pub(super) fn hands(&self) -> usize {
        self.keys.len().min(PARALLEL)
    }

    /// Brings one after the other, until nothing is left or nobody waits any more.
    pub(super) fn bring(&self, take: impl Fn(&Key) -> Option<LayerRecord>) {
        while !self.over.load(Ordering::Relaxed) {
            let Some(key) = self.keys.get(self.next.fetch_add(1, Ordering::Relaxed)) else {
                return;
            };
            let mut arriving = Arriving { arrivals: self, key, arrival: Arrival::Lost };
            if let Some(record) = take(key) {
                arriving.arrival = Arrival::Here(record);
            }
        }
    }

    /// Nobody waits for what has not begun to come.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// One that nobody waited for came, too.
    pub(super) fn add(&self, key: Key, record: LayerRecord) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        states.insert(key, Some(Arrival::Here(record)));
    }

    /// Waits until it is known what became of a layer.
    pub(super) fn wait(&self, key: &Key) -> Arrival {
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let coming = |states: &mut BTreeMap<Key, Option<Arrival>>| {
            states.get(key).is_some_and(Option::is_none)
        };
        let states = self.changed.wait_while(states, coming);
        let states = states.unwrap_or_else(PoisonError::into_inner);
        states.get(key).cloned().flatten().unwrap_or(Arrival::None)
    }
}

/// A layer on its way; whoever waits for it hears of its end, however that comes.
struct Arriving<'a> {
    arrivals: &'a Arrivals,
    key: &'a Key,
    arrival: Arrival,
}

impl Drop for Arriving<'_> {
    fn drop(&mut self) {
        let arrival = std::mem::replace(&mut self.arrival, Arrival::Lost);
        let mut states = self.arrivals.states.lock().unwrap_or_else(PoisonError::into_inner);
        states.insert(*self.key, Some(arrival));
        self.arrivals.changed.notify_all();
    }
}

impl Builder<'_> {
    /// Brings the layer of a step out of the cache, unless somebody else has in the meantime.
    pub(super) fn take_shared(&self, shared: &dyn Shared, step: &Step) -> Option<LayerRecord> {
        let take = || -> Result<Option<LayerRecord>, BuildError> {
            let _lock = self.store.lock(&step.key.0.hex())?;
            match self.find(step)? {
                Some(found) => Ok(Some(found)),
                None => Ok(shared.take(&step.key)),
            }
        };
        // what is wrong with the store, whoever makes the layer will hear
        take().unwrap_or_default()
    }

    /// A layer that takes long to make, if another machine is at it: once that is done.
    pub(super) fn await_shared(&self, step: &Step) -> Option<LayerRecord> {
        let shared = self.shared.filter(|_| step.work.runs_programs())?;
        if shared.begin(&step.key) { shared.take(&step.key) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::store::Stamp;

    fn key(text: &str) -> Key {
        Key(Digest::of(text.as_bytes()))
    }

    fn record() -> LayerRecord {
        let stamp = Stamp { size: 0, mtime: 0, ctime: 0, inode: 0 };
        let (diff_id, vouchers) = (Digest::of(b""), BTreeSet::new());
        LayerRecord { diff_id, packed: None, size: 0, listing: None, stamp, vouchers }
    }

    #[test]
    fn whoever_waits_hears_what_became_of_it() {
        let arrivals = Arrivals::new(vec![key("comes"), key("does not"), key("dies")]);
        let waited = std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                ["comes", "does not", "dies", "other"].map(|name| arrivals.wait(&key(name)))
            });
            let brought = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                arrivals.bring(|one| {
                    assert_ne!(*one, key("dies"), "on purpose");
                    (*one == key("comes")).then(record)
                });
            }));
            assert!(brought.is_err());
            waiter.join().unwrap()
        });
        let [Arrival::Here(_), Arrival::Lost, Arrival::Lost, Arrival::None] = waited else {
            panic!("{waited:?}");
        };
    }

    #[test]
    fn what_has_not_begun_when_the_build_ends_does_not_begin() {
        let arrivals = Arrivals::new(vec![key("a")]);
        arrivals.end();
        arrivals.bring(|_| panic!("nobody waits for it"));
    }
}
