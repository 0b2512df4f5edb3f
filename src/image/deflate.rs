//! The compressed twin of a layer, for registries.
//!
//! gzip (RFC 1952) in members of one mebibyte of input each, by libdeflate: members are compressed on
//! all cores and written in their order, so the bytes depend on input and level alone. No name, no
//! time, operating system 255. Every reader must accept several members, and those of registries and
//! engines do. A member costs 18 bytes and a fresh window, together less than half a percent.
//!
//! One stream with a shared window (pigz) compresses no better in the same time; one libdeflate
//! member per layer would need the whole layer in memory.

use std::io::{self, Read, Write};

use libdeflater::{CompressionLvl, Compressor};
use rayon::prelude::*;

use crate::blame::Blame;

/// Bytes of input in each member. Part of the format: another number gives other digests.
const MEMBER: usize = 1 << 20;

/// Members that each thread gets at a time.
const MEMBERS_PER_THREAD: usize = 2;

/// Why a twin was not made.
#[derive(Debug, thiserror::Error)]
pub enum DeflateError {
    #[error("the layer cannot be read: {0}")]
    Read(io::Error),
    #[error("the compressed layer cannot be written: {0}")]
    Write(io::Error),
    #[error("a member of {0} bytes does not fit the bound that was computed for it")]
    Bound(usize),
}

impl DeflateError {
    pub fn blame(&self) -> Blame {
        match self {
            DeflateError::Read(_) | DeflateError::Write(_) => Blame::World,
            DeflateError::Bound(_) => Blame::Bug,
        }
    }
}

/// How hard to try, 1 to 12 of libdeflate's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Level(u8);

impl Default for Level {
    /// 6: what the others' default is, so that sizes compare.
    fn default() -> Self {
        Level(6)
    }
}

impl Level {
    fn compressor(self) -> Compressor {
        let level = CompressionLvl::new(i32::from(self.0));
        Compressor::new(level.expect("libdeflate has this level"))
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Some members' input and output.
struct Batch {
    input: Vec<u8>,
    output: Vec<Vec<u8>>,
}

impl Batch {
    fn new(members: usize) -> Self {
        Batch { input: Vec::with_capacity(members * MEMBER), output: Vec::new() }
    }

    /// Reads until the batch is full or the input ends.
    fn fill(&mut self, members: usize, input: &mut dyn Read) -> Result<(), DeflateError> {
        self.input.clear();
        let most = (members * MEMBER) as u64;
        input.take(most).read_to_end(&mut self.input).map(drop).map_err(DeflateError::Read)
    }

    fn compress(&mut self, level: Level) -> Result<(), DeflateError> {
        let members = self.input.len().div_ceil(MEMBER);
        self.output.resize_with(members, Vec::new);
        self.output.par_iter_mut().zip(self.input.par_chunks(MEMBER)).try_for_each_init(
            || level.compressor(),
            |compressor, (output, input)| compress_member(compressor, input, output),
        )
    }

    fn write(&self, output: &mut dyn Write) -> Result<u64, DeflateError> {
        let mut written = 0;
        for member in &self.output {
            output.write_all(member).map_err(DeflateError::Write)?;
            written += member.len() as u64;
        }
        Ok(written)
    }
}

/// Compresses all of `input` in the current rayon pool and answers the number of bytes written.
/// Holds two batches in memory, of a few members for each thread.
pub fn deflate(
    input: &mut (dyn Read + Send),
    output: &mut (dyn Write + Send),
    level: Level,
) -> Result<u64, DeflateError> {
    let members = rayon::current_num_threads() * MEMBERS_PER_THREAD;
    let (mut current, mut next) = (Batch::new(members), Batch::new(members));
    current.fill(members, input)?;
    if current.input.is_empty() {
        return write_empty(output, level);
    }
    let mut total = 0;
    while !current.input.is_empty() {
        // the last batch is written and the next one read while this one is compressed
        let (compressed, moved) = rayon::join(
            || current.compress(level),
            || {
                let written = next.write(output)?;
                next.output.clear();
                next.fill(members, input)?;
                Ok(written)
            },
        );
        compressed?;
        total += moved?;
        std::mem::swap(&mut current, &mut next);
    }
    Ok(total + next.write(output)?)
}

/// Nothing is one member too: an empty file is no gzip.
fn write_empty(output: &mut dyn Write, level: Level) -> Result<u64, DeflateError> {
    let mut member = Vec::new();
    compress_member(&mut level.compressor(), b"", &mut member)?;
    output.write_all(&member).map_err(DeflateError::Write)?;
    Ok(member.len() as u64)
}

fn compress_member(
    compressor: &mut Compressor,
    input: &[u8],
    output: &mut Vec<u8>,
) -> Result<(), DeflateError> {
    output.resize(compressor.gzip_compress_bound(input.len()), 0);
    let written =
        compressor.gzip_compress(input, output).map_err(|_| DeflateError::Bound(input.len()))?;
    output.truncate(written);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    /// Some text, some noise, the same on every machine.
    fn sample(len: usize) -> Vec<u8> {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let byte = (state >> 24) as u8;
            if byte < 128 { b"the same words again "[usize::from(byte) % 21] } else { byte & 0x1f }
        };
        (0..len).map(|_| next()).collect()
    }

    fn compress(bytes: &[u8], threads: usize) -> Vec<u8> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut output = Vec::new();
        let written = pool.install(|| deflate(&mut &bytes[..], &mut output, Level::default()));
        assert_eq!(written.unwrap(), output.len() as u64);
        output
    }

    fn expand(bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
        plain
    }

    #[test]
    fn what_is_compressed_comes_back_whatever_its_length() {
        for len in [0, 1, MEMBER - 1, MEMBER, MEMBER + 1, 9 * MEMBER + 5] {
            let bytes = sample(len);
            assert_eq!(expand(&compress(&bytes, 2)), bytes, "{len}");
        }
    }

    #[test]
    fn the_number_of_threads_does_not_show() {
        let bytes = sample(11 * MEMBER + 7);
        let one = compress(&bytes, 1);
        assert!([2, 3, 8].iter().all(|threads| compress(&bytes, *threads) == one));
    }

    #[test]
    fn members_say_nothing_of_when_and_where() {
        let bytes = compress(&sample(MEMBER + 1), 2);
        assert_eq!(bytes[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
    }

    #[test]
    fn the_bytes_are_part_of_the_format() {
        let digest = Digest::of(&compress(&sample(3 * MEMBER), 2)).to_string();
        insta::assert_snapshot!(digest, @"sha256:5e30266a2345743851736701bec672299040c6a5e956b503571eec6d725966cb");
    }

    #[test]
    fn a_full_disk_is_an_error() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let result = deflate(&mut &sample(MEMBER)[..], &mut Full, Level::default());
        assert!(matches!(result, Err(DeflateError::Write(_))));
    }
}
