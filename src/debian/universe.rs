//! Every package that a resolution may choose: several archives' indexes, with the priorities that
//! decide between versions (apt_preferences(5)).
//!
//! Names are numbered once, so that the resolver works with numbers. The members' order is that of
//! the sources and counts: where apt cannot tell two providers apart, it goes by which name its
//! cache met first, and so does `Universe::met`.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rayon::prelude::*;

use super::packages::{Index, Package};
use super::relation::{Atom, parse_atoms};
use super::version::Version;

/// Priority of a suite that nothing is said about.
pub const PRIORITY: i32 = 500;

/// One index and where it comes from.
#[derive(Debug)]
pub struct Member {
    pub index: Index,
    /// `debian`, `debian-security`, or a repository's name.
    pub archive: String,
    /// As the declaration names it: `trixie`, `trixie-security`.
    pub suite: String,
    /// [`PRIORITY`], or what `Release::priority` says.
    pub priority: i32,
}

/// Which package: its place in the universe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PackageId(pub(super) u32);

/// A name that packages have or provide: its place in the universe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct NameId(pub(super) u32);

/// Who provides a name, and at which version.
type Provided = (PackageId, Option<Box<str>>);

/// What is known of a name.
#[derive(Debug)]
struct Name {
    text: Box<str>,
    versions: Vec<PackageId>,
    providers: Vec<Provided>,
}

/// Where a package's stanza is, and its name.
#[derive(Clone, Copy, Debug)]
struct Place {
    member: u16,
    at: u32,
    name: NameId,
}

/// All packages of one architecture, and of `all`.
#[derive(Debug)]
pub struct Universe {
    members: Vec<Member>,
    arch: String,
    packages: Vec<Place>,
    names: Vec<Name>,
    ids: HashMap<Box<str>, NameId>,
    met: OnceLock<Vec<u64>>,
}

impl Universe {
    /// `members` in the order of apt's sources.
    pub fn new(members: Vec<Member>, arch: &str) -> Self {
        let count = members.iter().map(|member| member.index.len()).sum();
        let mut universe = Universe {
            members: Vec::new(),
            arch: arch.to_owned(),
            packages: Vec::with_capacity(count),
            names: Vec::with_capacity(count),
            ids: HashMap::with_capacity(count),
            met: OnceLock::new(),
        };
        for (number, member) in members.iter().enumerate() {
            for (at, package) in member.index.packages().enumerate() {
                if package.arch() == arch || package.arch() == "all" {
                    // there are some hundred thousand packages at most, from some dozen indexes
                    universe.add(package, arch, (number as u16, at as u32));
                }
            }
        }
        universe.members = members;
        universe
    }

    fn add(&mut self, package: Package<'_>, arch: &str, (member, at): (u16, u32)) {
        let name = self.number(package.name());
        let id = PackageId(self.packages.len() as u32);
        self.packages.push(Place { member, at, name });
        self.names[name.0 as usize].versions.push(id);
        for atom in parse_atoms(package.provides(), arch) {
            let provided = self.number(atom.name);
            let entry = (id, atom.version.map(|(_, version)| version.into()));
            self.names[provided.0 as usize].providers.push(entry);
        }
    }

    fn number(&mut self, text: &str) -> NameId {
        if let Some(id) = self.ids.get(text) {
            return *id;
        }
        let id = NameId(self.names.len() as u32);
        self.names.push(Name { text: text.into(), versions: Vec::new(), providers: Vec::new() });
        self.ids.insert(text.into(), id);
        id
    }

    pub fn arch(&self) -> &str {
        &self.arch
    }

    pub fn len(&self) -> usize {
        self.packages.len()
    }

    pub fn is_empty(&self) -> bool {
        self.packages.is_empty()
    }

    pub fn ids(&self) -> impl Iterator<Item = PackageId> + use<> {
        (0..self.packages.len() as u32).map(PackageId)
    }

    pub fn get(&self, id: PackageId) -> Package<'_> {
        let place = self.packages[id.0 as usize];
        self.members[usize::from(place.member)].index.get(place.at as usize)
    }

    pub fn member(&self, id: PackageId) -> &Member {
        &self.members[usize::from(self.packages[id.0 as usize].member)]
    }

    /// All versions of a package, in the order of the members.
    pub fn named(&self, name: &str) -> &[PackageId] {
        self.find_name(name).map_or(&[], |name| self.versions(name))
    }

    /// All names that packages have, for suggestions.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().filter(|name| !name.versions.is_empty()).map(|name| &*name.text)
    }

    pub(super) fn name_count(&self) -> usize {
        self.names.len()
    }

    pub(super) fn find_name(&self, name: &str) -> Option<NameId> {
        self.ids.get(name).copied()
    }

    pub(super) fn name_of(&self, id: PackageId) -> NameId {
        self.packages[id.0 as usize].name
    }

    pub(super) fn text(&self, name: NameId) -> &str {
        &self.names[name.0 as usize].text
    }

    pub(super) fn versions(&self, name: NameId) -> &[PackageId] {
        &self.names[name.0 as usize].versions
    }

    /// Packages that satisfy an atom: versions of the name, then providers of it. An unversioned
    /// Provides satisfies no versioned relation (Debian Policy 7.5); `:any` is for packages that
    /// allow it, another architecture's packages are not in an image.
    pub fn satisfiers(&self, atom: &Atom<'_>) -> Vec<PackageId> {
        let any = match atom.arch {
            None | Some("native" | "all") => false,
            Some("any") => true,
            Some(arch) if arch == self.arch => false,
            Some(_) => return Vec::new(),
        };
        let Some(name) = self.ids.get(atom.name).map(|id| &self.names[id.0 as usize]) else {
            return Vec::new();
        };
        let allowed = |id: &PackageId| !any || self.get(*id).multi_arch() == "allowed";
        let real = name.versions.iter().filter(|id| atom.accepts(self.get(**id).version()));
        let provided = name.providers.iter().filter(|(_, version)| match (atom.version, version) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(_), Some(version)) => atom.accepts(version),
        });
        let mut ids: Vec<PackageId> =
            real.copied().chain(provided.map(|(id, _)| *id)).filter(allowed).collect();
        // a package may provide its own name, or one name twice
        let mut seen = Vec::with_capacity(ids.len());
        ids.retain(|id| {
            !seen.contains(id) && {
                seen.push(*id);
                true
            }
        });
        ids
    }

    /// When apt's cache meets a name first: by the stanzas' order, and the order in which it reads a
    /// stanza's fields. Small is early.
    pub(super) fn met(&self, name: NameId) -> u64 {
        self.met.get_or_init(|| self.meet())[name.0 as usize]
    }

    fn meet(&self) -> Vec<u64> {
        let met: Vec<AtomicU64> =
            std::iter::repeat_with(|| AtomicU64::new(u64::MAX)).take(self.names.len()).collect();
        self.packages.par_iter().enumerate().for_each(|(at, place)| {
            let package = self.get(PackageId(at as u32));
            let mut when = (at as u64) << 16;
            let mut meet = |name: NameId| {
                met[name.0 as usize].fetch_min(when, Relaxed);
                when += 1;
            };
            meet(place.name);
            let fields = [
                package.pre_depends(),
                package.depends(),
                package.conflicts(),
                package.breaks(),
                package.recommends(),
                package.suggests(),
                package.replaces(),
                package.enhances(),
                package.provides(),
            ];
            for word in fields.iter().flat_map(|field| field.split([',', '|'])) {
                let word = word.trim_ascii_start();
                let end = word.find(|c: char| c.is_ascii_whitespace() || "([<".contains(c));
                let name = &word[..end.unwrap_or(word.len())];
                // `name:any` is a name of its own to apt
                let name = name.strip_suffix(":native").unwrap_or(name);
                if let Some(id) = self.ids.get(name) {
                    meet(*id);
                }
            }
        });
        met.into_iter().map(AtomicU64::into_inner).collect()
    }

    /// Versions of a package, the one apt would choose first. A negative priority forbids a version.
    pub fn ranked(&self, name: &str, pins: &[PinRule]) -> Vec<PackageId> {
        let mut ids: Vec<(i32, Version<'_>, PackageId)> = self
            .named(name)
            .iter()
            .map(|id| (self.priority(*id, pins), Version::new(self.get(*id).version()), *id))
            .filter(|(priority, ..)| *priority >= 0)
            .collect();
        ids.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| b.1.cmp(&a.1)).then_with(|| a.2.cmp(&b.2)));
        ids.into_iter().map(|(.., id)| id).collect()
    }

    /// The priority of one version, with the user's rules.
    pub fn priority(&self, id: PackageId, pins: &[PinRule]) -> i32 {
        let (package, member) = (self.get(id), self.member(id));
        let rule =
            pins.iter().find(|rule| rule.applies(package.name(), package.version(), &member.suite));
        rule.map_or(member.priority, |rule| rule.priority)
    }
}

/// A preference of the user's (apt_preferences(5)); the first one that applies counts.
#[derive(Clone, Debug)]
pub struct PinRule {
    package: globset::GlobMatcher,
    version: Option<globset::GlobMatcher>,
    suite: Option<String>,
    pub priority: i32,
}

impl PinRule {
    /// `package` and `version` are globs. The priority is 990, that of apt's target release.
    pub fn new(
        package: &str,
        version: Option<&str>,
        suite: Option<&str>,
    ) -> Result<Self, globset::Error> {
        let glob = |text: &str| globset::Glob::new(text).map(|glob| glob.compile_matcher());
        Ok(PinRule {
            package: glob(package)?,
            version: version.map(glob).transpose()?,
            suite: suite.map(str::to_owned),
            priority: 990,
        })
    }

    fn applies(&self, name: &str, version: &str, suite: &str) -> bool {
        self.package.is_match(name)
            && self.version.as_ref().is_none_or(|glob| glob.is_match(version))
            && self.suite.as_ref().is_none_or(|wanted| wanted == suite)
    }
}
