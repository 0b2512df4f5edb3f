//! A look into layers without unpacking them: some files of an image, as an overlay would show them.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::PathBuf;

use super::packing::Packing;
use crate::digest::Digest;
use crate::path::LayerPath;
use crate::tarball::{Limits, MemberKind, Reader, TarError};

/// Largest file that is read.
const LARGEST: u64 = 64 << 20;

/// Why a layer cannot be looked into.
#[derive(Debug, thiserror::Error)]
pub enum PeekError {
    #[error("layer {layer} cannot be read: {source}")]
    Read { layer: Digest, source: io::Error },
    #[error("layer {layer}: {source}")]
    Tar { layer: Digest, source: TarError },
    #[error(
        "layer {layer} unpacks to other bytes than its config says: expected {expected}, found {found}"
    )]
    DiffId { layer: Digest, expected: Digest, found: Digest },
    #[error("layer {layer}: {path} has {size} bytes")]
    TooLarge { layer: Digest, path: String, size: u64 },
}

/// A layer to look into.
#[derive(Clone, Debug)]
pub struct PeekLayer {
    pub digest: Digest,
    pub diff_id: Digest,
    pub packing: Packing,
    pub blob: PathBuf,
    /// Bytes of the blob.
    pub size: u64,
}

/// What lies at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    File(Vec<u8>),
    Link,
    Dir,
}

/// The most that a layer may unpack to: hundreds of times what it is, which honest ones are far from.
pub fn limits(packed: u64) -> Limits {
    let bytes = packed.saturating_mul(300).saturating_add(1 << 30);
    Limits { bytes, members: 4_000_000 }
}

/// Looks for paths (absolute) in layers, bottom first. Each layer that is read is held against the
/// digest of its tar; those below the last path that was sought are not read.
pub fn peek(layers: &[PeekLayer], paths: &[&str]) -> Result<BTreeMap<String, Found>, PeekError> {
    let mut sought: Vec<LayerPath> =
        paths.iter().filter_map(|path| LayerPath::parse_absolute(path).ok()).collect();
    let mut all = BTreeMap::new();
    for layer in layers.iter().rev() {
        if sought.is_empty() {
            break;
        }
        let Look { found, hidden } = look(layer, &sought)?;
        sought.retain(|path| !found.contains_key(path) && !hidden.contains(path));
        all.extend(found.into_iter().map(|(path, found)| (path.to_string(), found)));
    }
    Ok(all)
}

#[derive(Default)]
struct Look {
    found: BTreeMap<LayerPath, Found>,
    /// Of those that are sought, what the layer takes away.
    hidden: Vec<LayerPath>,
}

fn look(layer: &PeekLayer, sought: &[LayerPath]) -> Result<Look, PeekError> {
    let unreadable = |source| PeekError::Read { layer: layer.digest, source };
    let bad = |source| PeekError::Tar { layer: layer.digest, source };
    let mut tar = layer.packing.open(&layer.blob).map_err(unreadable)?;
    let limits = limits(layer.size);
    let mut reader = Reader::new(&mut tar, limits);
    let mut look = Look::default();
    while let Some(member) = reader.next_member().map_err(bad)? {
        let Ok(path) = LayerPath::parse_member(&member.path) else { continue };
        look.note_hidden(&path, member.kind, sought);
        if !sought.contains(&path) {
            continue;
        }
        let found = match member.kind {
            MemberKind::Dir => Found::Dir,
            MemberKind::File if member.size > LARGEST => {
                let (path, size) = (path.to_string(), member.size);
                return Err(PeekError::TooLarge { layer: layer.digest, path, size });
            }
            MemberKind::File => {
                let mut bytes = Vec::new();
                reader.read_to_end(&mut bytes).map_err(unreadable)?;
                Found::File(bytes)
            }
            _ => Found::Link,
        };
        look.found.insert(path, found);
    }
    drop(reader);
    let (found, _) = tar.finish(limits.bytes).map_err(unreadable)?;
    match found == layer.diff_id {
        true => Ok(look),
        false => {
            let (layer, expected) = (layer.digest, layer.diff_id);
            Err(PeekError::DiffId { layer, expected, found })
        }
    }
}

impl Look {
    fn note_hidden(&mut self, path: &LayerPath, kind: MemberKind, sought: &[LayerPath]) {
        let parent = path.parent().unwrap_or_default();
        let gone = match path.file_name().strip_prefix(b".wh.") {
            Some(b".wh..opq") => Some(parent),
            Some(name) => parent.join(name).ok(),
            // what is no directory hides what lies below it
            None => (kind != MemberKind::Dir).then(|| path.clone()),
        };
        let Some(gone) = gone else { return };
        let own = path.clone();
        let hidden = sought.iter().filter(|one| one.starts_with(&gone) && **one != own);
        self.hidden.extend(hidden.cloned());
    }
}
