//! Attestations at a registry, held against a key: bills of materials and provenance that somebody relies on.
//!
//! An envelope is found where cosign puts it and where referrers are listed. Others may attest as well, so an
//! envelope of another key is no fault as long as there is one of this key; but what this key signed must be
//! about this manifest, for an envelope can be copied from image to image like any blob.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

use super::ShipError;
use super::attest::{ENVELOPE, cosign_tag};
use crate::digest::Digest;
use crate::oci::{OciError, Registry};
use crate::report::PAYLOAD_TYPE;
use crate::report::sign::{Envelope, PublicKey};

/// Largest envelope that is read: the bill of a large image has some megabytes.
const LARGEST: u64 = 64 << 20;

/// What of an in-toto statement counts here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    subject: Vec<Subject>,
    predicate_type: String,
}

#[derive(Deserialize)]
struct Subject {
    #[serde(default)]
    digest: Value,
}

/// Verifies the attestations of a manifest, where it has any; answers what they are of (`predicateType`).
pub fn verify_attestations(
    registry: &Registry<'_>,
    subject: &Digest,
    key: &PublicKey,
) -> Result<BTreeSet<String>, ShipError> {
    let (mut kinds, mut strangers) = (BTreeSet::new(), 0);
    for digest in find_envelopes(registry, subject)? {
        let bytes = registry.blob("attestation", &digest, LARGEST)?;
        match open(&bytes, key).filter(|_| Digest::of(&bytes) == digest) {
            Some(statement) if statement.names(subject) => {
                kinds.insert(statement.predicate_type);
            }
            Some(Statement { predicate_type, .. }) => {
                return Err(ShipError::OtherSubject { subject: *subject, predicate_type });
            }
            None => strangers += 1,
        }
    }
    match strangers {
        count if count > 0 && kinds.is_empty() => {
            Err(ShipError::StrangerAttests { subject: *subject, count })
        }
        _ => Ok(kinds),
    }
}

fn find_envelopes(
    registry: &Registry<'_>,
    subject: &Digest,
) -> Result<BTreeSet<Digest>, ShipError> {
    let mut versions = vec![cosign_tag(subject, "att")];
    let listed = registry.list_referrers(subject)?.into_iter();
    let attested = listed.filter(|one| one.artifact_type == ENVELOPE);
    versions.extend(attested.map(|one| one.digest.to_string()));
    let mut envelopes = BTreeSet::new();
    for version in versions {
        let layers = match registry.artifact(&version) {
            Err(OciError::Missing { .. }) => continue,
            layers => layers?.into_iter(),
        };
        let found = layers.filter(|(layer, _)| layer.media_type == ENVELOPE);
        envelopes.extend(found.map(|(layer, _)| layer.digest));
    }
    Ok(envelopes)
}

/// The statement, if `key` signed it.
fn open(bytes: &[u8], key: &PublicKey) -> Option<Statement> {
    let payload = Envelope::parse(bytes).ok()?.open(key, PAYLOAD_TYPE).ok()?;
    serde_json::from_slice(&payload).ok()
}

impl Statement {
    fn names(&self, manifest: &Digest) -> bool {
        self.subject.iter().any(|one| one.digest["sha256"].as_str() == Some(&*manifest.hex()))
    }
}
