//! Files as an archive, for an engine that takes and gives nothing else.
//!
//! What is unpacked is held to what a copy is: names below the one that was asked for, no link
//! followed, files, directories and links.

use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{FileType, Mode};

use super::super::error::LaunchError;
use super::{DEPTH, End, make_dir, write_file, write_link};
use crate::entry::{Claim, Entry, Kind, Meta};
use crate::fsx::{IoAt, PathIo};
use crate::path::{LayerPath, PathError};
use crate::tarball::{Limits, MemberKind, Reader, TarError, Writer};

/// Bytes that are read at a time.
const PIECE: usize = 64 << 10;

/// Writes what is at `from` under a name; all of it is root's, and as old as `now`.
pub(super) fn pack(from: &End, name: &Path, now: u64, to: impl Write) -> Result<(), PathIo> {
    let path = LayerPath::parse_member(name.as_os_str().as_bytes());
    let mut packing = Packing { writer: Writer::new(to), now: now.cast_signed() };
    packing.add(from, packing.sound(from, path)?, 0)?;
    let packed = packing.writer.finish().and_then(|mut to| to.flush());
    packed.at("pack", &from.shown)
}

struct Packing<W> {
    writer: Writer<W>,
    now: i64,
}

impl<W: Write> Packing<W> {
    fn sound(&self, from: &End, path: Result<LayerPath, PathError>) -> Result<LayerPath, PathIo> {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
        path.map_err(invalid).at("pack", &from.shown)
    }

    fn add(&mut self, from: &End, path: LayerPath, depth: usize) -> Result<(), PathIo> {
        let stat = from.stat()?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => self.add_file(from, path),
            FileType::Symlink => {
                let target = from.read_link()?;
                self.head(from, path, stat.st_mode, Kind::Symlink(target.into()))
            }
            FileType::Directory if depth < DEPTH => {
                self.head(from, path.clone(), stat.st_mode, Kind::Dir(Claim::Set))?;
                let opened = from.open_dir()?;
                for name in from.names(&opened)? {
                    let below = from.below(&opened, &name)?;
                    let path = self.sound(&below, path.join(name.as_os_str().as_bytes()))?;
                    self.add(&below, path, depth + 1)?;
                }
                Ok(())
            }
            _ => Err(from.refuse()),
        }
    }

    fn head(&mut self, from: &End, path: LayerPath, mode: u32, kind: Kind) -> Result<(), PathIo> {
        let meta = Meta { mtime: self.now, ..Meta::root(mode & 0o777) };
        self.writer.header(&Entry { path, meta, kind }).at("pack", &from.shown)
    }

    /// As much as it had when it was opened: its size stands before it.
    fn add_file(&mut self, from: &End, path: LayerPath) -> Result<(), PathIo> {
        let mut file = from.open_file()?;
        let stat = rustix::fs::fstat(&file).at("stat", &from.shown)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(from.refuse());
        }
        let mut told = Vec::new();
        if stat.st_size == 0 {
            // the kernel's own files know no size before they are read
            file.read_to_end(&mut told).at("read", &from.shown)?;
        }
        let mut left = stat.st_size.cast_unsigned();
        let size = left + told.len() as u64;
        self.head(from, path, stat.st_mode, Kind::File(size))?;
        self.writer.body(&told).at("pack", &from.shown)?;
        let mut bytes = vec![0; PIECE];
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let read = match file.read(&mut bytes[..most]) {
                Ok(0) => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                read => read,
            };
            let read = read.at("read", &from.shown)?;
            self.writer.body(&bytes[..read]).at("pack", &from.shown)?;
            left -= read as u64;
        }
        self.writer.pad(size).at("pack", &from.shown)
    }
}

/// Lays what an archive holds at `to`, whose name takes the place of what all its members begin with.
pub(super) fn unpack(archive: impl Read, to: &End) -> Result<(), LaunchError> {
    // what is copied has no limit, whoever copies it
    let limits = Limits { bytes: u64::MAX / 2, members: u64::MAX };
    let mut reader = Reader::new(archive, limits);
    let mut modes = Vec::new();
    while let Some(member) = reader.next_member()? {
        let end = find(to, &member.path)?;
        let mode = Mode::from_raw_mode(member.mode & 0o777);
        match member.kind {
            MemberKind::File => write_file(&mut reader, &end, mode)?,
            MemberKind::Symlink => write_link(&member.link, &end)?,
            // a file of two names is two files
            MemberKind::Hardlink => {
                write_file(&mut find(to, &member.link)?.open_file()?, &end, mode)?;
            }
            MemberKind::Dir => {
                drop(make_dir(&end)?);
                modes.push((member.path, mode));
            }
            MemberKind::Char | MemberKind::Block | MemberKind::Fifo => {
                return Err(end.refuse().into());
            }
        }
    }
    // what is in a directory comes after it
    for (path, mode) in modes.into_iter().rev() {
        let end = find(to, &path)?;
        rustix::fs::fchmod(end.open_dir()?, mode).at("set the mode of", &end.shown)?;
    }
    Ok(())
}

/// The place of a member, in directories that members before it made.
fn find(to: &End, member: &[u8]) -> Result<End, LaunchError> {
    let refuse = |path: String, reason| TarError::Path { path, reason };
    let path = LayerPath::parse_member(member).map_err(|error| refuse(error.0, error.1))?;
    let mut end = to.below(&to.dir, Path::new(""))?;
    (end.name, end.shown) = (to.name.clone(), to.shown.clone());
    for (depth, part) in path.as_bytes().split(|c| *c == b'/').skip(1).enumerate() {
        if depth == DEPTH {
            return Err(end.refuse().into());
        }
        end = end.below(&end.open_dir()?, Path::new(std::ffi::OsStr::from_bytes(part)))?;
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::super::host_end;
    use super::*;

    fn end(path: &Path) -> End {
        host_end(path, Path::new("")).unwrap()
    }

    fn archive(entries: &[(&str, Kind, &[u8])]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        for (path, kind, body) in entries {
            let path = LayerPath::parse_member(path.as_bytes()).unwrap();
            let entry = Entry { path, meta: Meta::root(0o644), kind: kind.clone() };
            writer.header(&entry).unwrap();
            writer.body(body).unwrap();
            writer.pad(body.len() as u64).unwrap();
        }
        writer.finish().unwrap()
    }

    #[test]
    fn what_is_packed_is_unpacked_under_another_name() {
        let home = tempfile::tempdir().unwrap();
        let from = home.path().join("from");
        fs::create_dir_all(from.join("deep")).unwrap();
        fs::write(from.join("deep/file"), vec![7; 3 * PIECE + 1]).unwrap();
        fs::write(from.join("empty"), "").unwrap();
        symlink("deep/file", from.join("link")).unwrap();
        rustix::fs::chmod(from.join("deep"), Mode::from_raw_mode(0o500)).unwrap();
        let mut packed = Vec::new();
        pack(&end(&from), Path::new("named"), 77, &mut packed).unwrap();
        let to = home.path().join("to");
        unpack(&packed[..], &end(&to)).unwrap();
        assert_eq!(fs::read(to.join("link")).unwrap(), vec![7; 3 * PIECE + 1]);
        assert_eq!(fs::read(to.join("empty")).unwrap(), b"");
        assert_eq!(fs::metadata(to.join("deep")).unwrap().mode() & 0o777, 0o500);
        let first = Reader::new(&packed[..], 1 << 20).next_member().unwrap().unwrap();
        assert_eq!((first.label().as_str(), first.mtime, first.uid), ("named/", 77, 0));
        crate::fsx::remove_tree(&from).unwrap();
        crate::fsx::remove_tree(&to).unwrap();
    }

    #[test]
    fn nothing_is_laid_beside_what_was_asked_for() {
        let home = tempfile::tempdir().unwrap();
        let outside = home.path().join("outside");
        fs::create_dir(&outside).unwrap();
        let target = outside.to_str().unwrap().as_bytes();
        let through = archive(&[
            ("t", Kind::Dir(Claim::Set), b""),
            ("t/out", Kind::Symlink(target.into()), b""),
            ("t/out/x", Kind::File(1), b"x"),
        ]);
        let to = home.path().join("to");
        assert!(unpack(&through[..], &end(&to)).is_err());
        let hard = LayerPath::parse_member(b"t/out").unwrap();
        let linked = archive(&[
            ("t", Kind::Dir(Claim::Set), b""),
            ("t/out", Kind::Symlink(b"/etc/passwd"[..].into()), b""),
            ("t/copy", Kind::Hardlink(hard), b""),
        ]);
        assert!(unpack(&linked[..], &end(&to)).is_err(), "a link is no file");
        assert!(unpack(&archive(&[("t", Kind::Fifo, b"")])[..], &end(&to)).is_err());
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }
}
