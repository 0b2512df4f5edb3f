//! Git: a declared commit, tag or branch becomes a commit and the digest of its tree.

use std::collections::BTreeMap;

use super::{Ask, Places, SolveError, Solver};
use crate::decl::{Git, Recipe};
use crate::digest::Integrity;
use crate::fetch::{Client, FetchError, Progress};
use crate::git::{GitError, GitTree, Workshop};
use crate::lock::{GitPin, Pin};

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

    /// Makes the trees of pins anew and holds them to their digests; answers what failed.
    pub(super) fn fetch_trees(
        &self,
        client: &Client,
        pins: &[&GitPin],
        progress: &dyn Progress,
    ) -> BTreeMap<Integrity, FetchError> {
        let mut failures = BTreeMap::new();
        for pin in pins.iter().filter(|pin| !self.store.has_blob(&pin.digest)) {
            let label = format!("git `{}`", pin.label());
            progress.started(&label, Some(pin.size));
            if let Err(error) = self.fetch_tree(client, pin, &label) {
                failures.insert(pin.digest.into(), error);
            }
            progress.finished(&label);
        }
        failures
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
                        reason: format!(
                            "{}: commit {} gives another tree than was locked: expected {}, found {}",
                            git.url, tree.commit, pin.digest, tree.digest
                        ),
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
