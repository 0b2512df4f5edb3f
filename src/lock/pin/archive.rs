//! Archives: files of an address that the declaration names.

use serde::Serialize;

use super::Words;
use crate::digest::Digest;

/// The bytes of an `archive`. Where it is, the declaration says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ArchivePin {
    /// The last part of its address, for people.
    pub name: Box<str>,
    /// In bytes.
    pub size: u64,
    pub digest: Digest,
}

impl ArchivePin {
    pub fn label(&self) -> String {
        self.name.to_string()
    }

    pub(super) fn write(&self, words: &mut Words) {
        words.push(&self.name).push(self.size).push(self.digest);
    }

    pub(super) fn parse<'a>(words: &mut impl Iterator<Item = &'a str>) -> Result<Self, String> {
        Ok(ArchivePin {
            name: Words::next(words, "name")?.into(),
            size: Words::parse(words, "size")?,
            digest: Words::parse(words, "digest")?,
        })
    }
}
