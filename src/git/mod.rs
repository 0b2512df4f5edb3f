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
use crate::decl::{Git, GitUrl, Picks, Take};
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
        let wanted = Wanted {
            rev: &git.rev,
            locked,
            depth: git.history.as_ref().map_or(Some(1), |history| history.depth),
            partial: !git.take.is_whole() && !git.submodules,
        };
        let Take { strip, subdirectory, include, exclude, .. } = &git.take;
        let picks = Picks::new(*strip, subdirectory, include, exclude)?;
        self.archive(&git.url, &wanted, git.submodules, |gathering, commit| {
            gathering.pick(&picks);
            if wanted.partial {
                gathering.complete()?;
            }
            git.history.as_ref().map_or(Ok(()), |history| gathering.add_history(commit, history))
        })
    }

    /// Fetches a commit by its name and has the archive of its whole tree in the store.
    pub fn make_commit(
        &self,
        url: &GitUrl,
        commit: &ObjectId,
        submodules: bool,
    ) -> Result<GitTree, GitError> {
        let rev = commit.to_string();
        let wanted = Wanted { rev: &rev, locked: Some(commit), depth: Some(1), partial: false };
        self.archive(url, &wanted, submodules, |_, _| Ok(()))
    }

    fn archive(
        &self,
        url: &GitUrl,
        wanted: &Wanted<'_>,
        submodules: bool,
        change: impl FnOnce(&mut Gathering<'_>, &ObjectId) -> Result<(), GitError>,
    ) -> Result<GitTree, GitError> {
        let scratch = self.store.tree_draft()?;
        let remote = Remote::open(scratch.path(), "0", url, self)?;
        let commit = remote.fetch(wanted)?;
        let mut gathering = Gathering::new(remote, self, scratch.path())?;
        gathering.take(&commit, submodules)?;
        change(&mut gathering, &commit)?;
        let mut draft = self.store.draft()?;
        gathering.write(&mut draft)?;
        let (digest, size) = draft.commit()?;
        Ok(GitTree { commit, digest, size })
    }
}
