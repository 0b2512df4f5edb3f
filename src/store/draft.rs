//! Bytes and trees that are still being written.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::StoreError;
use super::lease::{Held, Lease};
use super::room::Overflow;
use crate::digest::{Digest, Hasher};
use crate::fsx::{IoAt, PathIo};

/// A blob that is still being written; hashed while it is, removed when dropped.
#[derive(Debug)]
pub struct Draft {
    path: PathBuf,
    blobs: PathBuf,
    file: Option<File>,
    hasher: Hasher,
    lease: Arc<Lease>,
    overflow: Arc<Overflow>,
}

impl Draft {
    pub(super) fn create(
        lease: Arc<Lease>,
        blobs: PathBuf,
        overflow: Arc<Overflow>,
    ) -> Result<Self, StoreError> {
        let path = lease.next();
        let file = File::create_new(&path).at("create", &path)?;
        Ok(Draft { path, blobs, file: Some(file), hasher: Hasher::new(), lease, overflow })
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

    /// Digest of the bytes written so far.
    pub fn digest(&self) -> Digest {
        self.hasher.clone().finish()
    }

    /// Gives the bytes their name, and holds them. Answers the digest and the size in bytes.
    pub fn commit(mut self) -> Result<(Digest, u64), StoreError> {
        self.overflow.check()?;
        drop(self.file.take());
        let size = self.hasher.len();
        let digest = std::mem::take(&mut self.hasher).finish();
        self.lease.hold([Held::Blob(&digest)])?;
        let name = self.blobs.join(digest.hex());
        fs::rename(&self.path, &name).at("rename", &name)?;
        Ok((digest, size))
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.overflow.check().map_err(io::Error::other)?;
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
    overflow: Arc<Overflow>,
    _lease: Arc<Lease>,
}

impl TreeDraft {
    pub(super) fn create(lease: Arc<Lease>, overflow: Arc<Overflow>) -> Result<Self, StoreError> {
        let path = lease.next();
        fs::create_dir(&path).at("create", &path)?;
        Ok(TreeDraft { path, overflow, _lease: lease })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves `inner` (a path below the draft, or the draft itself) to its final name. A tree that
    /// another process put there first is as good: same digest, same tree.
    pub fn commit(self, inner: &Path, name: &Path) -> Result<(), StoreError> {
        self.overflow.check()?;
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
