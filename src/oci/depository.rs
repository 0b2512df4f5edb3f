//! Sources in a registry: where `vendor` writes them, and where a build looks for them by their digests.
//!
//! A registry names blobs by sha256 and takes no other name everywhere, and it may throw away what no manifest
//! names. So an artifact lists the sources as its layers, and says of each by which digest a lock knows it
//! where that is another one (npm's sha512). What is known by sha256 is asked for by that, in one request and
//! without the list; for the others the list is read once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, OnceLock, PoisonError};

use serde_json::Value;

use super::credentials::Keychain;
use super::document::Descriptor;
use super::error::OciError;
use super::registry::{Pass, Registry};
use super::source::fetch_blobs;
use crate::decl::Ask;
use crate::digest::{Digest, Integrity};
use crate::fetch::{Client, FetchError, MirrorMap, Progress, SourceRegistry, Want};
use crate::reference::Reference;

/// The annotation of a layer that a lock knows by another digest than sha256.
pub const SOURCE_DIGEST: &str = "dev.sbx.source.digest";

/// Where the list has each source.
type Listed = BTreeMap<Integrity, Digest>;

/// A repository that is asked for sources.
pub struct Depository {
    reference: Reference,
    ask: Ask,
    keychain: Keychain,
    mirrors: MirrorMap,
    listed: OnceLock<Listed>,
    /// What the registry was shown before.
    pass: Mutex<Option<Pass>>,
}

impl fmt::Debug for Depository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Depository({})", self.reference)
    }
}

impl Depository {
    pub fn new(reference: Reference, ask: Ask, keychain: Keychain, mirrors: MirrorMap) -> Self {
        let (listed, pass) = (OnceLock::new(), Mutex::default());
        Depository { reference, ask, keychain, mirrors, listed, pass }
    }

    /// Where each of some sources is; those that are nowhere are left out.
    fn places(
        &self,
        registry: &Registry<'_>,
        wants: &[Want],
    ) -> Result<Vec<(Digest, Want)>, OciError> {
        let mut places = Vec::new();
        for want in wants {
            let place = match want.digest {
                Integrity::Sha256(digest) => Some(digest),
                other => self.listed(registry)?.get(&other).copied(),
            };
            places.extend(place.map(|place| (place, want.clone())));
        }
        Ok(places)
    }

    fn listed(&self, registry: &Registry<'_>) -> Result<&Listed, OciError> {
        if let Some(listed) = self.listed.get() {
            return Ok(listed);
        }
        let layers = match registry.artifact(&self.reference.version()) {
            Err(OciError::Missing { .. }) => Vec::new(),
            layers => layers?,
        };
        let listed =
            layers.iter().map(|(layer, notes)| (source_digest(layer, notes), layer.digest));
        Ok(self.listed.get_or_init(|| listed.collect()))
    }

    fn fetch(
        &self,
        client: &Client,
        wants: &[Want],
        progress: &dyn Progress,
    ) -> Result<BTreeMap<Integrity, FetchError>, OciError> {
        let known = self.pass.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let registry = Registry::new(client, &self.keychain, &self.mirrors, &self.reference)?;
        let registry = registry.with_pass(known);
        let places = self.places(&registry, wants)?;
        let placed: BTreeSet<Integrity> = places.iter().map(|(_, want)| want.digest).collect();
        let none = |want: &Want| (want.digest, FetchError::NoUrl { label: want.label.clone() });
        let lacking = wants.iter().filter(|want| !placed.contains(&want.digest));
        let mut failures: BTreeMap<_, _> = lacking.map(none).collect();
        failures.extend(fetch_blobs(client, &registry, places, progress)?);
        *self.pass.lock().unwrap_or_else(PoisonError::into_inner) = registry.pass();
        Ok(failures)
    }
}

/// By which digest a lock knows a layer of the list.
pub fn source_digest(layer: &Descriptor, annotations: &Value) -> Integrity {
    let named = annotations[SOURCE_DIGEST].as_str().and_then(|text| text.parse().ok());
    named.unwrap_or(layer.digest.into())
}

impl SourceRegistry for Depository {
    fn ask(&self) -> Ask {
        self.ask
    }

    fn take(
        &self,
        client: &Client,
        wants: Vec<Want>,
        progress: &dyn Progress,
    ) -> BTreeMap<Integrity, FetchError> {
        match self.fetch(client, &wants, progress) {
            Ok(failures) => {
                let wrong = failures.values().filter(|error| !error.is_absence());
                wrong.for_each(|error| progress.noted(&error.to_string()));
                failures
            }
            Err(error) => {
                let place = &self.reference;
                progress.noted(&format!("mirror `oci://{place}` is passed over: {error}"));
                let none = |want: Want| (want.digest, FetchError::NoUrl { label: want.label });
                wants.into_iter().map(none).collect()
            }
        }
    }
}
