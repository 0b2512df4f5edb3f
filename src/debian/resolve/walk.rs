//! The walk: dependencies visited and satisfied in the order in which apt 2.6 does it.
//!
//! apt marks what is asked for, then goes depth first: each package's unsatisfied groups in turn,
//! in each group the first candidate whose own dependencies can be had. What is asked for, and what
//! it needs without an alternative, is protected: it cannot be given up for something else, while an
//! alternative can. A candidate that failed once is not tried again. Where this ends in a set that
//! is not sound, apt would begin to repair it; here the solver takes over instead.

use super::problem::{Group, Kind, Negative, Problem, Relations};
use crate::debian::universe::{NameId, PackageId};

/// How deep dependencies may go; deeper questions are the solver's.
const DEPTH: usize = 1000;

/// What the walk ended with.
pub(super) struct Walked {
    pub chosen: Vec<PackageId>,
    /// Whether every relation of the chosen packages holds and nothing asked for is missing.
    pub sound: bool,
}

/// What is known of a name while walking.
#[derive(Clone, Copy, Default)]
struct State {
    candidate: Candidate,
    chosen: Option<PackageId>,
    /// Neither choosing it nor giving it up is possible any more.
    protected: bool,
}

#[derive(Clone, Copy, Default)]
enum Candidate {
    #[default]
    NotAsked,
    Is(PackageId),
    No,
}

/// Who asks for a package to be chosen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    User,
    Package,
}

struct Walk<'p, 'u> {
    problem: &'p Problem<'u>,
    states: Vec<State>,
    /// Every name that was chosen at some time.
    touched: Vec<NameId>,
}

/// Walks a whole request.
pub(super) fn walk(problem: &Problem<'_>) -> Walked {
    let states = vec![State::default(); problem.universe.name_count()];
    let mut walk = Walk { problem, states, touched: Vec::new() };
    let mut asked = Vec::new();
    for want in problem.wanted.iter().filter(|want| !want.group.below) {
        let Some(id) = walk.solutions(&want.group).first().copied() else { continue };
        let name = problem.universe.name_of(id);
        walk.choose_alone(name, By::User);
        walk.states[name.0 as usize].protected = true;
        asked.push(name);
    }
    asked.sort_by_key(|name| problem.universe.met(*name));
    asked.dedup();
    for name in &asked {
        walk.choose(*name, 0, By::User);
    }
    walk.sweep(&asked);
    let chosen = walk.chosen();
    Walked { sound: walk.is_sound(&chosen), chosen }
}

impl Walk<'_, '_> {
    fn state(&mut self, name: NameId) -> &mut State {
        &mut self.states[name.0 as usize]
    }

    fn candidate(&mut self, name: NameId) -> Option<PackageId> {
        match self.state(name).candidate {
            Candidate::Is(id) => Some(id),
            Candidate::No => None,
            Candidate::NotAsked => {
                let found = self.problem.candidate(name);
                self.state(name).candidate = found.map_or(Candidate::No, Candidate::Is);
                found
            }
        }
    }

    fn is_chosen(&self, id: PackageId) -> bool {
        self.states[self.problem.universe.name_of(id).0 as usize].chosen == Some(id)
    }

    fn is_satisfied(&self, group: &Group<'_>) -> bool {
        group.below || group.all().any(|id| self.is_chosen(id))
    }

    fn is_hit(&self, negative: &Negative<'_>) -> bool {
        negative.hits.iter().any(|id| self.is_chosen(*id))
    }

    fn counts(&self, group: &Group<'_>) -> bool {
        match group.kind {
            Kind::Depends => true,
            Kind::Recommends => self.problem.request.recommends,
            Kind::Suggests => false,
        }
    }

    fn is_broken(&self, id: PackageId) -> bool {
        let relations = self.problem.relations(id);
        let missing = |group: &Group<'_>| self.counts(group) && !self.is_satisfied(group);
        relations.groups.iter().any(missing)
            || relations.negatives.iter().any(|negative| self.is_hit(negative))
    }

    /// Candidates of a group that can still be chosen, in apt's order.
    fn solutions(&mut self, group: &Group<'_>) -> Vec<PackageId> {
        let name_of = |id| self.problem.universe.name_of(id);
        let names: Vec<NameId> = group.all().map(name_of).collect();
        for name in names {
            self.candidate(name);
        }
        let state = |id| &self.states[self.problem.universe.name_of(id).0 as usize];
        let usable = |id: PackageId| {
            let state = state(id);
            matches!(state.candidate, Candidate::Is(candidate) if candidate == id)
                && !(state.protected && state.chosen.is_none())
        };
        self.problem.sorted_solutions(group, usable, |id| state(id).protected)
    }

    fn set(&mut self, name: NameId, id: PackageId) {
        self.state(name).chosen = Some(id);
        self.touched.push(name);
    }

    /// Chooses a package without what it needs.
    fn choose_alone(&mut self, name: NameId, by: By) -> bool {
        match self.admit(name, 0, by) {
            Some(Ok(id)) => {
                self.set(name, id);
                true
            }
            Some(Err(())) => true,
            None => false,
        }
    }

    /// The version to choose; an error where it is chosen already and nothing is to be done.
    fn admit(&mut self, name: NameId, depth: usize, by: By) -> Option<Result<PackageId, ()>> {
        let state = *self.state(name);
        let locked = by == By::Package && state.protected && state.chosen.is_none();
        if locked || depth > DEPTH {
            return None;
        }
        let id = self.candidate(name)?;
        let done = !state.protected && state.chosen.is_some_and(|chosen| !self.is_broken(chosen));
        Some(if done { Err(()) } else { Ok(id) })
    }

    /// Chooses a package and what it needs.
    fn choose(&mut self, name: NameId, depth: usize, by: By) -> bool {
        let id = match self.admit(name, depth, by) {
            Some(Ok(id)) => id,
            Some(Err(())) => return true,
            None => return false,
        };
        let protected = self.state(name).protected;
        // what is protected is finished as far as possible; anything else fails as a whole
        let firm = protected || by == By::User;
        if by == By::User {
            self.set(name, id);
        }
        let relations = self.problem.relations(id);
        let groups = self.due_groups(&relations, protected);
        let mut good = self.give_way(&relations, protected, firm);
        if !good && !firm {
            return false;
        }
        if by == By::Package {
            self.set(name, id);
        }
        self.state(name).protected = true;
        for at in groups {
            good &= self.satisfy(&relations.groups[at], depth, protected);
            if !good && !firm {
                break;
            }
        }
        self.state(name).protected = protected;
        if !good && !firm {
            let state = self.state(name);
            state.chosen = None;
            state.candidate = Candidate::No;
        }
        good
    }

    /// Groups to look at: those not satisfied, and where protection spreads all of them.
    fn due_groups(&self, relations: &Relations<'_>, protected: bool) -> Vec<usize> {
        let due = |group: &Group<'_>| {
            self.counts(group) && !group.below && (protected || !self.is_satisfied(group))
        };
        let groups = relations.groups.iter().enumerate();
        groups.filter(|(_, group)| due(group)).map(|(at, _)| at).collect()
    }

    /// Gives up what a package cannot stand beside. What a protected package cannot stand beside is
    /// never chosen again.
    fn give_way(&mut self, relations: &Relations<'_>, protected: bool, firm: bool) -> bool {
        let mut good = true;
        for negative in &relations.negatives {
            if !protected && !self.is_hit(negative) {
                continue;
            }
            for hit in &negative.hits {
                let name = self.problem.universe.name_of(*hit);
                if self.candidate(name) != Some(*hit) {
                    continue;
                }
                let state = self.state(name);
                match (state.chosen.is_some(), state.protected) {
                    (true, true) => good = false,
                    (true, false) => state.chosen = None,
                    (false, _) if protected => {
                        state.candidate = Candidate::No;
                        state.protected = true;
                    }
                    (false, _) => {}
                }
                if !good && !firm {
                    return false;
                }
            }
        }
        good
    }

    /// Satisfies one group; `false` if it had to be and could not.
    fn satisfy(&mut self, group: &Group<'_>, depth: usize, protected: bool) -> bool {
        let needed = group.kind == Kind::Depends;
        if self.is_satisfied(group) {
            return !protected || !needed || self.spread(group, depth);
        }
        let solutions = self.solutions(group);
        for id in &solutions {
            let name = self.problem.universe.name_of(*id);
            if self.candidate(name) != Some(*id) {
                continue;
            }
            if protected && needed && solutions.len() == 1 {
                if !self.choose_alone(name, By::Package) {
                    continue;
                }
                self.state(name).protected = true;
            }
            if self.choose(name, depth + 1, By::Package) {
                return true;
            }
        }
        !needed
    }

    /// Protects the only package that satisfies what a protected one needs.
    fn spread(&mut self, group: &Group<'_>, depth: usize) -> bool {
        let solutions = self.solutions(group);
        let [id] = solutions[..] else { return true };
        let name = self.problem.universe.name_of(id);
        if std::mem::replace(&mut self.state(name).protected, true) {
            return true;
        }
        self.choose(name, depth + 1, By::Package)
    }

    fn chosen(&self) -> Vec<PackageId> {
        let touched = self.touched.iter().map(|name| self.states[name.0 as usize].chosen);
        let mut chosen: Vec<PackageId> = touched.flatten().collect();
        chosen.sort_unstable();
        chosen.dedup();
        chosen
    }

    /// Gives up what nothing leads to any more, as apt's autoremover does; a suggestion leads on.
    fn sweep(&mut self, asked: &[NameId]) {
        let mut reached: std::collections::HashSet<PackageId> =
            asked.iter().filter_map(|name| self.states[name.0 as usize].chosen).collect();
        let mut queue: Vec<PackageId> = reached.iter().copied().collect();
        while let Some(id) = queue.pop() {
            let relations = self.problem.relations(id);
            for option in relations.groups.iter().flat_map(Group::all) {
                if self.is_chosen(option) && reached.insert(option) {
                    queue.push(option);
                }
            }
        }
        for id in self.chosen() {
            if !reached.contains(&id) {
                let name = self.problem.universe.name_of(id);
                self.state(name).chosen = None;
            }
        }
    }

    fn is_sound(&self, chosen: &[PackageId]) -> bool {
        let broken = |id: &PackageId| {
            let relations = self.problem.relations(*id);
            let missing =
                |group: &Group<'_>| group.kind == Kind::Depends && !self.is_satisfied(group);
            relations.groups.iter().any(missing)
                || relations.negatives.iter().any(|negative| self.is_hit(negative))
        };
        self.problem.wanted.iter().all(|want| self.is_satisfied(&want.group))
            && !chosen.iter().any(broken)
    }
}
