//! Installations by pnpm: a command as any other, but for what it is shown.
//!
//! pnpm sees its lock with the addresses of tarballs led to the loopback server, and the project's
//! settings without registries and credentials; both lie over the real files and leave no trace. Files
//! of the project that no layer has laid are lent to it. What it writes down of where and when it ran
//! is made the same everywhere afterwards.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::builder::Builder;
use super::error::BuildError;
use super::run::Dress;
use super::view::View;
use crate::fetch::{defaults, public_settings};
use crate::fsx::{IoAt, PathIo};
use crate::jail::Bind;
use crate::lock::NpmPin;
use crate::npm::{PnpmLock, TarballError, pnpm_files, unpack};
use crate::path::LayerPath;
use crate::plan::{PNPM, PnpmWork, Step};
use crate::serve::address;
use crate::store::LayerRecord;

/// pnpm's lock.
const LOCK: &str = "pnpm-lock.yaml";
/// Settings of npm's and pnpm's.
const SETTINGS: &str = ".npmrc";
/// What an installation reads beside what its lock names.
const READS: [&str; 4] = ["package.json", LOCK, "pnpm-workspace.yaml", SETTINGS];

/// Addresses by those that pnpm is shown for them.
type Shown = BTreeMap<String, String>;

/// What lies over the files of a project.
struct Wardrobe<'a> {
    work: &'a PnpmWork,
    /// The project's directory on this machine.
    dir: Option<PathBuf>,
    view: &'a View,
    /// A directory for files that are shown.
    place: PathBuf,
}

impl Builder<'_> {
    pub(super) fn make_pnpm(
        &self,
        step: &Step,
        work: &PnpmWork,
    ) -> Result<LayerRecord, BuildError> {
        self.make_dressed(step, &work.run, |view, scratch| {
            let program = self.pnpm(&work.program)?;
            let place = scratch.join("shown");
            fs::create_dir(&place).at("create", &place)?;
            let dir = work.project.as_ref().map(|dir| self.project.root.join(dir));
            let wardrobe = Wardrobe { work, dir, view, place };
            let mut binds = vec![Bind { from: program, to: PNPM.to_owned(), read_only: true }];
            let (shown, lent) = wardrobe.fill(&mut binds)?;
            let root = work.root.clone();
            let finish = Box::new(move |upper: &Path| {
                take_back(upper, &root, &lent)?;
                settle(&upper.join(root.as_path()), &shown)
            });
            Ok(Dress { binds, finish })
        })
    }

    /// The directory of an unpacked pnpm.
    fn pnpm(&self, pin: &NpmPin) -> Result<PathBuf, BuildError> {
        let name = format!("pnpm-{}-{}", pin.version, &pin.integrity.hex()[..8]);
        let dir = self.store.root().join("tools").join(name);
        if dir.is_dir() {
            return Ok(dir);
        }
        let tools = self.store.root().join("tools");
        fs::create_dir_all(&tools).at("create", &tools)?;
        let draft = self.store.tree_draft()?;
        let into = draft.path().join("pnpm");
        let blob = self.store.source_path(&pin.integrity);
        let unpacked = unpack(&blob, &pin.integrity, |item| Some(into.join(item.path.as_path())));
        unpacked
            .map_err(|source: TarballError| BuildError::Program { tool: pin.label(), source })?;
        match fs::rename(&into, &dir) {
            // somebody else was faster
            Err(_) if dir.is_dir() => Ok(dir),
            result => result.at("rename", &dir).map(|()| dir).map_err(BuildError::from),
        }
    }
}

impl Wardrobe<'_> {
    /// Adds what is shown; answers which addresses are others there, and which files are lent.
    fn fill(&self, binds: &mut Vec<Bind>) -> Result<(Shown, Vec<String>), BuildError> {
        let lock = self.read(LOCK)?.unwrap_or_default();
        let (text, shown) = show_lock(&lock);
        let settings = self.read(SETTINGS)?;
        let mut lent = Vec::new();
        let named = pnpm_files(&lock).into_iter().chain(READS.map(str::to_owned));
        for name in named.collect::<std::collections::BTreeSet<_>>() {
            let own = match (&*name, &settings) {
                (LOCK, _) => Some(text.clone()),
                (SETTINGS, Some(settings)) => Some(public_settings(settings)),
                _ => None,
            };
            let laid = self.view.find(&self.path(&name)?).is_some();
            let local = self.local(&name);
            if !laid && local.is_none() {
                continue;
            }
            let from = match own {
                Some(text) => {
                    let path = self.place.join(name.trim_start_matches('.'));
                    fs::write(&path, text).at("write", &path)?;
                    path
                }
                None => match local.filter(|_| !laid) {
                    Some(local) => local,
                    None => continue,
                },
            };
            if !laid {
                lent.push(name.clone());
            }
            let to = self.path(&name)?.to_string();
            binds.push(Bind { from, to, read_only: true });
        }
        Ok((shown, lent))
    }

    fn path(&self, name: &str) -> Result<LayerPath, BuildError> {
        Ok(self.work.root.join(name.as_bytes())?)
    }

    /// A file of the project as text: the one that a layer has laid, or the local one.
    fn read(&self, name: &str) -> Result<Option<String>, BuildError> {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        if let Some(bytes) = self.view.read(&self.path(name)?.to_string())? {
            return Ok(Some(text(bytes)));
        }
        match self.local(name) {
            Some(local) => Ok(Some(text(fs::read(&local).at("read", &local)?))),
            None => Ok(None),
        }
    }

    /// A file of the project's on this machine, if it is there.
    fn local(&self, name: &str) -> Option<PathBuf> {
        self.dir.as_ref().map(|dir| dir.join(name)).filter(|path| path.is_file())
    }
}

/// A lock whose tarballs are all on the loopback server. The digest of a `.pnpmfile.cjs`, which does
/// not run, is left out: pnpm would miss the file.
fn show_lock(lock: &str) -> (String, Shown) {
    let kept = lock.split_inclusive('\n').filter(|line| !line.starts_with("pnpmfileChecksum:"));
    let mut text: String = kept.collect();
    let mut shown = Shown::new();
    let Ok(parsed) = PnpmLock::parse(lock) else { return (text, shown) };
    for (name, version, tarball) in parsed.tarballs() {
        let base = name.rsplit('/').next().unwrap_or(&name);
        let here = format!("{}/{name}/-/{base}-{version}.tgz", address());
        for (before, after) in [("", "\n"), ("", ","), ("", "}"), ("'", "'"), ("\"", "\"")] {
            let old = format!("tarball: {before}{tarball}{after}");
            text = text.replace(&old, &format!("tarball: {before}{here}{after}"));
        }
        shown.insert(here, tarball.to_owned());
    }
    (text, shown)
}

/// Removes what files were lent at, and the directories that were made for them alone.
fn take_back(upper: &Path, root: &LayerPath, lent: &[String]) -> Result<(), PathIo> {
    for name in lent {
        let path = upper.join(root.as_path()).join(name);
        if path.is_file() {
            fs::remove_file(&path).at("remove", &path)?;
        }
        let mut dir = path.parent();
        while let Some(empty) = dir.filter(|dir| dir.starts_with(upper) && *dir != upper) {
            // one that holds something stays
            if fs::remove_dir(empty).is_err() {
                break;
            }
            dir = empty.parent();
        }
    }
    Ok(())
}

/// What pnpm writes down of its registry is that of the public one, and addresses are the lock's.
fn settle(root: &Path, shown: &Shown) -> Result<(), PathIo> {
    let modules = root.join("node_modules");
    let registry = [(format!("{}/", address()), defaults::NPM.to_owned())];
    replace(&modules.join(".modules.yaml"), registry.iter().map(|(here, real)| (here, real)))?;
    replace(&modules.join(".pnpm/lock.yaml"), shown.iter())
}

fn replace<'a>(
    path: &Path,
    pairs: impl Iterator<Item = (&'a String, &'a String)>,
) -> Result<(), PathIo> {
    if !path.is_file() || path.is_symlink() {
        return Ok(());
    }
    let text = fs::read_to_string(path).at("read", path)?;
    let changed = pairs.fold(text.clone(), |text, (here, real)| text.replace(here, real));
    if changed != text { fs::write(path, changed).at("write", path) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_a_lock_lead_to_the_loopback_server() {
        let lock = "lockfileVersion: '9.0'\n\npnpmfileChecksum: sha256-x\n\npackages:\n\n  a@1.0.0:\n    resolution: {integrity: sha512-x, tarball: https://h.example.org/x/a.tgz}\n\nsnapshots:\n\n  a@1.0.0: {}\n";
        let (text, shown) = show_lock(lock);
        let here = format!("{}/a/-/a-1.0.0.tgz", address());
        let expected = lock.replace("https://h.example.org/x/a.tgz", &here);
        assert_eq!(text, expected.replace("pnpmfileChecksum: sha256-x\n", ""));
        assert_eq!(shown[&here], "https://h.example.org/x/a.tgz");
    }
}
