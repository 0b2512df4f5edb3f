//! Pins: sources with their digests.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::digest::Digest;

/// Which archive a package comes from, by the name a declaration gives it: `debian`,
/// `debian-security`, or the name of a `repository`. Where it is, the configuration says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ArchiveName(Box<str>);

impl ArchiveName {
    pub fn new(name: &str) -> Self {
        ArchiveName(name.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ArchiveName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a package was asked for or came along (apt's `Auto-Installed`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    Manual,
    Auto,
}

impl Mark {
    pub const fn as_str(self) -> &'static str {
        match self {
            Mark::Manual => "manual",
            Mark::Auto => "auto",
        }
    }
}

impl FromStr for Mark {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "manual" => Ok(Mark::Manual),
            "auto" => Ok(Mark::Auto),
            _ => Err(()),
        }
    }
}

/// A Debian package at one version, with the digest of its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DebPin {
    pub name: Box<str>,
    pub version: Box<str>,
    /// `amd64`, `arm64` or `all`.
    pub arch: Box<str>,
    pub mark: Mark,
    pub archive: ArchiveName,
    /// Size of the `.deb` in bytes.
    pub size: u64,
    pub digest: Digest,
    /// Path within its archive when it was resolved: a hint.
    pub path: Box<str>,
}

impl DebPin {
    /// `bash 5.2.37-2+b5`, as people say it.
    pub fn label(&self) -> String {
        format!("{} {}", self.name, self.version)
    }
}
