//! What `sbx push` attaches to an image: bills of materials, provenance, signatures.

use std::collections::BTreeMap;

use sbx::digest::Digest;
use sbx::fetch::Progress;
use sbx::lock::Lock;
use sbx::oci::Registry;
use sbx::plan::Plan;
use sbx::report::sign::{Envelope, PrivateKey};
use sbx::report::{
    CYCLONEDX_PREDICATE, Given, Inventory, PAYLOAD_TYPE, PROVENANCE_PREDICATE, SPDX_PREDICATE,
    attest, cyclonedx, provenance, spdx,
};
use sbx::ship::{Attaching, ENVELOPE, Paper, Placed, Pushed};

use super::documents::read_key;
use super::push::PushArguments;
use super::ready::{Ready, Whence};
use crate::failure::Outcome;
use crate::ui::Ui;
use crate::workspace::{Target, Workspace};

/// Media types of documents that are not signed.
const SPDX: &str = "application/spdx+json";
const CYCLONEDX: &str = "application/vnd.cyclonedx+json";

/// What documents are made of.
pub struct Papers<'a> {
    pub workspace: &'a Workspace,
    pub lock: &'a Lock,
    pub targets: &'a [Target<'a>],
    pub ready: &'a [Ready],
}

/// A document, and as what it is signed.
struct Document {
    media_type: &'static str,
    predicate: &'static str,
    bytes: Vec<u8>,
    statement: Vec<u8>,
}

impl Papers<'_> {
    /// Attaches what was asked for; answers the digests.
    pub fn attach(
        &self,
        arguments: &PushArguments,
        registry: &Registry<'_>,
        pushed: &Pushed,
        ui: &Ui,
    ) -> Outcome<Vec<Digest>> {
        let key = arguments.key.as_deref().map(read_key).transpose()?;
        let attaching = Attaching { registry, progress: ui };
        let mut attached = Vec::new();
        for (ready, manifest) in self.ready.iter().zip(&pushed.manifests) {
            match &ready.whence {
                _ if !arguments.attest => {}
                Whence::Built(plan) => {
                    let documents = self.documents(plan, manifest)?;
                    attached.extend(attach(&attaching, manifest, documents, key.as_ref())?);
                }
                // how it was made, whoever made it knows
                Whence::Pulled(from) => ui.noted(&format!("nothing is attested of `{from}`")),
            }
        }
        if let Some(key) = &key {
            // an index and what it lists: either may be pulled by its digest
            let several = pushed.manifests.len() > 1;
            let all = pushed.manifests.iter().chain(several.then_some(&pushed.root));
            for one in all {
                attached.push(attaching.sign(one, key)?);
            }
        }
        Ok(attached)
    }

    fn documents(&self, plan: &Plan, manifest: &Placed) -> Outcome<Vec<Document>> {
        let (project, store) = (&self.workspace.project, &self.workspace.store);
        let sandbox = self.targets[0].sandbox;
        let given = Given { project, sandbox, lock: self.lock, plan, store };
        let inventory = Inventory::new(given)?;
        let manifests = [manifest.digest];
        let bill = |media_type, predicate, bytes: Vec<u8>| {
            let statement = attest(&inventory.subject, &manifests, predicate, &bytes);
            Document { media_type, predicate, bytes, statement }
        };
        let made = provenance(given, None, &manifests)?;
        Ok(vec![
            bill(SPDX, SPDX_PREDICATE, spdx(&inventory)),
            bill(CYCLONEDX, CYCLONEDX_PREDICATE, cyclonedx(&inventory)),
            Document {
                media_type: PAYLOAD_TYPE,
                predicate: PROVENANCE_PREDICATE,
                bytes: made.clone(),
                statement: made,
            },
        ])
    }
}

/// Signed, all are envelopes of one artifact; else each is an artifact of its own.
fn attach(
    attaching: &Attaching<'_>,
    manifest: &Placed,
    documents: Vec<Document>,
    key: Option<&PrivateKey>,
) -> Outcome<Vec<Digest>> {
    let Some(key) = key else {
        let one = |document: Document| {
            let (media_type, bytes) = (document.media_type, document.bytes);
            let paper = Paper { media_type, annotations: BTreeMap::new(), bytes };
            Ok(attaching.attach(manifest, media_type, &[paper], None)?)
        };
        return documents.into_iter().map(one).collect();
    };
    let seal = |document: Document| {
        let predicate = document.predicate.to_owned();
        let annotations =
            [("predicateType", predicate), ("dev.cosignproject.cosign/signature", String::new())];
        Paper {
            media_type: ENVELOPE,
            annotations: annotations.map(|(name, value)| (name.to_owned(), value)).into(),
            bytes: Envelope::sign(key, PAYLOAD_TYPE, &document.statement).to_bytes(),
        }
    };
    let papers: Vec<Paper> = documents.into_iter().map(seal).collect();
    Ok(vec![attaching.attach(manifest, ENVELOPE, &papers, Some("att"))?])
}
