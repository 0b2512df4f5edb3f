//! `sbx pull`: an image from a registry.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use sbx::digest::Digest;
use sbx::oci::{Origin, Registry, Whole};
use sbx::platform::Platform;
use sbx::reference::Reference;
use sbx::report::sign::PublicKey;
use sbx::report::{CYCLONEDX_PREDICATE, PROVENANCE_PREDICATE, SPDX_PREDICATE};
use sbx::ship::{Attested, Pull, ShipError, read_attested};

use super::Global;
use crate::failure::{Failure, Outcome};
use crate::ui::Ui;
use crate::workspace::Workspace;

#[derive(Args)]
pub struct PullArguments {
    /// What to pull
    #[arg(value_name = "REF")]
    reference: Reference,
    /// For this platform (default: this machine's)
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
    /// Pull only what this key signed (public key of ECDSA P-256, PEM); what it attests is told
    #[arg(long, value_name = "KEY")]
    verify: Option<PathBuf>,
    /// Pull only what that key attested as well: `spdx`, `cyclonedx`, `provenance`, or a type of predicates
    #[arg(long, value_name = "KIND", requires = "verify")]
    attested: Vec<Kind>,
    /// Speak plain http with a registry that is not on this machine
    #[arg(long)]
    plain_http: bool,
}

/// The type of an attestation's predicate.
#[derive(Clone, Debug)]
struct Kind(String);

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(Kind(match text {
            "spdx" => SPDX_PREDICATE.to_owned(),
            "cyclonedx" => CYCLONEDX_PREDICATE.to_owned(),
            "provenance" => PROVENANCE_PREDICATE.to_owned(),
            uri if uri.contains("://") => uri.to_owned(),
            _ => return Err("neither `spdx`, `cyclonedx`, `provenance` nor a URI".to_owned()),
        }))
    }
}

/// `pull --json`.
#[derive(Serialize)]
struct Answer {
    reference: Reference,
    /// Of what the reference names: a manifest, or an index of several platforms'.
    digest: Digest,
    platform: Platform,
    image: Digest,
    manifest: Digest,
    /// Whether a key was asked for and signed it.
    verified: bool,
    /// What that key attests: types of predicates.
    attested: BTreeSet<String>,
    /// Layers that came in, and their bytes.
    fetched: usize,
    bytes: u64,
    seconds: f64,
}

pub fn run(global: &Global, arguments: &PullArguments, ui: &Ui) -> Outcome {
    let start = Instant::now();
    let workspace = Workspace::open_for_reference(global)?;
    let help = "what was pulled before is in the store, and `sbx run`, `save` and `load` take it by its reference";
    super::needs_network(&workspace, "pull", help)?;
    let (reference, store) = (&arguments.reference, &workspace.store);
    let platform = arguments.platform.unwrap_or(Platform::host());
    let (client, mirrors) = (&workspace.client, &workspace.mirrors);
    let registry = Registry::new(client, &workspace.keychain, mirrors, reference)?;
    let registry = if arguments.plain_http { registry.with_plain_http() } else { registry };
    let origin = Origin::of_registry(registry, client, reference);
    let whole = origin.resolve_whole(platform).map_err(|error| {
        let is_for_another = error.is_of_platform();
        let failure = Failure::from(error);
        match is_for_another {
            true => {
                failure.with_help("say which is meant: `--platform OS/ARCH`, or the digest of one")
            }
            false => failure,
        }
    })?;
    let attested = match (&arguments.verify, origin.registry()) {
        (Some(path), Some(registry)) => {
            let key = read_public_key(path)?;
            Verifying { registry, key, needed: &arguments.attested, ui }.run(&whole)?
        }
        _ => BTreeSet::new(),
    };
    let pull = Pull { store, origin: &origin, reference, platform, progress: ui };
    let pulled = store.within_cap(|| pull.run(&whole))??;
    let answer = Answer {
        reference: reference.clone(),
        digest: whole.root,
        platform,
        image: pulled.record.image,
        manifest: pulled.record.manifest,
        verified: arguments.verify.is_some(),
        attested,
        fetched: pulled.fetched,
        bytes: pulled.bytes,
        seconds: start.elapsed().as_secs_f64(),
    };
    ui.answer(&answer, || format!("{reference}: {}", answer.image));
    Ok(())
}

/// What is held against a key.
struct Verifying<'a> {
    registry: &'a Registry<'a>,
    key: PublicKey,
    needed: &'a [Kind],
    ui: &'a Ui,
}

impl Verifying<'_> {
    /// Answers what the key attests. Signatures are of what the reference names; attestations of a
    /// platform's image as well.
    fn run(&self, whole: &Whole) -> Outcome<BTreeSet<String>> {
        let root = self.read(&whole.root)?;
        root.check(&whole.root)?;
        let (mut kinds, mut strange) = (root.kinds, root.strange_attestations);
        let subject = whole.image.manifest;
        if subject != whole.root {
            let mut image = self.read(&subject)?;
            kinds.append(&mut image.kinds);
            strange += image.strange_attestations;
        }
        if strange > 0 {
            self.ui.say(&format!(
                "note: {strange} attestations do not count: they are not of this key, or about something else"
            ));
        }
        match self.needed.iter().find(|kind| !kinds.contains(&kind.0)) {
            Some(kind) => Err(ShipError::NotAttested { subject, kind: kind.0.clone() }.into()),
            None => Ok(kinds),
        }
    }

    fn read(&self, subject: &Digest) -> Result<Attested, ShipError> {
        let attested = read_attested(self.registry, subject, &self.key)?;
        if attested.unread > 0 {
            let count = attested.unread;
            self.ui.say(&format!(
                "note: {count} documents about {subject} are not looked at: they are too large, or too many"
            ));
        }
        Ok(attested)
    }
}

/// The public key of a file.
pub fn read_public_key(path: &Path) -> Outcome<PublicKey> {
    let fail =
        |error: &dyn std::fmt::Display| Failure::input(format!("key {}: {error}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| fail(&error))?;
    PublicKey::parse(&text).map_err(|error| fail(&error))
}
