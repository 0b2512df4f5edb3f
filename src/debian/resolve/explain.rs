//! Why a request has no answer, as people would tell it.
//!
//! A solver's proof names clauses. Most impossible requests fall to something simpler: what is asked
//! for forces other packages, these force more, until a need is left that nothing can meet. Each
//! forced package remembers who needed it and each impossible one why it is; the story is read
//! backwards from the need that failed. Requests that need a search to be refuted are left to the
//! solver's own words.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::problem::{Forbidden, Group, Kind, Problem};
use crate::debian::universe::PackageId;

/// How many needs ahead a fault is looked for.
const DEPTH: usize = 64;

/// Why a package must be there.
#[derive(Clone, Debug)]
enum Why {
    Asked,
    Needed { by: PackageId, label: String },
}

/// Why a package cannot be there.
#[derive(Clone, Debug)]
enum WhyNot {
    Forbidden(Forbidden),
    /// `one verb label`, and one of both must be there; `by` is the one that must.
    Against {
        one: PackageId,
        verb: &'static str,
        label: String,
        two: PackageId,
        by: PackageId,
    },
    /// Another version of it must be there.
    Version(PackageId),
    /// It needs what nothing can give.
    Lacks {
        label: String,
        options: Vec<PackageId>,
    },
}

struct Story<'p, 'u> {
    problem: &'p Problem<'u>,
    must: BTreeMap<PackageId, Why>,
    cannot: BTreeMap<PackageId, WhyNot>,
    /// What this round found nothing against.
    fine: BTreeSet<PackageId>,
    queue: VecDeque<PackageId>,
    lines: Vec<String>,
}

/// The chain that makes a request impossible, one step a line.
pub(super) fn explain(problem: &Problem<'_>) -> Option<String> {
    let mut story = Story {
        problem,
        must: BTreeMap::new(),
        cannot: BTreeMap::new(),
        fine: BTreeSet::new(),
        queue: VecDeque::new(),
        lines: Vec::new(),
    };
    story.force();
    (!story.lines.is_empty()).then(|| story.lines.join("\n"))
}

impl Story<'_, '_> {
    /// Forces what must be, round after round, until a need fails or nothing moves.
    fn force(&mut self) {
        loop {
            let before = (self.must.len(), self.cannot.len());
            self.fine.clear();
            for want in self.problem.wanted.iter().filter(|want| !want.group.below) {
                if !self.need(&want.group, None) {
                    return self.tell(&want.group, None);
                }
            }
            let all: Vec<PackageId> = self.must.keys().copied().collect();
            self.queue.extend(all);
            while let Some(id) = self.queue.pop_front() {
                if !self.follow(id) {
                    return;
                }
            }
            if before == (self.must.len(), self.cannot.len()) {
                return;
            }
        }
    }

    /// Looks at everything that one forced package brings about; `false` when a need failed.
    fn follow(&mut self, id: PackageId) -> bool {
        let relations = self.problem.relations(id);
        for negative in &relations.negatives {
            for hit in &negative.hits {
                let (verb, label) = (negative.verb, negative.atom.label());
                let why = WhyNot::Against { one: id, verb, label, two: *hit, by: id };
                self.cannot.entry(*hit).or_insert(why);
            }
        }
        for group in needs(&relations.groups) {
            if group.all().all(|option| option != id) && !self.need(group, Some(id)) {
                self.tell(group, Some(id));
                return false;
            }
        }
        true
    }

    /// Forces the only package that can meet a need; `false` if none can. Of several versions the
    /// one that apt would take stands for all.
    fn need(&mut self, group: &Group<'_>, by: Option<PackageId>) -> bool {
        let left: Vec<PackageId> = group.all().filter(|id| self.is_possible(*id, 0)).collect();
        let Some(first) = left.first() else { return false };
        let name = self.problem.universe.name_of(*first);
        if left.iter().any(|id| self.problem.universe.name_of(*id) != name) {
            return true;
        }
        let allowed = self.problem.allowed(name);
        let only = allowed.iter().find(|id| left.contains(id)).copied().unwrap_or(*first);
        if !left.iter().any(|id| self.must.contains_key(id)) {
            let label = group.label();
            let why = by.map_or(Why::Asked, |by| Why::Needed { by, label });
            self.must.insert(only, why);
            self.queue.push_back(only);
        }
        true
    }

    /// Whether nothing known speaks against a package. Looks at what it needs, too.
    fn is_possible(&mut self, id: PackageId, depth: usize) -> bool {
        if self.cannot.contains_key(&id) {
            return false;
        }
        // a package that is being looked at counts as possible: needs go in circles
        if self.must.contains_key(&id) || !self.fine.insert(id) {
            return true;
        }
        let Some(why) = self.find_fault(id, depth) else { return true };
        self.cannot.insert(id, why);
        false
    }

    fn find_fault(&mut self, id: PackageId, depth: usize) -> Option<WhyNot> {
        let universe = self.problem.universe;
        if let Some(forbidden) = self.problem.find_forbidden(id) {
            return Some(WhyNot::Forbidden(forbidden));
        }
        let name = universe.name_of(id);
        let versions = universe.versions(name).iter();
        if let Some(other) = versions.copied().find(|other| self.must.contains_key(other)) {
            return Some(WhyNot::Version(other));
        }
        let relations = self.problem.relations(id);
        for negative in &relations.negatives {
            if let Some(two) = negative.hits.iter().find(|hit| self.must.contains_key(hit)) {
                let (verb, label) = (negative.verb, negative.atom.label());
                return Some(WhyNot::Against { one: id, verb, label, two: *two, by: *two });
            }
        }
        if depth > DEPTH {
            return None;
        }
        for group in needs(&relations.groups) {
            let options: Vec<PackageId> = group.all().collect();
            if options.contains(&id) {
                continue;
            }
            if !options.iter().any(|option| self.is_possible(*option, depth + 1)) {
                return Some(WhyNot::Lacks { label: group.label(), options });
            }
        }
        None
    }

    fn show(&self, id: PackageId) -> String {
        let package = self.problem.universe.get(id);
        format!("`{}` {}", package.name(), package.version())
    }

    fn say(&mut self, line: String) {
        if !self.lines.contains(&line) {
            self.lines.push(line);
        }
    }

    /// Tells how a need came about and why nothing meets it.
    fn tell(&mut self, group: &Group<'_>, by: Option<PackageId>) {
        match by {
            Some(by) => {
                self.tell_chain(by);
                self.say(format!("{} needs `{}`", self.show(by), group.label()));
            }
            None => self.say(format!("`{}` is asked for", group.label())),
        }
        let options: Vec<PackageId> = group.all().collect();
        self.tell_options(&group.label(), &options, 0);
    }

    /// How it comes that a package must be there, from what was asked for on.
    fn tell_chain(&mut self, id: PackageId) {
        let mut steps = Vec::new();
        let mut at = id;
        while let Some(why) = self.must.get(&at) {
            match why {
                Why::Asked => {
                    steps.push(format!("{} is asked for", self.show(at)));
                    break;
                }
                Why::Needed { by, label } => {
                    let only = match label.split(' ').next()
                        == Some(self.problem.universe.get(at).name())
                        && !label.contains('|')
                    {
                        true => String::new(),
                        false => format!(", which only {} can give", self.show(at)),
                    };
                    steps.push(format!("{} needs `{label}`{only}", self.show(*by)));
                    at = *by;
                }
            }
        }
        for step in steps.into_iter().rev() {
            self.say(step);
        }
    }

    fn tell_options(&mut self, label: &str, options: &[PackageId], depth: usize) {
        const SHOWN: usize = 4;
        if options.is_empty() {
            return self.tell_missing(label);
        }
        for id in options.iter().take(SHOWN) {
            if let Some(why) = self.cannot.get(id).cloned() {
                self.tell_fault(*id, why, depth);
            }
        }
        if options.len() > SHOWN {
            self.say(format!("and {} more are impossible likewise", options.len() - SHOWN));
        }
    }

    /// No package at all would do: says what there is.
    fn tell_missing(&mut self, label: &str) {
        let universe = self.problem.universe;
        let names = label.split(" | ").map(|atom| atom.split(' ').next().unwrap_or(atom));
        let mut found = Vec::new();
        for name in names {
            if let Some(version) = self.problem.request.installed.get(name) {
                found.push(format!("the layers below bring `{name}` {version}"));
            }
            let versions = universe.named(name).iter();
            found.extend(versions.map(|id| format!("there is {}", self.show(*id))));
        }
        match found.is_empty() {
            true => self.say(format!("there is no package that gives `{label}`")),
            false => self.say(format!("no package gives `{label}`: {}", found.join(", "))),
        }
    }

    fn tell_fault(&mut self, id: PackageId, why: WhyNot, depth: usize) {
        let shown = self.show(id);
        match why {
            WhyNot::Forbidden(Forbidden::Excluded) => self.say(format!("{shown} is excluded")),
            WhyNot::Forbidden(Forbidden::Other(version)) => {
                self.say(format!("{shown} cannot replace version {version} of the layers below"));
            }
            WhyNot::Forbidden(Forbidden::Limited) => {
                self.say(format!("{shown} is not the version that is asked for"));
            }
            WhyNot::Forbidden(Forbidden::Pinned) => self.say(format!("{shown} is pinned out")),
            WhyNot::Forbidden(Forbidden::Against { one, verb, label, two }) => {
                let below = self.problem.request.installed.contains_key(&one);
                self.say(match below {
                    true => format!("`{one}` of the layers below {verb} `{label}`"),
                    false => {
                        format!("{shown} {verb} `{label}`, and the layers below bring `{two}`")
                    }
                });
            }
            WhyNot::Version(other) => {
                self.tell_chain(other);
                self.say(format!("{shown} and {} cannot both be there", self.show(other)));
            }
            WhyNot::Against { one, verb, label, two, by } => {
                let given = match self.problem.universe.get(two).name() {
                    name if label.split(' ').next() == Some(name) => String::new(),
                    name => format!(", which `{name}` provides"),
                };
                self.tell_chain(by);
                self.say(format!("{} {verb} `{label}`{given}", self.show(one)));
            }
            WhyNot::Lacks { label, options } => {
                self.say(format!("{shown} needs `{label}`"));
                // a chain is told to its end, a tree only some branches deep
                if depth < 4 {
                    self.tell_options(&label, &options, depth + usize::from(options.len() > 1));
                }
            }
        }
    }
}

fn needs<'a, 'u>(groups: &'a [Group<'u>]) -> impl Iterator<Item = &'a Group<'u>> {
    groups.iter().filter(|group| group.kind == Kind::Depends && !group.below)
}
