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
pub use deflate::{Compression, Form, LevelError};
pub use twin::{Growth, Twin, find_twin, has_bytes, make_twin, obtain_twin, remember_twin};

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
    let form = Form::default();
    let twin = |layer: &'_ LayerRecord| match layer.packed {
        Some(_) => Ok(None),
        None => obtain_twin(store, &layer.diff_id, form).map(Some),
    };
    let twins: Vec<Option<Twin>> = layers.iter().map(twin).collect::<Result<_, ImageError>>()?;
    Ok(store.put_blob(&compressed_manifest(store, spec, image, layers, &twins, form))?)
}

/// The manifest that registries get, out of all twins of an image's own layers.
pub fn compressed_manifest(
    store: &Store,
    spec: &ImageSpec,
    image: Digest,
    layers: &[LayerRecord],
    twins: &[Option<Twin>],
    form: Form,
) -> Vec<u8> {
    let size = store.find_blob(&image).unwrap_or_default();
    let layers: Vec<_> = layers.iter().zip(twins.iter().copied()).collect();
    config::compressed_manifest(spec, &layers, form, image, size)
}
