//! What tells a store from directories of other people's: the file `sbx-store`, its seal.
//!
//! A collector deletes what nobody needs, and nobody needs what it does not know. So a directory that was
//! named by mistake (a project, a home, an image layout of another tool's, vendored sources) must never
//! pass for a store: none is made where something lies already. The seal is the first thing in a new store,
//! so that whoever comes second finds it, and the last that goes. A store from before there were seals is
//! known by having all that a store has, and nothing else.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::DIRS;
use super::vouched::UNVOUCHED;
use crate::fsx::{self, IoAt, PathIo};

pub(super) const SEAL: &str = "sbx-store";

/// For who finds it.
const TEXT: &str =
    "a store of sbx: `sbx gc` and `sbx clean --all` delete what is in this directory\n";

/// What may lie where a store is to be: of file systems, and of projects that keep a place for it.
const BESIDE: &[&str] = &["lost+found", "README.md", ".gitignore", ".gitkeep"];

/// What a directory is that is to be a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ground {
    /// There is nothing, or not even a directory.
    Free,
    Store,
    /// A store that has no seal yet.
    Unsealed,
    /// Somebody else's.
    Foreign,
}

/// Looks what is there.
pub(super) fn look(root: &Path) -> Result<Ground, PathIo> {
    let is_sealed = || root.join(SEAL).is_file();
    if is_sealed() {
        return Ok(Ground::Store);
    }
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Ground::Free),
        Err(error) if error.kind() == ErrorKind::NotADirectory => return Ok(Ground::Foreign),
        result => result.at("list", root)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.at("list", root)?.file_name().to_string_lossy().into_owned();
        if !BESIDE.contains(&&*name) {
            names.push(name);
        }
    }
    Ok(match names {
        _ if names.is_empty() => Ground::Free,
        // another process has just made it
        _ if is_sealed() => Ground::Store,
        _ if names.iter().all(|name| is_own(name)) && has_all(root) => Ground::Unsealed,
        _ => Ground::Foreign,
    })
}

pub(super) fn put(root: &Path) -> Result<(), PathIo> {
    fs::create_dir_all(root).at("create", root)?;
    // under its name at once: a draft would be somebody else's to whoever looks meanwhile
    let path = root.join(SEAL);
    match path.exists() {
        true => Ok(()),
        false => fs::write(&path, TEXT).at("write", &path),
    }
}

/// Whether a store has something of that name in its root; drafts of such are its own, too.
fn is_own(name: &str) -> bool {
    let mut tops = DIRS.iter().filter_map(|dir| dir.split('/').next());
    fsx::is_draft(name)
        || ["oci-layout", "index.json", UNVOUCHED].contains(&name)
        || tops.any(|top| top == name)
}

fn has_all(root: &Path) -> bool {
    DIRS.iter().all(|dir| root.join(dir).is_dir())
        && ["oci-layout", "index.json"].iter().all(|name| root.join(name).is_file())
}
