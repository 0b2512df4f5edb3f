//! The index of a work tree that nobody has looked at yet (gitformat-index(5)): every path with its
//! object, and nothing about its file, so that git looks at each once and finds what it expects.

use std::collections::BTreeMap;

use sha1::{Digest as _, Sha1};

use super::{Mode, ObjectId};
use crate::path::LayerPath;

/// Device, inode, times, owner and size: ten numbers, of which git believes none that is zero.
const UNKNOWN: usize = 24;

pub(super) fn write(paths: &BTreeMap<LayerPath, (Mode, ObjectId)>) -> Vec<u8> {
    let entries: Vec<_> = paths.iter().filter(|(_, (mode, _))| *mode != Mode::Dir).collect();
    let mut index = b"DIRC".to_vec();
    index.extend(2u32.to_be_bytes());
    index.extend(u32::try_from(entries.len()).unwrap_or(u32::MAX).to_be_bytes());
    for (path, (mode, id)) in entries {
        let start = index.len();
        index.extend([0; UNKNOWN]);
        let bits: u32 = match mode {
            Mode::Program => 0o100_755,
            Mode::Link => 0o120_000,
            Mode::Submodule => 0o160_000,
            Mode::File | Mode::Dir => 0o100_644,
        };
        index.extend(bits.to_be_bytes());
        // owner, group and size
        index.extend([0; 12]);
        index.extend(id.as_bytes());
        let name = path.as_bytes();
        index.extend(u16::try_from(name.len()).unwrap_or(0xfff).min(0xfff).to_be_bytes());
        index.extend(name);
        // at least one zero, up to a multiple of eight
        let length = index.len() - start;
        index.extend(std::iter::repeat_n(0, 8 - length % 8));
    }
    let sum = Sha1::digest(&index);
    index.extend(sum.as_slice());
    index
}
