//! What is said of an image at its registry, held against a key: signatures, bills of materials, provenance.
//!
//! It is found where cosign puts it, under tags and among the referrers, in both of its forms. Whoever may
//! write there may add what they like, so what is of another key, about another image or no document at all
//! is passed over: it neither counts nor stands in the way. An envelope can be copied from image to image like
//! any blob, so what counts must be about this manifest. That the registry cannot be asked is a failure.

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
}

/// Something that was said, by whomever.
type Claim = (Descriptor, Value);

/// Reads what is said of a manifest.
pub fn read_attested(
    registry: &Registry<'_>,
    subject: &Digest,
    key: &PublicKey,
) -> Result<Attested, ShipError> {
    let mut attested = Attested::default();
    for (layer, annotations) in find_claims(registry, subject)? {
        let bytes = |limit| read(registry, &layer, limit);
        if is_bundle(&layer.media_type) {
            let said = bytes(LARGEST_ENVELOPE)?.and_then(|bytes| {
                let said = Bundle::parse(&bytes)?.open(key, subject)?;
                match said {
                    Said::Signed => Some(SIGN_PREDICATE.to_owned()),
                    Said::Statement(payload) => kind(&payload, subject),
                }
            });
            attested.add(said);
        } else if layer.media_type == ENVELOPE {
            let said = bytes(LARGEST_ENVELOPE)?.and_then(|bytes| {
                kind(&Envelope::parse(&bytes).ok()?.open(key, PAYLOAD_TYPE).ok()?, subject)
            });
            attested.add(said);
        } else if let Some(signature) = annotations[SIGNED].as_str() {
            let signature = BASE64_STANDARD.decode(signature).unwrap_or_default();
            let is_sign = |payload: &Vec<u8>| {
                key.verifies(payload, &signature) && is_payload_of(payload, subject)
            };
            match bytes(LARGEST_PAYLOAD)?.is_some_and(|payload| is_sign(&payload)) {
                true => attested.is_signed = true,
                false => attested.strange_signatures += 1,
            }
        }
    }
    Ok(attested)
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
        match self.strange_signatures + self.strange_attestations {
            _ if self.is_signed => Ok(()),
            0 => Err(ShipError::Unsigned { subject }),
            count => Err(ShipError::Stranger { subject, count }),
        }
    }
}

/// All that is there, each once.
fn find_claims(registry: &Registry<'_>, subject: &Digest) -> Result<Vec<Claim>, ShipError> {
    let mut versions = ["sig", "att"].map(|suffix| cosign_tag(subject, suffix)).to_vec();
    let listed = registry.list_referrers(subject)?.into_iter();
    let listed = listed.filter(|one| may_be_signed(&one.artifact_type)).take(MOST);
    versions.extend(listed.map(|one| one.digest.to_string()));
    let (mut seen, mut claims) = (BTreeSet::new(), Vec::new());
    for version in versions {
        let layers = match registry.artifact(&version) {
            Err(OciError::Missing { .. }) => continue,
            layers => layers?,
        };
        for (layer, annotations) in layers.into_iter().take(MOST) {
            let signature = annotations[SIGNED].as_str().unwrap_or_default().to_owned();
            if seen.insert((layer.digest, layer.media_type.clone(), signature)) {
                claims.push((layer, annotations));
            }
        }
    }
    Ok(claims)
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
    match registry.blob("attestation", &layer.digest, limit) {
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
