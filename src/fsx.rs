//! The few file-system moves that must not be done in two ways.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};

/// Tells the drafts of one process apart.
static DRAFTS: AtomicU64 = AtomicU64::new(0);

/// An I/O error with the path it happened at.
#[derive(Debug, thiserror::Error)]
#[error("{action} {}: {source}", path.display())]
pub struct PathIo {
    pub action: &'static str,
    pub path: PathBuf,
    pub source: io::Error,
}

/// Names the action and the path of an I/O error: `fs::read(path).at("read", path)?`.
pub trait IoAt<T> {
    fn at(self, action: &'static str, path: impl AsRef<Path>) -> Result<T, PathIo>;
}

impl<T, E: Into<io::Error>> IoAt<T> for Result<T, E> {
    fn at(self, action: &'static str, path: impl AsRef<Path>) -> Result<T, PathIo> {
        self.map_err(|error| PathIo {
            action,
            path: path.as_ref().to_owned(),
            source: error.into(),
        })
    }
}

/// Whether somebody may only read where it happened.
pub fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}

/// Writes a whole file under its final name or not at all: a sibling draft, fsync, rename.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), PathIo> {
    let parent = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let number = DRAFTS.fetch_add(1, Ordering::Relaxed);
    let draft = parent.join(format!(".{name}.{}-{number}.draft", std::process::id()));
    let write = || -> io::Result<()> {
        let mut file = File::create(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        File::open(parent)?.sync_all()
    };
    write().inspect_err(|_| drop(fs::remove_file(&draft))).at("write", path)
}

/// Somebody at work in a directory, who writes drafts beside what they become. Known by flock(2) on the
/// directory, which ends with its process however that ends: so who comes and is alone may sweep what
/// those left who were killed. Where a directory cannot be locked, nobody is ever known to be alone.
#[derive(Debug)]
pub struct Presence {
    dir: Option<File>,
    alone: bool,
}

impl Presence {
    pub fn enter(dir: &Path) -> Self {
        let dir = File::open(dir).ok();
        let alone = lock(dir.as_ref(), FlockOperation::NonBlockingLockExclusive);
        let mut presence = Presence { dir, alone };
        if !alone {
            presence.share();
        }
        presence
    }

    /// Removes what drafts there are in a directory, if nobody else can be writing them.
    pub fn sweep(&self, dir: &Path, is_draft: impl Fn(&str) -> bool) {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        for entry in entries.filter(|_| self.alone) {
            // what cannot be removed is in nobody's way
            if entry.file_name().to_str().is_some_and(&is_draft) {
                fs::remove_file(entry.path()).unwrap_or_default();
            }
        }
    }

    /// Lets others come, too: to be called before the first draft is begun.
    pub fn share(&mut self) {
        self.alone = false;
        // whoever is alone is so for a moment only
        for _ in 0..100 {
            if self.dir.is_none() || lock(self.dir.as_ref(), FlockOperation::NonBlockingLockShared)
            {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn lock(dir: Option<&File>, how: FlockOperation) -> bool {
    dir.is_some_and(|dir| rustix::fs::flock(dir, how).is_ok())
}

/// Whether a name is that of a draft by [`write_atomic`].
pub fn is_draft(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(".draft")
}

/// Makes `to` a file that shares the blocks of `from`; `false` where the file system cannot.
pub fn reflink(from: &Path, to: &Path) -> io::Result<bool> {
    let (input, output) = (File::open(from)?, File::create_new(to)?);
    match rustix::fs::ioctl_ficlone(&output, &input) {
        Ok(()) => Ok(true),
        Err(_) => fs::remove_file(to).map(|()| false),
    }
}

/// The inode of an open file.
pub fn inode(file: &File) -> Option<u64> {
    file.metadata().ok().map(|meta| std::os::unix::fs::MetadataExt::ino(&meta))
}

/// Removes a tree, whatever modes its directories have, never following a link. A path that is
/// not there is no error.
pub fn remove_tree(path: &Path) -> Result<(), PathIo> {
    let result = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => Err(error),
        Ok(meta) if meta.is_dir() => {
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::chmodat(rustix::fs::CWD, path, Mode::RWXU, AtFlags::empty())
                .and_then(|()| rustix::fs::open(path, flags, Mode::empty()))
                .map_err(io::Error::from)
                .and_then(|dir| empty_dir(&dir))
                .and_then(|()| fs::remove_dir(path))
        }
        Ok(_) => fs::remove_file(path),
    };
    result.at("remove", path)
}

fn empty_dir(dir: &impl std::os::fd::AsFd) -> io::Result<()> {
    let names: Vec<_> = rustix::fs::Dir::read_from(dir)?
        .map(|entry| entry.map(|entry| (entry.file_name().to_owned(), entry.file_type())))
        .collect::<Result<_, _>>()?;
    for (name, kind) in names {
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let kind = match kind {
            FileType::Unknown => {
                let stat = rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode)
            }
            known => known,
        };
        if kind != FileType::Directory {
            rustix::fs::unlinkat(dir, &name, AtFlags::empty())?;
            continue;
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(dir, &name, flags, Mode::empty());
        let child = match open() {
            Err(rustix::io::Errno::ACCESS) => {
                rustix::fs::chmodat(dir, &name, Mode::RWXU, AtFlags::empty())?;
                open()?
            }
            other => other?,
        };
        if rustix::fs::fstat(&child)?.st_mode & 0o700 != 0o700 {
            rustix::fs::fchmod(&child, Mode::RWXU)?;
        }
        empty_dir(&child)?;
        rustix::fs::unlinkat(dir, &name, AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_goes_whatever_its_modes() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("t");
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/c"), "x").unwrap();
        std::os::unix::fs::symlink("/", root.join("a/link")).unwrap();
        rustix::fs::chmod(root.join("a/b"), Mode::empty()).unwrap();
        rustix::fs::chmod(root.join("a"), Mode::empty()).unwrap();
        remove_tree(&root).unwrap();
        assert!(!root.exists());
        remove_tree(&root).unwrap();
    }
}
