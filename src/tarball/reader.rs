//! Reading archives that somebody else wrote.

use std::collections::BTreeMap;
use std::io::{self, Read};

use super::{BLOCK, checksum};

/// Longest extension header (pax, GNU long name) that is read.
const LONGEST_EXTENSION: u64 = 1 << 20;

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
    Kind { path: String, kind: char },
    #[error("the archive holds more than {0} bytes")]
    TooLarge(u64),
}

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberKind {
    File,
    Dir,
    Symlink,
    Hardlink,
    Char,
    Block,
    Fifo,
}

/// A member as the archive names it; nothing of it has been judged.
#[derive(Clone, Debug)]
pub struct Member {
    pub path: Vec<u8>,
    pub kind: MemberKind,
    /// Bytes of the body.
    pub size: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: i64,
    /// Target of a link.
    pub link: Vec<u8>,
    pub major: u32,
    pub minor: u32,
    /// Extended attributes (`SCHILY.xattr.*`).
    pub xattrs: BTreeMap<Box<[u8]>, Box<[u8]>>,
}

impl Member {
    pub fn label(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }
}

/// Streams an archive: [`next`](Reader::next_member) gives a member, [`Reader`] itself then reads as the
/// member's body.
pub struct Reader<R> {
    inner: R,
    /// Bytes of the current body that have not been read, and the padding after it.
    left: u64,
    padding: u64,
    /// Bytes that all bodies together may still have.
    allowance: u64,
    limit: u64,
    last: String,
    global: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl<R: Read> Reader<R> {
    /// Reads an archive whose bodies hold `limit` bytes at most.
    pub fn new(inner: R, limit: u64) -> Self {
        Reader {
            inner,
            left: 0,
            padding: 0,
            allowance: limit,
            limit,
            last: "its beginning".to_owned(),
            global: BTreeMap::new(),
        }
    }

    /// The next member; what is left of the last one's body is skipped.
    pub fn next_member(&mut self) -> Result<Option<Member>, TarError> {
        let mut long_path = None;
        let mut long_link = None;
        let mut records = self.global.clone();
        loop {
            self.skip_body()?;
            let Some(header) = self.read_header()? else { return Ok(None) };
            let size =
                number(&header[124..136]).ok_or_else(|| TarError::Header(self.last.clone()))?;
            match header[156] {
                b'L' => long_path = Some(trim_nul(self.read_extension(size)?)),
                b'K' => long_link = Some(trim_nul(self.read_extension(size)?)),
                b'x' => records.extend(
                    parse_pax(&self.read_extension(size)?)
                        .ok_or_else(|| TarError::Header(self.last.clone()))?,
                ),
                b'g' => {
                    let more = parse_pax(&self.read_extension(size)?)
                        .ok_or_else(|| TarError::Header(self.last.clone()))?;
                    self.global.extend(more.clone());
                    records.extend(more);
                }
                _ => return self.member(&header, size, long_path, long_link, records).map(Some),
            }
        }
    }

    fn member(
        &mut self,
        header: &[u8; BLOCK],
        size: u64,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
        mut records: BTreeMap<Vec<u8>, Vec<u8>>,
    ) -> Result<Member, TarError> {
        let damaged = || TarError::Header(self.last.clone());
        let field = |range: std::ops::Range<usize>| number(&header[range]).ok_or_else(damaged);
        let small =
            |range| field(range).and_then(|value| u32::try_from(value).map_err(|_| damaged()));
        let mut path = long_path.unwrap_or_else(|| ustar_path(header));
        let mut link = long_link.unwrap_or_else(|| trim_nul(header[157..257].to_vec()));
        let (mut uid, mut gid) = (small(108..116)?, small(116..124)?);
        let mut mtime = signed(&header[136..148]).ok_or_else(damaged)?;
        let mut size = size;
        let text = |value: &[u8]| std::str::from_utf8(value).ok().map(str::to_owned);
        let mut take = |name: &str| records.remove(name.as_bytes());
        if let Some(value) = take("path") {
            path = value;
        }
        if let Some(value) = take("linkpath") {
            link = value;
        }
        let parsed = |value: Option<Vec<u8>>| -> Result<Option<u64>, TarError> {
            let Some(value) = value else { return Ok(None) };
            text(&value).and_then(|text| text.parse().ok()).map(Some).ok_or_else(damaged)
        };
        size = parsed(take("size"))?.unwrap_or(size);
        let id = |value: Option<u64>, old: u32| {
            value.map_or(Ok(old), |id| u32::try_from(id).map_err(|_| damaged()))
        };
        uid = id(parsed(take("uid"))?, uid)?;
        gid = id(parsed(take("gid"))?, gid)?;
        if let Some(value) = take("mtime") {
            // whole seconds: fractions are dropped, as every tool that unpacks layers does
            let whole = text(&value)
                .and_then(|text| text.split('.').next().and_then(|whole| whole.parse().ok()));
            mtime = whole.ok_or_else(damaged)?;
        }
        let label = String::from_utf8_lossy(&path).into_owned();
        if records.keys().any(|name| name.starts_with(b"GNU.sparse")) || header[156] == b'S' {
            return Err(TarError::Sparse(label));
        }
        let kind = match header[156] {
            // old archives mark a directory by the end of its name alone
            b'0' | 0 | b'7' if path.ends_with(b"/") => MemberKind::Dir,
            b'0' | 0 | b'7' => MemberKind::File,
            b'1' => MemberKind::Hardlink,
            b'2' => MemberKind::Symlink,
            b'3' => MemberKind::Char,
            b'4' => MemberKind::Block,
            b'5' => MemberKind::Dir,
            b'6' => MemberKind::Fifo,
            other => return Err(TarError::Kind { path: label, kind: char::from(other) }),
        };
        let body = if kind == MemberKind::File { size } else { 0 };
        self.allowance = self.allowance.checked_sub(body).ok_or(TarError::TooLarge(self.limit))?;
        self.left = body;
        self.padding = padding(body);
        self.last = label;
        let xattrs = records
            .into_iter()
            .filter_map(|(name, value)| {
                let name = name.strip_prefix(b"SCHILY.xattr.")?;
                Some((name.into(), value.into()))
            })
            .collect();
        let device =
            |range| number(&header[range]).and_then(|value| u32::try_from(value).ok()).unwrap_or(0);
        Ok(Member {
            path,
            kind,
            size: body,
            mode: number(&header[100..108])
                .and_then(|mode| u32::try_from(mode & 0o7777).ok())
                .ok_or_else(|| TarError::Header(self.last.clone()))?,
            uid,
            gid,
            mtime,
            link,
            major: device(329..337),
            minor: device(337..345),
            xattrs,
        })
    }

    /// `None` at the end of the archive: a block of zeros, or the end of the stream between members.
    fn read_header(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut header = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.inner.read(&mut header[filled..])? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(TarError::Truncated(self.last.clone())),
                n => filled += n,
            }
        }
        if header.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let stated = number(&header[148..156]);
        match stated == Some(u64::from(checksum(&header))) {
            true => Ok(Some(header)),
            false => Err(TarError::Header(self.last.clone())),
        }
    }

    fn read_extension(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > LONGEST_EXTENSION {
            return Err(TarError::Header(self.last.clone()));
        }
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
        let wanted = self.left + self.padding;
        let skipped = io::copy(&mut (&mut self.inner).take(wanted), &mut io::sink())?;
        (self.left, self.padding) = (0, 0);
        if skipped == wanted { Ok(()) } else { Err(TarError::Truncated(self.last.clone())) }
    }

    /// Reads what follows the archive, so that whatever lies below it is read to its end.
    pub fn finish(mut self) -> Result<R, TarError> {
        io::copy(&mut self.inner, &mut io::sink())?;
        Ok(self.inner)
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
            let message = format!("the archive ends in the middle of `{}`", self.last);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        self.left -= n as u64;
        Ok(n)
    }
}

fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64) - size
}

fn trim_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    bytes
}

fn ustar_path(header: &[u8; BLOCK]) -> Vec<u8> {
    let name = trim_nul(header[..100].to_vec());
    // POSIX ustar has a prefix; GNU uses the place for other things
    let prefix = match &header[257..263] {
        b"ustar\0" => trim_nul(header[345..500].to_vec()),
        _ => Vec::new(),
    };
    if prefix.is_empty() { name } else { [&prefix[..], b"/", &name].concat() }
}

/// A number in octal, or in base 256 where the first bit is set. An empty field is zero.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let (first, rest) = field.split_first()?;
        return rest.iter().try_fold(u64::from(first & 0x7f), |value, byte| {
            value.checked_mul(256)?.checked_add(u64::from(*byte))
        });
    }
    let text = std::str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

/// Times may be before 1970: base 256 in two's complement.
fn signed(field: &[u8]) -> Option<i64> {
    if field[0] == 0xff {
        let value = field.iter().fold(-1i64, |value, byte| value << 8 | i64::from(*byte));
        return Some(value);
    }
    number(field).and_then(|value| i64::try_from(value).ok())
}

/// `LENGTH NAME=VALUE\n`, repeated.
fn parse_pax(mut bytes: &[u8]) -> Option<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut records = BTreeMap::new();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|byte| *byte == b' ')?;
        let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
        let record = bytes.get(space + 1..length)?;
        let record = record.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        records.insert(record[..equals].to_vec(), record[equals + 1..].to_vec());
        bytes = &bytes[length..];
    }
    Some(records)
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

    #[test]
    fn long_names_and_bodies_come_through() {
        let long = format!("{}/x", "d".repeat(150));
        let bytes = archive(|builder| {
            add(builder, "a", b"hello");
            add(builder, &long, b"world");
        });
        let mut reader = Reader::new(&bytes[..], 1000);
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
        let read = |bytes: &[u8], limit| {
            let mut reader = Reader::new(bytes, limit);
            while reader.next_member()?.is_some() {}
            Ok::<_, TarError>(())
        };
        read(&bytes, 600).unwrap();
        assert!(matches!(read(&bytes, 599), Err(TarError::TooLarge(599))));
        assert!(matches!(read(&bytes[..800], 600), Err(TarError::Truncated(_))));
        assert!(matches!(read(&bytes[..100], 600), Err(TarError::Truncated(_))));
        let mut damaged = bytes.clone();
        damaged[0] = b'b';
        assert!(matches!(read(&damaged, 600), Err(TarError::Header(_))));
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
        let member = Reader::new(&bytes[..], 10).next_member().unwrap().unwrap();
        assert_eq!((member.label().as_str(), member.mtime), ("other", 12));
        assert_eq!(member.xattrs[&b"user.x"[..]][..], [1, 2]);
    }

    #[test]
    fn numbers_may_be_octal_or_binary() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"        "), Some(0));
        assert_eq!(number(&[0x80, 0, 1, 0]), Some(256));
        assert_eq!(number(b"89"), None);
        assert_eq!(signed(&[0xff; 12]), Some(-1));
    }
}
