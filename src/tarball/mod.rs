//! Tar: a strict reader for archives of strangers, and the one canonical writer of layers.
//!
//! The reader knows ustar, GNU long names and pax (POSIX.1-2017, pax interchange format; GNU tar
//! manual, basic tar format), streams, and refuses what nobody has reason to ship: sparse files, bad
//! checksums, archives that end too soon or unpack to more than was allowed. The writer gives every
//! entry exactly one form, so that equal layers are equal bytes.

mod reader;
mod writer;

pub use reader::{Member, MemberKind, Reader, TarError};
pub use writer::Writer;

const BLOCK: usize = 512;

/// Sum of a header's bytes with its own checksum field taken as spaces.
fn checksum(header: &[u8; BLOCK]) -> u32 {
    let field = 148..156;
    header
        .iter()
        .enumerate()
        .map(|(at, byte)| if field.contains(&at) { 32 } else { u32::from(*byte) })
        .sum()
}
