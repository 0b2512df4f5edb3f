//! Tarballs: what of one an installation keeps.
//!
//! The first part of every path is dropped, whatever it is called. Files and directories are kept, all
//! that is neither (links, devices) is left out; modes become what a usual umask makes of them, and a
//! `.gitignore` becomes an `.npmignore` unless there is one. That is npm's own unpacking. Where npm
//! passes over a path that leads out, or lets one name hide its case twin, a tarball is refused here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use super::checkout::Checkout;
use super::manifest::ManifestError;
use super::pattern::PatternFault;
use crate::blame::Blame;
use crate::digest::{Integrity, IntegrityHasher};
use crate::fsx::{IoAt, PathIo};
use crate::path::LayerPath;
use crate::tarball::{Limits, Member, MemberKind, Reader, TarError};

/// Tarballs up to this size are unpacked in memory, larger ones are streamed.
const IN_MEMORY: u64 = 8 << 20;
/// Most bytes that are held of an unpacked one.
const UNPACKED: usize = 96 << 20;
/// How much a tarball may grow: more than JSON and maps of sources do, less than a bomb.
const GROWTH: u64 = 200;
/// What any may grow to.
const FLOOR: u64 = 128 << 20;

const PIECE: usize = 128 << 10;

/// Why a tarball cannot be installed.
#[derive(Debug, thiserror::Error)]
pub enum TarballError {
    #[error(transparent)]
    Io(#[from] PathIo),
    #[error("its bytes are not the locked ones: expected {expected}, found {found}")]
    Corrupt { expected: Integrity, found: Integrity },
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error("`{one}` and `{two}` differ in case only")]
    CaseTwins { one: String, two: String },
    #[error("`{path}` {reason}")]
    Path { path: String, reason: &'static str },
    #[error("the commit has no `package.json`")]
    NoManifest,
    #[error("the commit's `package.json` {0}")]
    Manifest(#[from] ManifestError),
    #[error("what npm would pack of the commit cannot be told: {0}")]
    Pattern(#[from] PatternFault),
}

impl TarballError {
    pub fn blame(&self) -> Blame {
        match self {
            TarballError::Io(_) | TarballError::Corrupt { .. } => Blame::World,
            _ => Blame::Input,
        }
    }
}

/// What an installation keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Below the package's directory.
    pub path: LayerPath,
    pub kind: ItemKind,
    pub mode: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemKind {
    Dir,
    /// So many bytes.
    File(u64),
}

/// A package's archive.
#[derive(Debug)]
pub struct Tarball {
    bytes: Bytes,
    limits: Limits,
}

#[derive(Debug)]
enum Bytes {
    /// The tar, unpacked.
    Tar(Vec<u8>),
    /// The file as it is, to be streamed.
    File(PathBuf, Integrity),
    /// The tree of a commit, of which some is packed.
    Tree(Checkout),
}

impl Tarball {
    /// Opens the file at `path`. A small one is held against its digest at once, a large one while it
    /// is read.
    pub fn open(path: &Path, expected: &Integrity) -> Result<Self, TarballError> {
        let file = File::open(path).at("open", path)?;
        let size = file.metadata().at("stat", path)?.len();
        let limits = Limits::bytes(size.saturating_mul(GROWTH).max(FLOOR));
        let streamed = || Bytes::File(path.to_owned(), *expected);
        if size > IN_MEMORY {
            return Ok(Tarball { bytes: streamed(), limits });
        }
        let mut packed = Vec::with_capacity(usize::try_from(size).unwrap_or_default() + 1);
        // a file that grew meanwhile is not the locked one
        file.take(IN_MEMORY + 1).read_to_end(&mut packed).at("read", path)?;
        let mut hasher = expected.hasher();
        hasher.update(&packed);
        check(hasher, expected)?;
        let bytes = match is_gzip(&packed) {
            false => Bytes::Tar(packed),
            true => inflate(&packed).map_or_else(streamed, Bytes::Tar),
        };
        Ok(Tarball { bytes, limits })
    }

    /// Opens the tree of a commit, of which there is what npm would pack of it.
    pub fn open_tree(path: &Path, expected: &Integrity) -> Result<Self, TarballError> {
        let bytes = Bytes::Tree(Checkout::open(path, expected)?);
        Ok(Tarball { bytes, limits: Limits::bytes(FLOOR) })
    }

    /// Gives everything that is kept, in the archive's order, with its bytes. May be asked again.
    pub fn visit<E: From<TarballError>>(
        &self,
        mut visit: impl FnMut(Item, &mut dyn Read) -> Result<(), E>,
    ) -> Result<(), E> {
        match &self.bytes {
            Bytes::Tar(tar) => {
                let reader = visit_tar(tar.as_slice(), self.limits, &mut visit)?;
                reader.finish().map_err(TarballError::from)?;
                Ok(())
            }
            Bytes::File(path, expected) => stream(path, expected, self.limits, &mut visit),
            Bytes::Tree(tree) => tree.visit(&mut visit),
        }
    }
}

fn is_gzip(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b])
}

pub(super) fn check(hasher: IntegrityHasher, expected: &Integrity) -> Result<(), TarballError> {
    match hasher.finish() {
        found if found == *expected => Ok(()),
        found => Err(TarballError::Corrupt { expected: *expected, found }),
    }
}

/// One gzip member whose trailer tells its size truly; `None` for all that is to be streamed.
fn inflate(packed: &[u8]) -> Option<Vec<u8>> {
    let trailer: [u8; 4] = packed.last_chunk::<4>().copied()?;
    let size = usize::try_from(u32::from_le_bytes(trailer)).ok()?;
    let grown = usize::try_from(GROWTH).ok()?.saturating_mul(packed.len());
    if size > UNPACKED || size > grown.max(1 << 20) {
        return None;
    }
    let mut tar = vec![0; size];
    let written = libdeflater::Decompressor::new().gzip_decompress(packed, &mut tar).ok()?;
    (written == size).then_some(tar)
}

fn stream<E: From<TarballError>>(
    path: &Path,
    expected: &Integrity,
    limits: Limits,
    visit: &mut impl FnMut(Item, &mut dyn Read) -> Result<(), E>,
) -> Result<(), E> {
    let mut file = File::open(path).at("open", path).map_err(TarballError::from)?;
    let mut first = [0; 2];
    let packed = file.read_exact(&mut first).is_ok() && is_gzip(&first);
    let file = File::open(path).at("open", path).map_err(TarballError::from)?;
    let hashed = Hashed::new(file, expected);
    let input = BufReader::with_capacity(PIECE, hashed);
    let (visited, input) = match packed {
        true => {
            let mut unpacked = MultiGzDecoder::new(input);
            let visited = visit_all(&mut unpacked, limits, visit);
            (visited, unpacked.into_inner())
        }
        false => {
            let mut input = input;
            (visit_all(&mut input, limits, visit), input)
        }
    };
    // damage shows in many ways: of all that can be said, that it is not what was locked comes first
    let mut hashed = input.into_inner();
    std::io::copy(&mut hashed, &mut std::io::sink())
        .at("read", path)
        .map_err(TarballError::from)?;
    check(hashed.hasher, expected)?;
    visited
}

/// Hashes what is read.
pub(super) struct Hashed {
    inner: File,
    pub(super) hasher: IntegrityHasher,
}

impl Hashed {
    pub(super) fn new(inner: File, like: &Integrity) -> Self {
        Hashed { inner, hasher: like.hasher() }
    }
}

impl Read for Hashed {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        Ok(n)
    }
}

fn visit_all<E: From<TarballError>>(
    tar: &mut impl Read,
    limits: Limits,
    visit: &mut impl FnMut(Item, &mut dyn Read) -> Result<(), E>,
) -> Result<(), E> {
    let reader = visit_tar(tar, limits, visit)?;
    reader.finish().map_err(TarballError::from)?;
    Ok(())
}

fn visit_tar<R: Read, E: From<TarballError>>(
    tar: R,
    limits: Limits,
    visit: &mut impl FnMut(Item, &mut dyn Read) -> Result<(), E>,
) -> Result<Reader<R>, E> {
    let mut reader = Reader::new(tar, limits);
    let mut kept = Kept::default();
    while let Some(member) = reader.next_member().map_err(TarballError::from)? {
        if let Some(item) = kept.item(&member)? {
            visit(item, &mut reader)?;
        }
    }
    Ok(reader)
}

/// What has been kept of an archive so far.
#[derive(Default)]
pub(super) struct Kept {
    /// Places of `.npmignore` files.
    ignores: BTreeSet<LayerPath>,
    /// By their lower-case form; directories that files imply included.
    paths: BTreeMap<Vec<u8>, LayerPath>,
}

impl Kept {
    fn item(&mut self, member: &Member) -> Result<Option<Item>, TarballError> {
        let kind = match member.kind {
            MemberKind::File => ItemKind::File(member.size),
            MemberKind::Dir => ItemKind::Dir,
            _ => return Ok(None),
        };
        let refuse = |reason| TarballError::Path { path: member.label(), reason };
        let whole = LayerPath::parse_member(&member.path).map_err(|error| refuse(error.1))?;
        let first = whole.as_bytes().iter().position(|byte| *byte == b'/');
        let Some(first) = first else { return Ok(None) };
        let path = LayerPath::parse_member(&whole.as_bytes()[first + 1..])
            .map_err(|error| refuse(error.1))?;
        self.keep(path, kind, member.mode)
    }

    /// A file or directory below the package's own, if it is kept.
    pub(super) fn keep(
        &mut self,
        mut path: LayerPath,
        kind: ItemKind,
        mode: u32,
    ) -> Result<Option<Item>, TarballError> {
        if matches!(kind, ItemKind::File(_)) && !self.keep_ignore(&mut path)? {
            return Ok(None);
        }
        self.check_case(&path)?;
        let mode = match kind {
            ItemKind::Dir => 0o755,
            // whoever may read it may read it everywhere; what says whose it is goes
            ItemKind::File(_) => ((mode | 0o666) & !0o022 | 0o600) & 0o777,
        };
        Ok(Some(Item { path, kind, mode }))
    }

    /// Whether a file is kept, and as what.
    fn keep_ignore(&mut self, path: &mut LayerPath) -> Result<bool, TarballError> {
        match path.file_name() {
            b".npmignore" => {
                self.ignores.insert(path.clone());
                Ok(true)
            }
            b".gitignore" => {
                let parent = path.parent().unwrap_or_default();
                let renamed = parent
                    .join(b".npmignore")
                    .map_err(|error| TarballError::Path { path: error.0, reason: error.1 })?;
                let kept = !self.ignores.contains(&renamed);
                *path = renamed;
                Ok(kept)
            }
            _ => Ok(true),
        }
    }

    fn check_case(&mut self, path: &LayerPath) -> Result<(), TarballError> {
        for known in path.ancestors().chain([path.clone()]) {
            let folded = known.as_bytes().to_ascii_lowercase();
            match self.paths.get(&folded) {
                Some(other) if *other == known => {}
                Some(other) => {
                    let (one, two) = (other.to_string(), known.to_string());
                    return Err(TarballError::CaseTwins { one, two });
                }
                None => drop(self.paths.insert(folded, known)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;
    use crate::digest::Digest;

    fn archive(build: impl Fn(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        build(&mut builder);
        builder.into_inner().unwrap()
    }

    fn add(builder: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, body: &[u8]) {
        let mut header = tar::Header::new_ustar();
        // written as it stands: the builder itself would refuse what leads out
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_size(body.len() as u64);
        header.set_mode(mode);
        header.set_entry_type(if path.ends_with('/') {
            tar::EntryType::Directory
        } else {
            tar::EntryType::Regular
        });
        header.set_cksum();
        builder.append(&header, body).unwrap();
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn read(bytes: &[u8]) -> Result<Vec<String>, TarballError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        read_as(file.path(), &Digest::of(bytes).into())
    }

    fn read_as(path: &Path, expected: &Integrity) -> Result<Vec<String>, TarballError> {
        let mut seen = Vec::new();
        Tarball::open(path, expected)?.visit(|item, body| {
            let mut text = String::new();
            body.read_to_string(&mut text).unwrap();
            seen.push(format!("{} {:o} {text}", item.path, item.mode));
            Ok::<_, TarballError>(())
        })?;
        Ok(seen)
    }

    #[test]
    fn the_first_part_goes_and_modes_become_usual() {
        let tar = archive(|tar| {
            add(tar, "package/", 0o700, b"");
            add(tar, "package/package.json", 0o600, b"{}");
            add(tar, "other/cli.js", 0o4755, b"x");
            add(tar, "package/owner.sh", 0o700, b"y");
            add(tar, "package/lib/", 0o700, b"");
            add(tar, "lonely", 0o644, b"z");
        });
        let kept = ["/package.json 644 {}", "/cli.js 755 x", "/owner.sh 744 y", "/lib 755 "];
        assert_eq!(read(&gzip(&tar)).unwrap(), kept);
        assert_eq!(read(&tar).unwrap(), kept, "it need not be packed");
        // several members of gzip are one archive
        let (one, two) = tar.split_at(700);
        assert_eq!(read(&[gzip(one), gzip(two)].concat()).unwrap(), kept);
    }

    #[test]
    fn links_are_left_out_and_ignore_files_renamed() {
        let tar = archive(|tar| {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(tar::EntryType::Symlink);
            tar.append_link(&mut header, "p/link", "/etc/passwd").unwrap();
            add(tar, "p/.gitignore", 0o644, b"a");
            add(tar, "p/sub/.npmignore", 0o644, b"b");
            add(tar, "p/sub/.gitignore", 0o644, b"c");
        });
        let kept = ["/.npmignore 644 a", "/sub/.npmignore 644 b"];
        assert_eq!(read(&gzip(&tar)).unwrap(), kept);
    }

    #[test]
    fn what_leads_out_is_refused() {
        let refused = |path: &str| {
            let tar = archive(|tar| add(tar, path, 0o644, b""));
            read(&gzip(&tar)).unwrap_err().to_string()
        };
        insta::assert_snapshot!(refused("p/../../x"), @"`p/../../x` has a `..` component");
        insta::assert_snapshot!(refused("/p/x"), @"`/p/x` is absolute");
        let twins = archive(|tar| {
            add(tar, "p/A/b", 0o644, b"");
            add(tar, "p/a/c", 0o644, b"");
        });
        insta::assert_snapshot!(read(&twins).unwrap_err(), @"`/A` and `/a` differ in case only");
    }

    #[test]
    fn other_bytes_and_bombs_are_refused() {
        let tar = archive(|tar| add(tar, "p/x", 0o644, &vec![0; 160 << 20]));
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&tar).unwrap();
        let packed = encoder.finish().unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &packed).unwrap();
        let tarball = Tarball::open(file.path(), &Digest::of(&packed).into()).unwrap();
        let bomb = tarball.visit(|_, _| Ok::<_, TarballError>(())).unwrap_err().to_string();
        assert_eq!(bomb, "the archive unpacks to more than 134217728 bytes");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), gzip(&archive(|tar| add(tar, "p/x", 0o644, b"")))).unwrap();
        let error = read_as(file.path(), &Digest::of(b"").into()).unwrap_err();
        assert!(matches!(error, TarballError::Corrupt { .. }), "{error}");
    }
}
