//! Who may sign an archive, and whether they did (OpenPGP, RFC 9580).
//!
//! A key signs an archive if it is in the keyring, is neither revoked nor expired at the time of
//! the signature and now, and, where it is a subkey, is bound to its primary key by a valid
//! signature in both directions. MD5, SHA-1 and RIPEMD-160 prove nothing here. One good signature is
//! enough, as for apt; a bad one by a key of the keyring refuses the file whatever else it carries.

use std::fmt;

use pgp::composed::{CleartextSignedMessage, Deserializable, DetachedSignature, SignedPublicKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Signature, SignatureType};
use pgp::types::{KeyDetails, VerifyingKey};

/// Keys that may sign.
#[derive(Clone, Debug)]
pub struct Keyring {
    keys: Vec<SignedPublicKey>,
}

/// Why a signed file is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SignatureError {
    #[error("the keyring cannot be read: {0}")]
    Keyring(String),
    #[error("the keyring holds no key")]
    NoKeys,
    #[error("it is not signed")]
    Unsigned,
    #[error("its signature cannot be read: {0}")]
    Damaged(String),
    #[error("it is signed by {0} only, which the keyring does not hold")]
    Unknown(Signers),
    #[error("the signature of {0} is wrong: the file was changed after it was signed")]
    Bad(Signers),
    #[error("the signature of {signer} does not count: {reason}")]
    Useless { signer: Signers, reason: String },
}

/// Key ids of signers, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signers(pub Vec<String>);

impl fmt::Display for Signers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.is_empty() {
            true => f.write_str("an unnamed key"),
            false => f.write_str(&self.0.join(", ")),
        }
    }
}

/// How one signature was judged.
enum Verdict {
    Good,
    Bad,
    Unknown,
    Useless(String),
}

impl Keyring {
    /// Debian's own archive keys, as its package `debian-archive-keyring` 2025.1 ships them.
    pub fn debian() -> Result<Self, SignatureError> {
        Self::parse(include_bytes!("keyrings/debian-archive-keyring.pgp"))
    }

    /// Parses keys, armored or binary.
    pub fn parse(bytes: &[u8]) -> Result<Self, SignatureError> {
        let damaged = |error: pgp::errors::Error| SignatureError::Keyring(error.to_string());
        let armored = bytes.trim_ascii_start().starts_with(b"-----BEGIN");
        let keys = match armored {
            true => SignedPublicKey::from_armor_many(bytes)
                .map_err(damaged)?
                .0
                .collect::<Result<Vec<_>, _>>(),
            false => SignedPublicKey::from_bytes_many(bytes).map_err(damaged)?.collect(),
        };
        match keys.map_err(damaged)? {
            keys if keys.is_empty() => Err(SignatureError::NoKeys),
            keys => Ok(Keyring { keys }),
        }
    }

    /// Verifies a clear-signed file (`InRelease`) and answers the text that was signed, and nothing
    /// else of it. `now` is in seconds since 1970.
    pub fn verify_inline(&self, bytes: &[u8], now: i64) -> Result<String, SignatureError> {
        if !bytes.trim_ascii_start().starts_with(b"-----BEGIN PGP SIGNED MESSAGE-----") {
            return Err(SignatureError::Unsigned);
        }
        let (message, _) = CleartextSignedMessage::from_armor(bytes.trim_ascii())
            .map_err(|error| SignatureError::Damaged(error.to_string()))?;
        let text = message.signed_text();
        self.judge(message.signatures().iter(), text.as_bytes(), now)?;
        Ok(text.replace("\r\n", "\n"))
    }

    /// Verifies `text` by a detached signature (`Release.gpg`), armored or binary.
    pub fn verify_detached(
        &self,
        text: &[u8],
        signature: &[u8],
        now: i64,
    ) -> Result<(), SignatureError> {
        let damaged = |error: pgp::errors::Error| SignatureError::Damaged(error.to_string());
        let armored = signature.trim_ascii_start().starts_with(b"-----BEGIN");
        let parsed: Result<Vec<_>, _> = match armored {
            true => DetachedSignature::from_armor_many(signature).map_err(damaged)?.0.collect(),
            false => DetachedSignature::from_bytes_many(signature).map_err(damaged)?.collect(),
        };
        let parsed = parsed.map_err(damaged)?;
        self.judge(parsed.iter().map(|detached| &detached.signature), text, now)
    }

    fn judge<'s>(
        &self,
        signatures: impl Iterator<Item = &'s Signature>,
        text: &[u8],
        now: i64,
    ) -> Result<(), SignatureError> {
        let mut good = false;
        let mut unknown = Vec::new();
        let mut useless = None;
        let mut any = false;
        for signature in signatures {
            any = true;
            let signer = signer(signature);
            match self.verdict(signature, text, now) {
                Verdict::Good => good = true,
                Verdict::Bad => return Err(SignatureError::Bad(Signers(signer))),
                Verdict::Unknown => unknown.extend(signer),
                Verdict::Useless(reason) => {
                    useless = Some(SignatureError::Useless { signer: Signers(signer), reason });
                }
            }
        }
        match (good, any, useless) {
            (true, ..) => Ok(()),
            (_, false, _) => Err(SignatureError::Unsigned),
            (.., Some(error)) => Err(error),
            _ => Err(SignatureError::Unknown(Signers(unknown))),
        }
    }

    fn verdict(&self, signature: &Signature, text: &[u8], now: i64) -> Verdict {
        let mut verdict = Verdict::Unknown;
        for key in &self.keys {
            let found = judge_by_key(key, signature, text, now);
            match found {
                Verdict::Unknown => {}
                Verdict::Good => return Verdict::Good,
                other => verdict = other,
            }
        }
        verdict
    }
}

fn signer(signature: &Signature) -> Vec<String> {
    let fingerprints =
        signature.issuer_fingerprint().into_iter().map(|print| print.to_string().to_uppercase());
    let ids: Vec<_> = fingerprints.collect();
    match ids.is_empty() {
        false => ids,
        true => {
            signature.issuer_key_id().into_iter().map(|id| id.to_string().to_uppercase()).collect()
        }
    }
}

fn names(signature: &Signature, key: &impl KeyDetails) -> bool {
    let print = key.fingerprint();
    let id = key.legacy_key_id();
    signature.issuer_fingerprint().iter().any(|issuer| **issuer == print)
        || signature.issuer_key_id().iter().any(|issuer| **issuer == id)
}

fn judge_by_key(key: &SignedPublicKey, signature: &Signature, text: &[u8], now: i64) -> Verdict {
    if names(signature, &key.primary_key) {
        return judge(signature, &key.primary_key, text, now, primary_fault(key, now));
    }
    match key.public_subkeys.iter().find(|subkey| names(signature, &subkey.key)) {
        None => Verdict::Unknown,
        Some(subkey) => {
            let fault = primary_fault(key, now).or_else(|| subkey_fault(key, subkey, now));
            judge(signature, &subkey.key, text, now, fault)
        }
    }
}

fn judge(
    signature: &Signature,
    key: &impl VerifyingKey,
    text: &[u8],
    now: i64,
    fault: Option<String>,
) -> Verdict {
    if !is_strong(signature) {
        return Verdict::Useless("its hash algorithm is broken".to_owned());
    }
    if !matches!(signature.typ(), Some(SignatureType::Text | SignatureType::Binary)) {
        return Verdict::Useless("it does not sign a document".to_owned());
    }
    if signature.verify(key, text).is_err() {
        return Verdict::Bad;
    }
    let expires = lifetime(signature.signature_expiration_time());
    let created = signature.created().map(|time| i64::from(time.as_secs()));
    let time_fault = match (created, expires) {
        (None, _) => Some("it has no date".to_owned()),
        // a day of grace for clocks
        (Some(created), _) if created > now + 86_400 => Some("it is from the future".to_owned()),
        (Some(created), Some(expires)) if created + expires < now => {
            Some("it has expired".to_owned())
        }
        _ => None,
    };
    match fault.or(time_fault) {
        Some(reason) => Verdict::Useless(reason),
        None => Verdict::Good,
    }
}

fn is_strong(signature: &Signature) -> bool {
    !matches!(
        signature.hash_alg(),
        None | Some(
            HashAlgorithm::None
                | HashAlgorithm::Md5
                | HashAlgorithm::Sha1
                | HashAlgorithm::Ripemd160
        )
    )
}

/// Seconds; zero means for ever.
fn lifetime(duration: Option<pgp::types::Duration>) -> Option<i64> {
    duration.map(|duration| i64::from(duration.as_secs())).filter(|seconds| *seconds > 0)
}

/// Why a primary key may not sign now.
fn primary_fault(key: &SignedPublicKey, now: i64) -> Option<String> {
    let primary = &key.primary_key;
    let revoked = key
        .details
        .revocation_signatures
        .iter()
        .any(|signature| signature.verify_key(primary).is_ok());
    if revoked {
        return Some("its key is revoked".to_owned());
    }
    // the newest valid self-signature says how long the key lives
    let direct = key
        .details
        .direct_signatures
        .iter()
        .filter(|signature| signature.verify_key(primary).is_ok());
    let users = key.details.users.iter().flat_map(|user| {
        user.signatures.iter().filter(|signature| {
            signature.is_certification()
                && signature
                    .verify_certification(primary, pgp::types::Tag::UserId, &user.id)
                    .is_ok()
        })
    });
    let own =
        direct.chain(users).max_by_key(|signature| signature.created().map(|time| time.as_secs()));
    let Some(own) = own else { return Some("its key has no valid self-signature".to_owned()) };
    expiry_fault(primary, own, now)
}

fn expiry_fault(key: &impl KeyDetails, own: &Signature, now: i64) -> Option<String> {
    let created = i64::from(key.created_at().as_secs());
    let expired =
        lifetime(own.key_expiration_time()).is_some_and(|seconds| created + seconds < now);
    expired.then(|| "its key has expired".to_owned())
}

/// Why a subkey may not sign now.
fn subkey_fault(
    key: &SignedPublicKey,
    subkey: &pgp::composed::SignedPublicSubKey,
    now: i64,
) -> Option<String> {
    let primary = &key.primary_key;
    let valid =
        |signature: &&Signature| signature.verify_subkey_binding(primary, &subkey.key).is_ok();
    let of = |kind| {
        subkey
            .signatures
            .iter()
            .filter(move |signature| signature.typ() == Some(kind))
            .filter(valid)
    };
    if of(SignatureType::SubkeyRevocation).next().is_some() {
        return Some("its subkey is revoked".to_owned());
    }
    let binding = of(SignatureType::SubkeyBinding)
        .filter(|signature| is_strong(signature))
        .max_by_key(|signature| signature.created().map(|time| time.as_secs()));
    let Some(binding) = binding else {
        return Some("its subkey is not bound to its key".to_owned());
    };
    if !binding.key_flags().sign() {
        return Some("its subkey is not for signing".to_owned());
    }
    let back = binding.embedded_signature();
    if back.is_none_or(|back| back.verify_primary_key_binding(&subkey.key, primary).is_err()) {
        return Some("its subkey does not acknowledge its key".to_owned());
    }
    expiry_fault(&subkey.key, binding, now)
}
