//! An entry of a shared cache: what a Key gave, as a registry keeps it.
//!
//! An entry is a manifest under a tag made of Key and platform, so one request finds it. What it says
//! stands in an envelope (DSSE) in one of its annotations, where others may stand beside it (`manifest`): Key, platform, the digest of the tar, and
//! where layer, listing and what is known of its sources lie. That statement is all that is believed, and only of whom one trusts; the
//! manifest around it is what makes the registry keep the blobs. So an entry that was copied to another
//! tag, or whose layer was exchanged, is told from a good one before anything of it is fetched.

use std::io;

use serde::{Deserialize, Serialize};

use crate::build::unpack::UnpackError;
use crate::digest::Digest;
use crate::fetch::FetchError;
use crate::fsx::PathIo;
use crate::image::ImageError;
use crate::oci::OciError;
use crate::oci::peek::limits;
use crate::platform::Platform;
use crate::report::sign::PublicKey;
use crate::report::{ReportError, SheetError};
use crate::store::{Key, StoreError, Voucher};

/// What an entry is, and what its statement is signed as.
pub(super) const TYPE: &str = "application/vnd.sbx.layer.v1+json";
pub(super) const LISTING: &str = "application/vnd.sbx.listing.v1+zstd";
/// What the sources say that the layer was made of.
pub(super) const FACTS: &str = "application/vnd.sbx.facts.v1+json";
/// The annotation that the first envelope stands in; those that follow have numbers.
pub(super) const STATEMENT: &str = "dev.sbx.layer.statement";
/// Largest listing that is read, compressed.
const LARGEST_PACKED_LISTING: u64 = 64 << 20;
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
    #[error("it cannot be unpacked: {0}")]
    Packed(io::Error),
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

    /// Whether this machine's own store or disk is at fault: then the entry may be as good as any.
    pub(super) fn is_of_machine(&self) -> bool {
        match self {
            EntryError::Fetch(error) | EntryError::Oci(OciError::Fetch(error)) => {
                matches!(error, FetchError::Io(_) | FetchError::Store(_))
            }
            EntryError::Oci(OciError::Io(_))
            | EntryError::Image(_)
            | EntryError::Report(_)
            | EntryError::Store(_)
            | EntryError::Io(_) => true,
            _ => false,
        }
    }

    /// Whether the cache itself, and not this entry of it, is what cannot be had.
    pub(super) fn is_of_cache(&self) -> bool {
        match self {
            _ if self.is_of_machine() => false,
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

/// Where the entry of a Key is.
pub(super) fn tag(key: &Key, platform: Platform) -> String {
    format!("key-{}-{}", key.0.hex(), platform.as_str().replace('/', "-"))
}

impl Entry {
    /// Whether it is what was asked for, and can be what it says.
    pub(super) fn check(&self, key: &Key, platform: Platform) -> Result<(), EntryError> {
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
        if self.listing.size > LARGEST_PACKED_LISTING || self.size > limits(self.layer.size).bytes {
            return Err(EntryError::Size { packed: self.layer.size, size: self.size });
        }
        Ok(())
    }
}
