//! Trees: what of a lock is installed on a platform, and where each part of it comes from.
//!
//! The rules are those of npm's clean installation: optional packages for other platforms are left out
//! with all that only they need, whole kinds of dependencies on demand, packages that a tarball brings
//! along are not fetched. Where a registry's tarball was when the lock was made does not matter: its
//! path follows from name and version, and its digest says whether it is the right one.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use url::Url;

use super::git_spec::{GitSpec, shown};
use super::lock::{LockFault, Locked, PackageLock};
use super::manifest::{Bins, bins};
use super::name::PackageName;
use super::workspaces::matching;
use crate::digest::Integrity;
use crate::platform::Platform;

/// Kinds of dependencies that are left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Omit {
    pub dev: bool,
    pub optional: bool,
    pub peer: bool,
}

/// Where a package's bytes come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A registry; the path that its tarball had there, if that is not the usual one.
    Registry(Option<String>),
    /// An address of its own.
    Address(Url),
    /// A file, relative to the project's directory.
    File(String),
    /// A commit, of which it is what npm would pack.
    Git(GitSpec),
}

/// A package of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    pub place: String,
    pub name: PackageName,
    pub version: String,
    /// `None` where the lock does not say it, and a registry or a repository has to.
    pub integrity: Option<Integrity>,
    pub origin: Origin,
    pub bins: Bins,
    /// Whether it wants to run something when it is installed.
    pub scripts: bool,
}

/// What is installed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    pub packages: Vec<Placed>,
    /// Packages that come in another one's tarball: place and commands.
    pub bundled: Vec<(String, Bins)>,
    /// Places of links to directories of the project, and those directories.
    pub links: Vec<(String, String)>,
}

/// npm's words for a platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    pub os: String,
    pub cpu: String,
    pub libc: String,
}

impl Machine {
    pub fn of(platform: Platform) -> Self {
        let cpu = match platform {
            Platform::Amd64 => "x64",
            Platform::Arm64 => "arm64",
        };
        Machine { os: "linux".to_owned(), cpu: cpu.to_owned(), libc: "glibc".to_owned() }
    }

    /// Whether lists of names, as packages have them, admit it.
    pub(super) fn admits(&self, os: &Value, cpu: &Value, libc: &Value) -> bool {
        let pairs = [(os, &self.os), (cpu, &self.cpu), (libc, &self.libc)];
        pairs.into_iter().all(|(list, own)| is_listed(list, own))
    }

    fn fits(&self, locked: &Locked) -> bool {
        self.admits(&locked.os, &locked.cpu, &locked.libc)
    }
}

/// Whether a list of names and of negated names admits one; no list admits all.
fn is_listed(list: &Value, own: &str) -> bool {
    let names: Vec<&str> = match list {
        Value::String(name) => vec![name],
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        _ => return true,
    };
    if names.is_empty() || names == ["any"] {
        return true;
    }
    let refused = names.iter().any(|name| name.strip_prefix('!') == Some(own));
    let negated = names.iter().filter(|name| name.starts_with('!')).count();
    !refused && (names.contains(&own) || negated == names.len())
}

/// A dependency: who asks, who is meant, and whether it may be missing.
struct Edge<'a> {
    from: &'a str,
    to: &'a str,
    optional: bool,
}

impl PackageLock {
    /// What is installed on a platform.
    pub fn tree(&self, platform: Platform, omit: Omit) -> Result<Tree, LockFault> {
        let machine = Machine::of(platform);
        let inert = self.inert(&machine);
        let workspaces = self.workspaces();
        let addresses = self.addresses();
        let mut tree = Tree::default();
        let mut kept = BTreeSet::new();
        for (place, locked) in &self.packages {
            let target = locked.resolved.as_deref().filter(|_| locked.link);
            let real = target.unwrap_or(place);
            let of_project = !place.is_empty() && is_installed(place);
            let flags = self.packages.get(real).unwrap_or(locked);
            let dropped = flags.extraneous
                || inert.contains(real)
                || is_omitted(flags, place, omit, &workspaces);
            let brought = self.bringer(place);
            if !of_project || dropped || brought.is_some_and(|place| !kept.contains(place)) {
                continue;
            }
            if !locked.optional && !machine.fits(locked) {
                return Err(self.foreign(place, locked));
            }
            kept.insert(place.as_str());
            match (target, brought) {
                (Some(target), _) => tree.links.push((place.clone(), target.to_owned())),
                (None, Some(_)) => tree.bundled.push((place.clone(), self.bins(place, locked)?)),
                (None, None) => tree.packages.push(self.placed(place, locked, &addresses)?),
            }
        }
        Ok(tree)
    }

    fn foreign(&self, place: &str, locked: &Locked) -> LockFault {
        let lists = [("os", &locked.os), ("cpu", &locked.cpu), ("libc", &locked.libc)];
        let said = lists.iter().filter(|(_, list)| !list.is_null());
        let wants: Vec<String> = said.map(|(what, list)| format!("{what} {list}")).collect();
        let (line, place) = (self.line(place), place.to_owned());
        LockFault::Platform { line, place, wants: wants.join(", ") }
    }

    /// The package whose tarball has the one at `place`; `None` for one that is fetched itself. What
    /// the project itself bundles is fetched for it.
    fn bringer<'a>(&self, place: &'a str) -> Option<&'a str> {
        let is_bundled = |place: &str| self.packages.get(place).is_some_and(|one| one.in_bundle);
        let mut at = place;
        while is_bundled(at) {
            // without a directory of packages above it, it is the project's
            let above = at[..at.rfind("node_modules/")?].trim_end_matches('/');
            if above.is_empty() || !is_installed(above) {
                return None;
            }
            at = above;
        }
        (at != place).then_some(at)
    }

    fn name(&self, place: &str, locked: &Locked) -> Result<PackageName, LockFault> {
        let own = place.rsplit_once("node_modules/").map_or(place, |(_, name)| name);
        let name = locked.manifest.name.as_deref().unwrap_or(own);
        name.parse().map_err(|error: super::PackageNameError| self.fault(place, error.to_string()))
    }

    fn bins(&self, place: &str, locked: &Locked) -> Result<Bins, LockFault> {
        Ok(bins(self.name(place, locked)?.as_str(), &locked.manifest.bin))
    }

    fn placed(
        &self,
        place: &str,
        locked: &Locked,
        addresses: &BTreeSet<&str>,
    ) -> Result<Placed, LockFault> {
        let name = self.name(place, locked)?;
        let version = locked.manifest.version.clone().unwrap_or_default();
        let origin = self.origin(place, locked, &name, addresses)?;
        if version.is_empty() && matches!(origin, Origin::Registry(_)) {
            return Err(self.fault(place, "has no version"));
        }
        let integrity = match &locked.integrity {
            // of a tarball that npm once made of it, if it has one
            _ if matches!(origin, Origin::Git(_)) => None,
            None if matches!(origin, Origin::Registry(_)) => None,
            None => {
                let reason = "has no `integrity`, so nothing says which bytes it is";
                return Err(self.fault(place, reason));
            }
            Some(text) => Some(Integrity::parse_sri(text).ok_or_else(|| {
                self.fault(place, format!("has an `integrity` that is none, `{text}`"))
            })?),
        };
        let bins = bins(name.as_str(), &locked.manifest.bin);
        let (place, scripts) = (place.to_owned(), locked.has_install_script);
        Ok(Placed { place, name, version, integrity, origin, bins, scripts })
    }

    fn origin(
        &self,
        place: &str,
        locked: &Locked,
        name: &PackageName,
        addresses: &BTreeSet<&str>,
    ) -> Result<Origin, LockFault> {
        let Some(resolved) = locked.resolved.as_deref().filter(|text| !text.is_empty()) else {
            return Ok(Origin::Registry(None));
        };
        if let Some(file) = resolved.strip_prefix("file:") {
            return Ok(Origin::File(file.to_owned()));
        }
        let url = Url::parse(resolved).ok();
        let url = url.filter(|url| ["http", "https"].contains(&url.scheme()));
        let Some(mut url) = url else {
            let (line, place) = (self.line(place), place.to_owned());
            let from = shown(resolved);
            let fault = |reason| LockFault::Git { line, place, from, reason };
            return resolved.parse().map(Origin::Git).map_err(fault);
        };
        url.set_fragment(None);
        if addresses.contains(resolved.split('#').next().unwrap_or_default()) {
            return Ok(Origin::Address(url));
        }
        let version = locked.manifest.version.as_deref().unwrap_or_default();
        let decoded = url.path().replace("%2f", "/").replace("%2F", "/").replace("%40", "@");
        let usual = format!("/{}", name.tarball_path(version));
        let path = decoded.trim_start_matches('/').to_owned();
        Ok(Origin::Registry((!decoded.ends_with(&usual)).then_some(path)))
    }

    /// Addresses that packages are asked for by.
    fn addresses(&self) -> BTreeSet<&str> {
        let specs = self.packages.values().flat_map(|locked| {
            let one = &locked.manifest;
            [&one.dependencies, &one.dev_dependencies, &one.optional_dependencies]
        });
        let texts = specs.flat_map(|specs| specs.values());
        let addresses =
            texts.filter(|spec| spec.starts_with("http://") || spec.starts_with("https://"));
        addresses.filter_map(|spec| spec.split('#').next()).collect()
    }

    /// Directories that are the project's own workspaces.
    fn workspaces(&self) -> BTreeSet<&str> {
        let places = self.packages.keys().map(String::as_str);
        matching(places.filter(|place| !is_installed(place)), self.root())
    }

    fn edges(&self) -> Vec<Edge<'_>> {
        let mut edges = Vec::new();
        for (from, locked) in self.packages.iter().filter(|(_, locked)| !locked.link) {
            let own = &locked.manifest;
            let mut add = |name: &str, optional: bool| {
                if let Some(to) = self.resolve(from, name) {
                    edges.push(Edge { from, to, optional });
                }
            };
            own.required().keys().for_each(|name| add(name, false));
            own.optional_dependencies.keys().for_each(|name| add(name, true));
            let peers = own.peer_dependencies.keys();
            peers.for_each(|name| add(name, own.is_optional_peer(name)));
            // of what is not installed itself
            if !is_installed(from) {
                own.dev_dependencies.keys().for_each(|name| add(name, false));
            }
        }
        edges
    }

    /// Packages that optional dependencies would bring and that cannot be used on a machine, with
    /// what needs them and with what nothing else needs.
    fn inert(&self, machine: &Machine) -> BTreeSet<&str> {
        let foreign = self.packages.iter().filter(|(_, one)| one.optional && !machine.fits(one));
        let foreign: Vec<&str> = foreign.map(|(place, _)| place.as_str()).collect();
        if foreign.is_empty() {
            return BTreeSet::new();
        }
        let edges = self.edges();
        let mut into: BTreeMap<&str, Vec<&Edge<'_>>> = BTreeMap::new();
        let mut out = into.clone();
        for edge in &edges {
            into.entry(edge.to).or_default().push(edge);
            out.entry(edge.from).or_default().push(edge);
        }
        let mut inert: BTreeSet<&str> = BTreeSet::new();
        for place in foreign {
            // up to where an optional dependency begins
            let mut set = BTreeSet::from([place]);
            spread(&mut set, |at, found| {
                let needed = into.get(at).into_iter().flatten().filter(|edge| !edge.optional);
                found.extend(needed.map(|edge| edge.from));
            });
            let start = set.clone();
            let counts = |edge: &&&Edge<'_>| !start.contains(edge.to) && !inert.contains(edge.from);
            spread(&mut set, |at, found| {
                let needs = out.get(at).into_iter().flatten();
                found.extend(needs.filter(counts).map(|edge| edge.to));
            });
            loop {
                let needed = |at: &&&str| {
                    let edges = into.get(**at).into_iter().flatten().filter(counts);
                    edges.into_iter().any(|edge| !set.contains(edge.from))
                };
                let Some(at) = set.iter().find(needed).copied() else { break };
                set.remove(at);
            }
            inert.extend(set);
        }
        inert
    }
}

/// Adds what `next` finds from each member of a set, until nothing is new.
fn spread<'a>(set: &mut BTreeSet<&'a str>, next: impl Fn(&str, &mut Vec<&'a str>)) {
    let mut queue: Vec<&str> = set.iter().copied().collect();
    while let Some(at) = queue.pop() {
        let mut found = Vec::new();
        next(at, &mut found);
        queue.extend(found.into_iter().filter(|one| set.insert(one)));
    }
}

/// Whether a place is below a `node_modules`.
fn is_installed(place: &str) -> bool {
    place.starts_with("node_modules/") || place.contains("/node_modules/")
}

/// Whole kinds are left out of what the project and its workspaces have; what lies elsewhere keeps
/// what it has.
fn is_omitted(locked: &Locked, place: &str, omit: Omit, workspaces: &BTreeSet<&str>) -> bool {
    let top = match place.find("node_modules/") {
        None => place,
        Some(at) => place[..at].trim_end_matches('/'),
    };
    if !top.is_empty() && !workspaces.contains(top) {
        return false;
    }
    let both = locked.dev_optional && omit.optional && omit.dev;
    both || locked.peer && omit.peer || locked.dev && omit.dev || locked.optional && omit.optional
}
