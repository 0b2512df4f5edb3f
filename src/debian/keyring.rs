//! Who may sign an archive, and whether they did (OpenPGP, RFC 9580).
//!
//! A key signs an archive if it is in the keyring, is neither revoked nor expired at the time of
//! the signature and now, and, where it is a subkey, is bound to its primary key by a valid
//! signature in both directions. MD5, SHA-1 and RIPEMD-160 prove nothing here. One good signature is
//! enough, as for apt; a bad one by a key of the keyring refuses the file whatever else it carries.

use std::fmt;

use pgp::composed::{
    CleartextSignedMessage, Deserializable, DetachedSignature, SignedPublicKey, SignedPublicSubKey,
};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Signature, SignatureType, SubpacketData};
use pgp::types::{KeyDetails, Tag, VerifyingKey};

use crate::blame::Blame;

/// Seconds that the signer's clock may be ahead of ours.
const CLOCK_GRACE: i64 = 86_400;

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
    Useless { signer: Signers, reason: Reason },
}

/// Why the right signature of a known key is not enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    #[error("its hash algorithm is broken or unknown")]
    Hash,
    #[error("it does not sign a document")]
    Kind,
    #[error("it has no date")]
    Undated,
    #[error("it is from the future")]
    Future,
    #[error("it is older than its key")]
    TooOld,
    #[error("it has expired")]
    Expired,
    #[error("its key has no valid self-signature")]
    NoSelfSignature,
    #[error("its key is revoked")]
    KeyRevoked,
    #[error("its key has expired")]
    KeyExpired,
    #[error("its key is not for signing")]
    NotForSigning,
    #[error("its subkey is not bound to its key")]
    Unbound,
    #[error("its subkey does not acknowledge its key")]
    Unacknowledged,
}

impl SignatureError {
    /// A keyring is the user's, a signature the archive's.
    pub fn blame(&self) -> Blame {
        match self {
            SignatureError::Keyring(_) | SignatureError::NoKeys => Blame::Input,
            _ => Blame::World,
        }
    }
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
    Useless(Reason),
}

impl Keyring {
    /// Debian's own archive keys, as its package `debian-archive-keyring` 2025.1 ships them.
    pub fn debian() -> Result<Self, SignatureError> {
        Self::parse(include_bytes!("keyrings/debian-archive-keyring.pgp"))
    }

    /// Parses keys: binary, or armored in one block or several.
    pub fn parse(bytes: &[u8]) -> Result<Self, SignatureError> {
        const BEGIN: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
        let damaged = |error: pgp::errors::Error| SignatureError::Keyring(error.to_string());
        let mut keys = Vec::new();
        match std::str::from_utf8(bytes).ok().filter(|text| text.contains(BEGIN)) {
            Some(text) => {
                let starts: Vec<usize> = text.match_indices(BEGIN).map(|(at, _)| at).collect();
                let ends = starts.iter().skip(1).copied().chain([text.len()]);
                for (start, end) in starts.iter().copied().zip(ends) {
                    let block = &text.as_bytes()[start..end];
                    let (found, _) = SignedPublicKey::from_armor_many(block).map_err(damaged)?;
                    keys.extend(found.collect::<Result<Vec<_>, _>>().map_err(damaged)?);
                }
            }
            None => {
                let found = SignedPublicKey::from_bytes_many(bytes).map_err(damaged)?;
                keys.extend(found.collect::<Result<Vec<_>, _>>().map_err(damaged)?);
            }
        }
        if keys.is_empty() {
            return Err(SignatureError::NoKeys);
        }
        Ok(Keyring { keys })
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
        let fault = primary_fault(key, now).or_else(|| signing_fault(key));
        return judge(signature, &key.primary_key, text, now, fault);
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
    fault: Option<Reason>,
) -> Verdict {
    if !is_strong(signature) {
        return Verdict::Useless(Reason::Hash);
    }
    if !matches!(signature.typ(), Some(SignatureType::Text | SignatureType::Binary)) {
        return Verdict::Useless(Reason::Kind);
    }
    if signature.verify(key, text).is_err() {
        return Verdict::Bad;
    }
    match fault.or_else(|| time_fault(signature, key, now)) {
        Some(reason) => Verdict::Useless(reason),
        None => Verdict::Good,
    }
}

fn time_fault(signature: &Signature, key: &impl KeyDetails, now: i64) -> Option<Reason> {
    let Some(created) = seconds(signature.created()) else { return Some(Reason::Undated) };
    let expires = lifetime(signature.signature_expiration_time());
    if created > now + CLOCK_GRACE {
        Some(Reason::Future)
    } else if created < i64::from(key.created_at().as_secs()) {
        Some(Reason::TooOld)
    } else if expires.is_some_and(|expires| created + expires < now) {
        Some(Reason::Expired)
    } else {
        None
    }
}

fn seconds(time: Option<pgp::types::Timestamp>) -> Option<i64> {
    time.map(|time| i64::from(time.as_secs()))
}

/// Everything weaker than SHA-2 is out, and so is what nobody has heard of.
fn is_strong(signature: &Signature) -> bool {
    matches!(
        signature.hash_alg(),
        Some(
            HashAlgorithm::Sha224
                | HashAlgorithm::Sha256
                | HashAlgorithm::Sha384
                | HashAlgorithm::Sha512
                | HashAlgorithm::Sha3_256
                | HashAlgorithm::Sha3_512
        )
    )
}

/// Seconds; zero means for ever.
fn lifetime(duration: Option<pgp::types::Duration>) -> Option<i64> {
    duration.map(|duration| i64::from(duration.as_secs())).filter(|seconds| *seconds > 0)
}

/// The valid self-signature that speaks for a primary key: the newest. One with a weak hash still
/// says how long the key lives, for the keyring vouches for the key itself.
fn self_signature(key: &SignedPublicKey) -> Option<&Signature> {
    let primary = &key.primary_key;
    let direct = key.details.direct_signatures.iter();
    let direct = direct.filter(|signature| signature.verify_key(primary).is_ok());
    let users = key.details.users.iter().flat_map(|user| {
        let valid = |signature: &&Signature| {
            signature.is_certification()
                && signature.verify_certification(primary, Tag::UserId, &user.id).is_ok()
        };
        let revokes =
            |signature: &Signature| signature.typ() == Some(SignatureType::CertRevocation);
        let revoked = user.signatures.iter().filter(valid).any(revokes);
        user.signatures.iter().filter(valid).filter(move |_| !revoked)
    });
    direct.chain(users).max_by_key(|signature| seconds(signature.created()))
}

/// Why a primary key vouches for nothing now.
fn primary_fault(key: &SignedPublicKey, now: i64) -> Option<Reason> {
    let primary = &key.primary_key;
    let mut revocations = key.details.revocation_signatures.iter();
    if revocations.any(|signature| signature.verify_key(primary).is_ok()) {
        return Some(Reason::KeyRevoked);
    }
    match self_signature(key) {
        None => Some(Reason::NoSelfSignature),
        Some(own) => expiry_fault(primary, own, now),
    }
}

/// Why a primary key that is in order may not sign documents itself. Old keys have no flags.
fn signing_fault(key: &SignedPublicKey) -> Option<Reason> {
    let own = self_signature(key)?;
    let mut subpackets = own.config()?.hashed_subpackets();
    let flagged = subpackets.any(|packet| matches!(packet.data, SubpacketData::KeyFlags(_)));
    (flagged && !own.key_flags().sign()).then_some(Reason::NotForSigning)
}

fn expiry_fault(key: &impl KeyDetails, own: &Signature, now: i64) -> Option<Reason> {
    let created = i64::from(key.created_at().as_secs());
    let expires = lifetime(own.key_expiration_time());
    expires.is_some_and(|seconds| created + seconds < now).then_some(Reason::KeyExpired)
}

/// Why a subkey may not sign now.
fn subkey_fault(key: &SignedPublicKey, subkey: &SignedPublicSubKey, now: i64) -> Option<Reason> {
    let primary = &key.primary_key;
    let of = |kind| {
        let valid = move |signature: &&Signature| {
            signature.typ() == Some(kind)
                && signature.verify_subkey_binding(primary, &subkey.key).is_ok()
        };
        subkey.signatures.iter().filter(valid)
    };
    if of(SignatureType::SubkeyRevocation).next().is_some() {
        return Some(Reason::KeyRevoked);
    }
    let binding = of(SignatureType::SubkeyBinding)
        .filter(|binding| is_strong(binding) && time_fault(binding, primary, now).is_none())
        .max_by_key(|binding| seconds(binding.created()));
    let Some(binding) = binding else { return Some(Reason::Unbound) };
    if !binding.key_flags().sign() {
        return Some(Reason::NotForSigning);
    }
    let acknowledged = binding.embedded_signature().is_some_and(|back| {
        is_strong(back) && back.verify_primary_key_binding(&subkey.key, primary).is_ok()
    });
    if !acknowledged {
        return Some(Reason::Unacknowledged);
    }
    expiry_fault(&subkey.key, binding, now)
}

#[cfg(test)]
mod tests;
