//! Where npm's tarballs are: at the usual path of their registry, or where its documents say.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::places::below;
use super::{SolveError, Solver};
use crate::digest::Integrity;
use crate::fetch::{Client, FetchError, Headers, Login, MirrorMap};
use crate::lock::NpmPin;
use crate::npm::PackageName;

/// Largest document of a package; the whole history of the largest ones takes a quarter of it.
const DOCUMENT: u64 = 256 << 20;
/// Documents with what installing needs and nothing else.
const ABBREVIATED: &str = "application/vnd.npm.install-v1+json, application/json;q=0.8";

/// Where the tarball of a pin may be: at the usual path of its registry, at the one that it had, or at
/// an address of its own.
pub(super) fn tarball_urls(mirrors: &MirrorMap, pin: &NpmPin) -> Vec<Url> {
    if pin.path.starts_with("https://") || pin.path.starts_with("http://") {
        return Url::parse(&pin.path).into_iter().collect();
    }
    let usual = pin.name.parse().ok().map(|name: PackageName| name.tarball_path(&pin.version));
    let known = Some(pin.path.to_string()).filter(|path| !path.is_empty());
    let paths: Vec<String> = usual.into_iter().chain(known).collect();
    let registries = mirrors.npm_places(&pin.name);
    let at = |registry: &Url| {
        let urls = paths.iter().filter_map(|path| below(registry.clone(), path));
        urls.collect::<Vec<_>>()
    };
    registries.iter().flat_map(at).collect()
}

/// A package's document at its registry, as far as it tells versions from each other.
#[derive(Deserialize)]
pub(super) struct Document {
    #[serde(default)]
    pub versions: BTreeMap<String, Release>,
    /// Days of publication by version, in the whole document only.
    #[serde(default)]
    time: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
pub(super) struct Release {
    pub dist: Dist,
    #[serde(default)]
    pub bin: Value,
    #[serde(default)]
    pub engines: Value,
}

#[derive(Deserialize)]
pub(super) struct Dist {
    tarball: String,
    pub integrity: Option<String>,
    pub shasum: Option<String>,
}

/// What a registry does not have.
#[derive(Debug, thiserror::Error)]
pub enum MissingError {
    #[error("the registry has no package `{package}`")]
    Package { package: String },
    #[error("there is no `{package}` {wanted}{}: the registry has {}", as_of(day), there(found))]
    Version { package: String, wanted: String, day: Option<String>, found: Vec<String> },
}

impl MissingError {
    /// The next step.
    pub fn help(&self) -> Option<String> {
        match self {
            MissingError::Version { found, day: Some(_), .. } if found.is_empty() => {
                Some("let `as-of` be a later day".to_owned())
            }
            MissingError::Version { package, found, .. } => {
                let version = found.last()?;
                Some(format!("declare one that is left: `{package}@{version}`"))
            }
            MissingError::Package { .. } => None,
        }
    }
}

fn as_of(day: &Option<String>) -> String {
    day.as_ref().map(|day| format!(" as of {day}")).unwrap_or_default()
}

/// The newest of some versions, of which the last is the newest.
pub(super) fn there(found: &[String]) -> String {
    if found.is_empty() {
        return "none that is as old".to_owned();
    }
    let newest: Vec<&str> = found.iter().rev().take(8).map(String::as_str).collect();
    let more = found.len().saturating_sub(8);
    let rest = if more > 0 { format!(" and {more} older ones") } else { String::new() };
    format!("{}{rest}", newest.join(", "))
}

impl Document {
    /// Versions that were there on a day, the oldest first.
    pub(super) fn seen(&self, day: Option<&str>) -> Vec<String> {
        let was_there = |version: &&String| {
            let day = day.filter(|_| !self.time.is_empty());
            let published = self.time.get(*version).and_then(Value::as_str);
            day.is_none_or(|day| published.is_some_and(|at| at[..day.len().min(at.len())] <= *day))
        };
        let mut found: Vec<String> = self.versions.keys().filter(was_there).cloned().collect();
        found.sort_by_key(|version| order(version));
        found
    }
}

impl Solver<'_> {
    /// The whole document of a package, from where a project's directory has it; `None` for one that is
    /// not there.
    pub(super) fn npm_document(
        &self,
        dir: &str,
        name: &str,
    ) -> Result<Option<Document>, SolveError> {
        let registry = self.mirrors.npm_place(dir, name);
        let url = registry.join(&name.replace('/', "%2f")).unwrap_or(registry);
        let headers = asking("application/json");
        let label = format!("npm package `{name}`");
        match self.client.get_with(&label, &[url], &headers, DOCUMENT) {
            Err(error) if error.is_gone() => Ok(None),
            result => Ok(serde_json::from_slice(&result?.bytes).ok()),
        }
    }
}

/// Numbers before what follows them, so that versions come in their order; one that is not final
/// comes before the one that is.
fn order(version: &str) -> (Vec<u64>, bool, String) {
    let version = version.split('+').next().unwrap_or_default();
    let (numbers, rest) = version.split_once('-').unwrap_or((version, ""));
    let numbers = numbers.split('.').map(|part| part.parse().unwrap_or(0)).collect();
    (numbers, rest.is_empty(), rest.to_owned())
}

/// What a registry or an index says of a file that is not where it was.
pub(super) enum Moved {
    To(Vec<Url>),
    /// It is nowhere; what there is instead, in words.
    Gone(String),
    /// Nobody can be asked.
    Unknown,
}

fn asking(accept: &str) -> Headers {
    Headers { accept: Some(accept.to_owned()), login: Login::Npm, form: None }
}

/// Where the registry says that a tarball is: that of its version, unless its digest is another.
pub(super) fn find_tarball(
    client: &Client,
    mirrors: &MirrorMap,
    pin: &NpmPin,
) -> Result<Moved, FetchError> {
    if pin.path.contains(':') {
        return Ok(Moved::Unknown);
    }
    let registries = mirrors.npm_places(&pin.name).into_iter();
    let urls: Vec<Url> = registries.filter_map(|registry| below(registry, &pin.name)).collect();
    let headers = asking(ABBREVIATED);
    let label = format!("npm package `{}`", pin.name);
    let document = match client.get_with(&label, &urls, &headers, DOCUMENT) {
        Err(error) if error.is_gone() => {
            return Ok(Moved::Gone(format!("the registry has no package `{}`", pin.name)));
        }
        result => result?,
    };
    let Ok(document) = serde_json::from_slice::<Document>(&document.bytes) else {
        return Ok(Moved::Unknown);
    };
    let same = |version: &&Release| {
        let said = version.dist.integrity.as_deref().and_then(Integrity::parse_sri);
        said.is_none_or(|said| {
            said == pin.integrity || said.algorithm() != pin.integrity.algorithm()
        })
    };
    let Some(found) = document.versions.get(&*pin.version) else {
        return Ok(Moved::Gone(format!("the registry has {}", there(&document.seen(None)))));
    };
    Ok(match Some(found).filter(same) {
        None => Moved::Gone("what the registry has of this version are other bytes".to_owned()),
        Some(found) => Moved::To(Url::parse(&found.dist.tarball).into_iter().collect()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_come_in_their_order() {
        let mut versions = ["1.10.0", "1.9.0", "2.0.0", "2.0.0-rc.1", "2.0.0-beta"];
        versions.sort_by_key(|version| order(version));
        assert_eq!(versions, ["1.9.0", "1.10.0", "2.0.0-beta", "2.0.0-rc.1", "2.0.0"]);
    }

    #[test]
    fn few_versions_are_named_whole() {
        assert_eq!(there(&["0.9.10".to_owned()]), "0.9.10");
        let many: Vec<String> = (0..11).map(|minor| format!("1.{minor}.0")).collect();
        let expected = "1.10.0, 1.9.0, 1.8.0, 1.7.0, 1.6.0, 1.5.0, 1.4.0, 1.3.0 and 3 older ones";
        assert_eq!(there(&many), expected);
    }
}
