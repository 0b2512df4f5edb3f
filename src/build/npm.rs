//! Trees of npm's packages: many tarballs, one delta.
//!
//! Pure: what comes out depends on the tarballs' bytes and on the lock. Each tarball is opened and
//! unpacked once, however many places of the tree have it, and held against its digest on the way. The
//! result is what npm's own clean installation leaves, but for two things: times are the format's, and
//! `node_modules/.package-lock.json`, which repeats the lock for npm's own speed and names the registry,
//! is not there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{Cursor, Read, Write};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::assembly::{Assembly, AssemblyError};
use super::listing::Listing;
use crate::blame::Blame;
use crate::digest::Integrity;
use crate::entry::{Claim, Entry, Kind, Meta};
use crate::lock::{NpmPart, NpmPin};
use crate::npm::{Bringer, Command, Item, ItemKind, TarballError, commands};
use crate::path::{LayerPath, PathError};
use crate::plan::NpmWork;

/// How far a command's first line is looked for.
const FIRST_LINE: u64 = 2048;

/// Why a tree cannot be laid.
#[derive(Debug, thiserror::Error)]
pub enum NpmError {
    #[error("npm package `{package}`: {source}")]
    Tarball { package: String, integrity: Integrity, source: TarballError },
    #[error("npm package `{package}`: {source}")]
    Layout { package: String, source: AssemblyError },
    #[error(transparent)]
    Path(#[from] PathError),
    #[error(transparent)]
    Assembly(#[from] AssemblyError),
}

impl NpmError {
    pub fn blame(&self) -> Blame {
        match self {
            NpmError::Tarball { source, .. } => source.blame(),
            NpmError::Layout { .. } => Blame::Input,
            _ => Blame::World,
        }
    }
}

/// Raised while a tarball is read.
enum Raised {
    Tarball(TarballError),
    Layout(AssemblyError),
    Path(PathError),
}

impl From<TarballError> for Raised {
    fn from(error: TarballError) -> Self {
        Raised::Tarball(error)
    }
}

impl Raised {
    fn of(self, pin: &NpmPin) -> NpmError {
        let package = pin.label();
        match self {
            Raised::Tarball(source) => {
                NpmError::Tarball { package, integrity: pin.integrity, source }
            }
            Raised::Layout(source) => NpmError::Layout { package, source },
            Raised::Path(error) => NpmError::Path(error),
        }
    }
}

/// A tree being laid.
struct Laying<'a> {
    root: &'a LayerPath,
    assembly: Assembly,
    /// Files that commands are linked to, by their full path.
    programs: BTreeSet<LayerPath>,
}

/// Lays a tree into the empty directory `tree` and writes the tar; `blob` says where a tarball is.
pub fn lay(
    work: &NpmWork,
    blob: &(dyn Fn(&Integrity) -> PathBuf + Sync),
    tree: &Path,
    tar: &mut dyn Write,
) -> Result<Listing, NpmError> {
    let commands = all_commands(work);
    let mut programs = BTreeSet::new();
    for command in &commands {
        let file = format!("{}/{}", command.place, command.file);
        programs.insert(work.root.join(file.as_bytes())?);
    }
    let laying = Laying { root: &work.root, assembly: Assembly::new(tree)?, programs };
    let mut tarballs: BTreeMap<Integrity, Vec<(u32, &NpmPin)>> = BTreeMap::new();
    for (origin, pin) in (1..).zip(&work.packages) {
        tarballs.entry(pin.integrity).or_default().push((origin, pin));
    }
    let size = |integrity: &Integrity| blob(integrity).metadata().map_or(0, |meta| meta.len());
    let mut tarballs: Vec<(u64, Vec<(u32, &NpmPin)>)> =
        tarballs.into_iter().map(|(integrity, pins)| (size(&integrity), pins)).collect();
    // the largest first, so that none of them is what is waited for in the end
    tarballs.sort_by_key(|(size, _)| std::cmp::Reverse(*size));
    tarballs.par_iter().with_max_len(1).try_for_each(|(_, pins)| {
        let Some((_, first)) = pins.first() else { return Ok(()) };
        laying.put_tarball(pins, &blob(&first.integrity)).map_err(|error| error.of(first))
    })?;
    laying.put_links(work, &commands)?;
    let places: HashMap<u32, usize> =
        (1..).zip(&work.packages).map(|(origin, pin)| (origin, pin.place.len())).collect();
    // what a package brings of its own goes behind what the lock puts there
    let deeper = |_: &LayerPath, one: u32, two: u32| {
        Ok::<_, NpmError>(if places.get(&one) > places.get(&two) { one } else { two })
    };
    laying.assembly.finish(deeper, tar)
}

fn all_commands(work: &NpmWork) -> Vec<Command> {
    let packages = work.packages.iter().map(|pin| Bringer {
        place: &pin.place,
        is_link: false,
        bins: &pin.bins,
    });
    let parts = work.parts.iter().filter_map(|part| match part {
        NpmPart::Link { place, bins, .. } => Some(Bringer { place, is_link: true, bins }),
        NpmPart::Bundled { place, bins } => Some(Bringer { place, is_link: false, bins }),
        NpmPart::Manager { .. } | NpmPart::Script { .. } => None,
    });
    commands(&packages.chain(parts).collect::<Vec<_>>())
}

impl Laying<'_> {
    fn put_tarball(&self, pins: &[(u32, &NpmPin)], blob: &Path) -> Result<(), Raised> {
        let Some((_, first)) = pins.first() else { return Ok(()) };
        let tarball = first.open(blob)?;
        for (origin, pin) in pins {
            let place = self.root.join(pin.place.as_bytes()).map_err(Raised::Path)?;
            tarball.visit(|item, body| self.put(*origin, &place, &item, body))?;
        }
        Ok(())
    }

    fn put(
        &self,
        origin: u32,
        place: &LayerPath,
        item: &Item,
        body: &mut dyn Read,
    ) -> Result<(), Raised> {
        let path = place.join(item.path.as_bytes()).map_err(Raised::Path)?;
        let size = match item.kind {
            ItemKind::Dir => {
                let kind = Kind::Dir(Claim::Shipped);
                let entry = Entry { path, meta: Meta::root(item.mode), kind };
                return self.assembly.put(origin, entry, body).map_err(Raised::Layout);
            }
            ItemKind::File(size) => size,
        };
        if self.programs.contains(&path) {
            return self.put_program(origin, path, size, body);
        }
        let entry = Entry { path, meta: Meta::root(item.mode), kind: Kind::File(size) };
        self.assembly.put(origin, entry, body).map_err(Raised::Layout)
    }

    /// What a command is linked to may be executed, and its first line has no carriage return, which
    /// no kernel would understand.
    fn put_program(
        &self,
        origin: u32,
        path: LayerPath,
        size: u64,
        body: &mut dyn Read,
    ) -> Result<(), Raised> {
        let read = |source| Raised::Layout(AssemblyError::Body { path: path.clone(), source });
        let mut start = Vec::new();
        body.take(FIRST_LINE).read_to_end(&mut start).map_err(read)?;
        let entry =
            |size| Entry { path: path.clone(), meta: Meta::root(0o755), kind: Kind::File(size) };
        if !has_carriage_return(&start) {
            let mut whole = Cursor::new(start).chain(body);
            return self.assembly.put(origin, entry(size), &mut whole).map_err(Raised::Layout);
        }
        body.read_to_end(&mut start).map_err(read)?;
        // npm rewrites it as text
        let fixed = String::from_utf8_lossy(&start).replacen("\r\n", "\n", 1);
        let entry = entry(fixed.len() as u64);
        self.assembly.put(origin, entry, &mut fixed.as_bytes()).map_err(Raised::Layout)
    }

    /// Links to directories of the project, and to commands that are there.
    fn put_links(&self, work: &NpmWork, commands: &[Command]) -> Result<(), NpmError> {
        let links: BTreeSet<&str> = work
            .parts
            .iter()
            .filter(|part| matches!(part, NpmPart::Link { .. }))
            .map(NpmPart::place)
            .collect();
        for part in &work.parts {
            if let NpmPart::Link { place, target, .. } = part {
                self.put_link(place, &up(place, target))?;
            }
        }
        let linked = commands.iter().filter(|_| !work.is_global);
        for command in linked {
            let file = format!("{}/{}", command.place, command.file);
            let file = self.root.join(file.as_bytes())?;
            // what lies behind a link was looked at when it was locked
            if links.contains(&*command.place) || self.assembly.has(&file) {
                self.put_link(&command.link, &command.target)?;
            }
        }
        Ok(())
    }

    fn put_link(&self, place: &str, target: &str) -> Result<(), NpmError> {
        let entry = Entry {
            path: self.root.join(place.as_bytes())?,
            meta: Meta::root(0o777),
            kind: Kind::Symlink(target.as_bytes().into()),
        };
        Ok(self.assembly.put(0, entry, &mut std::io::empty())?)
    }
}

/// Whether the first line of a script ends in `\r\n`.
fn has_carriage_return(start: &[u8]) -> bool {
    let end = start.iter().position(|byte| *byte == b'\n');
    start.starts_with(b"#!") && end.is_some_and(|end| end > 3 && start[end - 1] == b'\r')
}

/// From the directory of `place` to `target`, both below one root.
fn up(place: &str, target: &str) -> String {
    let dir: Vec<&str> = place.split('/').collect();
    let dir = &dir[..dir.len() - 1];
    let to: Vec<&str> = target.split('/').filter(|part| !part.is_empty()).collect();
    let common = dir.iter().zip(&to).take_while(|(one, two)| one == two).count();
    let ups = std::iter::repeat_n("..", dir.len() - common);
    ups.chain(to[common..].iter().copied()).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_relative() {
        assert_eq!(up("node_modules/a", "packages/a"), "../packages/a");
        assert_eq!(up("node_modules/@s/a", "packages/a"), "../../packages/a");
        assert_eq!(up("w/node_modules/b", "w/b"), "../b");
    }

    #[test]
    fn only_the_first_line_of_a_script_counts() {
        assert!(has_carriage_return(b"#!/usr/bin/env node\r\nx"));
        for other in [&b"#!/bin/sh\nx\r\n"[..], b"x\r\n", b"#!\r\n", b"#!/bin/sh\r"] {
            assert!(!has_carriage_return(other));
        }
    }
}
