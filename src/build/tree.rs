//! Writing into a tree without ever leaving it.
//!
//! Every path is resolved by the kernel beneath the tree's root and through no symlink
//! (`openat2(2)`, `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`), so an archive that lays a link and then
//! writes through it gets an error, not a file elsewhere.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use foldhash::HashSet;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::entry::{EPOCH, Kind, Meta};
use crate::fsx::{IoAt, PathIo};
use crate::path::LayerPath;

/// A directory that is to become a layer's tree.
pub struct Tree {
    path: PathBuf,
    root: OwnedFd,
    /// Who writes: files of this owner need no chown.
    owner: (u32, u32),
    dirs: Mutex<HashSet<LayerPath>>,
}

impl Tree {
    pub fn open(path: &Path) -> Result<Self, PathIo> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).at("open", path)?;
        let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Ok(Tree { path: path.to_owned(), root, owner, dirs: Mutex::default() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn resolve(&self, path: &LayerPath, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        loop {
            match rustix::fs::openat2(
                &self.root,
                path.as_path(),
                flags | OFlags::CLOEXEC,
                mode,
                resolve,
            ) {
                // another thread renamed something on the way: the kernel asks to try again
                Err(Errno::AGAIN) => continue,
                result => return result,
            }
        }
    }

    fn parent(&self, path: &LayerPath) -> rustix::io::Result<(OwnedFd, CString)> {
        let parent = path.parent().ok_or(Errno::INVAL)?;
        let fd = self.resolve(&parent, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        let name = CString::new(path.file_name()).map_err(|_| Errno::INVAL)?;
        Ok((fd, name))
    }

    /// Makes a directory and those above it; one that is there is left alone.
    pub fn make_dir(&self, path: &LayerPath) -> Result<(), PathIo> {
        if path.is_root() || self.dirs.lock().unwrap_or_else(PoisonError::into_inner).contains(path)
        {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.make_dir(&parent)?;
        }
        let make = || -> rustix::io::Result<()> {
            let (parent, name) = self.parent(path)?;
            match rustix::fs::mkdirat(&parent, &name, Mode::from_raw_mode(0o755)) {
                Err(Errno::EXIST) => {
                    drop(self.resolve(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?)
                }
                result => result?,
            }
            Ok(())
        };
        make().at("create directory", self.shown(path))?;
        self.dirs.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone());
        Ok(())
    }

    fn make_parent(&self, path: &LayerPath) -> Result<(), PathIo> {
        path.parent().map_or(Ok(()), |parent| self.make_dir(&parent))
    }

    /// Creates a new file for writing.
    pub fn create(&self, path: &LayerPath) -> Result<File, PathIo> {
        self.make_parent(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let fd =
            self.resolve(path, flags, Mode::from_raw_mode(0o600)).at("create", self.shown(path))?;
        Ok(File::from(fd))
    }

    /// Opens a file of the tree for reading.
    pub fn read(&self, path: &LayerPath) -> Result<File, PathIo> {
        let fd = self
            .resolve(path, OFlags::RDONLY | OFlags::NOFOLLOW, Mode::empty())
            .at("open", self.shown(path))?;
        Ok(File::from(fd))
    }

    /// Makes whatever is neither a file nor a directory.
    pub fn make_other(&self, path: &LayerPath, kind: &Kind) -> Result<(), PathIo> {
        self.make_parent(path)?;
        let make = || -> rustix::io::Result<()> {
            let (parent, name) = self.parent(path)?;
            let node = |kind, device| {
                rustix::fs::mknodat(&parent, &name, kind, Mode::from_raw_mode(0o600), device)
            };
            match kind {
                Kind::Symlink(target) => rustix::fs::symlinkat(&**target, &parent, &name),
                Kind::Hardlink(target) => {
                    let (from, old) = self.parent(target)?;
                    rustix::fs::linkat(&from, &old, &parent, &name, AtFlags::empty())
                }
                Kind::Fifo => node(rustix::fs::FileType::Fifo, 0),
                Kind::Char { major, minor } => {
                    node(rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(*major, *minor))
                }
                Kind::Block { major, minor } => {
                    node(rustix::fs::FileType::BlockDevice, rustix::fs::makedev(*major, *minor))
                }
                Kind::Whiteout => node(rustix::fs::FileType::CharacterDevice, 0),
                Kind::Dir(_) | Kind::File(_) | Kind::Opaque => Ok(()),
            }
        };
        make().at("create", self.shown(path))
    }

    pub fn remove(&self, path: &LayerPath) -> Result<(), PathIo> {
        let remove = || {
            let (parent, name) = self.parent(path)?;
            rustix::fs::unlinkat(&parent, &name, AtFlags::empty())
        };
        remove().at("remove", self.shown(path))
    }

    pub fn rename(&self, from: &LayerPath, to: &LayerPath) -> Result<(), PathIo> {
        let rename = || {
            let (old_dir, old) = self.parent(from)?;
            let (new_dir, new) = self.parent(to)?;
            rustix::fs::renameat(&old_dir, &old, &new_dir, &new)
        };
        rename().at("rename", self.shown(from))
    }

    /// Gives an open file its owner, mode, attributes and time, in the order in which the kernel
    /// keeps them: a change of owner would drop the rest.
    pub fn finish_file(&self, file: &File, path: &LayerPath, meta: &Meta) -> Result<(), PathIo> {
        let finish = || -> rustix::io::Result<()> {
            if (meta.uid, meta.gid) != self.owner {
                rustix::fs::fchown(
                    file,
                    Some(Uid::from_raw(meta.uid)),
                    Some(Gid::from_raw(meta.gid)),
                )?;
            }
            rustix::fs::fchmod(file, Mode::from_raw_mode(meta.mode))?;
            for (name, value) in &meta.xattrs {
                let name = CString::new(&name[..]).map_err(|_| Errno::INVAL)?;
                rustix::fs::fsetxattr(file, &name, value, rustix::fs::XattrFlags::empty())?;
            }
            rustix::fs::futimens(file, &times(meta.mtime))
        };
        finish().at("set attributes of", self.shown(path))
    }

    /// Likewise for what has no open file.
    pub fn finish_other(&self, path: &LayerPath, kind: &Kind, meta: &Meta) -> Result<(), PathIo> {
        let finish = || -> rustix::io::Result<()> {
            if matches!(kind, Kind::Dir(_)) {
                let fd = self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
                if (meta.uid, meta.gid) != self.owner {
                    rustix::fs::fchown(
                        &fd,
                        Some(Uid::from_raw(meta.uid)),
                        Some(Gid::from_raw(meta.gid)),
                    )?;
                }
                rustix::fs::fchmod(&fd, Mode::from_raw_mode(meta.mode))?;
                return rustix::fs::futimens(fd.as_fd(), &times(EPOCH));
            }
            let (parent, name) = self.parent(path)?;
            if (meta.uid, meta.gid) != self.owner {
                let owner = (Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)));
                rustix::fs::chownat(&parent, &name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            if !matches!(kind, Kind::Symlink(_)) {
                rustix::fs::chmodat(
                    &parent,
                    &name,
                    Mode::from_raw_mode(meta.mode),
                    AtFlags::empty(),
                )?;
            }
            rustix::fs::utimensat(&parent, &name, &times(meta.mtime), AtFlags::SYMLINK_NOFOLLOW)
        };
        finish().at("set attributes of", self.shown(path))
    }

    /// Gives a directory its owner, mode, attributes and time, all as they are said.
    pub fn finish_dir(&self, path: &LayerPath, meta: &Meta) -> Result<(), PathIo> {
        let fd = self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
        let fd = fd.at("open", self.shown(path))?;
        self.finish_file(&File::from(fd), path, meta)
    }

    /// Sets an overlay mark on a directory.
    pub fn mark_dir(&self, path: &LayerPath, name: &str) -> Result<(), PathIo> {
        let mark = || {
            let fd = self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
            rustix::fs::fsetxattr(&fd, name, b"y", rustix::fs::XattrFlags::empty())
        };
        mark().at("mark", self.shown(path))
    }

    /// The path as messages show it.
    fn shown(&self, path: &LayerPath) -> PathBuf {
        PathBuf::from(path.to_string())
    }
}

pub(in crate::build) fn times(seconds: i64) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

/// What an error of the kernel means for an archive's member.
pub fn is_through_link(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(code) if code == Errno::LOOP.raw_os_error() || code == Errno::NOTDIR.raw_os_error())
}
