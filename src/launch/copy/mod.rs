//! Files between this machine and an instance that runs.
//!
//! Every path of the instance is resolved by the kernel within its root (openat2(2),
//! `RESOLVE_IN_ROOT`), so its links lead nowhere else; below that, no link is followed. Files,
//! directories and links are copied; what is none of these is an error.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};

use super::error::LaunchError;
use super::state::Instance;
use crate::fsx::{IoAt, PathIo};
use crate::jail::instance::Ids;

/// One end of a copy: a directory that is open, a name in it, and who owns what is written there.
struct End {
    dir: OwnedFd,
    name: PathBuf,
    owner: Option<u32>,
    /// As messages show it.
    shown: PathBuf,
}

/// Deepest directories.
const DEPTH: usize = 200;

impl Instance {
    /// Copies out of the instance.
    pub fn copy_out(&self, from: &Path, to: &Path) -> Result<(), LaunchError> {
        let from = self.end(from, None)?;
        let to = host_end(to, &from.name)?;
        Ok(copy(&from, &to, 0)?)
    }

    /// Copies into the instance; what is written belongs to its root.
    pub fn copy_in(&self, from: &Path, to: &Path) -> Result<(), LaunchError> {
        let real = from.canonicalize().at("find", from)?;
        let from = host_end(&real, Path::new(""))?;
        let to = self.end(to, Some(&from.name))?;
        Ok(copy(&from, &to, 0)?)
    }

    fn root(&self) -> Result<OwnedFd, LaunchError> {
        // opened while the instance is there, its number is not another's
        let path = format!("/proc/{}/root", self.record.first.unwrap_or_default());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&path, flags, Mode::empty()).at("open", &path)?;
        self.handle()?;
        Ok(root)
    }

    /// With `name`, a directory that is there is copied into.
    fn end(&self, path: &Path, name: Option<&Path>) -> Result<End, LaunchError> {
        let root = self.root()?;
        let open = |path: &Path| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve)
        };
        let owner = match self.record.ids {
            Ids::Own { first } => Some(first),
            Ids::Shared => None,
        };
        if let (Some(name), Ok(dir)) = (name, open(path)) {
            return Ok(End { dir, name: name.to_owned(), owner, shown: path.join(name) });
        }
        let (parent, last) = split(path)?;
        let dir = open(parent).at("open", parent)?;
        Ok(End { dir, name: last, owner, shown: path.to_owned() })
    }
}

fn split(path: &Path) -> Result<(&Path, PathBuf), PathIo> {
    let name = path.file_name().map(PathBuf::from);
    let name = name.ok_or(io::Error::from(io::ErrorKind::InvalidInput)).at("copy", path)?;
    let parent = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    Ok((parent.unwrap_or(Path::new(".")), name))
}

/// A directory that is there is copied into, where there is a name.
fn host_end(path: &Path, name: &Path) -> Result<End, PathIo> {
    let (dir, name) = match path.is_dir() && !name.as_os_str().is_empty() {
        true => (path, name.to_owned()),
        false => split(path)?,
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = rustix::fs::open(dir, flags, Mode::empty()).at("open", dir)?;
    Ok(End { dir: open, shown: dir.join(&name), name, owner: None })
}

fn copy(from: &End, to: &End, depth: usize) -> Result<(), PathIo> {
    let stat = rustix::fs::statat(&from.dir, &from.name, AtFlags::SYMLINK_NOFOLLOW)
        .at("stat", &from.shown)?;
    let mode = Mode::from_raw_mode(stat.st_mode & 0o777);
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => copy_file(from, to, mode),
        FileType::Symlink => copy_link(from, to),
        FileType::Directory if depth < DEPTH => copy_dir(from, to, mode, depth),
        _ => Err(io::Error::from(io::ErrorKind::Unsupported)).at("copy", &from.shown),
    }
}

fn copy_file(from: &End, to: &End, mode: Mode) -> Result<(), PathIo> {
    // a pipe that took the file's place must not hold this process up
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let source =
        rustix::fs::openat(&from.dir, &from.name, flags, Mode::empty()).at("open", &from.shown)?;
    make_way(to)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let target = rustix::fs::openat(&to.dir, &to.name, flags, Mode::RUSR | Mode::WUSR)
        .at("create", &to.shown)?;
    let mut target = File::from(target);
    io::copy(&mut File::from(source), &mut target).at("copy", &from.shown)?;
    own(to, target.as_fd())?;
    rustix::fs::fchmod(&target, mode).at("set the mode of", &to.shown)
}

/// A file or link of that name is replaced.
fn make_way(to: &End) -> Result<(), PathIo> {
    match rustix::fs::unlinkat(&to.dir, &to.name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error).at("replace", &to.shown),
    }
}

fn own(to: &End, fd: BorrowedFd<'_>) -> Result<(), PathIo> {
    let Some(owner) = to.owner else { return Ok(()) };
    rustix::fs::fchown(fd, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)))
        .at("set the owner of", &to.shown)
}

fn copy_link(from: &End, to: &End) -> Result<(), PathIo> {
    let target =
        rustix::fs::readlinkat(&from.dir, &from.name, Vec::new()).at("read", &from.shown)?;
    make_way(to)?;
    rustix::fs::symlinkat(&target, &to.dir, &to.name).at("create", &to.shown)?;
    let Some(owner) = to.owner else { return Ok(()) };
    let owner = (Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)));
    rustix::fs::chownat(&to.dir, &to.name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
        .at("set the owner of", &to.shown)
}

fn copy_dir(from: &End, to: &End, mode: Mode, depth: usize) -> Result<(), PathIo> {
    match rustix::fs::mkdirat(&to.dir, &to.name, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error).at("create", &to.shown),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = |end: &End| {
        rustix::fs::openat(&end.dir, &end.name, flags, Mode::empty()).at("open", &end.shown)
    };
    let (source, target) = (open(from)?, open(to)?);
    own(to, target.as_fd())?;
    let entries = Dir::read_from(&source).at("list", &from.shown)?;
    for entry in entries {
        let entry = entry.at("list", &from.shown)?;
        let bytes = entry.file_name().to_bytes();
        if matches!(bytes, b"." | b"..") {
            continue;
        }
        let name = PathBuf::from(std::ffi::OsStr::from_bytes(bytes));
        let below = |dir: &OwnedFd, end: &End| -> Result<End, PathIo> {
            let dir = dir.try_clone().at("open", &end.shown)?;
            Ok(End { dir, shown: end.shown.join(&name), name: name.clone(), owner: end.owner })
        };
        copy(&below(&source, from)?, &below(&target, to)?, depth + 1)?;
    }
    rustix::fs::fchmod(&target, mode).at("set the mode of", &to.shown)
}
