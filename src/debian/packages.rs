//! `Packages` indexes (Debian's repository format): every package of a suite's component.
//!
//! An index is 60 MB of text with 66,000 stanzas, of which a resolution looks at a few hundred: so
//! the text is kept as it is, a package is a handful of offsets into it, and relations are parsed
//! when they are asked for. Stanzas are found and checked on all cores.

use std::io::Read;

use rayon::prelude::*;

use super::release::PackagesFile;
use crate::blame::Blame;
use crate::digest::Digest;

/// The fields that are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Field {
    Package,
    Version,
    Architecture,
    MultiArch,
    Essential,
    Important,
    Protected,
    Priority,
    Section,
    InstalledSize,
    PreDepends,
    Depends,
    Conflicts,
    Breaks,
    Recommends,
    Suggests,
    Replaces,
    Enhances,
    Provides,
    Filename,
    Size,
    Sha256,
}

const FIELDS: usize = Field::Sha256 as usize + 1;

impl Field {
    /// Archives write fields in one spelling, but none is promised.
    fn parse(name: &str) -> Option<Self> {
        // the length rules out most of a stanza's fields before anything is compared
        let (spelling, field) = match name.len() {
            4 => ("Size", Field::Size),
            6 if name.as_bytes()[0] | 32 == b'b' => ("Breaks", Field::Breaks),
            6 => ("SHA256", Field::Sha256),
            7 => match name.as_bytes()[0] | 32 {
                b'p' => ("Package", Field::Package),
                b'v' => ("Version", Field::Version),
                b'd' => ("Depends", Field::Depends),
                _ => ("Section", Field::Section),
            },
            8 => match name.as_bytes()[1] | 32 {
                b'r' if name.as_bytes()[2] | 32 == b'o' => ("Provides", Field::Provides),
                b'r' => ("Priority", Field::Priority),
                b'i' => ("Filename", Field::Filename),
                b'u' => ("Suggests", Field::Suggests),
                b'n' => ("Enhances", Field::Enhances),
                _ => ("Replaces", Field::Replaces),
            },
            9 => match name.as_bytes()[0] | 32 {
                b'c' => ("Conflicts", Field::Conflicts),
                b'e' => ("Essential", Field::Essential),
                b'i' => ("Important", Field::Important),
                _ => ("Protected", Field::Protected),
            },
            10 => ("Multi-Arch", Field::MultiArch),
            11 => ("Pre-Depends", Field::PreDepends),
            12 => ("Architecture", Field::Architecture),
            14 => ("Installed-Size", Field::InstalledSize),
            _ => ("Recommends", Field::Recommends),
        };
        if name.eq_ignore_ascii_case(spelling) {
            return Some(field);
        }
        name.eq_ignore_ascii_case("Recommends").then_some(Field::Recommends)
    }
}

/// One index, parsed.
#[derive(Debug)]
pub struct Index {
    text: String,
    packages: Vec<Raw>,
}

/// Offset and length of every field.
#[derive(Clone, Copy, Debug, Default)]
struct Raw {
    fields: [(u32, u32); FIELDS],
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
    #[error("the index has the digest {found}, Release promised {expected}")]
    Digest { expected: Digest, found: Digest },
    #[error("the index cannot be decompressed: {0}")]
    Compression(#[from] std::io::Error),
    #[error("the index holds {found} bytes, Release promised {expected}")]
    Size { expected: u64, found: u64 },
    #[error("the index is not UTF-8")]
    Encoding,
    #[error("the index is larger than 4 GiB")]
    TooLarge,
    #[error("the stanza of `{package}` in the index has no valid `{field}`")]
    Field { package: String, field: &'static str },
}

impl IndexError {
    pub fn blame(&self) -> Blame {
        Blame::World
    }
}

/// Largest index that is unpacked where Release does not say how large it is.
const LARGEST: u64 = 1 << 30;

/// Unpacks an index by the ending of its name, into no more bytes than it may have, and checks what
/// Release says of it.
fn unpack(file: &PackagesFile<'_>, bytes: &[u8]) -> Result<Vec<u8>, IndexError> {
    let limit = file.plain.map_or(LARGEST, |(size, _)| size);
    let mut plain = Vec::with_capacity(usize::try_from(limit.min(1 << 28)).unwrap_or(0));
    let reader: Box<dyn Read + '_> = match file.path.rsplit('.').next() {
        Some("xz") => Box::new(liblzma::read::XzDecoder::new_multi_decoder(bytes)),
        Some("gz") => Box::new(flate2::read::MultiGzDecoder::new(bytes)),
        Some("zst") => Box::new(zstd::stream::read::Decoder::new(bytes)?),
        _ => Box::new(bytes),
    };
    reader.take(limit.saturating_add(1)).read_to_end(&mut plain)?;
    let found = plain.len() as u64;
    match file.plain {
        Some((expected, _)) if found != expected => Err(IndexError::Size { expected, found }),
        None if found > limit => Err(IndexError::Size { expected: limit, found }),
        Some((_, expected)) => match Digest::of(&plain) {
            found if found == expected => Ok(plain),
            found => Err(IndexError::Digest { expected, found }),
        },
        None => Ok(plain),
    }
}

impl Index {
    /// Reads an index as it was downloaded, checked against what Release says of it.
    pub fn read(file: &PackagesFile<'_>, bytes: &[u8]) -> Result<Self, IndexError> {
        let found = Digest::of(bytes);
        if found != file.digest {
            return Err(IndexError::Digest { expected: file.digest, found });
        }
        Self::parse(unpack(file, bytes)?)
    }

    /// Parses a plain index.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, IndexError> {
        let text = String::from_utf8(bytes).map_err(|_| IndexError::Encoding)?;
        if u32::try_from(text.len()).is_err() {
            return Err(IndexError::TooLarge);
        }
        let parsed: Result<Vec<Vec<Raw>>, IndexError> = chunks(&text)
            .into_par_iter()
            .map(|(start, chunk)| {
                let packages = parse_chunk(start, chunk);
                packages.iter().try_for_each(|raw| Package { text: &text, raw }.check())?;
                Ok(packages)
            })
            .collect();
        let packages = parsed?.concat();
        Ok(Index { text, packages })
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
    const SIZE: usize = 2 << 20;
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
    let mut last = None;
    let mut at = start;
    for line in chunk.split_inclusive('\n') {
        let begin = at;
        at += line.len();
        match line.as_bytes()[0] {
            b'\n' | b'\r' if line.trim_ascii_end().is_empty() => {
                last = None;
                if std::mem::take(&mut any) {
                    packages.push(std::mem::take(&mut raw));
                }
                continue;
            }
            b' ' | b'\t' => {
                // offsets fit: the whole text is below 4 GiB
                if let Some(field) = last {
                    let (offset, length): &mut (u32, u32) = &mut raw.fields[field as usize];
                    *length = (begin + line.trim_ascii_end().len()) as u32 - *offset;
                }
                continue;
            }
            _ => any = true,
        }
        let Some(colon) = line.bytes().position(|c| c == b':') else { continue };
        last = Field::parse(&line[..colon]);
        if let Some(field) = last {
            let value = line[colon + 1..].trim_ascii_start();
            let offset = begin + (line.len() - value.len());
            raw.fields[field as usize] = (offset as u32, value.trim_ascii_end().len() as u32);
        }
    }
    if any {
        packages.push(raw);
    }
    packages
}

/// Debian Policy 5.6.1, and whatever else can stand in a file name: third parties write `_` and
/// capitals.
fn is_name(name: &str) -> bool {
    name.bytes().next().is_some_and(|c| c.is_ascii_alphanumeric())
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"+-._".contains(&c))
}

impl<'a> Package<'a> {
    fn field(&self, field: Field) -> &'a str {
        let (offset, length) = self.raw.fields[field as usize];
        &self.text[offset as usize..offset as usize + length as usize]
    }

    fn check(&self) -> Result<(), IndexError> {
        let missing = [
            ("Package", !is_name(self.name())),
            ("Version", self.version().is_empty()),
            ("Architecture", self.arch().is_empty()),
            ("Filename", self.filename().is_empty()),
            ("Size", self.size().is_none()),
            ("SHA256", self.digest().is_none()),
        ];
        match missing.into_iter().find(|(_, missing)| *missing) {
            Some((field, _)) => Err(IndexError::Field { package: self.name().to_owned(), field }),
            None => Ok(()),
        }
    }

    pub fn name(&self) -> &'a str {
        self.field(Field::Package)
    }

    pub fn version(&self) -> &'a str {
        self.field(Field::Version)
    }

    pub fn arch(&self) -> &'a str {
        self.field(Field::Architecture)
    }

    /// `same`, `foreign`, `allowed` or nothing.
    pub fn multi_arch(&self) -> &'a str {
        self.field(Field::MultiArch)
    }

    pub fn is_essential(&self) -> bool {
        self.field(Field::Essential) == "yes"
    }

    /// `Protected`, and its older name `Important`.
    pub fn is_protected(&self) -> bool {
        self.field(Field::Protected) == "yes" || self.field(Field::Important) == "yes"
    }

    pub fn priority(&self) -> &'a str {
        self.field(Field::Priority)
    }

    pub fn section(&self) -> &'a str {
        self.field(Field::Section)
    }

    /// In KiB, as the package's maker estimates it.
    pub fn installed_size(&self) -> Option<u64> {
        self.field(Field::InstalledSize).parse().ok()
    }

    pub fn pre_depends(&self) -> &'a str {
        self.field(Field::PreDepends)
    }

    pub fn depends(&self) -> &'a str {
        self.field(Field::Depends)
    }

    pub fn recommends(&self) -> &'a str {
        self.field(Field::Recommends)
    }

    pub fn suggests(&self) -> &'a str {
        self.field(Field::Suggests)
    }

    pub fn conflicts(&self) -> &'a str {
        self.field(Field::Conflicts)
    }

    pub fn breaks(&self) -> &'a str {
        self.field(Field::Breaks)
    }

    pub fn replaces(&self) -> &'a str {
        self.field(Field::Replaces)
    }

    pub fn enhances(&self) -> &'a str {
        self.field(Field::Enhances)
    }

    pub fn provides(&self) -> &'a str {
        self.field(Field::Provides)
    }

    /// Path of the `.deb` below the archive's root.
    pub fn filename(&self) -> &'a str {
        self.field(Field::Filename)
    }

    /// Bytes of the `.deb`; every package of an [`Index`] has them.
    pub fn size(&self) -> Option<u64> {
        self.field(Field::Size).parse().ok()
    }

    /// Digest of the `.deb`; every package of an [`Index`] has one.
    pub fn digest(&self) -> Option<Digest> {
        Digest::parse_hex(self.field(Field::Sha256)).ok()
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
                "Package: {name}\nVersion: 1:2-3\nArchitecture: all\nDepends: x,\n y\n\
                 Description: d\n Package: no\nFilename: pool/{name}.deb\nSize: 12\nSHA256: {hex}\n"
            )
        };
        let text = format!("{}\n\n\n{}", stanza("a"), stanza("b"));
        let index = Index::parse(text.into_bytes()).unwrap();
        let names: Vec<_> = index.packages().map(|package| package.name()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(index.get(1).version(), "1:2-3");
        assert_eq!(index.get(1).depends(), "x,\n y");
        assert_eq!(index.get(1).size(), Some(12));
    }

    #[test]
    fn every_field_is_found_by_its_name() {
        let names = "Package Version Architecture Multi-Arch Essential Important Protected \
                     Priority Section Installed-Size Pre-Depends Depends Conflicts Breaks \
                     Recommends Suggests Replaces Enhances Provides Filename Size SHA256";
        for (at, name) in names.split_whitespace().enumerate() {
            assert_eq!(Field::parse(name).map(|field| field as usize), Some(at), "{name}");
            assert_eq!(Field::parse(&name.to_lowercase()).map(|field| field as usize), Some(at));
        }
        for name in ["", "MD5sum", "Maintainer", "Source", "Homepage", "Tag", "Description-md5"] {
            assert_eq!(Field::parse(name), None, "{name}");
        }
    }

    #[test]
    fn a_stanza_that_cannot_be_used_is_refused() {
        let hex = "0".repeat(64);
        let refuse = |text: &str| Index::parse(text.into()).unwrap_err().to_string();
        let head = "Package: a\nVersion: 1\nArchitecture: all\nFilename: a.deb\nSize: 1\n";
        insta::assert_snapshot!(refuse(head), @"the stanza of `a` in the index has no valid `SHA256`");
        let escape = format!("Package: ../a\nVersion: 1\nSHA256: {hex}\n");
        insta::assert_snapshot!(refuse(&escape), @"the stanza of `../a` in the index has no valid `Package`");
    }

    fn file<'a>(path: &'a str, packed: &[u8], plain: Option<(u64, Digest)>) -> PackagesFile<'a> {
        PackagesFile { path, size: packed.len() as u64, digest: Digest::of(packed), plain }
    }

    #[test]
    fn an_index_is_as_long_as_release_says() {
        let packed = zstd::encode_all(&b"hello"[..], 1).unwrap();
        let unpack = |size, digest| {
            unpack(&file("Packages.zst", &packed, Some((size, Digest::of(digest)))), &packed)
        };
        assert_eq!(unpack(5, b"hello").unwrap(), b"hello");
        assert!(matches!(unpack(4, b"hello"), Err(IndexError::Size { expected: 4, found: 5 })));
        assert!(matches!(unpack(9, b"hello"), Err(IndexError::Size { .. })));
        assert!(matches!(unpack(5, b"other"), Err(IndexError::Digest { .. })));
        let unlisted = file("Packages.zst", &packed, None);
        assert_eq!(super::unpack(&unlisted, &packed).unwrap(), b"hello");
    }

    #[test]
    fn an_index_is_the_one_that_release_lists() {
        let file = file("Packages", b"\n", Some((1, Digest::of(b"\n"))));
        assert!(Index::read(&file, b"\n").unwrap().is_empty());
        assert!(matches!(Index::read(&file, b" "), Err(IndexError::Digest { .. })));
    }
}
