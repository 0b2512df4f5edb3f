//! `Packages` indexes (Debian's repository format): every package of a suite's component.
//!
//! An index is 60 MB of text with 66,000 stanzas, of which a resolution looks at a few hundred: so
//! the text is kept as it is, a package is a handful of offsets into it, and relations are parsed
//! when they are asked for.

use std::io::Read;

use rayon::prelude::*;

use crate::digest::Digest;

/// The fields that are kept, by their place in [`Raw::fields`].
const FIELDS: [&str; 16] = [
    "Package",
    "Version",
    "Architecture",
    "Multi-Arch",
    "Essential",
    "Priority",
    "Depends",
    "Pre-Depends",
    "Recommends",
    "Conflicts",
    "Breaks",
    "Provides",
    "Filename",
    "Size",
    "SHA256",
    "Protected",
];

/// One index, parsed.
#[derive(Debug)]
pub struct Index {
    text: String,
    packages: Vec<Raw>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Raw {
    fields: [(u32, u32); FIELDS.len()],
}

/// A package of an index.
#[derive(Clone, Copy, Debug)]
pub struct Package<'a> {
    text: &'a str,
    raw: &'a Raw,
}

/// An index that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    #[error("the index cannot be decompressed: {0}")]
    Compression(#[from] std::io::Error),
    #[error("the index holds {found} bytes, Release promised {expected}")]
    Size { expected: u64, found: u64 },
    #[error("the index is not UTF-8")]
    Encoding,
    #[error("the index is larger than 4 GiB")]
    TooLarge,
    #[error("a stanza of the index has no `{0}`")]
    Field(&'static str),
}

/// Decompresses an index by the ending of its name; `size` is what Release states of the plain one.
pub fn decompress(name: &str, bytes: &[u8], size: u64) -> Result<Vec<u8>, IndexError> {
    let mut plain = Vec::with_capacity(usize::try_from(size.min(1 << 30)).unwrap_or(0));
    let limit = size.saturating_add(1);
    let read = match name.rsplit('.').next() {
        Some("xz") => {
            liblzma::read::XzDecoder::new_multi_decoder(bytes).take(limit).read_to_end(&mut plain)
        }
        Some("gz") => flate2::read::MultiGzDecoder::new(bytes).take(limit).read_to_end(&mut plain),
        Some("zst") => zstd::stream::read::Decoder::new(bytes)?.take(limit).read_to_end(&mut plain),
        _ => bytes.take(limit).read_to_end(&mut plain),
    };
    read?;
    match plain.len() as u64 {
        found if found == size => Ok(plain),
        found => Err(IndexError::Size { expected: size, found }),
    }
}

impl Index {
    /// Parses a plain index.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, IndexError> {
        let text = String::from_utf8(bytes).map_err(|_| IndexError::Encoding)?;
        if u32::try_from(text.len()).is_err() {
            return Err(IndexError::TooLarge);
        }
        let parsed: Vec<Vec<Raw>> =
            chunks(&text).into_par_iter().map(|(start, chunk)| parse_chunk(start, chunk)).collect();
        let index = Index { packages: parsed.concat(), text };
        for package in index.packages() {
            let digest = Digest::parse_hex(package.field(14)).is_ok() && package.size().is_some();
            for (at, name) in
                [(0, "Package"), (1, "Version"), (2, "Architecture"), (12, "Filename")]
            {
                if package.field(at).is_empty() {
                    return Err(IndexError::Field(name));
                }
            }
            if !digest {
                return Err(IndexError::Field("SHA256"));
            }
        }
        Ok(index)
    }

    pub fn len(&self) -> usize {
        self.packages.len()
    }

    pub fn is_empty(&self) -> bool {
        self.packages.is_empty()
    }

    pub fn packages(&self) -> impl Iterator<Item = Package<'_>> {
        self.packages.iter().map(|raw| Package { text: &self.text, raw })
    }

    pub fn get(&self, at: usize) -> Package<'_> {
        Package { text: &self.text, raw: &self.packages[at] }
    }
}

/// Cuts a text between stanzas into pieces of some megabytes.
fn chunks(text: &str) -> Vec<(usize, &str)> {
    const SIZE: usize = 4 << 20;
    let mut pieces = Vec::new();
    let mut start = 0;
    while start < text.len() {
        let from = (start + SIZE).min(text.len());
        let bytes = &text.as_bytes()[from..];
        let end = bytes
            .windows(2)
            .position(|pair| pair == b"\n\n")
            .map_or(text.len(), |at| from + at + 2);
        pieces.push((start, &text[start..end]));
        start = end;
    }
    pieces
}

fn parse_chunk(start: usize, chunk: &str) -> Vec<Raw> {
    let mut packages = Vec::new();
    let mut raw = Raw::default();
    let mut any = false;
    let mut at = start;
    for line in chunk.split_inclusive('\n') {
        let begin = at;
        at += line.len();
        let line = line.trim_end_matches(['\n', '\r']);
        if line.is_empty() {
            if std::mem::take(&mut any) {
                packages.push(std::mem::take(&mut raw));
            }
            continue;
        }
        any = true;
        if line.starts_with([' ', '\t']) {
            continue;
        }
        let Some(colon) = line.find(':') else { continue };
        if let Some(field) = field_place(&line[..colon]) {
            let value = line[colon + 1..].trim_start();
            let offset = begin + (line.len() - value.len());
            // offsets fit: the whole text is below 4 GiB
            raw.fields[field] = (offset as u32, value.trim_end().len() as u32);
        }
    }
    if any {
        packages.push(raw);
    }
    packages
}

/// Archives write fields in one spelling; the first letter and the length tell almost all apart.
fn field_place(name: &str) -> Option<usize> {
    FIELDS.iter().position(|field| field.len() == name.len() && field.eq_ignore_ascii_case(name))
}

impl<'a> Package<'a> {
    fn field(&self, at: usize) -> &'a str {
        let (offset, len) = self.raw.fields[at];
        &self.text[offset as usize..(offset + len) as usize]
    }

    pub fn name(&self) -> &'a str {
        self.field(0)
    }

    pub fn version(&self) -> &'a str {
        self.field(1)
    }

    pub fn arch(&self) -> &'a str {
        self.field(2)
    }

    pub fn is_essential(&self) -> bool {
        self.field(4) == "yes"
    }

    pub fn priority(&self) -> &'a str {
        self.field(5)
    }

    /// `Pre-Depends`, then `Depends`.
    pub fn depends(&self) -> [&'a str; 2] {
        [self.field(7), self.field(6)]
    }

    pub fn recommends(&self) -> &'a str {
        self.field(8)
    }

    /// `Conflicts` and `Breaks`.
    pub fn conflicts(&self) -> [&'a str; 2] {
        [self.field(9), self.field(10)]
    }

    pub fn provides(&self) -> &'a str {
        self.field(11)
    }

    pub fn filename(&self) -> &'a str {
        self.field(12)
    }

    /// Bytes of the `.deb`.
    pub fn size(&self) -> Option<u64> {
        self.field(13).parse().ok()
    }

    pub fn digest(&self) -> Option<Digest> {
        Digest::parse_hex(self.field(14)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stanzas_are_parsed_whatever_lies_between_them() {
        let hex = "0".repeat(64);
        let stanza = |name: &str| {
            format!(
                "Package: {name}\nVersion: 1:2-3\nArchitecture: all\nDepends: x,\n y\nDescription: d\n Package: no\nFilename: pool/{name}.deb\nSize: 12\nSHA256: {hex}\n"
            )
        };
        let text = format!("{}\n\n\n{}", stanza("a"), stanza("b"));
        let index = Index::parse(text.into_bytes()).unwrap();
        let names: Vec<_> = index.packages().map(|package| package.name()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(index.get(1).version(), "1:2-3");
        assert_eq!(index.get(1).size(), Some(12));
    }

    #[test]
    fn a_stanza_without_its_digest_is_refused() {
        let text = "Package: a\nVersion: 1\nArchitecture: all\nFilename: a.deb\nSize: 1\n";
        assert!(matches!(Index::parse(text.into()), Err(IndexError::Field("SHA256"))));
    }

    #[test]
    fn an_index_is_as_long_as_release_says() {
        let packed = zstd::encode_all(&b"hello"[..], 1).unwrap();
        assert_eq!(decompress("Packages.zst", &packed, 5).unwrap(), b"hello");
        assert!(matches!(
            decompress("Packages.zst", &packed, 4),
            Err(IndexError::Size { expected: 4, found: 5 })
        ));
        assert!(matches!(decompress("Packages", b"hello", 9), Err(IndexError::Size { .. })));
    }
}
