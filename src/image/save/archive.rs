//! Archives of whole images: OCI's layout in a tar (OCI image-spec, image layout) and the one of
//! `docker save` (moby, image/spec v1.2), which every docker loads.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde_json::json;

use super::{SaveError, Saved};
use crate::digest::Digest;
use crate::entry::{Claim, Entry, Kind, Meta};
use crate::fsx::IoAt;
use crate::media;
use crate::path::LayerPath;
use crate::tarball::Writer;

/// Bytes that are copied at a time.
const PIECE: usize = 256 << 10;

/// An archive that is being written.
struct Archive<'a> {
    tar: Writer<&'a mut dyn Write>,
}

pub(super) fn write_oci(saved: &Saved<'_>, out: &mut dyn Write) -> Result<(), SaveError> {
    let Saved { record, platform, reference, .. } = saved;
    let (name, tag) = split(reference);
    let index = json!({
        "schemaVersion": 2,
        "mediaType": media::INDEX,
        "manifests": [{
            "mediaType": saved.store.media_type_of(&record.manifest),
            "digest": record.manifest,
            "size": record.manifest_size,
            "annotations": {
                "io.containerd.image.name": format!("{name}:{tag}"),
                "org.opencontainers.image.ref.name": tag,
            },
            "platform": {"architecture": platform.architecture(), "os": "linux"},
        }],
    });
    let mut archive = Archive { tar: Writer::new(out) };
    archive.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    archive.file("index.json", index.to_string().as_bytes())?;
    archive.dir("blobs")?;
    archive.dir("blobs/sha256")?;
    let mut blobs: Vec<Digest> = record.layers.iter().map(|layer| *layer.blob()).collect();
    blobs.extend([record.image, record.manifest]);
    blobs.sort();
    blobs.dedup();
    for blob in blobs {
        archive.blob(&format!("blobs/sha256/{}", blob.hex()), saved, &blob)?;
    }
    archive.finish()
}

pub(super) fn write_docker(
    saved: &Saved<'_>,
    tars: &[(Digest, PathBuf)],
    out: &mut dyn Write,
) -> Result<(), SaveError> {
    let record = saved.record;
    let (name, tag) = split(saved.reference);
    let layer = |digest: &Digest| format!("{}/layer.tar", digest.hex());
    let layers = || record.layers.iter().map(|layer| &layer.diff_id);
    let manifest = json!([{
        "Config": format!("{}.json", record.image.hex()),
        "RepoTags": [format!("{name}:{tag}")],
        "Layers": layers().map(layer).collect::<Vec<_>>(),
    }]);
    let top = layers().next_back().map(Digest::hex).unwrap_or_default();
    let repositories = json!({name: {tag: top}});
    let mut archive = Archive { tar: Writer::new(out) };
    archive.file("manifest.json", manifest.to_string().as_bytes())?;
    archive.file("repositories", repositories.to_string().as_bytes())?;
    archive.blob(&format!("{}.json", record.image.hex()), saved, &record.image)?;
    // a base may have a layer twice
    let once: BTreeMap<&Digest, &PathBuf> =
        tars.iter().map(|(digest, path)| (digest, path)).collect();
    for (digest, path) in once {
        archive.dir(&digest.hex())?;
        archive.file(&format!("{}/VERSION", digest.hex()), b"1.0")?;
        archive.copy(&layer(digest), path)?;
    }
    archive.finish()
}

/// A reference's name and tag; a tag that is not said is `latest`.
pub(super) fn split(reference: &str) -> (&str, &str) {
    match reference.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (reference, "latest"),
    }
}

impl Archive<'_> {
    fn entry(&mut self, path: &str, mode: u32, kind: Kind) -> Result<(), SaveError> {
        let path = LayerPath::parse_member(path.as_bytes())?;
        let entry = Entry { path, meta: Meta::root(mode), kind };
        self.tar.header(&entry).map_err(SaveError::Output)
    }

    fn dir(&mut self, path: &str) -> Result<(), SaveError> {
        self.entry(path, 0o755, Kind::Dir(Claim::Shipped))
    }

    fn file(&mut self, path: &str, bytes: &[u8]) -> Result<(), SaveError> {
        self.entry(path, 0o644, Kind::File(bytes.len() as u64))?;
        self.tar.body(bytes).map_err(SaveError::Output)?;
        self.tar.pad(bytes.len() as u64).map_err(SaveError::Output)
    }

    fn blob(&mut self, path: &str, saved: &Saved<'_>, digest: &Digest) -> Result<(), SaveError> {
        self.copy(path, &saved.store.blob_path(digest))
    }

    fn copy(&mut self, path: &str, from: &Path) -> Result<(), SaveError> {
        let mut file = File::open(from).at("open", from)?;
        let size = file.metadata().at("stat", from)?.len();
        self.entry(path, 0o644, Kind::File(size))?;
        copy(&mut file, size, &mut self.tar, from)
    }

    fn finish(self) -> Result<(), SaveError> {
        self.tar.finish().and_then(|out| out.flush()).map_err(SaveError::Output)
    }
}

/// Copies the body of a file into a tar.
pub(super) fn copy<W: Write>(
    file: &mut impl Read,
    size: u64,
    tar: &mut Writer<W>,
    from: &Path,
) -> Result<(), SaveError> {
    let mut buffer = vec![0; PIECE];
    let mut left = size;
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        file.read_exact(&mut buffer[..most]).at("read", from)?;
        tar.body(&buffer[..most]).map_err(SaveError::Output)?;
        left -= most as u64;
    }
    tar.pad(size).map_err(SaveError::Output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_no_tag() {
        assert_eq!(split("agents/base"), ("agents/base", "latest"));
        assert_eq!(split("agents/base:1.2"), ("agents/base", "1.2"));
        assert_eq!(split("localhost:5000/base"), ("localhost:5000/base", "latest"));
        assert_eq!(split("localhost:5000/base:1"), ("localhost:5000/base", "1"));
    }
}
