//! Bytes and trees that are still being written.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::FlockOperation;

use super::stamp::Stamp;
use super::{StoreError, remove};
use crate::digest::{Digest, Hasher};
use crate::fsx::{IoAt, PathIo};

/// One process's corner of `tmp/`, held by a lock that goes with the process however it ends.
#[derive(Debug)]
pub(super) struct Session {
    lease: Arc<Lease>,
    next: AtomicU64,
}

/// Keeps the corner alive while any draft of it is.
#[derive(Debug)]
pub(super) struct Lease {
    dir: PathBuf,
    _lock: File,
}

impl Drop for Lease {
    fn drop(&mut self) {
        remove(&self.dir).unwrap_or_default();
    }
}

impl Session {
    pub(super) fn open(root: &Path) -> Result<Self, StoreError> {
        let tmp = root.join("tmp");
        for attempt in 0u32.. {
            let dir = tmp.join(format!("{}-{attempt}", std::process::id()));
            match fs::create_dir(&dir) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error)
                    if error.kind() == io::ErrorKind::ReadOnlyFilesystem
                        || error.kind() == io::ErrorKind::PermissionDenied =>
                {
                    return Err(StoreError::ReadOnly { path: root.to_owned(), source: error });
                }
                result => result.at("create", &dir)?,
            }
            if let Some(lock) = take(&dir)? {
                let lease = Arc::new(Lease { dir, _lock: lock });
                return Ok(Session { lease, next: AtomicU64::new(0) });
            }
        }
        unreachable!("there are fewer than 2^32 directories")
    }

    /// A path that nobody else will use.
    pub(super) fn next(&self, _root: &Path) -> Result<(PathBuf, Arc<Lease>), StoreError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Ok((self.lease.dir.join(number.to_string()), Arc::clone(&self.lease)))
    }
}

/// Takes the lock of a new corner; `None` where a sweep was faster and took it for abandoned.
fn take(dir: &Path) -> Result<Option<File>, StoreError> {
    let path = dir.join("lock");
    let lock = match File::create(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result.at("create", &path)?,
    };
    Ok(holds(&lock, &path).then_some(lock))
}

/// Whether this is the lock at `path`, and ours now. Names come back: a process in another namespace
/// may have the same number, and a corner of that name may have been removed and made again.
fn holds(lock: &File, path: &Path) -> bool {
    rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive).is_ok()
        && match (Stamp::of(lock), Stamp::at(path)) {
            (Some(ours), Some(there)) => ours.is_same_file(&there),
            _ => false,
        }
}

/// Removes the corners whose process is gone. A corner without a lock file is a minute old at
/// least before it counts as abandoned: its process may be between two calls.
pub(super) fn sweep(root: &Path) -> Result<(), StoreError> {
    let tmp = root.join("tmp");
    for entry in fs::read_dir(&tmp).at("list", &tmp)? {
        let dir = entry.at("list", &tmp)?.path();
        match File::open(dir.join("lock")) {
            // held until the corner is gone, so that of two sweeps only one removes it
            Ok(lock) => {
                if holds(&lock, &dir.join("lock")) {
                    remove(&dir)?;
                }
            }
            Err(_) => {
                let modified = fs::metadata(&dir).and_then(|meta| meta.modified());
                let age = modified.ok().and_then(|time| time.elapsed().ok());
                if age.is_some_and(|age| age.as_secs() > 60) {
                    remove(&dir)?;
                }
            }
        }
    }
    Ok(())
}

/// A blob that is still being written; hashed while it is, removed when dropped.
#[derive(Debug)]
pub struct Draft {
    path: PathBuf,
    blobs: PathBuf,
    file: Option<File>,
    hasher: Hasher,
    _lease: Arc<Lease>,
}

impl Draft {
    pub(super) fn create(
        path: PathBuf,
        lease: Arc<Lease>,
        blobs: PathBuf,
    ) -> Result<Self, StoreError> {
        let file = File::create_new(&path).at("create", &path)?;
        Ok(Draft { path, blobs, file: Some(file), hasher: Hasher::new(), _lease: lease })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes written so far.
    pub fn len(&self) -> u64 {
        self.hasher.len()
    }

    pub fn is_empty(&self) -> bool {
        self.hasher.is_empty()
    }

    /// Gives the bytes their name. Answers the digest and the size in bytes.
    pub fn commit(mut self) -> Result<(Digest, u64), StoreError> {
        drop(self.file.take());
        let size = self.hasher.len();
        let digest = std::mem::take(&mut self.hasher).finish();
        let name = self.blobs.join(digest.hex());
        fs::rename(&self.path, &name).at("rename", &name)?;
        Ok((digest, size))
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let file = self.file.as_mut().expect("a draft has its file until it is committed");
        let written = file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // after a commit the name is gone already
        fs::remove_file(&self.path).unwrap_or_default();
    }
}

/// A directory that is to become a layer's tree; removed when dropped.
#[derive(Debug)]
pub struct TreeDraft {
    path: PathBuf,
    _lease: Arc<Lease>,
}

impl TreeDraft {
    pub(super) fn create(path: PathBuf, lease: Arc<Lease>) -> Result<Self, StoreError> {
        fs::create_dir(&path).at("create", &path)?;
        Ok(TreeDraft { path, _lease: lease })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves `inner` (a path below the draft, or the draft itself) to its final name. A tree that
    /// another process put there first is as good: same digest, same tree.
    pub fn commit(self, inner: &Path, name: &Path) -> Result<(), StoreError> {
        if let Some(parent) = name.parent() {
            fs::create_dir_all(parent).at("create", parent)?;
        }
        match fs::rename(inner, name) {
            Err(_) if name.is_dir() => Ok(()),
            result => Ok(result.at("rename", name)?),
        }
    }
}

impl Drop for TreeDraft {
    fn drop(&mut self) {
        let gone: Result<(), PathIo> = crate::fsx::remove_tree(&self.path);
        gone.unwrap_or_default();
    }
}
