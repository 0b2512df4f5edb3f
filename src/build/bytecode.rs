//! The time that Python's bytecode remembers of its source (PEP 552).
//!
//! Times of a layer are clamped; bytecode that was compiled before would no longer match its source,
//! be compiled anew at each start, and carry the moment of the build. So it gets the time that its
//! source will have. Bytecode that does not match its source anyhow stays that way, without the
//! moment.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::entry::EPOCH;
use crate::fsx::{IoAt, PathIo};
use crate::path::LayerPath;

/// When a source was changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct SourceTime {
    /// As the compiler saw it, in seconds since 1970.
    pub(super) observed: i64,
    /// As the image will show it.
    pub(super) kept: i64,
}

/// `dir/__pycache__/name.cpython-313.pyc` was made of `dir/name.py`.
pub(super) fn source_of(path: &LayerPath) -> Option<LayerPath> {
    let name = path.file_name().strip_suffix(b".pyc")?;
    let cache = path.parent().filter(|cache| cache.file_name() == b"__pycache__")?;
    let name = name.split(|c| *c == b'.').next()?;
    cache.parent()?.join(&[name, b".py"].concat()).ok()
}

/// Gives the bytecode at `path` the time of its source.
pub(super) fn stamp(path: &Path, source: Option<SourceTime>) -> Result<(), PathIo> {
    let file = File::options().read(true).write(true).open(path).at("open", path)?;
    let mut header = [0; 16];
    if file.read_exact_at(&mut header, 0).is_err() || header[4..8] != [0; 4] {
        // too short, or checked by hash: no time in it
        return Ok(());
    }
    let recorded = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
    // PEP 552 keeps the lower 32 bits
    let stamp = match source {
        Some(source) if recorded == source.observed as u32 => source.kept as u32,
        _ if i64::from(recorded) > EPOCH => 0,
        _ => recorded,
    };
    if stamp == recorded {
        return Ok(());
    }
    file.write_all_at(&stamp.to_le_bytes(), 8).at("write", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamped(recorded: u32, flags: u32, source: Option<SourceTime>) -> u32 {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a.pyc");
        let header = [0xcafe, flags, recorded, 4].map(u32::to_le_bytes).concat();
        std::fs::write(&path, [&header[..], b"code"].concat()).unwrap();
        stamp(&path, source).unwrap();
        u32::from_le_bytes(std::fs::read(&path).unwrap()[8..12].try_into().unwrap())
    }

    #[test]
    fn bytecode_follows_its_source_and_forgets_the_moment_otherwise() {
        let now = EPOCH as u32 + 1000;
        let source = Some(SourceTime { observed: i64::from(now), kept: EPOCH });
        assert_eq!(stamped(now, 0, source), EPOCH as u32);
        assert_eq!(stamped(now + 1, 0, source), 0);
        assert_eq!(stamped(now, 0, None), 0);
        assert_eq!(stamped(1_600_000_000, 0, source), 1_600_000_000);
        assert_eq!(stamped(now, 1, source), now);
    }

    #[test]
    fn sources_lie_beside_the_cache() {
        let path = |text| LayerPath::parse_absolute(text).unwrap();
        let source = source_of(&path("/a/__pycache__/b.cpython-313.opt-1.pyc"));
        assert_eq!(source, Some(path("/a/b.py")));
        assert_eq!(source_of(&path("/a/b.pyc")), None);
    }
}
