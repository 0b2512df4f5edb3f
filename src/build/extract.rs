//! Files of an archive or of a package become a delta.
//!
//! Pure: what comes out depends on the source's bytes and on what is taken of it. Nothing of a source
//! is believed: names that lead out, links that lead out of what is taken, devices, a path that comes
//! twice and archives that unpack to more than they may are refused. Modes are those of files that
//! anybody may read and nobody but the owner writes; set-id bits are left out.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;

use super::assembly::{Assembly, AssemblyError};
use super::listing::Listing;
use crate::blame::Blame;
use crate::decl::{PatternError, Picks};
use crate::digest::{Integrity, IntegrityHasher};
use crate::entry::{Claim, Entry, Kind, Meta};
use crate::fsx::{IoAt, PathIo};
use crate::path::LayerPath;
use crate::plan::{Ids, TakeWork};
use crate::tarball::{Member, MemberKind, Reader, TarError, is_header, unpacked};
use crate::zipfile::{ZipFile, ZipFileError};

/// Most bytes that one source may unpack to.
const LARGEST: u64 = 16 << 30;

/// Why a source is refused.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    #[error(transparent)]
    Io(#[from] PathIo),
    #[error("`{label}`: the store's bytes are damaged: expected {expected}, found {found}")]
    Corrupt { label: String, expected: Integrity, found: Integrity },
    #[error("`{label}`: {source}")]
    Tar { label: String, source: TarError },
    #[error("`{label}`: {source}")]
    Zip { label: String, source: ZipFileError },
    #[error("`{label}`: {source}")]
    Layout { label: String, source: AssemblyError },
    #[error(
        "`{label}` is no archive: neither tar, as it is or packed by gzip, xz, zstd or bzip2, nor zip"
    )]
    Format { label: String },
    #[error("`{label}`: link `{path}` leads out of what is taken: to `{target}`")]
    Link { label: String, path: String, target: String },
    #[error("`{label}`: `{path}` {reason}")]
    Member { label: String, path: String, reason: &'static str },
    #[error("`{label}` has nothing of what is meant")]
    Nothing { label: String },
    #[error(transparent)]
    Pattern(#[from] PatternError),
}

impl ExtractError {
    pub fn blame(&self) -> Blame {
        match self {
            ExtractError::Io(_) | ExtractError::Corrupt { .. } => Blame::World,
            _ => Blame::Input,
        }
    }
}

/// A source in the store.
pub struct Blob<'a> {
    /// For messages.
    pub label: String,
    pub path: &'a Path,
    pub digest: Integrity,
    pub nature: Nature,
}

/// What a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    /// Of somebody who may have packed anything.
    Archive,
    /// A tree of git's: links may lead anywhere, and its directories are part of it.
    Tree,
}

/// Lays what is taken of a source into the empty directory `tree` and writes the tar.
pub fn lay(
    blob: &Blob<'_>,
    take: &TakeWork,
    tree: &Path,
    tar: &mut dyn Write,
) -> Result<Listing, ExtractError> {
    let assembly = Assembly::new(tree)?;
    let taking = Taking {
        label: &blob.label,
        take,
        picks: Picks::new(take.strip, &take.subdirectory, &take.include, &take.exclude)?,
        assembly: &assembly,
        nature: blob.nature,
    };
    let laid = taking.lay(blob);
    // of bytes that are not what was locked, nothing that they say counts
    let found = hash(blob)?;
    if found != blob.digest {
        let (label, expected) = (blob.label.clone(), blob.digest);
        return Err(ExtractError::Corrupt { label, expected, found });
    }
    if laid? == 0 {
        return Err(ExtractError::Nothing { label: blob.label.clone() });
    }
    let label = blob.label.clone();
    if let Some((path, _)) = assembly.contested().into_iter().next() {
        let path = path.to_string();
        return Err(ExtractError::Member { label, path, reason: "is in it twice" });
    }
    assembly
        .finish(|_, one, two| Ok(one.max(two)), tar)
        .map_err(|source: AssemblyError| ExtractError::Layout { label, source })
}

impl From<AssemblyError> for ExtractError {
    fn from(source: AssemblyError) -> Self {
        ExtractError::Layout { label: "the layer".to_owned(), source }
    }
}

fn hash(blob: &Blob<'_>) -> Result<Integrity, PathIo> {
    let mut file = File::open(blob.path).at("open", blob.path)?;
    let mut hasher: IntegrityHasher = blob.digest.hasher();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).at("read", blob.path)? {
            0 => return Ok(hasher.finish()),
            n => hasher.update(&buffer[..n]),
        }
    }
}

struct Taking<'a> {
    label: &'a str,
    take: &'a TakeWork,
    picks: Picks,
    assembly: &'a Assembly,
    nature: Nature,
}

impl Taking<'_> {
    /// Answers how many files and links were laid.
    fn lay(&self, blob: &Blob<'_>) -> Result<u64, ExtractError> {
        let mut file =
            BufReader::with_capacity(1 << 20, File::open(blob.path).at("open", blob.path)?);
        let head = file.fill_buf().at("read", blob.path)?;
        if head.starts_with(b"PK\x03\x04") {
            return self.lay_zip(blob.path);
        }
        self.lay_tar(unpacked(file).map_err(|error| self.tar(error.into()))?)
    }

    fn tar(&self, source: TarError) -> ExtractError {
        ExtractError::Tar { label: self.label.to_owned(), source }
    }

    fn layout(&self, source: AssemblyError) -> ExtractError {
        ExtractError::Layout { label: self.label.to_owned(), source }
    }

    fn refuse(&self, path: &[u8], reason: &'static str) -> ExtractError {
        let path = String::from_utf8_lossy(path).into_owned();
        ExtractError::Member { label: self.label.to_owned(), path, reason }
    }

    fn lay_tar(&self, decoded: Box<dyn Read>) -> Result<u64, ExtractError> {
        let mut decoded = BufReader::with_capacity(1 << 18, decoded);
        let head = decoded.fill_buf().map_err(|error| self.tar(error.into()))?;
        if !is_tar(head) {
            return Err(ExtractError::Format { label: self.label.to_owned() });
        }
        let mut reader = Reader::new(decoded, LARGEST);
        let mut count = 0;
        self.put_root()?;
        while let Some(member) = reader.next_member().map_err(|error| self.tar(error))? {
            let Some(entry) = self.entry(&member)? else { continue };
            count += u64::from(!matches!(entry.kind, Kind::Dir(_)));
            self.assembly.put(0, entry, &mut reader).map_err(|error| self.layout(error))?;
        }
        reader.finish().map_err(|error| self.tar(error))?;
        Ok(count)
    }

    fn lay_zip(&self, path: &Path) -> Result<u64, ExtractError> {
        let failed = |source| ExtractError::Zip { label: self.label.to_owned(), source };
        let mut zip = ZipFile::open(path, |_| {}).map_err(failed)?;
        let mut count = 0;
        for member in zip.members().map_err(failed)? {
            let Some(path) = self.place(member.name.as_bytes(), false)? else { continue };
            let mode = self.mode(if member.executable { 0o755 } else { 0o644 });
            let entry = Entry { path, meta: self.meta(mode), kind: Kind::File(member.size) };
            count += 1;
            zip.read(&member, |stream, whole| {
                let put = match whole {
                    Some(mut bytes) => self.assembly.put(0, entry, &mut bytes),
                    None => self.assembly.put(0, entry, stream),
                };
                put.map_err(Raised::Layout)
            })
            .map_err(|raised| match raised {
                Raised::Layout(source) => self.layout(source),
                Raised::Zip(source) => failed(source),
            })?;
        }
        Ok(count)
    }

    fn meta(&self, mode: u32) -> Meta {
        Meta { uid: self.take.ids.uid, gid: self.take.ids.gid, ..Meta::root(mode) }
    }

    /// A tree that belongs to somebody does so with its directories.
    fn claim(&self) -> Claim {
        match self.nature == Nature::Tree && self.take.ids != Ids::default() {
            true => Claim::Set,
            false => Claim::Shipped,
        }
    }

    /// The directory that a tree is laid in.
    fn put_root(&self) -> Result<(), ExtractError> {
        let path = self.take.into.clone();
        if self.claim() != Claim::Set || path.is_root() {
            return Ok(());
        }
        let entry = Entry { path, meta: self.meta(0o755), kind: Kind::Dir(Claim::Set) };
        self.assembly.put(0, entry, &mut io::empty()).map_err(|error| self.layout(error))
    }

    fn mode(&self, found: u32) -> u32 {
        let usual = if found & 0o111 != 0 { 0o755 } else { 0o644 };
        self.take.mode.unwrap_or(usual)
    }

    /// What a member becomes; `None` for one that is not meant.
    fn entry(&self, member: &Member) -> Result<Option<Entry>, ExtractError> {
        let is_dir = member.kind == MemberKind::Dir;
        let Some(path) = self.place(&member.path, is_dir)? else { return Ok(None) };
        let kind = match member.kind {
            // what holds the files exists already, or is implied by them
            MemberKind::Dir if path == self.take.into => return Ok(None),
            MemberKind::Dir => Kind::Dir(self.claim()),
            MemberKind::File => Kind::File(member.size),
            MemberKind::Symlink => {
                if self.nature == Nature::Archive {
                    self.check_link(&path, &member.link)?;
                }
                Kind::Symlink(member.link.clone().into())
            }
            MemberKind::Hardlink => match self.place(&member.link, false)? {
                Some(target) => Kind::Hardlink(target),
                None => {
                    let reason = "is a hard link to a file that is not taken";
                    return Err(self.refuse(&member.path, reason));
                }
            },
            MemberKind::Char | MemberKind::Block | MemberKind::Fifo => {
                return Err(self.refuse(&member.path, "is a device or a pipe"));
            }
        };
        let mode = match kind {
            Kind::Dir(_) => 0o755,
            Kind::Symlink(_) => 0o777,
            _ => self.mode(member.mode),
        };
        Ok(Some(Entry { path, meta: self.meta(mode), kind }))
    }

    /// Where a member lies in the image; `None` for one that is not meant.
    fn place(&self, name: &[u8], is_dir: bool) -> Result<Option<LayerPath>, ExtractError> {
        let path = LayerPath::parse_member(name).map_err(|error| self.refuse(name, error.1))?;
        match self.picks.place(&path, is_dir) {
            None => Ok(None),
            Some(rest) if rest.is_empty() => Ok(Some(self.take.into.clone())),
            Some(rest) => {
                self.take.into.join(&rest).map(Some).map_err(|error| self.refuse(name, error.1))
            }
        }
    }

    /// A link may lead to what is taken, and nowhere else.
    fn check_link(&self, path: &LayerPath, target: &[u8]) -> Result<(), ExtractError> {
        let within = path.strip_prefix(&self.take.into).unwrap_or_default();
        let mut depth = within.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).count();
        depth = depth.saturating_sub(1);
        let mut leads_out = target.starts_with(b"/") || target.is_empty();
        for part in target.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." if depth == 0 => leads_out = true,
                b".." => depth -= 1,
                _ => depth += 1,
            }
        }
        if !leads_out {
            return Ok(());
        }
        let target = String::from_utf8_lossy(target).into_owned();
        Err(ExtractError::Link { label: self.label.to_owned(), path: path.to_string(), target })
    }
}

/// Raised while a member streams.
enum Raised {
    Layout(AssemblyError),
    Zip(ZipFileError),
}

impl From<ZipFileError> for Raised {
    fn from(error: ZipFileError) -> Self {
        Raised::Zip(error)
    }
}

/// A header of ustar, pax or GNU tar; the old ones without a magic are told by their checksum.
fn is_tar(head: &[u8]) -> bool {
    head.get(257..).is_some_and(|rest| rest.starts_with(b"ustar")) || is_header(head)
}
