//! What can go wrong in a store.

use std::io;
use std::path::PathBuf;

use super::room::{Crowd, shown};
use crate::blame::Blame;
use crate::digest::Digest;
use crate::fsx::PathIo;

/// What can go wrong in a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(transparent)]
    Io(#[from] PathIo),
    #[error("{} is neither empty nor a store of sbx", .0.display())]
    Foreign(PathBuf),
    #[error("the store {} cannot be written: {source}", path.display())]
    ReadOnly { path: PathBuf, source: io::Error },
    #[error("blob {expected} of the store has other bytes: found {found}")]
    Corrupt { expected: Digest, found: Digest },
    #[error("the store does not know what layer {0} holds")]
    Unlisted(Digest),
    #[error("{} is damaged: {reason}", path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error("{} is a layout of version `{found}`, expected `1.0.0`", path.display())]
    Version { path: PathBuf, found: String },
    #[error("the store {} is in use by process {}", path.display(), processes(corners))]
    Busy { path: PathBuf, corners: Vec<PathBuf> },
    #[error("the store may take {}, and what is to be written is {crowd}", shown(*cap))]
    Full { cap: u64, crowd: Crowd },
}

/// Corners are called after their processes.
fn processes(corners: &[PathBuf]) -> String {
    let name = |corner: &PathBuf| {
        let name = corner.file_name().unwrap_or_default().to_string_lossy();
        name.split('-').next().unwrap_or_default().to_owned()
    };
    corners.iter().map(name).collect::<Vec<_>>().join(", ")
}

impl StoreError {
    pub fn blame(&self) -> Blame {
        match self {
            StoreError::Foreign(_) => Blame::Input,
            _ => Blame::World,
        }
    }

    /// The next command.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            StoreError::Full { .. } => Some(
                "raise `store-cap` in `settings.kdl` or `--cap`; `sbx gc --dry-run` shows what takes the space",
            ),
            StoreError::Foreign(_) => Some(
                "name a directory that is new or empty with `--cache` or `SBX_CACHE`; if this is a store all the same, make a file `sbx-store` in it",
            ),
            _ => None,
        }
    }
}
