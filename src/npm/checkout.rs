//! Trees of commits as packages: of the canonical archive that `git` makes, what npm would pack.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::manifest::{Manifest, bins};
use super::packlist::Listing;
use super::tarball::{Hashed, Item, ItemKind, Kept, TarballError, check};
use crate::digest::Integrity;
use crate::fsx::IoAt;
use crate::path::LayerPath;
use crate::tarball::{MemberKind, Reader};

/// Most bytes of a tree.
const LARGEST: u64 = 16 << 30;
/// Largest `package.json` or ignore file.
const TEXT: u64 = 8 << 20;
const PIECE: usize = 128 << 10;

/// A tree in the store, held against its digest.
#[derive(Debug)]
pub(super) struct Checkout {
    path: PathBuf,
    /// Files that are packed, and whether they are commands.
    packed: BTreeMap<String, bool>,
}

impl Checkout {
    pub fn open(path: &Path, expected: &Integrity) -> Result<Self, TarballError> {
        let file = File::open(path).at("open", path)?;
        let mut hashed = BufReader::with_capacity(PIECE, Hashed::new(file, expected));
        let listed = list(&mut hashed, path);
        std::io::copy(&mut hashed, &mut std::io::sink()).at("read", path)?;
        check(hashed.into_inner().hasher, expected)?;
        let (listing, manifest) = listed?;
        let manifest = manifest.ok_or(TarballError::NoManifest)?;
        let parsed = Manifest::parse(&manifest)?;
        let text = manifest.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&manifest);
        let whole: Value = serde_json::from_slice(text).unwrap_or_default();
        let packed = listing.packed(&parsed, &whole)?;
        let commands = bins(parsed.name.as_deref().unwrap_or_default(), &parsed.bin);
        let commands: BTreeSet<&str> = commands.iter().map(|(_, file)| &**file).collect();
        let packed = packed.into_iter().map(|path| {
            let is_command = commands.contains(&*path);
            (path, is_command)
        });
        Ok(Checkout { path: path.to_owned(), packed: packed.collect() })
    }

    /// Gives what is packed, in the archive's order.
    pub fn visit<E: From<TarballError>>(
        &self,
        visit: &mut impl FnMut(Item, &mut dyn Read) -> Result<(), E>,
    ) -> Result<(), E> {
        let file = File::open(&self.path).at("open", &self.path).map_err(TarballError::from)?;
        let mut reader = Reader::new(BufReader::with_capacity(PIECE, file), LARGEST);
        let mut kept = Kept::default();
        while let Some(member) = reader.next_member().map_err(TarballError::from)? {
            let path = text(&member.path)?;
            let Some(is_command) = self.packed.get(&path) else { continue };
            // of two ignore files in one directory, npm's own stays
            let twin = path.strip_suffix(".gitignore").map(|dir| format!("{dir}.npmignore"));
            if twin.is_some_and(|twin| self.packed.contains_key(&twin)) {
                continue;
            }
            let mode = if *is_command { 0o755 } else { member.mode };
            let path = LayerPath::parse_member(path.as_bytes())
                .map_err(|error| TarballError::Path { path: error.0, reason: error.1 })?;
            if let Some(item) = kept.keep(path, ItemKind::File(member.size), mode)? {
                visit(item, &mut reader)?;
            }
        }
        Ok(())
    }
}

/// What an archive has, and its `package.json`.
fn list(tar: &mut impl Read, path: &Path) -> Result<(Listing, Option<Vec<u8>>), TarballError> {
    let mut reader = Reader::new(tar, LARGEST);
    let (mut listing, mut manifest) = (Listing::default(), None);
    while let Some(member) = reader.next_member()? {
        let name = text(&member.path)?;
        match member.kind {
            MemberKind::Dir => {}
            MemberKind::File => {
                let is_manifest = name == "package.json";
                let mut bytes = Vec::new();
                if is_manifest || Listing::wants(&name) {
                    (&mut reader).take(TEXT).read_to_end(&mut bytes).at("read", path)?;
                }
                let ignores =
                    Listing::wants(&name).then(|| String::from_utf8_lossy(&bytes).into_owned());
                listing.add_file(&name, ignores);
                if is_manifest {
                    manifest = Some(bytes);
                }
            }
            _ => listing.add_link(&name),
        }
    }
    Ok((listing, manifest))
}

/// A member's path as npm would know it.
fn text(path: &[u8]) -> Result<String, TarballError> {
    let path = String::from_utf8(path.to_vec()).map_err(|error| TarballError::Path {
        path: String::from_utf8_lossy(error.as_bytes()).into_owned(),
        reason: "is not UTF-8",
    })?;
    Ok(path.trim_end_matches('/').to_owned())
}
