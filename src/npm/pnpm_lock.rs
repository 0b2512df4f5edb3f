//! `pnpm-lock.yaml`, of versions 6 and 9: which packages a project's directories get, and what they are.
//!
//! Where each of them is laid is pnpm's own business, which installs them itself; what is read here is
//! what it will ask for, so that all of it is pinned and nothing else is.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use super::manifest::{Manifest, Specs};
use crate::blame::Blame;

/// The form of a lock, which says what writes and reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PnpmForm {
    /// Of pnpm 8.
    Six,
    /// Of pnpm 9 and later.
    Nine,
}

impl PnpmForm {
    /// The first numbers of the versions of pnpm that read it, the one to be preferred first. From the
    /// twelfth on, pnpm is a program of its own for each machine.
    pub const fn readers(self) -> &'static [u64] {
        match self {
            PnpmForm::Six => &[8],
            PnpmForm::Nine => &[10, 9, 11],
        }
    }
}

impl std::fmt::Display for PnpmForm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            PnpmForm::Six => "6",
            PnpmForm::Nine => "9",
        })
    }
}

/// A lock of pnpm's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PnpmLock {
    pub form: PnpmForm,
    /// Directories that get packages, by path; the project's own is `.`.
    pub importers: BTreeMap<String, Importer>,
    /// By what the lock calls them: name, version, and the peers that they were given.
    pub packages: BTreeMap<String, PnpmPackage>,
    auto_peers: bool,
    overridden: BTreeSet<String>,
}

/// A directory that gets packages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Importer {
    dependencies: BTreeMap<String, Wanted>,
    dev_dependencies: BTreeMap<String, Wanted>,
    optional_dependencies: BTreeMap<String, Wanted>,
}

/// What is asked, and what it came to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Wanted {
    specifier: String,
    version: String,
}

/// Of `packages` of a lock, and of `snapshots` where it has some.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PnpmPackage {
    pub name: Option<String>,
    pub version: Option<String>,
    pub resolution: Resolution,
    pub os: Value,
    pub cpu: Value,
    pub libc: Value,
    pub optional: bool,
    pub requires_build: bool,
    pub dependencies: Specs,
    pub optional_dependencies: Specs,
}

/// Where a package's bytes are, and which they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Resolution {
    pub integrity: Option<String>,
    pub tarball: Option<String>,
    /// `directory`, `git`, and others that are no package of a registry.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub repo: Option<String>,
    pub git_hosted: bool,
}

/// A lock of pnpm's that cannot be installed.
#[derive(Debug, thiserror::Error)]
pub enum PnpmFault {
    #[error("{0}")]
    Yaml(String),
    #[error("it has an unresolved merge conflict")]
    Conflict,
    #[error("it is of version {found}; versions 6 and 9 can be installed")]
    Version { found: String },
    #[error("it is damaged: it has no `lockfileVersion`")]
    Empty,
    #[error("`{package}` {reason}")]
    Entry { package: String, reason: String },
    #[error(
        "`{package}` comes from git (`{from}`), which needs a `git` recipe: declare it there and depend on it by `file:`"
    )]
    Git { package: String, from: String },
    #[error("`{name}`: {at} asks for {}, the lock was made for {}", said(manifest), said(lock))]
    Disagree { at: String, name: String, manifest: Option<String>, lock: Option<String> },
    #[error("`{at}` is not in the lock")]
    Missing { at: String },
}

fn said(spec: &Option<String>) -> String {
    spec.as_ref().map_or("nothing of it".to_owned(), |spec| format!("`{spec}`"))
}

impl PnpmFault {
    pub fn blame(&self) -> Blame {
        Blame::Input
    }

    pub fn help(&self) -> Option<String> {
        match self {
            PnpmFault::Git { .. } | PnpmFault::Entry { .. } => None,
            PnpmFault::Version { .. } => {
                Some("make it anew with pnpm 8 or later: `pnpm install --lockfile-only`".to_owned())
            }
            _ => Some("bring it up to date: `pnpm install --lockfile-only`".to_owned()),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    settings: Settings,
    #[serde(default)]
    overrides: Specs,
    importers: Option<BTreeMap<String, Importer>>,
    /// Of a lock for one directory.
    #[serde(flatten)]
    only: Importer,
    #[serde(default)]
    packages: BTreeMap<String, PnpmPackage>,
    #[serde(default)]
    snapshots: BTreeMap<String, PnpmPackage>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Settings {
    auto_install_peers: bool,
}

/// The version alone, of a lock of whatever form.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    lockfile_version: Option<Value>,
}

/// A lock of thousands of packages is within these bounds, and an endless one is not.
pub(super) fn yaml<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, PnpmFault> {
    let mut budget = serde_saphyr::Budget::default();
    budget.max_events = 16_000_000;
    budget.max_nodes = 4_000_000;
    let options = serde_saphyr::options! { budget: Some(budget) };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let place = error.location().map(|at| format!("line {}: ", at.line()));
        let text = error.without_snippet().to_string();
        let reason = text.lines().next().unwrap_or_default();
        PnpmFault::Yaml(format!("{}it is damaged: {reason}", place.unwrap_or_default()))
    })
}

impl PnpmLock {
    pub fn parse(text: &str) -> Result<Self, PnpmFault> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if text.lines().any(|line| line.starts_with("<<<<<<<")) {
            return Err(PnpmFault::Conflict);
        }
        let form = form(&yaml::<Head>(text)?)?;
        let mut document: Document = yaml(text)?;
        let packages = match form {
            PnpmForm::Six => document.packages,
            PnpmForm::Nine => join(&document.packages, document.snapshots)?,
        };
        let only = std::mem::take(&mut document.only);
        let importers =
            document.importers.unwrap_or_else(|| BTreeMap::from([(".".to_owned(), only)]));
        let lock = PnpmLock {
            form,
            importers,
            packages,
            auto_peers: document.settings.auto_install_peers,
            overridden: document.overrides.keys().map(|key| overridden(key)).collect(),
        };
        if let Some(odd) = lock.importers.keys().find(|at| leads_out(at)) {
            let reason = "lies outside of the project".to_owned();
            return Err(PnpmFault::Entry { package: odd.clone(), reason });
        }
        Ok(lock)
    }

    /// What the lock calls the package that a dependency is; `None` for a directory.
    pub(super) fn find(&self, alias: &str, version: &str) -> Option<(&str, &PnpmPackage)> {
        let own = match self.form {
            PnpmForm::Six => format!("/{alias}@{version}"),
            PnpmForm::Nine => format!("{alias}@{version}"),
        };
        let found =
            self.packages.get_key_value(&own).or_else(|| self.packages.get_key_value(version));
        found.map(|(key, package)| (key.as_str(), package))
    }

    /// Dependencies of a directory: name in its `node_modules`, and what it came to.
    pub(super) fn roots(
        importer: &Importer,
        dev: bool,
        optional: bool,
    ) -> impl Iterator<Item = (&str, &str)> {
        let kinds = [
            Some(&importer.dependencies),
            Some(&importer.dev_dependencies).filter(|_| dev),
            Some(&importer.optional_dependencies).filter(|_| optional),
        ];
        let all = kinds.into_iter().flatten().flatten();
        all.map(|(alias, wanted)| (alias.as_str(), wanted.version.as_str()))
    }

    /// Holds a `package.json` against what the lock was made for; `at` is its directory, `.` for the
    /// project's own.
    pub fn agree(&self, at: &str, manifest: &Manifest) -> Result<(), PnpmFault> {
        let Some(importer) = self.importers.get(at) else {
            return Err(PnpmFault::Missing { at: at.to_owned() });
        };
        let mut asked = Specs::new();
        if self.auto_peers {
            let needed = |(name, _): &(&String, &String)| !manifest.is_optional_peer(name);
            let peers = manifest.peer_dependencies.iter().filter(needed);
            asked.extend(peers.map(|(name, spec)| (name.clone(), spec.clone())));
        }
        // of a name that stands in several places, pnpm takes the kind that is needed most
        for specs in
            [&manifest.dev_dependencies, &manifest.dependencies, &manifest.optional_dependencies]
        {
            asked.extend(specs.iter().map(|(name, spec)| (name.clone(), spec.clone())));
        }
        let kinds =
            [&importer.dependencies, &importer.dev_dependencies, &importer.optional_dependencies];
        let locked: Specs = kinds
            .into_iter()
            .flatten()
            .map(|(name, wanted)| (name.clone(), wanted.specifier.clone()))
            .collect();
        let mut names = asked.keys().chain(locked.keys());
        let differs = |name: &&String| {
            let (one, two) = (asked.get(*name), locked.get(*name));
            // an override changes what is asked, and a link to outside may be left out of a lock
            let excused = self.overridden.contains(*name)
                || two.is_none() && one.is_some_and(|spec| spec.starts_with("link:"));
            one.map(|spec| spec.trim()) != two.map(|spec| spec.trim()) && !excused
        };
        match names.find(differs) {
            None => Ok(()),
            Some(name) => Err(PnpmFault::Disagree {
                at: if at == "." {
                    "package.json".to_owned()
                } else {
                    format!("{at}/package.json")
                },
                name: name.clone(),
                manifest: asked.get(name).cloned(),
                lock: locked.get(name).cloned(),
            }),
        }
    }
}

fn form(head: &Head) -> Result<PnpmForm, PnpmFault> {
    let found = match &head.lockfile_version {
        None | Some(Value::Null) => return Err(PnpmFault::Empty),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    match found.split('.').next() {
        Some("6") => Ok(PnpmForm::Six),
        Some("9") => Ok(PnpmForm::Nine),
        _ => Err(PnpmFault::Version { found }),
    }
}

/// Snapshots, with what `packages` says of the package that each of them is.
fn join(
    packages: &BTreeMap<String, PnpmPackage>,
    snapshots: BTreeMap<String, PnpmPackage>,
) -> Result<BTreeMap<String, PnpmPackage>, PnpmFault> {
    let whole = |(key, snapshot): (String, PnpmPackage)| {
        let Some(package) = packages.get(without_peers(&key)) else {
            let reason = "is not in `packages` of the lock".to_owned();
            return Err(PnpmFault::Entry { package: key, reason });
        };
        let PnpmPackage { optional, dependencies, optional_dependencies, .. } = snapshot;
        let joined =
            PnpmPackage { optional, dependencies, optional_dependencies, ..package.clone() };
        Ok((key, joined))
    };
    snapshots.into_iter().map(whole).collect()
}

/// `a@1.0.0(b@2.0.0)` → `a@1.0.0`.
pub(super) fn without_peers(key: &str) -> &str {
    key.split('(').next().unwrap_or(key)
}

/// The name at the end of `a@1>b@2`.
fn overridden(key: &str) -> String {
    let last = key.rsplit('>').next().unwrap_or(key).trim();
    let end = last.get(1..).and_then(|rest| rest.find('@')).map_or(last.len(), |at| at + 1);
    last[..end].to_owned()
}

fn leads_out(path: &str) -> bool {
    path.starts_with('/') || path.split('/').any(|part| part == "..")
}

/// Files beside a lock of pnpm's that an installation by it reads: what its directories say of
/// themselves, patches, tarballs of the project. Of a lock that is damaged, what can be told. It is
/// asked of every build, so the text is looked at line by line.
pub fn pnpm_files(text: &str) -> BTreeSet<String> {
    let mut files = BTreeSet::new();
    let mut section = "";
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let bare = line.trim();
        if !line.starts_with(' ') {
            section = bare.trim_end_matches(':');
        } else if section == "importers" && line.starts_with("  ") && !line.starts_with("   ") {
            let dir = unquoted(bare.trim_end_matches(" {}").trim_end_matches(':'));
            files.extend((dir != ".").then(|| format!("{dir}/package.json")));
        } else if let Some(path) = bare.strip_prefix("path: ") {
            files.extend((section == "patchedDependencies").then(|| unquoted(path).to_owned()));
        } else if let Some((_, rest)) = bare.split_once("tarball: ") {
            let value = rest.split([',', '}']).next().unwrap_or_default();
            files.extend(unquoted(value.trim()).strip_prefix("file:").map(str::to_owned));
        }
    }
    files.retain(|path| !leads_out(path));
    files
}

fn unquoted(text: &str) -> &str {
    text.trim_matches(['\'', '"'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_names_the_files_that_are_read_with_it() {
        let text = "importers:\n\n  .:\n    dependencies: {}\n\n  packages/a: {}\n\n  'tools/b':\n    dependencies:\n      x:\n        version: 1\n\n  ../out: {}\n\n\
            patchedDependencies:\n  is-odd@3.0.1:\n    hash: abc\n    path: patches/is-odd.patch\n\npackages:\n\n  p@file:v/p.tgz:\n    resolution: {integrity: sha512-x, tarball: file:v/p.tgz}\n";
        let found: Vec<String> = pnpm_files(text).into_iter().collect();
        let expected =
            ["packages/a/package.json", "patches/is-odd.patch", "tools/b/package.json", "v/p.tgz"];
        assert_eq!(found, expected);
    }

    #[test]
    fn an_override_is_of_the_name_at_its_end() {
        for (key, name) in [("a", "a"), ("a@1", "a"), ("b@2>@s/a@3", "@s/a"), ("@s/a", "@s/a")] {
            assert_eq!(overridden(key), name);
        }
    }

    #[test]
    fn versions_say_which_pnpm_reads_a_lock() {
        let form = |text: &str| PnpmLock::parse(text).map(|lock| lock.form);
        assert_eq!(form("lockfileVersion: '6.0'\n").unwrap(), PnpmForm::Six);
        assert_eq!(form("lockfileVersion: '9.0'\n").unwrap(), PnpmForm::Nine);
        for other in ["lockfileVersion: 5.4\n", "lockfileVersion: '10.0'\n"] {
            assert!(matches!(form(other), Err(PnpmFault::Version { .. })), "{other}");
        }
        let endless = format!("lockfileVersion: '9.0'\na: {}", "[".repeat(100_000));
        assert!(matches!(form(&endless), Err(PnpmFault::Yaml(_))));
    }
}
