//! The question as a satisfiability problem, for where the walk's answer is not sound.
//!
//! One name of the solver is one package name; each version is a solvable. A group of alternatives
//! is an ordered union: what the walk liked, then the others in apt's order, then versions that apt
//! would not look at. Conflicts and Breaks are constraints on the other package's versions.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Display;

use resolvo::{
    Candidates, Condition, ConditionId, ConditionalRequirement, Dependencies, DependencyProvider,
    HintDependenciesAvailable, Interner, KnownDependencies, Problem as Question, Requirement,
    SolvableId, Solver, SolverCache, StringId, UnsolvableOrCancelled, VersionSetId,
    VersionSetUnionId,
};

use super::problem::{Group, Kind, Problem};
use crate::debian::universe::{NameId, PackageId};

/// Finds a sound set, or says why there is none. `extra` must be in it too.
pub(super) fn solve(
    problem: &Problem<'_>,
    liked: &BTreeSet<PackageId>,
    extra: &[PackageId],
) -> Result<Vec<PackageId>, String> {
    let provider = Provider { problem, liked, pool: RefCell::default() };
    let wanted = problem.wanted.iter().filter(|want| !want.group.below);
    let mut requirements: Vec<ConditionalRequirement> =
        wanted.map(|want| provider.requirement(&want.group)).collect();
    for id in extra {
        let set = provider.set(problem.universe.name_of(*id), Versions::Only(vec![*id]), "");
        requirements.push(Requirement::Single(set).into());
    }
    let mut solver = Solver::new(provider);
    match solver.solve(Question::new().requirements(requirements)) {
        Ok(solution) => Ok(solution.into_iter().map(|id| PackageId(id.into_raw())).collect()),
        Err(UnsolvableOrCancelled::Unsolvable(conflict)) => {
            let text = conflict.display_user_friendly(&solver).to_string();
            Err(text.trim_end().to_owned())
        }
        Err(UnsolvableOrCancelled::Cancelled(_)) => Err("the search was cancelled".to_owned()),
    }
}

/// A set of versions of one package.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Versions {
    /// These.
    Only(Vec<PackageId>),
    /// All others.
    Except(Vec<PackageId>),
}

/// The solver's view of a problem. Version sets get their numbers as they come up.
struct Provider<'p, 'u> {
    problem: &'p Problem<'u>,
    liked: &'p BTreeSet<PackageId>,
    pool: RefCell<Pool>,
}

#[derive(Default)]
struct Pool {
    sets: Vec<(NameId, Versions, String)>,
    ids: HashMap<(NameId, Versions), VersionSetId>,
    unions: Vec<Vec<VersionSetId>>,
}

impl Provider<'_, '_> {
    fn set(&self, name: NameId, versions: Versions, label: &str) -> VersionSetId {
        let mut pool = self.pool.borrow_mut();
        let key = (name, versions);
        if let Some(id) = pool.ids.get(&key) {
            return *id;
        }
        let id = VersionSetId(pool.sets.len() as u32);
        pool.sets.push((name, key.1.clone(), label.to_owned()));
        pool.ids.insert(key, id);
        id
    }

    /// One group of alternatives: for each name the versions that satisfy it, the name that the
    /// walk liked or apt would take first.
    fn requirement(&self, group: &Group<'_>) -> ConditionalRequirement {
        let label = group.label();
        let mut order = self.problem.solutions(group);
        order.sort_by_key(|id| !self.liked.contains(id));
        let mut names: Vec<(NameId, Vec<PackageId>)> = Vec::new();
        for id in order.into_iter().chain(group.all()) {
            let name = self.problem.universe.name_of(id);
            match names.iter_mut().find(|(other, _)| *other == name) {
                Some((_, ids)) if ids.contains(&id) => {}
                Some((_, ids)) => ids.push(id),
                None => names.push((name, vec![id])),
            }
        }
        let sets: Vec<VersionSetId> = names
            .into_iter()
            .map(|(name, mut ids)| {
                ids.sort_unstable();
                self.set(name, Versions::Only(ids), &label)
            })
            .collect();
        match sets[..] {
            [single] => Requirement::Single(single).into(),
            _ => {
                let mut pool = self.pool.borrow_mut();
                pool.unions.push(sets);
                Requirement::Union(VersionSetUnionId(pool.unions.len() as u32 - 1)).into()
            }
        }
    }
}

impl Interner for Provider<'_, '_> {
    type NameId = resolvo::NameId;
    type SolvableId = SolvableId;

    fn display_solvable(&self, solvable: SolvableId) -> impl Display + '_ {
        let package = self.problem.universe.get(PackageId(solvable.into_raw()));
        format!("{} {}", package.name(), package.version())
    }

    fn display_merged_solvables(&self, solvables: &[SolvableId]) -> impl Display + '_ {
        let texts: BTreeSet<String> =
            solvables.iter().map(|id| self.display_solvable(*id).to_string()).collect();
        texts.into_iter().collect::<Vec<_>>().join(" | ")
    }

    fn display_name(&self, name: resolvo::NameId) -> impl Display + '_ {
        self.problem.universe.text(NameId(name.into_raw()))
    }

    fn display_version_set(&self, set: VersionSetId) -> impl Display + '_ {
        self.pool.borrow().sets[set.0 as usize].2.clone()
    }

    fn display_string(&self, _: StringId) -> impl Display + '_ {
        "excluded by the declaration, or at odds with the layers below"
    }

    fn version_set_name(&self, set: VersionSetId) -> resolvo::NameId {
        resolvo::NameId::from_raw(self.pool.borrow().sets[set.0 as usize].0.0)
    }

    fn solvable_name(&self, solvable: SolvableId) -> resolvo::NameId {
        let name = self.problem.universe.name_of(PackageId(solvable.into_raw()));
        resolvo::NameId::from_raw(name.0)
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

impl DependencyProvider for Provider<'_, '_> {
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

    async fn get_candidates(&self, name: resolvo::NameId) -> Option<Candidates<SolvableId>> {
        let name = NameId(name.into_raw());
        let allowed = self.problem.allowed(name);
        let solvable = |id: &PackageId| SolvableId::from_raw(id.0);
        let out = self.problem.universe.versions(name).iter().filter(|id| !allowed.contains(id));
        let liked = allowed.iter().find(|id| self.liked.contains(id)).or(allowed.first());
        Some(Candidates {
            favored: liked.map(solvable),
            candidates: allowed.iter().map(solvable).collect(),
            excluded: out.map(|id| (solvable(id), StringId(0))).collect(),
            hint_dependencies_available: HintDependenciesAvailable::None,
            ..Candidates::default()
        })
    }

    async fn sort_candidates(&self, _: &SolverCache<Self>, solvables: &mut [SolvableId]) {
        let Some(first) = solvables.first() else { return };
        let name = self.problem.universe.name_of(PackageId(first.into_raw()));
        let allowed = self.problem.allowed(name);
        let place = |id: &SolvableId| allowed.iter().position(|other| other.0 == id.into_raw());
        solvables.sort_by_key(|id| place(id).unwrap_or(usize::MAX));
    }

    async fn get_dependencies(&self, solvable: SolvableId) -> Dependencies {
        let id = PackageId(solvable.into_raw());
        let relations = self.problem.relations(id);
        let mut known = KnownDependencies::default();
        for group in relations.groups.iter().filter(|group| group.kind == Kind::Depends) {
            if !group.below && group.all().all(|option| option != id) {
                known.requirements.push(self.requirement(group));
            }
        }
        for negative in &relations.negatives {
            let mut names: BTreeMap<NameId, Vec<PackageId>> = BTreeMap::new();
            for hit in &negative.hits {
                names.entry(self.problem.universe.name_of(*hit)).or_default().push(*hit);
            }
            let label = format!("without {}", negative.atom.label());
            for (name, mut ids) in names {
                ids.sort_unstable();
                known.constrains.push(self.set(name, Versions::Except(ids), &label));
            }
        }
        Dependencies::Known(known)
    }
}
