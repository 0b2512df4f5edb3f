//! Documents about an image beside it, attached at its registry; `attested` reads what is there.
//!
//! They refer to the image's manifest, which does not change for them. There are two forms of what is signed.
//! That of cosign up to its version 2, which all of its versions read: signatures and envelopes stand side by
//! side in two manifests under tags made of the image's digest (`sha256-HEX.sig`, `sha256-HEX.att`), where
//! every signer adds its own and leaves what others say (`shared`). And bundles, one artifact each.
//!
//! What a key said before gives way where it says it anew: its signature of the same payload, its statement of
//! the same kind that this program made.

use std::cell::Cell;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::ShipError;
use super::attested::{LARGEST_ENVELOPE, MOST_BYTES, Statement, read};
use super::shared::SharedTag;
use super::shipped::Placed;
use super::supply::Bytes;
use crate::digest::Digest;
use crate::fetch::Progress;
use crate::media;
use crate::oci::document::Descriptor;
use crate::oci::{EMPTY, OciError, Referring, Registry, Supplied, empty_config};
use crate::report::bundle::{MEDIA_BUNDLE, SIGN_PREDICATE, bundle, sign_statement};
use crate::report::sign::{Envelope, PrivateKey, PublicKey, image_payload};
use crate::report::{PAYLOAD_TYPE, is_own};

/// Types of cosign's.
pub(super) const SIGNATURE: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
pub(super) const ENVELOPE: &str = "application/vnd.dsse.envelope.v1+json";
/// The annotation that a signature stands in.
pub(super) const SIGNED: &str = "dev.cosignproject.cosign/signature";
/// The annotation that says what an envelope holds.
const PREDICATE: &str = "predicateType";
/// Most that stands under one tag: cosign reads no more.
pub(super) const MOST: usize = 1000;

type Annotations = BTreeMap<String, String>;

/// A statement (in-toto) that is to be signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attestation {
    /// The type of its predicate.
    pub predicate: &'static str,
    pub bytes: Vec<u8>,
}

/// A document as a layer of an artifact.
struct Paper {
    media_type: &'static str,
    annotations: Annotations,
    bytes: Vec<u8>,
}

/// The form of what is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignedForm {
    /// Under cosign's tags.
    Tags,
    /// Bundles of sigstore.
    Bundles,
}

/// What is attached at a registry.
pub struct Attaching<'a> {
    pub registry: &'a Registry<'a>,
    pub form: SignedForm,
    pub progress: &'a dyn Progress,
}

impl Attaching<'_> {
    /// Attaches a document that nobody signs.
    pub fn attach(
        &self,
        subject: &Placed,
        media_type: &'static str,
        bytes: Vec<u8>,
    ) -> Result<Digest, ShipError> {
        let paper = Paper { media_type, annotations: Annotations::new(), bytes };
        self.put_alone(subject, &paper, Annotations::new())
    }

    /// Signs statements about a manifest.
    pub fn attest(
        &self,
        subject: &Placed,
        key: &PrivateKey,
        attestations: &[Attestation],
    ) -> Result<Vec<Digest>, ShipError> {
        if self.form == SignedForm::Bundles {
            return attestations.iter().map(|one| self.put_bundle(subject, key, one)).collect();
        }
        let seal = |one: &Attestation| {
            let annotations = [(PREDICATE, one.predicate), (SIGNED, "")];
            Paper {
                media_type: ENVELOPE,
                annotations: annotations.map(|(name, value)| (name.into(), value.into())).into(),
                bytes: Envelope::sign(key, PAYLOAD_TYPE, &one.bytes).to_bytes(),
            }
        };
        let papers: Vec<Paper> = attestations.iter().map(seal).collect();
        let (public, rest) = (key.public(), Cell::new(MOST_BYTES));
        let gives_way = |layer: &Descriptor, annotations: &Value| {
            let kind = annotations[PREDICATE].as_str().unwrap_or_default();
            let left = rest.get().checked_sub(layer.size);
            match left.filter(|_| attestations.iter().any(|one| one.predicate == kind)) {
                Some(left) => {
                    rest.set(left);
                    self.is_ours(subject, &public, layer, kind)
                }
                None => Ok(false),
            }
        };
        Ok(vec![self.add(subject, ENVELOPE, "att", &papers, &gives_way)?])
    }

    /// Signs a manifest.
    pub fn sign(&self, subject: &Placed, key: &PrivateKey) -> Result<Digest, ShipError> {
        if self.form == SignedForm::Bundles {
            let bytes = sign_statement(&subject.digest);
            return self.put_bundle(
                subject,
                key,
                &Attestation { predicate: SIGN_PREDICATE, bytes },
            );
        }
        let name = format!("{}/{}", self.registry.host(), self.registry.repository());
        let payload = image_payload(&name, &subject.digest);
        let signature = BASE64_STANDARD.encode(key.sign(&payload));
        let annotations = BTreeMap::from([(SIGNED.to_owned(), signature)]);
        let (of_payload, public) = (Digest::of(&payload), key.public());
        let gives_way = |layer: &Descriptor, annotations: &Value| {
            let signature = annotations[SIGNED].as_str().unwrap_or_default();
            let signature = BASE64_STANDARD.decode(signature).unwrap_or_default();
            Ok(layer.digest == of_payload && public.verifies(&payload, &signature))
        };
        let paper = Paper { media_type: PAYLOAD, annotations, bytes: payload.clone() };
        self.add(subject, SIGNATURE, "sig", &[paper], &gives_way)
    }

    /// Whether an envelope is what this program said of the manifest before, with the same key.
    fn is_ours(
        &self,
        subject: &Placed,
        key: &PublicKey,
        layer: &Descriptor,
        kind: &str,
    ) -> Result<bool, ShipError> {
        let Some(bytes) = read(self.registry, layer, LARGEST_ENVELOPE)? else { return Ok(false) };
        let payload = Envelope::parse(&bytes).and_then(|one| one.open(key, PAYLOAD_TYPE));
        let Ok(payload) = payload else { return Ok(false) };
        let value: Value = serde_json::from_slice(&payload).unwrap_or_default();
        Ok(Statement::parse(&payload).is_some_and(|one| one.is_about(&subject.digest))
            && value["predicateType"].as_str() == Some(kind)
            && is_own(kind, &value["predicate"]))
    }

    /// Adds papers to what stands under a tag, in place of what gives way to them.
    fn add(
        &self,
        subject: &Placed,
        artifact_type: &str,
        suffix: &str,
        papers: &[Paper],
        gives_way: &dyn Fn(&Descriptor, &Value) -> Result<bool, ShipError>,
    ) -> Result<Digest, ShipError> {
        self.bring_all(papers)?;
        let tag = cosign_tag(&subject.digest, suffix);
        let gives_way = |layer: &Value| match serde_json::from_value(layer.clone()) {
            Ok(known) => gives_way(&known, &layer["annotations"]),
            Err(_) => Ok(false),
        };
        let mut last = None;
        let mut write = |layers: Vec<Value>| {
            let bytes = manifest(subject, artifact_type, &layers, &Annotations::new());
            let bring = || self.bring_all(papers);
            let written = self.registry.put_manifest(&tag, media::MANIFEST, &bytes, bring)?;
            let digest = Digest::of(&bytes);
            last = Some((bytes, written));
            Ok(digest)
        };
        let own = papers.iter().map(Paper::layer).collect();
        let shared = SharedTag::new(self.registry, &subject.digest, artifact_type, &tag);
        let settled = shared.add(own, &gives_way, &mut write)?;
        if let Some((bytes, written)) = last
            && !written.lists_referrers
            && !settled.is_listed
        {
            let subject = &subject.digest;
            let referring = Referring { subject, artifact_type, bytes: &bytes };
            self.registry.list_by_tag(&referring, &settled.replaced)?;
        }
        Ok(settled.digest)
    }

    fn put_bundle(
        &self,
        subject: &Placed,
        key: &PrivateKey,
        one: &Attestation,
    ) -> Result<Digest, ShipError> {
        let (media_type, bytes) = (MEDIA_BUNDLE, bundle(key, &one.bytes));
        let annotations = [("content", "dsse-envelope"), (PREDICATE, one.predicate)];
        let annotations = annotations
            .map(|(name, value)| (format!("dev.sigstore.bundle.{name}"), value.to_owned()));
        let paper = Paper { media_type, annotations: Annotations::new(), bytes };
        self.put_alone(subject, &paper, annotations.into())
    }

    /// One paper as an artifact of its own.
    fn put_alone(
        &self,
        subject: &Placed,
        paper: &Paper,
        annotations: Annotations,
    ) -> Result<Digest, ShipError> {
        let bring = || self.bring_all(std::slice::from_ref(paper));
        bring()?;
        let bytes = manifest(subject, paper.media_type, &[paper.layer()], &annotations);
        let (subject, artifact_type) = (&subject.digest, paper.media_type);
        let referring = Referring { subject, artifact_type, bytes: &bytes };
        Ok(self.registry.put_referrer(&referring, bring)?)
    }

    fn bring_all(&self, papers: &[Paper]) -> Result<(), OciError> {
        papers.iter().try_for_each(|paper| self.bring(&paper.bytes))?;
        self.bring(EMPTY)
    }

    fn bring(&self, bytes: &[u8]) -> Result<(), OciError> {
        let supplied = Supplied { digest: Digest::of(bytes), size: bytes.len() as u64 };
        let label = format!("document {}", supplied.digest.short());
        if !self.registry.has_blob(&label, &supplied)? {
            let supply = Bytes { label, supplied, bytes: bytes.to_vec() };
            self.registry.upload(&supply, None, self.progress)?;
        }
        Ok(())
    }
}

impl Paper {
    fn layer(&self) -> Value {
        let mut layer = json!({
            "mediaType": self.media_type, "digest": Digest::of(&self.bytes), "size": self.bytes.len(),
        });
        if !self.annotations.is_empty() {
            layer["annotations"] = json!(self.annotations);
        }
        layer
    }
}

/// The manifest of an artifact that refers to an image.
fn manifest(
    subject: &Placed,
    artifact_type: &str,
    layers: &[Value],
    annotations: &Annotations,
) -> Vec<u8> {
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": media::MANIFEST,
        "artifactType": artifact_type,
        "config": empty_config(),
        "layers": layers,
        "subject": {
            "mediaType": subject.media_type, "digest": subject.digest, "size": subject.size,
        },
    });
    if !annotations.is_empty() {
        manifest["annotations"] = json!(annotations);
    }
    manifest.to_string().into_bytes()
}

pub(super) fn cosign_tag(subject: &Digest, suffix: &str) -> String {
    format!("sha256-{}.{suffix}", subject.hex())
}
