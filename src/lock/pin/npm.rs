//! Packages of npm's: tarballs of a registry, of an address or of the project, each at its place.

use std::path::Path;

use serde::Serialize;

use super::Words;
use crate::digest::Integrity;
use crate::npm::{GitSpec, Tarball, TarballError};

/// A name and what it stands for.
pub(super) type Pair = (Box<str>, Box<str>);

/// A package's tarball, and where in a tree it is unpacked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct NpmPin {
    /// Its name at the registry, whatever it is called in the tree.
    pub name: Box<str>,
    pub version: Box<str>,
    pub integrity: Integrity,
    /// Its directory below the tree's root; empty for a package that is in no tree.
    pub place: Box<str>,
    /// Where its tarball was, if not at the usual path of a registry: another path there (a hint), an
    /// address of its own, `file:` and a path below the project's directory, `laid:` with the digest of
    /// another source and what that calls it, or a repository's address and a commit, whose tree has
    /// the digest then.
    pub path: Box<str>,
    /// Commands that it brings: name, and file below its directory.
    pub bins: Vec<Pair>,
}

/// What a tree has beside tarballs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NpmPart {
    /// A link to a directory of the project, both below the tree's root.
    Link { place: Box<str>, target: Box<str>, bins: Vec<Pair> },
    /// A package that another one's tarball brings along.
    Bundled { place: Box<str>, bins: Vec<Pair> },
    /// The program that installs the packages, which have no places of their own then: one of them, by
    /// name and version.
    Manager { name: Box<str>, version: Box<str>, program: Box<str> },
    /// A command of a package that runs when it is installed.
    Script { place: Box<str>, event: Box<str>, command: Box<str>, env: Vec<Pair> },
}

impl NpmPin {
    pub fn label(&self) -> String {
        format!("{} {}", self.name, self.version)
    }

    /// The commit that it is packed of, for a package that comes from git.
    pub fn git(&self) -> Option<GitSpec> {
        if self.is_git() { self.path.parse().ok() } else { None }
    }

    /// The source that has it in it, and what it is called there.
    pub fn laid_in(&self) -> Option<(Integrity, &str)> {
        let (source, member) = self.path.strip_prefix("laid:")?.split_once('/')?;
        Some((source.parse().ok()?, member))
    }

    pub fn is_git(&self) -> bool {
        self.path.starts_with("git+")
    }

    /// Opens its bytes, which are at `blob`.
    pub fn open(&self, blob: &Path) -> Result<Tarball, TarballError> {
        match self.is_git() {
            true => Tarball::open_tree(blob, &self.integrity),
            false => Tarball::open(blob, &self.integrity),
        }
    }

    pub(super) fn write(&self, words: &mut Words) {
        words.push(&self.name).push(&self.version).push(self.integrity);
        words.push(&self.place).push(&self.path);
        write_pairs(&self.bins, words);
    }

    pub(super) fn parse<'a>(words: &mut impl Iterator<Item = &'a str>) -> Result<Self, String> {
        Ok(NpmPin {
            name: Words::next(words, "name")?.into(),
            version: Words::next(words, "version")?.into(),
            integrity: Words::parse(words, "digest")?,
            place: Words::path(words, "place")?.into(),
            path: parse_path(words)?,
            bins: parse_pairs(words, "file of a command", Words::path)?,
        })
    }
}

/// An address of its own leads nowhere else; all other paths are below something.
fn parse_path<'a>(words: &mut impl Iterator<Item = &'a str>) -> Result<Box<str>, String> {
    let path = Words::next(words, "path")?;
    if path.starts_with("git+") {
        let spec: GitSpec = path.parse().map_err(|reason| format!("the path `{path}` {reason}"))?;
        return Ok(spec.to_string().into());
    }
    let laid = path.strip_prefix("laid:").map(|rest| rest.split_once('/').unwrap_or(("", "/")));
    let inner = laid.filter(|(source, _)| source.parse::<Integrity>().is_ok());
    let below = path.strip_prefix("file:").or(laid.map(|(_, member)| member)).unwrap_or(&path);
    if laid.is_some() && inner.is_none() {
        return Err(format!("the path `{path}` is in no source"));
    }
    let address = path.starts_with("https://") || path.starts_with("http://");
    let leaves = below.starts_with('/') || below.split('/').any(|part| part == "..");
    if leaves && !address { Err(format!("the path `{path}` leads out")) } else { Ok(path.into()) }
}

impl NpmPart {
    /// The first word of its line.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            NpmPart::Link { .. } => "npm-link",
            NpmPart::Bundled { .. } => "npm-bundled",
            NpmPart::Manager { .. } => "npm-manager",
            NpmPart::Script { .. } => "npm-script",
        }
    }

    /// Its place in the tree, or the name of what has none.
    pub fn place(&self) -> &str {
        match self {
            NpmPart::Link { place, .. }
            | NpmPart::Bundled { place, .. }
            | NpmPart::Script { place, .. } => place,
            NpmPart::Manager { name, .. } => name,
        }
    }

    pub(super) fn write(&self, words: &mut Words) {
        words.push(self.place());
        match self {
            NpmPart::Link { target, bins, .. } => {
                words.push(target);
                write_pairs(bins, words);
            }
            NpmPart::Bundled { bins, .. } => write_pairs(bins, words),
            NpmPart::Manager { version, program, .. } => {
                words.push(version).push(program);
            }
            NpmPart::Script { event, command, env, .. } => {
                words.push(event).push(command);
                write_pairs(env, words);
            }
        }
    }

    pub(super) fn parse<'a>(
        kind: &str,
        words: &mut impl Iterator<Item = &'a str>,
    ) -> Result<Self, String> {
        let place = Words::path(words, "place")?.into();
        match kind {
            "npm-link" => {
                let target = Words::path(words, "target")?.into();
                let bins = parse_pairs(words, "file of a command", Words::path)?;
                Ok(NpmPart::Link { place, target, bins })
            }
            "npm-bundled" => {
                let bins = parse_pairs(words, "file of a command", Words::path)?;
                Ok(NpmPart::Bundled { place, bins })
            }
            "npm-manager" => Ok(NpmPart::Manager {
                name: place,
                version: Words::next(words, "version")?.into(),
                program: Words::path(words, "program")?.into(),
            }),
            _ => Ok(NpmPart::Script {
                place,
                event: Words::next(words, "event")?.into(),
                command: Words::next(words, "command")?.into(),
                env: parse_pairs(words, "value", Words::next)?,
            }),
        }
    }
}

fn write_pairs(pairs: &[(Box<str>, Box<str>)], words: &mut Words) {
    for (name, value) in pairs {
        words.push(name).push(value);
    }
}

/// What is left of a line, two words at a time; `read` reads the second of them.
fn parse_pairs<'a>(
    words: &mut impl Iterator<Item = &'a str>,
    what: &str,
    read: fn(&mut std::option::IntoIter<&'a str>, &str) -> Result<String, String>,
) -> Result<Vec<Pair>, String> {
    let mut pairs = Vec::new();
    while let Some(name) = words.next() {
        let name = Words::next(&mut Some(name).into_iter(), "name")?;
        let value = read(&mut words.next().into_iter(), what)?;
        pairs.push((name.into(), value.into()));
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<NpmPin, String> {
        NpmPin::parse(&mut text.split(' '))
    }

    fn digest() -> String {
        format!("sha512:{}", "0".repeat(128))
    }

    #[test]
    fn a_pin_is_read_as_it_was_written() {
        let text = format!("@a/b 1.0.0 {} node_modules/b - b bin/b.js c%20d x", digest());
        let pin = read(&text).unwrap();
        assert_eq!(pin.bins, [("b".into(), "bin/b.js".into()), ("c d".into(), "x".into())]);
        let mut words = Words::default();
        pin.write(&mut words);
        assert_eq!(words.into_text().trim(), text);
    }

    #[test]
    fn what_leads_out_of_the_tree_is_refused() {
        for (place, path, bin) in [
            ("../x", "-", "x"),
            ("/x", "-", "x"),
            ("x", "../y", "x"),
            ("x", "file:/y", "x"),
            ("x", "file:a/../../y", "x"),
            ("x", "-", "../x"),
        ] {
            let text = format!("a 1.0.0 {} {place} {path} a {bin}", digest());
            assert!(read(&text).unwrap_err().ends_with("leads out"), "{text}");
        }
        let odd = format!("a 1.0.0 {} x - a", digest());
        assert_eq!(read(&odd).unwrap_err(), "the file of a command is missing");
    }
}
