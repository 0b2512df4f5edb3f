//! Who uses a store, and what their locks need.
//!
//! A project tells the store; the store never reads a project. So a lock's sources stay though the
//! project is on a disk that is not there just now, and the collector knows nothing of locks.
//!
//! `projects/HEX` (the first digits of the digest of the project's path): a line of JSON that says
//! who, and how the lock's file looked, then a source a line, `ALGORITHM/HEX`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::gone::{Absent, Gone, is_older};
use super::record::touch;
use super::{Claimant, Stamp, Store, StoreError, layout};
use crate::digest::Integrity;
use crate::fsx::{self, IoAt};

/// How seldom a project's time is renewed.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    name: String,
    root: PathBuf,
    /// How the lock looked; `None` where there was none.
    lock: Option<Stamp>,
}

impl Store {
    /// Tells that a project uses this store, and what its lock needs of it. `sources` is asked only
    /// when the lock, which has this stamp, is not the one that was told of last.
    pub fn register(
        &self,
        claimant: &Claimant<'_>,
        lock: Option<Stamp>,
        sources: impl FnOnce() -> Vec<Integrity>,
    ) -> Result<(), StoreError> {
        let path = self.root.join("projects").join(claimant.place());
        let head = Head { name: claimant.project.to_string(), root: claimant.root.into(), lock };
        if read_head(&path).is_some_and(|known| known == head) {
            if is_older(&path, DAY).unwrap_or(true) {
                touch(&path);
            }
            return Ok(());
        }
        let mut text = serde_json::to_string(&head).map_err(|error| StoreError::Damaged {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        for source in sources() {
            text.push_str(&format!("\n{}/{}", source.algorithm(), source.hex()));
        }
        match fsx::write_atomic(&path, text.as_bytes()) {
            // who may not write to a store brings nothing into it either
            Err(error) if fsx::is_read_only(&error.source) => Ok(()),
            result => Ok(result?),
        }
    }
}

/// Projects whose directory is gone and that were not seen for `age`.
pub(super) fn absent(root: &Path, age: Duration) -> Result<Vec<Absent>, StoreError> {
    let mut found = Vec::new();
    for path in list(root)? {
        let is_old = is_older(&path, age).unwrap_or(false);
        let Some(head) = read_head(&path).filter(|_| is_old) else { continue };
        if !head.root.join("sandboxes.kdl").exists() {
            let owner = layout::owner(&head.name, &head.root);
            found.push(Absent { path, root: head.root, owner });
        }
    }
    Ok(found)
}

fn list(root: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let dir = root.join("projects");
    let entries = fs::read_dir(&dir).at("list", &dir)?;
    let paths = entries.map(|entry| Ok(entry.at("list", &dir)?.path()));
    // a draft of one that is being written begins with a dot
    let named = |path: &Result<PathBuf, StoreError>| {
        path.as_ref().map_or(true, |path| {
            !path.file_name().unwrap_or_default().as_encoded_bytes().starts_with(b".")
        })
    };
    paths.filter(named).collect()
}

fn read_head(path: &Path) -> Option<Head> {
    let mut line = String::new();
    BufReader::new(File::open(path).ok()?).read_line(&mut line).ok()?;
    serde_json::from_str(&line).ok()
}

/// What the locks of all projects need.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    /// By `ALGORITHM/HEX`.
    pub(super) sources: BTreeSet<String>,
    /// Names of the files that tell of projects.
    pub(super) places: BTreeSet<String>,
}

impl Wanted {
    pub(super) fn read(root: &Path, gone: &Gone) -> Result<Self, StoreError> {
        let mut wanted = Wanted::default();
        let known = list(root)?.into_iter().filter(|path| !gone.has_project(path));
        for path in known {
            // a collector may have forgotten it since
            let Ok(text) = fs::read_to_string(&path) else { continue };
            wanted.sources.extend(text.lines().skip(1).map(str::to_owned));
            let name = path.file_name().unwrap_or_default();
            wanted.places.insert(name.to_string_lossy().into_owned());
        }
        Ok(wanted)
    }
}
