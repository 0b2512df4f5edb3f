//! Zip archives, wheels among them: whole members, in any order, from many threads.
//!
//! What an archive may try is refused here, before a byte of it is unpacked: two members of one name,
//! members that share bytes or unpack to far more than they weigh, links, encryption, names that lead
//! out. Members of common size are inflated at once, which is twice as fast as piece by piece.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use libdeflater::{Decompressor, crc32};
use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use crate::fsx::{IoAt, PathIo};

/// Archives up to this size are read into memory whole.
const IN_MEMORY: u64 = 16 << 20;
/// Members up to this size are inflated at once.
const AT_ONCE: u64 = 8 << 20;
/// Most members, and most bytes that they may unpack to.
const MOST_MEMBERS: usize = 500_000;
const MOST_BYTES: u64 = 16 << 30;
/// No archive of more than [`PLENTY`] unpacked bytes may have grown more than this many times.
const MOST_GROWTH: u64 = 200;
const PLENTY: u64 = 512 << 20;

/// Why an archive is refused.
#[derive(Debug, thiserror::Error)]
pub enum ZipFileError {
    #[error(transparent)]
    Io(#[from] PathIo),
    #[error("it is no zip archive: {0}")]
    Format(String),
    #[error("two of its members have the same name")]
    Duplicate,
    #[error("members of it share their bytes")]
    Overlap,
    #[error("it would unpack to {unpacked} bytes out of {packed}")]
    Bomb { packed: u64, unpacked: u64 },
    #[error("it has {0} members")]
    Many(usize),
    #[error("member `{name}` {reason}")]
    Member { name: String, reason: String },
}

/// One file of an archive.
#[derive(Clone, Debug)]
pub struct Member {
    pub name: String,
    pub size: u64,
    /// Whether anybody may execute it.
    pub executable: bool,
    index: usize,
}

/// The bytes of an archive, at a position.
#[derive(Clone, Debug)]
enum Bytes {
    Memory(Cursor<Arc<[u8]>>),
    File { file: Arc<File>, at: u64, len: u64 },
}

impl Read for Bytes {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Bytes::Memory(cursor) => cursor.read(buffer),
            Bytes::File { file, at, .. } => {
                let n = file.read_at(buffer, *at)?;
                *at += n as u64;
                Ok(n)
            }
        }
    }
}

impl Seek for Bytes {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match self {
            Bytes::Memory(cursor) => cursor.seek(to),
            Bytes::File { at, len, .. } => {
                let target = match to {
                    SeekFrom::Start(target) => Some(target),
                    SeekFrom::End(by) => len.checked_add_signed(by),
                    SeekFrom::Current(by) => at.checked_add_signed(by),
                };
                *at = target.ok_or(io::ErrorKind::InvalidInput)?;
                Ok(*at)
            }
        }
    }
}

/// A zip archive; cheap to clone for another thread.
#[derive(Clone, Debug)]
pub struct ZipFile {
    zip: ZipArchive<Bytes>,
}

fn format(error: ZipError) -> ZipFileError {
    ZipFileError::Format(error.to_string())
}

impl ZipFile {
    /// Opens an archive; `hear` gets all of its bytes once.
    pub fn open(path: &Path, mut hear: impl FnMut(&[u8])) -> Result<Self, ZipFileError> {
        let mut file = File::open(path).at("open", path)?;
        let len = file.metadata().at("stat", path)?.len();
        let bytes = if len <= IN_MEMORY {
            let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or_default());
            file.read_to_end(&mut bytes).at("read", path)?;
            hear(&bytes);
            Bytes::Memory(Cursor::new(bytes.into()))
        } else {
            let mut buffer = vec![0; 1 << 20];
            loop {
                let n = file.read(&mut buffer).at("read", path)?;
                if n == 0 {
                    break;
                }
                hear(&buffer[..n]);
            }
            Bytes::File { file: Arc::new(file), at: 0, len }
        };
        let mut zip = ZipArchive::new(bytes).map_err(format)?;
        if zip.has_duplicate_names() {
            return Err(ZipFileError::Duplicate);
        }
        if zip.len() > MOST_MEMBERS {
            return Err(ZipFileError::Many(zip.len()));
        }
        if zip.has_overlapping_entries().map_err(format)? {
            return Err(ZipFileError::Overlap);
        }
        let unpacked = (0..zip.len()).try_fold(0, |sum: u64, index| {
            zip.by_index_data(index).map(|entry| sum.saturating_add(entry.size()))
        });
        let unpacked = unpacked.map_err(format)?;
        let grown = unpacked > PLENTY && unpacked / MOST_GROWTH > len;
        if unpacked > MOST_BYTES || grown {
            return Err(ZipFileError::Bomb { packed: len, unpacked });
        }
        Ok(ZipFile { zip })
    }

    /// Its files, in its order. Directories say nothing.
    pub fn members(&self) -> Result<Vec<Member>, ZipFileError> {
        let mut members = Vec::with_capacity(self.zip.len());
        for index in 0..self.zip.len() {
            let entry = self.zip.by_index_data(index).map_err(format)?;
            let shown = String::from_utf8_lossy(entry.name_raw()).into_owned();
            let fail =
                |reason: &str| ZipFileError::Member { name: shown.clone(), reason: reason.into() };
            let name = std::str::from_utf8(entry.name_raw())
                .map_err(|_| fail("has a name that is not UTF-8"))?;
            check_name(name).map_err(fail)?;
            if entry.is_symlink() {
                return Err(fail("is a link"));
            }
            if entry.encrypted() {
                return Err(fail("is encrypted"));
            }
            if entry.is_dir() {
                continue;
            }
            let mode = entry.unix_mode().unwrap_or(0);
            // the file types of stat(2); none, where the archive was made elsewhere
            if ![0, 0o100_000].contains(&(mode & 0o170_000)) {
                return Err(fail("is neither a file nor a directory"));
            }
            members.push(Member {
                name: name.to_owned(),
                size: entry.size(),
                executable: mode & 0o111 != 0,
                index,
            });
        }
        Ok(members)
    }

    /// Hands on the bytes of a member: as one piece where that is wise.
    pub fn read<T, E: From<ZipFileError>>(
        &mut self,
        member: &Member,
        take: impl FnOnce(&mut dyn Read, Option<&[u8]>) -> Result<T, E>,
    ) -> Result<T, E> {
        let fail = |reason: String| ZipFileError::Member { name: member.name.clone(), reason };
        if member.size <= AT_ONCE {
            let bytes = self.inflate(member).map_err(|reason| E::from(fail(reason)))?;
            return take(&mut io::empty(), Some(&bytes));
        }
        let file = self.zip.by_index(member.index).map_err(|error| fail(error.to_string()))?;
        // one byte more would be seen as too long
        take(&mut file.take(member.size + 1), None)
    }

    /// All bytes of a small member.
    pub fn text(&mut self, member: &Member) -> Result<String, ZipFileError> {
        let fail = |reason: &str| ZipFileError::Member {
            name: member.name.clone(),
            reason: reason.to_owned(),
        };
        if member.size > AT_ONCE {
            return Err(fail("is too large"));
        }
        let bytes = self.inflate(member).map_err(|reason| fail(&reason))?;
        String::from_utf8(bytes).map_err(|_| fail("is not UTF-8"))
    }

    fn inflate(&mut self, member: &Member) -> Result<Vec<u8>, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let mut file = self.zip.by_index_raw(member.index).map_err(|error| text(&error))?;
        let (method, crc) = (file.compression(), file.crc32());
        let mut packed = Vec::new();
        file.read_to_end(&mut packed).map_err(|error| text(&error))?;
        let size = usize::try_from(member.size).map_err(|error| text(&error))?;
        let bytes = match method {
            CompressionMethod::Stored => packed,
            CompressionMethod::Deflated => {
                let mut bytes = vec![0; size];
                let found = Decompressor::new().deflate_decompress(&packed, &mut bytes);
                bytes.truncate(found.map_err(|error| format!("is damaged: {error}"))?);
                bytes
            }
            other => return Err(format!("is packed by {other:?}, which is not supported")),
        };
        if bytes.len() != size {
            return Err(format!("unpacks to {} bytes, expected {size}", bytes.len()));
        }
        if crc32(&bytes) != crc {
            return Err("is damaged: its checksum is wrong".to_owned());
        }
        Ok(bytes)
    }
}

/// Refuses what could lead out of the directory that a wheel is unpacked to.
fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.starts_with('/') {
        return Err("has an absolute name");
    }
    if name.contains(['\\', '\0', '\n']) {
        return Err("has a sign in its name that no file should have");
    }
    let parts = name.strip_suffix('/').unwrap_or(name).split('/');
    for part in parts {
        match part {
            "" | "." => return Err("has an empty part in its name"),
            ".." => return Err("leads out of its directory"),
            _ => {}
        }
    }
    Ok(())
}
