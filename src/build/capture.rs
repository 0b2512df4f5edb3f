//! A step's upper directory becomes a delta.
//!
//! What overlayfs left in the upper directory is more than what the step changed: files copied up and
//! not altered, directories copied up because something below them changed, times of the moment. All
//! that goes, from the tree as well, so that the tree and the tar say the same.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::assembly::{AssemblyError, complete};
use super::bytecode;
use super::listing::Listing;
use super::pack::pack;
use super::tree::{Tree, times};
use super::view::{View, is_opaque, is_whiteout};
use crate::blame::Blame;
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
    #[error(
        "{0} only refers to a lower layer: its overlay was mounted with `redirect_dir` or `metacopy`"
    )]
    Indirect(LayerPath),
    #[error(transparent)]
    Path(#[from] crate::path::PathError),
}

/// Whether what lower layers hold shows through, or an opaque directory hides it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Below {
    Seen,
    Hidden,
}

impl CaptureError {
    pub fn blame(&self) -> Blame {
        match self {
            CaptureError::Io(_) => Blame::World,
            CaptureError::Assembly(error) => error.blame(),
            CaptureError::Indirect(_) => Blame::Bug,
            CaptureError::Device(_) | CaptureError::Reserved(_) | CaptureError::Path(_) => {
                Blame::Input
            }
        }
    }
}

struct Capture<'a> {
    upper: &'a Path,
    below: &'a View,
    /// With the upper directory on top.
    whole: View,
    entries: BTreeMap<LayerPath, Entry>,
    inodes: BTreeMap<u64, LayerPath>,
}

/// Normalises `upper` in place and writes it as a delta over `below`. The directory can then be the
/// delta's tree.
pub fn capture(upper: &Path, below: &View, tar: &mut dyn Write) -> Result<Listing, CaptureError> {
    let whole = below.with(upper);
    let mut capture =
        Capture { upper, below, whole, entries: BTreeMap::new(), inodes: BTreeMap::new() };
    capture.walk(&LayerPath::root(), Below::Seen)?;
    let listing = complete(capture.entries)?;
    set_dir(upper, &Meta::root(0o755))?;
    settle_times(upper, &listing)?;
    pack(&Tree::open(upper)?, &listing, tar)?;
    Ok(listing)
}

impl Capture<'_> {
    /// Whether anything of a directory is part of the delta.
    fn walk(&mut self, dir: &LayerPath, below: Below) -> Result<bool, CaptureError> {
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
                true => self.add_dir(child, &full, &meta, below)?,
                false => self.add_leaf(child, &full, &meta, below)?,
            };
        }
        Ok(kept)
    }

    fn find_below(&self, path: &LayerPath, below: Below) -> Option<PathBuf> {
        if below == Below::Seen { self.below.find(path) } else { None }
    }

    fn add_dir(
        &mut self,
        path: LayerPath,
        full: &Path,
        meta: &Metadata,
        below: Below,
    ) -> Result<bool, CaptureError> {
        let is_dir = |found: &PathBuf| fs::symlink_metadata(found).is_ok_and(|meta| meta.is_dir());
        let found = self.find_below(&path, below).filter(is_dir);
        let hides = is_opaque(full) && found.is_some();
        let own = observed(full, meta)?;
        let same = match &found {
            None => false,
            Some(found) => {
                let meta = fs::symlink_metadata(found).at("stat", found)?;
                same_owner(&observed(found, &meta)?, &own)
            }
        };
        let inside = if hides { Below::Hidden } else { below };
        let kept = self.walk(&path, inside)?;
        if same && !hides && !kept {
            fs::remove_dir(full).at("remove", full)?;
            return Ok(false);
        }
        // over nothing the mark says nothing: the kernel sets it on every new directory
        strip_attributes(full, &path, if hides { Marks::Keep } else { Marks::Drop })?;
        if hides {
            let mark = path.join(b".wh..wh..opq")?;
            self.insert(mark, Meta::root(0), Kind::Opaque);
        }
        if same && !hides {
            // its tree entry looks as an implied one does in the tar
            let implied = super::assembly::implied(path.clone());
            set_dir(full, &implied.meta)?;
            self.entries.insert(path, implied);
        } else {
            self.insert(path, own, Kind::Dir(Claim::Set));
        }
        Ok(true)
    }

    fn add_leaf(
        &mut self,
        path: LayerPath,
        full: &Path,
        meta: &Metadata,
        below: Below,
    ) -> Result<bool, CaptureError> {
        let found = self.find_below(&path, below);
        let kind = meta.file_type();
        if is_whiteout(meta) {
            // hiding what is not there says nothing
            if found.is_none() {
                fs::remove_file(full).at("remove", full)?;
                return Ok(false);
            }
            self.insert(path, Meta::root(0), Kind::Whiteout);
            return Ok(true);
        }
        if kind.is_char_device() || kind.is_block_device() {
            return Err(CaptureError::Device(path));
        }
        let own = observed(full, meta)?;
        if meta.is_file() {
            self.stamp_bytecode(&path, full, below)?;
        }
        // a socket's server is gone
        if kind.is_socket() || self.is_unchanged(found, full, meta, &own)? {
            fs::remove_file(full).at("remove", full)?;
            return Ok(false);
        }
        strip_attributes(full, &path, Marks::Drop)?;
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
        self.entries.insert(path.clone(), Entry { path, meta, kind });
    }

    /// Whether a file is what lies below in all but time.
    fn is_unchanged(
        &self,
        found: Option<PathBuf>,
        full: &Path,
        meta: &Metadata,
        own: &Meta,
    ) -> Result<bool, CaptureError> {
        let Some(found) = found else { return Ok(false) };
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
        Ok(same_bytes(full, &found)?)
    }

    /// Gives bytecode the time that its source will have, before it is compared with what lies below.
    fn stamp_bytecode(
        &self,
        path: &LayerPath,
        full: &Path,
        below: Below,
    ) -> Result<(), CaptureError> {
        let Some(source) = bytecode::source_of(path) else { return Ok(()) };
        let found = self.whole.resolve(&source).filter(|source| source.is_file());
        let Some(source) = found else {
            return Ok(bytecode::stamp(full, None)?);
        };
        let meta = fs::symlink_metadata(&source).at("stat", &source)?;
        let kept = match source.strip_prefix(self.upper) {
            Err(_) => meta.mtime(),
            Ok(inner) => {
                let own = observed(&source, &meta)?;
                let found =
                    self.find_below(&LayerPath::parse_member(inner.as_os_str().as_bytes())?, below);
                match &found {
                    Some(below) if self.is_unchanged(found.clone(), &source, &meta, &own)? => {
                        fs::symlink_metadata(below).at("stat", below)?.mtime()
                    }
                    _ => own.mtime,
                }
            }
        };
        let source = bytecode::Source { path: source, observed: meta.mtime(), kept };
        Ok(bytecode::stamp(full, Some(&source))?)
    }
}

/// Whether overlayfs's mark for an opaque directory stays.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Marks {
    Keep,
    Drop,
}

/// Removes attributes that no layer carries, so that the tree says what the tar says.
fn strip_attributes(full: &Path, path: &LayerPath, marks: Marks) -> Result<(), CaptureError> {
    let mut names = Vec::with_capacity(1 << 10);
    let list = rustix::fs::llistxattr(full, rustix::buffer::spare_capacity(&mut names));
    match list {
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(()),
        list => drop(list.at("read attributes of", full)?),
    }
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let overlay =
            name.strip_prefix(b"trusted.overlay.").or(name.strip_prefix(b"user.overlay."));
        match overlay {
            Some(b"redirect" | b"metacopy") => return Err(CaptureError::Indirect(path.clone())),
            Some(b"opaque") if marks == Marks::Keep => continue,
            // security modules label every file, and let nobody take the label off
            None if name.starts_with(b"security.") => continue,
            _ => {}
        }
        rustix::fs::lremovexattr(full, name).at("remove attributes of", full)?;
    }
    Ok(())
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
            ("up/new/lib/__pycache__/a.cpython-313.pyc", "MAGC\0\0\0\0\x40\x40\x40\x7fSIZEcode"),
        ] {
            let path = home.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let source = home.path().join("up/new/lib/a.py");
        rustix::fs::utimensat(
            rustix::fs::CWD,
            &source,
            &times(0x7f40_4040),
            rustix::fs::AtFlags::empty(),
        )
        .unwrap();
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
