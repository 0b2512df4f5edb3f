//! What is said of an image at its registry, held against a key: signatures, bills of materials, provenance.
//!
//! It is found where cosign puts it, under tags and among the referrers, in both of its forms. Whoever may
//! write there may add what they like, so what is of another key, about another image or no document at all
//! is passed over: it neither counts nor stands in the way. An envelope can be copied from image to image like
//! any blob, so what counts must be about this manifest. That the registry cannot be asked is a failure.
//!
//! Nor can they keep anybody busy without an end: how much is looked at has limits, far beyond what any number
//! of signers writes, and what is small goes first.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::Value;

use super::ShipError;
use super::attest::{ENVELOPE, MOST, SIGNATURE, SIGNED, cosign_tag};
use crate::digest::Digest;
use crate::fetch::FetchError;
use crate::oci::document::Descriptor;
use crate::oci::{MEDIA_EMPTY, OciError, Registry};
use crate::report::PAYLOAD_TYPE;
use crate::report::bundle::{Bundle, SIGN_PREDICATE, Said, is_bundle};
use crate::report::sign::{Envelope, PublicKey};

/// Largest envelope that is read: the bill of a large image has some megabytes.
pub(super) const LARGEST_ENVELOPE: u64 = 64 << 20;
/// Largest payload of a signature.
const LARGEST_PAYLOAD: u64 = 1 << 20;

/// Most documents that are looked at, and most bytes of them and of what lists them.
const MOST_DOCUMENTS: usize = 4 * MOST;
pub(super) const MOST_BYTES: u64 = 1 << 30;

/// What of an in-toto statement counts here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Statement {
    subject: Vec<Subject>,
    predicate_type: String,
}

#[derive(Deserialize)]
struct Subject {
    #[serde(default)]
    digest: Value,
}

impl Statement {
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    pub(super) fn is_about(&self, manifest: &Digest) -> bool {
        self.subject.iter().any(|one| one.digest["sha256"].as_str() == Some(&*manifest.hex()))
    }
}

/// What a key says of a manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attested {
    pub is_signed: bool,
    /// Types of the predicates that it attests.
    pub kinds: BTreeSet<String>,
    /// Signatures and attestations that are not of this key, or not of this manifest.
    pub strange_signatures: usize,
    pub strange_attestations: usize,
    /// What was not looked at, because it is too large or too much.
    pub unread: usize,
}

/// A document that somebody attached, whoever it is.
struct Attached {
    layer: Descriptor,
    annotations: Value,
}

/// Reads what is said of a manifest.
pub fn read_attested(
    registry: &Registry<'_>,
    subject: &Digest,
    key: &PublicKey,
) -> Result<Attested, ShipError> {
    let mut reading = Reading { registry, subject, rest: MOST_BYTES, unread: 0, last: None };
    let mut attested = Attested::default();
    for Attached { layer, annotations } in reading.find_all()? {
        if is_bundle(&layer.media_type) {
            let Some(bytes) = reading.read(&layer, LARGEST_ENVELOPE)? else { continue };
            let said = Bundle::parse(bytes).and_then(|bundle| bundle.open(key, subject));
            attested.add(said.and_then(|said| match said {
                Said::Signed => Some(SIGN_PREDICATE.to_owned()),
                Said::Statement(payload) => kind(&payload, subject),
            }));
        } else if layer.media_type == ENVELOPE {
            let Some(bytes) = reading.read(&layer, LARGEST_ENVELOPE)? else { continue };
            let payload = Envelope::parse(bytes).and_then(|one| one.open(key, PAYLOAD_TYPE));
            attested.add(payload.ok().and_then(|payload| kind(&payload, subject)));
        } else if let Some(signature) = annotations[SIGNED].as_str() {
            let signature = BASE64_STANDARD.decode(signature).unwrap_or_default();
            let Some(payload) = reading.read(&layer, LARGEST_PAYLOAD)? else { continue };
            match key.verifies(payload, &signature) && is_payload_of(payload, subject) {
                true => attested.is_signed = true,
                false => attested.strange_signatures += 1,
            }
        }
    }
    Ok(Attested { unread: reading.unread, ..attested })
}

impl Attested {
    fn add(&mut self, kind: Option<String>) {
        match kind {
            Some(kind) if kind == SIGN_PREDICATE => self.is_signed = true,
            Some(kind) => {
                self.kinds.insert(kind);
            }
            None => self.strange_attestations += 1,
        }
    }

    /// Refuses what the key did not sign.
    pub fn check(&self, subject: &Digest) -> Result<(), ShipError> {
        let subject = *subject;
        match self.strange_signatures + self.strange_attestations + self.unread {
            _ if self.is_signed => Ok(()),
            0 => Err(ShipError::Unsigned { subject }),
            count => Err(ShipError::Stranger { subject, count }),
        }
    }
}

/// What is left to be read.
struct Reading<'a> {
    registry: &'a Registry<'a>,
    subject: &'a Digest,
    /// Bytes that may still be.
    rest: u64,
    unread: usize,
    /// What was read last: all signatures of a name are of the same payload.
    last: Option<(Descriptor, Vec<u8>)>,
}

impl Reading<'_> {
    /// All that is there, each once, the smallest first.
    fn find_all(&mut self) -> Result<Vec<Attached>, ShipError> {
        let mut versions = ["sig", "att"].map(|suffix| cosign_tag(self.subject, suffix)).to_vec();
        let listed = self.registry.list_referrers(self.subject);
        let mut listed = self.unless_large(listed)?.unwrap_or_default();
        listed.retain(|one| may_be_signed(&one.artifact_type));
        self.unread += listed.len().saturating_sub(MOST);
        versions.extend(listed.iter().take(MOST).map(|one| one.digest.to_string()));
        let (mut seen, mut all) = (BTreeSet::new(), Vec::new());
        for version in versions {
            if self.rest == 0 || all.len() >= MOST_DOCUMENTS {
                self.unread += 1;
                continue;
            }
            let artifact = match self.registry.find_artifact(&version) {
                Err(OciError::Missing { .. }) => continue,
                artifact => self.unless_large(artifact)?,
            };
            let Some(artifact) = artifact else { continue };
            self.rest = self.rest.saturating_sub(artifact.size);
            self.unread += artifact.layers.len().saturating_sub(MOST);
            for (layer, annotations) in artifact.described().into_iter().take(MOST) {
                let signature = annotations[SIGNED].as_str().unwrap_or_default().to_owned();
                let place = (layer.digest, layer.size, layer.media_type.clone(), signature);
                if seen.insert(place) {
                    all.push(Attached { layer, annotations });
                }
            }
        }
        self.unread += all.len().saturating_sub(MOST_DOCUMENTS);
        all.truncate(MOST_DOCUMENTS);
        all.sort_by_key(|one| (one.layer.size, one.layer.digest));
        Ok(all)
    }

    /// What was asked for, or none where there is more of it than anybody reads.
    fn unless_large<T>(&mut self, answer: Result<T, OciError>) -> Result<Option<T>, ShipError> {
        match answer {
            Err(OciError::Fetch(FetchError::TooLarge { .. })) => {
                self.unread += 1;
                Ok(None)
            }
            answer => Ok(Some(answer?)),
        }
    }

    /// The bytes of a document, which are none where they are not what they should be; nothing where it is
    /// not looked at.
    fn read(&mut self, layer: &Descriptor, limit: u64) -> Result<Option<&[u8]>, ShipError> {
        let Some(rest) = self.rest.checked_sub(layer.size).filter(|_| layer.size <= limit) else {
            self.unread += 1;
            return Ok(None);
        };
        self.rest = rest;
        if self.last.as_ref().is_none_or(|(last, _)| last != layer) {
            let bytes = read(self.registry, layer, limit)?.unwrap_or_default();
            self.last = Some((layer.clone(), bytes));
        }
        Ok(self.last.as_ref().map(|(_, bytes)| &**bytes))
    }
}

/// Whether an artifact of this type may have signatures and envelopes. Where a registry keeps no list, cosign
/// writes the config's type into it.
fn may_be_signed(artifact_type: &str) -> bool {
    ["", MEDIA_EMPTY, SIGNATURE, ENVELOPE, PAYLOAD_TYPE].contains(&artifact_type)
        || is_bundle(artifact_type)
}

/// The bytes of a layer; none where they are not what they should be.
pub(super) fn read(
    registry: &Registry<'_>,
    layer: &Descriptor,
    limit: u64,
) -> Result<Option<Vec<u8>>, ShipError> {
    if layer.size > limit {
        return Ok(None);
    }
    match registry.blob("attestation", &layer.digest, layer.size) {
        Err(OciError::Missing { .. } | OciError::Fetch(FetchError::TooLarge { .. })) => Ok(None),
        bytes => Ok(Some(bytes?).filter(|bytes| Digest::of(bytes) == layer.digest)),
    }
}

/// The type of a statement's predicate, if it is about this manifest.
fn kind(payload: &[u8], subject: &Digest) -> Option<String> {
    let statement = Statement::parse(payload)?;
    statement.is_about(subject).then_some(statement.predicate_type)
}

/// Whether what was signed is about this manifest (cosign's "simple signing").
fn is_payload_of(payload: &[u8], subject: &Digest) -> bool {
    let value: Value = serde_json::from_slice(payload).unwrap_or_default();
    let critical = &value["critical"];
    critical["type"].as_str() == Some("cosign container image signature")
        && critical["image"]["docker-manifest-digest"].as_str() == Some(&subject.to_string())
}
