//! What one build knows of a Key of its plan: what caches have of it, and what became of that.

use std::collections::BTreeSet;

use super::entry::{Entry, Vouched};

#[derive(Default)]
pub(super) struct Known {
    /// What may be taken, and the number of the shelf that it lies on.
    pub(super) found: Option<(usize, Vec<Vouched>)>,
    /// What is not tried again.
    pub(super) spent: Vec<Spent>,
    /// Why it was not taken from a shelf of this number, as far as that was said.
    pub(super) told: BTreeSet<(usize, String)>,
    /// Why it is not put into the cache.
    pub(super) left_out: Option<String>,
    pub(super) taken: bool,
}

/// An entry that was not taken, though it was offered.
pub(super) struct Spent {
    /// The number of its shelf.
    pub(super) at: usize,
    pub(super) entry: Entry,
    /// Whether it did not hold what it promised.
    pub(super) lied: bool,
}

impl Known {
    /// These lie on a shelf; answers whether one of them may be taken.
    pub(super) fn find(&mut self, at: usize, mut all: Vec<Vouched>) -> bool {
        let is_spent = |one: &Vouched| {
            self.spent.iter().any(|spent| spent.at == at && spent.entry == one.entry)
        };
        all.retain(|one| !is_spent(one));
        let is_left = !all.is_empty();
        if is_left {
            self.found = Some((at, all));
        }
        is_left
    }

    /// Entries of a shelf that did not hold what they promised.
    pub(super) fn lies(&self, at: Option<usize>) -> Vec<Entry> {
        let lies = self.spent.iter().filter(|spent| spent.lied && Some(spent.at) == at);
        lies.map(|spent| spent.entry.clone()).collect()
    }
}
