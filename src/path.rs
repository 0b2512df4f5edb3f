//! Paths inside an image. Archives, indexes and declarations all bring paths; each is checked here
//! once, and everything below works with a value that cannot leave the root.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A path inside an image: bytes, relative to its root, `/` between components, no component empty,
/// `.`, `..` or with a NUL. The root itself is the empty path. Ordered by bytes, which puts every
/// directory before what it holds.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LayerPath(Box<[u8]>);

/// A path that would leave the image's root or that no file can have.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("path `{0}` {1}")]
pub struct PathError(pub String, pub &'static str);

impl LayerPath {
    /// The root of the image.
    pub fn root() -> Self {
        Self::default()
    }

    /// Parses a member name of an archive: `./a/b`, `a/b` and `a/b/` are the same path; absolute
    /// names are refused.
    pub fn parse_member(raw: &[u8]) -> Result<Self, PathError> {
        if raw.first() == Some(&b'/') {
            return Err(PathError(String::from_utf8_lossy(raw).into_owned(), "is absolute"));
        }
        Self::parse_lenient(raw)
    }

    /// Parses what people write: absolute in the image, `/etc/nginx`.
    pub fn parse_absolute(text: &str) -> Result<Self, PathError> {
        if !text.starts_with('/') {
            return Err(PathError(text.to_owned(), "is not absolute"));
        }
        Self::parse_lenient(text.as_bytes())
    }

    fn parse_lenient(raw: &[u8]) -> Result<Self, PathError> {
        let fail = |why| PathError(String::from_utf8_lossy(raw).into_owned(), why);
        if raw.contains(&0) {
            return Err(fail("has a NUL byte"));
        }
        let mut clean = Vec::with_capacity(raw.len());
        for part in raw.split(|&c| c == b'/') {
            match part {
                b"" | b"." => continue,
                b".." => return Err(fail("has a `..` component")),
                _ => {}
            }
            if part.len() > 255 {
                return Err(fail("has a component longer than 255 bytes"));
            }
            if !clean.is_empty() {
                clean.push(b'/');
            }
            clean.extend_from_slice(part);
        }
        if clean.len() > 4000 {
            return Err(fail("is longer than 4000 bytes"));
        }
        Ok(LayerPath(clean.into()))
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// For `openat` and its kin: relative, or `.` for the root.
    pub fn as_path(&self) -> &Path {
        if self.0.is_empty() { Path::new(".") } else { Path::new(OsStr::from_bytes(&self.0)) }
    }

    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    pub fn file_name(&self) -> &[u8] {
        self.0.rsplit(|&c| c == b'/').next().unwrap_or_default()
    }

    /// The directory that holds this path; `None` for the root.
    pub fn parent(&self) -> Option<LayerPath> {
        if self.0.is_empty() {
            return None;
        }
        let cut = self.0.iter().rposition(|&c| c == b'/').unwrap_or(0);
        Some(LayerPath(self.0[..cut].into()))
    }

    /// This path's directories from the top down, without the root and without itself.
    pub fn ancestors(&self) -> impl Iterator<Item = LayerPath> + '_ {
        self.0
            .iter()
            .enumerate()
            .filter(|(_, c)| **c == b'/')
            .map(|(at, _)| LayerPath(self.0[..at].into()))
    }

    /// `self/relative`, where `relative` obeys the rules of archive members.
    pub fn join(&self, relative: &[u8]) -> Result<LayerPath, PathError> {
        let mut raw = self.0.to_vec();
        raw.push(b'/');
        raw.extend_from_slice(relative);
        Self::parse_lenient(&raw)
    }

    /// Whether this path is `above` or lies below it.
    pub fn starts_with(&self, above: &LayerPath) -> bool {
        above.is_root()
            || self.0.strip_prefix(&*above.0).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    }

    /// What follows `above`, when this path lies below it.
    pub fn strip_prefix(&self, above: &LayerPath) -> Option<&[u8]> {
        if above.is_root() {
            return Some(&self.0);
        }
        let rest = self.0.strip_prefix(&*above.0)?;
        rest.strip_prefix(b"/").or_else(|| rest.is_empty().then_some(rest))
    }
}

impl fmt::Display for LayerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for LayerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_archives_stay_below_the_root() {
        assert_eq!(LayerPath::parse_member(b"./usr//bin/").unwrap().as_bytes(), b"usr/bin");
        assert!(LayerPath::parse_member(b"./").unwrap().is_root());
        for bad in [&b"/etc"[..], b"..", b"a/../../b", b"a\0b"] {
            assert!(LayerPath::parse_member(bad).is_err());
        }
    }

    #[test]
    fn relations_look_at_whole_components() {
        let path = |text| LayerPath::parse_absolute(text).unwrap();
        assert!(path("/usr/bin/x").starts_with(&path("/usr")));
        assert!(!path("/usrx").starts_with(&path("/usr")));
        assert_eq!(path("/usr/bin").parent(), Some(path("/usr")));
        assert_eq!(path("/usr").parent(), Some(LayerPath::root()));
        assert_eq!(path("/a/b/c").ancestors().collect::<Vec<_>>(), [path("/a"), path("/a/b")]);
        assert_eq!(path("/a/b/c").strip_prefix(&path("/a")), Some(&b"b/c"[..]));
        assert_eq!(path("/abc").strip_prefix(&path("/a")), None);
    }
}
