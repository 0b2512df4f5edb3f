//! The lock, read while the project is: on a machine with two processors the one costs nothing beside
//! the other.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use sbx::lock::{Lock, LockError};
use sbx::store::Stamp;

/// A lock that is being read.
pub struct Ahead(Mutex<Option<JoinHandle<Early>>>);

/// What a lock was, and of which file.
struct Early {
    stamp: Option<Stamp>,
    lock: Result<Lock, LockError>,
}

impl Ahead {
    pub fn start(path: PathBuf) -> Self {
        let read = move || Early { stamp: Stamp::at(&path), lock: Lock::read(&path) };
        Ahead(Mutex::new(std::thread::Builder::new().spawn(read).ok()))
    }

    /// What was read, unless another lock is there by now.
    pub fn take(&self, path: &Path) -> Option<Result<Lock, LockError>> {
        let thread = self.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let early = thread.join().ok()?;
        (early.stamp == Stamp::at(path)).then_some(early.lock)
    }
}
