//! What a push has to bring, and whose turn it is to be compressed.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::digest::Digest;
use crate::image::Twin;
use crate::store::LayerRecord;

/// A blob that is to arrive.
pub(super) enum Cargo<'a> {
    /// With its twin, where that is known.
    Layer(&'a LayerRecord, Option<Twin>),
    Config(Digest),
}

impl Cargo<'_> {
    pub(super) fn is_known(&self) -> bool {
        self.digest().is_some()
    }

    pub(super) fn twin(&self) -> Option<Twin> {
        match self {
            Cargo::Layer(_, twin) => *twin,
            Cargo::Config(_) => None,
        }
    }

    /// Under which it is at a registry, where that is known.
    pub(super) fn digest(&self) -> Option<Digest> {
        match self {
            Cargo::Layer(_, Some(twin)) => Some(twin.digest),
            Cargo::Layer(layer, None) => Some(layer.packed.as_ref()?.digest),
            Cargo::Config(digest) => Some(*digest),
        }
    }

    pub(super) fn size(&self) -> u64 {
        match self {
            Cargo::Layer(layer, _) => layer.size,
            Cargo::Config(_) => 0,
        }
    }
}

/// One at a time: compressing takes all processors.
#[derive(Default)]
pub(super) struct Turn {
    taken: Mutex<bool>,
    given: Condvar,
}

impl Turn {
    fn taken(&self) -> MutexGuard<'_, bool> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take(&self) {
        let taken = self.given.wait_while(self.taken(), |taken| *taken);
        *taken.unwrap_or_else(PoisonError::into_inner) = true;
    }

    pub(super) fn give(&self) {
        *self.taken() = false;
        self.given.notify_one();
    }
}

/// What a layer is called on the way.
pub(super) fn label(layer: &LayerRecord) -> String {
    format!("layer {}", layer.diff_id.short())
}
