//! Where an image is, and what it is made of on one platform.

use std::collections::BTreeMap;
use std::path::Path;

use super::credentials::Keychain;
use super::document::{Config, Descriptor, Document, Setting, pick};
use super::error::OciError;
use super::layout::Layout;
use super::packing::Packing;
use super::registry::Registry;
use crate::decl::ImageSource;
use crate::digest::{Digest, Integrity};
use crate::fetch::{Client, FetchError, Login, MirrorMap, Progress, Want};
use crate::fsx::IoAt;
use crate::platform::Platform;
use crate::reference::Reference;
use crate::store::Store;

/// Largest config that is read.
const LARGEST_CONFIG: u64 = 8 << 20;
/// Most levels of indexes above an image.
const DEEPEST: usize = 3;

/// An image of one platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    pub manifest: Digest,
    /// Bytes of the manifest.
    pub manifest_size: u64,
    pub config: Digest,
    pub config_size: u64,
    /// Bottom first.
    pub layers: Vec<ImageLayer>,
    pub settings: Vec<Setting>,
}

/// An image with its documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    /// What the name means: the manifest, or an index above it.
    pub root: Digest,
    pub image: Image,
    pub manifest: Vec<u8>,
    pub config: Vec<u8>,
}

/// A layer as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageLayer {
    pub digest: Digest,
    /// Bytes, packed.
    pub size: u64,
    pub packing: Packing,
    /// Of the tar.
    pub diff_id: Digest,
}

/// Where an image is.
pub struct Origin<'a> {
    place: Place<'a>,
    client: &'a Client,
    image: String,
    version: String,
}

enum Place<'a> {
    Registry(Box<Registry<'a>>),
    Layout(Layout),
}

impl<'a> Origin<'a> {
    pub fn new(
        root: &Path,
        client: &'a Client,
        keychain: &'a Keychain,
        mirrors: &MirrorMap,
        source: &ImageSource,
    ) -> Result<Self, OciError> {
        let image = source.to_string();
        let (place, version) = match source {
            ImageSource::Registry(reference) => {
                let registry = Registry::new(client, keychain, mirrors, reference)?;
                (Place::Registry(Box::new(registry)), reference.version())
            }
            ImageSource::Layout { dir, tag } => {
                let dir = root.join(dir);
                (Place::Layout(Layout::new(&dir, tag.as_deref(), image.clone())), String::new())
            }
        };
        Ok(Origin { place, client, image, version })
    }

    /// An image of a registry that is open.
    pub fn of_registry(registry: Registry<'a>, client: &'a Client, reference: &Reference) -> Self {
        Origin {
            place: Place::Registry(Box::new(registry)),
            client,
            image: reference.to_string(),
            version: reference.version(),
        }
    }

    /// The registry, where it is of one.
    pub fn registry(&self) -> Option<&Registry<'a>> {
        match &self.place {
            Place::Registry(registry) => Some(registry),
            Place::Layout(_) => None,
        }
    }

    /// Looks the image of a platform up, and holds all its documents against each other.
    pub fn resolve(&self, platform: Platform) -> Result<Image, OciError> {
        self.resolve_whole(platform).map(|whole| whole.image)
    }

    /// Likewise, with the documents. What the name means is asked once: all else goes by digests.
    pub fn resolve_whole(&self, platform: Platform) -> Result<Whole, OciError> {
        let bad = |source| OciError::Document { image: self.image.clone(), source };
        let (mut digest, mut document, mut bytes) = self.root()?;
        let root = digest;
        let mut depth = 0;
        let manifest = loop {
            let entries = match document {
                Document::Image(manifest) => break manifest,
                Document::Index(_) if depth == DEEPEST => {
                    let reason = "indexes within indexes".to_owned();
                    let source = super::document::DocumentError::Json { what: "index", reason };
                    return Err(bad(source));
                }
                Document::Index(entries) => entries,
            };
            depth += 1;
            let meant = pick(&entries, platform).map_err(bad)?;
            digest = meant.digest;
            (document, bytes) = self.inner(meant)?;
        };
        let packings = manifest.packings().map_err(bad)?;
        let config_bytes = self.config(&manifest.config)?;
        let config = Config::parse(&config_bytes).map_err(bad)?;
        let diff_ids = config.diff_ids(&manifest, platform).map_err(bad)?;
        let layers = manifest.layers.iter().zip(packings).zip(diff_ids);
        let layers = layers.map(|((layer, packing), diff_id)| ImageLayer {
            digest: layer.digest,
            size: layer.size,
            packing,
            diff_id: *diff_id,
        });
        let image = Image {
            manifest: digest,
            manifest_size: bytes.len() as u64,
            config: manifest.config.digest,
            config_size: manifest.config.size,
            layers: layers.collect(),
            settings: config.settings().map_err(bad)?,
        };
        Ok(Whole { root, image, manifest: bytes, config: config_bytes })
    }

    /// The document that the name leads to.
    fn root(&self) -> Result<(Digest, Document, Vec<u8>), OciError> {
        let (bytes, served, named) = match &self.place {
            Place::Layout(layout) => {
                let digest = layout.find()?;
                (layout.blob(&digest)?, None, Some(digest))
            }
            Place::Registry(registry) => {
                let document = registry.manifest(&self.version)?;
                (document.bytes, document.media_type, self.version.parse().ok())
            }
        };
        let found = Digest::of(&bytes);
        if let Some(expected) = named.filter(|named| *named != found) {
            return Err(self.other_bytes("the manifest", expected, found));
        }
        Ok((found, self.parse(&bytes, served.as_deref())?, bytes))
    }

    /// A document that another one names.
    fn inner(&self, meant: &Descriptor) -> Result<(Document, Vec<u8>), OciError> {
        let (bytes, served) = match &self.place {
            Place::Layout(layout) => (layout.blob(&meant.digest)?, None),
            Place::Registry(registry) => {
                let document = registry.manifest(&meant.digest.to_string())?;
                (document.bytes, document.media_type)
            }
        };
        self.check("the manifest", meant, &bytes)?;
        let served = served.or_else(|| Some(meant.media_type.clone()));
        Ok((self.parse(&bytes, served.as_deref())?, bytes))
    }

    fn config(&self, config: &Descriptor) -> Result<Vec<u8>, OciError> {
        let bytes = match &self.place {
            Place::Layout(layout) => layout.blob(&config.digest)?,
            Place::Registry(registry) => {
                let label = format!("config of `{}`", self.image);
                registry.blob(&label, &config.digest, LARGEST_CONFIG)?
            }
        };
        self.check("the config", config, &bytes)?;
        Ok(bytes)
    }

    fn parse(&self, bytes: &[u8], served: Option<&str>) -> Result<Document, OciError> {
        Document::parse(bytes, served)
            .map_err(|source| OciError::Document { image: self.image.clone(), source })
    }

    fn check(&self, what: &'static str, named: &Descriptor, bytes: &[u8]) -> Result<(), OciError> {
        let (expected, found) = (named.size, bytes.len() as u64);
        if expected != found {
            return Err(OciError::Size { image: self.image.clone(), what, expected, found });
        }
        match Digest::of(bytes) {
            found if found != named.digest => Err(self.other_bytes(what, named.digest, found)),
            _ => Ok(()),
        }
    }

    fn other_bytes(&self, what: &'static str, expected: Digest, found: Digest) -> OciError {
        OciError::Digest { image: self.image.clone(), what, expected, found }
    }

    /// Has blobs in the store; answers what failed. The addresses of `wants` are filled in here.
    pub fn fetch(
        &self,
        wants: Vec<(Digest, Want)>,
        store: &Store,
        progress: &dyn Progress,
    ) -> Result<BTreeMap<Integrity, FetchError>, OciError> {
        match &self.place {
            Place::Registry(registry) => fetch_blobs(self.client, registry, wants, progress),
            Place::Layout(layout) => {
                for (digest, _) in wants.iter().filter(|(digest, _)| !store.has_blob(digest)) {
                    let path = layout.blob_path(digest);
                    let bytes = std::fs::File::open(&path).at("open", &path)?;
                    let found = Digest::of_reader(bytes).at("read", &path)?;
                    if found != *digest {
                        return Err(self.other_bytes("a layer", *digest, found));
                    }
                    store.import(&path).map_err(|error| match error {
                        crate::store::StoreError::Io(error) => OciError::Io(error),
                        error => FetchError::Setup(error.to_string()).into(),
                    })?;
                }
                Ok(BTreeMap::new())
            }
        }
    }
}

/// Has blobs of a registry fetched; answers what failed. The addresses of `wants` are filled in here.
pub(super) fn fetch_blobs(
    client: &Client,
    registry: &Registry<'_>,
    wants: Vec<(Digest, Want)>,
    progress: &dyn Progress,
) -> Result<BTreeMap<Integrity, FetchError>, OciError> {
    let request = |authorization| {
        let login = Login::from(authorization);
        let want = |(digest, want): &(Digest, Want)| {
            let (urls, login) = (vec![registry.blob_url(digest)], login.clone());
            Want { urls, login, ..want.clone() }
        };
        let mut failures = client.fetch_directly(wants.iter().map(want).collect(), progress)?;
        // one that was refused speaks for all: with a token, those that are there are passed over
        let refused = failures.iter().find(|(_, error)| error.demands());
        let refused = refused.map(|(digest, _)| *digest);
        match refused.and_then(|digest| failures.remove(&digest)) {
            Some(error) => Err(error),
            None => Ok(failures),
        }
    };
    let size = |path: &Path| std::fs::metadata(path).map(|found| found.len());
    let has = |want: &Want| size(&want.into).or_else(|_| size(&want.part)).unwrap_or_default();
    registry.ask_on(request, || wants.iter().map(|(_, want)| has(want)).sum())
}
