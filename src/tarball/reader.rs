//! Reading archives that somebody else wrote.

use std::io::{self, Read};

use super::member::{
    Extensions, Member, MemberKind, decode, is_intact, number, parse_pax, until_nul,
};
use super::{BLOCK, padding};
use crate::blame::Blame;

/// Longest extension header (pax, GNU long name) that is read.
const LONGEST_EXTENSION: u64 = 1 << 20;

/// Most bytes after an archive's end: whole records of the largest blocking factor in use.
const LONGEST_TRAILER: u64 = 1 << 20;

/// An archive that is refused.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    #[error("the archive cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("the archive ends in the middle of `{0}`")]
    Truncated(String),
    #[error("the header after `{0}` is damaged")]
    Header(String),
    #[error("`{0}` is a sparse file")]
    Sparse(String),
    #[error("`{path}` is of the unknown type `{kind}`")]
    Kind { path: String, kind: String },
    #[error("`{path}` {reason}")]
    Path { path: String, reason: &'static str },
    #[error("`{path}` is a hard link to `{target}`, which {reason}")]
    Link { path: String, target: String, reason: &'static str },
    #[error("the archive unpacks to more than {0} bytes")]
    TooLarge(u64),
    #[error("the archive holds more than {0} members")]
    TooMany(u64),
}

impl TarError {
    pub fn blame(&self) -> Blame {
        Blame::World
    }
}

/// What an archive may cost at most, whatever its headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all bodies and extension headers together.
    pub bytes: u64,
    /// Members, directories included.
    pub members: u64,
}

impl Limits {
    /// At most so many bytes, and as many members as the largest package has several times over.
    pub fn bytes(bytes: u64) -> Self {
        Limits { bytes, members: 1_000_000 }
    }
}

/// Streams an archive: [`next_member`](Reader::next_member) gives a member, the reader itself then
/// reads as the member's body.
pub struct Reader<R> {
    inner: R,
    /// Bytes of the current body that have not been read, and the padding after it.
    left: u64,
    padding: u64,
    /// What may still come.
    allowance: Limits,
    limits: Limits,
    last: String,
}

impl From<u64> for Limits {
    fn from(bytes: u64) -> Self {
        Limits::bytes(bytes)
    }
}

impl<R: Read> Reader<R> {
    /// Reads an archive within limits; a number alone bounds the bytes.
    pub fn new(inner: R, limits: impl Into<Limits>) -> Self {
        let limits = limits.into();
        let last = "its beginning".to_owned();
        Reader { inner, left: 0, padding: 0, allowance: limits, limits, last }
    }

    /// The next member; what is left of the last one's body is skipped.
    pub fn next_member(&mut self) -> Result<Option<Member>, TarError> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_body()?;
            let Some(header) = self.read_header()? else { return Ok(None) };
            match header[156] {
                b'L' => extensions.path = Some(until_nul(&self.read_extension(&header)?).to_vec()),
                b'K' => extensions.link = Some(until_nul(&self.read_extension(&header)?).to_vec()),
                b'x' => {
                    let bytes = self.read_extension(&header)?;
                    extensions.records.extend(parse_pax(&bytes).ok_or_else(|| self.damaged())?);
                }
                b'g' => self.read_global(&header)?,
                _ => return self.member(&header, extensions).map(Some),
            }
        }
    }

    fn member(&mut self, header: &[u8; BLOCK], extensions: Extensions) -> Result<Member, TarError> {
        let member = decode(header, extensions).ok_or_else(|| self.damaged())??;
        if member.kind == MemberKind::File {
            self.spend(member.size)?;
            self.left = member.size;
            self.padding = padding(member.size);
        }
        self.last = member.label();
        Ok(member)
    }

    /// Global records may say who wrote the archive; what every member is called or how long it is
    /// cannot be said for all at once.
    fn read_global(&mut self, header: &[u8; BLOCK]) -> Result<(), TarError> {
        let bytes = self.read_extension(header)?;
        let records = parse_pax(&bytes).ok_or_else(|| self.damaged())?;
        let decides = |name: &Vec<u8>| {
            matches!(&name[..], b"path" | b"linkpath" | b"size") || name.starts_with(b"GNU.sparse")
        };
        if records.keys().any(decides) { Err(self.damaged()) } else { Ok(()) }
    }

    fn damaged(&self) -> TarError {
        TarError::Header(self.last.clone())
    }

    fn spend(&mut self, bytes: u64) -> Result<(), TarError> {
        let rest = self.allowance.bytes.checked_sub(bytes);
        self.allowance.bytes = rest.ok_or(TarError::TooLarge(self.limits.bytes))?;
        Ok(())
    }

    /// `None` at the end of the archive, which is a block of zeros.
    fn read_header(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut header = [0; BLOCK];
        match self.inner.read_exact(&mut header) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(TarError::Truncated(self.last.clone()));
            }
            result => result?,
        }
        if header.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let members = self.allowance.members.checked_sub(1);
        self.allowance.members = members.ok_or(TarError::TooMany(self.limits.members))?;
        if is_intact(&header) { Ok(Some(header)) } else { Err(self.damaged()) }
    }

    fn read_extension(&mut self, header: &[u8; BLOCK]) -> Result<Vec<u8>, TarError> {
        let size = number(&header[124..136]).filter(|size| *size <= LONGEST_EXTENSION);
        let size = size.ok_or_else(|| self.damaged())?;
        self.spend(size)?;
        let mut bytes = Vec::new();
        (&mut self.inner).take(size).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != size {
            return Err(TarError::Truncated(self.last.clone()));
        }
        self.padding = padding(size);
        self.skip_body()?;
        Ok(bytes)
    }

    fn skip_body(&mut self) -> Result<(), TarError> {
        // a body is within the limits, so the sum does not overflow
        let wanted = self.left + self.padding;
        let skipped = io::copy(&mut (&mut self.inner).take(wanted), &mut io::sink())?;
        (self.left, self.padding) = (0, 0);
        if skipped == wanted { Ok(()) } else { Err(TarError::Truncated(self.last.clone())) }
    }

    /// Reads what follows the archive, so that the checks of whatever lies below it are made.
    pub fn finish(mut self) -> Result<R, TarError> {
        match io::copy(&mut (&mut self.inner).take(LONGEST_TRAILER + 1), &mut io::sink())? {
            rest if rest <= LONGEST_TRAILER => Ok(self.inner),
            _ => Err(TarError::TooLarge(self.limits.bytes)),
        }
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let n = self.inner.read(&mut buffer[..most])?;
        if n == 0 {
            let error = TarError::Truncated(self.last.clone());
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, error));
        }
        self.left -= n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(build: impl Fn(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        build(&mut builder);
        builder.into_inner().unwrap()
    }

    fn add(builder: &mut tar::Builder<Vec<u8>>, path: &str, body: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_size(body.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, body).unwrap();
    }

    fn read_all(bytes: &[u8], limits: Limits) -> Result<(), TarError> {
        let mut reader = Reader::new(bytes, limits);
        while let Some(member) = reader.next_member()? {
            member.to_entry()?;
        }
        reader.finish().map(drop)
    }

    #[test]
    fn long_names_and_bodies_come_through() {
        let long = format!("{}/x", "d".repeat(150));
        let bytes = archive(|builder| {
            add(builder, "a", b"hello");
            add(builder, &long, b"world");
        });
        let mut reader = Reader::new(&bytes[..], Limits::bytes(1000));
        let member = reader.next_member().unwrap().unwrap();
        assert_eq!((member.label(), member.size, member.mode), ("a".to_owned(), 5, 0o644));
        assert_eq!(reader.next_member().unwrap().unwrap().label(), long);
        let mut body = String::new();
        reader.read_to_string(&mut body).unwrap();
        assert_eq!(body, "world");
        assert!(reader.next_member().unwrap().is_none());
    }

    #[test]
    fn damaged_truncated_and_huge_archives_are_refused() {
        let bytes = archive(|builder| add(builder, "a", &[7; 600]));
        let read = |bytes: &[u8], limit| read_all(bytes, Limits::bytes(limit));
        read(&bytes, 600).unwrap();
        assert!(matches!(read(&bytes, 599), Err(TarError::TooLarge(599))));
        for end in [0, 100, 800, 1536] {
            assert!(matches!(read(&bytes[..end], 600), Err(TarError::Truncated(_))), "{end}");
        }
        let mut damaged = bytes.clone();
        damaged[0] = b'b';
        assert!(matches!(read(&damaged, 600), Err(TarError::Header(_))));
        let few = Limits { bytes: 600, members: 0 };
        assert!(matches!(read_all(&bytes, few), Err(TarError::TooMany(0))));
        let mut long = bytes;
        long.resize(4 << 20, 0);
        assert!(matches!(read(&long, 600), Err(TarError::TooLarge(600))));
    }

    #[test]
    fn pax_records_override_the_header() {
        let bytes = archive(|builder| {
            let records = [
                ("path", "other".as_bytes()),
                ("mtime", b"12.5"),
                ("SCHILY.xattr.user.x", b"\x01\x02"),
            ];
            builder.append_pax_extensions(records).unwrap();
            add(builder, "a", b"");
        });
        let member = Reader::new(&bytes[..], Limits::bytes(500)).next_member().unwrap().unwrap();
        assert_eq!((member.label().as_str(), member.mtime), ("other", 12));
        assert_eq!(member.xattrs[&b"user.x"[..]][..], [1, 2]);
        assert!(member.to_entry().unwrap().meta.xattrs.is_empty());
    }

    #[test]
    fn a_path_that_pax_overrides_is_judged_like_any_other() {
        for path in ["../etc/passwd", "/etc/passwd", "a/../../b", "a\0b"] {
            let bytes = archive(|builder| {
                builder.append_pax_extensions([("path", path.as_bytes())]).unwrap();
                add(builder, "innocent", b"");
            });
            let result = read_all(&bytes, Limits::bytes(500));
            assert!(matches!(result, Err(TarError::Path { .. })), "{path}");
        }
    }

    #[test]
    fn sparse_files_and_unknown_types_are_refused() {
        for (kind, size) in [(b'S', 0), (b'Z', 0), (b'V', 0)] {
            let bytes = archive(|builder| {
                let mut header = tar::Header::new_gnu();
                header.set_entry_type(tar::EntryType::new(kind));
                header.set_size(size);
                builder.append_data(&mut header, "odd", io::empty()).unwrap();
            });
            assert!(read_all(&bytes, Limits::bytes(500)).is_err());
        }
        let bytes = archive(|builder| {
            builder.append_pax_extensions([("GNU.sparse.major", &b"1"[..])]).unwrap();
            add(builder, "odd", b"");
        });
        assert!(matches!(read_all(&bytes, Limits::bytes(500)), Err(TarError::Sparse(_))));
    }
}
