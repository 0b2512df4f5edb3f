//! Projects that lie in the source of an earlier recipe: which bytes of it an answer was read out of.

use serde::Serialize;

use super::Words;
use crate::digest::Integrity;

/// The source that a project's files were read out of. An answer is for that one and no other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LaidPin {
    pub source: Integrity,
}

impl LaidPin {
    pub(super) fn write(&self, words: &mut Words) {
        words.push(self.source);
    }

    pub(super) fn parse<'a>(words: &mut impl Iterator<Item = &'a str>) -> Result<Self, String> {
        Ok(LaidPin { source: Words::parse(words, "digest")? })
    }
}
