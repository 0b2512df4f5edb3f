//! What a repository is known to have because a manifest of it lists it.
//!
//! A registry takes no manifest whose blobs it lacks, and keeps what one lists. So the manifest that a tag
//! names now, or that went to the repository last, speaks for all its blobs in one answer, where each by
//! itself would be a question; after an edit that is nearly all of an image. Where it is wrong, the registry
//! refuses the manifest that goes there, and then each blob is asked for.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use crate::digest::Digest;
use crate::oci::Registry;
use crate::oci::document::Document;

/// So many images of an index are looked at.
const LOOKED_AT: usize = 4;

/// A manifest or an index that is asked for when somebody wants to know what it lists.
pub(super) struct Listed<'a> {
    registry: &'a Registry<'a>,
    from: Option<Digest>,
    blobs: OnceLock<BTreeSet<Digest>>,
}

impl<'a> Listed<'a> {
    pub(super) fn new(registry: &'a Registry<'a>, from: Option<Digest>) -> Self {
        Listed { registry, from, blobs: OnceLock::new() }
    }

    /// What it lists; nothing where it is not there or cannot be read.
    pub(super) fn blobs(&self) -> &BTreeSet<Digest> {
        self.blobs.get_or_init(|| {
            let images = match self.from.and_then(|from| self.read(&from)) {
                None => Vec::new(),
                Some(Document::Index(entries)) => {
                    let all = entries.iter().take(LOOKED_AT);
                    all.filter_map(|entry| self.read(&entry.descriptor.digest)).collect()
                }
                Some(image) => vec![image],
            };
            images.into_iter().flat_map(blobs).collect()
        })
    }

    fn read(&self, digest: &Digest) -> Option<Document> {
        let document = self.registry.manifest(&digest.to_string()).ok()?;
        let is_it = Digest::of(&document.bytes) == *digest;
        let parsed = Document::parse(&document.bytes, document.media_type.as_deref());
        parsed.ok().filter(|_| is_it)
    }
}

fn blobs(document: Document) -> Vec<Digest> {
    match document {
        Document::Index(_) => Vec::new(),
        Document::Image(manifest) => {
            let layers = manifest.layers.iter().map(|layer| layer.digest);
            layers.chain([manifest.config.digest]).collect()
        }
    }
}
