//! Every package that a resolution may choose: several archives' indexes, with the priorities that
//! decide between versions (apt_preferences(5)).

use std::collections::HashMap;

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
    pub suite: String,
    pub priority: i32,
}

/// Which package: its place in the universe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PackageId(pub(super) u32);

/// Who provides a name, and at which version.
type Provided = (PackageId, Option<Box<str>>);

/// All packages of one architecture, and of `all`.
#[derive(Debug)]
pub struct Universe {
    members: Vec<Member>,
    arch: String,
    packages: Vec<(u16, u32)>,
    names: HashMap<Box<str>, Vec<PackageId>>,
    provided: HashMap<Box<str>, Vec<Provided>>,
}

impl Universe {
    pub fn new(members: Vec<Member>, arch: &str) -> Self {
        let mut universe = Universe {
            members,
            arch: arch.to_owned(),
            packages: Vec::new(),
            names: HashMap::new(),
            provided: HashMap::new(),
        };
        universe.fill();
        universe
    }

    fn fill(&mut self) {
        for (number, member) in self.members.iter().enumerate() {
            for (at, package) in member.index.packages().enumerate() {
                if package.arch() != self.arch && package.arch() != "all" {
                    continue;
                }
                // an image has some hundred thousand packages at most, from some dozen indexes
                let id = PackageId(self.packages.len() as u32);
                self.packages.push((number as u16, at as u32));
                match self.names.get_mut(package.name()) {
                    Some(ids) => ids.push(id),
                    None => drop(self.names.insert(package.name().into(), vec![id])),
                }
                for atom in parse_atoms(package.provides(), &self.arch) {
                    let entry = (id, atom.version.map(|(_, version)| version.into()));
                    self.provided.entry(atom.name.into()).or_default().push(entry);
                }
            }
        }
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
        let (member, at) = self.packages[id.0 as usize];
        self.members[usize::from(member)].index.get(at as usize)
    }

    pub fn member(&self, id: PackageId) -> &Member {
        &self.members[usize::from(self.packages[id.0 as usize].0)]
    }

    /// All versions of a package.
    pub fn named(&self, name: &str) -> &[PackageId] {
        self.names.get(name).map_or(&[], Vec::as_slice)
    }

    /// All names, for suggestions.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(|name| &**name)
    }

    /// Packages that provide what the atom asks for. An unversioned Provides satisfies no versioned
    /// relation (Debian Policy 7.5).
    pub fn providers(&self, atom: &Atom<'_>) -> impl Iterator<Item = PackageId> {
        let atom = *atom;
        self.provided.get(atom.name).into_iter().flatten().filter_map(move |(id, version)| {
            let accepted = match (atom.version, version) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(_), Some(version)) => atom.accepts(version),
            };
            accepted.then_some(*id)
        })
    }

    /// Whether this very package satisfies the atom, by its name or by what it provides.
    pub fn satisfies(&self, id: PackageId, atom: &Atom<'_>) -> bool {
        let package = self.get(id);
        (package.name() == atom.name && atom.accepts(package.version()))
            || self.providers(atom).any(|provider| provider == id)
    }

    /// Versions of a package, the one apt would choose first.
    pub fn ranked(&self, name: &str, rules: &[PinRule]) -> Vec<PackageId> {
        let mut ids = self.named(name).to_vec();
        ids.sort_by(|a, b| {
            let rank = |id: PackageId| self.priority(id, rules);
            rank(*b)
                .cmp(&rank(*a))
                .then_with(|| {
                    Version::new(self.get(*b).version()).cmp(&Version::new(self.get(*a).version()))
                })
                .then_with(|| a.cmp(b))
        });
        ids
    }

    /// The priority of one version, with the user's rules.
    pub fn priority(&self, id: PackageId, rules: &[PinRule]) -> i32 {
        let (package, member) = (self.get(id), self.member(id));
        let rule = rules
            .iter()
            .find(|rule| rule.applies(package.name(), package.version(), &member.suite));
        rule.map_or(member.priority, |rule| rule.priority)
    }
}

/// A preference of the user's (apt_preferences(5)).
#[derive(Clone, Debug)]
pub struct PinRule {
    package: globset::GlobMatcher,
    version: Option<globset::GlobMatcher>,
    suite: Option<String>,
    pub priority: i32,
}

impl PinRule {
    /// `package` and `version` are globs.
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
