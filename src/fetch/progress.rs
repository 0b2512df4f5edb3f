//! Hearing how fetching goes on; the library itself prints nothing.

use std::fmt;
use std::sync::Arc;

/// Hears how fetching goes on. Called from many threads.
pub trait Progress: Send + Sync {
    /// A transfer begins; bytes it will bring, where known.
    fn started(&self, label: &str, size: Option<u64>);
    /// Bytes came in that had not come in before: over a transfer that ends well they add up to the
    /// file's size, however often it was tried.
    fn advanced(&self, bytes: u64);
    /// A transfer ended, well or not; its result says which.
    fn finished(&self, label: &str);
    /// A try failed and there will be another.
    fn retried(&self, label: &str, reason: &str);
    /// Something that people should know of what is locked.
    fn noted(&self, text: &str) {
        let _ = text;
    }
}

/// Hears nothing.
pub struct NoProgress;

impl Progress for NoProgress {
    fn started(&self, _: &str, _: Option<u64>) {}
    fn advanced(&self, _: u64) {}
    fn finished(&self, _: &str) {}
    fn retried(&self, _: &str, _: &str) {}
}

/// Whoever hears of small requests that are made again: nobody waits without knowing what for.
#[derive(Clone)]
pub struct Hearer(Arc<dyn Progress>);

impl Hearer {
    pub fn new(progress: Arc<dyn Progress>) -> Self {
        Hearer(progress)
    }

    pub(super) fn progress(&self) -> &dyn Progress {
        &*self.0
    }
}

impl Default for Hearer {
    fn default() -> Self {
        Hearer(Arc::new(NoProgress))
    }
}

impl fmt::Debug for Hearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hearer")
    }
}

/// Tells a [`Progress`] of positions in one file, each byte once.
pub(super) struct Meter<'a> {
    progress: &'a dyn Progress,
    label: &'a str,
    seen: u64,
}

impl<'a> Meter<'a> {
    pub(super) fn start(progress: &'a dyn Progress, label: &'a str, size: Option<u64>) -> Self {
        progress.started(label, size);
        Meter { progress, label, seen: 0 }
    }

    /// The furthest position that was told of.
    pub(super) fn seen(&self) -> u64 {
        self.seen
    }

    /// So many bytes of the file are here.
    pub(super) fn reach(&mut self, position: u64) {
        if position > self.seen {
            self.progress.advanced(position - self.seen);
            self.seen = position;
        }
    }
}

impl Drop for Meter<'_> {
    fn drop(&mut self) {
        self.progress.finished(self.label);
    }
}
