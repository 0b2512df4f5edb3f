//! What a push has to bring, and whose turn it is to be compressed.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::digest::Digest;
use crate::image::Twin;
use crate::oci::Supplied;
use crate::store::LayerRecord;

/// A blob that is to arrive.
pub(super) enum Cargo<'a> {
    /// With its twin, where that is known.
    Layer(&'a LayerRecord, Option<Twin>),
    /// With its size in bytes.
    Config(Digest, u64),
}

impl<'a> Cargo<'a> {
    pub(super) fn layer(&self) -> Option<&'a LayerRecord> {
        match self {
            Cargo::Layer(layer, _) => Some(layer),
            Cargo::Config(..) => None,
        }
    }

    pub(super) fn twin(&self) -> Option<Twin> {
        match self {
            Cargo::Layer(_, twin) => *twin,
            Cargo::Config(..) => None,
        }
    }

    /// As what it is at a registry, where that is known.
    pub(super) fn supplied(&self) -> Option<Supplied> {
        let (digest, size) = match self {
            Cargo::Layer(_, Some(twin)) => (twin.digest, twin.size),
            Cargo::Layer(layer, None) => {
                let packed = layer.packed.as_ref()?;
                (packed.digest, packed.size)
            }
            Cargo::Config(digest, size) => (*digest, *size),
        };
        Some(Supplied { digest, size })
    }

    /// Bytes, before they are compressed.
    pub(super) fn size(&self) -> u64 {
        self.layer().map_or(0, |layer| layer.size)
    }

    /// What it is called on the way.
    pub(super) fn label(&self) -> String {
        self.layer().map_or_else(|| "config".to_owned(), label)
    }
}

/// One at a time: compressing takes all processors. It ends with its hold, however that comes about.
#[derive(Default)]
pub(super) struct Turn {
    taken: Mutex<bool>,
    given: Condvar,
}

impl Turn {
    fn taken(&self) -> MutexGuard<'_, bool> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take(&self) -> Taken<'_> {
        let taken = self.given.wait_while(self.taken(), |taken| *taken);
        *taken.unwrap_or_else(PoisonError::into_inner) = true;
        Taken(self)
    }
}

/// A turn that somebody has.
pub(super) struct Taken<'a>(&'a Turn);

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        *self.0.taken() = false;
        self.0.given.notify_one();
    }
}

/// What a layer is called on the way.
pub(super) fn label(layer: &LayerRecord) -> String {
    format!("layer {}", layer.diff_id.short())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_panics_gives_its_turn() {
        let turn = Turn::default();
        let panics = || {
            let _taken = turn.take();
            panic!("in its turn");
        };
        std::thread::scope(|scope| scope.spawn(panics).join()).unwrap_err();
        assert!(!*turn.taken());
        drop(turn.take());
    }
}
