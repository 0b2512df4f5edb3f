//! Digests that others chose: what an ecosystem's own lock or index says of a source's bytes.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha512};

use super::Digest;

/// Digest of a source's bytes, of the algorithm that its ecosystem uses; shown as `ALGORITHM:HEX`.
/// SHA-1 is what npm's oldest packages have and nothing better; the order is that of strength.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Integrity {
    Sha1([u8; 20]),
    Sha256(Digest),
    Sha512([u8; 64]),
}

/// A text that names no digest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a digest (expected `sha256:` or `sha512:` and lower-case hex digits)")]
pub struct IntegrityError(pub String);

impl Integrity {
    /// The algorithm's name, as OCI registers it.
    pub const fn algorithm(&self) -> &'static str {
        match self {
            Integrity::Sha1(_) => "sha1",
            Integrity::Sha256(_) => "sha256",
            Integrity::Sha512(_) => "sha512",
        }
    }

    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Integrity::Sha1(bytes) => bytes,
            Integrity::Sha256(digest) => digest.as_bytes(),
            Integrity::Sha512(bytes) => bytes,
        }
    }

    /// Lower-case hex digits: the file name of a source in a store.
    pub fn hex(&self) -> String {
        self.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// As Subresource Integrity writes it: `sha512-BASE64`.
    pub fn to_sri(&self) -> String {
        format!("{}-{}", self.algorithm(), STANDARD.encode(self.as_bytes()))
    }

    /// The strongest digest of a Subresource Integrity text, which may list several; `None` where it
    /// has none of a known algorithm (W3C SRI, section 3.5: unknown ones are skipped).
    pub fn parse_sri(text: &str) -> Option<Self> {
        text.split_ascii_whitespace().filter_map(Self::parse_one_sri).max()
    }

    fn parse_one_sri(text: &str) -> Option<Self> {
        let (algorithm, rest) = text.split_once('-')?;
        let encoded = rest.split_once('?').map_or(rest, |(encoded, _options)| encoded);
        Self::of_bytes(algorithm, &STANDARD.decode(encoded).ok()?)
    }

    fn of_bytes(algorithm: &str, bytes: &[u8]) -> Option<Self> {
        match algorithm {
            "sha1" => bytes.try_into().ok().map(Integrity::Sha1),
            "sha256" => {
                bytes.try_into().ok().map(|bytes| Integrity::Sha256(Digest::from_bytes(bytes)))
            }
            "sha512" => bytes.try_into().ok().map(Integrity::Sha512),
            _ => None,
        }
    }

    /// A hasher of the same algorithm.
    pub fn hasher(&self) -> IntegrityHasher {
        let state = match self {
            Integrity::Sha1(_) => State::Sha1(Sha1::new()),
            Integrity::Sha256(_) => State::Sha256(Sha256::new()),
            Integrity::Sha512(_) => State::Sha512(Sha512::new()),
        };
        IntegrityHasher { state, len: 0 }
    }

    /// Whether `bytes` are the ones that are meant.
    pub fn fits(&self, bytes: &[u8]) -> bool {
        let mut hasher = self.hasher();
        hasher.update(bytes);
        hasher.finish() == *self
    }
}

impl From<Digest> for Integrity {
    fn from(digest: Digest) -> Self {
        Integrity::Sha256(digest)
    }
}

impl fmt::Display for Integrity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm(), self.hex())
    }
}

impl fmt::Debug for Integrity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Integrity {
    type Err = IntegrityError;

    fn from_str(text: &str) -> Result<Self, IntegrityError> {
        let fail = || IntegrityError(text.to_owned());
        let (algorithm, hex) = text.split_once(':').ok_or_else(fail)?;
        let plain = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        if hex.len() % 2 != 0 || !hex.bytes().all(plain) {
            return Err(fail());
        }
        let digit = |c: u8| if c.is_ascii_digit() { c - b'0' } else { c - b'a' + 10 };
        let bytes: Vec<u8> = hex
            .as_bytes()
            .chunks_exact(2)
            .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
            .collect();
        Self::of_bytes(algorithm, &bytes).ok_or_else(fail)
    }
}

impl Serialize for Integrity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Integrity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Hashes bytes while they pass, by any of the algorithms.
#[derive(Clone, Debug)]
pub struct IntegrityHasher {
    state: State,
    len: u64,
}

#[derive(Clone, Debug)]
enum State {
    Sha1(Sha1),
    Sha256(Sha256),
    Sha512(Sha512),
}

impl IntegrityHasher {
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Sha1(state) => state.update(bytes),
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
        self.len += bytes.len() as u64;
    }

    /// Number of bytes hashed so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn finish(self) -> Integrity {
        match self.state {
            State::Sha1(state) => Integrity::Sha1(state.finalize().into()),
            State::Sha256(state) => Integrity::Sha256(Digest::from_bytes(state.finalize().into())),
            State::Sha512(state) => Integrity::Sha512(state.finalize().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY_SHA512: &str = "sha512-z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg==";
    const EMPTY_SHA1: &str = "sha1-2jmj7l5rSw0yVb/vlWAYkK/YBwk=";

    #[test]
    fn the_strongest_of_several_digests_counts() {
        let both = format!("{EMPTY_SHA1} {EMPTY_SHA512}?ignored md5-AAAA");
        let integrity = Integrity::parse_sri(&both).unwrap();
        assert_eq!(integrity.to_sri(), EMPTY_SHA512);
        assert!(integrity.fits(b"") && !integrity.fits(b"x"));
        assert_eq!(integrity.to_string().parse(), Ok(integrity));
    }

    #[test]
    fn what_names_no_known_digest_is_refused() {
        assert_eq!(Integrity::parse_sri("md5-AAAA sha512-short="), None);
        for text in ["", "sha256:", "sha512:00", "md5:00", "sha1:../../x", "sha1:DA39A3"] {
            assert!(text.parse::<Integrity>().is_err(), "{text}");
        }
    }
}
