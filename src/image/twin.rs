//! Compressed twins of layers: what registries get.
//!
//! gzip in members of 1 MiB each (RFC 1952 allows any number), so that all processors work on one
//! layer and the bytes do not depend on how many there are. A twin is made once and remembered.

use std::fs::{self, File};
use std::io::{Read, Write};

use libdeflater::{CompressionLvl, Compressor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::fsx::{self, IoAt};
use crate::store::{Store, StoreError};

/// Bytes of a member before compression. Part of the format.
const MEMBER: usize = 1 << 20;

/// Members that are compressed at a time: bounds memory.
const BATCH: usize = 32;

/// A layer's compressed form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Twin {
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

/// The gzip twin of a layer, made if the store does not have it.
pub fn gzip_twin(store: &Store, diff_id: &Digest, level: i32) -> Result<Twin, StoreError> {
    let record = store.root().join("twins").join(format!("{}.gzip-{level}", diff_id.hex()));
    let known: Option<Twin> =
        fs::read(&record).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if let Some(twin) = known.filter(|twin| store.find_blob(&twin.digest) == Some(twin.size)) {
        return Ok(twin);
    }
    let path = store.blob_path(diff_id);
    let mut input = File::open(&path).at("open", &path)?;
    let mut draft = store.draft()?;
    let mut buffer = vec![0; MEMBER * BATCH];
    loop {
        let n = fill(&mut input, &mut buffer).at("read", &path)?;
        let members: Vec<Vec<u8>> =
            buffer[..n].par_chunks(MEMBER).map(|chunk| member(chunk, level)).collect();
        for member in members {
            draft.write_all(&member).at("write", draft.path())?;
        }
        if n < buffer.len() {
            break;
        }
    }
    let (digest, size) = draft.commit()?;
    let twin = Twin { digest, size };
    let dir = store.root().join("twins");
    fs::create_dir_all(&dir).at("create", &dir)?;
    fsx::write_atomic(&record, &serde_json::to_vec(&twin).expect("a twin has string keys only"))?;
    Ok(twin)
}

fn fill(input: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..])? {
            0 => break,
            n => filled += n,
        }
    }
    Ok(filled)
}

/// One gzip member: no name, no time, no system (RFC 1952, 2.3).
fn member(bytes: &[u8], level: i32) -> Vec<u8> {
    let level = CompressionLvl::new(level).unwrap_or_default();
    let mut compressor = Compressor::new(level);
    let mut out = vec![0; compressor.gzip_compress_bound(bytes.len())];
    let n = compressor.gzip_compress(bytes, &mut out).expect("the bound is large enough");
    out.truncate(n);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_twin_is_the_layer_compressed_and_is_made_once() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        let bytes: Vec<u8> = (0..3 * MEMBER + 17).map(|n| (n / 1000) as u8).collect();
        let layer = store.put_blob(&bytes).unwrap();
        let twin = gzip_twin(&store, &layer, 6).unwrap();
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
        assert_eq!(gzip_twin(&store, &layer, 6).unwrap(), twin, "it is remembered");
    }
}
