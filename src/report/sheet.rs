//! What the sources of a step say, as one machine tells it to another.
//!
//! Who takes a layer from others need not have its sources, and bills of materials name their licences
//! all the same. So what a source says travels with the layer, and is remembered as somebody's word: it
//! counts where the bytes are not here, it is only of sources that the step has, and only what this
//! program itself could have read out of a package is taken.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::ReportError;
use super::facts::{FORMAT, Facts, Remembered, find, has_facts, remember};
use super::purl;
use crate::digest::Integrity;
use crate::lock::Source;
use crate::plan::{Step, Work};
use crate::store::{Store, Voucher};

/// Sources whose files a step lays. What a settle runs is laid by the content before it, and what a
/// command finds on its shelf is laid nowhere.
pub(super) fn reported(step: &Step) -> Vec<Source<'_>> {
    match step.work {
        Work::Settle(_) | Work::Run(_) => Vec::new(),
        _ => step.work.sources(),
    }
}

fn speaking(step: &Step) -> impl Iterator<Item = Source<'_>> {
    reported(step).into_iter().filter(has_facts)
}

/// Why somebody's word is not taken.
#[derive(Debug, thiserror::Error)]
pub enum SheetError {
    #[error("it cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    #[error("it says what no package says of {0}")]
    Odd(Integrity),
}

/// What sources say, by their digests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sheet(BTreeMap<Integrity, Facts>);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: u32,
    facts: BTreeMap<Integrity, Facts>,
}

#[derive(Deserialize)]
struct Versioned {
    format: u32,
}

impl Sheet {
    /// What the store remembers or can read of a step's sources; `None` where that is nothing. Somebody
    /// else's word is handed on if he is believed.
    pub fn gather(
        store: &Store,
        step: &Step,
        believes: &(dyn Fn(&Voucher) -> bool + Sync),
    ) -> Option<Self> {
        let sources: Vec<Source<'_>> = speaking(step).collect();
        let one = |source: &Source<'_>| {
            let digest = source.integrity();
            let facts = match find(store, &digest) {
                Some(known) if known.told_by.as_ref().is_none_or(believes) => known.facts,
                // one that is gone, or cannot be read, is left out
                _ => Facts::read(store, source).ok()?,
            };
            Some((digest, facts))
        };
        let facts: BTreeMap<Integrity, Facts> = sources.par_iter().filter_map(one).collect();
        (!facts.is_empty()).then_some(Sheet(facts))
    }

    /// Whether a step has sources that say something.
    pub fn is_about(step: &Step) -> bool {
        speaking(step).next().is_some()
    }

    /// Whether the store knows all that the sources of a step say, or hears it from whom it believes.
    pub fn is_known(store: &Store, step: &Step, believes: &dyn Fn(&Voucher) -> bool) -> bool {
        speaking(step).all(|source| {
            let digest = source.integrity();
            let is_told = |known: Remembered| known.told_by.as_ref().is_none_or(believes);
            store.find_source(&digest).is_some() || find(store, &digest).is_some_and(is_told)
        })
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let written = Written { format: FORMAT, facts: self.0.clone() };
        serde_json::to_vec(&written).expect("facts have string keys only")
    }

    /// Reads what somebody says of a step's sources; another version's word is none.
    pub fn parse(bytes: &[u8], step: &Step) -> Result<Self, SheetError> {
        let mut facts = read(bytes)?;
        let known: BTreeSet<Integrity> = speaking(step).map(|source| source.integrity()).collect();
        facts.retain(|digest, _| known.contains(digest));
        match facts.iter().find(|(_, facts)| !is_sound(facts)) {
            Some((digest, _)) => Err(SheetError::Odd(*digest)),
            None => Ok(Sheet(facts)),
        }
    }

    /// Remembers it, but for what the store has read itself.
    pub fn remember(self, store: &Store, voucher: &Voucher) -> Result<(), ReportError> {
        for (digest, facts) in self.0 {
            if find(store, &digest).is_none_or(|known| known.told_by.is_some()) {
                remember(store, &digest, facts, Some(voucher.clone()))?;
            }
        }
        Ok(())
    }
}

/// What is written, whatever it is of. What another version writes may have another shape.
fn read(bytes: &[u8]) -> Result<BTreeMap<Integrity, Facts>, SheetError> {
    let Versioned { format } = serde_json::from_slice(bytes)?;
    match format == FORMAT {
        true => Ok(serde_json::from_slice::<Written>(bytes)?.facts),
        false => Ok(BTreeMap::new()),
    }
}

fn is_sound(facts: &Facts) -> bool {
    let bundled = facts.bundled.iter();
    let mut licences =
        bundled.clone().map(|one| &one.licence).chain([&facts.licence]).filter_map(Option::as_ref);
    let mut named = bundled.map(|one| purl::npm(&one.name, &one.version));
    licences.all(|one| one.is_sound()) && named.all(|one| one.is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_versions_word_is_none_whatever_shape_it_has() {
        let word = |format: u32| format!(r#"{{"format":{format},"facts":[],"more":1}}"#);
        assert!(read(word(FORMAT + 1).as_bytes()).unwrap().is_empty());
        assert!(read(word(FORMAT).as_bytes()).is_err());
        assert!(read(b"{}").is_err());
    }
}
