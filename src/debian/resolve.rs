//! Which packages an image gets: apt's own choice where apt has one, and a sound one where it has not.
//!
//! Two ways to the answer. The walk (`walk`) visits dependencies in apt's order and takes what apt
//! takes; it is fast and it is what people expect, but it is greedy. Its answer is checked, and where
//! it is not sound the question goes to a SAT solver (`solver`), which finds an answer if there is
//! one, preferring what the walk chose. Packages of the layers below satisfy relations and forbid
//! what they conflict with; they are never chosen, so nothing can upgrade, remove or contradict
//! them. That the answer is apt's is held by `tests/apt_parity.rs`.

mod explain;
mod problem;
mod solver;
mod walk;

use std::collections::{BTreeMap, BTreeSet};

use super::relation::Atom;
use super::universe::{PackageId, PinRule, Universe};
use super::version::Relation;
use crate::blame::Blame;
use problem::{Kind, Problem};

/// Which packages stand below everything that is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BaseSet {
    /// Essential packages, those of priority `required`, and apt (mmdebstrap's `minbase`).
    #[default]
    Required,
    Essential,
    None,
}

/// A package that is asked for by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub name: String,
    pub version: Option<(Relation, String)>,
}

/// What is asked of a universe.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub base: BaseSet,
    pub packages: Vec<Wanted>,
    pub recommends: bool,
    /// Names that may not be chosen.
    pub exclude: BTreeSet<String>,
    pub rules: Vec<PinRule>,
    /// Packages of the layers below: name and version. Their relations are those of the universe's
    /// same version, and of its best one where that version has left the archive.
    pub installed: BTreeMap<String, String>,
    /// Name and version of what the lock had: kept where possible.
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
    #[error("there is no `{wanted}`: there is {found}")]
    NoVersion { wanted: String, found: String },
    #[error("`{name}` is asked for and excluded")]
    Excluded { name: String },
    #[error("`{wanted}` is asked for, but the layers below bring {name} {version}")]
    Below { wanted: String, name: String, version: String },
    #[error("no set of packages satisfies the request:\n{0}")]
    Conflict(String),
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map(|name| format!(" (did you mean `{name}`?)")).unwrap_or_default()
}

impl Unsolvable {
    pub fn blame(&self) -> Blame {
        Blame::Input
    }
}

impl Wanted {
    /// Any version of a package.
    pub fn named(name: &str) -> Self {
        Wanted { name: name.to_owned(), version: None }
    }

    fn atom(&self) -> Atom<'_> {
        let version = self.version.as_ref();
        let version = version.map(|(relation, version)| (*relation, version.as_str()));
        Atom { name: &self.name, arch: None, version }
    }
}

/// Solves a request; the packages of the layers below are not in the answer. Sorted by name.
pub fn resolve(universe: &Universe, request: &Request) -> Result<Vec<Chosen>, Unsolvable> {
    let problem = Problem::new(universe, request)?;
    let walked = walk::walk(&problem);
    let chosen = match walked.sound {
        true => walked.chosen,
        false => solve(&problem, &walked.chosen)?,
    };
    let mut answer: Vec<Chosen> =
        chosen.into_iter().map(|id| Chosen { id, auto: !problem.is_wanted(id) }).collect();
    answer.sort_by_key(|chosen| universe.get(chosen.id).name());
    Ok(answer)
}

/// What the walk could not solve, with what it would have liked.
fn solve(problem: &Problem<'_>, liked: &[PackageId]) -> Result<Vec<PackageId>, Unsolvable> {
    let liked: BTreeSet<PackageId> = liked.iter().copied().collect();
    let mut extra = Vec::new();
    let mut chosen = match solver::solve(problem, &liked, &extra) {
        Ok(chosen) => chosen,
        Err(text) => return Err(Unsolvable::Conflict(explain::explain(problem).unwrap_or(text))),
    };
    if !problem.request.recommends {
        return Ok(chosen);
    }
    // recommendations are wishes: each is kept if the rest can still be had
    let mut refused = BTreeSet::new();
    loop {
        let wishes = wishes(problem, &chosen, &refused);
        if wishes.is_empty() {
            return Ok(chosen);
        }
        let all: Vec<_> = extra.iter().chain(&wishes).copied().collect();
        if let Ok(grown) = solver::solve(problem, &liked, &all) {
            (extra, chosen) = (all, grown);
            continue;
        }
        for wish in wishes {
            extra.push(wish);
            match solver::solve(problem, &liked, &extra) {
                Ok(grown) => chosen = grown,
                Err(_) => {
                    extra.pop();
                    refused.insert(wish);
                }
            }
        }
    }
}

/// The first package that would satisfy each recommendation that is not satisfied.
fn wishes(
    problem: &Problem<'_>,
    chosen: &[PackageId],
    refused: &BTreeSet<PackageId>,
) -> BTreeSet<PackageId> {
    let there: BTreeSet<PackageId> = chosen.iter().copied().collect();
    let mut wishes = BTreeSet::new();
    for id in chosen {
        let relations = problem.relations(*id);
        for group in relations.groups.iter().filter(|group| group.kind == Kind::Recommends) {
            if group.below || group.all().any(|option| there.contains(&option)) {
                continue;
            }
            let found = problem.solutions(group).into_iter().find(|id| !refused.contains(id));
            wishes.extend(found);
        }
    }
    wishes
}

#[cfg(test)]
mod tests;
