//! Why a lock cannot be made.

use super::from::BaseError;
use super::npm::NpmLockError;
use super::npm_tools::NpmToolsError;
use super::python::VenvError;
use super::registry::MissingError;
use crate::blame::Blame;
use crate::debian::keyring::SignatureError;
use crate::debian::packages::IndexError;
use crate::debian::release::ReleaseError;
use crate::debian::resolve::Unsolvable;
use crate::fetch::FetchError;
use crate::fsx::PathIo;
use crate::git::GitError;
use crate::lock::interpreter::InterpreterError;
use crate::lock::toolroom::ToolError;
use crate::name::LayerName;
use crate::npm::TarballError;
use crate::oci::OciError;
use crate::platform::Platform;
use crate::python::WheelError;
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
    #[error("archive `{archive}` `{suite}` has no {component} for {arch}")]
    NoIndex { archive: String, suite: String, component: String, arch: String },
    #[error("layer `{layer}` for {platform}: {source}")]
    Unsolvable { layer: LayerName, platform: Platform, source: Unsolvable },
    #[error(transparent)]
    Oci(#[from] OciError),
    #[error("layer `{layer}`: {source}")]
    Base { layer: LayerName, source: BaseError },
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error(transparent)]
    Interpreter(#[from] InterpreterError),
    #[error("layer `{layer}`: {source}")]
    Venv { layer: LayerName, source: VenvError },
    #[error("layer `{layer}`: `{path}`: {source}")]
    Npm { layer: LayerName, path: String, source: Box<NpmLockError> },
    #[error("layer `{layer}`: {source}")]
    NpmTools { layer: LayerName, source: NpmToolsError },
    #[error("layer `{layer}`: {source}")]
    Missing { layer: LayerName, source: MissingError },
    #[error("{tool}: {source}")]
    Program { tool: String, source: TarballError },
    #[error("uv {version}: {source}")]
    Uv { version: &'static str, source: WheelError },
    #[error("layer `{layer}`: {source}")]
    Git { layer: LayerName, source: GitError },
    #[error("`{path}` does not exist")]
    NotThere { path: String },
    #[error("layer `{layer}`: {reason}")]
    Declaration { layer: LayerName, reason: String },
}

impl SolveError {
    pub fn blame(&self) -> Blame {
        match self {
            SolveError::Fetch(error) => error.blame(),
            SolveError::Oci(error) => error.blame(),
            SolveError::Tool(error) => error.blame(),
            SolveError::Interpreter(error) => error.blame(),
            SolveError::Venv { source: VenvError::Answer(_), .. } => Blame::World,
            SolveError::Venv { .. } => Blame::Input,
            SolveError::Npm { source, .. } => source.blame(),
            SolveError::NpmTools { source, .. } => source.blame(),
            SolveError::Git { source, .. } => source.blame(),
            SolveError::Missing { .. }
            | SolveError::Base { .. }
            | SolveError::Key { .. }
            | SolveError::Unsolvable { .. }
            | SolveError::NotThere { .. }
            | SolveError::Declaration { .. } => Blame::Input,
            _ => Blame::World,
        }
    }

    pub fn help(&self) -> Option<String> {
        match self {
            SolveError::Fetch(error) => error.help().map(str::to_owned),
            SolveError::Oci(error) => error.help(),
            SolveError::Tool(error) => error.help().map(str::to_owned),
            SolveError::Interpreter(error) => Some(error.help().to_owned()),
            SolveError::Venv { source, .. } => source.help(),
            SolveError::Npm { source, .. } => source.help(),
            SolveError::NpmTools { source, .. } => source.help(),
            SolveError::Git { source, .. } => source.help().map(str::to_owned),
            SolveError::Missing { source, .. } => source.help(),
            SolveError::Base { source, .. } => source.help().map(str::to_owned),
            _ => None,
        }
    }
}
