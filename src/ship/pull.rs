//! Images from a registry, into the store.
//!
//! What a name means is asked once; everything after goes by digest. Layers stay as their registry has
//! them, under their digests, and are held against what the config says that they unpack to before the
//! image gets its name. Whatever ends a pull, parts stay for the next one to go on with.

use std::io;

use rayon::prelude::*;

use super::ShipError;
use crate::digest::{Digest, Integrity};
use crate::fetch::{Login, Progress, Want};
use crate::fsx::IoAt;
use crate::oci::peek::limits;
use crate::oci::{ImageLayer, Origin, Whole};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::store::{Held, ImageRecord, LayerRecord, Packed, Stamp, Store, StoreError};

/// A pull under way.
pub struct Pull<'a> {
    pub store: &'a Store,
    pub origin: &'a Origin<'a>,
    pub reference: &'a Reference,
    pub platform: Platform,
    pub progress: &'a dyn Progress,
}

/// What a pull came to.
#[derive(Clone, Debug)]
pub struct Pulled {
    pub record: ImageRecord,
    /// Layers that came in.
    pub fetched: usize,
    /// Bytes of them.
    pub bytes: u64,
}

/// What came in.
struct Haul {
    layers: usize,
    bytes: u64,
}

impl Pull<'_> {
    /// Brings in what is missing of an image, and lists it.
    pub fn run(&self, whole: &Whole) -> Result<Pulled, ShipError> {
        let reference = self.reference.to_string();
        let known = self.store.use_pulled(&reference, self.platform)?;
        if let Some(record) = known.filter(|known| known.manifest == whole.image.manifest) {
            return Ok(Pulled { record, fetched: 0, bytes: 0 });
        }
        let layers = &whole.image.layers;
        self.hold(layers)?;
        let mut haul = self.fetch(layers)?;
        let mut checked = self.check_all(layers);
        let damaged = self.drop_damaged(layers, &checked)?;
        if damaged {
            // what lay here under its name had other bytes
            haul = self.fetch(layers)?;
            checked = self.check_all(layers);
        }
        let record = ImageRecord {
            image: self.store.put_blob(&whole.config)?,
            manifest: self.store.put_blob(&whole.manifest)?,
            manifest_size: whole.manifest.len() as u64,
            layers: checked.into_iter().collect::<Result<_, _>>()?,
            keys: Vec::new(),
        };
        self.store.put_pulled(&reference, self.platform, &record)?;
        Ok(Pulled { record, fetched: haul.layers, bytes: haul.bytes })
    }

    fn hold(&self, layers: &[ImageLayer]) -> Result<(), ShipError> {
        let held: Vec<(Integrity, u64)> =
            layers.iter().map(|layer| (layer.digest.into(), layer.size)).collect();
        self.store.hold(held.iter().map(|(digest, size)| Held::Source(digest, Some(*size))))?;
        Ok(self.store.make_room()?)
    }

    fn fetch(&self, layers: &[ImageLayer]) -> Result<Haul, ShipError> {
        let mut missing: Vec<&ImageLayer> =
            layers.iter().filter(|layer| !self.store.has_blob(&layer.digest)).collect();
        missing.sort_by_key(|layer| (std::cmp::Reverse(layer.size), layer.digest));
        missing.dedup_by_key(|layer| layer.digest);
        let want = |layer: &&ImageLayer| {
            let want = Want {
                label: format!("layer {}", layer.digest.short()),
                urls: Vec::new(),
                size: Some(layer.size),
                digest: layer.digest.into(),
                is_pinned: false,
                login: Login::Nobody,
                part: self.store.part_path(&layer.digest),
                into: self.store.blob_path(&layer.digest),
            };
            (layer.digest, want)
        };
        let wants = missing.iter().map(want).collect();
        let failures = self.origin.fetch(wants, self.store, self.progress)?;
        match failures.into_values().next() {
            Some(error) => Err(ShipError::Fetch(error)),
            None => Ok(Haul {
                layers: missing.len(),
                bytes: missing.iter().fold(0, |all, layer| all.saturating_add(layer.size)),
            }),
        }
    }

    fn check_all(&self, layers: &[ImageLayer]) -> Vec<Result<LayerRecord, ShipError>> {
        layers.par_iter().map(|layer| self.check(layer)).collect()
    }

    /// Holds a layer against what it is to unpack to.
    fn check(&self, layer: &ImageLayer) -> Result<LayerRecord, ShipError> {
        let path = self.store.blob_path(&layer.digest);
        let stamp = Stamp::at(&path);
        let stamp = stamp.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound));
        let stamp = stamp.at("find", &path)?;
        let most = limits(layer.size).bytes;
        let unpacked = layer.packing.open(&path).and_then(|tar| tar.finish(most));
        let (found, size) =
            unpacked.map_err(|source| ShipError::Unpack { layer: layer.digest, source })?;
        if found != layer.diff_id {
            let (layer, expected) = (layer.digest, layer.diff_id);
            return Err(ShipError::DiffId { layer, expected, found });
        }
        let media_type = layer.packing.media_type().to_owned();
        let packed = Some(Packed { digest: layer.digest, size: layer.size, media_type });
        let (diff_id, vouchers) = (layer.diff_id, Default::default());
        Ok(LayerRecord { diff_id, packed, size, listing: None, stamp, vouchers })
    }

    /// Of layers that are not what they should be, drops those whose bytes are not what their name says.
    fn drop_damaged(
        &self,
        layers: &[ImageLayer],
        checked: &[Result<LayerRecord, ShipError>],
    ) -> Result<bool, ShipError> {
        let mut dropped: Vec<Digest> = Vec::new();
        for (layer, _) in layers.iter().zip(checked).filter(|(_, checked)| checked.is_err()) {
            let digest = layer.digest;
            if dropped.contains(&digest) {
                continue;
            }
            if let Err(StoreError::Corrupt { .. }) = self.store.verify_blob(&digest) {
                self.store.drop_blob(&digest)?;
                dropped.push(digest);
            }
        }
        Ok(!dropped.is_empty())
    }
}
