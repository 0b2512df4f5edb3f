//! A step's upper directory becomes a delta.
//!
//! What overlayfs left in the upper directory is more than what the step changed: files copied up and
//! not altered, directories copied up because something below them changed, times of the moment. All
//! that goes, from the tree as well, so that the tree and the tar say the same.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;

use super::assembly::{AssemblyError, complete};
use super::listing::Listing;
use super::pack::pack;
use super::tree::{Tree, times};
use super::view::{View, is_opaque, is_whiteout};
use crate::entry::{Claim, EPOCH, Entry, Kind, Meta, clamp_mtime};
use crate::fsx::{IoAt, PathIo};
use crate::path::LayerPath;

/// Why a step's result cannot be a layer.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error(transparent)]
    Io(#[from] PathIo),
    #[error(transparent)]
    Assembly(#[from] AssemblyError),
    #[error("{0} is a device, which no layer may hold")]
    Device(LayerPath),
    #[error("{0} has a name that stands for a deletion in a layer")]
    Reserved(LayerPath),
    #[error("{0}")]
    Path(#[from] crate::path::PathError),
}

struct Capture<'a> {
    upper: &'a Path,
    below: &'a View,
    entries: BTreeMap<LayerPath, Entry>,
    inodes: BTreeMap<u64, LayerPath>,
}

/// Normalises `upper` in place and writes it as a delta over `below`. The directory can then be the
/// delta's tree.
pub fn capture(upper: &Path, below: &View, tar: &mut dyn Write) -> Result<Listing, CaptureError> {
    let mut capture = Capture { upper, below, entries: BTreeMap::new(), inodes: BTreeMap::new() };
    capture.walk(&LayerPath::root())?;
    capture.stamp_bytecode()?;
    let listing = complete(capture.entries)?;
    settle_times(upper, &listing)?;
    pack(&Tree::open(upper)?, &listing, tar)?;
    Ok(listing)
}

impl Capture<'_> {
    /// Whether anything of a directory is part of the delta.
    fn walk(&mut self, dir: &LayerPath) -> Result<bool, CaptureError> {
        let path = self.upper.join(dir.as_path());
        let mut kept = false;
        let mut names: Vec<_> = fs::read_dir(&path)
            .at("list", &path)?
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<Result<_, _>>()
            .at("list", &path)?;
        names.sort();
        for name in names {
            let child = dir.join(name.as_bytes())?;
            let full = self.upper.join(child.as_path());
            let meta = fs::symlink_metadata(&full).at("stat", &full)?;
            if name.as_bytes().starts_with(b".wh.") {
                return Err(CaptureError::Reserved(child));
            }
            kept |= match meta.is_dir() {
                true => self.add_dir(child, &full, &meta)?,
                false => self.add_leaf(child, &full, &meta)?,
            };
        }
        Ok(kept)
    }

    fn add_dir(
        &mut self,
        path: LayerPath,
        full: &Path,
        meta: &Metadata,
    ) -> Result<bool, CaptureError> {
        let opaque = is_opaque(full);
        let below = self
            .below
            .find(&path)
            .filter(|found| fs::symlink_metadata(found).is_ok_and(|meta| meta.is_dir()));
        let own = observed(full, meta)?;
        let same = match &below {
            None => false,
            Some(found) => {
                let meta = fs::symlink_metadata(found).at("stat", found)?;
                same_owner(&observed(found, &meta)?, &own)
            }
        };
        let kept = self.walk(&path)?;
        // an opaque directory over nothing is a new directory
        if opaque && below.is_some() {
            self.insert(path.clone(), Meta::root(0), Kind::Opaque);
        }
        match (same && !opaque, kept) {
            (true, false) => {
                fs::remove_dir(full).at("remove", full)?;
                Ok(false)
            }
            (true, true) => {
                // its tree entry looks as an implied one does in the tar
                let implied = super::assembly::implied(path.clone());
                set_dir(full, &implied.meta)?;
                self.entries.insert(path, implied);
                Ok(true)
            }
            (false, _) => {
                self.insert(path, own, Kind::Dir(Claim::Set));
                Ok(true)
            }
        }
    }

    fn add_leaf(
        &mut self,
        path: LayerPath,
        full: &Path,
        meta: &Metadata,
    ) -> Result<bool, CaptureError> {
        let kind = meta.file_type();
        if is_whiteout(meta) {
            // hiding what is not there says nothing
            if self.below.find(&path).is_none() {
                fs::remove_file(full).at("remove", full)?;
                return Ok(false);
            }
            self.insert(path, Meta::root(0), Kind::Whiteout);
            return Ok(true);
        }
        if kind.is_socket() {
            fs::remove_file(full).at("remove", full)?;
            return Ok(false);
        }
        if kind.is_char_device() || kind.is_block_device() {
            return Err(CaptureError::Device(path));
        }
        let own = observed(full, meta)?;
        if self.is_unchanged(&path, full, meta, &own)? {
            fs::remove_file(full).at("remove", full)?;
            return Ok(false);
        }
        let kind = if kind.is_symlink() {
            let target = fs::read_link(full).at("read link", full)?;
            Kind::Symlink(target.as_os_str().as_bytes().into())
        } else if kind.is_fifo() {
            Kind::Fifo
        } else if meta.nlink() > 1
            && let Some(first) = self.inodes.get(&meta.ino())
        {
            Kind::Hardlink(first.clone())
        } else {
            self.inodes.insert(meta.ino(), path.clone());
            Kind::File(meta.len())
        };
        self.insert(path, own, kind);
        Ok(true)
    }

    fn insert(&mut self, path: LayerPath, meta: Meta, kind: Kind) {
        match (&kind, self.entries.get(&path)) {
            // an opaque mark stands beside its directory: the directory's entry carries it
            (Kind::Opaque, _) => {
                let mark = path.join(b".wh..wh..opq").unwrap_or(path);
                self.entries.insert(mark.clone(), Entry { path: mark, meta, kind });
            }
            _ => drop(self.entries.insert(path.clone(), Entry { path, meta, kind })),
        }
    }

    /// Whether a file is what lies below in all but time.
    fn is_unchanged(
        &self,
        path: &LayerPath,
        full: &Path,
        meta: &Metadata,
        own: &Meta,
    ) -> Result<bool, CaptureError> {
        let Some(found) = self.below.find(path) else { return Ok(false) };
        let below = fs::symlink_metadata(&found).at("stat", &found)?;
        let alike = below.file_type() == meta.file_type()
            && below.len() == meta.len()
            && same_owner(&observed(&found, &below)?, own);
        if !alike {
            return Ok(false);
        }
        if meta.is_symlink() {
            return Ok(fs::read_link(full).at("read link", full)?
                == fs::read_link(&found).at("read link", &found)?);
        }
        if !meta.is_file() {
            return Ok(true);
        }
        same_bytes(full, &found).map_err(CaptureError::from)
    }

    /// Python's bytecode names the time of its source (PEP 552): one that was compiled from a file
    /// whose time is about to change gets the time that the file will have.
    fn stamp_bytecode(&self) -> Result<(), CaptureError> {
        for entry in self.entries.values().filter(|entry| entry.path.as_bytes().ends_with(b".pyc"))
        {
            if !matches!(entry.kind, Kind::File(_)) {
                continue;
            }
            let Some(source) = source_of(&entry.path) else { continue };
            // a source below has its final time already
            let Some(source) = self.entries.get(&source) else { continue };
            let full = self.upper.join(entry.path.as_path());
            stamp(&full, source.meta.mtime)?;
        }
        Ok(())
    }
}

/// `dir/__pycache__/name.cpython-313.pyc` was made of `dir/name.py`.
fn source_of(path: &LayerPath) -> Option<LayerPath> {
    let cache = path.parent()?;
    if cache.file_name() != b"__pycache__" {
        return None;
    }
    let name = path.file_name().split(|c| *c == b'.').next()?;
    cache.parent()?.join(&[name, b".py"].concat()).ok()
}

fn stamp(path: &Path, mtime: i64) -> Result<(), PathIo> {
    let file = File::options().read(true).write(true).open(path).at("open", path)?;
    let mut header = [0; 16];
    if file.read_exact_at(&mut header, 0).is_err() || header[4..8] != [0; 4] {
        // too short, or checked by hash: nothing to stamp
        return Ok(());
    }
    // PEP 552 keeps the lower 32 bits
    let stamp = (mtime as u32).to_le_bytes();
    if header[8..12] != stamp { file.write_all_at(&stamp, 8).at("write", path) } else { Ok(()) }
}

/// Metadata as it will be written.
fn observed(path: &Path, meta: &Metadata) -> Result<Meta, PathIo> {
    let mut xattrs = BTreeMap::new();
    if meta.is_file() {
        let name = "security.capability";
        let mut value = [0; 64];
        match rustix::fs::lgetxattr(path, name, &mut value) {
            Ok(n) => drop(xattrs.insert(name.as_bytes().into(), value[..n].into())),
            Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error).at("read attributes of", path),
        }
    }
    let mode = if meta.is_symlink() { 0o777 } else { meta.mode() & 0o7777 };
    Ok(Meta { mode, uid: meta.uid(), gid: meta.gid(), mtime: clamp_mtime(meta.mtime()), xattrs })
}

fn same_owner(a: &Meta, b: &Meta) -> bool {
    (a.mode, a.uid, a.gid, &a.xattrs) == (b.mode, b.uid, b.gid, &b.xattrs)
}

pub(super) fn same_bytes(one: &Path, two: &Path) -> Result<bool, PathIo> {
    let (mut a, mut b) = (File::open(one).at("open", one)?, File::open(two).at("open", two)?);
    let (mut left, mut right) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let n = a.read(&mut left).at("read", one)?;
        if n == 0 {
            return Ok(b.read(&mut right).at("read", two)? == 0);
        }
        if b.read_exact(&mut right[..n]).is_err() || left[..n] != right[..n] {
            return Ok(false);
        }
    }
}

fn set_dir(path: &Path, meta: &Meta) -> Result<(), PathIo> {
    let owner = |id: u32| Some(id);
    std::os::unix::fs::chown(path, owner(meta.uid), owner(meta.gid)).at("set owner of", path)?;
    rustix::fs::chmod(path, rustix::fs::Mode::from_raw_mode(meta.mode)).at("set mode of", path)
}

/// Times in the tree are those of the tar; directories from the bottom up.
fn settle_times(upper: &Path, listing: &Listing) -> Result<(), PathIo> {
    for entry in listing.entries.iter().rev() {
        let mtime = match entry.kind {
            Kind::Whiteout | Kind::Opaque => continue,
            Kind::Dir(_) => EPOCH,
            _ => entry.meta.mtime,
        };
        let path = upper.join(entry.path.as_path());
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(rustix::fs::CWD, &path, &times(mtime), flags)
            .at("set time of", &path)?;
    }
    rustix::fs::utimensat(rustix::fs::CWD, upper, &times(EPOCH), rustix::fs::AtFlags::empty())
        .at("set time of", upper)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tarball::Reader;

    #[test]
    fn only_what_changed_is_kept() {
        let home = tempfile::tempdir().unwrap();
        let (low, upper) = (home.path().join("low"), home.path().join("up"));
        for (path, text) in [
            ("low/d/same", "s"),
            ("up/d/same", "s"),
            ("low/e/x", "1"),
            ("up/e/x", "2"),
            ("up/new/lib/a.py", "print()"),
            ("up/new/lib/__pycache__/a.cpython-313.pyc", "MAGC\0\0\0\0TIMESIZEcode"),
        ] {
            let path = home.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let mut tar = Vec::new();
        let listing = capture(&upper, &View::new(&[low]), &mut tar).unwrap();
        let names: Vec<_> = listing.entries.iter().map(|entry| entry.path.to_string()).collect();
        assert_eq!(
            names,
            [
                "/e",
                "/e/x",
                "/new",
                "/new/lib",
                "/new/lib/__pycache__",
                "/new/lib/__pycache__/a.cpython-313.pyc",
                "/new/lib/a.py"
            ]
        );
        assert_eq!(listing.entries[0].kind, Kind::Dir(Claim::Implied));
        assert_eq!(listing.entries[2].kind, Kind::Dir(Claim::Set));
        assert!(!upper.join("d").exists());
        let pyc = fs::read(upper.join("new/lib/__pycache__/a.cpython-313.pyc")).unwrap();
        assert_eq!(pyc[8..12], (EPOCH as u32).to_le_bytes());
        let mut reader = Reader::new(&tar[..], 1000);
        let first = reader.next_member().unwrap().unwrap();
        assert_eq!((first.label().as_str(), first.mtime), ("e/", EPOCH));
    }
}
