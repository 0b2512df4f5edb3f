//! Documents about an image beside it: attached at its registry, found again, signatures verified.
//!
//! They refer to the image's manifest, which does not change for them. A signature is what cosign writes
//! with a local key, under the tag where cosign looks for it as well (`sha256-HEX.sig`); signed documents
//! are envelopes in one manifest, likewise (`sha256-HEX.att`). So cosign verifies what is attached here,
//! and this verifies what cosign signed.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::ShipError;
use super::shipped::Placed;
use super::supply::Bytes;
use crate::digest::Digest;
use crate::fetch::Progress;
use crate::image::MEDIA_MANIFEST;
use crate::oci::{OciError, Registry, Supplied};
use crate::report::sign::{PrivateKey, PublicKey, image_payload};

pub(super) const MEDIA_EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// Types of cosign's.
const SIGNATURE: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
pub const ENVELOPE: &str = "application/vnd.dsse.envelope.v1+json";
/// The annotation that a signature stands in.
const SIGNED: &str = "dev.cosignproject.cosign/signature";
/// Largest document that is read of what refers to an image.
const LARGEST: u64 = 1 << 20;

/// A document as a layer of an artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paper {
    pub media_type: &'static str,
    pub annotations: BTreeMap<String, String>,
    pub bytes: Vec<u8>,
}

/// What is attached at a registry.
pub struct Attaching<'a> {
    pub registry: &'a Registry<'a>,
    pub progress: &'a dyn Progress,
}

impl Attaching<'_> {
    /// Attaches documents to a manifest, in one artifact. `suffix` is that of cosign's tag for it.
    pub fn attach(
        &self,
        subject: &Placed,
        artifact_type: &str,
        papers: &[Paper],
        suffix: Option<&str>,
    ) -> Result<Digest, ShipError> {
        let bring = || {
            papers.iter().try_for_each(|paper| self.put(&paper.bytes))?;
            self.put(b"{}")
        };
        bring()?;
        let mut layers = Vec::new();
        for paper in papers {
            let mut layer = json!({
                "mediaType": paper.media_type, "digest": Digest::of(&paper.bytes), "size": paper.bytes.len(),
            });
            if !paper.annotations.is_empty() {
                layer["annotations"] = json!(paper.annotations);
            }
            layers.push(layer);
        }
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MEDIA_MANIFEST,
            "artifactType": artifact_type,
            "config": {"mediaType": MEDIA_EMPTY, "digest": Digest::of(b"{}"), "size": 2},
            "layers": layers,
            "subject": {
                "mediaType": subject.media_type, "digest": subject.digest, "size": subject.size,
            },
        });
        let bytes = manifest.to_string().into_bytes();
        let tag = suffix.map(|suffix| cosign_tag(&subject.digest, suffix));
        let (tag, subject) = (tag.as_deref(), &subject.digest);
        Ok(self.registry.put_referrer(tag, subject, artifact_type, &bytes, bring)?)
    }

    /// Signs a manifest.
    pub fn sign(&self, subject: &Placed, key: &PrivateKey) -> Result<Digest, ShipError> {
        let name = format!("{}/{}", self.registry.host(), self.registry.repository());
        let payload = image_payload(&name, &subject.digest);
        let signature = BASE64_STANDARD.encode(key.sign(&payload));
        let annotations = BTreeMap::from([(SIGNED.to_owned(), signature)]);
        let paper = Paper { media_type: PAYLOAD, annotations, bytes: payload };
        self.attach(subject, SIGNATURE, &[paper], Some("sig"))
    }

    fn put(&self, bytes: &[u8]) -> Result<(), OciError> {
        let supplied = Supplied { digest: Digest::of(bytes), size: bytes.len() as u64 };
        let label = format!("document {}", supplied.digest.short());
        if !self.registry.has_blob(&label, &supplied)? {
            let supply = Bytes { label, supplied, bytes: bytes.to_vec() };
            self.registry.upload(&supply, None, self.progress)?;
        }
        Ok(())
    }
}

pub(super) fn cosign_tag(subject: &Digest, suffix: &str) -> String {
    format!("sha256-{}.{suffix}", subject.hex())
}

/// Verifies that a key signed a manifest.
pub fn verify(registry: &Registry<'_>, subject: &Digest, key: &PublicKey) -> Result<(), ShipError> {
    let mut versions = vec![cosign_tag(subject, "sig")];
    let listed = registry.list_referrers(subject)?.into_iter();
    let signatures = listed.filter(|one| one.artifact_type == SIGNATURE);
    versions.extend(signatures.map(|one| one.digest.to_string()));
    let mut others = BTreeSet::new();
    for version in versions {
        let layers = match registry.artifact(&version) {
            Err(OciError::Missing { .. }) => continue,
            layers => layers?,
        };
        for (layer, annotations) in layers {
            let Some(signature) = annotations[SIGNED].as_str() else { continue };
            let payload = registry.blob("signature", &layer.digest, LARGEST)?;
            let signature = BASE64_STANDARD.decode(signature).unwrap_or_default();
            if Digest::of(&payload) == layer.digest
                && key.verifies(&payload, &signature)
                && names(&payload, subject)
            {
                return Ok(());
            }
            others.insert(signature);
        }
    }
    let subject = *subject;
    Err(match others.len() {
        0 => ShipError::Unsigned { subject },
        count => ShipError::Stranger { subject, count },
    })
}

/// Whether what was signed is about this manifest.
fn names(payload: &[u8], subject: &Digest) -> bool {
    let value: Value = serde_json::from_slice(payload).unwrap_or_default();
    let critical = &value["critical"];
    critical["type"].as_str() == Some("cosign container image signature")
        && critical["image"]["docker-manifest-digest"].as_str() == Some(&subject.to_string())
}
