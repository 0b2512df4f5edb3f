//! `package-lock.json` and `npm-shrinkwrap.json`, of versions 2 and 3: what is installed where.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use super::manifest::{Manifest, Specs};
use crate::blame::Blame;

/// An entry: a package at its place, a directory of the project, or a link to one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Locked {
    #[serde(flatten)]
    pub manifest: Manifest,
    /// Where its bytes were found; of a link, where it leads.
    pub resolved: Option<String>,
    pub integrity: Option<String>,
    pub link: bool,
    pub dev: bool,
    pub optional: bool,
    /// Needed by optional and by development dependencies, and by nothing else.
    pub dev_optional: bool,
    pub peer: bool,
    /// Part of another one's tarball.
    pub in_bundle: bool,
    pub extraneous: bool,
    pub has_install_script: bool,
    pub os: Value,
    pub cpu: Value,
    pub libc: Value,
}

/// A lock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackageLock {
    /// By place below the project's directory; the project itself at the empty one.
    pub packages: BTreeMap<String, Locked>,
    /// Lines of the text by place.
    lines: BTreeMap<String, usize>,
}

/// A lock that cannot be installed.
#[derive(Debug, thiserror::Error)]
pub enum LockFault {
    #[error("line {line}: {reason}")]
    Json { line: usize, reason: String },
    #[error("it is of version {found}, which does not say what is installed where")]
    Old { found: u64 },
    #[error("it is of the unknown version {found}")]
    Version { found: String },
    #[error("it is damaged: it has no `packages`")]
    Empty,
    #[error("line {line}: `{place}` {reason}")]
    Entry { line: usize, place: String, reason: String },
    #[error("line {line}: `{place}` comes from git (`{from}`), which {reason}")]
    Git { line: usize, place: String, from: String, reason: String },
    #[error("line {line}: `{place}` is for {wants} only, and is not optional")]
    Platform { line: usize, place: String, wants: String },
    #[error("`{name}`: {} asks for {}, the lock was made for {}", at, said(manifest), said(lock))]
    Disagree { at: String, name: String, manifest: Option<String>, lock: Option<String> },
    #[error("`scripts` names `{name}`, which {reason}")]
    Script { name: String, reason: String },
    #[error("`unprepared` names `{name}`, which is no package from git")]
    Unprepared { name: String },
}

fn said(spec: &Option<String>) -> String {
    spec.as_ref().map_or("nothing of it".to_owned(), |spec| format!("`{spec}`"))
}

impl LockFault {
    pub fn blame(&self) -> Blame {
        Blame::Input
    }

    pub fn help(&self) -> Option<String> {
        match self {
            LockFault::Old { .. } => Some(
                "make it anew with npm 7 or later: `npm install --package-lock-only`".to_owned(),
            ),
            LockFault::Disagree { .. } | LockFault::Empty | LockFault::Json { .. } => {
                Some("bring it up to date: `npm install --package-lock-only`".to_owned())
            }
            LockFault::Git { .. } => Some(
                "keys and credential helpers are git's own configuration: write its plain address, and bring the lock up to date"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    lockfile_version: Option<Value>,
    packages: Option<BTreeMap<String, Locked>>,
}

impl PackageLock {
    pub fn parse(text: &str) -> Result<Self, LockFault> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let document: Document = serde_json::from_str(text).map_err(|error| LockFault::Json {
            line: error.line(),
            reason: match text.contains("<<<<<<<") {
                true => "it has an unresolved merge conflict".to_owned(),
                false => format!("it is damaged: {error}"),
            },
        })?;
        match document.lockfile_version.as_ref().map(Value::as_u64) {
            Some(Some(2 | 3)) => {}
            None => return Err(LockFault::Old { found: 1 }),
            Some(Some(found @ ..2)) => return Err(LockFault::Old { found }),
            Some(_) => {
                let found = document.lockfile_version.unwrap_or_default().to_string();
                return Err(LockFault::Version { found });
            }
        }
        let packages = document.packages.filter(|packages| packages.contains_key(""));
        let packages = packages.ok_or(LockFault::Empty)?;
        let lock = PackageLock { lines: find_lines(text), packages };
        lock.check()?;
        Ok(lock)
    }

    /// The line that an entry begins at.
    pub(super) fn line(&self, place: &str) -> usize {
        self.lines.get(place).copied().unwrap_or(1)
    }

    pub(super) fn fault(&self, place: &str, reason: impl Into<String>) -> LockFault {
        let (line, place) = (self.line(place), place.to_owned());
        LockFault::Entry { line, place, reason: reason.into() }
    }

    pub fn root(&self) -> &Manifest {
        &self.packages[""].manifest
    }

    /// Places are paths below the project, and links lead to directories that are listed.
    fn check(&self) -> Result<(), LockFault> {
        for (place, locked) in &self.packages {
            let odd = |part: &str| matches!(part, "" | "." | "..") || part.contains(['\\', '\0']);
            if !place.is_empty() && place.split('/').any(odd) {
                let reason = match place.split('/').any(|part| part == "..") {
                    true => "lies outside of the project",
                    false => "is no path of a package",
                };
                return Err(self.fault(place, reason));
            }
            if locked.link {
                let target = locked.resolved.as_deref().unwrap_or_default();
                let known = self.packages.get(target).is_some_and(|target| !target.link);
                if target.is_empty() || !known {
                    let reason = format!("is a link to `{target}`, which the lock does not have");
                    return Err(self.fault(place, reason));
                }
            }
        }
        Ok(())
    }

    /// The package that another one at `from` gets when it asks for `name`, links followed.
    pub(super) fn resolve(&self, from: &str, name: &str) -> Option<&str> {
        let mut dir = Some(from);
        while let Some(at) = dir {
            let is_modules = at == "node_modules" || at.ends_with("/node_modules");
            if !is_modules {
                let place = if at.is_empty() { String::new() } else { format!("{at}/") };
                let found = self.packages.get_key_value(&format!("{place}node_modules/{name}"));
                if let Some((place, locked)) = found {
                    return Some(match locked.link {
                        true => locked.resolved.as_deref().unwrap_or(place),
                        false => place,
                    });
                }
            }
            dir = (!at.is_empty()).then(|| at.rsplit_once('/').map_or("", |(above, _)| above));
        }
        None
    }

    /// Holds a `package.json` against what the lock was made for. `at` says whose it is, and is the
    /// place of its entry.
    pub fn agree(&self, at: &str, manifest: &Manifest) -> Result<(), LockFault> {
        let Some(locked) = self.packages.get(at).map(|locked| &locked.manifest) else {
            return Err(self.fault(at, "is not in the lock"));
        };
        let pairs = [
            (manifest.required(), locked.required()),
            (manifest.optional_dependencies.clone(), locked.optional_dependencies.clone()),
            (manifest.dev_dependencies.clone(), locked.dev_dependencies.clone()),
            (manifest.peer_dependencies.clone(), locked.peer_dependencies.clone()),
        ];
        for (manifest, lock) in &pairs {
            if let Some(name) = differing(manifest, lock) {
                let at = if at.is_empty() { "package.json" } else { at };
                return Err(LockFault::Disagree {
                    at: at.to_owned(),
                    manifest: manifest.get(&name).cloned(),
                    lock: lock.get(&name).cloned(),
                    name,
                });
            }
        }
        Ok(())
    }
}

/// What an entry says of a link.
#[derive(Deserialize)]
struct Linked {
    #[serde(default)]
    link: bool,
    resolved: Option<String>,
}

#[derive(Deserialize)]
struct Links {
    #[serde(default)]
    packages: BTreeMap<String, Linked>,
}

/// Directories of the project that a lock links to, sorted; of one that is damaged, none.
pub fn link_targets(text: &str) -> BTreeSet<String> {
    // most have none, and this is asked of every build
    if !text.contains("\"link\"") {
        return BTreeSet::new();
    }
    let links = serde_json::from_str::<Links>(text).map(|links| links.packages);
    let linked = links.unwrap_or_default().into_values().filter(|linked| linked.link);
    linked.filter_map(|linked| linked.resolved).filter(|target| !leads_out(target)).collect()
}

fn leads_out(path: &str) -> bool {
    path.starts_with('/') || path.split('/').any(|part| part == "..")
}

fn differing(one: &Specs, two: &Specs) -> Option<String> {
    // nothing and anything are the same
    let usual = |spec: Option<&String>| {
        spec.map(|spec| if spec.is_empty() { "*" } else { spec.trim() }.to_owned())
    };
    let mut names = one.keys().chain(two.keys());
    names.find(|name| usual(one.get(*name)) != usual(two.get(*name))).cloned()
}

/// Lines of entries: whoever wrote the lock put each on one of its own.
fn find_lines(text: &str) -> BTreeMap<String, usize> {
    let key = |(at, line): (usize, &str)| {
        let name = line.trim_start().strip_prefix('"')?.split_once("\": {")?.0;
        name.contains('/').then(|| (name.to_owned(), at + 1))
    };
    let mut lines = BTreeMap::new();
    for (name, line) in text.lines().enumerate().filter_map(key) {
        lines.entry(name).or_insert(line);
    }
    lines
}
