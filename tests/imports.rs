//! The direction of imports, and what modules must not do: held by reading the source.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Modules of the library, top to bottom; each imports from below its own row only, or from its own.
const ROWS: &[&[&str]] = &[
    &["contract", "launch", "registry", "report", "ship", "vendor"],
    &["build", "image"],
    &["plan"],
    &["lock"],
    &["serve"],
    &["debian", "npm", "python", "git", "oci"],
    &["fetch"],
    &["decl", "store"],
    &["jail"],
    &[
        "blame",
        "digest",
        "engine",
        "entry",
        "fsx",
        "media",
        "name",
        "path",
        "plain",
        "platform",
        "reference",
        "tarball",
        "zipfile",
    ],
];

/// The binary, top to bottom. `main` knows all of it, and nothing knows `main`.
const BINARY: &[&[&str]] = &[&["main"], &["commands"], &["workspace"], &["ui"], &["failure"]];

/// Modules of one row that never see each other.
const STRANGERS: [(&str, &str); 2] = [("decl", "store"), ("store", "decl")];

/// A file of the source, without its tests.
struct Source {
    /// Below `src/`.
    path: String,
    module: String,
    /// Without comments and unit tests.
    code: String,
    lines: usize,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    list(&root().join("src"), &mut paths);
    paths.sort();
    let sources: Vec<Source> = paths.iter().filter_map(|path| read(path)).collect();
    assert!(sources.len() > 50, "the source was found");
    sources
}

fn list(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            list(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// `None` for unit tests in a file of their own.
fn read(path: &Path) -> Option<Source> {
    if path.ends_with("tests.rs") {
        return None;
    }
    let text = fs::read_to_string(path).unwrap();
    let production = text.split("#[cfg(test)]").next().unwrap_or_default();
    let code = production.lines().filter(|line| !line.trim_start().starts_with("//"));
    let path = path.strip_prefix(root().join("src")).unwrap().to_str().unwrap().to_owned();
    Some(Source {
        module: path.split('/').next().unwrap().trim_end_matches(".rs").to_owned(),
        code: code.map(|line| format!("{line}\n")).collect(),
        lines: text.lines().count(),
        path,
    })
}

fn is_binary(source: &Source) -> bool {
    BINARY.concat().contains(&&*source.module)
}

fn library() -> impl Iterator<Item = Source> {
    sources().into_iter().filter(|source| !is_binary(source) && source.module != "lib")
}

fn row(rows: &[&[&str]], module: &str) -> usize {
    rows.iter()
        .position(|row| row.contains(&module))
        .unwrap_or_else(|| panic!("module `{module}` has no row"))
}

/// Modules that follow `crate::` in code, those of `use crate::{a, b::c}` included.
fn imports(code: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let mut found = Vec::new();
    for (at, matched) in code.match_indices("crate::") {
        let rest = &code[at + matched.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.push(name(rest));
            continue;
        };
        let mut depth = 0;
        let mut start = 0;
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => {
                    found.push(name(&group[start..at]));
                    break;
                }
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    found.push(name(&group[start..at]));
                    start = at + 1;
                }
                _ => {}
            }
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

/// Imports that go up.
fn upward(rows: &[&[&str]], sources: impl Iterator<Item = Source>) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in sources {
        let own = row(rows, &source.module);
        for other in imports(&source.code) {
            let strangers = STRANGERS.contains(&(&source.module, &other));
            if strangers || row(rows, &other) < own {
                wrong.push(format!("{}: `{}` imports `{other}`", source.path, source.module));
            }
        }
    }
    wrong
}

#[test]
fn groups_of_imports_are_read_too() {
    let code = "use crate::blame::Blame;\nuse crate::{\n    store::{self, Key}, lock,\n};";
    assert_eq!(imports(code), ["blame", "store", "lock"]);
}

#[test]
fn imports_run_from_the_top_of_the_pipeline_to_its_bottom() {
    let wrong = upward(ROWS, library());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_binary_runs_one_way_too() {
    let wrong = upward(BINARY, sources().into_iter().filter(is_binary));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Files that have one of these words and are none of those that may.
fn offenders(sources: impl Iterator<Item = Source>, words: &[&str], may: &[&str]) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in sources.filter(|source| !may.contains(&&*source.path)) {
        for word in words.iter().filter(|word| source.code.contains(*word)) {
            wrong.push(format!("{} has `{word}`", source.path));
        }
    }
    wrong
}

const PRINTING: &[&str] = &["println!", "print!(", "dbg!(", "io::stdout", "io::stderr"];
const READING: &[&str] =
    &["std::env::", "env::var", "SystemTime::now", "Timestamp::now", "etcetera"];

#[test]
fn the_library_neither_prints_nor_reads_the_environment_or_the_clock() {
    // what runs inside a build sandbox is a program of its own
    let child = [
        "jail/child.rs",
        "jail/instance/enter.rs",
        "jail/mod.rs",
        "jail/program.rs",
        "jail/userns.rs",
        "launch/keeper.rs",
    ];
    let wrong = offenders(library(), &[PRINTING, READING].concat(), &child);
    // which architecture this program was compiled for is no part of its surroundings
    let compiled = ["jail/filter.rs", "jail/instance/profile.rs"];
    let compiled = compiled.map(|file| format!("{file} has `std::env::`"));
    let wrong: Vec<_> = wrong.into_iter().filter(|line| !compiled.contains(line)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn one_file_prints_and_one_reads_the_environment() {
    let binary = || sources().into_iter().filter(is_binary);
    let mut wrong = offenders(binary(), PRINTING, &["ui.rs"]);
    // these two look for programs: their own, and others of its name
    let may = ["workspace.rs", "commands/clean.rs", "commands/doctor.rs"];
    wrong.extend(offenders(binary(), READING, &may));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_one_file_names_the_public_archives() {
    let hosts = [
        ["deb.debian", "org"],
        ["security.debian", "org"],
        ["ftp.debian", "org"],
        ["snapshot.debian", "org"],
        ["archive.ubuntu", "com"],
        ["registry.npmjs", "org"],
        ["pypi", "org"],
        ["files.pythonhosted", "org"],
        ["registry-1.docker", "io"],
        ["index.docker", "io"],
    ]
    .map(|parts| parts.join("."));
    let output = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output().unwrap();
    let names = String::from_utf8(output.stdout).unwrap();
    let files: Vec<&str> = names.split('\0').filter(|name| !name.is_empty()).collect();
    assert!(files.contains(&"src/lib.rs"), "git lists what is tracked");
    for file in files.into_iter().filter(|file| *file != "src/fetch/defaults.rs") {
        // a file that is being removed is still tracked
        let Ok(bytes) = fs::read(root().join(file)) else { continue };
        let text = String::from_utf8_lossy(&bytes);
        let named = hosts.iter().find(|host| text.contains(*host));
        assert_eq!(named, None, "{file} names a public archive");
    }
}

#[test]
fn files_stay_readable() {
    for source in sources() {
        assert!(source.lines <= 600, "{} has {} lines", source.path, source.lines);
    }
}
