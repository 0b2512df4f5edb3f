//! Secrets: read when their step is built, shown to it, and looked for in everything it made: as they
//! are, and in both alphabets of base64, whatever stands around them. What was compressed, encrypted or
//! written in another way is not looked into; no search could be certain of that.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use crate::build::listing::Listing;
use crate::decl::{Secret, SecretSource};
use crate::entry::Kind;
use crate::fsx::{IoAt, PathIo};
use crate::jail::SecretFile;
use crate::path::LayerPath;

/// Fewer bytes occur by chance.
const SHORTEST: usize = 4;

/// Knows secrets of the host's.
pub trait Vault: Sync {
    /// The bytes of a secret, or why there are none.
    fn read(&self, source: &SecretSource) -> Result<Vec<u8>, String>;
}

/// Why a secret cannot be used, or a layer not kept.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("secret `{name}`: {reason}")]
    Absent { name: String, reason: String },
    #[error(
        "secret `{name}` has fewer than {SHORTEST} bytes: whether a layer holds it cannot be told"
    )]
    Short { name: String },
    #[error("secret `{name}` is in the finished layer, at {path}")]
    Kept { name: String, path: String },
}

/// Reads the secrets of a step.
pub(super) fn read(secrets: &[Secret], vault: &dyn Vault) -> Result<Vec<SecretFile>, SecretError> {
    let one = |secret: &Secret| {
        let name = secret.name.clone();
        match vault.read(&secret.from) {
            Err(reason) => Err(SecretError::Absent { name, reason }),
            Ok(bytes) if bytes.trim_ascii().len() < SHORTEST => Err(SecretError::Short { name }),
            Ok(bytes) => Ok(SecretFile { name, bytes }),
        }
    };
    secrets.iter().map(one).collect()
}

/// What secrets look like where they have no business: as they are, and in base64.
pub(super) struct Needles(Vec<Needle>);

struct Needle {
    name: String,
    bytes: Vec<u8>,
}

impl Needles {
    pub(super) fn of(secrets: &[SecretFile]) -> Self {
        let forms = secrets.iter().flat_map(|secret| {
            let plain = secret.bytes.trim_ascii().to_vec();
            let shifted = (0..3).map(|shift| encoded(&plain, shift)).collect::<Vec<_>>();
            let safe = shifted.iter().map(|text| in_addresses(text)).collect::<Vec<_>>();
            let forms = std::iter::once(plain).chain(shifted).chain(safe);
            forms.map(|bytes| Needle { name: secret.name.clone(), bytes })
        });
        Needles(forms.collect())
    }

    /// The name of a secret that is in these bytes.
    fn find(&self, bytes: &[u8]) -> Option<&str> {
        let found = self.0.iter().find(|needle| contains(bytes, &needle.bytes));
        found.map(|needle| needle.name.as_str())
    }

    fn longest(&self) -> usize {
        self.0.iter().map(|needle| needle.bytes.len()).max().unwrap_or(0)
    }

    /// A line of output without them.
    pub(super) fn hide(&self, line: &str) -> String {
        let mut shown = line.to_owned();
        for needle in &self.0 {
            // a secret of several lines is hidden line by line
            for part in String::from_utf8_lossy(&needle.bytes).lines() {
                if part.len() >= SHORTEST && shown.contains(part) {
                    shown = shown.replace(part, "***");
                }
            }
        }
        shown
    }
}

/// The part of a base64 text that only the secret decides, so many bytes after the text's beginning.
fn encoded(plain: &[u8], shift: usize) -> Vec<u8> {
    let text = STANDARD_NO_PAD.encode([&vec![0; shift], plain].concat());
    let (start, end) = ((shift * 8).div_ceil(6), (shift + plain.len()) * 8 / 6);
    text.as_bytes()[start..end].to_vec()
}

/// The same text in the alphabet of addresses and file names.
fn in_addresses(text: &[u8]) -> Vec<u8> {
    let safe = |byte: &u8| match byte {
        b'+' => b'-',
        b'/' => b'_',
        other => *other,
    };
    text.iter().map(safe).collect()
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    let Some((first, rest)) = needle.split_first() else { return false };
    let mut at = 0;
    while let Some(found) = bytes[at..].iter().position(|byte| byte == first) {
        at += found + 1;
        if bytes[at..].starts_with(rest) {
            return true;
        }
    }
    false
}

/// Passes a tar on and looks for secrets in it: contents, names, targets of links.
pub(super) struct Scan<'a> {
    inner: &'a mut dyn Write,
    needles: &'a Needles,
    /// The end of what has gone by, as long as the longest secret.
    window: Vec<u8>,
    found: Option<String>,
}

impl<'a> Scan<'a> {
    pub(super) fn new(inner: &'a mut dyn Write, needles: &'a Needles) -> Self {
        Scan { inner, needles, window: Vec::new(), found: None }
    }

    /// The name of a secret that went by.
    pub(super) fn found(self) -> Option<String> {
        self.found
    }
}

impl Write for Scan<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        let overlap = self.needles.longest();
        if overlap > 0 && self.found.is_none() {
            self.window.extend_from_slice(&bytes[..written]);
            self.found = self.needles.find(&self.window).map(str::to_owned);
            let passed = self.window.len().saturating_sub(overlap);
            self.window.drain(..passed);
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Finds the entry that a secret went by with.
pub(super) fn locate(
    upper: &Path,
    listing: &Listing,
    needles: &Needles,
    name: String,
) -> Result<SecretError, PathIo> {
    let named = |bytes: &[u8]| needles.find(bytes).is_some();
    for entry in &listing.entries {
        let inside = match &entry.kind {
            Kind::File(_) => {
                let full = upper.join(entry.path.as_path());
                named(&fs::read(&full).at("read", &full)?)
            }
            Kind::Symlink(target) => named(target),
            _ => false,
        };
        if inside || named(entry.path.as_bytes()) {
            return Ok(kept(name, &entry.path));
        }
    }
    Ok(SecretError::Kept { name, path: "an unknown place".to_owned() })
}

fn kept(name: String, path: &LayerPath) -> SecretError {
    SecretError::Kept { name, path: path.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needles() -> Needles {
        Needles::of(&[SecretFile { name: "token".into(), bytes: b"hunter22\n".into() }])
    }

    #[test]
    fn a_secret_is_found_wherever_a_write_ends() {
        let needles = needles();
        let text = b"xxhhunter22yy";
        for cut in 0..text.len() {
            let mut out = Vec::new();
            let mut scan = Scan::new(&mut out, &needles);
            scan.write_all(&text[..cut]).unwrap();
            scan.write_all(&text[cut..]).unwrap();
            assert_eq!(scan.found().as_deref(), Some("token"), "cut at {cut}");
            assert_eq!(out, text);
        }
        let mut out = Vec::new();
        let mut scan = Scan::new(&mut out, &needles);
        scan.write_all(b"hunter2 hunter3").unwrap();
        assert_eq!(scan.found(), None);
    }

    #[test]
    fn a_secret_is_found_in_base64_behind_anything() {
        for before in ["", "u:", "me:", "user:"] {
            let text = STANDARD_NO_PAD.encode(format!("{before}hunter22:after"));
            assert!(needles().find(text.as_bytes()).is_some(), "{before}");
        }
        let odd = SecretFile { name: "token".into(), bytes: b"\xff\xff\xfe??>>".into() };
        let needles = Needles::of(std::slice::from_ref(&odd));
        let text = base64::engine::general_purpose::URL_SAFE.encode(&odd.bytes);
        assert!(text.contains(['-', '_']) && needles.find(text.as_bytes()).is_some(), "{text}");
    }

    #[test]
    fn output_is_shown_without_secrets() {
        assert_eq!(needles().hide("token hunter22."), "token ***.");
        assert_eq!(needles().hide("token"), "token");
    }
}
