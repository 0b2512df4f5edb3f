//! Why a lock cannot be made.

use crate::blame::Blame;
use crate::debian::keyring::SignatureError;
use crate::debian::packages::IndexError;
use crate::debian::release::ReleaseError;
use crate::debian::resolve::Unsolvable;
use crate::digest::Digest;
use crate::fetch::FetchError;
use crate::fsx::PathIo;
use crate::lock::toolroom::ToolError;
use crate::name::LayerName;
use crate::platform::Platform;
use crate::store::StoreError;

/// What ended resolving.
#[derive(Debug, thiserror::Error)]
pub enum SolveError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Io(#[from] PathIo),
    #[error("release of `{archive}` `{suite}`: {source}")]
    Release { archive: String, suite: String, source: ReleaseError },
    #[error("key `{path}`: {source}")]
    Key { path: String, source: SignatureError },
    #[error("index of `{archive}` `{suite}` {component}: {source}")]
    Index { archive: String, suite: String, component: String, source: IndexError },
    #[error(
        "index of `{archive}` `{suite}` {component}: Release promised {expected}, found {found}"
    )]
    IndexDigest {
        archive: String,
        suite: String,
        component: String,
        expected: Digest,
        found: Digest,
    },
    #[error("archive `{archive}` `{suite}` has no {component} for {arch}")]
    NoIndex { archive: String, suite: String, component: String, arch: String },
    #[error("layer `{layer}` for {platform}: {source}")]
    Unsolvable { layer: LayerName, platform: Platform, source: Unsolvable },
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error("layer `{layer}`: {reason}")]
    Declaration { layer: LayerName, reason: String },
}

impl SolveError {
    pub fn blame(&self) -> Blame {
        match self {
            SolveError::Fetch(error) => error.blame(),
            SolveError::Tool(error) => error.blame(),
            SolveError::Key { .. }
            | SolveError::Unsolvable { .. }
            | SolveError::Declaration { .. } => Blame::Input,
            _ => Blame::World,
        }
    }

    pub fn help(&self) -> Option<&str> {
        match self {
            SolveError::Fetch(error) => error.help(),
            SolveError::Tool(error) => error.help(),
            _ => None,
        }
    }
}
