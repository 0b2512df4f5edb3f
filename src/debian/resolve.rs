//! Which packages an image gets: a satisfiability problem, asked in apt's order of preference.
//!
//! One name of the solver is one package; each version is a solvable. A group of alternatives is an
//! ordered union: the real package's versions, then its providers. Conflicts and Breaks are
//! constraints on the other package's versions. Packages of the layers below are the only version of
//! their name and are required, so nothing can upgrade, remove or contradict them. The solver
//! guarantees that the set is sound; that it is the set apt would choose is held by
//! `tests/apt_parity.rs`.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Display;

use resolvo::{
    Candidates, Condition, ConditionId, ConditionalRequirement, Dependencies, DependencyProvider,
    HintDependenciesAvailable, Interner, KnownDependencies, NameId, Problem, Requirement,
    SolvableId, Solver, SolverCache, StringId, UnsolvableOrCancelled, VersionSetId,
    VersionSetUnionId,
};

use super::packages::Package;
use super::relation::{Atom, parse_atoms, parse_groups};
use super::universe::{PackageId, PinRule, Universe};
use super::version::Relation;

/// Which packages stand below everything that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseSet {
    Required,
    Essential,
    None,
}

/// A package that is asked for by name.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub name: String,
    pub version: Option<(Relation, String)>,
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Request {
    pub base: BaseSet,
    pub packages: Vec<Wanted>,
    pub recommends: bool,
    pub exclude: BTreeSet<String>,
    pub rules: Vec<PinRule>,
    /// Packages of the layers below: name and version.
    pub installed: BTreeMap<String, String>,
    /// Versions to keep where possible: what the lock had.
    pub prefer: BTreeMap<String, String>,
}

/// One package of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    pub id: PackageId,
    /// Whether it only came along.
    pub auto: bool,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Unsolvable {
    #[error("there is no package `{name}`{}", suggestion(.nearest.as_deref()))]
    NoPackage { name: String, nearest: Option<String> },
    #[error("no version of `{name}` is {relation} {version}: there is {found}")]
    NoVersion { name: String, relation: Relation, version: String, found: String },
    #[error("no set of packages satisfies the request:\n{0}")]
    Conflict(String),
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map(|name| format!(" (did you mean `{name}`?)")).unwrap_or_default()
}

/// Solves a request; the packages of the layers below are not in the answer. Sorted by name.
pub fn resolve(universe: &Universe, request: &Request) -> Result<Vec<Chosen>, Unsolvable> {
    let mut wanted = base_names(universe, request.base);
    wanted.extend(request.packages.iter().cloned());
    for want in &wanted {
        check_wanted(universe, want)?;
    }
    let mut extra: Vec<String> = Vec::new();
    let mut chosen = solve(universe, request, &wanted, &extra)?;
    if request.recommends {
        loop {
            let more = recommended(universe, request, &chosen, &extra);
            let Some(grown) = grow(universe, request, &wanted, &mut extra, more) else { break };
            chosen = grown;
        }
    }
    Ok(mark(universe, request, &wanted, chosen))
}

fn base_names(universe: &Universe, base: BaseSet) -> Vec<Wanted> {
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
    let names: BTreeSet<&str> = universe
        .ids()
        .map(|id| universe.get(id))
        .filter(belongs)
        .map(|package| package.name())
        .collect();
    names.into_iter().map(|name| Wanted { name: name.to_owned(), version: None }).collect()
}

fn check_wanted(universe: &Universe, want: &Wanted) -> Result<(), Unsolvable> {
    let Wanted { name, version } = want;
    let atom = Atom { name, arch: None, version: None };
    let known = universe.named(name);
    if known.is_empty() && universe.providers(&atom).next().is_none() {
        let distance = |other: &&str| strsim::damerau_levenshtein(name, other);
        let nearest = universe.names().min_by_key(|other| (distance(other), *other));
        let nearest =
            nearest.filter(|other| distance(other) <= 2 + name.len() / 6).map(str::to_owned);
        return Err(Unsolvable::NoPackage { name: name.clone(), nearest });
    }
    let Some((relation, wanted)) = version else { return Ok(()) };
    let versions: Vec<&str> = known.iter().map(|id| universe.get(*id).version()).collect();
    if versions.iter().any(|found| relation.holds(found, wanted)) {
        return Ok(());
    }
    let found = if versions.is_empty() { "none".to_owned() } else { versions.join(", ") };
    Err(Unsolvable::NoVersion {
        name: name.clone(),
        relation: *relation,
        version: wanted.clone(),
        found,
    })
}

/// Recommended groups that the chosen set does not satisfy: the first installable name of each.
fn recommended(
    universe: &Universe,
    request: &Request,
    chosen: &[PackageId],
    extra: &[String],
) -> Vec<String> {
    let satisfied = |group: &[Atom<'_>]| {
        group.iter().any(|atom| {
            chosen
                .iter()
                .any(|id| universe.get(*id).name() == atom.name && universe.satisfies(*id, atom))
                || universe.providers(atom).any(|provider| chosen.contains(&provider))
        })
    };
    let mut more = Vec::new();
    for id in chosen.iter().filter(|id| !request.installed.contains_key(universe.get(**id).name()))
    {
        for group in parse_groups(universe.get(*id).recommends(), universe.arch()) {
            if satisfied(&group) {
                continue;
            }
            let candidates = group.iter().filter(|atom| !request.exclude.contains(atom.name));
            let name = candidates
                .filter_map(|atom| {
                    let real = universe.ranked(atom.name, &request.rules).first().copied();
                    let real = real.filter(|id| atom.accepts(universe.get(*id).version()));
                    real.or_else(|| {
                        ranked_providers(universe, atom, &request.rules).into_iter().next()
                    })
                })
                .map(|id| universe.get(id).name().to_owned())
                .next();
            more.extend(name.filter(|name| !extra.contains(name) && !more.contains(name)));
        }
    }
    more
}

/// Adds recommended packages: all at once, or one by one where some cannot be had.
fn grow(
    universe: &Universe,
    request: &Request,
    wanted: &[Wanted],
    extra: &mut Vec<String>,
    more: Vec<String>,
) -> Option<Vec<PackageId>> {
    if more.is_empty() {
        return None;
    }
    let all: Vec<String> = extra.iter().chain(&more).cloned().collect();
    if let Ok(chosen) = solve(universe, request, wanted, &all) {
        *extra = all;
        return Some(chosen);
    }
    let mut best = None;
    for name in more {
        extra.push(name);
        match solve(universe, request, wanted, extra) {
            Ok(chosen) => best = Some(chosen),
            Err(_) => drop(extra.pop()),
        }
    }
    best
}

fn mark(
    universe: &Universe,
    request: &Request,
    wanted: &[Wanted],
    chosen: Vec<PackageId>,
) -> Vec<Chosen> {
    let manual = |id: PackageId| {
        wanted.iter().any(|want| {
            let atom = Atom { name: &want.name, arch: None, version: None };
            let real = universe.named(&want.name);
            match real.is_empty() {
                false => universe.get(id).name() == want.name,
                true => universe.satisfies(id, &atom),
            }
        })
    };
    let mut answer: Vec<Chosen> = chosen
        .into_iter()
        .filter(|id| !request.installed.contains_key(universe.get(*id).name()))
        .map(|id| Chosen { id, auto: !manual(id) })
        .collect();
    answer.sort_by_key(|chosen| universe.get(chosen.id).name());
    answer
}

fn solve(
    universe: &Universe,
    request: &Request,
    wanted: &[Wanted],
    extra: &[String],
) -> Result<Vec<PackageId>, Unsolvable> {
    let provider = Provider::new(universe, request);
    let mut requirements: Vec<ConditionalRequirement> = Vec::new();
    for (name, version) in &request.installed {
        let atom = Atom { name, arch: None, version: Some((Relation::Equal, version)) };
        // what the index has forgotten cannot be asked about; it stays as it is
        if !universe.named(name).is_empty() {
            requirements.extend(provider.requirement(&[atom]));
        }
    }
    for want in wanted {
        let version =
            want.version.as_ref().map(|(relation, version)| (*relation, version.as_str()));
        requirements.extend(provider.requirement(&[Atom {
            name: &want.name,
            arch: None,
            version,
        }]));
    }
    for name in extra {
        requirements.extend(provider.requirement(&[Atom { name, arch: None, version: None }]));
    }
    let mut solver = Solver::new(provider);
    match solver.solve(Problem::new().requirements(requirements)) {
        Ok(solution) => Ok(solution.into_iter().map(|id| PackageId(id.into_raw())).collect()),
        Err(UnsolvableOrCancelled::Unsolvable(conflict)) => {
            let text = conflict.display_user_friendly(&solver).to_string();
            Err(Unsolvable::Conflict(text.trim_end().to_owned()))
        }
        Err(UnsolvableOrCancelled::Cancelled(_)) => {
            Err(Unsolvable::Conflict("the search was cancelled".to_owned()))
        }
    }
}

/// Providers of an atom in apt's order: essential ones, then by priority, then as the index has
/// them; only the version of each that apt would choose.
fn ranked_providers(universe: &Universe, atom: &Atom<'_>, rules: &[PinRule]) -> Vec<PackageId> {
    let weight = |package: &Package<'_>| {
        let priority = ["required", "important", "standard", "optional", "extra"];
        let place =
            priority.iter().position(|name| *name == package.priority()).unwrap_or(priority.len());
        (!package.is_essential(), place)
    };
    let mut ids: Vec<PackageId> = universe
        .providers(atom)
        .filter(|id| universe.get(*id).name() != atom.name)
        .filter(|id| universe.ranked(universe.get(*id).name(), rules).first() == Some(id))
        .collect();
    ids.sort_by_key(|id| (weight(&universe.get(*id)), *id));
    ids.dedup();
    ids
}

/// A set of versions of one package.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Versions {
    /// These.
    Only(Vec<PackageId>),
    /// All others.
    Except(Vec<PackageId>),
}

/// The solver's view of a universe. Names and version sets get their numbers as they come up.
struct Provider<'u> {
    universe: &'u Universe,
    request: &'u Request,
    pool: RefCell<Pool>,
}

#[derive(Default)]
struct Pool {
    names: Vec<String>,
    name_ids: HashMap<String, NameId>,
    sets: Vec<(NameId, Versions, String)>,
    set_ids: HashMap<(NameId, Versions), VersionSetId>,
    unions: Vec<Vec<VersionSetId>>,
}

impl Pool {
    fn name(&mut self, name: &str) -> NameId {
        if let Some(id) = self.name_ids.get(name) {
            return *id;
        }
        let id = NameId::from_raw(self.names.len() as u32);
        self.names.push(name.to_owned());
        self.name_ids.insert(name.to_owned(), id);
        id
    }

    fn set(&mut self, name: &str, versions: Versions, label: String) -> VersionSetId {
        let name = self.name(name);
        let key = (name, versions);
        if let Some(id) = self.set_ids.get(&key) {
            return *id;
        }
        let id = VersionSetId(self.sets.len() as u32);
        self.sets.push((name, key.1.clone(), label));
        self.set_ids.insert(key, id);
        id
    }
}

impl<'u> Provider<'u> {
    fn new(universe: &'u Universe, request: &'u Request) -> Self {
        Provider { universe, request, pool: RefCell::default() }
    }

    /// One group of alternatives; `None` where nothing can satisfy any of them and the group is a
    /// requirement of nobody (never for real requirements, which then fail to solve).
    fn requirement(&self, group: &[Atom<'_>]) -> Option<ConditionalRequirement> {
        let mut sets = Vec::new();
        for atom in group {
            self.push_sets(atom, &mut sets);
        }
        if sets.is_empty() {
            // an empty set of the first name: unsatisfiable, and named in the explanation
            let atom = group.first()?;
            sets.push(self.pool.borrow_mut().set(
                atom.name,
                Versions::Only(Vec::new()),
                relation_label(atom),
            ));
        }
        let requirement = match sets[..] {
            [single] => Requirement::Single(single),
            _ => {
                let mut pool = self.pool.borrow_mut();
                pool.unions.push(sets);
                Requirement::Union(VersionSetUnionId(pool.unions.len() as u32 - 1))
            }
        };
        Some(ConditionalRequirement { condition: None, requirement })
    }

    fn push_sets(&self, atom: &Atom<'_>, sets: &mut Vec<VersionSetId>) {
        if atom
            .arch
            .is_some_and(|arch| !["any", "native", "all", self.universe.arch()].contains(&arch))
        {
            return;
        }
        let mut push = |set| {
            if !sets.contains(&set) {
                sets.push(set);
            }
        };
        let real: Vec<PackageId> = self
            .universe
            .named(atom.name)
            .iter()
            .copied()
            .filter(|id| atom.accepts(self.universe.get(*id).version()))
            .collect();
        if !real.is_empty() {
            push(self.pool.borrow_mut().set(atom.name, Versions::Only(real), relation_label(atom)));
        }
        for id in self.providers_of(atom) {
            let name = self.universe.get(id).name();
            let label = format!("as {}", atom.label());
            push(self.pool.borrow_mut().set(name, Versions::Only(vec![id]), label));
        }
    }

    /// Installed providers first: what is there already satisfies before anything new does.
    fn providers_of(&self, atom: &Atom<'_>) -> Vec<PackageId> {
        let mut ids = ranked_providers(self.universe, atom, &self.request.rules);
        let below = |id: &PackageId| {
            let package = self.universe.get(*id);
            self.request
                .installed
                .get(package.name())
                .is_some_and(|version| version == package.version())
        };
        let installed: Vec<_> = self.universe.providers(atom).filter(below).collect();
        ids.retain(|id| {
            !installed.contains(id)
                && !self.request.installed.contains_key(self.universe.get(*id).name())
        });
        installed.into_iter().chain(ids).collect()
    }

    fn constraints(&self, id: PackageId, known: &mut KnownDependencies) {
        let package = self.universe.get(id);
        for field in package.conflicts() {
            for atom in parse_atoms(field, self.universe.arch()) {
                let hit = |other: &PackageId| self.universe.get(*other).name() != package.name();
                let named = self.universe.named(atom.name).iter().copied();
                let mut by_name: BTreeMap<&str, Vec<PackageId>> = BTreeMap::new();
                let real = named.filter(|other| atom.accepts(self.universe.get(*other).version()));
                for other in real.chain(self.universe.providers(&atom)).filter(hit) {
                    by_name.entry(self.universe.get(other).name()).or_default().push(other);
                }
                for (name, mut ids) in by_name {
                    ids.sort();
                    ids.dedup();
                    let label = format!("without {}", atom.label());
                    known.constrains.push(self.pool.borrow_mut().set(
                        name,
                        Versions::Except(ids),
                        label,
                    ));
                }
            }
        }
    }

    fn is_installed(&self, id: PackageId) -> bool {
        self.request.installed.contains_key(self.universe.get(id).name())
    }
}

fn relation_label(atom: &Atom<'_>) -> String {
    atom.version
        .map_or_else(|| "*".to_owned(), |(relation, version)| format!("{relation} {version}"))
}

impl Interner for Provider<'_> {
    type NameId = NameId;
    type SolvableId = SolvableId;

    fn display_solvable(&self, solvable: SolvableId) -> impl Display + '_ {
        let package = self.universe.get(PackageId(solvable.into_raw()));
        format!("{} {}", package.name(), package.version())
    }

    fn display_merged_solvables(&self, solvables: &[SolvableId]) -> impl Display + '_ {
        let texts: BTreeSet<String> =
            solvables.iter().map(|solvable| self.display_solvable(*solvable).to_string()).collect();
        texts.into_iter().collect::<Vec<_>>().join(" | ")
    }

    fn display_name(&self, name: NameId) -> impl Display + '_ {
        self.pool.borrow().names[name.into_raw() as usize].clone()
    }

    fn display_version_set(&self, set: VersionSetId) -> impl Display + '_ {
        self.pool.borrow().sets[set.0 as usize].2.clone()
    }

    fn display_string(&self, _: StringId) -> impl Display + '_ {
        "excluded by the declaration, or another version stands below"
    }

    fn version_set_name(&self, set: VersionSetId) -> NameId {
        self.pool.borrow().sets[set.0 as usize].0
    }

    fn solvable_name(&self, solvable: SolvableId) -> NameId {
        let name = self.universe.get(PackageId(solvable.into_raw())).name();
        self.pool.borrow_mut().name(name)
    }

    fn version_sets_in_union(
        &self,
        union: VersionSetUnionId,
    ) -> impl Iterator<Item = VersionSetId> {
        self.pool.borrow().unions[union.0 as usize].clone().into_iter()
    }

    fn resolve_condition(&self, _: ConditionId) -> Condition {
        unreachable!("no requirement has a condition")
    }
}

impl DependencyProvider for Provider<'_> {
    async fn filter_candidates(
        &self,
        candidates: &[SolvableId],
        set: VersionSetId,
        inverse: bool,
    ) -> Vec<SolvableId> {
        let pool = self.pool.borrow();
        let versions = &pool.sets[set.0 as usize].1;
        let inside = |solvable: &SolvableId| match versions {
            Versions::Only(ids) => ids.contains(&PackageId(solvable.into_raw())),
            Versions::Except(ids) => !ids.contains(&PackageId(solvable.into_raw())),
        };
        candidates.iter().copied().filter(|solvable| inside(solvable) != inverse).collect()
    }

    async fn get_candidates(&self, name: NameId) -> Option<Candidates<SolvableId>> {
        let name = self.pool.borrow().names[name.into_raw() as usize].clone();
        let ranked = self.universe.ranked(&name, &self.request.rules);
        let solvable = |id: PackageId| SolvableId::from_raw(id.0);
        let excluded = |id: &PackageId| {
            let installed = self.request.installed.get(&name);
            let other = installed.is_some_and(|version| {
                let known = ranked.iter().any(|id| self.universe.get(*id).version() == version);
                known && self.universe.get(*id).version() != version
            });
            other || (installed.is_none() && self.request.exclude.contains(&name))
        };
        let (out, within): (Vec<PackageId>, Vec<PackageId>) =
            ranked.iter().copied().partition(|id| excluded(id));
        let preferred = self.request.prefer.get(&name);
        let favored = within
            .iter()
            .find(|id| Some(self.universe.get(**id).version()) == preferred.map(String::as_str));
        Some(Candidates {
            favored: favored.copied().map(solvable),
            candidates: within.into_iter().map(solvable).collect(),
            excluded: out.into_iter().map(|id| (solvable(id), StringId(0))).collect(),
            hint_dependencies_available: HintDependenciesAvailable::None,
            ..Candidates::default()
        })
    }

    async fn sort_candidates(&self, _: &SolverCache<Self>, solvables: &mut [SolvableId]) {
        let Some(first) = solvables.first() else { return };
        let name = self.universe.get(PackageId(first.into_raw())).name();
        let ranked = self.universe.ranked(name, &self.request.rules);
        solvables.sort_by_key(|solvable| {
            ranked.iter().position(|id| id.0 == solvable.into_raw()).unwrap_or(usize::MAX)
        });
    }

    async fn get_dependencies(&self, solvable: SolvableId) -> Dependencies {
        let id = PackageId(solvable.into_raw());
        let package = self.universe.get(id);
        let mut known = KnownDependencies::default();
        // what lies below has its dependencies already
        if !self.is_installed(id) {
            for field in package.depends() {
                for group in parse_groups(field, self.universe.arch()) {
                    let own = group.iter().any(|atom| self.universe.satisfies(id, atom));
                    if !own {
                        known.requirements.extend(self.requirement(&group));
                    }
                }
            }
        }
        self.constraints(id, &mut known);
        Dependencies::Known(known)
    }
}

#[cfg(test)]
mod tests;
