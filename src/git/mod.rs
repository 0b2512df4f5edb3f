//! Git: the tree of a commit as one canonical archive, and the history before it.
//!
//! The machine's own `git` reaches repositories: keys, agents, credential helpers and `insteadOf`
//! are its business, and nothing of them is seen here. It brings objects and nothing else: no work
//! tree, so no hook, filter, attribute or configuration of a repository is ever acted upon, and a
//! file is its blob's own bytes. What is made of the objects is made here, so that it is the same
//! bytes whichever git brought them and however a server packed them: a tar sorted by path, whose
//! digest the lock has beside the commit.
//!
//! A library in place of the program was weighed: none reads the machine's credentials, proxies and
//! ssh configuration as git itself does.

mod error;
mod history;
mod objects;
mod program;
mod remote;
mod submodules;
mod tar;
mod tree;

pub use error::GitError;
pub use objects::ObjectId;

use std::path::Path;
use std::time::Duration;

use self::remote::{Remote, Wanted};
use self::tar::Gathering;
use crate::decl::{Git, Picks, Take};
use crate::digest::Digest;
use crate::store::Store;

/// What making an archive needs beside the declaration.
#[derive(Clone, Copy)]
pub struct Workshop<'a> {
    pub store: &'a Store,
    /// What a path of a local repository is relative to.
    pub root: &'a Path,
    /// How long git may say nothing.
    pub stall: Duration,
}

/// An archive in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitTree {
    pub commit: ObjectId,
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
}

impl Workshop<'_> {
    /// Fetches the commit that a declaration means, or the one that it is locked to, and has its
    /// archive in the store.
    pub fn make(&self, git: &Git, locked: Option<&ObjectId>) -> Result<GitTree, GitError> {
        let scratch = self.store.tree_draft()?;
        let wanted = Wanted {
            rev: &git.rev,
            locked,
            depth: git.history.as_ref().map_or(Some(1), |history| history.depth),
            partial: !git.take.is_whole() && !git.submodules,
        };
        let remote = Remote::open(scratch.path(), "0", &git.url, self)?;
        let commit = remote.fetch(&wanted)?;
        let mut gathering = Gathering::new(remote, self, scratch.path())?;
        gathering.take(&commit, git.submodules)?;
        let Take { strip, subdirectory, include, exclude, .. } = &git.take;
        gathering.pick(&Picks::new(*strip, subdirectory, include, exclude)?);
        if wanted.partial {
            gathering.complete()?;
        }
        if let Some(wanted) = &git.history {
            gathering.add_history(&commit, wanted)?;
        }
        let mut draft = self.store.draft()?;
        gathering.write(&mut draft)?;
        let (digest, size) = draft.commit()?;
        Ok(GitTree { commit, digest, size })
    }
}
