//! Leases: what a running process needs of a store, so that nothing of it is deleted meanwhile.
//!
//! A lease is a corner of `tmp/` with a file `lock`. The process holds that file by flock(2), which
//! ends with the process however it ends; the file's lines say what is held:
//!
//! ```text
//! key HEX                what that Key gave: record, blob, listing, trees
//! image HEX              the image of that plan: record, documents, and all that its layers have
//! blob ALGORITHM/HEX [SIZE]   a blob, whether it is there or still to come; its listing, its trees
//! tool NAME              a directory of `tools/`
//! ```
//!
//! A build holds its plan; a launcher holds an instance's image, by a lease of its own that lives as
//! long as the instance: `let lease = store.lease()?; lease.hold([Held::Image(&plan.key)])?`. What is
//! in the corner (drafts, an instance's upper directory) goes when the lease does.
//!
//! **Hold first, then look.** Lines are added under `locks/gate`, shared; the collector takes it
//! exclusively, reads all leases and takes away what none of them holds. So what was seen after it was
//! held stays, and what was taken before is seen to be missing. A process that may not write to the
//! store holds nothing: what it reads may go.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::FlockOperation;

use super::record::Key;
use super::stamp::Stamp;
use super::{StoreError, remove};
use crate::digest::{Digest, Integrity};
use crate::fsx::IoAt;

/// Something of a store that a process needs.
#[derive(Clone, Copy, Debug)]
pub enum Held<'a> {
    /// What a step's Key gave, or will give.
    Key(&'a Key),
    /// What a plan's Key gave, or will give.
    Image(&'a Key),
    /// A blob, and what belongs to the layer of that digest.
    Blob(&'a Digest),
    /// A source, with its size where it is known: room is kept for what is still to come.
    Source(&'a Integrity, Option<u64>),
    /// A directory of `tools/`.
    Tool(&'a str),
}

impl Held<'_> {
    fn line(&self) -> String {
        match self {
            Held::Key(key) => format!("key {}\n", key.0.hex()),
            Held::Image(key) => format!("image {}\n", key.0.hex()),
            Held::Blob(digest) => format!("blob sha256/{}\n", digest.hex()),
            Held::Source(digest, size) => {
                let size = size.map(|size| format!(" {size}")).unwrap_or_default();
                format!("blob {}/{}{size}\n", digest.algorithm(), digest.hex())
            }
            Held::Tool(name) => format!("tool {name}\n"),
        }
    }
}

/// One process's corner of `tmp/`, and what it holds.
#[derive(Debug)]
pub struct Lease {
    dir: PathBuf,
    gate: PathBuf,
    next: AtomicU64,
    lock: Mutex<Lines>,
}

/// The lines of a lease that is ours.
#[derive(Debug)]
struct Lines {
    file: File,
    known: BTreeSet<String>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        clear(&self.dir).unwrap_or_default();
    }
}

impl Lease {
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
            if let Some(file) = take(&dir)? {
                let lock = Mutex::new(Lines { file, known: BTreeSet::new() });
                return Ok(Lease { dir, gate: gate_path(root), next: AtomicU64::new(0), lock });
            }
        }
        unreachable!("there are fewer than 2^32 directories")
    }

    /// The corner: whatever is in it goes with the lease.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A path in the corner that nobody else will use.
    pub(super) fn next(&self) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.dir.join(number.to_string())
    }

    /// Holds these things, too. What is there when this returns stays until the lease ends.
    pub fn hold<'a>(&self, held: impl IntoIterator<Item = Held<'a>>) -> Result<(), StoreError> {
        let mut lines = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        for line in held.into_iter().map(|held| held.line()) {
            if !lines.known.contains(&line) {
                text.push_str(&line);
                lines.known.insert(line);
            }
        }
        if text.is_empty() {
            return Ok(());
        }
        let _gate = Gate::pass(&self.gate)?;
        Ok(lines.file.write_all(text.as_bytes()).at("write", self.dir.join("lock"))?)
    }
}

pub(super) fn gate_path(root: &Path) -> PathBuf {
    root.join("locks/gate")
}

/// The moment between what is held and what is taken away.
#[derive(Debug)]
pub(super) struct Gate {
    _file: File,
}

impl Gate {
    /// For who holds something: many at once.
    fn pass(path: &Path) -> Result<Self, StoreError> {
        Self::take(path, FlockOperation::LockShared)
    }

    /// For who takes something away: alone.
    pub(super) fn close(path: &Path) -> Result<Self, StoreError> {
        Self::take(path, FlockOperation::LockExclusive)
    }

    fn take(path: &Path, how: FlockOperation) -> Result<Self, StoreError> {
        let open = || OpenOptions::new().create(true).append(true).open(path);
        let file = open().at("open", path)?;
        rustix::fs::flock(&file, how).at("lock", path)?;
        Ok(Gate { _file: file })
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

/// Removes the corners whose process is gone. An empty one has just begun, and its process makes another
/// when it finds it gone, or is what a removal left. One with something and no lock is nobody's; it is a
/// minute old at least before that counts, for names come back.
pub(super) fn sweep(root: &Path) -> Result<(), StoreError> {
    let tmp = root.join("tmp");
    for entry in fs::read_dir(&tmp).at("list", &tmp)? {
        let dir = entry.at("list", &tmp)?.path();
        let path = dir.join("lock");
        match File::open(&path) {
            // held until the corner is gone, so that of two sweeps only one removes it
            Ok(lock) if holds(&lock, &path) => clear(&dir)?,
            Ok(_) => {}
            Err(_) if fs::remove_dir(&dir).is_ok() => {}
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

/// The corners that a sweep would remove, but for those that it cannot tell from new ones.
pub(super) fn abandoned(root: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let tmp = root.join("tmp");
    let mut corners = Vec::new();
    for entry in fs::read_dir(&tmp).at("list", &tmp)? {
        let dir = entry.at("list", &tmp)?.path();
        let lock = File::open(dir.join("lock"));
        // shared, as with those who read what is held
        let free = |lock| rustix::fs::flock(lock, FlockOperation::NonBlockingLockShared).is_ok();
        if lock.is_ok_and(free) {
            corners.push(dir);
        }
    }
    Ok(corners)
}

/// Removes a corner whose lock is held, the lock last: whoever is killed on the way leaves either a lock
/// that nobody holds or nothing.
fn clear(dir: &Path) -> Result<(), StoreError> {
    let lock = dir.join("lock");
    for entry in fs::read_dir(dir).at("list", dir)? {
        let path = entry.at("list", dir)?.path();
        if path != lock {
            remove(&path)?;
        }
    }
    remove(&lock)?;
    // empty and without a lock, it is anybody's to remove, and its name anybody's to take
    fs::remove_dir(dir).unwrap_or_default();
    Ok(())
}

/// What all living leases hold together.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    pub(super) keys: BTreeSet<String>,
    pub(super) images: BTreeSet<String>,
    /// By `ALGORITHM/HEX`, with sizes where they are known.
    pub(super) blobs: BTreeMap<String, Option<u64>>,
    pub(super) tools: BTreeSet<String>,
    /// Corners of living processes.
    pub(super) corners: Vec<PathBuf>,
}

impl Holdings {
    /// Reads the leases of a store, except one's own corner's being among `corners`.
    pub(super) fn read(root: &Path) -> Result<Self, StoreError> {
        let mut holdings = Holdings::default();
        let tmp = root.join("tmp");
        for entry in fs::read_dir(&tmp).at("list", &tmp)? {
            let dir = entry.at("list", &tmp)?.path();
            let path = dir.join("lock");
            let Ok(lock) = File::open(&path) else { continue };
            // nobody who lives leaves it unlocked; a test takes it for a moment only, and shared, so
            // that two collectors do not see each other
            if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared).is_ok() {
                continue;
            }
            // its process may have ended since
            let Ok(text) = fs::read_to_string(&path) else { continue };
            text.lines().for_each(|line| holdings.read_line(line));
            holdings.corners.push(dir);
        }
        Ok(holdings)
    }

    fn read_line(&mut self, line: &str) {
        let mut words = line.split(' ');
        let (Some(kind), Some(name)) = (words.next(), words.next()) else { return };
        match kind {
            "key" => drop(self.keys.insert(name.to_owned())),
            "image" => drop(self.images.insert(name.to_owned())),
            "blob" => {
                let size = words.next().and_then(|size| size.parse().ok());
                let known = self.blobs.entry(name.to_owned()).or_default();
                *known = known.or(size);
            }
            "tool" => drop(self.tools.insert(name.to_owned())),
            _ => {}
        }
    }
}
