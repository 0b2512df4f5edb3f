//! Git: the tree of a commit, as a canonical archive of it.

use serde::Serialize;

use super::Words;
use crate::digest::Digest;
use crate::git::ObjectId;

/// A commit and the digest of what is laid of it. Where its repository is, the declaration says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct GitPin {
    /// What the repository is called, for people.
    pub name: Box<str>,
    /// 40 hex digits.
    pub commit: Box<str>,
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
}

impl GitPin {
    pub fn label(&self) -> String {
        format!("{} {}", self.name, self.short())
    }

    /// As much of the commit as tells it from others.
    pub fn short(&self) -> &str {
        self.commit.get(..12).unwrap_or(&self.commit)
    }

    pub(super) fn write(&self, words: &mut Words) {
        words.push(&self.name).push(&self.commit).push(self.digest).push(self.size);
    }

    pub(super) fn parse<'a>(words: &mut impl Iterator<Item = &'a str>) -> Result<Self, String> {
        Ok(GitPin {
            name: Words::next(words, "name")?.into(),
            commit: Words::parse::<ObjectId>(words, "commit")?.to_string().into(),
            digest: Words::parse(words, "digest")?,
            size: Words::parse(words, "size")?,
        })
    }
}
