//! What is forgotten with time: pulled images that nobody uses, and projects that are not there.
//!
//! Their names go, and what they alone needed is loose then, in the same collection. One that only looks
//! counts the same names as gone, so that it says what the other does.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::layout::{self, Entry};
use super::lease::Holdings;
use super::{Store, StoreError, project};
use crate::fsx::IoAt;
use crate::platform::Platform;

#[derive(Debug, Default)]
pub(super) struct Gone {
    /// References of pulled images.
    pulled: BTreeSet<String>,
    projects: Vec<Absent>,
}

/// A project whose directory is not there.
#[derive(Debug)]
pub(super) struct Absent {
    /// The file that tells of it.
    pub(super) path: PathBuf,
    pub(super) root: PathBuf,
    /// Whose its names in `index.json` are.
    pub(super) owner: String,
}

impl Gone {
    /// What was neither used nor seen for `age`. Of pulled images, none that a process holds.
    pub(super) fn find(root: &Path, age: Duration, held: &Holdings) -> Result<Self, StoreError> {
        let listed = layout::listed(root)?.into_iter().filter(Entry::is_pulled);
        let pulled = listed.map(|entry| entry.name);
        let pulled = pulled.filter(|name| is_unused(root, name, age, held)).collect();
        Ok(Gone { pulled, projects: project::absent(root, age)? })
    }

    /// Whether a name of `index.json` is among it.
    pub(super) fn has(&self, entry: &Entry) -> bool {
        match entry.is_pulled() {
            true => self.pulled.contains(&entry.name),
            false => self.projects.iter().any(|project| project.owner == entry.owner),
        }
    }

    /// Whether a file of `projects/` tells of one that is gone.
    pub(super) fn has_project(&self, path: &Path) -> bool {
        self.projects.iter().any(|project| project.path == path)
    }

    pub(super) fn pulled(&self) -> impl Iterator<Item = &String> {
        self.pulled.iter()
    }

    /// Where the projects were.
    pub(super) fn roots(&self) -> Vec<PathBuf> {
        self.projects.iter().map(|project| project.root.clone()).collect()
    }
}

impl Store {
    /// Forgets all of it, and pulled images of these names. The lock `index` must be held.
    pub(super) fn forget_gone(&self, gone: &Gone, pulled: &[String]) -> Result<(), StoreError> {
        let goes =
            |entry: &Entry| gone.has(entry) || entry.is_pulled() && pulled.contains(&entry.name);
        self.withdraw(goes)?;
        for Absent { path, .. } in &gone.projects {
            fs::remove_file(path).at("remove", path)?;
        }
        Ok(())
    }
}

fn is_unused(root: &Path, reference: &str, age: Duration, held: &Holdings) -> bool {
    Platform::ALL.into_iter().all(|platform| {
        let name = Store::pulled_key(reference, platform).0.hex();
        let record = root.join("images").join(&name);
        is_older(&record, age).unwrap_or(true) && !held.images.contains(&name)
    })
}

/// Whether a file's time is so long ago; `None` where there is none.
pub(super) fn is_older(path: &Path, age: Duration) -> Option<bool> {
    let time = fs::metadata(path).and_then(|meta| meta.modified()).ok()?;
    Some(time.elapsed().is_ok_and(|past| past > age))
}
