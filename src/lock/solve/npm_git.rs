//! Packages that a lock of npm's takes from git: a commit becomes the digest of its tree.
//!
//! npm packs a commit as if it were to be published, and where the package says so, it first installs
//! what the package is developed with and builds it. Nothing of that runs here: a package that would be
//! built is an error, unless the declaration says that it is good as its commit has it.

use std::collections::BTreeMap;

use super::npm::{NpmLockError, Reading, called, read_manifest};
use super::{SolveError, Update};
use crate::blame::Blame;
use crate::digest::Integrity;
use crate::fetch::FetchError;
use crate::git::GitError;
use crate::lock::{NpmPin, Pin};
use crate::npm::{GitSpec, LockFault, Manifest, Origin, Placed};
use crate::store::Held;

/// Scripts for which npm installs what a package is developed with, before it packs it.
const INSTALLS: [&str; 6] = ["postinstall", "build", "preinstall", "install", "prepack", "prepare"];
/// Scripts that run then, in their order.
const BUILDS: [&str; 4] = ["prepublish", "preprepare", "prepare", "postprepare"];

/// Why a package from git cannot be locked.
#[derive(Debug, thiserror::Error)]
pub enum NpmGitError {
    #[error("`{place}` comes from git: {source}")]
    Git { place: String, source: GitError },
    #[error(
        "`{place}` comes from git, and to pack it npm would install what it is developed with and run its {event} (`{command}`), which nothing here does"
    )]
    Built { place: String, name: String, event: &'static str, command: String },
    #[error(
        "`{place}` comes from git and has workspaces, which npm would install and build to pack it, and nothing here does"
    )]
    Workspaces { place: String, name: String },
    #[error(
        "`{place}` comes from git and bundles its dependencies, which a repository does not have"
    )]
    Bundles { place: String },
}

impl NpmGitError {
    pub fn blame(&self) -> Blame {
        match self {
            NpmGitError::Git { source, .. } => source.blame(),
            _ => Blame::Input,
        }
    }

    /// The next step.
    pub fn help(&self) -> Option<String> {
        match self {
            NpmGitError::Git { source: GitError::NoCommit { .. }, .. } => Some(
                "let npm lock a commit that is there: `npm install --package-lock-only` with the address of the package"
                    .to_owned(),
            ),
            NpmGitError::Git { source, .. } => source.help().map(str::to_owned),
            NpmGitError::Built { name, .. } | NpmGitError::Workspaces { name, .. } => {
                Some(format!(
                    "depend on a version of it that is published, or lay it by `git`, build it by `run` and depend on it by `file:`; if it needs no building, `unprepared \"{name}\"` in `npm` lays it as its commit has it"
                ))
            }
            NpmGitError::Bundles { .. } => {
                Some("depend on a version of it that is published".to_owned())
            }
        }
    }
}

impl Reading<'_> {
    /// Has the trees of packages from git in the store, and their digests with the packages.
    pub(super) fn complete_trees(
        &self,
        lock: &str,
        packages: &mut [Placed],
    ) -> Result<(), SolveError> {
        let of_git = |one: &&Placed| matches!(one.origin, Origin::Git(_));
        for name in &self.npm.unprepared {
            if !packages.iter().filter(of_git).any(|one| called(one, name)) {
                let fault = LockFault::Unprepared { name: name.clone() };
                return Err(self.failed(lock, fault.into()));
            }
        }
        let mut known: BTreeMap<GitSpec, Integrity> = BTreeMap::new();
        for one in packages.iter_mut() {
            let Origin::Git(spec) = &one.origin else { continue };
            let spec = spec.clone();
            let digest = match known.get(&spec) {
                Some(digest) => *digest,
                None => self.tree(lock, one, &spec)?,
            };
            known.insert(spec.clone(), digest);
            one.integrity = Some(digest);
            if one.version.is_empty() {
                one.version = spec.commit.to_string();
            }
            self.check_built(lock, one, &spec, digest)?;
        }
        Ok(())
    }

    /// The digest of a tree, which is in the store then.
    fn tree(&self, lock: &str, one: &Placed, spec: &GitSpec) -> Result<Integrity, SolveError> {
        let (client, progress) = (self.solver.client, self.solver.progress);
        let label = format!("npm package `{}` from {}", one.name, spec.url());
        if let Some(digest) = self.standing(one, spec) {
            self.solver.store.hold([Held::Source(&digest, None)])?;
            if self.solver.store.find_source(&digest).is_some() {
                return Ok(digest);
            }
        }
        if client.is_offline() {
            return Err(FetchError::Offline { label }.into());
        }
        progress.started(&label, None);
        let made = self.solver.places().make_spec(client, spec);
        progress.finished(&label);
        let failed = |source| {
            let place = one.place.clone();
            self.failed(lock, NpmGitError::Git { place, source }.into())
        };
        Ok(made.map_err(failed)?.digest.into())
    }

    /// What the lock had of the same commit, unless that is to be looked at again.
    fn standing(&self, one: &Placed, spec: &GitSpec) -> Option<Integrity> {
        match self.ask.update {
            Update::Missing => {}
            Update::All => return None,
            Update::Named(names) => {
                let layer = self.ask.layer.name.as_str();
                if names.contains(layer) || names.contains(one.name.as_str()) {
                    return None;
                }
            }
        }
        let path = spec.to_string();
        let before = self.ask.previous.iter().filter_map(|pin| Pin::npm(pin));
        before.filter(|pin| *pin.path == *path).map(|pin| pin.integrity).next()
    }

    /// Refuses what npm would have to build.
    fn check_built(
        &self,
        lock: &str,
        one: &Placed,
        spec: &GitSpec,
        integrity: Integrity,
    ) -> Result<(), SolveError> {
        let (name, place) = (one.name.to_string(), one.place.clone());
        let pin = NpmPin {
            name: name.as_str().into(),
            version: one.version.as_str().into(),
            integrity,
            place: place.as_str().into(),
            path: spec.to_string().into(),
            bins: Vec::new(),
        };
        let failed = |error: NpmLockError| self.failed(lock, error);
        let bytes = read_manifest(&self.solver.store.source_path(&integrity), &pin);
        let (bytes, _) = bytes.map_err(|source| {
            let package = format!("{} {spec}", one.name);
            failed(NpmLockError::Tarball { package, source })
        })?;
        let manifest = Manifest::parse(&bytes).map_err(|error| failed(error.into()))?;
        if manifest.bundles() {
            return Err(failed(NpmGitError::Bundles { place }.into()));
        }
        if self.npm.unprepared.iter().any(|name| called(one, name)) {
            return Ok(());
        }
        if !manifest.workspace_patterns().is_empty() {
            return Err(failed(NpmGitError::Workspaces { place, name }.into()));
        }
        let script = |event: &&str| manifest.scripts.get(*event).filter(|text| !text.is_empty());
        let built = BUILDS.into_iter().find(|event| script(event).is_some());
        match built.filter(|_| INSTALLS.iter().any(|event| script(event).is_some())) {
            Some(event) => {
                let command = manifest.scripts[event].clone();
                Err(failed(NpmGitError::Built { place, name, event, command }.into()))
            }
            None => Ok(()),
        }
    }
}
