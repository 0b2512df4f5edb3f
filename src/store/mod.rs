//! What lives in `cache/`: an OCI image layout beside what makes builds incremental.
//!
//! ```text
//! sbx-store                  says that the directory is a store
//! oci-layout, index.json     the layout; `skopeo inspect oci:cache:base` works
//! blobs/sha256/HEX           bytes named by digest: sources, layers, configs, manifests
//! blobs/sha512/HEX           sources whose ecosystem names them so (npm; sha1 for its oldest)
//! keys/HEX                   Key → layer (digest, size, listing)
//! listings/HEX-HEX           a layer's entries, by the layer's digest and their own
//! trees/IDMAP/HEX32          a layer unpacked, for overlay mounts, by id map and digest
//! sizes/IDMAP-HEX32          what such a tree takes of the disk, measured once
//! images/HEX                 image Key → ImageId and layout manifest; its time is that of the last use
//! twins/HEX.FORMAT           a layer's compressed form, by its digest
//! projects/HEX               who uses the store, and what their locks need
//! facts/ALGORITHM-HEX        what a source says of itself, by its digest
//! pushes/                    what was pushed where
//! parts/HEX                  downloads under way, resumed by whoever comes next
//! tmp/PID-N/                 a process's lease and its drafts, swept once it is gone
//! locks/                     advisory locks
//! unvouched                  there if layers were taken that nobody vouched for
//! ```
//!
//! Every name is given by `rename(2)` after its bytes are known, so a reader never sees half a file
//! and a kill at any moment loses only drafts. Blobs are not fsynced one by one: a record carries the
//! file stamp its blob had, and a blob whose stamp changed is hashed again before it is believed.
//! What may be deleted, and when, says `collect`; what may not, `lease`; docs/store.md tells it whole.

mod collect;
mod draft;
mod error;
mod gone;
mod inventory;
mod layout;
mod lease;
mod mark;
mod project;
mod pulled;
mod push;
mod record;
mod room;
mod seal;
mod share;
mod stamp;
mod vouched;

pub use collect::{Collected, Goal, Heap, Loose};
pub use draft::{Draft, TreeDraft};
pub use error::StoreError;
pub use inventory::Class;
pub use layout::{Claimant, ImageRef, PublishedImage};
pub use lease::{Held, Lease};
pub use push::PushedImage;
pub use record::{ImageRecord, Key, LayerRecord, Packed};
pub use room::{Cap, Crowd, shown};
pub use share::Share;
pub use stamp::Stamp;
pub use vouched::Voucher;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use self::seal::Ground;
use crate::digest::{Digest, Hasher, Integrity};
use crate::fsx::{self, IoAt, PathIo};

/// Directories of a store.
const DIRS: &[&str] = &[
    "blobs/sha256",
    "facts",
    "images",
    "keys",
    "listings",
    "locks",
    "logs",
    "parts",
    "projects",
    "pushes",
    "sizes",
    "stats",
    "tmp",
    "tools",
    "trees",
    "twins",
];

/// An opened store. Cheap to share; safe beside other processes.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    lease: OnceLock<Arc<Lease>>,
    cap: Option<Cap>,
    overflow: Arc<room::Overflow>,
    /// Whether this process may have written since the store was last held against its cap.
    written: AtomicBool,
}

impl Store {
    /// Opens the store at `root`, making what is missing: all of it, where there is nothing.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let ground = seal::look(root)?;
        if ground == Ground::Foreign {
            return Err(StoreError::Foreign(root.to_owned()));
        }
        let store = Store {
            root: root.to_owned(),
            lease: OnceLock::new(),
            cap: None,
            overflow: Arc::default(),
            written: AtomicBool::new(false),
        };
        if ground == Ground::Unsealed {
            // who may not write to it takes nothing away either
            seal::put(root).unwrap_or_default();
        }
        if DIRS.iter().chain(&["oci-layout"]).any(|name| !root.join(name).exists()) {
            store.create().map_err(|error| match fsx::is_read_only(&error.source) {
                true => StoreError::ReadOnly { path: root.to_owned(), source: error.source },
                false => StoreError::Io(error),
            })?;
        }
        layout::check_version(&store.root)?;
        Ok(store)
    }

    /// Opens the store at `root` if there is one; makes none.
    pub fn find(root: &Path) -> Result<Option<Self>, StoreError> {
        match seal::look(root)? {
            Ground::Free => Ok(None),
            _ => Self::open(root).map(Some),
        }
    }

    /// Whether a directory is a store.
    pub fn is_at(root: &Path) -> bool {
        matches!(seal::look(root), Ok(Ground::Store | Ground::Unsealed))
    }

    /// Makes what is missing.
    fn create(&self) -> Result<(), PathIo> {
        seal::put(&self.root)?;
        for dir in DIRS {
            let path = self.root.join(dir);
            fs::create_dir_all(&path).at("create", &path)?;
        }
        layout::create(&self.root)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a blob is, or will be.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    /// Where a source is, or will be: `blobs/` of its digest's algorithm (OCI image-spec, image
    /// layout: one directory an algorithm).
    pub fn source_path(&self, digest: &Integrity) -> PathBuf {
        self.root.join("blobs").join(digest.algorithm()).join(digest.hex())
    }

    /// Size of a source in bytes, if the store has it.
    pub fn find_source(&self, digest: &Integrity) -> Option<u64> {
        fs::metadata(self.source_path(digest)).ok().map(|meta| meta.len())
    }

    /// Where a download of that source gathers until it is whole.
    pub fn source_part_path(&self, digest: &Integrity) -> PathBuf {
        self.root.join("parts").join(digest.hex())
    }

    /// Drops a source whose bytes are not what its name says.
    pub fn drop_source(&self, digest: &Integrity) -> Result<(), StoreError> {
        let path = self.source_path(digest);
        Ok(fs::remove_file(&path).at("remove", &path)?)
    }

    /// Where a download of that blob gathers until it is whole.
    pub fn part_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("parts").join(digest.hex())
    }

    /// Keeps what a layer's listing says, and answers its digest.
    pub fn put_listing(&self, diff_id: &Digest, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        fsx::write_atomic(&self.listing_at(diff_id, &digest), bytes)?;
        Ok(digest)
    }

    /// Where a layer's listing is.
    pub fn listing_path(&self, record: &LayerRecord) -> Result<PathBuf, StoreError> {
        let listing = record.listing.ok_or(StoreError::Unlisted(record.diff_id))?;
        Ok(self.listing_at(&record.diff_id, &listing))
    }

    pub fn has_listing(&self, record: &LayerRecord) -> bool {
        self.listing_path(record).is_ok_and(|path| path.exists())
    }

    fn listing_at(&self, diff_id: &Digest, listing: &Digest) -> PathBuf {
        self.root.join("listings").join(format!("{}-{}", diff_id.hex(), listing.hex()))
    }

    /// Where a layer's tree is, or will be, for owners mapped by `id_map`. The name is short (128
    /// bits of the digest): sixty full ones would overflow a page of mount options.
    pub fn tree_path(&self, id_map: &str, digest: &Digest) -> PathBuf {
        self.root.join("trees").join(id_map).join(&digest.hex()[..32])
    }

    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.blob_path(digest).exists()
    }

    /// Size of a blob in bytes, if the store has it.
    pub fn find_blob(&self, digest: &Digest) -> Option<u64> {
        fs::metadata(self.blob_path(digest)).ok().map(|meta| meta.len())
    }

    /// Reads a small blob whole, checking its bytes.
    pub fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let path = self.blob_path(digest);
        let bytes = fs::read(&path).at("read", &path)?;
        match Digest::of(&bytes) {
            found if found == *digest => Ok(bytes),
            found => Err(StoreError::Corrupt { expected: *digest, found }),
        }
    }

    /// Hashes a stored blob and compares: what a doubtful blob has to go through.
    pub fn verify_blob(&self, digest: &Digest) -> Result<(), StoreError> {
        let path = self.blob_path(digest);
        let mut file = File::open(&path).at("open", &path)?;
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer).at("read", &path)? {
                0 => break,
                n => hasher.update(&buffer[..n]),
            }
        }
        match hasher.finish() {
            found if found == *digest => Ok(()),
            found => Err(StoreError::Corrupt { expected: *digest, found }),
        }
    }

    /// Drops a blob whose bytes are not what its name says.
    pub fn drop_blob(&self, digest: &Digest) -> Result<(), StoreError> {
        let path = self.blob_path(digest);
        Ok(fs::remove_file(&path).at("remove", &path)?)
    }

    /// Stores small bytes as a blob.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        self.hold([Held::Blob(&digest)])?;
        if !self.has_blob(&digest) {
            let mut draft = self.draft()?;
            io::Write::write_all(&mut draft, bytes).at("write", draft.path())?;
            draft.commit()?;
        }
        Ok(digest)
    }

    /// Copies a file in as the blob that it is.
    pub fn import(&self, path: &Path) -> Result<(), StoreError> {
        let mut file = File::open(path).at("open", path)?;
        let mut draft = self.draft()?;
        io::copy(&mut file, &mut draft).at("copy", path)?;
        draft.commit().map(drop)
    }

    /// A new blob's draft.
    pub fn draft(&self) -> Result<Draft, StoreError> {
        self.written.store(true, Ordering::Relaxed);
        let overflow = Arc::clone(&self.overflow);
        Draft::create(self.own_lease()?, self.root.join("blobs/sha256"), overflow)
    }

    /// An empty directory for a new tree's draft.
    pub fn tree_draft(&self) -> Result<TreeDraft, StoreError> {
        self.written.store(true, Ordering::Relaxed);
        TreeDraft::create(self.own_lease()?, Arc::clone(&self.overflow))
    }

    /// Holds things for as long as this store is open. Hold first, then look whether they are there.
    pub fn hold<'a>(&self, held: impl IntoIterator<Item = Held<'a>>) -> Result<(), StoreError> {
        let held = held.into_iter().inspect(|held| {
            // who holds sources is about to fetch them
            if let Held::Source(..) = held {
                self.written.store(true, Ordering::Relaxed);
            }
        });
        match self.own_lease() {
            Ok(lease) => lease.hold(held),
            // who may not write cannot hold anything
            Err(StoreError::ReadOnly { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// A lease of its own, for what outlives this store's work: an instance.
    pub fn lease(&self) -> Result<Lease, StoreError> {
        Lease::open(&self.root)
    }

    fn own_lease(&self) -> Result<Arc<Lease>, StoreError> {
        if let Some(lease) = self.lease.get() {
            return Ok(Arc::clone(lease));
        }
        let lease = Arc::new(Lease::open(&self.root)?);
        Ok(Arc::clone(self.lease.get_or_init(|| lease)))
    }

    /// Waits until this process is the only one working on `name` (a Key, the index, …).
    pub fn lock(&self, name: &str) -> Result<StoreLock, StoreError> {
        loop {
            if let Some(lock) = self.take_lock(name, FlockOperation::LockExclusive)? {
                return Ok(lock);
            }
        }
    }

    /// Likewise, and does not wait: `None` where somebody has it.
    fn try_lock(&self, name: &str) -> Result<Option<StoreLock>, StoreError> {
        self.take_lock(name, FlockOperation::NonBlockingLockExclusive)
    }

    fn take_lock(&self, name: &str, how: FlockOperation) -> Result<Option<StoreLock>, StoreError> {
        let path = self.root.join("locks").join(name);
        let file = File::create(&path).at("create", &path)?;
        match rustix::fs::flock(&file, how) {
            Err(Errno::WOULDBLOCK) => return Ok(None),
            result => result.at("lock", &path)?,
        }
        // whoever held it may have removed it: only the file that has the name counts
        let is_there = |ours: Stamp| Stamp::at(&path).is_some_and(|now| now.is_same_file(&ours));
        let counts = Stamp::of(&file).is_some_and(is_there);
        // made only where it counts: what drops one takes the name away
        Ok(if counts { Some(StoreLock { path, _file: file }) } else { None })
    }

    /// Removes drafts of processes that are gone.
    pub fn sweep(&self) -> Result<(), StoreError> {
        lease::sweep(&self.root)
    }
}

/// Holds a name of a store; given back on drop.
#[derive(Debug)]
pub struct StoreLock {
    path: PathBuf,
    _file: File,
}

impl Drop for StoreLock {
    fn drop(&mut self) {
        // the lock itself goes with the file; a name left behind would only be litter
        fs::remove_file(&self.path).unwrap_or_default();
    }
}

/// Removes a path of the store, whatever it is.
pub(crate) fn remove(path: &Path) -> Result<(), StoreError> {
    Ok(fsx::remove_tree(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn bytes_get_their_name_only_when_they_are_whole() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(&home.path().join("cache")).unwrap();
        let mut draft = store.draft().unwrap();
        draft.write_all(b"hello").unwrap();
        assert!(!store.has_blob(&Digest::of(b"hello")));
        assert_eq!(draft.commit().unwrap(), (Digest::of(b"hello"), 5));
        assert_eq!(store.read_blob(&Digest::of(b"hello")).unwrap(), b"hello");
    }

    #[test]
    fn stores_are_opened_and_swept_by_many_at_once() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("cache");
        Store::open(&root).unwrap();
        let open_and_sweep = &|thread: u8| {
            for round in 0..50 {
                let store = Store::open(&root).unwrap();
                let mut draft = store.draft().unwrap();
                draft.write_all(&[thread, round]).unwrap();
                // what a killed process left
                let left = root.join(format!("tmp/{thread}-{round}-killed"));
                fs::create_dir_all(&left).unwrap();
                drop(fs::write(left.join("lock"), ""));
                store.sweep().unwrap();
                draft.commit().unwrap();
            }
        };
        std::thread::scope(|scope| {
            (0..8).for_each(|thread| drop(scope.spawn(move || open_and_sweep(thread))));
        });
        Store::open(&root).unwrap().sweep().unwrap();
    }

    #[test]
    fn a_new_store_is_made_by_many_at_once() {
        let home = tempfile::tempdir().unwrap();
        for round in 0..50 {
            let root = home.path().join(round.to_string());
            std::thread::scope(|scope| {
                let open = || drop(Store::open(&root).unwrap());
                (0..8).for_each(|_| drop(scope.spawn(open)));
            });
        }
    }

    #[test]
    fn a_store_that_lost_a_directory_is_mended() {
        let home = tempfile::tempdir().unwrap();
        Store::open(home.path()).unwrap();
        for dir in DIRS {
            drop(fs::remove_dir_all(home.path().join(dir)));
            Store::open(home.path()).unwrap();
            assert!(home.path().join(dir).is_dir(), "{dir}");
        }
    }

    #[test]
    fn a_dropped_draft_leaves_nothing() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        let path = {
            let draft = store.draft().unwrap();
            draft.path().to_owned()
        };
        assert!(!path.exists());
    }

    #[test]
    fn a_corrupt_blob_is_found_and_named() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        let digest = store.put_blob(b"good").unwrap();
        fs::write(store.blob_path(&digest), "evil").unwrap();
        let error = store.read_blob(&digest).unwrap_err().to_string();
        assert!(error.contains(&digest.to_string()), "{error}");
        assert!(store.verify_blob(&digest).is_err());
    }

    #[test]
    fn drafts_of_the_dead_are_swept_and_those_of_the_living_kept() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        let draft = store.draft().unwrap();
        let dead = home.path().join("tmp/1-0");
        fs::create_dir_all(dead.join("0/deep")).unwrap();
        fs::write(dead.join("lock"), "").unwrap();
        store.sweep().unwrap();
        assert!(!dead.exists());
        assert!(draft.path().exists());
    }
}
