//! What lies below: several trees seen as one, as overlayfs shows them.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::fsx::{IoAt, PathIo};
use crate::path::LayerPath;

/// Trees, topmost first.
#[derive(Clone, Debug)]
pub struct View {
    trees: Vec<PathBuf>,
}

impl View {
    /// From trees in the order of an image: bottom first.
    pub fn new(bottom_first: &[PathBuf]) -> Self {
        View { trees: bottom_first.iter().rev().cloned().collect() }
    }

    /// The same with one more on top.
    pub fn with(&self, top: &Path) -> Self {
        let trees = std::iter::once(top.to_owned()).chain(self.trees.iter().cloned()).collect();
        View { trees }
    }

    /// Where a path is, not following its last component: the topmost tree that has it, unless a
    /// tree above hides it.
    pub fn find(&self, path: &LayerPath) -> Option<PathBuf> {
        for tree in &self.trees {
            match locate(tree, path) {
                Located::Here(found) => return Some(found),
                Located::Hidden => return None,
                Located::Below => {}
            }
        }
        None
    }

    /// Reads a file, following links within the view.
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>, PathIo> {
        let Ok(path) = LayerPath::parse_absolute(path) else { return Ok(None) };
        match self.resolve(&path) {
            Some(found) => fs::read(&found).at("read", &found).map(Some),
            None => Ok(None),
        }
    }

    /// Reads a file of text; what is not there is empty.
    pub fn read_text(&self, path: &str) -> Result<String, PathIo> {
        Ok(String::from_utf8_lossy(&self.read(path)?.unwrap_or_default()).into_owned())
    }

    /// Where a path leads, links followed within the view.
    pub fn resolve(&self, path: &LayerPath) -> Option<PathBuf> {
        let mut pending: Vec<Vec<u8>> = components(path.as_bytes());
        let mut at = LayerPath::root();
        // as many links as the kernel follows
        let mut links = 0;
        while let Some(part) = pending.pop() {
            if part == b".." {
                at = at.parent().unwrap_or_default();
                continue;
            }
            let next = at.join(&part).ok()?;
            let found = self.find(&next)?;
            let target = fs::read_link(&found).ok();
            let Some(target) = target else {
                at = next;
                continue;
            };
            links += 1;
            if links > 40 {
                return None;
            }
            let target = target.as_os_str().as_bytes();
            if target.starts_with(b"/") {
                at = LayerPath::root();
            }
            pending.extend(components(target));
        }
        if at.is_root() { self.trees.first().cloned() } else { self.find(&at) }
    }

    /// Names in a directory, merged over all trees, sorted.
    pub fn list(&self, path: &str) -> Vec<String> {
        let Ok(path) = LayerPath::parse_absolute(path) else { return Vec::new() };
        let mut names = std::collections::BTreeMap::new();
        for tree in &self.trees {
            let dir = tree.join(path.as_path());
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                let whiteout = entry.metadata().is_ok_and(|meta| is_whiteout(&meta));
                names.entry(entry.file_name().to_string_lossy().into_owned()).or_insert(!whiteout);
            }
            if is_opaque(&dir) {
                break;
            }
        }
        names.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
    }
}

/// Components last first, `..` kept.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let parts = path.split(|c| *c == b'/').filter(|part| !part.is_empty() && *part != b".");
    parts.map(<[u8]>::to_vec).rev().collect()
}

enum Located {
    Here(PathBuf),
    Hidden,
    Below,
}

fn locate(tree: &Path, path: &LayerPath) -> Located {
    let mut opaque = false;
    for ancestor in path.ancestors() {
        let dir = tree.join(ancestor.as_path());
        match fs::symlink_metadata(&dir) {
            Ok(meta) if meta.is_dir() => opaque |= is_opaque(&dir),
            // a file, a link or a whiteout stands where a directory below would be
            Ok(_) => return Located::Hidden,
            Err(_) => return if opaque { Located::Hidden } else { Located::Below },
        }
    }
    let found = tree.join(path.as_path());
    match fs::symlink_metadata(&found) {
        Ok(meta) if is_whiteout(&meta) => Located::Hidden,
        Ok(_) => Located::Here(found),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !opaque => Located::Below,
        Err(_) => Located::Hidden,
    }
}

/// Overlayfs's mark for a path that is gone: a character device 0:0.
pub(super) fn is_whiteout(meta: &fs::Metadata) -> bool {
    meta.file_type().is_char_device() && meta.rdev() == 0
}

/// Overlayfs's mark for a directory that hides what lies below it.
pub(super) fn is_opaque(dir: &Path) -> bool {
    ["trusted.overlay.opaque", "user.overlay.opaque"].iter().any(|name| {
        let mut value = [0; 4];
        rustix::fs::lgetxattr(dir, *name, &mut value).is_ok_and(|n| value.get(..n) == Some(b"y"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_are_seen_as_overlayfs_shows_them() {
        let home = tempfile::tempdir().unwrap();
        let (low, high) = (home.path().join("low"), home.path().join("high"));
        for (path, text) in
            [("low/a/x", "low"), ("low/a/y", "low"), ("high/a/x", "high"), ("low/b", "gone")]
        {
            let path = home.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        std::os::unix::fs::symlink("../a/../a/x", low.join("a/l")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            high.join("b"),
            rustix::fs::FileType::CharacterDevice,
            rustix::fs::Mode::empty(),
            0,
        )
        .unwrap();
        let view = View::new(&[low, high]);
        assert_eq!(view.read_text("/a/x").unwrap(), "high");
        assert_eq!(view.read_text("/a/y").unwrap(), "low");
        assert_eq!(view.read_text("/a/l").unwrap(), "high");
        assert_eq!(view.read("/b").unwrap(), None);
        assert_eq!(view.list("/"), ["a"]);
        assert_eq!(view.list("/a"), ["l", "x", "y"]);
    }
}
