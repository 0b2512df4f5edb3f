//! Images that go out, and the index of several.
//!
//! The manifest of an image that was built follows from it and from how its layers are compressed. One that
//! was pulled goes as it came: its manifest keeps its digest, and with that whatever was signed and attested
//! of it. An index is the same, whichever of its images were built here.

use serde_json::{Value, json};

use super::ShipError;
use crate::digest::Digest;
use crate::image::{Form, Twin, compressed_manifest};
use crate::media;
use crate::plan::ImageSpec;
use crate::platform::Platform;
use crate::store::{ImageRecord, Store};

/// An image that goes out.
#[derive(Clone, Copy)]
pub enum Shipped<'a> {
    Built { spec: &'a ImageSpec, record: &'a ImageRecord },
    Pulled { platform: Platform, record: &'a ImageRecord },
}

/// A document that a registry has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    pub digest: Digest,
    pub size: u64,
    pub media_type: String,
}

impl Placed {
    pub(super) fn new(bytes: &[u8], media_type: &str) -> Self {
        let (digest, size) = (Digest::of(bytes), bytes.len() as u64);
        Placed { digest, size, media_type: media_type.to_owned() }
    }
}

impl<'a> Shipped<'a> {
    pub(super) fn record(self) -> &'a ImageRecord {
        match self {
            Shipped::Built { record, .. } | Shipped::Pulled { record, .. } => record,
        }
    }

    /// The manifest that a registry gets, given all twins.
    pub(super) fn manifest(
        self,
        store: &Store,
        twins: &[Option<Twin>],
        form: Form,
    ) -> Result<(Placed, Vec<u8>), ShipError> {
        let record = self.record();
        let (bytes, media_type) = match self {
            Shipped::Built { spec, .. } => {
                let (image, layers) = (record.image, &record.layers);
                let bytes = compressed_manifest(store, spec, image, layers, twins, form);
                (bytes, media::MANIFEST.to_owned())
            }
            Shipped::Pulled { .. } => {
                (store.read_blob(&record.manifest)?, store.media_type_of(&record.manifest))
            }
        };
        Ok((Placed::new(&bytes, &media_type), bytes))
    }

    /// What an index says that it is for (OCI image-spec, index, `platform`).
    fn platform(self, store: &Store) -> Result<Value, ShipError> {
        let platform = match self {
            Shipped::Built { spec, .. } => spec.platform,
            Shipped::Pulled { platform, .. } => platform,
        };
        let mut value = json!({"architecture": platform.architecture(), "os": "linux"});
        if let Shipped::Pulled { record, .. } = self {
            let config: Value =
                serde_json::from_slice(&store.read_blob(&record.image)?).unwrap_or_default();
            if let Some(variant) = config["variant"].as_str().filter(|text| !text.is_empty()) {
                value["variant"] = variant.into();
            }
        }
        Ok(value)
    }
}

/// The index of some images, whose manifests a registry has.
pub(super) fn index(
    store: &Store,
    images: &[Shipped<'_>],
    manifests: &[Placed],
) -> Result<Vec<u8>, ShipError> {
    let entry = |(image, manifest): (&Shipped<'_>, &Placed)| {
        Ok(json!({
            "mediaType": manifest.media_type, "digest": manifest.digest, "size": manifest.size,
            "platform": image.platform(store)?,
        }))
    };
    let entries: Vec<Value> =
        images.iter().zip(manifests).map(entry).collect::<Result<_, ShipError>>()?;
    let index = json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": entries});
    Ok(index.to_string().into_bytes())
}
