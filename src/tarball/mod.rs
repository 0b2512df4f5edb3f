//! Tar: a strict reader for archives of strangers, and the one canonical writer of layers.
//!
//! The reader knows ustar, GNU long names and pax (POSIX.1-2017, pax interchange format; GNU tar
//! manual, basic tar format), streams, and refuses what nobody has reason to ship: sparse files, bad
//! checksums, archives that end too soon or unpack to more than was allowed. The writer gives every
//! entry exactly one form, so that equal layers are equal bytes.
//!
//! Own code on both sides: a general tar crate reads what is damaged as best it can and leaves the
//! form of headers to whoever calls, the two freedoms that a layer must not have. It stands among the
//! words because the ecosystems below `build` read archives too.

mod member;
mod packed;
mod reader;
mod writer;

pub use member::{Member, MemberKind};
pub use packed::unpacked;
pub use reader::{Limits, Reader, TarError};
pub use writer::Writer;

const BLOCK: usize = 512;

/// Whether bytes begin with a sound header.
pub fn is_header(bytes: &[u8]) -> bool {
    bytes.first_chunk().is_some_and(member::is_intact)
}

/// Sum of a header's bytes with its own checksum field taken as spaces.
fn checksum(header: &[u8; BLOCK]) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().copied().map(u32::from).sum::<u32>();
    sum(&header[..148]) + 8 * u32::from(b' ') + sum(&header[156..])
}

/// Bytes between the end of a body and the next block.
fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}
