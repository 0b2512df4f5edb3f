//! The direction of imports, and what the library must not do: held by reading the source.

use std::fs;
use std::path::{Path, PathBuf};

/// Modules of the library, top to bottom; those of one row do not see each other, except where a
/// row lists an order of its own with `>`.
const ROWS: &[&[&str]] = &[
    &["launch", "registry", "report"],
    &["build", "image"],
    &["plan"],
    &["lock"],
    &["debian", "npm", "python", "git", "oci"],
    &["fetch"],
    &["decl"],
    &["store"],
    &["jail"],
    &["blame", "digest", "entry", "fsx", "name", "path", "platform", "tarball"],
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn library() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&root, &mut found);
    let binary = ["main", "commands", "failure", "ui", "workspace"];
    found
        .into_iter()
        .filter_map(|path| {
            let relative = path.strip_prefix(&root).unwrap();
            let module = relative.components().next().unwrap().as_os_str().to_string_lossy();
            let module = module.trim_end_matches(".rs").to_owned();
            let text = fs::read_to_string(&path).unwrap();
            (!binary.contains(&module.as_str()) && module != "lib").then_some((module, path, text))
        })
        .collect()
}

fn row(module: &str) -> usize {
    ROWS.iter()
        .position(|row| row.contains(&module))
        .unwrap_or_else(|| panic!("module `{module}` has no row"))
}

#[test]
fn imports_run_from_the_top_of_the_pipeline_to_its_bottom() {
    let mut wrong = Vec::new();
    for (module, path, text) in library() {
        for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for (at, _) in line.match_indices("crate::") {
                let other: String = line[at + 7..]
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                if other != module && row(&other) < row(&module) {
                    wrong.push(format!("{}: `{module}` imports `{other}`", path.display()));
                }
                let same_row = other != module && row(&other) == row(&module);
                if same_row && ["decl", "store"].contains(&other.as_str()) {
                    wrong.push(format!(
                        "{}: `{module}` and `{other}` see each other",
                        path.display()
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn facts_do_not_see_each_other() {
    for (module, path, text) in library() {
        let other = match module.as_str() {
            "decl" => "crate::store",
            "store" => "crate::decl",
            _ => continue,
        };
        assert!(!text.contains(other), "{} imports {other}", path.display());
    }
}

#[test]
fn the_library_neither_prints_nor_reads_the_environment() {
    // a build sandbox's child is a program of its own
    let child = ["jail/child.rs", "jail/mod.rs", "jail/userns.rs", "jail/filter.rs"];
    for (_, path, text) in library() {
        if child.iter().any(|name| path.ends_with(name)) {
            continue;
        }
        let production = text.split("#[cfg(test)]").next().unwrap();
        for word in ["println!", "eprintln!", "print!(", "std::env::", "SystemTime::now"] {
            assert!(!production.contains(word), "{} has `{word}`", path.display());
        }
    }
}

#[test]
fn only_one_file_names_the_public_archives() {
    let hosts = [
        ["deb.debian", "org"],
        ["registry.npmjs", "org"],
        ["pypi", "org"],
        ["snapshot.debian", "org"],
    ];
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for dir in ["src", "tests", "docs", "layers", ".ci"] {
        if root.join(dir).is_dir() {
            all_files(&root.join(dir), &mut found);
        }
    }
    found.extend(
        ["README.md", "CHANGELOG.md", "sandboxes.kdl", "sbx.lock"].map(|name| root.join(name)),
    );
    for path in found.into_iter().filter(|path| !path.ends_with("src/fetch/defaults.rs")) {
        let bytes = fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        for host in hosts.map(|parts| parts.join(".")) {
            assert!(!text.contains(&host), "{} names {host}", path.display());
        }
    }
}

fn all_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { all_files(&path, found) } else { found.push(path) }
    }
}

#[test]
fn files_stay_readable() {
    for (_, path, text) in library() {
        let lines = text.lines().count();
        assert!(lines <= 600, "{} has {lines} lines", path.display());
    }
}
