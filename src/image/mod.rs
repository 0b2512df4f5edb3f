//! OCI images out of layers: config, history, manifest (OCI image-spec 1.1).
//!
//! The documents are written from structs of our own, not from a crate's: they are what digests are
//! taken of, so the order of every field and map is part of the format, and the crate of the field
//! keeps labels and annotations in hash maps.

mod config;
mod deflate;
pub mod save;
mod twin;

pub use config::ImageLayer;
pub use twin::{Twin, gzip_twin};

use self::deflate::Level;
use crate::blame::Blame;
use crate::digest::Digest;
use crate::fsx::PathIo;
use crate::plan::ImageSpec;
use crate::store::{ImageRecord, LayerRecord, Store, StoreError};

/// What can go wrong while an image is written.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Io(#[from] PathIo),
    #[error("the compressed form of layer {layer}: {source}")]
    Twin { layer: Digest, source: deflate::DeflateError },
}

impl ImageError {
    pub fn blame(&self) -> Blame {
        match self {
            ImageError::Store(error) => error.blame(),
            ImageError::Io(_) => Blame::World,
            ImageError::Twin { source, .. } => source.blame(),
        }
    }
}

/// Writes the config and the layout manifest (uncompressed layers) of an image into the store.
pub fn write_image(
    store: &Store,
    spec: &ImageSpec,
    layers: &[ImageLayer],
) -> Result<ImageRecord, ImageError> {
    let config = config::config(spec, layers);
    let image: Digest = store.put_blob(&config)?;
    let manifest = config::manifest(spec, layers, image, config.len() as u64);
    let record = ImageRecord {
        image,
        manifest: store.put_blob(&manifest)?,
        manifest_size: manifest.len() as u64,
        layers: layers.iter().map(|layer| layer.record.clone()).collect(),
        keys: Vec::new(),
    };
    Ok(record)
}

/// Makes the compressed twins of an image's layers, bottom first, and answers the digest of the
/// manifest that lists them: what a registry gets.
pub fn write_compressed(
    store: &Store,
    spec: &ImageSpec,
    image: Digest,
    layers: &[LayerRecord],
) -> Result<Digest, ImageError> {
    let twin = |layer: &'_ LayerRecord| match layer.packed {
        Some(_) => Ok(None),
        None => gzip_twin(store, &layer.diff_id, Level::default()).map(Some),
    };
    let twins: Vec<(&LayerRecord, Option<Twin>)> =
        layers.iter().map(|layer| Ok((layer, twin(layer)?))).collect::<Result<_, ImageError>>()?;
    let size = store.find_blob(&image).unwrap_or_default();
    Ok(store.put_blob(&config::compressed_manifest(spec, &twins, image, size))?)
}
