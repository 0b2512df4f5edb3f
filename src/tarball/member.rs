//! A member of an archive: what its headers say, before anything of it has been judged.

use std::collections::BTreeMap;

use super::reader::TarError;
use super::{BLOCK, checksum};
use crate::entry::{CAPABILITY, Claim, Entry, Kind, Meta, clamp_mtime};
use crate::path::LayerPath;

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberKind {
    File,
    Dir,
    Symlink,
    Hardlink,
    Char,
    Block,
    Fifo,
}

/// A member as the archive names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub path: Vec<u8>,
    pub kind: MemberKind,
    /// Bytes of the body.
    pub size: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: i64,
    /// Target of a link.
    pub link: Vec<u8>,
    pub major: u32,
    pub minor: u32,
    /// Extended attributes (`SCHILY.xattr.*`).
    pub xattrs: BTreeMap<Box<[u8]>, Box<[u8]>>,
}

impl Member {
    /// The name as messages show it.
    pub fn label(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }

    /// The member as an entry of a layer: a path below the root, a clamped time, no attributes but
    /// file capabilities. Directories count as shipped.
    pub fn to_entry(&self) -> Result<Entry, TarError> {
        let refuse = |reason| TarError::Path { path: self.label(), reason };
        let path = LayerPath::parse_member(&self.path).map_err(|error| refuse(error.1))?;
        let device = (self.major, self.minor);
        let kind = match self.kind {
            MemberKind::Dir => Kind::Dir(Claim::Shipped),
            _ if path.is_root() => return Err(refuse("stands where the root should")),
            MemberKind::File => Kind::File(self.size),
            MemberKind::Symlink if self.link.is_empty() || self.link.contains(&0) => {
                return Err(refuse("is a link to nowhere"));
            }
            MemberKind::Symlink => Kind::Symlink(self.link.as_slice().into()),
            MemberKind::Hardlink => {
                let target = LayerPath::parse_member(&self.link).map_err(|error| {
                    TarError::Link { path: self.label(), target: error.0, reason: error.1 }
                })?;
                Kind::Hardlink(target)
            }
            MemberKind::Char => Kind::Char { major: device.0, minor: device.1 },
            MemberKind::Block => Kind::Block { major: device.0, minor: device.1 },
            MemberKind::Fifo => Kind::Fifo,
        };
        let kept = self.xattrs.iter().filter(|(name, _)| &***name == CAPABILITY);
        let meta = Meta {
            mode: if self.kind == MemberKind::Symlink { 0o777 } else { self.mode & 0o7777 },
            uid: self.uid,
            gid: self.gid,
            mtime: clamp_mtime(self.mtime),
            xattrs: kept.map(|(name, value)| (name.clone(), value.clone())).collect(),
        };
        Ok(Entry { path, meta, kind })
    }
}

/// Headers that came before a member's own and override it.
#[derive(Default)]
pub(super) struct Extensions {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) records: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Puts a member together from its header and the extensions before it; `None` for a header that
/// no program has written.
pub(super) fn decode(
    header: &[u8; BLOCK],
    mut extensions: Extensions,
) -> Option<Result<Member, TarError>> {
    let records = &mut extensions.records;
    let path = records.remove(&b"path"[..]).or(extensions.path);
    let path = path.unwrap_or_else(|| ustar_path(header));
    let link = records.remove(&b"linkpath"[..]).or(extensions.link);
    let link = link.unwrap_or_else(|| until_nul(&header[157..257]).to_vec());
    let label = || String::from_utf8_lossy(&path).into_owned();
    if header[156] == b'S' || records.keys().any(|name| name.starts_with(b"GNU.sparse")) {
        return Some(Err(TarError::Sparse(label())));
    }
    let Some(kind) = kind_of(header[156], &path) else {
        let kind = header[156].escape_ascii().to_string();
        return Some(Err(TarError::Kind { path: label(), kind }));
    };
    let mut field = |name: &[u8], range: std::ops::Range<usize>| match records.remove(name) {
        Some(value) => std::str::from_utf8(&value).ok()?.parse().ok(),
        None => number(&header[range]),
    };
    let size = field(b"size", 124..136)?;
    let uid = u32::try_from(field(b"uid", 108..116)?).ok()?;
    let gid = u32::try_from(field(b"gid", 116..124)?).ok()?;
    let mtime = match records.remove(&b"mtime"[..]) {
        // whole seconds: fractions are dropped, as every tool that unpacks layers does
        Some(value) => std::str::from_utf8(&value).ok()?.split('.').next()?.parse().ok()?,
        None => signed(&header[136..148])?,
    };
    let attributes = std::mem::take(records).into_iter().filter_map(|(name, value)| {
        Some((name.strip_prefix(b"SCHILY.xattr.")?.into(), value.into()))
    });
    let is_device = matches!(kind, MemberKind::Char | MemberKind::Block);
    let device = |range: std::ops::Range<usize>| match is_device {
        true => number(&header[range]).and_then(|value| u32::try_from(value).ok()),
        false => Some(0),
    };
    Some(Ok(Member {
        kind,
        // only files have bodies, whatever the field says (POSIX.1-2017, ustar typeflag)
        size: if kind == MemberKind::File { size } else { 0 },
        mode: u32::try_from(number(&header[100..108])? & 0o7777).ok()?,
        uid,
        gid,
        mtime,
        link,
        major: device(329..337)?,
        minor: device(337..345)?,
        xattrs: attributes.collect(),
        path,
    }))
}

/// What a type flag means (POSIX.1-2017, ustar).
fn kind_of(flag: u8, path: &[u8]) -> Option<MemberKind> {
    Some(match flag {
        // old archives mark a directory by the end of its name alone
        b'0' | 0 | b'7' if path.ends_with(b"/") => MemberKind::Dir,
        b'0' | 0 | b'7' => MemberKind::File,
        b'1' => MemberKind::Hardlink,
        b'2' => MemberKind::Symlink,
        b'3' => MemberKind::Char,
        b'4' => MemberKind::Block,
        b'5' => MemberKind::Dir,
        b'6' => MemberKind::Fifo,
        _ => return None,
    })
}

/// Whether a header's own checksum is right.
pub(super) fn is_intact(header: &[u8; BLOCK]) -> bool {
    number(&header[148..156]) == Some(u64::from(checksum(header)))
}

pub(super) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn ustar_path(header: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_nul(&header[..100]);
    // POSIX ustar has a prefix; GNU uses the place for other things
    let prefix = match &header[257..263] {
        b"ustar\0" => until_nul(&header[345..500]),
        _ => b"",
    };
    if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
}

/// A number in octal, or in base 256 where the first bit is set. An empty field is zero.
pub(super) fn number(field: &[u8]) -> Option<u64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        return rest.iter().try_fold(u64::from(first & 0x7f), |value, byte| {
            value.checked_mul(256)?.checked_add(u64::from(*byte))
        });
    }
    let text = std::str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

/// Times may be before 1970: base 256 in two's complement.
fn signed(field: &[u8]) -> Option<i64> {
    if field.first() == Some(&0xff) {
        return Some(field.iter().fold(-1i64, |value, byte| value << 8 | i64::from(*byte)));
    }
    number(field).and_then(|value| i64::try_from(value).ok())
}

/// `LENGTH NAME=VALUE\n`, repeated.
pub(super) fn parse_pax(mut bytes: &[u8]) -> Option<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut records = BTreeMap::new();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|byte| *byte == b' ')?;
        let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
        let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        records.insert(record[..equals].to_vec(), record[equals + 1..].to_vec());
        bytes = &bytes[length..];
    }
    Some(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_may_be_octal_or_binary() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"        "), Some(0));
        assert_eq!(number(&[0x80, 0, 1, 0]), Some(256));
        assert_eq!(number(b"89"), None);
        assert_eq!(signed(&[0xff; 12]), Some(-1));
    }

    #[test]
    fn pax_records_that_lie_about_their_length_are_no_records() {
        assert_eq!(parse_pax(b"9 a=bcde\n").unwrap()[&b"a"[..]], b"bcde");
        for bad in [&b"99 a=b\n"[..], b"0 a=b\n", b"7 a=b\n", b"6 abc\n", b"x a=b\n", b"-1 a=b\n"] {
            assert!(parse_pax(bad).is_none(), "{}", String::from_utf8_lossy(bad));
        }
    }
}
