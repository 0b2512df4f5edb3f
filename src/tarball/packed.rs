//! Archives that are packed: by gzip, xz, zstd or bzip2, which the first bytes tell.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

/// Largest window of a decoder, in bytes.
const LARGEST_WINDOW: u64 = 1 << 30;

/// Undoes a compression, if there is one.
pub fn unpacked(mut input: BufReader<File>) -> io::Result<Box<dyn Read>> {
    let head: Vec<u8> = input.fill_buf()?.iter().copied().take(6).collect();
    Ok(match head.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            let flags = liblzma::stream::CONCATENATED;
            let stream = liblzma::stream::Stream::new_stream_decoder(LARGEST_WINDOW, flags)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(input, stream))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
            decoder.window_log_max(LARGEST_WINDOW.ilog2())?;
            Box::new(decoder)
        }
        [b'B', b'Z', b'h', ..] => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
        _ => Box::new(input),
    })
}
