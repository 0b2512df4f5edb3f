//! A stored layer becomes a tree again: where trees were cleared, or belong to another id map.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;

use super::assembly::AssemblyError;
use super::listing::Listing;
use super::tree::Tree;
use crate::entry::Kind;
use crate::fsx::{IoAt, PathIo};
use crate::tarball::{Reader, TarError};

/// Why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error(transparent)]
    Io(#[from] PathIo),
    #[error(transparent)]
    Assembly(#[from] AssemblyError),
    #[error("the layer's tar: {0}")]
    Tar(#[from] TarError),
    #[error("the layer's tar and its listing disagree at {0}")]
    Disagree(String),
}

/// Unpacks the layer in `blob` into the empty directory `tree`. `userxattr`: overlays will be mounted
/// in a user namespace, which looks for its marks elsewhere.
pub fn unpack(
    blob: &Path,
    listing: &Listing,
    tree: &Path,
    userxattr: bool,
) -> Result<(), UnpackError> {
    let out = Tree::open(tree)?;
    let file = File::open(blob).at("open", blob)?;
    let mut reader = Reader::new(BufReader::with_capacity(1 << 20, file), u64::MAX);
    let mut buffer = vec![0; 1 << 18];
    for entry in listing.entries.iter().filter(|entry| !entry.path.is_root()) {
        let member =
            reader.next_member()?.ok_or_else(|| UnpackError::Disagree(entry.path.to_string()))?;
        match &entry.kind {
            Kind::File(size) => {
                if member.size != *size || !member.path.ends_with(entry.path.file_name()) {
                    return Err(UnpackError::Disagree(entry.path.to_string()));
                }
                let mut file = out.create(&entry.path)?;
                loop {
                    let n = reader.read(&mut buffer).at("read", blob)?;
                    if n == 0 {
                        break;
                    }
                    file.write_all(&buffer[..n]).at("write", entry.path.to_string())?;
                }
                out.finish_file(&file, &entry.path, &entry.meta)?;
            }
            Kind::Dir(_) => out.make_dir(&entry.path)?,
            Kind::Opaque => mark_opaque(&out, entry, userxattr)?,
            Kind::Whiteout => out.make_other(&entry.path, &entry.kind)?,
            kind => {
                out.make_other(&entry.path, kind)?;
                if !matches!(kind, Kind::Hardlink(_)) {
                    out.finish_other(&entry.path, kind, &entry.meta)?;
                }
            }
        }
    }
    for entry in listing.entries.iter().rev().filter(|entry| matches!(entry.kind, Kind::Dir(_))) {
        out.finish_other(&entry.path, &entry.kind, &entry.meta)?;
    }
    Ok(())
}

fn mark_opaque(
    out: &Tree,
    entry: &crate::entry::Entry,
    userxattr: bool,
) -> Result<(), UnpackError> {
    let Some(dir) = entry.path.parent() else { return Ok(()) };
    out.make_dir(&dir)?;
    let name = if userxattr { "user.overlay.opaque" } else { "trusted.overlay.opaque" };
    let path = out.path().join(dir.as_path());
    Ok(rustix::fs::lsetxattr(&path, name, b"y", rustix::fs::XattrFlags::empty())
        .at("mark", &path)?)
}
