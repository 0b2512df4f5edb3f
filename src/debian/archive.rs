//! `.deb` files (deb(5)): an ar archive of `debian-binary`, a control tar and a data tar.
//!
//! Read once, from front to back, hashing what passes: the caller learns at the end whether the bytes
//! were those of the pin. The control tar is kept whole, within limits; the data tar is streamed.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};

use crate::blame::Blame;
use crate::digest::{Digest, Hasher};
use crate::tarball::{Member, MemberKind, Reader, TarError};

/// Most bytes that a control tar may unpack to.
const LARGEST_CONTROL: u64 = 32 << 20;

/// Most memory that one decoder may take: twice what the highest preset of xz needs.
const LARGEST_WINDOW: u64 = 128 << 20;

/// A `.deb` that is refused.
#[derive(Debug, thiserror::Error)]
pub enum DebError {
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("it is no Debian package: {0}")]
    Format(String),
    #[error("its control archive: {0}")]
    Control(TarError),
    #[error("its data archive: {0}")]
    Data(TarError),
    #[error("its control archive has no `control`")]
    NoControl,
    #[error("its `control` is not UTF-8")]
    Encoding,
}

impl DebError {
    pub fn blame(&self) -> Blame {
        Blame::World
    }
}

/// The control archive of a package.
#[derive(Clone, Debug, Default)]
pub struct Control {
    /// The stanza.
    pub text: String,
    /// All other members by name: contents and permission bits.
    pub files: BTreeMap<String, (Vec<u8>, u32)>,
}

impl Control {
    pub fn find_file(&self, name: &str) -> Option<&str> {
        self.files.get(name).and_then(|(bytes, _)| std::str::from_utf8(bytes).ok())
    }

    /// Paths of the configuration files that the package ships (deb-conffiles(5)).
    pub fn conffiles(&self) -> impl Iterator<Item = &str> {
        self.named_conffiles().filter(|(_, leaving)| !leaving).map(|(path, _)| path)
    }

    /// Paths of all configuration files that it names, and whether it names one only to be rid of it
    /// (`remove-on-upgrade`).
    pub fn named_conffiles(&self) -> impl Iterator<Item = (&str, bool)> {
        let text = self.find_file("conffiles").unwrap_or_default();
        let name = |line| match str::strip_prefix(line, "remove-on-upgrade ") {
            Some(path) => (path.trim_start(), true),
            None => (line, false),
        };
        text.lines().map(str::trim).map(name).filter(|(path, _)| path.starts_with('/'))
    }
}

/// Hashes what is read through it.
struct Hashing<R> {
    inner: R,
    hasher: Hasher,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        Ok(n)
    }
}

/// A package being read: control first, then data.
pub struct Deb<R: Read> {
    input: BufReader<Hashing<R>>,
    pub control: Control,
}

impl<R: Read> Deb<R> {
    /// Reads up to the data archive.
    pub fn open(input: R) -> Result<Self, DebError> {
        let hashing = Hashing { inner: input, hasher: Hasher::new() };
        let mut input = BufReader::with_capacity(256 << 10, hashing);
        let mut magic = [0; 8];
        input.read_exact(&mut magic).map_err(|_| DebError::Format("it is too short".to_owned()))?;
        if magic != *b"!<arch>\n" {
            return Err(DebError::Format("it is no ar archive".to_owned()));
        }
        let (name, size) = read_member(&mut input)?;
        let mut version = Vec::new();
        (&mut input).take(size.min(64)).read_to_end(&mut version)?;
        if name != "debian-binary" || !version.starts_with(b"2.") || size > 64 {
            return Err(DebError::Format("it does not begin with `debian-binary` 2".to_owned()));
        }
        skip_padding(&mut input, size)?;
        let (name, size) = loop {
            let (name, size) = read_member(&mut input)?;
            // members whose names begin with `_` may stand anywhere (deb(5))
            if !name.starts_with('_') {
                break (name, size);
            }
            skip(&mut input, size)?;
            skip_padding(&mut input, size)?;
        };
        if !name.starts_with("control.tar") {
            return Err(DebError::Format(format!(
                "`{name}` stands where the control archive should"
            )));
        }
        let mut body = (&mut input).take(size);
        let control = read_control(decoder(&name, &mut body)?)?;
        io::copy(&mut body, &mut io::sink())?;
        skip_padding(&mut input, size)?;
        Ok(Deb { input, control })
    }

    /// Streams the data archive: `visit` gets each member with its body. `limit` bounds the bytes
    /// that it may unpack to. Answers the control archive and the digest of the whole file.
    pub fn read_data<E: From<DebError>>(
        mut self,
        limit: u64,
        mut visit: impl FnMut(&Member, &mut dyn Read) -> Result<(), E>,
    ) -> Result<(Control, Digest), E> {
        let (name, size) = loop {
            let (name, size) = read_member(&mut self.input)?;
            if !name.starts_with('_') {
                break (name, size);
            }
            skip(&mut self.input, size)?;
            skip_padding(&mut self.input, size)?;
        };
        if !name.starts_with("data.tar") {
            let message = format!("`{name}` stands where the data archive should");
            return Err(DebError::Format(message).into());
        }
        let mut body = (&mut self.input).take(size);
        let decoder = decoder(&name, &mut body)?;
        let mut reader = Reader::new(decoder, limit);
        while let Some(member) = reader.next_member().map_err(DebError::Data)? {
            visit(&member, &mut reader)?;
        }
        drop(reader.finish().map_err(DebError::Data)?);
        io::copy(&mut body, &mut io::sink()).map_err(DebError::Io)?;
        if body.limit() > 0 {
            let message = "it ends in the middle of its data archive".to_owned();
            return Err(DebError::Format(message).into());
        }
        Ok((self.control, finish(self.input)?))
    }
}

/// Reads to the end, so that all bytes are hashed.
fn finish<R: Read>(mut input: BufReader<Hashing<R>>) -> Result<Digest, DebError> {
    io::copy(&mut input, &mut io::sink())?;
    Ok(input.into_inner().hasher.finish())
}

/// One ar header: the member's name and size.
fn read_member(input: &mut impl BufRead) -> Result<(String, u64), DebError> {
    let damaged = || DebError::Format("a header of its ar archive is damaged".to_owned());
    let mut header = [0; 60];
    input.read_exact(&mut header).map_err(|_| DebError::Format("it ends too soon".to_owned()))?;
    if header[58..] != *b"`\n" {
        return Err(damaged());
    }
    let text = |range: std::ops::Range<usize>| {
        std::str::from_utf8(&header[range]).map(str::trim_end).map_err(|_| damaged())
    };
    let size = text(48..58)?.parse().map_err(|_| damaged())?;
    Ok((text(0..16)?.trim_end_matches('/').to_owned(), size))
}

fn skip(input: &mut impl Read, size: u64) -> Result<(), DebError> {
    match io::copy(&mut input.take(size), &mut io::sink())? {
        skipped if skipped == size => Ok(()),
        _ => Err(DebError::Format("it ends too soon".to_owned())),
    }
}

/// Members of ar archives begin at even offsets.
fn skip_padding(input: &mut impl Read, size: u64) -> Result<(), DebError> {
    skip(input, size % 2)
}

/// Undoes a member's compression, which its name tells.
fn decoder<'r>(name: &str, input: &'r mut dyn BufRead) -> Result<Box<dyn Read + 'r>, DebError> {
    let decoded: Box<dyn Read + 'r> = match name.split_once(".tar") {
        Some((_, "")) => return Ok(Box::new(input)),
        Some((_, ".xz")) => {
            // the archive's own digest says more than xz's check, which is a tenth of the decoding
            let flags = liblzma::stream::CONCATENATED | liblzma::stream::IGNORE_CHECK;
            let stream = liblzma::stream::Stream::new_stream_decoder(LARGEST_WINDOW, flags)
                .map_err(|error| DebError::Format(error.to_string()))?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(input, stream))
        }
        Some((_, ".zst")) => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
            decoder.window_log_max(LARGEST_WINDOW.ilog2())?;
            Box::new(decoder)
        }
        Some((_, ".gz")) => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Some((_, ".bz2")) => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
        _ => return Err(DebError::Format(format!("`{name}` is compressed in an unknown way"))),
    };
    // serves the headers; whoever reads a body in larger pieces reads past it
    Ok(Box::new(BufReader::with_capacity(16 << 10, decoded)))
}

fn read_control(input: impl Read) -> Result<Control, DebError> {
    let mut reader = Reader::new(input, LARGEST_CONTROL);
    let mut control = Control::default();
    let mut text = None;
    while let Some(member) = reader.next_member().map_err(DebError::Control)? {
        let name = member.label();
        let name = name.trim_start_matches("./").to_owned();
        match member.kind {
            MemberKind::Dir if name.is_empty() || name == "." => continue,
            MemberKind::File if !name.is_empty() && !name.contains('/') => {}
            _ => {
                return Err(DebError::Format(format!("its control archive has a member `{name}`")));
            }
        }
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map_err(|error| DebError::Control(error.into()))?;
        let before = if name == "control" {
            text.replace(String::from_utf8(bytes).map_err(|_| DebError::Encoding)?).is_some()
        } else {
            control.files.insert(name.clone(), (bytes, member.mode & 0o777)).is_some()
        };
        if before {
            return Err(DebError::Format(format!("its control archive has two members `{name}`")));
        }
    }
    reader.finish().map_err(DebError::Control)?;
    control.text = text.ok_or(DebError::NoControl)?;
    Ok(control)
}
