//! Keys that sign: made from a fixed seed, dated long ago, so that they are the same in every test
//! run. They are no secret.

use std::sync::LazyLock;

use pgp::composed::{
    ArmorOptions, CleartextSignedMessage, DetachedSignature, KeyType, SecretKeyParamsBuilder,
    SignedPublicKey, SignedSecretKey,
};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{KeyFlags, SignatureConfig, SignatureType, Subpacket, SubpacketData};
use pgp::types::{Password, SigningKey, Tag, Timestamp};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// When the keys were made, and everything was signed.
const BORN: u32 = 1_577_836_800;

/// Who signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signer {
    /// Whom the tests' projects trust.
    Archive,
    Stranger,
}

impl Signer {
    fn secret(self) -> &'static SignedSecretKey {
        static ARCHIVE: LazyLock<SignedSecretKey> = LazyLock::new(|| generate("archive", 1));
        static STRANGER: LazyLock<SignedSecretKey> = LazyLock::new(|| generate("stranger", 2));
        match self {
            Signer::Archive => &ARCHIVE,
            Signer::Stranger => &STRANGER,
        }
    }

    /// The public key, armored.
    pub fn public(self) -> String {
        let public = SignedPublicKey::from(self.secret().clone());
        public.to_armored_string(ArmorOptions::default()).unwrap()
    }

    /// `InRelease` of a `Release`.
    pub fn sign_inline(self, text: &str) -> String {
        let key = &self.secret().primary_key;
        let message =
            CleartextSignedMessage::new(text, config(key, SignatureType::Text), key, &none());
        message.unwrap().to_armored_string(ArmorOptions::default()).unwrap()
    }

    /// `Release.gpg` of a `Release`.
    pub fn sign_detached(self, text: &str) -> String {
        let key = &self.secret().primary_key;
        let signature = config(key, SignatureType::Binary).sign(key, &none(), text.as_bytes());
        let detached = DetachedSignature::new(signature.unwrap());
        detached.to_armored_string(ArmorOptions::default()).unwrap()
    }
}

fn none() -> Password {
    Password::empty()
}

fn generate(name: &str, seed: u64) -> SignedSecretKey {
    let mut params = SecretKeyParamsBuilder::default();
    params
        .key_type(KeyType::Ed25519Legacy)
        .can_certify(true)
        .can_sign(true)
        .created_at(Timestamp::from_secs(BORN))
        .primary_user_id(format!("{name} <{name}@example.org>"));
    let mut secret = params.build().unwrap().generate(StdRng::seed_from_u64(seed)).unwrap();
    // what was signed "now" is signed again, with the key's own date
    let key = secret.primary_key.clone();
    let mut flags = KeyFlags::default();
    flags.set_certify(true);
    flags.set_sign(true);
    let mut cert = config(&key, SignatureType::CertPositive);
    cert.hashed_subpackets.push(Subpacket::regular(SubpacketData::KeyFlags(flags)).unwrap());
    let user = &mut secret.details.users[0];
    let signature =
        cert.sign_certification(&key, key.public_key(), &none(), Tag::UserId, &user.id).unwrap();
    user.signatures = vec![signature];
    secret
}

fn config(key: &impl SigningKey, kind: SignatureType) -> SignatureConfig {
    let mut config = SignatureConfig::v4(kind, key.algorithm(), HashAlgorithm::Sha512);
    config.hashed_subpackets = [
        SubpacketData::SignatureCreationTime(Timestamp::from_secs(BORN)),
        SubpacketData::IssuerFingerprint(key.fingerprint()),
    ]
    .map(|data| Subpacket::regular(data).unwrap())
    .to_vec();
    config.unhashed_subpackets =
        vec![Subpacket::regular(SubpacketData::IssuerKeyId(key.legacy_key_id())).unwrap()];
    config
}
