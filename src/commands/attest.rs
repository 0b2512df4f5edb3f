//! What `sbx push` attaches to an image: bills of materials, provenance, signatures.
//!
//! All that can be wrong with a key or a source is found before anything is sent: what is left for later is
//! to write down which manifest a document is about.

use std::path::PathBuf;

use clap::Args;

use sbx::digest::Digest;
use sbx::lock::Lock;
use sbx::oci::Registry;
use sbx::report::sign::PrivateKey;
use sbx::report::{
    CYCLONEDX_PREDICATE, Given, Inventory, PAYLOAD_TYPE, PROVENANCE_PREDICATE, Provenance,
    SPDX_PREDICATE, attest, cyclonedx, spdx,
};
use sbx::ship::{Attaching, Attestation, Pushed, ShipError, SignedForm};

use super::documents::read_key;
use super::provenance::uri;
use super::ready::{Ready, Whence};
use crate::failure::Outcome;
use crate::ui::Ui;
use crate::workspace::{Target, Workspace};

/// Media types of documents that are not signed.
const SPDX: &str = "application/spdx+json";
const CYCLONEDX: &str = "application/vnd.cyclonedx+json";

#[derive(Args)]
pub struct AttestArguments {
    /// Attach its bills of materials (SPDX, CycloneDX) and its provenance (SLSA)
    #[arg(long)]
    attest: bool,
    /// Sign it with this key (PKCS #8 or cosign's, ECDSA P-256), and what is attached
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Sign in bundles of sigstore's, which only cosign 3 and later reads, in place of tags of cosign's
    #[arg(long, requires = "key")]
    bundles: bool,
    /// Who builds, as a URI, for its provenance (default: somebody's own machine)
    #[arg(long, value_name = "URI", requires = "attest", value_parser = uri)]
    builder: Option<String>,
}

/// What documents are made of.
pub struct Sources<'a> {
    pub workspace: &'a Workspace,
    pub lock: &'a Lock,
    pub targets: &'a [Target<'a>],
    pub ready: &'a [Ready],
}

/// What is to be attached, as far as it is known before the manifests are.
pub struct Papers {
    key: Option<PrivateKey>,
    form: SignedForm,
    /// Of each image, where there are any.
    images: Vec<Option<Facts>>,
}

/// What is said of an image.
struct Facts {
    inventory: Inventory,
    spdx: Vec<u8>,
    cyclonedx: Vec<u8>,
    provenance: Provenance,
}

impl AttestArguments {
    /// Reads the key and makes the documents; none where nothing is to be attached.
    pub fn prepare(&self, sources: &Sources<'_>, ui: &Ui) -> Outcome<Option<Papers>> {
        if !self.attest && self.key.is_none() {
            return Ok(None);
        }
        let key = self.key.as_deref().map(read_key).transpose()?;
        let mut images = Vec::new();
        for ready in sources.ready {
            images.push(match &ready.whence {
                _ if !self.attest => None,
                Whence::Built(plan) => {
                    let (project, store) = (&sources.workspace.project, &sources.workspace.store);
                    let (sandbox, lock) = (sources.targets[0].sandbox, sources.lock);
                    let given = Given { project, sandbox, lock, plan, store };
                    Some(Facts::new(given, self.builder.as_deref())?)
                }
                Whence::Pulled(from) => {
                    // how it was made, whoever made it knows
                    ui.say(&format!("note: nothing is attested of `{from}`"));
                    None
                }
            });
        }
        let form = if self.bundles { SignedForm::Bundles } else { SignedForm::Tags };
        Ok(Some(Papers { key, form, images }))
    }
}

impl Papers {
    /// Attaches everything; answers the digests.
    pub fn attach(
        &self,
        registry: &Registry<'_>,
        pushed: &Pushed,
        ui: &Ui,
    ) -> Result<Vec<Digest>, ShipError> {
        let attaching = Attaching { registry, form: self.form, progress: ui };
        let mut attached = Vec::new();
        for (facts, manifest) in self.images.iter().zip(&pushed.manifests) {
            match (facts, &self.key) {
                (None, _) => {}
                (Some(facts), Some(key)) => {
                    let attestations = facts.attestations(manifest.digest);
                    attached.extend(attaching.attest(manifest, key, &attestations)?);
                }
                (Some(facts), None) => {
                    for (media_type, bytes) in facts.documents(manifest.digest) {
                        attached.push(attaching.attach(manifest, media_type, bytes)?);
                    }
                }
            }
        }
        if let Some(key) = &self.key {
            // an index and what it lists: either may be pulled by its digest
            let several = pushed.manifests.len() > 1;
            let all = pushed.manifests.iter().chain(several.then_some(&pushed.root));
            for one in all {
                attached.push(attaching.sign(one, key)?);
            }
        }
        Ok(attached)
    }
}

impl Facts {
    fn new(given: Given<'_>, builder: Option<&str>) -> Outcome<Self> {
        let inventory = Inventory::new(given)?;
        let provenance = Provenance::new(given, builder)?;
        let (spdx, cyclonedx) = (spdx(&inventory), cyclonedx(&inventory));
        Ok(Facts { inventory, spdx, cyclonedx, provenance })
    }

    /// As they are where nobody signs them, with their media types.
    fn documents(&self, manifest: Digest) -> [(&'static str, Vec<u8>); 3] {
        [
            (SPDX, self.spdx.clone()),
            (CYCLONEDX, self.cyclonedx.clone()),
            (PAYLOAD_TYPE, self.provenance.to_bytes(&[manifest])),
        ]
    }

    fn attestations(&self, manifest: Digest) -> [Attestation; 3] {
        let bill = |predicate, document: &[u8]| {
            let bytes = attest(&self.inventory.subject, &[manifest], predicate, document);
            Attestation { predicate, bytes }
        };
        let bytes = self.provenance.to_bytes(&[manifest]);
        [
            bill(SPDX_PREDICATE, &self.spdx),
            bill(CYCLONEDX_PREDICATE, &self.cyclonedx),
            Attestation { predicate: PROVENANCE_PREDICATE, bytes },
        ]
    }
}
