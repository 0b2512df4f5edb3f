//! The pack of a history and the index that finds its objects (gitformat-pack(5)).

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use libdeflater::{CompressionLvl, Compressor, crc32};
use sha1::{Digest as _, Sha1};

use super::delta::delta;
use super::walk::Found;
use super::{GitError, ObjectId, Objects};
use crate::fsx::{IoAt, PathIo};
use crate::git::objects::ObjectKind;

/// How hard objects are compressed. The bytes are what a lock has the digest of: a change of this, or
/// of the compressor's output, is a change of the form that `decl` counts.
const LEVEL: i32 = 6;
/// Most deltas on top of one another, as git has it.
const CHAIN: u32 = 50;
/// Largest object that deltas are made of.
const LARGEST: usize = 32 << 20;
/// Offsets from here on take eight bytes.
const FAR: u64 = 1 << 31;

/// A written pack.
pub(super) struct Pack {
    /// The sum at its end, in hex: what its files are called by.
    pub name: ObjectId,
    pub path: PathBuf,
    /// The bytes of its index.
    pub index: Vec<u8>,
}

/// Where an object stands.
struct Placed {
    id: ObjectId,
    offset: u64,
    crc: u32,
}

/// The object written last: what the next one may be told by.
struct Base {
    kind: ObjectKind,
    group: u32,
    bytes: Vec<u8>,
    offset: u64,
    chain: u32,
}

struct Writing {
    file: BufWriter<File>,
    path: PathBuf,
    sum: Sha1,
    offset: u64,
    compressor: Compressor,
}

impl Pack {
    /// Writes objects in their order.
    pub fn write(objects: &mut Objects, found: &[Found], path: &Path) -> Result<Pack, GitError> {
        let mut writing = Writing::create(path)?;
        let count = u32::try_from(found.len()).unwrap_or(u32::MAX);
        writing.push(&[b"PACK", &2u32.to_be_bytes()[..], &count.to_be_bytes()].concat())?;
        let mut placed = Vec::with_capacity(found.len());
        let mut last = None::<Base>;
        for one in found {
            let bytes = objects.read(&one.id, one.kind)?;
            let base = last.take().filter(|base| (base.kind, base.group) == (one.kind, one.group));
            let base = base.filter(|base| base.chain < CHAIN && bytes.len() <= LARGEST);
            let short = base
                .as_ref()
                .filter(|base| base.bytes.len() <= LARGEST)
                .and_then(|base| delta(&base.bytes, &bytes, bytes.len() / 2));
            let offset = writing.offset;
            let (crc, chain) = match (&base, short) {
                (Some(base), Some(short)) => {
                    let back = distance(offset - base.offset);
                    (writing.object(6, &back, &short)?, base.chain + 1)
                }
                _ => (writing.object(code(one.kind), &[], &bytes)?, 0),
            };
            placed.push(Placed { id: one.id, offset, crc });
            last = Some(Base { kind: one.kind, group: one.group, bytes, offset, chain });
        }
        let name = writing.finish()?;
        Ok(Pack { name, path: path.to_owned(), index: index(placed, &name) })
    }
}

const fn code(kind: ObjectKind) -> u8 {
    match kind {
        ObjectKind::Commit => 1,
        ObjectKind::Tree => 2,
        ObjectKind::Blob => 3,
    }
}

impl Writing {
    fn create(path: &Path) -> Result<Self, GitError> {
        let level = CompressionLvl::new(LEVEL).expect("the level is one of twelve");
        Ok(Writing {
            file: BufWriter::with_capacity(1 << 18, File::create(path).at("create", path)?),
            path: path.to_owned(),
            sum: Sha1::new(),
            offset: 0,
            compressor: Compressor::new(level),
        })
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), PathIo> {
        self.sum.update(bytes);
        self.offset += bytes.len() as u64;
        self.file.write_all(bytes).at("write", &self.path)
    }

    /// Writes an object of a kind, and answers the sum of its bytes in the pack. `base` says where a
    /// delta's base is.
    fn object(&mut self, code: u8, base: &[u8], bytes: &[u8]) -> Result<u32, GitError> {
        let mut size = bytes.len();
        let mut head = vec![code << 4 | (size & 0xf) as u8];
        size >>= 4;
        while size > 0 {
            *head.last_mut().expect("it has its first byte") |= 0x80;
            head.push((size & 0x7f) as u8);
            size >>= 7;
        }
        head.extend_from_slice(base);
        let start = head.len();
        head.resize(start + self.compressor.zlib_compress_bound(bytes.len()), 0);
        let written = self.compressor.zlib_compress(bytes, &mut head[start..]);
        let written = written.expect("the bound is enough for any bytes");
        head.truncate(start + written);
        self.push(&head)?;
        Ok(crc32(&head))
    }

    /// Ends the pack with the sum of what is before.
    fn finish(mut self) -> Result<ObjectId, GitError> {
        let sum: [u8; 20] = std::mem::replace(&mut self.sum, Sha1::new()).finalize().into();
        self.file.write_all(&sum).and_then(|()| self.file.flush()).at("write", &self.path)?;
        Ok(ObjectId::from_bytes(sum))
    }
}

/// How far back a base is.
fn distance(mut back: u64) -> Vec<u8> {
    let mut bytes = vec![(back & 0x7f) as u8];
    back >>= 7;
    while back > 0 {
        back -= 1;
        bytes.push((back & 0x7f) as u8 | 0x80);
        back >>= 7;
    }
    bytes.reverse();
    bytes
}

/// A pack's index, of version 2.
fn index(mut placed: Vec<Placed>, name: &ObjectId) -> Vec<u8> {
    placed.sort_by_key(|one| one.id);
    let mut index = b"\xfftOc".to_vec();
    index.extend(2u32.to_be_bytes());
    for first in 0..=u8::MAX {
        let upto = placed.partition_point(|one| one.id.as_bytes()[0] <= first);
        index.extend(u32::try_from(upto).unwrap_or(u32::MAX).to_be_bytes());
    }
    placed.iter().for_each(|one| index.extend(one.id.as_bytes()));
    placed.iter().for_each(|one| index.extend(one.crc.to_be_bytes()));
    let mut far = Vec::new();
    for one in &placed {
        let word = match u32::try_from(one.offset).ok().filter(|_| one.offset < FAR) {
            Some(near) => near,
            None => {
                far.push(one.offset);
                0x8000_0000 | u32::try_from(far.len() - 1).unwrap_or_default()
            }
        };
        index.extend(word.to_be_bytes());
    }
    far.iter().for_each(|offset| index.extend(offset.to_be_bytes()));
    index.extend(name.as_bytes());
    let sum = Sha1::digest(&index);
    index.extend(sum.as_slice());
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_written_as_git_reads_them() {
        for back in [1u64, 127, 128, 16_511, 16_512, 1 << 40] {
            let bytes = distance(back);
            let mut read = u64::from(bytes[0] & 0x7f);
            for byte in &bytes[1..] {
                read = (read + 1) << 7 | u64::from(byte & 0x7f);
            }
            assert_eq!(read, back);
            assert!(bytes[..bytes.len() - 1].iter().all(|byte| byte & 0x80 != 0));
        }
    }
}
