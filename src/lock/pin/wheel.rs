//! Wheels: files of a Python index.

use serde::Serialize;

use super::Words;
use crate::digest::Digest;

/// A wheel of an environment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct WheelPin {
    /// The project's name, in its normal form.
    pub name: Box<str>,
    pub version: Box<str>,
    /// Its name says which Python and which platform it is for.
    pub file_name: Box<str>,
    /// In bytes; an old index does not say.
    pub size: Option<u64>,
    pub digest: Digest,
    /// Path on its server when it was resolved: a hint.
    pub path: Box<str>,
}

impl WheelPin {
    pub fn label(&self) -> String {
        format!("{} {}", self.name, self.version)
    }

    pub(super) fn write(&self, words: &mut Words) {
        let size = self.size.map(|size| size.to_string()).unwrap_or_default();
        words.push(&self.name).push(&self.version).push(&self.file_name).push(size);
        words.push(self.digest).push(&self.path);
    }

    pub(super) fn parse<'a>(words: &mut impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let name: Box<str> = Words::next(words, "name")?.into();
        let version = Words::next(words, "version")?.into();
        let file_name = Words::next(words, "file name")?;
        if file_name.contains('/') || !file_name.ends_with(".whl") {
            return Err(format!("`{file_name}` is not the name of a wheel"));
        }
        let size = Words::next(words, "size")?;
        let size = match size.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|error| format!("the size is wrong: {error}"))?),
        };
        let digest = Words::parse(words, "digest")?;
        let path = Words::path(words, "path")?.into();
        Ok(WheelPin { name, version, file_name: file_name.into(), size, digest, path })
    }
}
