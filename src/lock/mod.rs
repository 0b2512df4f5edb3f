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
//! KIND REQUEST WORDS…        a pin of an answer; words are escaped
//! deb LAYER PLATFORM NAME VERSION ARCH auto|manual ARCHIVE SIZE DIGEST PATH
//! image SANDBOX PLATFORM KEY IMAGEID
//! layer LAYER PLATFORM REQUEST
//! recipe LAYER PLATFORM KIND REQUEST
//! release ARCHIVE SUITE DATE
//! ```

pub mod base;
mod diff;
mod format;
mod image;
pub mod interpreter;
mod pin;
pub mod question;
pub mod solve;
pub mod toolroom;

pub use diff::{Change, LockDiff};
pub use format::{FORMAT, LockError};
pub use image::{Expected, ImageLock};
pub use pin::{
    ArchiveName, ArchivePin, BaseLayerPin, BasePart, BasePin, DebPin, GitPin, LaidPin, Mark,
    NpmPart, NpmPin, Pin, PythonPin, RequestId, Source, WheelPin, Words,
};

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::decl::Layer;
use crate::digest::Digest;
use crate::name::{LayerName, SandboxName};
use crate::platform::Platform;

/// All pins of a project.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    /// By archive and suite: the date of the Release that was resolved against. An older one is
    /// refused from then on.
    pub releases: BTreeMap<(ArchiveName, String), Timestamp>,
    pub layers: BTreeMap<(LayerName, Platform), LayerLock>,
    /// Which questions the recipes of a layer ask, each with the recipe's kind.
    pub recipes: BTreeMap<(LayerName, Platform), BTreeMap<RequestId, String>>,
    /// What they were answered.
    pub answers: BTreeMap<RequestId, Vec<Pin>>,
    /// What plans are expected to give, where that was recorded.
    pub images: BTreeMap<(SandboxName, Platform), ImageLock>,
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

    /// The answer to a recipe's question.
    pub fn answer(&self, request: &RequestId) -> Option<&[Pin]> {
        self.answers.get(request).map(Vec::as_slice)
    }

    /// Answers a recipe's question. Keys see pins in the order in which they are read again.
    pub fn set_answer(&mut self, request: RequestId, mut pins: Vec<Pin>) {
        pins.sort();
        self.answers.insert(request, pins);
    }

    /// What recipes of that kind of a layer were answered.
    pub fn previous(&self, layer: &Layer, platform: Platform, kind: &str) -> Vec<&Pin> {
        let uses = self.recipes.get(&(layer.name.clone(), platform)).into_iter().flatten();
        uses.filter(|(_, of)| *of == kind)
            .filter_map(|(request, _)| self.answers.get(request))
            .flatten()
            .collect()
    }

    /// Says which questions a layer's recipes ask.
    pub fn set_uses(
        &mut self,
        layer: &LayerName,
        platform: Platform,
        uses: BTreeMap<RequestId, String>,
    ) {
        let key = (layer.clone(), platform);
        match uses.is_empty() {
            true => drop(self.recipes.remove(&key)),
            false => drop(self.recipes.insert(key, uses)),
        }
    }

    /// Drops layers that `keep` does not know, and answers that nobody asks for.
    pub fn retain(&mut self, keep: impl Fn(&LayerName, Platform) -> bool) {
        self.layers.retain(|(name, platform), _| keep(name, *platform));
        self.recipes.retain(|(name, platform), _| keep(name, *platform));
        self.drop_unasked();
    }

    /// Drops answers that nobody asks for.
    pub fn drop_unasked(&mut self) {
        let asked: BTreeSet<&RequestId> = self.recipes.values().flat_map(BTreeMap::keys).collect();
        self.answers.retain(|request, _| asked.contains(request));
    }

    /// Every source of some layers once, by digest.
    pub fn sources(&self, of: impl Fn(&LayerName, Platform) -> bool) -> Vec<Source<'_>> {
        let debs = self.layers.iter().filter(|((name, platform), _)| of(name, *platform));
        let debs = debs.flat_map(|(_, locked)| locked.debs.iter().map(Source::Deb));
        let uses = self.recipes.iter().filter(|((name, platform), _)| of(name, *platform));
        let pins = uses
            .flat_map(|(_, uses)| uses.keys())
            .filter_map(|request| self.answers.get(request))
            .flatten();
        let mut sources: Vec<Source<'_>> = debs.chain(pins.filter_map(Pin::source)).collect();
        sources.sort_by_key(Source::integrity);
        sources.dedup_by_key(|source| source.integrity());
        sources
    }

    /// What is locked, by the names people know it by.
    pub fn names(&self) -> BTreeSet<&str> {
        let debs = self.layers.values().flat_map(|layer| &layer.debs).map(|pin| &*pin.name);
        debs.chain(self.answers.values().flatten().map(Pin::name)).collect()
    }
}
