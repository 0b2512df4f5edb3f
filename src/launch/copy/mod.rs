//! Files between this machine and an instance that runs.
//!
//! Every path of the instance is resolved by the kernel within its root (openat2(2),
//! `RESOLVE_IN_ROOT`), so its links lead nowhere else; below that, no link is followed. Files,
//! directories and links are copied; what is none of these is an error.

mod packed;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid};
use rustix::io::Errno;

use super::docker::Engine;
use super::error::LaunchError;
use super::launcher::Launcher;
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

/// How an instance's files are reached.
enum Way<'a> {
    /// By its root.
    Root(OwnedFd),
    /// By asking who started it: its root is somebody else's, which nobody looks into.
    Engine(&'a Engine),
}

/// Deepest directories.
const DEPTH: usize = 200;

impl Instance {
    /// Copies out of the instance.
    pub fn copy_out(&self, from: &Path, to: &Path) -> Result<(), LaunchError> {
        match self.way()? {
            Way::Root(root) => {
                let from = self.end(&root, from, None)?;
                let to = host_end(to, &from.name)?;
                Ok(copy(&from, &to, 0)?)
            }
            Way::Engine(engine) => {
                let (dir, name) = self.place(engine, from)?;
                let to = host_end(to, &name)?;
                let from = dir.join(name);
                engine.take(&self.record, &from, |archive| packed::unpack(archive, &to))
            }
        }
    }

    /// Copies into the instance; what is written belongs to its root. `now` are seconds since 1970.
    pub fn copy_in(&self, from: &Path, to: &Path, now: u64) -> Result<(), LaunchError> {
        let real = from.canonicalize().at("find", from)?;
        let from = host_end(&real, Path::new(""))?;
        match self.way()? {
            Way::Root(root) => {
                let to = self.end(&root, to, Some(&from.name))?;
                Ok(copy(&from, &to, 0)?)
            }
            Way::Engine(engine) => {
                let (dir, name) = match engine.follow(&self.record, to) {
                    Ok(found) if found.is_dir => (found.path, from.name.clone()),
                    _ => self.place(engine, to)?,
                };
                engine.give(&self.record, &dir, &name, |archive| {
                    packed::pack(&from, &name, now, archive)
                })
            }
        }
    }

    fn way(&self) -> Result<Way<'_>, LaunchError> {
        if let Launcher::Oci(runtime) = &self.record.launcher
            && !runtime.shares_kernel()
        {
            // what this machine sees of it is the root of another kernel's process
            return Err(LaunchError::Opaque(runtime.name()));
        }
        // opened while the instance is there, its number is not another's
        let path = format!("/proc/{}/root", self.record.first.unwrap_or_default());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&path, flags, Mode::empty());
        self.handle()?;
        match (root, &self.record.launcher) {
            (Err(Errno::ACCESS | Errno::PERM), Launcher::Docker(engine)) => Ok(Way::Engine(engine)),
            (root, _) => Ok(Way::Root(root.at("open", &path)?)),
        }
    }

    /// A directory without links, and a name there.
    fn place(&self, engine: &Engine, path: &Path) -> Result<(PathBuf, PathBuf), LaunchError> {
        let (parent, name) = split(path)?;
        let found = engine.follow(&self.record, parent)?;
        match found.is_dir {
            true => Ok((found.path, name)),
            false => Ok(Err(io::ErrorKind::NotADirectory).at("open", parent)?),
        }
    }

    /// With `name`, a directory that is there is copied into.
    fn end(&self, root: &OwnedFd, path: &Path, name: Option<&Path>) -> Result<End, LaunchError> {
        let open = |path: &Path| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
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

impl End {
    fn stat(&self) -> Result<Stat, PathIo> {
        rustix::fs::statat(&self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW).at("stat", &self.shown)
    }

    fn open_file(&self) -> Result<File, PathIo> {
        // a pipe that took the file's place must not hold this process up
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.dir, &self.name, flags, Mode::empty());
        file.map(File::from).at("open", &self.shown)
    }

    fn open_dir(&self) -> Result<OwnedFd, PathIo> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.dir, &self.name, flags, Mode::empty()).at("open", &self.shown)
    }

    fn read_link(&self) -> Result<Vec<u8>, PathIo> {
        let target = rustix::fs::readlinkat(&self.dir, &self.name, Vec::new());
        target.map(std::ffi::CString::into_bytes).at("read", &self.shown)
    }

    /// A name in the directory that this is, and that was opened.
    fn below(&self, opened: &OwnedFd, name: &Path) -> Result<End, PathIo> {
        let dir = opened.try_clone().at("open", &self.shown)?;
        let shown = self.shown.join(name);
        Ok(End { dir, name: name.to_owned(), owner: self.owner, shown })
    }

    /// What is in the directory that this is, and that was opened.
    fn names(&self, opened: &OwnedFd) -> Result<Vec<PathBuf>, PathIo> {
        let mut names = Vec::new();
        for entry in Dir::read_from(opened).at("list", &self.shown)? {
            let entry = entry.at("list", &self.shown)?;
            match entry.file_name().to_bytes() {
                b"." | b".." => {}
                name => names.push(PathBuf::from(std::ffi::OsStr::from_bytes(name))),
            }
        }
        Ok(names)
    }

    /// Neither file, directory nor link, or too deep.
    fn refuse(&self) -> PathIo {
        let source = io::ErrorKind::Unsupported.into();
        PathIo { action: "copy", path: self.shown.clone(), source }
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
    let stat = from.stat()?;
    let mode = Mode::from_raw_mode(stat.st_mode & 0o777);
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => write_file(&mut from.open_file()?, to, mode),
        FileType::Symlink => write_link(&from.read_link()?, to),
        FileType::Directory if depth < DEPTH => {
            let (source, target) = (from.open_dir()?, make_dir(to)?);
            for name in from.names(&source)? {
                copy(&from.below(&source, &name)?, &to.below(&target, &name)?, depth + 1)?;
            }
            rustix::fs::fchmod(&target, mode).at("set the mode of", &to.shown)
        }
        _ => Err(from.refuse()),
    }
}

fn write_file(bytes: &mut impl Read, to: &End, mode: Mode) -> Result<(), PathIo> {
    make_way(to)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let target = rustix::fs::openat(&to.dir, &to.name, flags, Mode::RUSR | Mode::WUSR)
        .at("create", &to.shown)?;
    let mut target = File::from(target);
    io::copy(bytes, &mut target).at("write", &to.shown)?;
    own(to, target.as_fd())?;
    rustix::fs::fchmod(&target, mode).at("set the mode of", &to.shown)
}

/// A file or link of that name is replaced.
fn make_way(to: &End) -> Result<(), PathIo> {
    match rustix::fs::unlinkat(&to.dir, &to.name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error).at("replace", &to.shown),
    }
}

fn own(to: &End, fd: BorrowedFd<'_>) -> Result<(), PathIo> {
    let Some(owner) = to.owner else { return Ok(()) };
    rustix::fs::fchown(fd, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)))
        .at("set the owner of", &to.shown)
}

fn write_link(target: &[u8], to: &End) -> Result<(), PathIo> {
    make_way(to)?;
    rustix::fs::symlinkat(target, &to.dir, &to.name).at("create", &to.shown)?;
    let Some(owner) = to.owner else { return Ok(()) };
    let owner = (Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)));
    rustix::fs::chownat(&to.dir, &to.name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
        .at("set the owner of", &to.shown)
}

/// One that is there is written into; its mode is set once all is in it.
fn make_dir(to: &End) -> Result<OwnedFd, PathIo> {
    match rustix::fs::mkdirat(&to.dir, &to.name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error).at("create", &to.shown),
    }
    let target = to.open_dir()?;
    own(to, target.as_fd())?;
    Ok(target)
}
