//! Directories of a project that its `package.json` speaks of: workspaces, and what it depends on by
//! `file:`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::manifest::Manifest;

/// How deep workspaces are looked for.
const DEPTH: usize = 8;

/// Workspaces of the project in `root` that say something of themselves: their `package.json`.
pub fn workspace_manifests(root: &Path, manifest: &Manifest) -> BTreeSet<String> {
    if manifest.workspace_patterns().is_empty() {
        return BTreeSet::new();
    }
    let mut dirs = Vec::new();
    list(root, "", DEPTH, &mut dirs);
    let mut found = matching_manifests(dirs.iter().map(String::as_str), manifest);
    found.retain(|file| root.join(file).is_file());
    found
}

/// The `package.json` of each of these directories that is a workspace.
pub fn matching_manifests<'d>(
    dirs: impl Iterator<Item = &'d str>,
    manifest: &Manifest,
) -> BTreeSet<String> {
    matching(dirs, manifest).into_iter().map(|dir| format!("{dir}/package.json")).collect()
}

/// Those of some directories that are workspaces.
pub(super) fn matching<'d>(
    dirs: impl Iterator<Item = &'d str>,
    manifest: &Manifest,
) -> BTreeSet<&'d str> {
    let dirs: Vec<&str> = dirs.collect();
    let mut found = BTreeSet::new();
    for pattern in manifest.workspace_patterns() {
        let (pattern, drops) = match pattern.strip_prefix('!') {
            Some(pattern) => (pattern, true),
            None => (pattern, false),
        };
        let pattern = pattern.trim_start_matches("./").trim_end_matches('/');
        let glob = globset::GlobBuilder::new(pattern).literal_separator(true).build();
        let Ok(glob) = glob.map(|glob| glob.compile_matcher()) else { continue };
        for dir in dirs.iter().filter(|dir| glob.is_match(dir)) {
            match drops {
                true => drop(found.remove(dir)),
                false => drop(found.insert(*dir)),
            }
        }
    }
    found
}

/// Directories below one, but for those that packages are installed in.
fn list(root: &Path, at: &str, depth: usize, found: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(root.join(at)) else { return };
    for entry in entries.flatten().filter(|_| depth > 0) {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if !is_dir || name == "node_modules" || name.starts_with('.') {
            continue;
        }
        let path = if at.is_empty() { name } else { format!("{at}/{name}") };
        list(root, &path, depth - 1, found);
        found.push(path);
    }
}

/// Paths that a project depends on, below its own directory.
pub fn local_dependencies(manifest: &Manifest) -> BTreeSet<String> {
    let kinds =
        [&manifest.dependencies, &manifest.dev_dependencies, &manifest.optional_dependencies];
    let specs = kinds.into_iter().flat_map(|specs| specs.values());
    let local = |spec: &String| {
        let bare = spec.strip_prefix("file:").map(str::to_owned);
        let path = bare.or_else(|| (spec.starts_with("./")).then(|| spec.clone()))?;
        let path = path.trim_start_matches("./").trim_end_matches('/').to_owned();
        let leaves = path.starts_with('/') || path.split('/').any(|part| part == "..");
        (!leaves && !path.is_empty()).then_some(path)
    };
    specs.filter_map(local).collect()
}
