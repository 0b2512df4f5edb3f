//! An image layout on disk (OCI image-spec, image layout).

use std::fs;
use std::path::{Path, PathBuf};

use super::document::{Document, Entry};
use super::error::OciError;
use crate::digest::Digest;
use crate::fsx::IoAt;

/// The annotation that names an image of a layout.
const NAME: &str = "org.opencontainers.image.ref.name";

/// A layout, and which of its images is meant.
pub(super) struct Layout {
    dir: PathBuf,
    tag: Option<String>,
    image: String,
}

impl Layout {
    pub(super) fn new(dir: &Path, tag: Option<&str>, image: String) -> Self {
        Layout { dir: dir.to_owned(), tag: tag.map(str::to_owned), image }
    }

    /// The digest of the image's manifest or index.
    pub(super) fn find(&self) -> Result<Digest, OciError> {
        let path = self.dir.join("index.json");
        let bytes = fs::read(&path).at("read", &path)?;
        let document = Document::parse(&bytes, None)
            .map_err(|source| OciError::Document { image: self.image.clone(), source })?;
        let Document::Index(entries) = document else {
            return Err(OciError::Tag { image: self.image.clone(), found: Vec::new() });
        };
        let name = |entry: &Entry| entry.annotations.get(NAME).cloned();
        let found: Vec<&Entry> = match &self.tag {
            Some(tag) => entries.iter().filter(|one| name(one).as_ref() == Some(tag)).collect(),
            None => entries.iter().collect(),
        };
        match found[..] {
            [entry] => Ok(entry.descriptor.digest),
            _ => {
                let found = entries.iter().filter_map(name).collect();
                Err(OciError::Tag { image: self.image.clone(), found })
            }
        }
    }

    pub(super) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.hex())
    }

    pub(super) fn blob(&self, digest: &Digest) -> Result<Vec<u8>, OciError> {
        let path = self.blob_path(digest);
        Ok(fs::read(&path).at("read", &path)?)
    }
}
