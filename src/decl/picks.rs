//! Which members of a source are meant, and where they lie below the directory that they go to.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::path::LayerPath;

/// A pattern that is none.
#[derive(Debug, thiserror::Error)]
#[error("`{pattern}` is no pattern: {reason}")]
pub struct PatternError {
    pub pattern: String,
    pub reason: String,
}

/// What is taken of a source.
pub struct Picks {
    strip: usize,
    /// The directory or file that is meant, after `strip`.
    inner: Vec<Vec<u8>>,
    include: Option<Gitignore>,
    exclude: Gitignore,
}

impl Picks {
    pub fn new(
        strip: u32,
        subdirectory: &str,
        include: &[String],
        exclude: &[String],
    ) -> Result<Self, PatternError> {
        let parts = subdirectory.split('/').filter(|part| !part.is_empty());
        Ok(Picks {
            strip: strip as usize,
            inner: parts.map(|part| part.as_bytes().to_vec()).collect(),
            include: if include.is_empty() { None } else { Some(build(include)?) },
            exclude: build(exclude)?,
        })
    }

    /// Where a member lies; the empty path is the place itself. `None` for one that is not meant.
    pub fn place(&self, path: &LayerPath, is_dir: bool) -> Option<Vec<u8>> {
        let mut parts: Vec<&[u8]> =
            path.as_bytes().split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect();
        if parts.len() < self.strip || parts.len() == self.strip && !is_dir {
            return None;
        }
        parts.drain(..self.strip);
        // a file that is meant itself gets the name it is to have
        if !is_dir && !self.inner.is_empty() && parts == self.inner {
            return Some(Vec::new());
        }
        if !parts.starts_with(&self.inner.iter().map(Vec::as_slice).collect::<Vec<_>>()) {
            return None;
        }
        let rest = parts[self.inner.len()..].join(&b'/');
        if rest.is_empty() {
            return is_dir.then_some(rest);
        }
        self.has(Path::new(OsStr::from_bytes(&rest)), is_dir).then_some(rest)
    }

    /// Whether a path is meant, as it lies there.
    pub fn has(&self, path: &Path, is_dir: bool) -> bool {
        let hit = |list: &Gitignore| list.matched_path_or_any_parents(path, is_dir).is_ignore();
        !hit(&self.exclude) && self.include.as_ref().is_none_or(hit)
    }
}

fn build(patterns: &[String]) -> Result<Gitignore, PatternError> {
    let failed = |pattern: &str, error: ignore::Error| PatternError {
        pattern: pattern.to_owned(),
        reason: error.to_string(),
    };
    let mut builder = GitignoreBuilder::new("");
    for pattern in patterns {
        builder.add_line(None, pattern).map_err(|error| failed(pattern, error))?;
    }
    builder.build().map_err(|error| failed(&patterns.join(" "), error))
}
