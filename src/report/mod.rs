//! Reports: what an image is made of and how it was made, as documents for other people's programs.
//!
//! Bills of materials (SPDX, CycloneDX) and provenance (SLSA) are written from the lock and the plan,
//! which know every package with its digest; nothing is guessed by looking into the image. Their bytes
//! depend on nothing but the project, its lock, the image and this program's version: lists are sorted, the
//! time is the layer format's epoch, identifiers are digests of what is said. So a report can be made again
//! on any machine and compared, and an image's digest never changes for it. Where reports go (files,
//! registries) does not belong here.

pub mod bundle;
mod cyclonedx;
mod facts;
mod inventory;
mod licence;
mod provenance;
mod purl;
mod sheet;
pub mod sign;
mod spdx;

pub use cyclonedx::cyclonedx;
pub use inventory::{Component, Given, Inventory, ShippedLayer, Subject};
pub use licence::Licence;
pub use provenance::{
    BUILD_TYPE, CYCLONEDX_PREDICATE, PAYLOAD_TYPE, PROVENANCE_PREDICATE, Provenance,
    SPDX_PREDICATE, attest, is_own,
};
pub use sheet::{Sheet, SheetError};
pub use spdx::spdx;

use jiff::Timestamp;

use crate::blame::Blame;
use crate::digest::Digest;
use crate::entry::EPOCH;
use crate::fsx::PathIo;
use crate::name::SandboxName;
use crate::platform::Platform;
use crate::store::StoreError;

/// This program, as reports name it.
const TOOL: &str = "sbx";
const TOOL_VERSION: &str = env!("CARGO_PKG_VERSION");

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    #[error("sandbox `{sandbox}` is not built for {platform} as it is declared now")]
    NotBuilt { sandbox: SandboxName, platform: Platform },
    #[error("{label} is not in the store")]
    Missing { label: String },
    #[error("{label} cannot be read: {reason}")]
    Source { label: String, reason: String },
    #[error("{0} has no name that a package URL can have")]
    Name(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Io(#[from] PathIo),
}

impl ReportError {
    pub fn blame(&self) -> Blame {
        match self {
            ReportError::NotBuilt { .. } | ReportError::Missing { .. } => Blame::Input,
            ReportError::Name(_) => Blame::Bug,
            ReportError::Source { .. } | ReportError::Io(_) => Blame::World,
            ReportError::Store(error) => error.blame(),
        }
    }

    /// The next command.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            ReportError::NotBuilt { .. } => Some("run `sbx build` first"),
            ReportError::Missing { .. } => Some("run `sbx fetch`"),
            ReportError::Source { .. } => Some("remove it from the store and run `sbx fetch`"),
            _ => None,
        }
    }
}

/// When everything was made, as reports write it.
fn created() -> String {
    Timestamp::from_second(EPOCH).map(|time| time.to_string()).unwrap_or_default()
}

/// A UUID that is the digest of what a document says (RFC 9562, version 8): two that say something else have
/// two.
fn uuid(kind: &str, content: &[u8]) -> String {
    let mut bytes = *Digest::of(&[kind.as_bytes(), b"\0", content].concat()).as_bytes();
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = Digest::from_bytes(bytes).hex();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..32])
}

/// A document as it is written: people read it, too.
fn document(value: &impl serde::Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).expect("a report has string keys only");
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_follows_from_the_kind_of_document_and_what_it_says() {
        insta::assert_snapshot!(uuid("spdx", b"a"), @"e64794d0-5aba-8d04-8919-18bedc047c3b");
        assert_ne!(uuid("spdx", b"a"), uuid("cyclonedx", b"a"));
        assert_ne!(uuid("spdx", b"a"), uuid("spdx", b"b"));
    }
}
