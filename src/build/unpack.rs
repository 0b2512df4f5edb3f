//! A layer's tar becomes a tree: where trees were cleared, belong to another id map, or never were
//! because the layer is somebody else's.
//!
//! Nothing of the tar is believed. Every path is resolved by the kernel beneath the tree's root and
//! through no link, a hard link names a file that the same tar brought before, a path comes once, and
//! a device that overlayfs would take for a deletion is refused. A layer of our own must also say
//! what its listing says; owners are laid as they stand, so a rootless caller unpacks from within its
//! user namespace.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;

use super::assembly::{AssemblyError, complete};
use super::listing::Listing;
use super::tree::{Tree, is_through_link};
use crate::blame::Blame;
use crate::entry::{CAPABILITY, Claim, Entry, Kind, Meta};
use crate::fsx::{IoAt, PathIo};
use crate::path::{LayerPath, PathError};
use crate::tarball::{Limits, Member, Reader, TarError};

const OPAQUE: &[u8] = b".wh..wh..opq";

/// Bytes that are copied at a time.
const PIECE: usize = 256 << 10;

/// Why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error(transparent)]
    Io(#[from] PathIo),
    #[error(transparent)]
    Assembly(#[from] AssemblyError),
    #[error("the layer's tar: {0}")]
    Tar(#[from] TarError),
    #[error("the layer's tar: {0}")]
    Path(#[from] PathError),
    #[error("the layer's tar has {0} twice")]
    Twice(LayerPath),
    #[error("the layer's tar has {0}, a name that is kept for deletions")]
    Reserved(LayerPath),
    #[error("the layer's tar has {0} as device 0:0, which stands for a deletion")]
    NullDevice(LayerPath),
    #[error("the layer's tar and its listing disagree at {0}")]
    Disagree(LayerPath),
}

impl UnpackError {
    pub fn blame(&self) -> Blame {
        Blame::World
    }
}

/// Unpacks the layer in `blob` into the empty directory `tree` and holds it against its listing.
/// `userxattr`: overlays will be mounted in a user namespace, which looks for its marks elsewhere.
pub fn unpack(
    blob: &Path,
    listing: &Listing,
    tree: &Path,
    userxattr: bool,
) -> Result<(), UnpackError> {
    let file = File::open(blob).at("open", blob)?;
    let size = file.metadata().at("stat", blob)?.len();
    let input = BufReader::with_capacity(PIECE, file);
    // no layer holds more than its tar
    let limits = Limits { bytes: size, members: size / 512 };
    let found = unpack_tar(input, limits, tree, userxattr)?;
    hold_against(&found, listing)
}

/// Reads an uncompressed layer of our own without laying it, and holds it against its listing.
pub fn survey(tar: impl Read, limits: Limits, listing: &Listing) -> Result<(), UnpackError> {
    let mut entries = BTreeMap::new();
    let mut reader = Reader::new(tar, limits);
    while let Some(member) = reader.next_member()? {
        let entry = decode_whiteout(member.to_entry()?)?;
        if let Some(twice) = entries.insert(entry.path.clone(), entry) {
            return Err(UnpackError::Twice(twice.path));
        }
    }
    reader.finish()?;
    entries.remove(&LayerPath::root());
    hold_against(&complete(entries)?, listing)
}

fn hold_against(found: &Listing, listing: &Listing) -> Result<(), UnpackError> {
    let mut expected = listing.entries.iter().filter(|entry| !entry.path.is_root());
    for entry in &found.entries {
        match expected.next() {
            Some(expected) if is_same(entry, expected) => {}
            _ => return Err(UnpackError::Disagree(entry.path.clone())),
        }
    }
    expected.next().map_or(Ok(()), |entry| Err(UnpackError::Disagree(entry.path.clone())))
}

/// Unpacks an uncompressed layer, whoever made it, and answers what it holds.
pub fn unpack_tar(
    tar: impl Read,
    limits: Limits,
    tree: &Path,
    userxattr: bool,
) -> Result<Listing, UnpackError> {
    let manner = Manner { userxattr, to_entry: Member::to_entry, finish_dir: finish_layer_dir };
    unpack_as(tar, limits, tree, manner)
}

/// Unpacks a layer of somebody else's image. What it says of files' times is kept, for programs
/// compare them, and a directory that it names is meant.
pub fn unpack_foreign(
    tar: impl Read,
    limits: Limits,
    tree: &Path,
    userxattr: bool,
) -> Result<Listing, UnpackError> {
    let to_entry = |member: &Member| {
        let mut entry = member.to_entry()?;
        match &mut entry.kind {
            Kind::Dir(claim) => *claim = Claim::Set,
            _ => entry.meta.mtime = member.mtime,
        }
        Ok(entry)
    };
    unpack_as(tar, limits, tree, Manner { userxattr, to_entry, finish_dir: finish_layer_dir })
}

/// Unpacks a whole file system, and keeps what its tar says: times as they are, and of files' and
/// directories' attributes those that are the image's and no machine's.
pub fn unpack_whole(tar: impl Read, limits: Limits, tree: &Path) -> Result<Listing, UnpackError> {
    let to_entry = |member: &Member| {
        let mut entry = member.to_entry()?;
        entry.meta.mtime = member.mtime;
        if matches!(entry.kind, Kind::Dir(_) | Kind::File(_)) {
            let own = member.xattrs.iter().filter(|(name, _)| is_images_own(name));
            entry.meta.xattrs = own.map(|(name, value)| (name.clone(), value.clone())).collect();
        }
        Ok(entry)
    };
    let finish_dir = |tree: &Tree, entry: &Entry| tree.finish_dir(&entry.path, &entry.meta);
    unpack_as(tar, limits, tree, Manner { userxattr: false, to_entry, finish_dir })
}

fn is_images_own(name: &[u8]) -> bool {
    name == CAPABILITY || name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_")
}

/// How a tar is laid.
struct Manner {
    /// Overlays will look for their marks elsewhere.
    userxattr: bool,
    to_entry: fn(&Member) -> Result<Entry, TarError>,
    finish_dir: fn(&Tree, &Entry) -> Result<(), PathIo>,
}

/// All directories of layers have one time.
fn finish_layer_dir(tree: &Tree, entry: &Entry) -> Result<(), PathIo> {
    tree.finish_other(&entry.path, &entry.kind, &entry.meta)
}

fn unpack_as(
    tar: impl Read,
    limits: Limits,
    tree: &Path,
    manner: Manner,
) -> Result<Listing, UnpackError> {
    let mut unpacking = Unpacking { tree: Tree::open(tree)?, entries: BTreeMap::new() };
    let mut reader = Reader::new(tar, limits);
    let mut buffer = vec![0; PIECE];
    while let Some(member) = reader.next_member()? {
        let entry = decode_whiteout((manner.to_entry)(&member)?)?;
        unpacking.lay(&entry, &mut reader, &mut buffer)?;
        unpacking.entries.insert(entry.path.clone(), entry);
    }
    reader.finish()?;
    let root = unpacking.entries.remove(&LayerPath::root());
    let listing = complete(unpacking.entries)?;
    finish_dirs(&unpacking.tree, &listing, root, &manner)?;
    Ok(listing)
}

struct Unpacking {
    tree: Tree,
    entries: BTreeMap<LayerPath, Entry>,
}

impl Unpacking {
    fn lay(
        &self,
        entry: &Entry,
        body: &mut impl Read,
        buffer: &mut [u8],
    ) -> Result<(), UnpackError> {
        self.check(entry)?;
        let tree = &self.tree;
        let result = match &entry.kind {
            Kind::Dir(_) => tree.make_dir(&entry.path),
            Kind::File(_) => return self.lay_file(entry, body, buffer),
            Kind::Opaque => tree.make_dir(&entry.path.parent().unwrap_or_default()),
            kind => tree.make_other(&entry.path, kind).and_then(|()| match kind {
                Kind::Hardlink(_) | Kind::Whiteout => Ok(()),
                kind => tree.finish_other(&entry.path, kind, &entry.meta),
            }),
        };
        result.map_err(|error| judge(error, &entry.path))
    }

    /// What can be said before anything is written.
    fn check(&self, entry: &Entry) -> Result<(), UnpackError> {
        let path = &entry.path;
        let is_dir = |entry: &Entry| matches!(entry.kind, Kind::Dir(_));
        match self.entries.get(path) {
            // a directory may be spoken of again, as some builders do
            Some(before) if !(is_dir(before) && is_dir(entry)) => {
                return Err(UnpackError::Twice(path.clone()));
            }
            _ => {}
        }
        match &entry.kind {
            Kind::Char { major: 0, minor: 0 } => Err(UnpackError::NullDevice(path.clone())),
            Kind::Hardlink(target) => match self.entries.get(target).map(|entry| &entry.kind) {
                Some(Kind::File(_) | Kind::Hardlink(_)) => Ok(()),
                _ => {
                    Err(AssemblyError::Hardlink { path: path.clone(), target: target.clone() }
                        .into())
                }
            },
            _ => Ok(()),
        }
    }

    fn lay_file(
        &self,
        entry: &Entry,
        body: &mut impl Read,
        buffer: &mut [u8],
    ) -> Result<(), UnpackError> {
        let path = &entry.path;
        let mut file = self.tree.create(path).map_err(|error| judge(error, path))?;
        loop {
            let n = match body.read(buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(source) => {
                    return Err(AssemblyError::Body { path: path.clone(), source }.into());
                }
            };
            file.write_all(&buffer[..n]).at("write", path.to_string())?;
        }
        Ok(self.tree.finish_file(&file, path, &entry.meta)?)
    }
}

fn judge(error: PathIo, path: &LayerPath) -> UnpackError {
    match is_through_link(&error.source) {
        true => AssemblyError::ThroughLink { path: path.clone() }.into(),
        false => error.into(),
    }
}

/// `.wh.NAME` says that `NAME` is gone (OCI image-spec, whiteouts).
pub(crate) fn decode_whiteout(entry: Entry) -> Result<Entry, UnpackError> {
    let reserved = |path: &LayerPath| {
        path.as_bytes().split(|byte| *byte == b'/').any(|part| part.starts_with(b".wh."))
    };
    let parent = entry.path.parent().unwrap_or_default();
    let Some(gone) = entry.path.file_name().strip_prefix(b".wh.") else {
        return if reserved(&parent) { Err(UnpackError::Reserved(entry.path)) } else { Ok(entry) };
    };
    let is_opaque = entry.path.file_name() == OPAQUE;
    let is_name = !matches!(gone, b"" | b"." | b"..") && !gone.starts_with(b".wh.");
    let is_mark = matches!(entry.kind, Kind::File(0)) && !reserved(&parent);
    if !is_mark || !is_opaque && !is_name {
        return Err(UnpackError::Reserved(entry.path));
    }
    let (path, kind) = match is_opaque {
        true => (entry.path, Kind::Opaque),
        false => (parent.join(gone)?, Kind::Whiteout),
    };
    Ok(Entry { path, meta: Meta::root(0), kind })
}

/// Directories get their metadata last and from the bottom up, the marks after it.
fn finish_dirs(
    tree: &Tree,
    listing: &Listing,
    root: Option<Entry>,
    manner: &Manner,
) -> Result<(), UnpackError> {
    let mark = if manner.userxattr { "user.overlay.opaque" } else { "trusted.overlay.opaque" };
    let meta = root.map_or_else(|| Meta::root(0o755), |root| root.meta);
    let root = Entry { path: LayerPath::root(), meta, kind: Kind::Dir(Claim::Shipped) };
    for entry in listing.entries.iter().rev().chain([&root]) {
        match entry.kind {
            Kind::Dir(_) => (manner.finish_dir)(tree, entry)?,
            Kind::Opaque => tree.mark_dir(&entry.path.parent().unwrap_or_default(), mark)?,
            _ => {}
        }
    }
    Ok(())
}

/// Whether two entries are one in all that a tar can say.
fn is_same(found: &Entry, expected: &Entry) -> bool {
    let kinds = match (&found.kind, &expected.kind) {
        (Kind::Dir(_), Kind::Dir(_)) => true,
        (found, expected) => found == expected,
    };
    // directories have one time, and marks no metadata
    let metas = match found.kind {
        Kind::Opaque | Kind::Whiteout => true,
        Kind::Dir(_) => {
            Meta { mtime: 0, ..found.meta.clone() } == Meta { mtime: 0, ..expected.meta.clone() }
        }
        _ => found.meta == expected.meta,
    };
    found.path == expected.path && kinds && metas
}
