//! Why a build ended, and what mends it.

use super::base::BaseError;
use super::compose::ComposeError;
use super::content::ContentError;
use super::emulator::EmulatorError;
use super::extract::ExtractError;
use super::files::FilesError;
use super::listing::ListingError;
use super::npm::NpmError;
use super::run::RunError;
use super::settle::SettleError;
use super::unpack::UnpackError;
use super::wheels::WheelsError;
use crate::blame::Blame;
use crate::fetch::FetchError;
use crate::fsx::PathIo;
use crate::lock::DebPin;
use crate::npm::TarballError;
use crate::oci::OciError;
use crate::path::PathError;
use crate::store::StoreError;

/// Why a build ended.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Io(#[from] PathIo),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("{tool}: {source}")]
    Program { tool: String, source: TarballError },
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("{} of {total} sources cannot be fetched:\n{}", errors.len(), list(errors))]
    Sources { errors: Vec<FetchError>, total: usize },
    #[error("{} left every archive that the lock was made from", labels(pins))]
    Gone { pins: Vec<DebPin> },
    #[error(transparent)]
    Oci(#[from] OciError),
    #[error("layer `{layer}`: {source}")]
    Base { layer: String, source: BaseError },
    #[error("layer `{layer}`: {source}")]
    Content { layer: String, source: ContentError },
    #[error("layer `{layer}`: {source}")]
    Settle { layer: String, source: SettleError },
    #[error("layer `{layer}`: {source}")]
    Wheels { layer: String, source: WheelsError },
    #[error("layer `{layer}`: {source}")]
    Npm { layer: String, source: Box<NpmError> },
    #[error("layer `{layer}`: {source}")]
    Extract { layer: String, source: ExtractError },
    #[error("layer `{layer}`: {source}")]
    Files { layer: String, source: FilesError },
    #[error("layer `{layer}`: {source}")]
    Run { layer: String, source: Box<RunError> },
    #[error("layer `{layer}`: a layer below it went out of the store while it was built")]
    Below { layer: String },
    #[error(transparent)]
    Compose(#[from] ComposeError),
    #[error(transparent)]
    Listing(#[from] ListingError),
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    #[error(transparent)]
    Emulator(#[from] EmulatorError),
}

fn list(errors: &[FetchError]) -> String {
    errors.iter().map(|error| format!("  {error}")).collect::<Vec<_>>().join("\n")
}

fn labels(pins: &[DebPin]) -> String {
    pins.iter().map(|pin| format!("`{}`", pin.label())).collect::<Vec<_>>().join(", ")
}

impl BuildError {
    pub fn blame(&self) -> Blame {
        match self {
            BuildError::Oci(error) => error.blame(),
            BuildError::Base { source, .. } => source.blame(),
            BuildError::Content { source, .. } => source.blame(),
            BuildError::Settle { source, .. } => source.blame(),
            BuildError::Files { source, .. } => source.blame(),
            BuildError::Wheels { source, .. } => source.blame(),
            BuildError::Npm { source, .. } => source.blame(),
            BuildError::Extract { source, .. } => source.blame(),
            BuildError::Run { source, .. } => source.blame(),
            BuildError::Compose(error) => error.blame(),
            _ => Blame::World,
        }
    }

    /// The next command.
    pub fn help(&self) -> Option<String> {
        match self {
            BuildError::Sources { errors, .. } => {
                errors.iter().find_map(FetchError::help).map(str::to_owned)
            }
            BuildError::Fetch(error) => error.help().map(str::to_owned),
            BuildError::Oci(error) => error.help(),
            BuildError::Store(error) => error.help().map(str::to_owned),
            BuildError::Emulator(error) => error.help().map(str::to_owned),
            BuildError::Settle { source, .. } => source.help().map(str::to_owned),
            BuildError::Compose(error) => error.help().map(str::to_owned),
            BuildError::Run { source, .. } => source.help(),
            BuildError::Wheels { source, .. } => source.help(),
            BuildError::Gone { pins } => {
                let names: Vec<&str> = pins.iter().map(|pin| &*pin.name).collect();
                Some(format!("run `sbx lock --update {}`", names.join(" ")))
            }
            _ => None,
        }
    }
}
