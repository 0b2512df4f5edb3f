//! Layers of a base: fetched as they are, held against both of their digests, and unpacked once.
//!
//! The blob stays what its registry has; the tar is not stored. What becomes of it here is a tree, for
//! steps and launches to see, and a listing, for layers above it to be held against.

use std::path::Path;

use super::builder::Builder;
use super::error::BuildError;
use super::listing::Listing;
use super::unpack::{UnpackError, unpack_foreign};
use crate::blame::Blame;
use crate::digest::Digest;
use crate::fsx::{IoAt, PathIo};
use crate::jail::IdMap;
use crate::lock::Source;
use crate::oci::Packing;
use crate::oci::peek::limits;
use crate::plan::{BaseWork, Step};
use crate::store::{LayerRecord, Packed};

/// Why a layer of a base cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    #[error(transparent)]
    Io(#[from] PathIo),
    #[error("base layer `{name}` ({layer}): {source}")]
    Unpack { name: String, layer: Digest, source: UnpackError },
    #[error(
        "base layer `{name}` ({layer}) unpacks to other bytes than its config says: expected {expected}, found {found}"
    )]
    DiffId { name: String, layer: Digest, expected: Digest, found: Digest },
}

impl BaseError {
    pub fn blame(&self) -> Blame {
        Blame::World
    }
}

/// A layer as the store has it.
struct Stored<'a> {
    name: &'a str,
    digest: Digest,
    size: u64,
    packing: Packing,
    diff_id: Digest,
}

impl Builder<'_> {
    pub(super) fn make_base(
        &self,
        step: &Step,
        work: &BaseWork,
    ) -> Result<LayerRecord, BuildError> {
        self.once(step, || {
            self.events.step_started(&step.key, &step.title, 1);
            let pin = &work.pin;
            if !self.store.has_blob(&pin.digest) {
                self.fetch(&[Source::BaseLayer(pin)])?;
            }
            let stored = Stored {
                name: &pin.label(),
                digest: pin.digest,
                size: pin.size,
                packing: pin.packing,
                diff_id: pin.diff_id,
            };
            let tree = self.store.tree_draft()?;
            let failed = |source| BuildError::Base { layer: step.layer.to_string(), source };
            let (listing, size) = self.unpack_stored(&stored, tree.path()).map_err(failed)?;
            let listing = self.store.put_listing(&pin.diff_id, &listing.encode())?;
            let inner = tree.path().to_owned();
            tree.commit(&inner, &self.tree_path(&pin.diff_id))?;
            let media_type = pin.packing.media_type().to_owned();
            let packed = Packed { digest: pin.digest, size: pin.size, media_type };
            let record = self.store.put_packed(&step.key, pin.diff_id, size, listing, packed)?;
            self.events.step_finished(&step.key);
            Ok(record)
        })
    }

    /// Unpacks a layer anew, for another id map or because its tree was cleared.
    pub(super) fn unpack_base(&self, record: &LayerRecord, tree: &Path) -> Result<(), BuildError> {
        let Some(packed) = &record.packed else { return Ok(()) };
        let stored = Stored {
            name: &packed.digest.short(),
            digest: packed.digest,
            size: packed.size,
            packing: packed.media_type.parse().unwrap_or(Packing::Plain),
            diff_id: record.diff_id,
        };
        let layer = packed.digest.short();
        let failed = |source| BuildError::Base { layer, source };
        self.unpack_stored(&stored, tree).map(drop).map_err(failed)
    }

    /// Answers what it holds, and the bytes of its tar.
    fn unpack_stored(&self, stored: &Stored<'_>, tree: &Path) -> Result<(Listing, u64), BaseError> {
        let path = self.store.blob_path(&stored.digest);
        let limits = limits(stored.size);
        let mut tar = stored.packing.open(&path).at("open", &path)?;
        let userxattr = self.id_map != IdMap::Identity;
        let unpacked = unpack_foreign(&mut tar, limits, tree, userxattr);
        let (name, layer) = (stored.name.to_owned(), stored.digest);
        let listing = match unpacked {
            Ok(listing) => listing,
            Err(source) => return Err(BaseError::Unpack { name, layer, source }),
        };
        let (found, size) = tar.finish(limits.bytes).at("read", &path)?;
        let expected = stored.diff_id;
        match found == expected {
            true => Ok((listing, size)),
            false => Err(BaseError::DiffId { name, layer, expected, found }),
        }
    }
}
