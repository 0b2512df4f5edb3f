use pgp::composed::{
    ArmorOptions, KeyType, SecretKeyParamsBuilder, SignedSecretKey, SubkeyParamsBuilder,
    SubpacketConfig,
};
use pgp::packet::{KeyFlags, SignatureConfig, Subpacket};
use pgp::ser::Serialize;
use pgp::types::{Duration, Password, SigningKey, Timestamp};
use rand::thread_rng;

use super::*;

/// When everything below happens; keys are a year older.
const NOW: i64 = 1_790_000_000;
const YEAR: u32 = 365 * 86_400;
const BORN: u32 = NOW as u32 - YEAR;
const TEXT: &str = "Origin: Debian\n- dashed\nSuite: stable\nDate: today\n";

fn generate() -> SignedSecretKey {
    generate_with(KeyType::Ed25519Legacy)
}

/// `kind` is the primary key's: EdDSA does not even make signatures over weak hashes.
fn generate_with(kind: KeyType) -> SignedSecretKey {
    let born = Timestamp::from_secs(BORN);
    let subkey = SubkeyParamsBuilder::default()
        .key_type(KeyType::Ed25519Legacy)
        .can_sign(true)
        .created_at(born)
        .build()
        .unwrap();
    let mut params = SecretKeyParamsBuilder::default();
    params
        .key_type(kind)
        .can_certify(true)
        .can_sign(true)
        .created_at(born)
        .primary_user_id("Archive <archive@example.org>".to_owned())
        .subkey(subkey);
    params.build().unwrap().generate(thread_rng()).unwrap()
}

/// Subpackets that every signature here has, dated, and more.
fn dated(key: &impl SigningKey, at: u32, more: Vec<SubpacketData>) -> Vec<Subpacket> {
    let own = [
        SubpacketData::SignatureCreationTime(Timestamp::from_secs(at)),
        SubpacketData::IssuerFingerprint(key.fingerprint()),
    ];
    own.into_iter().chain(more).map(|data| Subpacket::regular(data).unwrap()).collect()
}

fn config(
    key: &impl SigningKey,
    kind: SignatureType,
    hash: HashAlgorithm,
    at: u32,
    more: Vec<SubpacketData>,
) -> SignatureConfig {
    let mut config = SignatureConfig::v4(kind, key.algorithm(), hash);
    config.hashed_subpackets = dated(key, at, more);
    config
}

/// Re-signs what the generator signed "now", so that the tests' clock is the only one: the user id,
/// with what `own` says of the primary key, and the subkey's binding in both directions.
fn redate(secret: &SignedSecretKey, own: Vec<SubpacketData>, bound: Binding) -> SignedPublicKey {
    let none = Password::empty();
    let mut public = SignedPublicKey::from(secret.clone());
    let primary = &secret.primary_key;
    let user = &mut public.details.users[0];
    let cert = config(primary, SignatureType::CertPositive, HashAlgorithm::Sha256, BORN, own);
    let primary_key = &public.primary_key;
    user.signatures =
        vec![cert.sign_certification(primary, primary_key, &none, Tag::UserId, &user.id).unwrap()];

    let subkey = &mut public.public_subkeys[0];
    let signing = &secret.secret_subkeys[0].key;
    let mut flags = KeyFlags::default();
    flags.set_sign(!matches!(bound, Binding::NotForSigning));
    let mut more = vec![SubpacketData::KeyFlags(flags)];
    if let Binding::Expires(seconds) = bound {
        more.push(SubpacketData::KeyExpirationTime(Duration::from_secs(seconds)));
    }
    if !matches!(bound, Binding::NoBack) {
        let back =
            config(signing, SignatureType::KeyBinding, HashAlgorithm::Sha256, BORN, Vec::new());
        let back = back.sign_primary_key_binding(signing, &subkey.key, &none, primary_key).unwrap();
        more.push(SubpacketData::EmbeddedSignature(Box::new(back)));
    }
    let hash = match bound {
        Binding::Weak => HashAlgorithm::Sha1,
        _ => HashAlgorithm::Sha256,
    };
    let bind = |kind, more| {
        config(primary, kind, hash, BORN, more)
            .sign_subkey_binding(primary, primary_key, &none, &subkey.key)
            .unwrap()
    };
    subkey.signatures = match bound {
        Binding::None => Vec::new(),
        Binding::Revoked => vec![
            bind(SignatureType::SubkeyBinding, more),
            bind(SignatureType::SubkeyRevocation, Vec::new()),
        ],
        _ => vec![bind(SignatureType::SubkeyBinding, more)],
    };
    public
}

enum Binding {
    Good,
    None,
    NoBack,
    NotForSigning,
    Weak,
    Revoked,
    Expires(u32),
}

fn ring(keys: &[SignedPublicKey]) -> Keyring {
    Keyring { keys: keys.to_vec() }
}

fn plain(secret: &SignedSecretKey) -> SignedPublicKey {
    redate(secret, Vec::new(), Binding::Good)
}

struct Signing {
    hash: HashAlgorithm,
    at: u32,
    more: Vec<SubpacketData>,
}

impl Default for Signing {
    fn default() -> Self {
        Signing { hash: HashAlgorithm::Sha512, at: NOW as u32 - 60, more: Vec::new() }
    }
}

fn sign_as(key: &impl SigningKey, signing: Signing) -> Vec<u8> {
    let Signing { hash, at, more } = signing;
    let config = config(key, SignatureType::Text, hash, at, more);
    let message = CleartextSignedMessage::new(TEXT, config, key, &Password::empty()).unwrap();
    message.to_armored_bytes(ArmorOptions::default()).unwrap()
}

fn sign(key: &impl SigningKey) -> Vec<u8> {
    sign_as(key, Signing::default())
}

fn useless(result: Result<String, SignatureError>) -> Reason {
    match result.unwrap_err() {
        SignatureError::Useless { reason, .. } => reason,
        other => panic!("{other}"),
    }
}

#[test]
fn the_signed_text_is_answered_without_its_armor() {
    let secret = generate();
    let keyring = ring(&[plain(&secret)]);
    let expected = "Origin: Debian\n- dashed\nSuite: stable\nDate: today\n";
    for signed in [sign(&secret.primary_key), sign(&secret.secret_subkeys[0].key)] {
        assert!(signed.windows(10).any(|window| window == b"- - dashed"));
        assert_eq!(keyring.verify_inline(&signed, NOW).unwrap().trim_end(), expected.trim_end());
    }
}

#[test]
fn a_stranger_is_named() {
    let (secret, stranger) = (generate(), generate());
    let error = ring(&[plain(&secret)]).verify_inline(&sign(&stranger.primary_key), NOW);
    let print = stranger.primary_key.fingerprint().to_string().to_uppercase();
    assert_eq!(error.unwrap_err(), SignatureError::Unknown(Signers(vec![print])));
}

#[test]
fn a_changed_text_is_refused() {
    let secret = generate();
    let keyring = ring(&[plain(&secret)]);
    let signed = String::from_utf8(sign(&secret.primary_key)).unwrap();
    let changed = signed.replace("Debian", "Dabian");
    let error = keyring.verify_inline(changed.as_bytes(), NOW).unwrap_err();
    assert!(matches!(error, SignatureError::Bad(_)), "{error}");
}

#[test]
fn nothing_outside_the_signed_block_is_accepted() {
    let secret = generate();
    let keyring = ring(&[plain(&secret)]);
    let signed = String::from_utf8(sign(&secret.primary_key)).unwrap();
    let refused = |text: String| keyring.verify_inline(text.as_bytes(), NOW).unwrap_err();
    let error = refused(format!("{signed}\nSuite: sid\n"));
    assert!(matches!(error, SignatureError::Damaged(_)), "{error}");
    assert_eq!(refused(format!("Suite: sid\n{signed}")), SignatureError::Unsigned);
    assert_eq!(refused(TEXT.to_owned()), SignatureError::Unsigned);
    let cut = signed[..signed.len() - 80].to_owned();
    assert!(matches!(refused(cut), SignatureError::Damaged(_)));
}

#[test]
fn weak_hashes_prove_nothing() {
    let secret = generate_with(KeyType::Rsa(2048));
    let keyring = ring(&[plain(&secret)]);
    for hash in [HashAlgorithm::Sha1, HashAlgorithm::Md5, HashAlgorithm::Ripemd160] {
        let signing = Signing { hash, ..Signing::default() };
        let signed = sign_as(&secret.primary_key, signing);
        assert_eq!(useless(keyring.verify_inline(&signed, NOW)), Reason::Hash, "{hash}");
    }
    let bound = ring(&[redate(&secret, Vec::new(), Binding::Weak)]);
    let signed = sign(&secret.secret_subkeys[0].key);
    assert_eq!(useless(bound.verify_inline(&signed, NOW)), Reason::Unbound);
}

#[test]
fn a_signature_has_its_time() {
    let secret = generate();
    let keyring = ring(&[plain(&secret)]);
    let judge = |at, more| {
        let signing = Signing { at, more, ..Signing::default() };
        useless(keyring.verify_inline(&sign_as(&secret.primary_key, signing), NOW))
    };
    let short = vec![SubpacketData::SignatureExpirationTime(Duration::from_secs(30))];
    assert_eq!(judge(NOW as u32 - 60, short), Reason::Expired);
    assert_eq!(judge(NOW as u32 + 3 * 86_400, Vec::new()), Reason::Future);
    assert_eq!(judge(BORN - 1, Vec::new()), Reason::TooOld);
}

#[test]
fn an_expired_or_revoked_key_signs_nothing() {
    let secret = generate();
    let (one, two) = (sign(&secret.primary_key), sign(&secret.secret_subkeys[0].key));
    let life = vec![SubpacketData::KeyExpirationTime(Duration::from_secs(YEAR - 10))];
    let expired = ring(&[redate(&secret, life, Binding::Good)]);
    assert_eq!(useless(expired.verify_inline(&one, NOW)), Reason::KeyExpired);
    assert_eq!(useless(expired.verify_inline(&two, NOW)), Reason::KeyExpired);
    assert!(expired.verify_inline(&one, NOW - 30).is_ok());

    let mut key = plain(&secret);
    let primary = &secret.primary_key;
    let revocation =
        config(primary, SignatureType::KeyRevocation, HashAlgorithm::Sha256, BORN + 5, Vec::new());
    let revocation = revocation.sign_key(primary, &Password::empty(), &key.primary_key).unwrap();
    key.details.revocation_signatures.push(revocation);
    let revoked = ring(&[key]);
    assert_eq!(useless(revoked.verify_inline(&one, NOW)), Reason::KeyRevoked);
    assert_eq!(useless(revoked.verify_inline(&two, NOW)), Reason::KeyRevoked);
}

#[test]
fn a_subkey_is_bound_in_both_directions() {
    let secret = generate();
    let signed = sign(&secret.secret_subkeys[0].key);
    let judge =
        |bound| useless(ring(&[redate(&secret, Vec::new(), bound)]).verify_inline(&signed, NOW));
    assert_eq!(judge(Binding::None), Reason::Unbound);
    assert_eq!(judge(Binding::NoBack), Reason::Unacknowledged);
    assert_eq!(judge(Binding::NotForSigning), Reason::NotForSigning);
    assert_eq!(judge(Binding::Revoked), Reason::KeyRevoked);
    assert_eq!(judge(Binding::Expires(YEAR - 10)), Reason::KeyExpired);
    // a binding by somebody else's primary key binds nothing
    let other = generate();
    let mut stolen = plain(&other);
    stolen.public_subkeys[0].key = plain(&secret).public_subkeys[0].key.clone();
    assert_eq!(useless(ring(&[stolen]).verify_inline(&signed, NOW)), Reason::Unbound);
}

#[test]
fn a_primary_key_that_only_certifies_signs_no_document() {
    let secret = generate();
    let mut flags = KeyFlags::default();
    flags.set_certify(true);
    let keyring = ring(&[redate(&secret, vec![SubpacketData::KeyFlags(flags)], Binding::Good)]);
    let by_primary = keyring.verify_inline(&sign(&secret.primary_key), NOW);
    assert_eq!(useless(by_primary), Reason::NotForSigning);
    keyring.verify_inline(&sign(&secret.secret_subkeys[0].key), NOW).unwrap();
}

#[test]
fn one_good_signature_is_enough_and_one_bad_is_too_much() {
    let (secret, stranger) = (generate(), generate());
    let both = |text: &str, second: &str| {
        let signature = |key: &SignedSecretKey, text: &str| {
            let config = config(
                &key.primary_key,
                SignatureType::Text,
                HashAlgorithm::Sha256,
                NOW as u32,
                Vec::new(),
            );
            config.sign(&key.primary_key, &Password::empty(), text.as_bytes())
        };
        let message = CleartextSignedMessage::new_many(text, |text| {
            Ok(vec![signature(&stranger, text)?, signature(&secret, &format!("{text}{second}"))?])
        });
        message.unwrap().to_armored_bytes(ArmorOptions::default()).unwrap()
    };
    let known = ring(&[plain(&secret)]);
    known.verify_inline(&both(TEXT, ""), NOW).unwrap();
    let all = ring(&[plain(&stranger), plain(&secret)]);
    all.verify_inline(&both(TEXT, ""), NOW).unwrap();
    let error = all.verify_inline(&both(TEXT, "x"), NOW).unwrap_err();
    assert!(matches!(error, SignatureError::Bad(_)), "{error}");
}

#[test]
fn a_detached_signature_covers_the_bytes() {
    let secret = generate();
    let keyring = ring(&[plain(&secret)]);
    let key = &secret.secret_subkeys[0].key;
    let subpackets =
        SubpacketConfig::UserDefined { hashed: dated(key, NOW as u32, vec![]), unhashed: vec![] };
    let signature = DetachedSignature::sign_binary_data_with_subpackets(
        thread_rng(),
        key,
        &Password::empty(),
        HashAlgorithm::Sha256,
        TEXT.as_bytes(),
        subpackets,
    )
    .unwrap();
    let armored = signature.to_armored_bytes(ArmorOptions::default()).unwrap();
    let binary = signature.to_bytes().unwrap();
    for bytes in [&armored, &binary] {
        keyring.verify_detached(TEXT.as_bytes(), bytes, NOW).unwrap();
        let error = keyring.verify_detached(b"other", bytes, NOW).unwrap_err();
        assert!(matches!(error, SignatureError::Bad(_)), "{error}");
    }
    let error = keyring.verify_detached(TEXT.as_bytes(), b"", NOW).unwrap_err();
    assert_eq!(error, SignatureError::Unsigned);
}

#[test]
fn keys_come_binary_or_armored_in_one_block_or_several() {
    let (one, two) = (generate(), generate());
    let armored =
        |key: &SignedSecretKey| plain(key).to_armored_string(ArmorOptions::default()).unwrap();
    let text = format!("{}\n{}", armored(&one), armored(&two));
    for signed in [sign(&one.primary_key), sign(&two.primary_key)] {
        Keyring::parse(text.as_bytes()).unwrap().verify_inline(&signed, NOW).unwrap();
    }
    let binary = plain(&one).to_bytes().unwrap();
    Keyring::parse(&binary).unwrap().verify_inline(&sign(&one.primary_key), NOW).unwrap();
    assert!(Keyring::parse(b"").is_err());
    assert!(Keyring::parse(b"no keys at all").is_err());
}

#[test]
fn debians_own_keys_can_be_read() {
    assert!(Keyring::debian().unwrap().keys.len() > 5);
}
