//! Signatures: DSSE envelopes over ECDSA P-256, as cosign makes and verifies them with a local key.
//!
//! Nonces follow from key and message (RFC 6979), so the same key signs the same bytes alike. Keys are
//! read in the forms that people have: PKCS #8 and SPKI in PEM, as openssl writes them, and cosign's own
//! password-protected file.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use crypto_secretbox::aead::{Aead, KeyInit};
use crypto_secretbox::{Nonce, XSalsa20Poly1305};
use p256::ecdsa::signature::hazmat::PrehashVerifier;
use p256::ecdsa::signature::{Signer, Verifier};
use p256::ecdsa::{DerSignature, SigningKey, VerifyingKey};
use p256::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePublicKey, LineEnding};
use serde::{Deserialize, Serialize};

use crate::blame::Blame;
use crate::digest::Digest;

/// Most work that a key file may ask of scrypt: cosign asks for 2^15 or 2^16, with r = 8 and p = 1.
const MOST_LOG_N: u8 = 20;

/// Most signatures of an envelope that is looked at: those that this program and cosign write have one.
const MOST_SIGNATURES: usize = 16;

/// Why nothing is signed or verified.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SignError {
    #[error("it is no private key of ECDSA P-256 in PEM form: {0}")]
    PrivateKey(String),
    #[error("it is no public key of ECDSA P-256 in PEM form: {0}")]
    PublicKey(String),
    #[error("it is protected by a password")]
    NeedsPassword,
    #[error("the password does not open it")]
    Password,
    #[error("the envelope cannot be read: {0}")]
    Envelope(String),
    #[error("the envelope holds `{found}`, expected `{expected}`")]
    PayloadType { expected: String, found: String },
    #[error("the envelope has {0} signatures, and more than {MOST_SIGNATURES} are not looked at")]
    Crowded(usize),
    #[error("no signature of the envelope is of this key")]
    Stranger,
}

impl SignError {
    pub fn blame(&self) -> Blame {
        Blame::Input
    }

    /// The next step.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            SignError::NeedsPassword | SignError::Password => {
                Some("put the password into `COSIGN_PASSWORD`")
            }
            SignError::PrivateKey(_) => Some(
                "`openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256` or `cosign generate-key-pair` makes one",
            ),
            _ => None,
        }
    }
}

/// A key that signs. Shows nothing of itself.
#[derive(Clone)]
pub struct PrivateKey(SigningKey);

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(…)")
    }
}

/// A key that verifies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

/// The body of cosign's key files.
#[derive(Deserialize)]
struct Encrypted {
    kdf: Kdf,
    cipher: Cipher,
    ciphertext: String,
}

#[derive(Deserialize)]
struct Kdf {
    name: String,
    params: Params,
    salt: String,
}

#[derive(Deserialize)]
struct Params {
    #[serde(rename = "N")]
    n: u64,
    r: u32,
    p: u32,
}

#[derive(Deserialize)]
struct Cipher {
    name: String,
    nonce: String,
}

impl PrivateKey {
    /// Reads a key: PKCS #8, or cosign's file and its password.
    pub fn parse(text: &str, password: Option<&[u8]>) -> Result<Self, SignError> {
        let text = text.trim();
        let Some(body) = cosign_body(text) else {
            let key = SigningKey::from_pkcs8_pem(text);
            return key.map(PrivateKey).map_err(|error| SignError::PrivateKey(error.to_string()));
        };
        let password = password.ok_or(SignError::NeedsPassword)?;
        let der = decrypt(&body, password)?;
        let key = SigningKey::from_pkcs8_der(&der);
        key.map(PrivateKey).map_err(|error| SignError::PrivateKey(error.to_string()))
    }

    pub fn public(&self) -> PublicKey {
        PublicKey(*self.0.verifying_key())
    }

    /// The signature of some bytes, in ASN.1 DER.
    pub fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        let signature: DerSignature = self.0.sign(bytes);
        signature.as_bytes().to_vec()
    }
}

/// What stands between the lines that cosign, or its elder versions, put around a key.
fn cosign_body(text: &str) -> Option<String> {
    ["SIGSTORE", "COSIGN"].iter().find_map(|name| {
        let body = text.strip_prefix(&format!("-----BEGIN ENCRYPTED {name} PRIVATE KEY-----"))?;
        let body = body.strip_suffix(&format!("-----END ENCRYPTED {name} PRIVATE KEY-----"))?;
        Some(body.split_whitespace().collect())
    })
}

/// scrypt over the password, XSalsa20-Poly1305 under what it gives.
fn decrypt(body: &str, password: &[u8]) -> Result<Vec<u8>, SignError> {
    let wrong = |reason: &str| SignError::PrivateKey(reason.to_owned());
    let bytes =
        |text: &str| BASE64_STANDARD.decode(text).map_err(|error| wrong(&error.to_string()));
    let json = bytes(body)?;
    let file: Encrypted =
        serde_json::from_slice(&json).map_err(|error| wrong(&error.to_string()))?;
    if file.kdf.name != "scrypt" || file.cipher.name != "nacl/secretbox" {
        return Err(wrong("it is encrypted in an unknown way"));
    }
    let Params { n, r, p } = file.kdf.params;
    let log_n = n.checked_ilog2().and_then(|log_n| u8::try_from(log_n).ok());
    let sound = |log_n: &u8| n.is_power_of_two() && *log_n <= MOST_LOG_N && r <= 16 && p <= 16;
    let log_n = log_n.filter(sound).ok_or_else(|| wrong("its key derivation asks for too much"))?;
    let params = scrypt::Params::new(log_n, r, p, 32).map_err(|error| wrong(&error.to_string()))?;
    let mut key = [0; 32];
    scrypt::scrypt(password, &bytes(&file.kdf.salt)?, &params, &mut key)
        .map_err(|error| wrong(&error.to_string()))?;
    let nonce = bytes(&file.cipher.nonce)?;
    let nonce: [u8; 24] = nonce.try_into().map_err(|_| wrong("its nonce has a wrong length"))?;
    let cipher = XSalsa20Poly1305::new(&key.into());
    let ciphertext = bytes(&file.ciphertext)?;
    cipher.decrypt(Nonce::from_slice(&nonce), &*ciphertext).map_err(|_| SignError::Password)
}

impl PublicKey {
    /// Reads a key in SPKI form.
    pub fn parse(text: &str) -> Result<Self, SignError> {
        let key = VerifyingKey::from_public_key_pem(text.trim());
        key.map(PublicKey).map_err(|error| SignError::PublicKey(error.to_string()))
    }

    /// In SPKI form.
    pub fn to_pem(&self) -> String {
        self.0.to_public_key_pem(LineEnding::LF).unwrap_or_default()
    }

    /// Whether the key made a signature of these bytes.
    pub fn verifies(&self, bytes: &[u8], signature: &[u8]) -> bool {
        let signature = DerSignature::try_from(signature);
        signature.is_ok_and(|signature| self.0.verify(bytes, &signature).is_ok())
    }

    /// Whether the key made a signature of the bytes that have this digest.
    pub fn verifies_digest(&self, digest: &Digest, signature: &[u8]) -> bool {
        let signature = DerSignature::try_from(signature);
        signature
            .is_ok_and(|signature| self.0.verify_prehash(digest.as_bytes(), &signature).is_ok())
    }

    /// A name for the key: the digest of its SPKI form.
    pub fn id(&self) -> Digest {
        let der = self.0.to_public_key_der();
        Digest::of(der.map(|der| der.as_bytes().to_vec()).unwrap_or_default().as_slice())
    }
}

/// A signed document (DSSE 1.0).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope {
    payload_type: String,
    payload: String,
    signatures: Vec<Signature>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Signature {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    keyid: String,
    sig: String,
}

/// What is signed: type and bytes, each with its length (DSSE 1.0, PAE).
fn encoded(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

impl Envelope {
    /// Signs a document.
    pub fn sign(key: &PrivateKey, payload_type: &str, payload: &[u8]) -> Self {
        let sig = BASE64_STANDARD.encode(key.sign(&encoded(payload_type, payload)));
        Envelope {
            payload_type: payload_type.to_owned(),
            payload: BASE64_STANDARD.encode(payload),
            signatures: vec![Signature { keyid: String::new(), sig }],
        }
    }

    /// A document that nobody signed.
    pub fn bare(payload_type: &str, payload: &[u8]) -> Self {
        Envelope {
            payload_type: payload_type.to_owned(),
            payload: BASE64_STANDARD.encode(payload),
            signatures: Vec::new(),
        }
    }

    /// Whether somebody signed it, known or not.
    pub fn is_signed(&self) -> bool {
        !self.signatures.is_empty()
    }

    /// As it is stored: one line.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an envelope has string keys only")
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, SignError> {
        serde_json::from_slice(bytes).map_err(|error| SignError::Envelope(error.to_string()))
    }

    /// The document, if it is of that type and `key` signed it. No byte of it is looked at before.
    pub fn open(&self, key: &PublicKey, payload_type: &str) -> Result<Vec<u8>, SignError> {
        let payload = self.open_unverified(payload_type)?;
        if self.signatures.len() > MOST_SIGNATURES {
            return Err(SignError::Crowded(self.signatures.len()));
        }
        let signed = Digest::of(&encoded(payload_type, &payload));
        let ours = |signature: &Signature| {
            let bytes = BASE64_STANDARD.decode(&signature.sig);
            bytes.is_ok_and(|bytes| key.verifies_digest(&signed, &bytes))
        };
        if self.signatures.iter().any(ours) { Ok(payload) } else { Err(SignError::Stranger) }
    }

    /// The document, if it is of that type, whoever may have written it.
    pub fn open_unverified(&self, payload_type: &str) -> Result<Vec<u8>, SignError> {
        if self.payload_type != payload_type {
            let (expected, found) = (payload_type.to_owned(), self.payload_type.clone());
            return Err(SignError::PayloadType { expected, found });
        }
        let payload = BASE64_STANDARD.decode(&self.payload);
        payload.map_err(|error| SignError::Envelope(error.to_string()))
    }
}

/// What cosign signs of an image itself (its "simple signing" payload): which manifest is meant, under
/// which name.
pub fn image_payload(reference: &str, manifest: &Digest) -> Vec<u8> {
    #[derive(Serialize)]
    struct Payload<'a> {
        critical: Critical<'a>,
        optional: Option<()>,
    }
    #[derive(Serialize)]
    struct Critical<'a> {
        identity: Identity<'a>,
        image: Image<'a>,
        r#type: &'static str,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "kebab-case")]
    struct Identity<'a> {
        docker_reference: &'a str,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "kebab-case")]
    struct Image<'a> {
        docker_manifest_digest: &'a Digest,
    }
    let payload = Payload {
        critical: Critical {
            identity: Identity { docker_reference: reference },
            image: Image { docker_manifest_digest: manifest },
            r#type: "cosign container image signature",
        },
        optional: None,
    };
    serde_json::to_vec(&payload).expect("a payload has string keys only")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made for this test.
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
        MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgA7fxTbaCurRqYEY9\n\
        EHQZfETWQFU//HTOmwh5VOYBcdKhRANCAASmOTtSt5XBsLV73/GWDQznjIiHaTZ+\n\
        ltsFNmkyfRFwTaoCE6RwpphMu09+9U8/25VHJo/1b4KolxZVH+l1IcAi\n\
        -----END PRIVATE KEY-----";

    impl PrivateKey {
        /// One of 255.
        pub(in crate::report) fn of_tests(number: u8) -> Self {
            PrivateKey(SigningKey::from_slice(&[number; 32]).unwrap())
        }
    }

    #[test]
    fn an_envelope_is_opened_by_its_key_alone() {
        let key = PrivateKey::parse(KEY, None).unwrap();
        let envelope = Envelope::sign(&key, "text/x", b"hello");
        assert_eq!(envelope, Envelope::sign(&key, "text/x", b"hello"), "nonces are no dice");
        let read = Envelope::parse(&envelope.to_bytes()).unwrap();
        let public = PublicKey::parse(&key.public().to_pem()).unwrap();
        assert_eq!(read.open(&public, "text/x").unwrap(), b"hello");
        let error = read.open(&public, "text/y").unwrap_err().to_string();
        assert_eq!(error, "the envelope holds `text/x`, expected `text/y`");
        let other = PrivateKey::of_tests(7).public();
        assert_eq!(read.open(&other, "text/x"), Err(SignError::Stranger));
        let junk = Signature { keyid: String::new(), sig: "AA==".to_owned() };
        let mut crowded = read.clone();
        crowded.signatures.splice(0..0, vec![junk.clone(); MOST_SIGNATURES - 1]);
        assert_eq!(crowded.open(&public, "text/x").unwrap(), b"hello");
        crowded.signatures.push(junk);
        let error = crowded.open(&public, "text/x").unwrap_err();
        assert_eq!(error, SignError::Crowded(MOST_SIGNATURES + 1), "whoever is among them");
        let changed = Envelope { payload: BASE64_STANDARD.encode("hullo"), ..read };
        assert_eq!(changed.open(&public, "text/x"), Err(SignError::Stranger));
    }

    #[test]
    fn what_is_signed_has_its_lengths_before_it() {
        // DSSE 1.0, the example of its protocol
        let text = encoded("http://example.com/HelloWorld", b"hello world");
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text, "DSSEv1 29 http://example.com/HelloWorld 11 hello world");
    }

    #[test]
    fn what_is_no_key_is_said_and_not_shown() {
        let error = PrivateKey::parse("-----BEGIN PRIVATE KEY-----\nxx", None).unwrap_err();
        assert!(error.to_string().starts_with("it is no private key"), "{error}");
        assert!(PublicKey::parse(KEY).is_err());
        let key = PrivateKey::parse(KEY, None).unwrap();
        assert_eq!(format!("{key:?}"), "PrivateKey(…)");
    }

    #[test]
    fn a_key_file_that_asks_for_all_memory_is_refused() {
        let file = |n: u64, r: u32| {
            let text = format!(
                r#"{{"kdf":{{"name":"scrypt","params":{{"N":{n},"r":{r},"p":1}},"salt":""}},"cipher":{{"name":"nacl/secretbox","nonce":""}},"ciphertext":""}}"#
            );
            let body = BASE64_STANDARD.encode(text);
            format!(
                "-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n{body}\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----\n"
            )
        };
        for (n, r) in [(0, 8), (1 << 40, 8), (3, 8), (1 << 15, 1000)] {
            let error = PrivateKey::parse(&file(n, r), Some(b"x")).unwrap_err().to_string();
            assert!(error.contains("asks for too much"), "{error}");
        }
        assert_eq!(PrivateKey::parse(&file(2, 8), None).unwrap_err(), SignError::NeedsPassword);
    }

    #[test]
    fn an_image_is_signed_by_its_manifest() {
        let payload = image_payload("example.org/a", &Digest::of(b""));
        insta::assert_snapshot!(String::from_utf8(payload).unwrap(), @r#"{"critical":{"identity":{"docker-reference":"example.org/a"},"image":{"docker-manifest-digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},"type":"cosign container image signature"},"optional":null}"#);
    }
}
