//! Bundles of sigstore (version 0.3): a signature with what it is verified by, in one document, as cosign
//! writes it since its version 3.
//!
//! Here a key verifies, and nothing else: certificates, entries of logs and timestamps that a bundle may have
//! are neither believed nor asked for. An image is signed by a statement that says nothing of it but its
//! digest (`https://sigstore.dev/cosign/sign/v1`), or by a signature over the bytes of its manifest.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::json;

use super::provenance::PAYLOAD_TYPE;
use super::sign::{Envelope, PrivateKey, PublicKey};
use crate::digest::Digest;

/// The media type of bundles that are written.
pub const MEDIA_BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// What the types of all versions begin with.
const ANY_BUNDLE: &str = "application/vnd.dev.sigstore.bundle";

/// What a statement that signs has as its type: its predicate is empty.
pub const SIGN_PREDICATE: &str = "https://sigstore.dev/cosign/sign/v1";

/// Whether a media type is one of bundles.
pub fn is_bundle(media_type: &str) -> bool {
    media_type.starts_with(ANY_BUNDLE)
}

/// What counts of a bundle.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bundle {
    dsse_envelope: Option<Envelope>,
    message_signature: Option<MessageSignature>,
}

#[derive(Deserialize)]
struct MessageSignature {
    signature: String,
}

/// What a key says in a bundle.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// A statement (in-toto).
    Statement(Vec<u8>),
    /// That the bytes of this digest are its own.
    Signed,
}

impl Bundle {
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// What `key` says in it, given the digest of what it may have signed.
    pub fn open(&self, key: &PublicKey, subject: &Digest) -> Option<Said> {
        if let Some(envelope) = &self.dsse_envelope {
            return envelope.open(key, PAYLOAD_TYPE).ok().map(Said::Statement);
        }
        let signature = BASE64_STANDARD.decode(&self.message_signature.as_ref()?.signature).ok()?;
        key.verifies_digest(subject, &signature).then_some(Said::Signed)
    }
}

/// A statement that a key signs, as a bundle. The hint is what cosign calls a key, and proves nothing.
pub fn bundle(key: &PrivateKey, statement: &[u8]) -> Vec<u8> {
    let hint = BASE64_STANDARD.encode(key.public().id().as_bytes());
    let bundle = json!({
        "mediaType": MEDIA_BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
        "dsseEnvelope": Envelope::sign(key, PAYLOAD_TYPE, statement),
    });
    bundle.to_string().into_bytes()
}

/// The statement by which a manifest is signed.
pub fn sign_statement(manifest: &Digest) -> Vec<u8> {
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"digest": {"sha256": manifest.hex()}}],
        "predicateType": SIGN_PREDICATE,
        "predicate": {},
    });
    statement.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_says_what_its_key_signed_and_nothing_to_others() {
        let keys = [1, 2].map(PrivateKey::of_tests);
        let manifest = Digest::of(b"manifest");
        let statement = sign_statement(&manifest);
        let read = Bundle::parse(&bundle(&keys[0], &statement)).unwrap();
        assert_eq!(read.open(&keys[0].public(), &manifest), Some(Said::Statement(statement)));
        assert_eq!(read.open(&keys[1].public(), &manifest), None);

        let signature = BASE64_STANDARD.encode(keys[0].sign(b"manifest"));
        let text = json!({
            "mediaType": MEDIA_BUNDLE,
            "verificationMaterial": {"publicKey": {"hint": "x"}, "tlogEntries": []},
            "messageSignature": {
                "messageDigest": {"algorithm": "SHA2_256", "digest": "x"}, "signature": signature,
            },
        });
        let read = Bundle::parse(text.to_string().as_bytes()).unwrap();
        assert_eq!(read.open(&keys[0].public(), &manifest), Some(Said::Signed));
        assert_eq!(read.open(&keys[1].public(), &manifest), None);
        assert_eq!(read.open(&keys[0].public(), &Digest::of(b"other")), None);
        for nothing in ["{}", "[]", "x", r#"{"dsseEnvelope": 1}"#] {
            let read = Bundle::parse(nothing.as_bytes());
            assert!(read.is_none_or(|read| read.open(&keys[0].public(), &manifest).is_none()));
        }
    }
}
