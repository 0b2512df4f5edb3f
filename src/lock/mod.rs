//! `sbx.lock`: every byte that enters an image, pinned.
//!
//! One pin a line, sorted, so that two branches' locks merge like code and a review reads like a
//! list of packages. A pin's identity is ecosystem, name, version, size and digest; the path within
//! its archive is a hint, and no line names a host: the same lock works behind any mirror. Each
//! layer records the digest of what was asked (its *request*), so `build` sees in microseconds
//! whether the answer is still the answer to the question.
//!
//! ```text
//! sbx-lock 1
//! deb LAYER PLATFORM NAME VERSION ARCH auto|manual ARCHIVE SIZE DIGEST PATH
//! layer LAYER PLATFORM REQUEST
//! release ARCHIVE SUITE DATE
//! ```

mod diff;
mod format;
mod pin;
pub mod solve;
pub mod toolroom;

pub use diff::{Change, LockDiff};
pub use format::{FORMAT, LockError};
pub use pin::{ArchiveName, DebPin, Mark};

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::digest::Digest;
use crate::name::LayerName;
use crate::platform::Platform;

/// All pins of a project.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    /// By archive and suite: the date of the Release that was resolved against. An older one is
    /// refused from then on.
    pub releases: BTreeMap<(ArchiveName, String), Timestamp>,
    pub layers: BTreeMap<(LayerName, Platform), LayerLock>,
}

/// The pins of one layer for one platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerLock {
    /// Digest of what was asked: the recipe and the requests of the layers it needs.
    pub request: Digest,
    /// Packages that this layer adds to the layers it needs, by name and architecture.
    pub debs: Vec<DebPin>,
}

impl Lock {
    /// The pins of a layer, if they answer `request`.
    pub fn find(
        &self,
        layer: &LayerName,
        platform: Platform,
        request: &Digest,
    ) -> Option<&LayerLock> {
        self.layers.get(&(layer.clone(), platform)).filter(|locked| locked.request == *request)
    }

    /// Every pin once, by digest.
    pub fn pins(&self) -> impl Iterator<Item = &DebPin> {
        let mut seen = std::collections::BTreeSet::new();
        self.layers
            .values()
            .flat_map(|layer| &layer.debs)
            .filter(move |pin| seen.insert(pin.digest))
    }
}
