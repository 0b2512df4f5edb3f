//! npm: a project's own lock becomes pins. It is authority: nothing is resolved, and where it and the
//! project's `package.json` disagree, nothing is guessed. A project without one is resolved by npm.
//!
//! Install scripts are read out of the tarballs of the packages that the declaration names, so that
//! the lock says what will run; of all others it is only said that they have some.

use std::io::Read;
use std::path::Path;

use super::npm_git::NpmGitError;
use super::npm_tools::NpmToolsError;
use super::pnpm::PnpmLockError;
use super::project_files::ProjectFiles;
use super::{Ask, SolveError, Solver};
use crate::blame::Blame;
use crate::decl::{Kind, Npm};
use crate::fetch::FetchError;
use crate::fsx::IoAt;
use crate::lock::{LaidPin, NpmPart, NpmPin, Pin, Source};
use crate::npm::{
    ItemKind, LockFault, Manifest, ManifestError, Omit, Origin, PackageLock, Placed, TarballError,
    Tree, bins,
};

/// Locks, the one that counts first.
const LOCKS: [&str; 2] = ["npm-shrinkwrap.json", "package-lock.json"];
/// Largest `package.json`.
const MANIFEST: u64 = 8 << 20;

/// Why a project's packages cannot be locked.
#[derive(Debug, thiserror::Error)]
pub enum NpmLockError {
    #[error(transparent)]
    Lock(#[from] LockFault),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("is not UTF-8")]
    Text,
    #[error(transparent)]
    Resolve(NpmToolsError),
    #[error("`{place}` is the file `{file}`, which leaves the project")]
    Leaves { place: String, file: String },
    #[error("`{place}` is the file `{file}`, which the source of the project does not have")]
    Laid { place: String, file: String },
    #[error(transparent)]
    Git(#[from] NpmGitError),
    #[error(transparent)]
    Pnpm(#[from] PnpmLockError),
    #[error("npm package `{package}`: {source}")]
    Tarball { package: String, source: TarballError },
}

impl NpmLockError {
    pub fn blame(&self) -> Blame {
        match self {
            NpmLockError::Tarball { source, .. } => source.blame(),
            NpmLockError::Resolve(error) => error.blame(),
            NpmLockError::Git(error) => error.blame(),
            _ => Blame::Input,
        }
    }

    pub fn help(&self) -> Option<String> {
        match self {
            NpmLockError::Lock(fault) => fault.help(),
            NpmLockError::Pnpm(error) => error.help(),
            NpmLockError::Resolve(error) => error.help(),
            NpmLockError::Git(error) => error.help(),
            _ => None,
        }
    }
}

/// A project's files, as they are read.
pub(super) struct Reading<'a> {
    pub solver: &'a Solver<'a>,
    pub ask: &'a Ask<'a>,
    pub npm: &'a Npm,
    pub files: ProjectFiles,
}

pub(super) fn solve(solver: &Solver<'_>, ask: &Ask<'_>, npm: &Npm) -> Result<Vec<Pin>, SolveError> {
    let files = match &npm.laid {
        None => ProjectFiles::local(solver, &npm.project),
        Some(laid) => ProjectFiles::laid(solver, ask, laid, &reads)?,
    };
    let reading = Reading { solver, ask, npm, files };
    let manifest = reading.manifest("package.json")?;
    let name = LOCKS.into_iter().find(|name| reading.files.is_file(name));
    let mut pins = match reading.is_pnpm(&manifest, name) {
        true => reading.solve_pnpm(&manifest)?,
        false => reading.solve_npm(&manifest, name)?,
    };
    pins.extend(reading.files.source().map(|source| Pin::Laid(LaidPin { source })));
    Ok(pins)
}

/// Files that are read of a project.
fn reads(name: &str) -> bool {
    ["package.json", "pnpm-lock.yaml", "pnpm-workspace.yaml", ".npmrc"].contains(&name)
        || LOCKS.contains(&name)
}

pub(super) fn omit(npm: &Npm) -> Omit {
    let has = |kind| npm.omit.contains(&kind);
    Omit { dev: has(Kind::Dev), optional: has(Kind::Optional), peer: has(Kind::Peer) }
}

impl Reading<'_> {
    /// The tree that a lock of npm's says, or that npm would write down.
    fn solve_npm(
        &self,
        manifest: &Manifest,
        name: Option<&'static str>,
    ) -> Result<Vec<Pin>, SolveError> {
        let (name, lock) = match name {
            Some(name) => (name, self.lock(manifest, name)?),
            None => ("package.json", self.resolve(manifest)?),
        };
        let mut tree = lock
            .tree(self.ask.platform, omit(self.npm))
            .map_err(|fault| self.failed(name, NpmLockError::Lock(fault)))?;
        self.solver.complete_digests(self.ask, &self.npm.project, &mut tree.packages)?;
        self.complete_trees(name, &mut tree.packages)?;
        let mut pins = Vec::new();
        for one in &tree.packages {
            pins.push(Pin::Npm(self.pin(name, one)?));
        }
        let bundled = tree.bundled.iter().map(|(place, bins)| NpmPart::Bundled {
            place: place.as_str().into(),
            bins: bins.clone(),
        });
        pins.extend(bundled.map(Pin::NpmPart));
        for (place, target) in &tree.links {
            pins.push(Pin::NpmPart(self.link(name, &lock, place, target)?));
        }
        pins.extend(self.scripts(name, &tree, &pins)?.into_iter().map(Pin::NpmPart));
        Ok(pins)
    }

    pub(super) fn failed(&self, name: &str, source: NpmLockError) -> SolveError {
        SolveError::Npm {
            layer: self.ask.layer.name.clone(),
            path: self.files.label(name),
            source: Box::new(source),
        }
    }

    pub(super) fn manifest(&self, name: &str) -> Result<Manifest, SolveError> {
        let bytes = self.files.read(name)?;
        Manifest::parse(&bytes).map_err(|error| self.failed(name, error.into()))
    }

    /// A lock of the project, which agrees with its `package.json`.
    fn lock(&self, manifest: &Manifest, name: &str) -> Result<PackageLock, SolveError> {
        let bytes = self.files.read(name)?;
        let text = String::from_utf8(bytes).map_err(|_| self.failed(name, NpmLockError::Text))?;
        PackageLock::parse(&text)
            .and_then(|lock| lock.agree("", manifest).map(|()| lock))
            .map_err(|fault| self.failed(name, fault.into()))
    }

    fn pin(&self, lock: &str, one: &Placed) -> Result<NpmPin, SolveError> {
        let path = match &one.origin {
            Origin::Registry(path) => path.clone().unwrap_or_default(),
            Origin::Address(url) => url.to_string(),
            Origin::Git(spec) => spec.to_string(),
            Origin::File(file) => {
                let (place, named) = (one.place.clone(), file.clone());
                let leaves = NpmLockError::Leaves { place: place.clone(), file: named.clone() };
                let below = below(&self.npm.project, file);
                let below = below.ok_or_else(|| self.failed(lock, leaves))?;
                match self.files.source() {
                    None => format!("file:{below}"),
                    Some(source) => {
                        let absent = NpmLockError::Laid { place, file: named };
                        let member = self.files.member(&below);
                        let member = member.ok_or_else(|| self.failed(lock, absent))?;
                        format!("laid:{source}/{member}")
                    }
                }
            }
        };
        Ok(NpmPin {
            name: one.name.as_str().into(),
            version: one.version.as_str().into(),
            integrity: one.integrity.expect("what was missing has been asked for"),
            place: one.place.as_str().into(),
            path: path.into(),
            bins: one.bins.clone(),
        })
    }

    /// A link to a directory of the project, whose own `package.json` says which commands it has. Those
    /// are linked whose files are there, as npm does it.
    fn link(
        &self,
        name: &str,
        lock: &PackageLock,
        place: &str,
        target: &str,
    ) -> Result<NpmPart, SolveError> {
        let file = format!("{target}/package.json");
        let locked = lock.packages.get(target).map(|locked| &locked.manifest);
        let manifest = match self.files.is_file(&file) {
            true => {
                let manifest = self.manifest(&file)?;
                lock.agree(target, &manifest).map_err(|fault| self.failed(name, fault.into()))?;
                Some(manifest)
            }
            false => locked.cloned(),
        };
        let own = place.rsplit_once("node_modules/").map_or(place, |(_, own)| own);
        let all = manifest.map(|one| bins(one.name.as_deref().unwrap_or(own), &one.bin));
        let there = |file: &str| self.files.exists(&format!("{target}/{file}"));
        let bins = all.into_iter().flatten().filter(|(_, file)| there(file)).collect();
        Ok(NpmPart::Link { place: place.into(), target: target.into(), bins })
    }

    /// What runs of what packages want to run.
    fn scripts(&self, lock: &str, tree: &Tree, pins: &[Pin]) -> Result<Vec<NpmPart>, SolveError> {
        let wanting: Vec<&Placed> = tree.packages.iter().filter(|one| one.scripts).collect();
        let chosen = |one: &&&Placed| self.npm.scripts.iter().any(|name| called(one, name));
        for name in &self.npm.scripts {
            if !wanting.iter().any(|one| called(one, name)) {
                let known = tree.packages.iter().any(|one| called(one, name));
                let reason = match known {
                    true => "has no install scripts",
                    false => "is not in the tree",
                };
                let fault = LockFault::Script { name: name.clone(), reason: reason.to_owned() };
                return Err(self.failed(lock, fault.into()));
            }
        }
        self.tell(wanting.iter().filter(|one| !chosen(one)).copied());
        let mut scripts = Vec::new();
        for one in wanting.iter().filter(chosen) {
            let own = |pin: &&Pin| matches!(pin, Pin::Npm(pin) if *pin.place == *one.place);
            if let Some(Pin::Npm(pin)) = pins.iter().find(own) {
                scripts.extend(self.scripts_of(lock, pin)?);
            }
        }
        Ok(scripts)
    }

    /// Names the packages whose install scripts do not run.
    fn tell<'p>(&self, silent: impl Iterator<Item = &'p Placed>) {
        self.tell_names(silent.map(|one| format!("{} {}", one.name, one.version)));
    }

    pub(super) fn tell_names(&self, silent: impl Iterator<Item = String>) {
        let mut names: Vec<String> = silent.collect();
        names.sort();
        names.dedup();
        if !names.is_empty() {
            let layer = &self.ask.layer.name;
            self.solver.progress.noted(&format!(
                "layer `{layer}`: install scripts that do not run, because `scripts` of `npm` does not name them: {}",
                names.join(", ")
            ));
        }
    }

    pub(super) fn scripts_of(&self, lock: &str, pin: &NpmPin) -> Result<Vec<NpmPart>, SolveError> {
        let Solver { client, progress, store, .. } = *self.solver;
        let places = self.solver.places();
        let source = Source::Npm(pin);
        if !places.has(&source) {
            let mut failures = places.fetch(client, &[source], progress)?;
            if let Some((_, error)) = failures.pop_first() {
                return Err(FetchError::into(error));
            }
        }
        let failed = |source| {
            let package = pin.label();
            self.failed(lock, NpmLockError::Tarball { package, source })
        };
        let (manifest, gyp) =
            read_manifest(&store.source_path(&pin.integrity), pin).map_err(failed)?;
        let manifest =
            Manifest::parse(&manifest).map_err(|error| self.failed(lock, error.into()))?;
        let script = |(event, command): (&str, String)| NpmPart::Script {
            place: pin.place.clone(),
            event: event.into(),
            command: command.into(),
            env: vec![
                ("npm_package_name".into(), pin.name.clone()),
                ("npm_package_version".into(), pin.version.clone()),
            ],
        };
        Ok(manifest.install_scripts(gyp).into_iter().map(script).collect())
    }
}

/// Whether a declaration that names a package means this one.
pub(super) fn called(one: &Placed, name: &str) -> bool {
    let own = one.place.rsplit_once("node_modules/").map_or("", |(_, own)| own);
    one.name.as_str() == name || own == name
}

/// The `package.json` of a tarball, and whether there is a `binding.gyp`.
pub(super) fn read_manifest(blob: &Path, pin: &NpmPin) -> Result<(Vec<u8>, bool), TarballError> {
    let (mut manifest, mut gyp) = (b"{}".to_vec(), false);
    pin.open(blob)?.visit(|item, body| {
        match (item.path.as_bytes(), item.kind) {
            (b"package.json", ItemKind::File(_)) => {
                manifest.clear();
                body.take(MANIFEST).read_to_end(&mut manifest).at("read", blob)?;
            }
            (b"binding.gyp", ItemKind::File(_)) => gyp = true,
            _ => {}
        }
        Ok::<_, TarballError>(())
    })?;
    Ok((manifest, gyp))
}

/// A path relative to a directory of the project; `None` for one that leaves it.
fn below(dir: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = dir.split('/').filter(|part| !part.is_empty()).collect();
    if path.starts_with('/') {
        return None;
    }
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}
