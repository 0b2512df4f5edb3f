//! An entry of a shared cache: what a Key gave, as a registry keeps it.
//!
//! An entry is a manifest under a tag made of Key and platform, so one request finds it. What it says
//! stands in an envelope (DSSE) in one of its annotations: Key, platform, the digest of the tar, and
//! where layer, listing and what is known of its sources lie. That statement is all that is believed, and only of whom one trusts; the
//! manifest around it is what makes the registry keep the blobs. So an entry that was copied to another
//! tag, or whose layer was exchanged, is told from a good one before anything of it is fetched.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::build::unpack::UnpackError;
use crate::digest::Digest;
use crate::fetch::FetchError;
use crate::fsx::PathIo;
use crate::image::{ImageError, MEDIA_MANIFEST};
use crate::oci::OciError;
use crate::oci::peek::limits;
use crate::platform::Platform;
use crate::report::sign::{Envelope, PrivateKey, PublicKey};
use crate::report::{ReportError, SheetError};
use crate::ship::attest::MEDIA_EMPTY;
use crate::store::{Key, StoreError, Voucher};

/// What an entry is, and what its statement is signed as.
const TYPE: &str = "application/vnd.sbx.layer.v1+json";
pub(super) const LISTING: &str = "application/vnd.sbx.listing.v1+zstd";
/// What the sources say that the layer was made of.
pub(super) const FACTS: &str = "application/vnd.sbx.facts.v1+json";
/// The annotation that the envelope stands in.
const STATEMENT: &str = "dev.sbx.layer.statement";
pub(super) const EMPTY: &[u8] = b"{}";
/// Largest listing that is read, compressed.
const LARGEST_LISTING: u64 = 64 << 20;
/// Most that is read of sources: twenty times what the largest layers known have.
pub(super) const LARGEST_FACTS: u64 = 16 << 20;

/// Why a cache's layer is not taken.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    #[error("what is there for it is no entry of a cache: {0}")]
    Damaged(String),
    #[error("nobody signed it")]
    Unsigned,
    #[error("who signed it is not trusted here")]
    Stranger,
    #[error("what is there for it is an entry of {0}")]
    Other(String),
    #[error("it is to unpack from {packed} bytes to {size}")]
    Size { packed: u64, size: u64 },
    #[error("its tar has other bytes than were promised: expected {expected}, found {found}")]
    DiffId { expected: Digest, found: Digest },
    #[error("its listing is damaged")]
    Listing,
    #[error("what it says of its sources is damaged")]
    Facts,
    #[error("what it says of its sources: {0}")]
    Sheet(#[from] SheetError),
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Oci(#[from] OciError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Report(#[from] ReportError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Io(#[from] PathIo),
}

impl EntryError {
    /// The next step.
    pub(super) fn help(&self) -> Option<&'static str> {
        match self {
            EntryError::Unsigned => Some("`--trust-cache` takes it all the same"),
            EntryError::Stranger => {
                Some("`--cache-trust KEY` trusts a key, `--trust-cache` everybody")
            }
            _ => None,
        }
    }

    /// Whether the cache itself, and not this entry of it, is what cannot be had.
    pub(super) fn is_of_cache(&self) -> bool {
        match self {
            EntryError::Oci(OciError::Digest { .. } | OciError::Missing { .. }) => false,
            EntryError::Fetch(FetchError::Digest { .. } | FetchError::Size { .. }) => false,
            EntryError::Oci(OciError::Fetch(FetchError::TooLarge { .. })) => false,
            EntryError::Fetch(error) => !error.is_gone(),
            EntryError::Oci(_) => true,
            _ => false,
        }
    }
}

/// Whose entries are taken.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    pub keys: Vec<PublicKey>,
    /// Of everybody, unsigned ones included.
    pub everybody: bool,
}

/// Where some bytes lie in the repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Part {
    pub(super) media_type: String,
    pub(super) digest: Digest,
    /// Bytes.
    pub(super) size: u64,
}

/// What a Key gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Entry {
    pub(super) key: Key,
    pub(super) platform: Platform,
    /// Of the tar.
    pub(super) diff_id: Digest,
    /// Bytes of the tar.
    pub(super) size: u64,
    /// How the layer is compressed: what this makes of the same tar.
    pub(super) form: String,
    pub(super) layer: Part,
    pub(super) listing: Part,
    /// Where something is known of its sources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) facts: Option<Part>,
}

/// An entry that may be taken.
#[derive(Clone, Debug)]
pub(super) struct Vouched {
    pub(super) entry: Entry,
    /// Whose key that is trusted signed it.
    pub(super) voucher: Voucher,
}

/// The config of all that is no image: two bytes (OCI image-spec, guidance for an empty descriptor).
pub(super) fn empty() -> Value {
    json!({"mediaType": MEDIA_EMPTY, "digest": Digest::of(EMPTY), "size": EMPTY.len()})
}

/// Where the entry of a Key is.
pub(super) fn tag(key: &Key, platform: Platform) -> String {
    format!("key-{}-{}", key.0.hex(), platform.as_str().replace('/', "-"))
}

impl Entry {
    /// The manifest, signed where there is a key.
    pub(super) fn manifest(&self, key: Option<&PrivateKey>) -> Vec<u8> {
        let statement = serde_json::to_vec(self).expect("an entry has string keys only");
        let envelope = match key {
            Some(key) => Envelope::sign(key, TYPE, &statement),
            None => Envelope::bare(TYPE, &statement),
        };
        let envelope = String::from_utf8(envelope.to_bytes()).expect("an envelope is JSON");
        let parts = [&self.layer, &self.listing].into_iter().chain(&self.facts);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MEDIA_MANIFEST,
            "artifactType": TYPE,
            "config": empty(),
            "layers": parts.collect::<Vec<_>>(),
            "annotations": {STATEMENT: envelope},
        });
        manifest.to_string().into_bytes()
    }

    /// Reads what lies under the tag of a Key.
    pub(super) fn read(
        bytes: &[u8],
        key: &Key,
        platform: Platform,
        trust: &Trust,
    ) -> Result<Vouched, EntryError> {
        let damaged = |reason: &dyn std::fmt::Display| EntryError::Damaged(reason.to_string());
        let manifest: Value = serde_json::from_slice(bytes).map_err(|error| damaged(&error))?;
        let text = manifest["annotations"][STATEMENT].as_str();
        let text = text.ok_or_else(|| damaged(&"it says nothing of a layer"))?;
        let envelope = Envelope::parse(text.as_bytes()).map_err(|error| damaged(&error))?;
        let open = |key: &PublicKey| Some((envelope.open(key, TYPE).ok()?, Voucher::Key(key.id())));
        let (statement, voucher) = match trust.keys.iter().find_map(open) {
            Some(opened) => opened,
            None if trust.everybody => {
                let statement = envelope.open_unverified(TYPE).map_err(|error| damaged(&error))?;
                (statement, Voucher::Nobody)
            }
            None if envelope.is_signed() => return Err(EntryError::Stranger),
            None => return Err(EntryError::Unsigned),
        };
        let entry: Entry = serde_json::from_slice(&statement).map_err(|error| damaged(&error))?;
        entry.check(key, platform)?;
        Ok(Vouched { entry, voucher })
    }

    /// Whether it is what was asked for, and can be what it says.
    fn check(&self, key: &Key, platform: Platform) -> Result<(), EntryError> {
        if self.key != *key {
            return Err(EntryError::Other(format!("Key {}", self.key)));
        }
        if self.platform != platform {
            return Err(EntryError::Other(self.platform.to_string()));
        }
        if self.listing.media_type != LISTING {
            return Err(EntryError::Damaged(format!(
                "its listing is a `{}`",
                self.listing.media_type
            )));
        }
        if let Some(facts) = &self.facts {
            if facts.media_type != FACTS {
                let kind = &facts.media_type;
                return Err(EntryError::Damaged(format!(
                    "what it says of its sources is a `{kind}`"
                )));
            }
            if facts.size > LARGEST_FACTS {
                return Err(EntryError::Facts);
            }
        }
        if self.listing.size > LARGEST_LISTING || self.size > limits(self.layer.size).bytes {
            return Err(EntryError::Size { packed: self.layer.size, size: self.size });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        let part = |media_type: &str| Part {
            media_type: media_type.to_owned(),
            digest: Digest::of(b"part"),
            size: 4,
        };
        Entry {
            key: Key(Digest::of(b"key")),
            platform: Platform::Amd64,
            diff_id: Digest::of(b"tar"),
            size: 3,
            form: "gzip-3".to_owned(),
            layer: part("application/vnd.oci.image.layer.v1.tar+gzip"),
            listing: part(LISTING),
            facts: Some(part(FACTS)),
        }
    }

    fn read(bytes: &[u8], trust: &Trust) -> Result<Vouched, EntryError> {
        Entry::read(bytes, &entry().key, Platform::Amd64, trust)
    }

    fn key(number: u8) -> PrivateKey {
        let key = p256::SecretKey::from_slice(&[number; 32]).unwrap();
        let pem = p256::pkcs8::EncodePrivateKey::to_pkcs8_pem(&key, Default::default()).unwrap();
        PrivateKey::parse(&pem, None).unwrap()
    }

    fn trusting(keys: &[&PrivateKey], everybody: bool) -> Trust {
        Trust { keys: keys.iter().map(|key| key.public()).collect(), everybody }
    }

    #[test]
    fn an_entry_is_taken_from_whom_one_trusts() {
        let (own, other) = (key(7), key(8));
        let signed = entry().manifest(Some(&own));
        let vouched = read(&signed, &trusting(&[&other, &own], false)).unwrap();
        assert_eq!((vouched.entry, vouched.voucher), (entry(), Voucher::Key(own.public().id())));
        let stranger = read(&signed, &trusting(&[&other], false));
        assert!(matches!(stranger, Err(EntryError::Stranger)));
        let bare = entry().manifest(None);
        assert!(matches!(read(&bare, &trusting(&[&own], false)), Err(EntryError::Unsigned)));
        for bytes in [&signed, &bare] {
            assert_eq!(read(bytes, &trusting(&[], true)).unwrap().voucher, Voucher::Nobody);
        }
    }

    #[test]
    fn an_entry_says_what_it_is_of_and_what_it_may_cost() {
        let own = key(7);
        let told = |change: fn(&mut Entry)| {
            let mut entry = entry();
            change(&mut entry);
            read(&entry.manifest(Some(&own)), &trusting(&[&own], false)).unwrap_err()
        };
        assert!(matches!(told(|one| one.key = Key(Digest::of(b"x"))), EntryError::Other(_)));
        assert!(matches!(told(|one| one.platform = Platform::Arm64), EntryError::Other(_)));
        assert!(matches!(told(|one| one.size = 1 << 40), EntryError::Size { .. }));
        assert!(matches!(told(|one| one.listing.size = 1 << 30), EntryError::Size { .. }));
        let facts = told(|one| one.facts.as_mut().unwrap().size = 1 << 30);
        assert!(matches!(facts, EntryError::Facts));
        let other = told(|one| one.listing.media_type = "text/plain".to_owned());
        assert!(matches!(other, EntryError::Damaged(_)));
    }

    #[test]
    fn what_is_changed_after_it_was_signed_is_worth_nothing() {
        let own = key(7);
        let signed = String::from_utf8(entry().manifest(Some(&own))).unwrap();
        let trust = trusting(&[&own], false);
        let value: Value = serde_json::from_str(&signed).unwrap();
        let mut envelope: Value =
            serde_json::from_str(value["annotations"][STATEMENT].as_str().unwrap()).unwrap();
        let other = Entry { diff_id: Digest::of(b"other"), ..entry() };
        envelope["payload"] = json!(base64::Engine::encode(
            &base64::prelude::BASE64_STANDARD,
            serde_json::to_vec(&other).unwrap()
        ));
        let mut forged = value.clone();
        forged["annotations"][STATEMENT] = json!(envelope.to_string());
        let forged = read(forged.to_string().as_bytes(), &trust);
        assert!(matches!(forged, Err(EntryError::Stranger)), "{forged:?}");
        for odd in ["", "{}", "[]", &signed[..signed.len() / 2]] {
            assert!(matches!(read(odd.as_bytes(), &trust), Err(EntryError::Damaged(_))), "{odd}");
        }
        assert!(tag(&entry().key, Platform::Amd64).len() <= 128);
    }
}
