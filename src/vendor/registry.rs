//! A repository of a registry that takes sources.
//!
//! A registry takes no manifest whose blobs it lacks, but it may lose them later: so what is listed is asked
//! for by its digest, and what is gone is sent again. Blobs go first and the list last; what breaks off between
//! them is found by its digest the next time.

use std::collections::BTreeMap;

use super::{
    ARTIFACT, Descriptor, EMPTY, Manifest, TITLE, VendorError, hash_beside, media_type, title,
};
use crate::digest::{Digest, Hasher, Integrity};
use crate::fetch::Progress;
use crate::fsx::IoAt;
use crate::lock::Source;
use crate::media;
use crate::oci::{OciError, Registry, SOURCE_DIGEST, Supplied};
use crate::ship::{Bytes, Stored};
use crate::store::Store;

/// Largest manifest that registries take.
const LARGEST: usize = 4 << 20;
/// How many blobs are asked for at a time.
const AT_ONCE: usize = 100;
/// How often a list is written where others write it as well.
const ROUNDS: usize = 5;

/// By the digest that locks know: the layer.
type Listed = BTreeMap<Integrity, Descriptor>;

/// A repository, and the tag under which it lists sources.
pub struct VendorRepository<'a> {
    registry: &'a Registry<'a>,
    version: String,
    listed: Listed,
}

impl<'a> VendorRepository<'a> {
    /// Reads what is listed.
    pub fn open(registry: &'a Registry<'a>, version: &str) -> Result<Self, VendorError> {
        let listed = read(registry, version)?;
        Ok(VendorRepository { registry, version: version.to_owned(), listed })
    }

    /// Those of some sources that are not listed, or are listed and gone.
    pub fn missing<'s>(&self, sources: &[Source<'s>]) -> Result<Vec<Source<'s>>, VendorError> {
        let (mut missing, mut listed, mut asked) = (Vec::new(), Vec::new(), Vec::new());
        for source in sources {
            match self.listed.get(&source.integrity()) {
                Some(Descriptor { digest: Integrity::Sha256(digest), size, .. }) => {
                    listed.push(*source);
                    let label = format!("{} `{}`", source.kind(), source.label());
                    asked.push((label, Supplied { digest: *digest, size: *size }));
                }
                _ => missing.push(*source),
            }
        }
        for (sources, blobs) in listed.chunks(AT_ONCE).zip(asked.chunks(AT_ONCE)) {
            let there = self.registry.has_blobs(blobs)?;
            let gone = sources.iter().zip(there).filter(|(_, there)| !there);
            missing.extend(gone.map(|(source, _)| *source));
        }
        Ok(missing)
    }

    /// Sends a source of a store, if its blob is not there. Answers its layer, and the bytes that travelled.
    pub fn add(
        &self,
        store: &Store,
        source: &Source<'_>,
        progress: &dyn Progress,
    ) -> Result<(Vendored, u64), VendorError> {
        let (digest, label) =
            (source.integrity(), format!("{} `{}`", source.kind(), source.label()));
        let path = store.source_path(&digest);
        let mut hasher = Hasher::new();
        let found = hash_beside(&path, &digest, &mut |bytes| hasher.update(bytes))?;
        if found != digest {
            return Err(VendorError::Corrupt { label, expected: digest, found });
        }
        let size = path.metadata().at("stat", &path)?.len();
        let supplied = Supplied { digest: hasher.finish(), size };
        let mut sent = 0;
        if !self.registry.has_blob(&label, &supplied)? {
            let supply = Stored { label: label.clone(), supplied, path };
            progress.started(&label, Some(size));
            let uploaded = self.registry.upload(&supply, None, progress);
            progress.finished(&label);
            sent = if uploaded? { size } else { 0 };
        }
        Ok((Vendored { digest, layer: describe(source, &supplied) }, sent))
    }

    /// Lists sources that are there beside those that are listed.
    pub fn list(&self, added: &[Vendored], progress: &dyn Progress) -> Result<(), VendorError> {
        let is_in = |listed: &Listed| added.iter().all(|one| listed.contains_key(&one.digest));
        let mut listed = self.listed.clone();
        for _ in 0..ROUNDS {
            if is_in(&listed) {
                return Ok(());
            }
            listed.extend(added.iter().map(|one| (one.digest, one.layer.clone())));
            self.put_config(progress)?;
            self.write(&listed, progress)?;
            // who writes at the same time may have taken this for what was there
            listed = read(self.registry, &self.version)?;
        }
        match is_in(&listed) {
            true => Ok(()),
            false => Err(VendorError::Contended(self.name())),
        }
    }

    fn write(&self, listed: &Listed, progress: &dyn Progress) -> Result<(), VendorError> {
        let bytes = Manifest::new(listed.values().cloned().collect()).to_bytes();
        if bytes.len() > LARGEST {
            return Err(VendorError::TooMany { reference: self.name(), count: listed.len() });
        }
        let bring = || self.put_config(progress);
        self.registry.put_manifest(&self.version, media::MANIFEST, &bytes, bring)?;
        Ok(())
    }

    /// The config that an artifact without one has to name.
    fn put_config(&self, progress: &dyn Progress) -> Result<(), VendorError> {
        let supplied = Supplied { digest: Digest::of(EMPTY), size: EMPTY.len() as u64 };
        let supply = Bytes { label: "config".to_owned(), supplied, bytes: EMPTY.to_vec() };
        if !self.registry.has_blob(&supply.label, &supplied)? {
            self.registry.upload(&supply, None, progress)?;
        }
        Ok(())
    }

    fn name(&self) -> String {
        format!("{}/{}:{}", self.registry.host(), self.registry.repository(), self.version)
    }
}

/// A source whose blob is there.
pub struct Vendored {
    digest: Integrity,
    layer: Descriptor,
}

fn describe(source: &Source<'_>, supplied: &Supplied) -> Descriptor {
    let mut annotations = BTreeMap::from([(TITLE.to_owned(), title(source))]);
    let digest = source.integrity();
    if digest != supplied.digest.into() {
        annotations.insert(SOURCE_DIGEST.to_owned(), digest.to_string());
    }
    Descriptor {
        media_type: media_type(source).to_owned(),
        artifact_type: None,
        digest: supplied.digest.into(),
        size: supplied.size,
        annotations,
    }
}

/// What a tag lists; one that is not there lists nothing.
fn read(registry: &Registry<'_>, version: &str) -> Result<Listed, VendorError> {
    let document = match registry.manifest(version) {
        Err(OciError::Missing { .. }) => return Ok(Listed::new()),
        document => document?,
    };
    let manifest = serde_json::from_slice::<Manifest>(&document.bytes).ok();
    let manifest = manifest.filter(|manifest| manifest.artifact_type == ARTIFACT);
    let name = || format!("{}/{}:{version}", registry.host(), registry.repository());
    let manifest = manifest.ok_or_else(|| VendorError::ForeignTag(name()))?;
    let known = |layer: &Descriptor| {
        let named = layer.annotations.get(SOURCE_DIGEST).and_then(|text| text.parse().ok());
        named.unwrap_or(layer.digest)
    };
    Ok(manifest.layers.into_iter().map(|layer| (known(&layer), layer)).collect())
}
