//! What a layer holds, remembered beside its blob: paths, metadata, and how strongly each directory
//! is claimed, which the tar cannot say.

use std::collections::BTreeMap;
use std::path::Path;

use crate::entry::{Claim, Entry, Kind, Meta};
use crate::fsx::{IoAt, PathIo};
use crate::path::LayerPath;

const MAGIC: &[u8; 8] = b"sbxlst1\n";
/// The least that an entry takes in a tar, and an attribute.
const MEMBER: u64 = 512;
const ATTRIBUTE: u64 = 24;

/// A listing that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ListingError {
    #[error(transparent)]
    Io(#[from] PathIo),
    #[error("{path}: the listing is damaged")]
    Damaged { path: String },
}

/// The entries of a layer, sorted by path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    pub entries: Vec<Entry>,
}

impl Listing {
    /// What a listing's file holds.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for entry in &self.entries {
            encode(entry, &mut bytes);
        }
        bytes
    }

    pub fn read(path: &Path) -> Result<Self, ListingError> {
        let bytes = std::fs::read(path).at("read", path)?;
        Self::decode(&bytes)
            .ok_or_else(|| ListingError::Damaged { path: path.display().to_string() })
    }

    /// Reads what a listing's file holds.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        Self::decode_of(bytes, u64::MAX)
    }

    /// Likewise, of a tar of so many bytes: what cannot be in it is not read.
    pub fn decode_of(bytes: &[u8], tar: u64) -> Option<Self> {
        // the root has no member of its own
        let room = tar.saturating_add(MEMBER);
        let mut cursor = Cursor { bytes: bytes.strip_prefix(MAGIC)?, room };
        let mut entries = Vec::with_capacity((bytes.len() / 64).min((room / MEMBER) as usize));
        while !cursor.bytes.is_empty() {
            entries.push(cursor.entry()?);
        }
        Some(Listing { entries })
    }
}

fn push_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    // names, targets and attributes are far below 4 GiB
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn encode(entry: &Entry, out: &mut Vec<u8>) {
    push_bytes(out, entry.path.as_bytes());
    for number in [entry.meta.mode, entry.meta.uid, entry.meta.gid] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&entry.meta.mtime.to_le_bytes());
    out.extend_from_slice(&(entry.meta.xattrs.len() as u32).to_le_bytes());
    for (name, value) in &entry.meta.xattrs {
        push_bytes(out, name);
        push_bytes(out, value);
    }
    let mut pair = |kind: u8, a: u32, b: u32| {
        out.push(kind);
        out.extend_from_slice(&a.to_le_bytes());
        out.extend_from_slice(&b.to_le_bytes());
    };
    match &entry.kind {
        Kind::Dir(Claim::Implied) => out.push(b'i'),
        Kind::Dir(Claim::Shipped) => out.push(b'd'),
        Kind::Dir(Claim::Set) => out.push(b's'),
        Kind::File(size) => {
            out.push(b'f');
            out.extend_from_slice(&size.to_le_bytes());
        }
        Kind::Symlink(target) => {
            out.push(b'l');
            push_bytes(out, target);
        }
        Kind::Hardlink(target) => {
            out.push(b'h');
            push_bytes(out, target.as_bytes());
        }
        Kind::Char { major, minor } => pair(b'c', *major, *minor),
        Kind::Block { major, minor } => pair(b'b', *major, *minor),
        Kind::Fifo => out.push(b'p'),
        Kind::Whiteout => out.push(b'w'),
        Kind::Opaque => out.push(b'o'),
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    /// Bytes that are left of the tar, as far as is known.
    room: u64,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.bytes.split_at_checked(count)?;
        self.bytes = rest;
        Some(head)
    }

    fn spend(&mut self, room: u64) -> Option<()> {
        self.room = self.room.checked_sub(room)?;
        Some(())
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let count = self.u32()?;
        self.take(usize::try_from(count).ok()?)
    }

    fn path(&mut self) -> Option<LayerPath> {
        LayerPath::parse_member(self.bytes()?).ok()
    }

    fn entry(&mut self) -> Option<Entry> {
        self.spend(MEMBER)?;
        let path = self.path()?;
        let (mode, uid, gid) = (self.u32()?, self.u32()?, self.u32()?);
        let mtime = self.u64()?.cast_signed();
        let mut xattrs = BTreeMap::new();
        for _ in 0..self.u32()? {
            self.spend(ATTRIBUTE)?;
            xattrs.insert(self.bytes()?.into(), self.bytes()?.into());
        }
        let kind = match self.take(1)?[0] {
            b'i' => Kind::Dir(Claim::Implied),
            b'd' => Kind::Dir(Claim::Shipped),
            b's' => Kind::Dir(Claim::Set),
            b'f' => Kind::File(self.u64()?),
            b'l' => Kind::Symlink(self.bytes()?.into()),
            b'h' => Kind::Hardlink(self.path()?),
            b'c' => Kind::Char { major: self.u32()?, minor: self.u32()? },
            b'b' => Kind::Block { major: self.u32()?, minor: self.u32()? },
            b'p' => Kind::Fifo,
            b'w' => Kind::Whiteout,
            b'o' => Kind::Opaque,
            _ => return None,
        };
        Some(Entry { path, meta: Meta { mode, uid, gid, mtime, xattrs }, kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_read_as_it_is_written_and_damage_is_noticed() {
        let path = |text: &str| LayerPath::parse_absolute(text).unwrap();
        let mut meta = Meta::root(0o4755);
        meta.xattrs.insert(b"security.capability"[..].into(), b"\0\x01"[..].into());
        let kinds = [
            Kind::Dir(Claim::Implied),
            Kind::Dir(Claim::Set),
            Kind::File(1 << 40),
            Kind::Symlink(b"../x"[..].into()),
            Kind::Hardlink(path("/a")),
            Kind::Char { major: 1, minor: 3 },
            Kind::Whiteout,
            Kind::Opaque,
        ];
        let entries = kinds
            .into_iter()
            .enumerate()
            .map(|(at, kind)| Entry { path: path(&format!("/p{at}")), meta: meta.clone(), kind })
            .collect();
        let listing = Listing { entries };
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("l");
        std::fs::write(&file, listing.encode()).unwrap();
        assert_eq!(Listing::read(&file).unwrap(), listing);
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
        assert!(matches!(Listing::read(&file), Err(ListingError::Damaged { .. })));
        // eight members, each with an attribute, and the root
        let least = 8 * (MEMBER + ATTRIBUTE) - MEMBER;
        assert_eq!(Listing::decode_of(&bytes, least), Some(listing));
        assert_eq!(Listing::decode_of(&bytes, least - 1), None);
    }
}
