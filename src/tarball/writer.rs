//! Writing layers: one form for every entry.
//!
//! ustar headers with numeric owners and no names; a pax header before them only where ustar has no
//! room (paths, sizes, ids) or no field (extended attributes). Which entries there are, and in which
//! order, is the caller's to decide.

use std::io::{self, Write};

use super::{BLOCK, checksum, padding};
use crate::entry::{Entry, Kind, Meta};

/// Writes entries to a sink and counts its bytes.
pub struct Writer<W> {
    inner: W,
    offset: u64,
}

/// The bytes that vary between headers.
struct Header<'a> {
    path: &'a [u8],
    link: &'a [u8],
    kind: u8,
    size: u64,
    device: (u32, u32),
}

impl<W: Write> Writer<W> {
    pub fn new(inner: W) -> Self {
        Writer { inner, offset: 0 }
    }

    /// Bytes written so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Writes the header of an entry. A file's body follows through [`body`](Writer::body).
    pub fn header(&mut self, entry: &Entry) -> io::Result<()> {
        let plain =
            |kind| Header { path: entry.path.as_bytes(), link: b"", kind, size: 0, device: (0, 0) };
        let (mut path, header);
        match &entry.kind {
            Kind::Dir(_) => {
                // a root has no name of its own
                path = if entry.path.is_root() {
                    b".".to_vec()
                } else {
                    entry.path.as_bytes().to_vec()
                };
                path.push(b'/');
                header = Header { path: &path, ..plain(b'5') };
            }
            Kind::File(size) => header = Header { size: *size, ..plain(b'0') },
            Kind::Symlink(target) => header = Header { link: target, ..plain(b'2') },
            Kind::Hardlink(target) => header = Header { link: target.as_bytes(), ..plain(b'1') },
            Kind::Char { major, minor } => {
                header = Header { device: (*major, *minor), ..plain(b'3') }
            }
            Kind::Block { major, minor } => {
                header = Header { device: (*major, *minor), ..plain(b'4') }
            }
            Kind::Fifo => header = plain(b'6'),
            Kind::Whiteout | Kind::Opaque => {
                path = whiteout_path(entry);
                header = Header { path: &path, ..plain(b'0') };
            }
        }
        let meta = match entry.kind {
            Kind::Symlink(_) => Meta { mode: 0o777, ..entry.meta.clone() },
            Kind::Whiteout | Kind::Opaque => Meta::root(0),
            _ => entry.meta.clone(),
        };
        self.write_header(&header, &meta)
    }

    fn write_header(&mut self, header: &Header<'_>, meta: &Meta) -> io::Result<()> {
        let mut pax = Vec::new();
        let split = split_path(header.path);
        if split.is_none() {
            push_pax(&mut pax, b"path", header.path);
        }
        if header.link.len() > 100 {
            push_pax(&mut pax, b"linkpath", header.link);
        }
        const OCTAL_11: u64 = 0o777_7777_7777;
        if header.size > OCTAL_11 {
            push_pax(&mut pax, b"size", header.size.to_string().as_bytes());
        }
        for (name, id) in [(&b"uid"[..], meta.uid), (b"gid", meta.gid)] {
            if id > 0o777_7777 {
                push_pax(&mut pax, name, id.to_string().as_bytes());
            }
        }
        for (name, value) in &meta.xattrs {
            push_pax(&mut pax, &[b"SCHILY.xattr.", &name[..]].concat(), value);
        }
        if !pax.is_empty() {
            let extension = Header {
                path: b"pax",
                link: b"",
                kind: b'x',
                size: pax.len() as u64,
                device: (0, 0),
            };
            self.push(&encode(&extension, (b"", b"pax"), &Meta::root(0o644)))?;
            self.push(&pax)?;
            self.pad(pax.len() as u64)?;
        }
        let (prefix, name) = split.unwrap_or((b"", &header.path[..header.path.len().min(100)]));
        self.push(&encode(header, (prefix, name), meta))
    }

    /// Writes a piece of a file's body.
    pub fn body(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.push(bytes)
    }

    /// Fills up the last block of a body of `size` bytes.
    pub fn pad(&mut self, size: u64) -> io::Result<()> {
        const ZEROS: [u8; BLOCK] = [0; BLOCK];
        // less than a block
        self.push(&ZEROS[..padding(size) as usize])
    }

    /// Ends the archive: two blocks of zeros (POSIX.1-2017).
    pub fn finish(mut self) -> io::Result<W> {
        self.push(&[0; 2 * BLOCK])?;
        Ok(self.inner)
    }

    fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.inner.write_all(bytes)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }
}

/// `.wh.NAME` beside the path that is gone (OCI image-spec, whiteouts). An opaque mark has its
/// final name already.
fn whiteout_path(entry: &Entry) -> Vec<u8> {
    if entry.kind == Kind::Opaque {
        return entry.path.as_bytes().to_vec();
    }
    let mut path = entry.path.parent().unwrap_or_default().as_bytes().to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(b".wh.");
    path.extend_from_slice(entry.path.file_name());
    path
}

/// Splits a path into ustar's prefix and name; `None` where it does not fit.
fn split_path(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= 100 {
        return Some((b"", path));
    }
    let fits = |at: &usize| {
        path[*at] == b'/' && path.len() - at - 1 <= 100 && path.len() - at > 2 && *at <= 155
    };
    let at = (1..path.len()).find(fits)?;
    Some((&path[..at], &path[at + 1..]))
}

fn push_pax(pax: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    let rest = name.len() + value.len() + 3;
    // the length counts its own digits
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    pax.extend_from_slice(format!("{length} ").as_bytes());
    pax.extend_from_slice(name);
    pax.push(b'=');
    pax.extend_from_slice(value);
    pax.push(b'\n');
}

fn encode(header: &Header<'_>, (prefix, name): (&[u8], &[u8]), meta: &Meta) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    let octal = |value: u64, digits: usize| format!("{value:0digits$o}").into_bytes();
    // what does not fit stands in the pax header
    let id = |id: u32| octal(if id > 0o777_7777 { 0 } else { u64::from(id) }, 7);
    let size = if header.size > 0o777_7777_7777 { 0 } else { header.size };
    put(0, name);
    put(100, &octal(u64::from(meta.mode & 0o7777), 7));
    put(108, &id(meta.uid));
    put(116, &id(meta.gid));
    put(124, &octal(size, 11));
    put(136, &octal(u64::try_from(meta.mtime).unwrap_or(0), 11));
    put(156, &[header.kind]);
    put(157, &header.link[..header.link.len().min(100)]);
    put(257, b"ustar\x0000");
    put(329, &octal(u64::from(header.device.0), 7));
    put(337, &octal(u64::from(header.device.1), 7));
    put(345, prefix);
    let sum = format!("{:06o}\0 ", checksum(&block));
    block[148..156].copy_from_slice(sum.as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::LayerPath;
    use crate::tarball::{MemberKind, Reader};
    use std::io::Read;

    fn write(entries: &[(Entry, &[u8])]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        for (entry, body) in entries {
            writer.header(entry).unwrap();
            writer.body(body).unwrap();
            writer.pad(body.len() as u64).unwrap();
        }
        writer.finish().unwrap()
    }

    fn entry(path: &str, kind: Kind) -> Entry {
        Entry { path: LayerPath::parse_absolute(path).unwrap(), meta: Meta::root(0o755), kind }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let long = format!("/{}/{}", "d".repeat(120), "f".repeat(90));
        let longest = format!("/{}", "x".repeat(200));
        let mut special = entry(&longest, Kind::File(2));
        special.meta.uid = 3_000_000;
        special.meta.xattrs.insert(b"security.capability"[..].into(), b"\x01\0=\n"[..].into());
        let bytes = write(&[
            (entry(&long, Kind::File(3)), b"abc"),
            (special, b"hi"),
            (entry("/l", Kind::Symlink(vec![b't'; 150].into())), b""),
            (entry("/gone", Kind::Whiteout), b""),
            (entry("/hidden/.wh..wh..opq", Kind::Opaque), b""),
        ]);
        let mut reader = Reader::new(&bytes[..], 1000);
        let first = reader.next_member().unwrap().unwrap();
        assert_eq!(format!("/{}", first.label()), long);
        let second = reader.next_member().unwrap().unwrap();
        assert_eq!((second.path.len(), second.uid), (200, 3_000_000));
        assert_eq!(second.xattrs[&b"security.capability"[..]][..], *b"\x01\0=\n");
        let mut body = Vec::new();
        reader.read_to_end(&mut body).unwrap();
        assert_eq!(body, b"hi");
        let third = reader.next_member().unwrap().unwrap();
        assert_eq!((third.kind, third.link.len()), (MemberKind::Symlink, 150));
        assert_eq!(reader.next_member().unwrap().unwrap().label(), ".wh.gone");
        assert_eq!(reader.next_member().unwrap().unwrap().label(), "hidden/.wh..wh..opq");
        assert!(reader.next_member().unwrap().is_none());
    }

    #[test]
    fn the_form_of_an_entry_is_fixed() {
        let bytes = write(&[
            (entry("/a", Kind::File(1)), b"x"),
            (entry("/d", Kind::Dir(crate::entry::Claim::Set)), b""),
        ]);
        let digest = crate::digest::Digest::of(&bytes).to_string();
        insta::assert_snapshot!(digest, @"sha256:5a1c43a6acfe0e208c070e2c68cf649ba6f6aa95064283799db716616bb864cf");
    }
}
