//! What refers to an image: signatures, bills of materials, provenance (OCI distribution-spec 1.1,
//! referrers).
//!
//! A registry that knows of referrers lists them by itself and says so when it takes one. For one that
//! does not, there is a tag with an index of them, made of the image's digest, which whoever writes keeps:
//! two who write at once are told apart by looking again.

use serde_json::{Value, json};

use super::document::Descriptor;
use super::error::OciError;
use super::registry::Registry;
use crate::digest::Digest;

const MEDIA_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MEDIA_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// How often the index behind a tag is written where others write it as well.
const ROUNDS: usize = 5;

/// A manifest that refers to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referrer {
    pub digest: Digest,
    pub artifact_type: String,
}

/// The tag that lists what refers to a manifest.
fn fallback(subject: &Digest) -> String {
    format!("sha256-{}", subject.hex())
}

impl Registry<'_> {
    /// What refers to a manifest.
    pub fn list_referrers(&self, subject: &Digest) -> Result<Vec<Referrer>, OciError> {
        let listed = match self.manifest_at("referrers", &subject.to_string()) {
            // some answer what they do not know with something else than 404
            Err(OciError::Missing { .. } | OciError::Fetch(_)) => None,
            listed => self.entries(&listed?.bytes),
        };
        let entries = match listed {
            Some(entries) => entries,
            None => self.read_fallback(subject)?,
        };
        let referrer = |entry: &Value| {
            let digest = entry["digest"].as_str()?.parse().ok()?;
            let artifact_type = entry["artifactType"].as_str().unwrap_or_default().to_owned();
            Some(Referrer { digest, artifact_type })
        };
        Ok(entries.iter().filter_map(referrer).collect())
    }

    /// Writes a manifest that refers to another, under its digest or a tag. All that it names was brought
    /// in; `bring` brings in again what is missing of that.
    pub fn put_referrer(
        &self,
        version: Option<&str>,
        subject: &Digest,
        artifact_type: &str,
        bytes: &[u8],
        bring: impl FnMut() -> Result<(), OciError>,
    ) -> Result<Digest, OciError> {
        let digest = Digest::of(bytes);
        let version = version.map_or_else(|| digest.to_string(), str::to_owned);
        if self.put_manifest(&version, MEDIA_MANIFEST, bytes, bring)?.lists_referrers {
            return Ok(digest);
        }
        let entry = json!({
            "mediaType": MEDIA_MANIFEST, "digest": digest, "size": bytes.len(),
            "artifactType": artifact_type,
        });
        let ours = |entries: &[Value]| {
            entries.iter().any(|known| known["digest"].as_str() == Some(&digest.to_string()))
        };
        for _ in 0..ROUNDS {
            let mut entries = self.read_fallback(subject)?;
            if ours(&entries) {
                return Ok(digest);
            }
            entries.push(entry.clone());
            entries.sort_by_key(|entry| entry["digest"].to_string());
            let index = json!({
                "schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": entries,
            });
            let (tag, bytes) = (fallback(subject), index.to_string().into_bytes());
            // what it names, the registry has taken
            self.put_manifest(&tag, MEDIA_INDEX, &bytes, || Ok::<_, OciError>(()))?;
        }
        match ours(&self.read_fallback(subject)?) {
            true => Ok(digest),
            false => Err(OciError::Session {
                image: self.image.clone(),
                registry: self.host.clone(),
                what: "does not keep what refers to it",
            }),
        }
    }

    /// An artifact's manifest, held against its digest: its layers.
    pub fn artifact(&self, version: &str) -> Result<Vec<(Descriptor, Value)>, OciError> {
        let document = self.manifest(version)?;
        let found = Digest::of(&document.bytes);
        if let Some(expected) = version.parse().ok().filter(|expected| *expected != found) {
            let (image, what) = (self.image.clone(), "what refers to it");
            return Err(OciError::Digest { image, what, expected, found });
        }
        let value: Value = serde_json::from_slice(&document.bytes).unwrap_or_default();
        let layers = value["layers"].as_array().cloned().unwrap_or_default();
        let layer = |value: Value| {
            let descriptor = serde_json::from_value(value.clone()).ok()?;
            Some((descriptor, value["annotations"].clone()))
        };
        Ok(layers.into_iter().filter_map(layer).collect())
    }

    fn read_fallback(&self, subject: &Digest) -> Result<Vec<Value>, OciError> {
        match self.manifest(&fallback(subject)) {
            Err(OciError::Missing { .. }) => Ok(Vec::new()),
            document => Ok(self.entries(&document?.bytes).unwrap_or_default()),
        }
    }

    /// Of what is an index.
    fn entries(&self, bytes: &[u8]) -> Option<Vec<Value>> {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        value["manifests"].as_array().cloned()
    }
}
