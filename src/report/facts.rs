//! What sources say of themselves: read from their bytes once, and remembered by their digest.
//!
//! A package's licence stands nowhere but in the package, so the first report about an image decodes
//! every source of it, on all cores; the next one reads small files. What the bytes say, nothing can
//! change. What another machine says of them (`sheet`) stands in until the bytes are here, and then goes.

use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ReportError;
use super::licence::Licence;
use crate::debian::archive::{Deb, DebError};
use crate::debian::control::{Stanza, upstream};
use crate::digest::Integrity;
use crate::fsx::{self, IoAt};
use crate::lock::{DebPin, NpmPin, Source, WheelPin};
use crate::npm::TarballError;
use crate::python::Wheel;
use crate::store::{Held, Store, Voucher};
use crate::tarball::MemberKind;

/// Changes with what is read, so that what older versions remembered is read again.
pub(super) const FORMAT: u32 = 1;

/// Largest file of a package that is read for its licence.
const LARGEST: u64 = 4 << 20;

/// Most bytes that a package may unpack to.
const LARGEST_PACKAGE: u64 = 16 << 30;

/// What a source says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Facts {
    pub(super) licence: Option<Licence>,
    /// The Debian package whose documentation stands for its own (Debian Policy 12.5).
    pub(super) documented_by: Option<String>,
    /// The source package, where it is called otherwise.
    pub(super) upstream: Option<String>,
    /// Packages of npm's that its tarball brings along.
    pub(super) bundled: Vec<Bundled>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Bundled {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) licence: Option<Licence>,
}

/// What is known of a source that may not be here.
#[derive(Serialize, Deserialize)]
pub(super) struct Remembered {
    format: u32,
    pub(super) facts: Facts,
    /// Whose word it is, where nobody here has read the bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) told_by: Option<Voucher>,
}

impl Facts {
    /// What a source says: read, now or before, or told by somebody else where the store lacks it.
    pub(super) fn of(store: &Store, source: &Source<'_>) -> Result<Self, ReportError> {
        if !has_facts(source) {
            return Ok(Facts::default());
        }
        let digest = source.integrity();
        let known = find(store, &digest);
        match known {
            Some(Remembered { facts, told_by: None, .. }) => return Ok(facts),
            Some(Remembered { facts, .. }) if store.find_source(&digest).is_none() => {
                return Ok(facts);
            }
            _ => {}
        }
        Facts::read(store, source)
    }

    /// What the bytes of a source say.
    pub(super) fn read(store: &Store, source: &Source<'_>) -> Result<Self, ReportError> {
        let digest = source.integrity();
        let label = || format!("{} `{}`", source.kind(), source.label());
        store.hold([Held::Source(&digest, source.size())])?;
        if store.find_source(&digest).is_none() {
            return Err(ReportError::Missing { label: label() });
        }
        let path = store.source_path(&digest);
        let facts = match source {
            Source::Deb(pin) => read_deb(path, pin),
            Source::Npm(pin) => read_tarball(path, pin),
            Source::Wheel(pin) => read_wheel(path, pin),
            Source::Archive(_) | Source::Git(_) | Source::BaseLayer(_) => Ok(Facts::default()),
        };
        let facts = facts.map_err(|reason| ReportError::Source { label: label(), reason })?;
        remember(store, &digest, facts.clone(), None)?;
        Ok(facts)
    }
}

/// Whether a source may say something: archives, trees and layers have no metadata of a kind that could
/// be known.
pub(super) fn has_facts(source: &Source<'_>) -> bool {
    matches!(source, Source::Deb(_) | Source::Npm(_) | Source::Wheel(_))
}

fn record(store: &Store, digest: &Integrity) -> PathBuf {
    store.root().join("facts").join(format!("{}-{}", digest.algorithm(), digest.hex()))
}

pub(super) fn find(store: &Store, digest: &Integrity) -> Option<Remembered> {
    // one that cannot be read says nothing that could not be read again
    let bytes = fs::read(record(store, digest)).ok()?;
    let remembered: Remembered = serde_json::from_slice(&bytes).ok()?;
    (remembered.format == FORMAT).then_some(remembered)
}

pub(super) fn remember(
    store: &Store,
    digest: &Integrity,
    facts: Facts,
    told_by: Option<Voucher>,
) -> Result<(), ReportError> {
    let path = record(store, digest);
    let remembered = Remembered { format: FORMAT, facts, told_by };
    let bytes = serde_json::to_vec(&remembered).expect("facts have string keys only");
    Ok(fsx::write_atomic(&path, &bytes)?)
}

fn read_deb(path: PathBuf, pin: &DebPin) -> Result<Facts, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let file = File::open(&path).map_err(|error| text(&error))?;
    let deb = Deb::open(file).map_err(|error| text(&error))?;
    let mut facts = Facts::default();
    let docs = format!("usr/share/doc/{}", pin.name);
    let copyright = format!("{docs}/copyright");
    let visited = deb.read_data(LARGEST_PACKAGE, |member, body| -> Result<(), DebError> {
        let label = member.label();
        let name = label.trim_start_matches("./").trim_end_matches('/');
        match &member.kind {
            MemberKind::File if name == copyright => {
                let mut bytes = Vec::new();
                body.take(LARGEST).read_to_end(&mut bytes)?;
                facts.licence = Licence::of_copyright(&String::from_utf8_lossy(&bytes));
            }
            MemberKind::Symlink if name == docs => {
                let target = String::from_utf8_lossy(&member.link);
                facts.documented_by = target.rsplit('/').next().map(str::to_owned);
            }
            _ => {}
        }
        Ok(())
    });
    let (control, found) = visited.map_err(|error| text(&error))?;
    if found != pin.digest {
        return Err(format!("expected {}, found {found}", pin.digest));
    }
    let stanza = Stanza::first(&control.text);
    let source = stanza.and_then(|stanza| stanza.find("Source"));
    facts.upstream = source.map(upstream).filter(|source| *source != *pin.name);
    Ok(facts)
}

fn read_tarball(path: PathBuf, pin: &NpmPin) -> Result<Facts, String> {
    let text = |error: TarballError| error.to_string();
    let tarball = pin.open(&path).map_err(text)?;
    let mut facts = Facts::default();
    let visited = tarball.visit(|item, body| -> Result<(), TarballError> {
        let name = item.path.to_string();
        let name = name.trim_start_matches('/');
        if !is_manifest(name) {
            return Ok(());
        }
        let mut bytes = Vec::new();
        body.take(LARGEST).read_to_end(&mut bytes).at("read", &path)?;
        let Ok(manifest) = serde_json::from_slice::<Value>(&bytes) else { return Ok(()) };
        let licence = Licence::of_manifest(&manifest);
        if name == "package.json" {
            facts.licence = licence;
        } else if let (Some(name), Some(version)) =
            (manifest["name"].as_str(), manifest["version"].as_str())
        {
            let (name, version) = (name.to_owned(), version.to_owned());
            facts.bundled.push(Bundled { name, version, licence });
        }
        Ok(())
    });
    visited.map_err(text)?;
    facts.bundled.sort();
    facts.bundled.dedup();
    Ok(facts)
}

/// Whether a path is the manifest of the package, or of one that it bundles.
fn is_manifest(path: &str) -> bool {
    let Some(dir) = path.strip_suffix("package.json") else { return false };
    let mut parts = dir.split_terminator('/');
    loop {
        match parts.next() {
            None => return true,
            Some("node_modules") => {}
            Some(_) => return false,
        }
        match parts.next() {
            Some(scope) if scope.starts_with('@') => match parts.next() {
                Some(_) => {}
                None => return false,
            },
            Some(_) => {}
            None => return false,
        }
    }
}

fn read_wheel(path: PathBuf, pin: &WheelPin) -> Result<Facts, String> {
    let read = Wheel::open(&path, &pin.file_name, pin.digest);
    let metadata = read.and_then(|mut wheel| wheel.metadata());
    let metadata = metadata.map_err(|error| error.to_string())?;
    Ok(Facts { licence: Licence::of_metadata(&metadata), ..Facts::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_of_bundled_packages_are_told_from_other_files() {
        for path in [
            "package.json",
            "node_modules/a/package.json",
            "node_modules/@s/a/node_modules/b/package.json",
        ] {
            assert!(is_manifest(path), "{path}");
        }
        for path in [
            "test/package.json",
            "node_modules/package.json",
            "node_modules/a/lib/package.json",
            "node_modules/@s/package.json",
            "node_modules/a/xpackage.json",
        ] {
            assert!(!is_manifest(path), "{path}");
        }
    }
}
