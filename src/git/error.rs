//! Why a repository gives no tree. Addresses are shown without credentials.

use super::objects::ObjectId;
use crate::blame::Blame;
use crate::decl::PatternError;
use crate::fsx::PathIo;
use crate::path::PathError;
use crate::store::StoreError;

/// What ended the making of an archive.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    #[error("the program `git` is not installed, and repositories are reached by it")]
    Missing,
    #[error("{url}: `git {verb}`: {reason}")]
    Failed { url: String, verb: String, reason: String },
    #[error("{url}: `git {verb}` said nothing for {seconds} seconds and was ended")]
    Stalled { url: String, verb: String, seconds: u64 },
    #[error("{url} has no commit, tag or branch `{rev}`{near}")]
    NoRevision { url: String, rev: String, near: String },
    #[error("{url} does not have commit {commit} any more{near}")]
    NoCommit { url: String, commit: String, near: String },
    #[error("{url}: `{rev}` is {what}, not a commit")]
    NotCommit { url: String, rev: String, what: String },
    #[error(
        "{url}: the repository is shallow itself: it does not have the history before {commit}"
    )]
    Shallow { url: String, commit: ObjectId },
    #[error("{url}: object {id} {reason}")]
    Object { url: String, id: ObjectId, reason: String },
    #[error("{url}: path `{path}` {reason}")]
    Tree { url: String, path: String, reason: String },
    #[error("{url}: submodule `{path}` {reason}")]
    Submodule { url: String, path: String, reason: String },
    #[error("{url}: {source}")]
    Path { url: String, source: PathError },
    #[error("{url}: its tree {reason}")]
    TooLarge { url: String, reason: String },
    #[error(transparent)]
    Pattern(#[from] PatternError),
    #[error(transparent)]
    Io(#[from] PathIo),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl GitError {
    pub fn blame(&self) -> Blame {
        match self {
            GitError::Missing
            | GitError::Failed { .. }
            | GitError::Stalled { .. }
            | GitError::Io(_)
            | GitError::Store(_) => Blame::World,
            _ => Blame::Input,
        }
    }

    /// The next step.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            GitError::Missing => Some("install it: `apt-get install git`"),
            GitError::Failed { .. } => Some(
                "`git ls-remote` of that address must work here: keys, credential helpers and `insteadOf` are git's own configuration",
            ),
            GitError::Stalled { .. } => Some(
                "if it waits for a passphrase or a host key: load the key into an agent, and connect to the host once by `ssh`",
            ),
            GitError::NoCommit { .. } => Some(
                "if it was replaced on purpose, run `sbx lock --update` with the name of its layer",
            ),
            _ => None,
        }
    }
}
