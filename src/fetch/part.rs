//! The beginning of a file: kept between tries, between mirrors and between processes.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::client::Want;
use super::error::FetchError;
use crate::digest::{Integrity, IntegrityHasher};
use crate::fsx::{self, IoAt, PathIo};

/// What one finds where a part should be.
pub(super) enum Found {
    /// It is held now, and hashed as far as it goes.
    Part(Box<Part>),
    /// Somebody else is at it.
    Busy,
    /// The file is there already.
    Whole,
}

/// A part, held by a lock so that two processes do not write it at once.
pub(super) struct Part {
    path: PathBuf,
    file: File,
    hasher: IntegrityHasher,
    digest: Integrity,
}

impl Part {
    /// Takes the part of `want`, without waiting for whoever else may hold it: a wait would hold up
    /// every other transfer of this thread, and two processes could wait for each other.
    pub(super) async fn find(want: &Want) -> Result<Found, FetchError> {
        if want.into.exists() {
            return Ok(Found::Whole);
        }
        let path = want.part.clone();
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).read(true).write(true);
        let file = file.open(&path).at("open", &path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Ok(Found::Busy),
            result => result.at("lock", &path)?,
        }
        // who held it before may have given it its name: only the file that is called a part is one
        let named = File::open(&path).ok().and_then(|named| fsx::inode(&named));
        if named.is_none() || named != fsx::inode(&file) {
            return Ok(Found::Busy);
        }
        let part = Part { path, file, hasher: want.digest.hasher(), digest: want.digest };
        if want.into.exists() {
            part.remove();
            return Ok(Found::Whole);
        }
        let part = match part.file.metadata().at("read", &part.path)?.len() {
            0 => part,
            _ => blocking(move || part.hash()).await?,
        };
        Ok(Found::Part(Box::new(part)))
    }

    /// Hashes what is there, so that a transfer can go on behind it.
    fn hash(mut self) -> Result<Self, PathIo> {
        let mut buffer = vec![0; 1 << 18];
        loop {
            match self.file.read(&mut buffer).at("read", &self.path)? {
                0 => return Ok(self),
                n => self.hasher.update(&buffer[..n]),
            }
        }
    }

    /// Bytes that are there.
    pub(super) fn len(&self) -> u64 {
        self.hasher.len()
    }

    pub(super) fn digest(&self) -> Integrity {
        self.hasher.clone().finish()
    }

    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), PathIo> {
        self.file.write_all(bytes).at("write", &self.path)?;
        self.hasher.update(bytes);
        Ok(())
    }

    /// Begins at nothing again.
    pub(super) fn restart(&mut self) -> Result<(), PathIo> {
        if self.len() > 0 {
            self.hasher = self.digest.hasher();
            self.file.set_len(0).at("empty", &self.path)?;
            self.file.seek(SeekFrom::Start(0)).at("rewind", &self.path)?;
        }
        Ok(())
    }

    /// Gives the file its name, once it has been judged. As everywhere in the store it is not synced:
    /// whoever reads a fetched blob hashes it, so that what a power cut took is found, dropped and
    /// fetched again.
    pub(super) fn finish(self, want: &Want) -> Result<(), PathIo> {
        if let Some(parent) = want.into.parent() {
            fs::create_dir_all(parent).at("create", parent)?;
        }
        fs::rename(&self.path, &want.into).at("rename", &want.into)
    }

    /// Gives it back unfinished: what is there is for the next to go on with.
    pub(super) fn give_up(self) {
        if self.len() == 0 {
            self.remove();
        }
    }

    fn remove(&self) {
        // an empty part left behind is litter and no more
        fs::remove_file(&self.path).unwrap_or_default();
    }
}

/// Runs what waits for the disk beside the transfers.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PathIo> + Send + 'static,
) -> Result<T, FetchError> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|error| FetchError::Setup(error.to_string()))??)
}
