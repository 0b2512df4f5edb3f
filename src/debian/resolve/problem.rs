//! A request over a universe, as both ways of solving it and the explanations see it: which versions
//! may be chosen, what each needs and forbids, in which order its needs are met.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use super::{BaseSet, Request, Unsolvable, Wanted};
use crate::debian::packages::Package;
use crate::debian::relation::{Atom, parse_atoms, parse_groups};
use crate::debian::universe::{NameId, PackageId, Universe};

/// Which field a group of alternatives comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `Pre-Depends` and `Depends`, and what is asked for.
    Depends,
    Recommends,
    Suggests,
}

/// Alternatives, one of which is needed.
#[derive(Debug)]
pub(super) struct Group<'u> {
    pub kind: Kind,
    pub atoms: Vec<Atom<'u>>,
    /// For each atom, every package that satisfies it.
    pub options: Vec<Vec<PackageId>>,
    /// Whether the layers below satisfy it.
    pub below: bool,
}

impl Group<'_> {
    pub fn all(&self) -> impl Iterator<Item = PackageId> {
        self.options.iter().flatten().copied()
    }

    /// `a (>= 1) | b`.
    pub fn label(&self) -> String {
        self.atoms.iter().map(Atom::label).collect::<Vec<_>>().join(" | ")
    }
}

/// What a package cannot stand beside.
#[derive(Debug)]
pub(super) struct Negative<'u> {
    /// `conflicts with` or `breaks`.
    pub verb: &'static str,
    pub atom: Atom<'u>,
    pub hits: Vec<PackageId>,
}

/// A package's relations, in the order in which apt looks at them.
#[derive(Debug)]
pub(super) struct Relations<'u> {
    pub groups: Vec<Group<'u>>,
    pub negatives: Vec<Negative<'u>>,
}

/// Something that is asked for.
#[derive(Debug)]
pub(super) struct Want<'u> {
    pub group: Group<'u>,
}

/// A package of the layers below.
#[derive(Clone, Copy, Debug)]
struct Installed<'u> {
    name: &'u str,
    version: &'u str,
    /// What is known of its relations.
    like: Option<Package<'u>>,
}

/// Why a package may not be chosen, whatever else is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Forbidden {
    Excluded,
    /// The layers below bring this version of it.
    Other(String),
    /// It conflicts with a package of the layers below, or the other way round.
    Against {
        one: String,
        verb: &'static str,
        label: String,
        two: String,
    },
    /// The request asks for another version of it.
    Limited,
    /// A pin forbids it.
    Pinned,
}

pub(super) struct Problem<'u> {
    pub universe: &'u Universe,
    pub request: &'u Request,
    pub wanted: Vec<Want<'u>>,
    below: HashMap<&'u str, Installed<'u>>,
    /// By name: who of the layers below provides it, at which version.
    provided: HashMap<&'u str, Vec<(Installed<'u>, Option<&'u str>)>>,
    /// What packages of the layers below cannot stand beside.
    struck: HashMap<PackageId, Forbidden>,
    limits: HashMap<NameId, Vec<&'u Wanted>>,
    relations: RefCell<HashMap<PackageId, Rc<Relations<'u>>>>,
    allowed: RefCell<HashMap<NameId, Rc<[PackageId]>>>,
}

impl<'u> Problem<'u> {
    pub fn new(universe: &'u Universe, request: &'u Request) -> Result<Self, Unsolvable> {
        let mut problem = Problem {
            universe,
            request,
            wanted: Vec::new(),
            below: read_below(universe, request),
            provided: HashMap::new(),
            struck: HashMap::new(),
            limits: HashMap::new(),
            relations: RefCell::default(),
            allowed: RefCell::default(),
        };
        problem.read_installed();
        for name in base_names(universe, request.base) {
            problem.want(Atom { name, arch: None, version: None });
        }
        for wanted in &request.packages {
            problem.add(wanted)?;
        }
        Ok(problem)
    }

    fn read_installed(&mut self) {
        let universe = self.universe;
        let known = self.below.values().copied().filter_map(|one| Some((one, one.like?)));
        let known: Vec<(Installed<'u>, Package<'u>)> = known.collect();
        for (one, like) in known {
            for atom in parse_atoms(like.provides(), universe.arch()) {
                // most versions of Provides are the package's own
                let version = atom.version.map(|(_, version)| match version == like.version() {
                    true => one.version,
                    false => version,
                });
                self.provided.entry(atom.name).or_default().push((one, version));
            }
            for (verb, field) in [("conflicts with", like.conflicts()), ("breaks", like.breaks())] {
                for atom in parse_atoms(field, universe.arch()) {
                    for id in self.others(&atom, like) {
                        let against = Forbidden::Against {
                            one: one.name.to_owned(),
                            verb,
                            label: atom.label(),
                            two: universe.get(id).name().to_owned(),
                        };
                        self.struck.entry(id).or_insert(against);
                    }
                }
            }
        }
    }

    /// Takes one request up, or says why it cannot be met whatever else is asked.
    fn add(&mut self, wanted: &'u Wanted) -> Result<(), Unsolvable> {
        let atom = wanted.atom();
        if let Some(one) = self.below.get(atom.name) {
            if atom.accepts(one.version) {
                return Ok(());
            }
            let (name, version) = (one.name.to_owned(), one.version.to_owned());
            return Err(Unsolvable::Below { wanted: atom.label(), name, version });
        }
        if self.request.exclude.contains(atom.name) {
            return Err(Unsolvable::Excluded { name: atom.name.to_owned() });
        }
        self.check(&atom)?;
        if let Some(id) = self.universe.find_name(atom.name)
            && atom.version.is_some()
        {
            self.limits.entry(id).or_default().push(wanted);
        }
        self.want(atom);
        Ok(())
    }

    fn check(&self, atom: &Atom<'_>) -> Result<(), Unsolvable> {
        let universe = self.universe;
        let name = atom.name;
        let known = universe.named(name);
        let virtually = universe.satisfiers(&Atom { name, arch: None, version: None });
        if known.is_empty() && virtually.is_empty() && !self.is_below(atom) {
            let nearest = nearest_name(universe, name);
            return Err(Unsolvable::NoPackage { name: name.to_owned(), nearest });
        }
        if known.is_empty() || known.iter().any(|id| atom.accepts(universe.get(*id).version())) {
            return Ok(());
        }
        let list = |id: &PackageId| {
            format!("{} of {}", universe.get(*id).version(), universe.member(*id).suite)
        };
        let found = known.iter().map(list).collect::<Vec<_>>().join(", ");
        Err(Unsolvable::NoVersion { wanted: atom.label(), found })
    }

    fn want(&mut self, atom: Atom<'u>) {
        let mut group = self.group(Kind::Depends, vec![atom]);
        // who asks for a package by its name wants none that only provides it
        if !self.universe.named(atom.name).is_empty() {
            let named = |id: &PackageId| self.universe.get(*id).name() == atom.name;
            group.options[0].retain(named);
        }
        self.wanted.push(Want { group });
    }

    fn group(&self, kind: Kind, atoms: Vec<Atom<'u>>) -> Group<'u> {
        let options = atoms.iter().map(|atom| self.universe.satisfiers(atom)).collect();
        let below = atoms.iter().any(|atom| self.is_below(atom));
        Group { kind, atoms, options, below }
    }

    /// Whether the layers below satisfy an atom.
    fn is_below(&self, atom: &Atom<'_>) -> bool {
        self.below_by(atom).is_some()
    }

    fn below_by(&self, atom: &Atom<'_>) -> Option<Installed<'u>> {
        let own = [None, Some("native"), Some("all"), Some(self.universe.arch())];
        let allows =
            |one: &Installed<'_>| one.like.is_some_and(|like| like.multi_arch() == "allowed");
        let fits = |one: &Installed<'_>| {
            own.contains(&atom.arch) || (atom.arch == Some("any") && allows(one))
        };
        let real = self.below.get(atom.name).filter(|one| atom.accepts(one.version) && fits(one));
        let provided = || {
            self.provided.get(atom.name).into_iter().flatten().find(|(one, version)| {
                let accepted = match (atom.version, version) {
                    (None, _) => true,
                    (Some(_), None) => false,
                    (Some(_), Some(version)) => atom.accepts(version),
                };
                accepted && fits(one)
            })
        };
        real.copied().or_else(|| provided().map(|(one, _)| *one))
    }

    /// Whether a package was asked for.
    pub fn is_wanted(&self, id: PackageId) -> bool {
        self.wanted.iter().any(|want| want.group.all().any(|option| option == id))
    }

    pub fn relations(&self, id: PackageId) -> Rc<Relations<'u>> {
        if let Some(relations) = self.relations.borrow().get(&id) {
            return relations.clone();
        }
        let relations = Rc::new(self.read_relations(id));
        self.relations.borrow_mut().insert(id, relations.clone());
        relations
    }

    fn read_relations(&self, id: PackageId) -> Relations<'u> {
        let package = self.universe.get(id);
        let arch = self.universe.arch();
        let positive = [
            (Kind::Depends, package.pre_depends()),
            (Kind::Depends, package.depends()),
            (Kind::Recommends, package.recommends()),
            (Kind::Suggests, package.suggests()),
        ];
        let groups = positive
            .into_iter()
            .flat_map(|(kind, field)| parse_groups(field, arch).map(move |atoms| (kind, atoms)));
        let negative = [("conflicts with", package.conflicts()), ("breaks", package.breaks())];
        let negatives = negative.into_iter().flat_map(|(verb, field)| {
            parse_atoms(field, arch).map(move |atom| Negative {
                verb,
                atom,
                // no version of a package conflicts with the package itself
                hits: self.others(&atom, package),
            })
        });
        Relations {
            groups: groups.map(|(kind, atoms)| self.group(kind, atoms)).collect(),
            negatives: negatives.collect(),
        }
    }

    fn others(&self, atom: &Atom<'_>, package: Package<'_>) -> Vec<PackageId> {
        let mut hits = self.universe.satisfiers(atom);
        hits.retain(|hit| self.universe.get(*hit).name() != package.name());
        hits
    }

    /// Why a package may not be chosen; versions that lose against another are not forbidden.
    pub fn find_forbidden(&self, id: PackageId) -> Option<Forbidden> {
        let package = self.universe.get(id);
        if let Some(one) = self.below.get(package.name()) {
            return Some(Forbidden::Other(one.version.to_owned()));
        }
        if self.request.exclude.contains(package.name()) {
            return Some(Forbidden::Excluded);
        }
        if let Some(struck) = self.struck.get(&id) {
            return Some(struck.clone());
        }
        let name = self.universe.name_of(id);
        let mut limits = self.limits.get(&name).into_iter().flatten();
        if limits.any(|wanted| !wanted.atom().accepts(package.version())) {
            return Some(Forbidden::Limited);
        }
        if self.universe.priority(id, &self.request.rules) < 0 {
            return Some(Forbidden::Pinned);
        }
        if self.below.is_empty() {
            return None;
        }
        self.relations(id).negatives.iter().find_map(|negative| {
            let two = self.below_by(&negative.atom).filter(|two| two.name != package.name())?;
            Some(Forbidden::Against {
                one: package.name().to_owned(),
                verb: negative.verb,
                label: negative.atom.label(),
                two: two.name.to_owned(),
            })
        })
    }

    /// Versions that may be chosen, the best first: what the lock had, then as apt ranks them.
    pub fn allowed(&self, name: NameId) -> Rc<[PackageId]> {
        if let Some(allowed) = self.allowed.borrow().get(&name) {
            return allowed.clone();
        }
        let text = self.universe.text(name);
        let mut ids = self.universe.ranked(text, &self.request.rules);
        ids.retain(|id| self.find_forbidden(*id).is_none());
        ids.sort_by_key(|id| !self.is_preferred(*id));
        let allowed: Rc<[PackageId]> = ids.into();
        self.allowed.borrow_mut().insert(name, allowed.clone());
        allowed
    }

    /// Whether the lock had this very version.
    pub fn is_preferred(&self, id: PackageId) -> bool {
        if self.request.prefer.is_empty() {
            return false;
        }
        let package = self.universe.get(id);
        self.request.prefer.get(package.name()).is_some_and(|version| version == package.version())
    }

    /// The version that apt would look at.
    pub fn candidate(&self, name: NameId) -> Option<PackageId> {
        self.allowed(name).first().copied()
    }

    /// Candidates that satisfy a group, in apt's order.
    pub fn solutions(&self, group: &Group<'_>) -> Vec<PackageId> {
        let candidate = |id| self.candidate(self.universe.name_of(id)) == Some(id);
        self.sorted_solutions(group, candidate, |_| false)
    }

    /// Packages of a group that are `usable`, in apt's order: alternative by alternative, within
    /// each those that come `first`, the name itself, essential and protected ones, by priority, and
    /// at last those whose names apt met late. What the lock had goes before all that, as for apt
    /// what is installed does.
    pub fn sorted_solutions(
        &self,
        group: &Group<'_>,
        usable: impl Fn(PackageId) -> bool,
        first: impl Fn(PackageId) -> bool,
    ) -> Vec<PackageId> {
        let mut solutions = Vec::new();
        for (atom, options) in group.atoms.iter().zip(&group.options) {
            let mut usable: Vec<_> = options.iter().copied().filter(|id| usable(*id)).collect();
            if usable.len() > 1 {
                usable.sort_by_cached_key(|id| (!first(*id), self.standing(*id, atom)));
            }
            for id in usable {
                if !solutions.contains(&id) {
                    solutions.push(id);
                }
            }
        }
        solutions.sort_by_key(|id| !self.is_preferred(*id));
        solutions
    }

    /// Where a package stands among those that satisfy an atom; small is first.
    fn standing(&self, id: PackageId, atom: &Atom<'_>) -> (bool, bool, bool, usize, u64) {
        let package = self.universe.get(id);
        let priorities = ["", "required", "important", "standard", "optional"];
        let priority = priorities.iter().position(|name| *name == package.priority());
        (
            atom.arch == Some("any") || package.name() != atom.name,
            !package.is_essential(),
            !package.is_protected(),
            priority.unwrap_or(priorities.len()),
            u64::MAX - self.universe.met(self.universe.name_of(id)),
        )
    }
}

fn read_below<'u>(universe: &'u Universe, request: &'u Request) -> HashMap<&'u str, Installed<'u>> {
    let like = |name: &str, version: &str| {
        let ranked = universe.ranked(name, &request.rules);
        let same = ranked.iter().find(|id| universe.get(**id).version() == version);
        same.or(ranked.first()).map(|id| universe.get(*id))
    };
    let read = |(name, version): (&'u String, &'u String)| {
        (name.as_str(), Installed { name, version, like: like(name, version) })
    };
    request.installed.iter().map(read).collect()
}

fn base_names(universe: &Universe, base: BaseSet) -> Vec<&str> {
    let belongs = |package: &Package<'_>| match base {
        BaseSet::Required => {
            package.is_essential() || package.priority() == "required" || package.name() == "apt"
        }
        BaseSet::Essential => package.is_essential(),
        BaseSet::None => false,
    };
    if base == BaseSet::None {
        return Vec::new();
    }
    let packages = universe.ids().map(|id| universe.get(id)).filter(belongs);
    let mut names: Vec<&str> = packages.map(|package| package.name()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn nearest_name(universe: &Universe, name: &str) -> Option<String> {
    let near = universe.names().filter(|other| other.len().abs_diff(name.len()) <= 4);
    let (distance, nearest) =
        near.map(|other| (strsim::damerau_levenshtein(name, other), other)).min()?;
    (distance <= 2 + name.len() / 6).then(|| nearest.to_owned())
}
