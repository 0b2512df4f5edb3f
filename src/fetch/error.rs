//! What can go wrong between here and a server.

use std::path::PathBuf;

use crate::blame::Blame;
use crate::digest::Digest;
use crate::fsx::PathIo;

/// A fetch that failed. URLs are shown without credentials.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("{label} is not in the store, and `--offline` refuses the network")]
    Offline { label: String },
    #[error("{label}: {url} answers {status}")]
    Status { label: String, url: String, status: u16 },
    #[error("{label}: {url} gave {found} bytes, expected {expected}")]
    Size { label: String, url: String, expected: u64, found: u64 },
    #[error("{label}: {url} gave other bytes: expected {expected}, found {found}")]
    Digest { label: String, url: String, expected: Digest, found: Digest },
    #[error("{label}: {url} gave more than {limit} bytes")]
    TooLarge { label: String, url: String, limit: u64 },
    #[error("{label}: {url} cannot be reached: {reason}")]
    Network { label: String, url: String, reason: String },
    #[error("{label}: nowhere to fetch it from")]
    NoUrl { label: String },
    #[error("the network cannot be set up: {0}")]
    Setup(String),
    #[error("certificates of {}: {reason}", path.display())]
    Certificates { path: PathBuf, reason: String },
    #[error(transparent)]
    Io(#[from] PathIo),
}

impl FetchError {
    pub fn blame(&self) -> Blame {
        match self {
            FetchError::Certificates { .. } => Blame::Input,
            _ => Blame::World,
        }
    }

    /// Whether every source said that it does not have the file: it vanished.
    pub fn is_gone(&self) -> bool {
        matches!(self, FetchError::Status { status: 404 | 410, .. })
    }

    /// The next command.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            FetchError::Offline { .. } => Some("run `sbx fetch` where there is a network"),
            _ => None,
        }
    }
}
