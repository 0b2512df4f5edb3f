//! The compressed twin of a layer, for registries.
//!
//! gzip (RFC 1952) in members of one mebibyte of input each, by libdeflate: members are compressed on
//! all cores and written in their order, so the bytes depend on input and level alone. No name, no
//! time, operating system 255. Every reader must accept several members, and those of registries and
//! engines do. A member costs 18 bytes and a fresh window, together less than half a percent.
//!
//! zstd (RFC 8878) likewise, in frames of four mebibytes, with the window that its level has for such a
//! frame.
//!
//! One stream with a shared window (pigz) compresses no better in the same time; one libdeflate
//! member per layer would need the whole layer in memory.

use std::fmt;
use std::io::{self, Read, Write};
use std::ops::RangeInclusive;

use libdeflater::{CompressionLvl, Compressor};
use rayon::prelude::*;

use crate::blame::Blame;
use crate::oci::Packing;

/// Bytes of input in each member, and in each frame of zstd. Part of the format: other numbers give other
/// digests.
const MEMBER: usize = 1 << 20;
const FRAME: usize = 4 << 20;

/// Members that each thread gets at a time.
const MEMBERS_PER_THREAD: usize = 2;
/// Bytes of input that are held at a time: half of what there is in memory.
const MOST: usize = 32 << 20;

/// Why a twin was not made.
#[derive(Debug, thiserror::Error)]
pub enum DeflateError {
    #[error("the layer cannot be read: {0}")]
    Read(io::Error),
    #[error("the compressed layer cannot be written: {0}")]
    Write(io::Error),
    #[error("zstd refuses: {0}")]
    Zstd(io::Error),
    #[error("a member of {0} bytes does not fit the bound that was computed for it")]
    Bound(usize),
}

impl DeflateError {
    pub fn blame(&self) -> Blame {
        match self {
            DeflateError::Read(_) | DeflateError::Write(_) => Blame::World,
            DeflateError::Bound(_) | DeflateError::Zstd(_) => Blame::Bug,
        }
    }
}

/// How layers are compressed for registries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Compression {
    /// What every registry and engine takes.
    Gzip,
    /// Smaller and faster; docker before 23 refuses it.
    Zstd,
}

impl Compression {
    /// Levels that there are: libdeflate's, zstd's.
    fn levels(self) -> RangeInclusive<u8> {
        match self {
            Compression::Gzip => 1..=12,
            Compression::Zstd => 1..=19,
        }
    }

    pub fn media_type(self) -> &'static str {
        match self {
            Compression::Gzip => Packing::Gzip.media_type(),
            Compression::Zstd => Packing::Zstd.media_type(),
        }
    }
}

/// A compression and how hard to try. The digest of a twin depends on both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Form {
    compression: Compression,
    level: u8,
}

/// A level that a compression does not have.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("level {level} is none of {compression}, which has {} to {}", levels.start(), levels.end())]
pub struct LevelError {
    level: u8,
    compression: Compression,
    levels: RangeInclusive<u8>,
}

impl Default for Form {
    fn default() -> Self {
        Form::usual(Compression::Gzip)
    }
}

impl Form {
    /// What measured best where compressing and sending share a machine: gzip's level 3 takes a third
    /// longer for a twentieth less.
    fn usual(compression: Compression) -> Self {
        let level = match compression {
            Compression::Gzip => 1,
            Compression::Zstd => 3,
        };
        Form { compression, level }
    }

    pub fn new(compression: Compression, level: Option<u8>) -> Result<Self, LevelError> {
        let level = level.unwrap_or(Form::usual(compression).level);
        let levels = compression.levels();
        match levels.contains(&level) {
            true => Ok(Form { compression, level }),
            false => Err(LevelError { level, compression, levels }),
        }
    }

    pub fn media_type(self) -> &'static str {
        self.compression.media_type()
    }

    /// Bytes of input that are compressed by themselves.
    fn member(self) -> usize {
        match self.compression {
            Compression::Gzip => MEMBER,
            Compression::Zstd => FRAME,
        }
    }

    fn compressor(self) -> Result<Press, DeflateError> {
        match self.compression {
            Compression::Gzip => {
                let level = CompressionLvl::new(i32::from(self.level));
                Ok(Press::Gzip(Compressor::new(level.expect("a form has a level that there is"))))
            }
            Compression::Zstd => zstd::bulk::Compressor::new(i32::from(self.level))
                .map(Press::Zstd)
                .map_err(DeflateError::Zstd),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        })
    }
}

/// `gzip-3`.
impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.compression, self.level)
    }
}

/// What compresses, one a thread.
enum Press {
    Gzip(Compressor),
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Press {
    fn member(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<(), DeflateError> {
        match self {
            Press::Gzip(compressor) => {
                output.resize(compressor.gzip_compress_bound(input.len()), 0);
                let written = compressor.gzip_compress(input, output);
                output.truncate(written.map_err(|_| DeflateError::Bound(input.len()))?);
            }
            Press::Zstd(compressor) => {
                *output = compressor.compress(input).map_err(DeflateError::Zstd)?;
            }
        }
        Ok(())
    }
}

/// Some members' input and output.
struct Batch {
    input: Vec<u8>,
    output: Vec<Vec<u8>>,
}

impl Batch {
    fn new(size: usize) -> Self {
        Batch { input: Vec::with_capacity(size), output: Vec::new() }
    }

    /// Reads until the batch is full or the input ends.
    fn fill(&mut self, size: usize, input: &mut dyn Read) -> Result<(), DeflateError> {
        self.input.clear();
        input.take(size as u64).read_to_end(&mut self.input).map(drop).map_err(DeflateError::Read)
    }

    fn compress(&mut self, form: Form) -> Result<(), DeflateError> {
        let members = self.input.len().div_ceil(form.member());
        self.output.resize_with(members, Vec::new);
        let parts = self.output.par_iter_mut().zip(self.input.par_chunks(form.member()));
        parts.try_for_each_init(
            || form.compressor(),
            |press, (output, input)| match press {
                Ok(press) => press.member(input, output),
                // why there is none, the next one says as well
                Err(_) => form.compressor().and_then(|mut press| press.member(input, output)),
            },
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
    form: Form,
) -> Result<u64, DeflateError> {
    let members = (rayon::current_num_threads() * MEMBERS_PER_THREAD).min(MOST / form.member());
    let size = members * form.member();
    let (mut current, mut next) = (Batch::new(size), Batch::new(size));
    current.fill(size, input)?;
    if current.input.is_empty() {
        return write_empty(output, form);
    }
    let mut total = 0;
    while !current.input.is_empty() {
        // the last batch is written and the next one read while this one is compressed
        let (compressed, moved) = rayon::join(
            || current.compress(form),
            || {
                let written = next.write(output)?;
                next.output.clear();
                next.fill(size, input)?;
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
fn write_empty(output: &mut dyn Write, form: Form) -> Result<u64, DeflateError> {
    let mut member = Vec::new();
    form.compressor()?.member(b"", &mut member)?;
    output.write_all(&member).map_err(DeflateError::Write)?;
    Ok(member.len() as u64)
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
        compress_as(bytes, threads, Form::new(Compression::Gzip, Some(6)).unwrap())
    }

    fn compress_as(bytes: &[u8], threads: usize, form: Form) -> Vec<u8> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut output = Vec::new();
        let written = pool.install(|| deflate(&mut &bytes[..], &mut output, form));
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
    fn zstd_is_as_sure() {
        let form = Form::new(Compression::Zstd, None).unwrap();
        let bytes = sample(2 * FRAME + 7);
        let one = compress_as(&bytes, 1, form);
        assert_eq!(zstd::decode_all(&one[..]).unwrap(), bytes);
        assert_eq!(compress_as(&bytes, 5, form), one);
        let refused = Form::new(Compression::Gzip, Some(13)).unwrap_err().to_string();
        assert_eq!(refused, "level 13 is none of gzip, which has 1 to 12");
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
        let result = deflate(&mut &sample(MEMBER)[..], &mut Full, Form::default());
        assert!(matches!(result, Err(DeflateError::Write(_))));
    }
}
