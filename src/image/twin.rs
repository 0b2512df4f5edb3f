//! Compressed twins of layers: what registries get. A twin is made once and remembered.

use std::fs::{self, File};

use serde::{Deserialize, Serialize};

use super::ImageError;
use super::deflate::{Level, deflate};
use crate::digest::Digest;
use crate::fsx::{self, IoAt};
use crate::store::{Held, Store};

/// A layer's compressed form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Twin {
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

/// The gzip twin of a layer, made if the store does not have it.
pub fn gzip_twin(store: &Store, diff_id: &Digest, level: Level) -> Result<Twin, ImageError> {
    store.hold([Held::Blob(diff_id)])?;
    let dir = store.root().join("twins");
    let record = dir.join(format!("{}.gzip-{level}", diff_id.hex()));
    let known: Option<Twin> =
        fs::read(&record).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if let Some(twin) = &known {
        store.hold([Held::Blob(&twin.digest)])?;
    }
    if let Some(twin) = known.filter(|twin| store.find_blob(&twin.digest) == Some(twin.size)) {
        return Ok(twin);
    }
    let path = store.blob_path(diff_id);
    let mut input = File::open(&path).at("open", &path)?;
    let mut draft = store.draft()?;
    deflate(&mut input, &mut draft, level)
        .map_err(|source| ImageError::Twin { layer: *diff_id, source })?;
    let (digest, size) = draft.commit()?;
    let twin = Twin { digest, size };
    fs::create_dir_all(&dir).at("create", &dir)?;
    fsx::write_atomic(&record, &serde_json::to_vec(&twin).expect("a twin has string keys only"))?;
    Ok(twin)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_twin_is_the_layer_compressed_and_is_made_once() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        let bytes: Vec<u8> = (0..(3 << 20) + 17).map(|n| (n / 1000) as u8).collect();
        let layer = store.put_blob(&bytes).unwrap();
        let twin = gzip_twin(&store, &layer, Level::default()).unwrap();
        let packed = store.read_blob(&twin.digest).unwrap();
        assert_eq!(
            packed[..10],
            [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff],
            "no name, no time, OS unknown"
        );
        let mut plain = Vec::new();
        flate2::read::MultiGzDecoder::new(&packed[..]).read_to_end(&mut plain).unwrap();
        assert_eq!(plain, bytes);
        insta::assert_snapshot!(twin.digest, @"sha256:2450c943c2cdfb4a0e981a36f7c8474e6ae21af68339bcbb2080ae36a233bc97");
        fs::remove_file(store.blob_path(&layer)).unwrap();
        assert_eq!(gzip_twin(&store, &layer, Level::default()).unwrap(), twin, "it is remembered");
    }
}
