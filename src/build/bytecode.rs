//! How Python's bytecode knows its source (PEP 552).
//!
//! Times of a layer are clamped; bytecode that was compiled before would no longer match its source,
//! be compiled anew at each start, and carry the moment of the build. So it gets the time that its
//! source will have. Bytecode that does not match its source anyhow stays that way, without the
//! moment.
//!
//! Where `SOURCE_DATE_EPOCH` is set, Python's compiler keeps a hash of the source in place of its time,
//! and every import reads and hashes the source. In an image times are as fixed as hashes, so what
//! matches by hash gets time and size, as on any Debian; what does not match stays as it is.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use siphasher::sip::SipHasher13;

use crate::entry::EPOCH;
use crate::fsx::{IoAt, PathIo};
use crate::path::LayerPath;

/// What bytecode was made of.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    /// When it was changed, as the compiler saw it, in seconds since 1970.
    pub(super) observed: i64,
    /// Likewise, as the image will show it.
    pub(super) kept: i64,
}

/// `dir/__pycache__/name.cpython-313.pyc` was made of `dir/name.py`.
pub(super) fn source_of(path: &LayerPath) -> Option<LayerPath> {
    let name = path.file_name().strip_suffix(b".pyc")?;
    let cache = path.parent().filter(|cache| cache.file_name() == b"__pycache__")?;
    let name = name.split(|c| *c == b'.').next()?;
    cache.parent()?.join(&[name, b".py"].concat()).ok()
}

/// Flags of bytecode that is checked by its source's hash at each import.
const CHECKED_HASH: u32 = 3;

/// Gives the bytecode at `path` the time of its source.
pub(super) fn stamp(path: &Path, source: Option<&Source>) -> Result<(), PathIo> {
    let file = File::options().read(true).write(true).open(path).at("open", path)?;
    let mut header = [0; 16];
    if file.read_exact_at(&mut header, 0).is_err() {
        return Ok(());
    }
    let [magic, flags, word, _] =
        [0, 4, 8, 12].map(|at| u32::from_le_bytes([0, 1, 2, 3].map(|byte| header[at + byte])));
    match (flags, source) {
        (CHECKED_HASH, Some(source)) => {
            let bytes = std::fs::read(&source.path).at("read", &source.path)?;
            if hash(magic, &bytes).to_le_bytes() == header[8..] {
                // PEP 552 keeps the lower 32 bits
                let words = [0, source.kept as u32, bytes.len() as u32].map(u32::to_le_bytes);
                file.write_all_at(&words.concat(), 4).at("write", path)?;
            }
            Ok(())
        }
        (0, source) => {
            let stamp = match source {
                Some(source) if word == source.observed as u32 => source.kept as u32,
                _ if i64::from(word) > EPOCH => 0,
                _ => return Ok(()),
            };
            file.write_all_at(&stamp.to_le_bytes(), 8).at("write", path)
        }
        _ => Ok(()),
    }
}

/// The hash of a source that Python 3.11 and later keep: SipHash-1-3, keyed by the format's number.
fn hash(magic: u32, source: &[u8]) -> u64 {
    SipHasher13::new_with_keys(u64::from(magic), 0).hash(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(observed: u32) -> Source {
        Source { path: "none".into(), observed: i64::from(observed), kept: EPOCH }
    }

    fn stamped(recorded: u32, flags: u32, source: Option<Source>) -> u32 {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a.pyc");
        let header = [0xcafe, flags, recorded, 4].map(u32::to_le_bytes).concat();
        std::fs::write(&path, [&header[..], b"code"].concat()).unwrap();
        stamp(&path, source.as_ref()).unwrap();
        u32::from_le_bytes(std::fs::read(&path).unwrap()[8..12].try_into().unwrap())
    }

    #[test]
    fn bytecode_follows_its_source_and_forgets_the_moment_otherwise() {
        let now = EPOCH as u32 + 1000;
        assert_eq!(stamped(now, 0, Some(source(now))), EPOCH as u32);
        assert_eq!(stamped(now + 1, 0, Some(source(now))), 0);
        assert_eq!(stamped(now, 0, None), 0);
        assert_eq!(stamped(1_600_000_000, 0, Some(source(now))), 1_600_000_000);
        assert_eq!(stamped(now, 1, Some(source(now))), now);
    }

    #[test]
    fn what_matches_by_hash_gets_a_time() {
        let home = tempfile::tempdir().unwrap();
        let [path, text] = ["a.pyc", "a.py"].map(|name| home.path().join(name));
        std::fs::write(&text, "print('hello')\n").unwrap();
        let source = Source { path: text, observed: 7, kept: EPOCH };
        // as CPython 3.13 answers for `_imp.source_hash(0x0a0d0df3, …)`
        let sum = u64::from_le_bytes(*b"\x07\xa0H\xf7\xd2\xd8\xe9\xd3");
        let header = |sum: u64| {
            [&0x0a0d_0df3_u32.to_le_bytes()[..], &3_u32.to_le_bytes(), &sum.to_le_bytes(), b"code"]
                .concat()
        };
        std::fs::write(&path, header(sum)).unwrap();
        stamp(&path, Some(&source)).unwrap();
        let words = [0, EPOCH as u32, 15].map(u32::to_le_bytes).concat();
        assert_eq!(std::fs::read(&path).unwrap()[4..16], words);
        std::fs::write(&path, header(sum + 1)).unwrap();
        stamp(&path, Some(&source)).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), header(sum + 1), "it is of another source");
    }

    #[test]
    fn sources_lie_beside_the_cache() {
        let path = |text| LayerPath::parse_absolute(text).unwrap();
        let source = source_of(&path("/a/__pycache__/b.cpython-313.opt-1.pyc"));
        assert_eq!(source, Some(path("/a/b.py")));
        assert_eq!(source_of(&path("/a/b.pyc")), None);
    }
}
