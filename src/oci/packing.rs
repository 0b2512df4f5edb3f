//! How a layer's tar is packed, and reading it while its bytes are counted and hashed.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::digest::{Digest, Hasher};

/// Forms of a layer (OCI image-spec, layer media types).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// The media types of OCI and of Docker's schema 2.
const TYPES: &[(&str, Packing)] = &[
    ("application/vnd.oci.image.layer.v1.tar", Packing::Plain),
    ("application/vnd.oci.image.layer.v1.tar+gzip", Packing::Gzip),
    ("application/vnd.oci.image.layer.v1.tar+zstd", Packing::Zstd),
    ("application/vnd.docker.image.rootfs.diff.tar", Packing::Plain),
    ("application/vnd.docker.image.rootfs.diff.tar.gzip", Packing::Gzip),
    ("application/vnd.docker.image.rootfs.diff.tar.zstd", Packing::Zstd),
];

impl Packing {
    /// OCI's media type.
    pub fn media_type(self) -> &'static str {
        let mut types = TYPES.iter().filter(|(_, packing)| *packing == self);
        types.next().map(|(text, _)| *text).expect("every form has a media type")
    }

    /// Opens a layer for reading its tar.
    pub fn open(self, blob: &Path) -> io::Result<Unpacked> {
        Ok(Unpacked { inner: self.decoder(blob)?, hasher: Hasher::new() })
    }

    /// Likewise, for who hashes it elsewhere.
    pub fn decoder(self, blob: &Path) -> io::Result<Box<dyn Read + Send>> {
        let file = BufReader::with_capacity(256 << 10, File::open(blob)?);
        Ok(match self {
            Packing::Plain => Box::new(file),
            Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
            Packing::Zstd => Box::new(zstd::Decoder::with_buffer(file)?),
        })
    }
}

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.media_type())
    }
}

impl FromStr for Packing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = TYPES.iter().find(|(known, _)| *known == text);
        found.map(|(_, packing)| *packing).ok_or_else(|| format!("`{text}` is no form of a layer"))
    }
}

impl Serialize for Packing {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The tar of a layer; hashed while it is read.
pub struct Unpacked {
    inner: Box<dyn Read + Send>,
    hasher: Hasher,
}

impl Unpacked {
    /// Reads to the end, but no more than `most` bytes, and answers the digest of all that was read
    /// and how many bytes that were.
    pub fn finish(mut self, most: u64) -> io::Result<(Digest, u64)> {
        io::copy(&mut (&mut self).take(most), &mut io::sink())?;
        let len = self.hasher.len();
        Ok((self.hasher.finish(), len))
    }
}

impl Read for Unpacked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_is_read_from_each_form_and_hashed() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("layer");
        let bytes = vec![7; 100_000];
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut gzip, &bytes).unwrap();
        let forms = [
            (Packing::Plain, bytes.clone()),
            (Packing::Gzip, gzip.finish().unwrap()),
            (Packing::Zstd, zstd::encode_all(&bytes[..], 1).unwrap()),
        ];
        for (packing, packed) in forms {
            std::fs::write(&path, packed).unwrap();
            let found = packing.open(&path).unwrap().finish(u64::MAX).unwrap();
            assert_eq!(found, (Digest::of(&bytes), 100_000), "{packing}");
            assert_eq!(packing.to_string().parse(), Ok(packing));
        }
    }
}
