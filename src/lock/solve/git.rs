//! Git: a declared commit, tag or branch becomes a commit and the digest of its tree.

use std::collections::BTreeMap;

use super::{Ask, Places, SolveError, Solver};
use crate::decl::{Git, GitUrl, Recipe};
use crate::digest::Integrity;
use crate::fetch::{Client, FetchError, Progress};
use crate::git::{GitError, GitTree, Workshop};
use crate::lock::{GitPin, NpmPin, Pin, Source};
use crate::npm::GitSpec;

/// Has the tree of a declaration in the store.
pub(super) fn solve(solver: &Solver<'_>, ask: &Ask<'_>, git: &Git) -> Result<Vec<Pin>, SolveError> {
    let Solver { client, progress, .. } = *solver;
    let label = format!("git `{}` {}", git.url.name(), git.rev);
    if client.is_offline() {
        return Err(FetchError::Offline { label }.into());
    }
    let places = solver.places();
    progress.started(&label, None);
    let made = places.workshop(client).make(git, None);
    progress.finished(&label);
    let failed = |source| SolveError::Git { layer: ask.layer.name.clone(), source };
    let pin = pin(git, &made.map_err(failed)?);
    tell_moved(ask, git, &pin, progress);
    Ok(vec![Pin::Git(pin)])
}

fn pin(git: &Git, tree: &GitTree) -> GitPin {
    GitPin {
        name: git.url.name().into(),
        commit: tree.commit.to_string().into(),
        digest: tree.digest,
        size: tree.size,
    }
}

/// A tag is not expected to move; that it did is said whenever it is resolved anew.
fn tell_moved(ask: &Ask<'_>, git: &Git, pin: &GitPin, progress: &dyn Progress) {
    let Some(answer) = ask.standing else { return };
    let before = answer.iter().find_map(|pin| match pin {
        Pin::Git(pin) => Some(pin),
        _ => None,
    });
    if let Some(before) = before.filter(|before| before.commit != pin.commit) {
        let layer = &ask.layer.name;
        progress.noted(&format!(
            "layer `{layer}`: `{}` of `{}` moved from {} to {}",
            git.rev, pin.name, before.commit, pin.commit
        ));
    }
}

impl Places<'_> {
    /// What trees are made with.
    fn workshop<'s>(&'s self, client: &Client) -> Workshop<'s> {
        Workshop { store: self.store, root: &self.project.root, stall: client.stall_timeout() }
    }

    /// Makes the trees of sources anew and holds them to their digests; answers what failed.
    pub(super) fn fetch_trees(
        &self,
        client: &Client,
        sources: &[Source<'_>],
        progress: &dyn Progress,
    ) -> BTreeMap<Integrity, FetchError> {
        let mut failures = BTreeMap::new();
        for source in sources.iter().filter(|source| !self.has(source)) {
            let label = format!("{} `{}`", source.kind(), source.label());
            progress.started(&label, source.size());
            let fetched = match source {
                Source::Git(pin) => self.fetch_tree(client, pin, &label),
                Source::Npm(pin) => self.fetch_packed(client, pin, &label),
                _ => Ok(()),
            };
            if let Err(error) = fetched {
                failures.insert(source.integrity(), error);
            }
            progress.finished(&label);
        }
        failures
    }

    /// The tree that a package of npm's is packed of.
    fn fetch_packed(&self, client: &Client, pin: &NpmPin, label: &str) -> Result<(), FetchError> {
        let label = || label.to_owned();
        let spec = pin.git().ok_or_else(|| FetchError::NoUrl { label: label() })?;
        if client.is_offline() {
            return Err(FetchError::Offline { label: label() });
        }
        let failed = |error: GitError| FetchError::Git {
            label: label(),
            reason: error.to_string(),
            help: error.help(),
        };
        let tree = self.make_spec(client, &spec).map_err(failed)?;
        match Integrity::from(tree.digest) == pin.integrity {
            true => Ok(()),
            false => Err(FetchError::Git {
                label: label(),
                reason: changed(spec.url(), &tree, pin.integrity),
                help: Some(
                    "a submodule changed since: `sbx lock --update` with the layer's name takes what is there now",
                ),
            }),
        }
    }

    /// Has the tree of a commit that a lock of npm's names in the store, from the first of its
    /// addresses that gives it.
    pub(super) fn make_spec(&self, client: &Client, spec: &GitSpec) -> Result<GitTree, GitError> {
        let mut first = None;
        for url in spec.urls() {
            let made =
                self.workshop(client).make_commit(&url, &spec.commit, spec.takes_submodules());
            match made {
                Ok(tree) => return Ok(tree),
                // what is reached and does not have it is no better elsewhere
                Err(error @ (GitError::NoCommit { .. } | GitError::Missing)) => return Err(error),
                Err(error) => drop(first.get_or_insert(error)),
            }
        }
        Err(first.unwrap_or(GitError::Missing))
    }

    /// Looks in every repository that is declared and called so.
    fn fetch_tree(&self, client: &Client, pin: &GitPin, label: &str) -> Result<(), FetchError> {
        let label = || label.to_owned();
        if client.is_offline() {
            return Err(FetchError::Offline { label: label() });
        }
        let recipes = self.project.layers.values().flat_map(|layer| &layer.recipes);
        let declared = recipes.filter_map(|recipe| match recipe {
            Recipe::Git(git) if git.url.name() == &*pin.name => Some(git),
            _ => None,
        });
        let locked = pin.commit.parse().ok();
        let mut failure = FetchError::NoUrl { label: label() };
        let failed = |error: GitError| FetchError::Git {
            label: label(),
            reason: error.to_string(),
            help: error.help(),
        };
        for git in declared {
            match self.workshop(client).make(git, locked.as_ref()) {
                Ok(tree) if tree.digest == pin.digest => return Ok(()),
                Ok(tree) => {
                    failure = FetchError::Git {
                        label: label(),
                        reason: changed(&git.url, &tree, pin.digest.into()),
                        help: Some(
                            "a submodule or the declaration changed since: `sbx lock --update` with the layer's name takes what is there now",
                        ),
                    };
                }
                Err(error) => failure = failed(error),
            }
        }
        Err(failure)
    }
}

fn changed(url: &GitUrl, tree: &GitTree, expected: Integrity) -> String {
    let GitTree { commit, digest, .. } = tree;
    format!(
        "{url}: commit {commit} gives another tree than was locked: expected {expected}, found {digest}"
    )
}
