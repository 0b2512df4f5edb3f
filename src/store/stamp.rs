//! What a file looked like when its bytes were last known.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Size, times (nanoseconds since 1970) and inode of a file. Whoever writes to a file changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    pub size: u64,
    pub mtime: i64,
    pub ctime: i64,
    pub inode: u64,
}

impl Stamp {
    pub fn new(meta: &Metadata) -> Self {
        let nanos =
            |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        Stamp {
            size: meta.size(),
            mtime: nanos(meta.mtime(), meta.mtime_nsec()),
            ctime: nanos(meta.ctime(), meta.ctime_nsec()),
            inode: meta.ino(),
        }
    }

    /// The stamp of a path, not following a link; `None` where there is nothing.
    pub fn at(path: &Path) -> Option<Self> {
        fs::symlink_metadata(path).ok().map(|meta| Stamp::new(&meta))
    }

    pub fn of(file: &File) -> Option<Self> {
        file.metadata().ok().map(|meta| Stamp::new(&meta))
    }

    pub fn is_same_file(&self, other: &Stamp) -> bool {
        self.inode == other.inode
    }
}
