//! Pins: sources with their digests, one kind an ecosystem.
//!
//! A layer's Debian packages are pinned by layer, as dpkg's database is one. Every other recipe that
//! needs something from outside asks a question of its own, and its pins answer that question: two
//! layers that ask the same share the answer.

mod archive;
mod base;
mod deb;
mod git;
mod laid;
mod npm;
mod python;
mod wheel;
mod words;

pub use archive::ArchivePin;
pub use base::{BaseLayerPin, BasePart, BasePin};
pub use deb::{ArchiveName, DebPin, Mark};
pub use git::GitPin;
pub use laid::LaidPin;
pub use npm::{NpmPart, NpmPin};
pub use python::PythonPin;
pub use wheel::WheelPin;
pub use words::Words;

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::digest::{Digest, Integrity};

/// Which question a pin answers: the first 64 bits of the digest of what a recipe asks, in hex.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(Box<str>);

impl RequestId {
    pub fn of(question: &Digest) -> Self {
        RequestId(question.hex()[..16].into())
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for RequestId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        match text.len() == 16 && text.bytes().all(hex) {
            true => Ok(RequestId(text.into())),
            false => Err(format!("`{text}` is not 16 lower-case hex digits")),
        }
    }
}

impl Serialize for RequestId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What answers a recipe's question, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Pin {
    Archive(ArchivePin),
    Base(BasePin),
    BaseLayer(BaseLayerPin),
    BasePart(BasePart),
    Git(GitPin),
    Laid(LaidPin),
    Npm(NpmPin),
    NpmPart(NpmPart),
    Python(PythonPin),
    Wheel(WheelPin),
}

/// First words of pins' lines.
const KINDS: &[&str] = &[
    "archive",
    "base",
    "base-config",
    "base-deb",
    "base-dpkg",
    "base-layer",
    "git",
    "laid",
    "npm",
    "npm-bundled",
    "npm-link",
    "npm-manager",
    "npm-script",
    "python",
    "wheel",
];

impl Pin {
    /// The first word of its line.
    pub const fn kind(&self) -> &'static str {
        match self {
            Pin::Archive(_) => "archive",
            Pin::Base(_) => "base",
            Pin::BaseLayer(_) => "base-layer",
            Pin::BasePart(part) => part.kind(),
            Pin::Git(_) => "git",
            Pin::Laid(_) => "laid",
            Pin::Npm(_) => "npm",
            Pin::NpmPart(part) => part.kind(),
            Pin::Python(_) => "python",
            Pin::Wheel(_) => "wheel",
        }
    }

    /// For people: what it is and at which version.
    pub fn label(&self) -> String {
        match self {
            Pin::Archive(pin) => pin.label(),
            Pin::Base(pin) => pin.label(),
            Pin::BaseLayer(pin) => pin.label(),
            Pin::BasePart(part) => part.label(),
            Pin::Git(pin) => pin.label(),
            Pin::Laid(pin) => pin.source.to_string(),
            Pin::Npm(pin) => pin.label(),
            Pin::NpmPart(part) => part.place().to_owned(),
            Pin::Python(pin) => pin.label(),
            Pin::Wheel(pin) => pin.label(),
        }
    }

    /// The name that `lock --update` knows it by.
    pub fn name(&self) -> &str {
        match self {
            Pin::Archive(pin) => &pin.name,
            Pin::Base(pin) => &pin.name,
            Pin::BaseLayer(pin) => &pin.image,
            // what a base has changes with the base, and not by itself
            Pin::BasePart(part) => part.kind(),
            Pin::Git(pin) => &pin.name,
            Pin::Laid(_) => "laid",
            Pin::Npm(pin) => &pin.name,
            Pin::NpmPart(part) => part.place(),
            Pin::Python(_) => "python",
            Pin::Wheel(pin) => &pin.name,
        }
    }

    /// Whether it is of a base, which is seen as it is and not fetched by steps.
    pub const fn is_base(&self) -> bool {
        matches!(self, Pin::Base(_) | Pin::BaseLayer(_) | Pin::BasePart(_))
    }

    /// The words behind kind and request, escaped.
    pub(super) fn write(&self, words: &mut Words) {
        match self {
            Pin::Archive(pin) => pin.write(words),
            Pin::Base(pin) => pin.write(words),
            Pin::BaseLayer(pin) => pin.write(words),
            Pin::BasePart(part) => part.write(words),
            Pin::Git(pin) => pin.write(words),
            Pin::Laid(pin) => pin.write(words),
            Pin::Npm(pin) => pin.write(words),
            Pin::NpmPart(part) => part.write(words),
            Pin::Python(pin) => pin.write(words),
            Pin::Wheel(pin) => pin.write(words),
        }
    }

    /// Whether `kind` begins the line of a pin.
    pub(super) fn is_kind(kind: &str) -> bool {
        KINDS.contains(&kind)
    }

    pub(super) fn parse<'a>(
        kind: &str,
        words: &mut impl Iterator<Item = &'a str>,
    ) -> Result<Self, String> {
        match kind {
            "archive" => ArchivePin::parse(words).map(Pin::Archive),
            "base" => BasePin::parse(words).map(Pin::Base),
            "base-layer" => BaseLayerPin::parse(words).map(Pin::BaseLayer),
            "base-config" | "base-deb" | "base-dpkg" => {
                BasePart::parse(kind, words).map(Pin::BasePart)
            }
            "git" => GitPin::parse(words).map(Pin::Git),
            "laid" => LaidPin::parse(words).map(Pin::Laid),
            "npm" => NpmPin::parse(words).map(Pin::Npm),
            "npm-bundled" | "npm-link" | "npm-manager" | "npm-script" => {
                NpmPart::parse(kind, words).map(Pin::NpmPart)
            }
            "python" => PythonPin::parse(words).map(Pin::Python),
            "wheel" => WheelPin::parse(words).map(Pin::Wheel),
            _ => Err(format!("unknown kind of pin `{kind}`")),
        }
    }
}

impl Pin {
    /// The package of npm's that it is.
    pub fn npm(&self) -> Option<&NpmPin> {
        match self {
            Pin::Npm(pin) => Some(pin),
            _ => None,
        }
    }
}

/// Bytes that a build needs in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source<'a> {
    Deb(&'a DebPin),
    Archive(&'a ArchivePin),
    BaseLayer(&'a BaseLayerPin),
    Git(&'a GitPin),
    Npm(&'a NpmPin),
    Wheel(&'a WheelPin),
}

impl Pin {
    /// The file to fetch for it; `None` for a pin that needs none.
    pub fn source(&self) -> Option<Source<'_>> {
        match self {
            Pin::Archive(pin) => Some(Source::Archive(pin)),
            Pin::BaseLayer(pin) => Some(Source::BaseLayer(pin)),
            Pin::Git(pin) => Some(Source::Git(pin)),
            Pin::Npm(pin) => Some(Source::Npm(pin)),
            Pin::Base(_) | Pin::BasePart(_) | Pin::Laid(_) | Pin::NpmPart(_) | Pin::Python(_) => {
                None
            }
            Pin::Wheel(pin) => Some(Source::Wheel(pin)),
        }
    }
}

impl<'a> Source<'a> {
    /// Its ecosystem's word for it.
    pub const fn kind(&self) -> &'static str {
        match self {
            Source::Deb(_) => "package",
            Source::Archive(_) => "archive",
            Source::BaseLayer(_) => "base layer",
            Source::Git(_) => "git",
            Source::Npm(_) => "npm package",
            Source::Wheel(_) => "wheel",
        }
    }

    /// Name and version, and the architecture where one version has several.
    pub fn package(&self) -> (&'a str, &'a str, &'a str) {
        match self {
            Source::Deb(pin) => (&pin.name, &pin.version, &pin.arch),
            Source::Archive(pin) => (&pin.name, "", ""),
            Source::BaseLayer(pin) => (&pin.image, &pin.short, ""),
            Source::Git(pin) => (&pin.name, pin.short(), ""),
            Source::Npm(pin) => (&pin.name, &pin.version, ""),
            Source::Wheel(pin) => (&pin.name, &pin.version, ""),
        }
    }

    pub fn label(&self) -> String {
        match self {
            Source::Deb(pin) => pin.label(),
            Source::Archive(pin) => pin.label(),
            Source::BaseLayer(pin) => pin.label(),
            Source::Git(pin) => pin.label(),
            Source::Npm(pin) => pin.label(),
            Source::Wheel(pin) => pin.label(),
        }
    }

    pub fn integrity(&self) -> Integrity {
        match self {
            Source::Deb(pin) => pin.digest.into(),
            Source::Archive(pin) => pin.digest.into(),
            Source::BaseLayer(pin) => pin.digest.into(),
            Source::Git(pin) => pin.digest.into(),
            Source::Npm(pin) => pin.integrity,
            Source::Wheel(pin) => pin.digest.into(),
        }
    }

    /// In bytes, where the ecosystem says it.
    pub fn size(&self) -> Option<u64> {
        match self {
            Source::Deb(pin) => Some(pin.size),
            Source::Archive(pin) => Some(pin.size),
            Source::BaseLayer(pin) => Some(pin.size),
            Source::Git(pin) => Some(pin.size),
            Source::Npm(_) => None,
            Source::Wheel(pin) => pin.size,
        }
    }
}
