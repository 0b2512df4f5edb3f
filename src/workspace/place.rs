//! Where the project and the store are.

use std::path::{Path, PathBuf};

use sbx::store::Store;

use super::{Global, read_settings_file, store_variable};
use crate::failure::{Failure, Outcome};

/// The directory of the project that this directory is in.
pub fn find_root(global: &Global) -> Outcome<PathBuf> {
    let fail = |error: std::io::Error| {
        Failure::world(format!("the current directory cannot be found: {error}"))
    };
    let start = global.project.as_deref().unwrap_or(Path::new("."));
    let start = std::path::absolute(start).map_err(fail)?;
    let root = start.ancestors().find(|dir| dir.join("sandboxes.kdl").is_file());
    root.map(Path::to_owned).ok_or_else(|| {
        let message = format!("there is no `sandboxes.kdl` in {} or above it", start.display());
        Failure::input(message).with_help("run `sbx init` to make one")
    })
}

/// Where the store is of who is in a project, or named one.
pub fn find_store(global: &Global) -> Outcome<PathBuf> {
    match named_store(global) {
        Some(named) => absolute(&named),
        None => store_path(global, &find_root(global)?),
    }
}

/// A store that was named is to be there: a slip of the pen makes none.
pub fn check_named_store(global: &Global) -> Outcome {
    let Some(path) = named_store(global) else { return Ok(()) };
    let path = absolute(&path)?;
    match Store::find(&path)? {
        Some(_) => Ok(()),
        None => Err(Failure::input(format!("there is no store at {}", path.display()))),
    }
}

/// Where the store is: `--cache`, `SBX_CACHE`, or `cache/` of the project.
pub fn store_path(global: &Global, root: &Path) -> Outcome<PathBuf> {
    absolute(&named_store(global).unwrap_or_else(|| root.join("cache")))
}

/// Where somebody is who is in no project, but named a store.
pub(super) fn root_without_project(global: &Global) -> Outcome<Option<PathBuf>> {
    match find_root(global) {
        Err(_) if named_store(global).is_some() => {
            Ok(Some(absolute(global.project.as_deref().unwrap_or(Path::new(".")))?))
        }
        Err(failure) => Err(failure.with_help(
            "run `sbx init` to make one, or name a store with `--cache` or `SBX_CACHE`",
        )),
        Ok(_) => Ok(None),
    }
}

/// A store that is there, whether or not its project can be read.
pub fn open_store(global: &Global, root: Option<&Path>) -> Outcome<Option<Store>> {
    let path = named_store(global).or_else(|| Some(root?.join("cache")));
    let Some(path) = path.map(|path| absolute(&path)).transpose()? else { return Ok(None) };
    let Some(store) = Store::find(&path)? else { return Ok(None) };
    let cap = global.cap.or(read_settings_file()?.store_cap);
    Ok(Some(store.with_cap(cap)))
}

fn named_store(global: &Global) -> Option<PathBuf> {
    global.cache.clone().or_else(store_variable)
}

fn absolute(path: &Path) -> Outcome<PathBuf> {
    std::path::absolute(path)
        .map_err(|error| Failure::world(format!("{}: {error}", path.display())))
}
