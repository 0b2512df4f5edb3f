//! The cap: how much of the disk a store may take, held while builds write.
//!
//! A build claims room ahead of what it writes. Its claim stands beside its lease; all claims, and the
//! sizes of sources that somebody is about to fetch, count as if they were there. A look every few
//! milliseconds at what the build's drafts have come to renews the claim, and the collector makes the
//! room. Where it cannot, the build waits for what runs beside it; its drafts stand still meanwhile.
//! After a while it ends and says what takes the space.
//!
//! Why not count every write: programs in a sandbox write into their upper directory by themselves,
//! and only looking shows how much.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::inventory::measure;
use super::{Store, StoreError};
use crate::fsx::IoAt;

/// How much of the disk a store may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cap {
    Bytes(u64),
    /// Per cent of the file system that the store is on.
    Share(u8),
}

/// Why a cap cannot be held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Crowd {
    /// Bytes too many, after all that may go is gone.
    pub excess: u64,
    /// Bytes that running builds and instances hold or are about to write.
    pub held: u64,
    /// Bytes of newest images.
    pub images: u64,
}

impl fmt::Display for Crowd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Crowd { excess, held, images } = self;
        write!(
            f,
            "{} too much: {} are held by builds and instances that run, {} are the newest images of projects",
            shown(*excess),
            shown(*held),
            shown(*images)
        )
    }
}

/// A size for people.
pub fn shown(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

/// How often drafts are looked at, at most and at least.
const LOOKS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// How long a build waits for room.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether what a process writes still fits.
#[derive(Debug, Default)]
pub(super) struct Overflow {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Fits,
    Waits,
    Full(u64, Crowd),
}

impl Overflow {
    /// Waits while it is not known; fails where nothing fits any more.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while matches!(*state, State::Waits) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        match &*state {
            State::Full(cap, crowd) => Err(StoreError::Full { cap: *cap, crowd: crowd.clone() }),
            State::Fits | State::Waits => Ok(()),
        }
    }

    fn set(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        self.changed.notify_all();
    }
}

/// What a process claims for its drafts, if it does.
pub(super) fn claimed(corner: &Path) -> Option<u64> {
    fs::read_to_string(corner.join("claim")).ok()?.trim().parse().ok()
}

/// Whether the work that a claim is for has ended.
#[derive(Default)]
struct Done {
    ended: Mutex<bool>,
    changed: Condvar,
}

impl Done {
    /// Sleeps; answers whether the work has ended.
    fn sleep(&self, time: Duration) -> bool {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = self.changed.wait_timeout_while(ended, time, |ended| !*ended);
        *wait.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Ends the looking however the work ends.
struct Ending<'a>(&'a Done);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        *self.0.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.changed.notify_all();
    }
}

/// A process's claim in a store that has a cap.
struct Room<'a> {
    store: &'a Store,
    cap: u64,
    /// What is claimed ahead of what is written.
    margin: u64,
    claim: u64,
}

impl Store {
    /// Limits what the store may take.
    pub fn with_cap(self, cap: Option<Cap>) -> Self {
        Store { cap, ..self }
    }

    /// The cap in bytes.
    pub fn cap_bytes(&self, cap: Option<Cap>) -> Result<Option<u64>, StoreError> {
        match cap.or(self.cap) {
            None => Ok(None),
            Some(Cap::Bytes(bytes)) => Ok(Some(bytes)),
            Some(Cap::Share(share)) => {
                let stat = rustix::fs::statvfs(&self.root).at("look at the disk of", &self.root)?;
                let whole = u128::from(stat.f_blocks) * u128::from(stat.f_frsize);
                Ok(u64::try_from(whole * u128::from(share) / 100).ok())
            }
        }
    }

    /// Does work that writes into the store, within the cap.
    pub fn within_cap<T>(&self, work: impl FnOnce() -> T) -> Result<T, StoreError> {
        self.within_cap_for(0, work)
    }

    /// Likewise, of work that is known to write about so many bytes: they are claimed before it begins.
    pub fn within_cap_for<T>(&self, bytes: u64, work: impl FnOnce() -> T) -> Result<T, StoreError> {
        let Some(mut room) = self.room()? else { return Ok(work()) };
        self.written.store(false, Ordering::Relaxed);
        room.claim(room.margin.max(bytes), &Done::default())?;
        let done = Done::default();
        let result = std::thread::scope(|scope| {
            scope.spawn(|| room.watch(&done));
            let _ending = Ending(&done);
            work()
        });
        // whatever the work made of it, that is why it ended
        let full = self.overflow.check();
        self.overflow.set(State::Fits);
        full?;
        // what was written faster than anybody looked; a claim of less than before measures nothing
        if self.written.load(Ordering::Relaxed) {
            room.claim = 0;
        }
        room.claim(measure(self.own_lease()?.dir()), &Done::default())?;
        Ok(result)
    }

    /// Makes room for sources that are held and still to come. To be called before they are fetched.
    pub fn make_room(&self) -> Result<(), StoreError> {
        let Some(mut room) = self.room()? else { return Ok(()) };
        room.claim(room.claim, &Done::default())
    }

    fn room(&self) -> Result<Option<Room<'_>>, StoreError> {
        let Some(cap) = self.cap_bytes(None)? else { return Ok(None) };
        let claim = claimed(self.own_lease()?.dir()).unwrap_or(0);
        let margin = (cap / 64).clamp(64 << 10, 256 << 20);
        Ok(Some(Room { store: self, cap, margin, claim }))
    }
}

impl Room<'_> {
    fn watch(&mut self, done: &Done) {
        let (mut pause, mut checked) = (LOOKS.0, Instant::now());
        while !done.sleep(pause) {
            let start = Instant::now();
            let Ok(lease) = self.store.own_lease() else { continue };
            let written = measure(lease.dir());
            let fits = written + self.margin / 2..written + 2 * self.margin;
            // sources of unknown size show only in the sum
            if !fits.contains(&self.claim) || checked.elapsed() > LOOKS.1 {
                checked = start;
                match self.claim(written + self.margin, done) {
                    Ok(()) => {}
                    Err(StoreError::Full { cap, crowd }) => {
                        return self.store.overflow.set(State::Full(cap, crowd));
                    }
                    // what is wrong with the store, the work will find, too
                    Err(_) => self.store.overflow.set(State::Fits),
                }
            }
            pause = (start.elapsed() * 5).clamp(LOOKS.0, LOOKS.1);
        }
    }

    /// Claims so many bytes for drafts, waiting for others where they hold what could go.
    fn claim(&mut self, bytes: u64, done: &Done) -> Result<(), StoreError> {
        let start = Instant::now();
        loop {
            let Some(crowd) = self.try_claim(bytes)? else {
                self.store.overflow.set(State::Fits);
                return Ok(());
            };
            let waits = start.elapsed() < PATIENCE && self.has_company()?;
            if !waits {
                return Err(StoreError::Full { cap: self.cap, crowd });
            }
            self.store.overflow.set(State::Waits);
            if done.sleep(Duration::from_millis(50)) {
                // what ends while it waits needs no room any more
                self.store.overflow.set(State::Fits);
                return Ok(());
            }
        }
    }

    fn try_claim(&mut self, bytes: u64) -> Result<Option<Crowd>, StoreError> {
        let _alone = self.store.lock("room")?;
        let crowd = match bytes < self.claim {
            true => None,
            false => self.store.collect_under(self.cap, bytes)?,
        };
        if crowd.is_none() {
            let path = self.store.own_lease()?.dir().join("claim");
            // who reads it has the lock, too
            fs::write(&path, bytes.to_string()).at("write", &path)?;
            self.claim = bytes;
        }
        Ok(crowd)
    }

    /// Whether other builds write, which will end and hold less then.
    fn has_company(&self) -> Result<bool, StoreError> {
        let ours = self.store.own_lease()?;
        let holdings = super::lease::Holdings::read(&self.store.root)?;
        let writes = |corner: &PathBuf| corner != ours.dir() && claimed(corner).is_some();
        Ok(holdings.corners.iter().any(writes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::store::Held;

    /// Whether a blob that nobody needs and that the cap has no room for is collected at the end.
    fn collects_after(work: impl FnOnce(&Store)) -> bool {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(&home.path().join("cache")).unwrap();
        let store = store.with_cap(Some(Cap::Bytes(8 << 20)));
        let others = store.blob_path(&Digest::of(b"somebody else's"));
        let write = || {
            fs::write(&others, vec![1; 16 << 20]).unwrap();
            work(&store);
        };
        store.within_cap(write).unwrap();
        !others.exists()
    }

    #[test]
    fn a_store_is_measured_after_work_that_wrote_into_it_and_after_no_other() {
        assert!(!collects_after(|_| {}));
        assert!(collects_after(|store| drop(store.draft().unwrap())));
        assert!(collects_after(|store| drop(store.tree_draft().unwrap())));
        let source = Digest::of(b"a source").into();
        assert!(collects_after(|store| store.hold([Held::Source(&source, None)]).unwrap()));
    }
}
