//! What can go wrong on the way.

use std::io;

use crate::blame::Blame;
use crate::digest::Digest;
use crate::engine::{EngineAddress, NamedBy};
use crate::fetch::FetchError;
use crate::fsx::PathIo;
use crate::image::ImageError;
use crate::image::save::SaveError;
use crate::oci::OciError;
use crate::store::StoreError;

/// Why an image did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum ShipError {
    #[error(transparent)]
    Oci(#[from] OciError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Io(#[from] PathIo),
    #[error(transparent)]
    Fetch(FetchError),
    #[error("layer {layer} cannot be unpacked: {source}")]
    Unpack { layer: Digest, source: io::Error },
    #[error(
        "layer {layer} unpacks to other bytes than its config says: expected {expected}, found {found}"
    )]
    DiffId { layer: Digest, expected: Digest, found: Digest },
    #[error(transparent)]
    Save(#[from] SaveError),
    #[error("docker's engine does not answer at {address}{}: {reason}", named(address))]
    EngineAway { address: EngineAddress, reason: String },
    #[error("the engine says: {said}")]
    Engine { said: String },
    #[error("between this program and the engine: {0}")]
    Pipe(io::Error),
    #[error("{subject} is not signed")]
    Unsigned { subject: Digest },
    #[error(
        "none of the {count} signatures and attestations of {subject} is a signature of this key"
    )]
    Stranger { subject: Digest, count: usize },
    #[error("{subject} has no attestation `{kind}` of this key")]
    NotAttested { subject: Digest, kind: String },
    #[error("{count} signers have written to `{tag}` at {registry}, and nobody reads more")]
    Crowded { registry: String, tag: String, count: usize },
    #[error(
        "others write to `{tag}` at {registry} all the time, and what is added there does not stay"
    )]
    Unsettled { registry: String, tag: String },
}

impl ShipError {
    pub fn blame(&self) -> Blame {
        match self {
            ShipError::Oci(error) => error.blame(),
            ShipError::Image(error) => error.blame(),
            ShipError::Store(error) => error.blame(),
            ShipError::Fetch(error) => error.blame(),
            ShipError::Save(error) => error.blame(),
            _ => Blame::World,
        }
    }

    /// The next step.
    pub fn help(&self) -> Option<String> {
        match self {
            ShipError::Oci(error) => error.help(),
            ShipError::Store(error) => error.help().map(str::to_owned),
            ShipError::Fetch(error) => error.help().map(str::to_owned),
            ShipError::EngineAway { .. } => {
                Some("start it, or say which is meant: `--engine podman`, `DOCKER_HOST`".to_owned())
            }
            ShipError::Unsigned { .. } => Some(
                "`sbx push --key FILE` and `cosign sign --key FILE` sign what they push".to_owned(),
            ),
            ShipError::NotAttested { .. } => {
                Some("`sbx push --attest --key FILE` attests what it pushes".to_owned())
            }
            ShipError::Unsettled { .. } => {
                Some("push again: what is there already is not sent twice".to_owned())
            }
            _ => None,
        }
    }
}

fn named(address: &EngineAddress) -> String {
    match &address.named_by {
        NamedBy::Nobody => String::new(),
        by => format!(", which {by} names"),
    }
}
