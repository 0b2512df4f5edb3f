//! `pylock.toml` (PEP 751): what `uv` answers, and what a project may bring itself.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::interpreter::Interpreter;
use super::marker::{MarkerError, Selection};
use super::name::{ProjectName, WheelName};
use super::version::Version;
use crate::blame::Blame;
use crate::digest::Digest;

/// Why a lock of Python's cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PylockError {
    #[error("it is no pylock.toml: {0}")]
    Syntax(String),
    #[error("its format is {0}, expected 1.x")]
    Format(String),
    #[error("it is for Python {wanted}, the image has {found}")]
    Python { wanted: String, found: String },
    #[error("package `{0}`: it has no sound name")]
    Name(String),
    #[error("package `{package}`: {source}")]
    Marker { package: String, source: MarkerError },
    #[error("package `{package}` {version} has a source archive only, no wheel")]
    SourceOnly { package: String, version: String },
    #[error("package `{package}` comes from {from}, not as a wheel")]
    NoWheel { package: String, from: &'static str },
    #[error("package `{package}` {version} has no wheel for {interpreter}: there {}", are(wheels))]
    Unfit { package: String, version: String, interpreter: String, wheels: Vec<String> },
    #[error("package `{package}`: wheel `{wheel}` has no sha256")]
    NoHash { package: String, wheel: String },
    #[error("package `{package}` is listed twice for one environment, at {one} and {two}")]
    Twice { package: String, one: String, two: String },
}

fn are(wheels: &[String]) -> String {
    let verb = if wheels.len() == 1 { "is" } else { "are" };
    let names: Vec<String> = wheels.iter().take(6).map(|name| format!("`{name}`")).collect();
    let more = wheels.len().saturating_sub(6);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{verb} {}{rest}", names.join(", "))
}

impl PylockError {
    pub fn blame(&self) -> Blame {
        Blame::Input
    }

    /// The next step.
    pub fn help(&self) -> Option<String> {
        match self {
            PylockError::SourceOnly { package, .. } | PylockError::NoWheel { package, .. } => {
                Some(format!(
                    "sbx installs wheels only: take a version of `{package}` that has one, or build it \
                     in a `run` of a layer with `ship=#false` and take the files from there"
                ))
            }
            PylockError::Unfit { package, .. } => Some(format!(
                "take another version of `{package}`, or another Python below the layer"
            )),
            _ => None,
        }
    }
}

/// A lock of Python's.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Pylock {
    lock_version: String,
    requires_python: Option<String>,
    #[serde(default)]
    extras: Vec<String>,
    #[serde(default)]
    default_groups: Vec<String>,
    #[serde(default)]
    packages: Vec<Package>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Package {
    name: String,
    version: Option<String>,
    marker: Option<String>,
    requires_python: Option<String>,
    #[serde(default)]
    wheels: Vec<File>,
    sdist: Option<toml::Table>,
    vcs: Option<toml::Table>,
    directory: Option<toml::Table>,
    archive: Option<File>,
}

#[derive(Clone, Debug, Deserialize)]
struct File {
    name: Option<String>,
    url: Option<String>,
    path: Option<String>,
    size: Option<u64>,
    #[serde(default)]
    hashes: BTreeMap<String, String>,
}

/// A wheel that was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    pub project: ProjectName,
    pub version: String,
    pub file_name: String,
    pub size: Option<u64>,
    pub digest: Digest,
    /// Where the lock says that it is.
    pub url: Option<String>,
}

impl File {
    fn file_name(&self) -> Option<String> {
        let path = || self.url.as_ref().or(self.path.as_ref());
        let last = || {
            let path = path()?.split(['?', '#']).next()?;
            path.rsplit('/').next().map(decode)
        };
        self.name.clone().or_else(last)
    }
}

/// `%2B` → `+`, as names of local versions stand in addresses.
fn decode(text: &str) -> String {
    let mut parts = text.split('%');
    let mut decoded = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(u8::is_ascii) {
            Some(code) => {
                decoded.push(char::from(code));
                decoded.push_str(&part[2..]);
            }
            None => {
                decoded.push('%');
                decoded.push_str(part);
            }
        }
    }
    decoded
}

impl Pylock {
    pub fn parse(text: &str) -> Result<Self, PylockError> {
        let lock: Pylock =
            toml::from_str(text).map_err(|error| PylockError::Syntax(error.to_string()))?;
        match lock.lock_version.split('.').next() {
            Some("1") => Ok(lock),
            _ => Err(PylockError::Format(lock.lock_version)),
        }
    }

    /// Without the projects that the environment has as editable ones: a lock names their directories.
    pub fn without(mut self, editables: &[ProjectName]) -> Self {
        self.packages.retain(|package| {
            let name: Option<ProjectName> = package.name.parse().ok();
            package.directory.is_none() || name.is_none_or(|name| !editables.contains(&name))
        });
        self
    }

    /// The wheels to install for an interpreter, by project; `extras` and `groups` are added to those
    /// that the lock installs anyhow.
    pub fn choose(
        &self,
        interpreter: &Interpreter,
        extras: &[String],
        groups: &[String],
    ) -> Result<Vec<Chosen>, PylockError> {
        self.check_python(self.requires_python.as_deref(), interpreter)?;
        let known = extras.iter().filter(|extra| self.extras.contains(extra)).cloned();
        let selection = Selection {
            extras: known.collect(),
            groups: groups.iter().chain(&self.default_groups).cloned().collect(),
        };
        let environment = interpreter.environment();
        let mut chosen: BTreeMap<ProjectName, Chosen> = BTreeMap::new();
        for package in &self.packages {
            let holds = package
                .marker
                .as_ref()
                .map_or(Ok(true), |marker| environment.meets(marker, &selection));
            let failed = |source| PylockError::Marker { package: package.name.clone(), source };
            if !holds.map_err(failed)? {
                continue;
            }
            self.check_python(package.requires_python.as_deref(), interpreter)?;
            let one = package.choose(interpreter)?;
            if let Some(other) = chosen.insert(one.project.clone(), one.clone()) {
                let (one, two) = (other.version, one.version);
                return Err(PylockError::Twice { package: package.name.clone(), one, two });
            }
        }
        Ok(chosen.into_values().collect())
    }

    fn check_python(
        &self,
        wanted: Option<&str>,
        interpreter: &Interpreter,
    ) -> Result<(), PylockError> {
        let Some(wanted) = wanted else { return Ok(()) };
        let meets = interpreter.full_version.parse::<Version>().ok();
        match meets.and_then(|version| version.meets(wanted)) {
            Some(true) => Ok(()),
            _ => {
                let found = interpreter.full_version.to_string();
                Err(PylockError::Python { wanted: wanted.to_owned(), found })
            }
        }
    }
}

impl Package {
    fn choose(&self, interpreter: &Interpreter) -> Result<Chosen, PylockError> {
        let project: ProjectName =
            self.name.parse().map_err(|_| PylockError::Name(self.name.clone()))?;
        let version = || self.version.clone().unwrap_or_else(|| "of no version".to_owned());
        let other = if self.vcs.is_some() {
            Some("a repository")
        } else if self.directory.is_some() {
            Some("a directory")
        } else {
            None
        };
        if let Some(from) = other {
            return Err(PylockError::NoWheel { package: self.name.clone(), from });
        }
        let archive = self.archive.iter();
        let files: Vec<(WheelName, &File)> = archive
            .chain(&self.wheels)
            .filter_map(|file| Some((file.file_name()?.parse().ok()?, file)))
            .collect();
        if files.is_empty() {
            return Err(match self.archive.is_some() && self.sdist.is_none() {
                true => PylockError::NoWheel { package: self.name.clone(), from: "an archive" },
                false => PylockError::SourceOnly { package: self.name.clone(), version: version() },
            });
        }
        let ranked = files.iter().filter_map(|(name, file)| {
            let rank = interpreter.rank(name).filter(|_| name.project == project)?;
            Some((rank, std::cmp::Reverse(name.build.clone()), name, *file))
        });
        let best = ranked.min_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        let Some((_, _, name, file)) = best else {
            return Err(PylockError::Unfit {
                package: self.name.clone(),
                version: version(),
                interpreter: interpreter.to_string(),
                wheels: files.iter().filter_map(|(_, file)| file.file_name()).collect(),
            });
        };
        let file_name = file.file_name().unwrap_or_default();
        let hash = file.hashes.get("sha256").map(|hex| hex.to_ascii_lowercase());
        let digest = hash.and_then(|hex| Digest::parse_hex(&hex).ok());
        let digest = digest.ok_or_else(|| PylockError::NoHash {
            package: self.name.clone(),
            wheel: file_name.clone(),
        })?;
        let version = self.version.clone().unwrap_or_else(|| name.version.to_string());
        Ok(Chosen { project, version, file_name, size: file.size, digest, url: file.url.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::LayerPath;
    use crate::platform::Platform;

    const HASH: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn choose(packages: &str) -> Result<Vec<String>, PylockError> {
        let text = format!("lock-version = '1.0'\ncreated-by = 'x'\nextras = ['cli']\n{packages}");
        let interpreter = Interpreter {
            version: (3, 13),
            full_version: "3.13.5".into(),
            program: LayerPath::parse_absolute("/usr/bin/python3.13").unwrap(),
            platform: Platform::Amd64,
            glibc: (2, 41),
        };
        let chosen = Pylock::parse(&text)?.choose(&interpreter, &["cli".to_owned()], &[])?;
        Ok(chosen.into_iter().map(|one| one.file_name).collect())
    }

    fn package(name: &str, more: &str, wheels: &[&str]) -> String {
        let wheel = |wheel: &&str| {
            format!(
                "{{ url = 'https://h.example.org/x/{wheel}?t=1', size = 1, hashes = {{ sha256 = '{HASH}' }} }}"
            )
        };
        let wheels: Vec<String> = wheels.iter().map(wheel).collect();
        format!(
            "[[packages]]\nname = '{name}'\nversion = '1'\n{more}\nwheels = [{}]\n",
            wheels.join(", ")
        )
    }

    #[test]
    fn the_best_wheel_of_each_package_that_is_meant_is_chosen() {
        let wheels = [
            "a-1-py3-none-any.whl",
            "a-1-cp313-cp313-musllinux_1_2_x86_64.whl",
            "a-1-cp313-cp313-manylinux_2_17_x86_64.whl",
            "a-1-1-cp313-cp313-manylinux_2_17_x86_64.whl",
        ];
        let text = [
            package("a", "", &wheels),
            package("w", "marker = \"sys_platform == 'win32'\"", &["w-1-py3-none-any.whl"]),
            package("c", "marker = \"'cli' in extras\"", &["c-1%2Bl-py3-none-any.whl"]),
        ];
        assert_eq!(
            choose(&text.concat()).unwrap(),
            ["a-1-1-cp313-cp313-manylinux_2_17_x86_64.whl", "c-1+l-py3-none-any.whl"]
        );
    }

    #[test]
    fn what_cannot_be_installed_is_named_with_what_there_is() {
        let refused = |text: &str| choose(text).unwrap_err().to_string();
        insta::assert_snapshot!(refused(&package("a", "sdist = { name = 'a-1.tar.gz' }", &[])), @"package `a` 1 has a source archive only, no wheel");
        insta::assert_snapshot!(refused(&package("a", "", &["a-1-cp312-cp312-win_amd64.whl"])), @"package `a` 1 has no wheel for Python 3.13 on x86_64 with glibc 2.41: there is `a-1-cp312-cp312-win_amd64.whl`");
        insta::assert_snapshot!(refused(&package("a", "directory = { path = '.' }", &[])), @"package `a` comes from a directory, not as a wheel");
        insta::assert_snapshot!(refused(&package("a", "requires-python = '<3.13'", &["a-1-py3-none-any.whl"])), @"it is for Python <3.13, the image has 3.13.5");
        insta::assert_snapshot!(refused(&package("a", "marker = 'x'", &[])), @"package `a`: `x` is not an environment marker");
        insta::assert_snapshot!(Pylock::parse("lock-version = '2.0'").unwrap_err(), @"its format is 2.0, expected 1.x");
        let own = format!(
            "lock-version = '1.0'\n{}",
            package("My_App", "directory = { path = '.', editable = true }", &[])
        );
        let left = Pylock::parse(&own).unwrap().without(&["my-app".parse().unwrap()]);
        assert!(left.packages.is_empty(), "an editable project is no wheel");
        assert_eq!(Pylock::parse(&own).unwrap().without(&[]).packages.len(), 1);
        let twice = package("a", "", &["a-1-py3-none-any.whl"]);
        insta::assert_snapshot!(refused(&twice.repeat(2)), @"package `a` is listed twice for one environment, at 1 and 1");
        insta::assert_snapshot!(refused(&twice.replace("sha256", "md5")), @"package `a`: wheel `a-1-py3-none-any.whl` has no sha256");
    }
}
