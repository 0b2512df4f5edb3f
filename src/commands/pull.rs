//! `sbx pull`: an image from a registry.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use sbx::digest::Digest;
use sbx::oci::{Origin, Registry, Whole};
use sbx::platform::Platform;
use sbx::reference::Reference;
use sbx::report::sign::PublicKey;
use sbx::ship::{Pull, verify, verify_attestations};

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
    /// Pull only what this key signed, attestations included (public key of ECDSA P-256, PEM)
    #[arg(long, value_name = "KEY")]
    verify: Option<PathBuf>,
    /// Speak plain http with a registry that is not on this machine
    #[arg(long)]
    plain_http: bool,
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
    /// What it attested: types of predicates.
    attested: BTreeSet<String>,
    /// Layers that came in, and their bytes.
    fetched: usize,
    bytes: u64,
    seconds: f64,
}

pub fn run(global: &Global, arguments: &PullArguments, ui: &Ui) -> Outcome {
    let start = Instant::now();
    let workspace = Workspace::open_for_reference(global)?;
    let (reference, store) = (&arguments.reference, &workspace.store);
    let platform = arguments.platform.unwrap_or(Platform::host());
    let (client, mirrors) = (&workspace.client, &workspace.mirrors);
    let registry = Registry::new(client, &workspace.keychain, mirrors, reference)?;
    let registry = if arguments.plain_http { registry.with_plain_http() } else { registry };
    let origin = Origin::of_registry(registry, client, reference);
    let whole = origin.resolve_whole(platform)?;
    let attested = match (&arguments.verify, origin.registry()) {
        (Some(path), Some(registry)) => verify_all(registry, &whole, &read_public_key(path)?)?,
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

/// Signatures are of what the reference names; attestations of a platform's image as well.
fn verify_all(
    registry: &Registry<'_>,
    whole: &Whole,
    key: &PublicKey,
) -> Outcome<BTreeSet<String>> {
    verify(registry, &whole.root, key)?;
    let mut attested = verify_attestations(registry, &whole.image.manifest, key)?;
    if whole.root != whole.image.manifest {
        attested.append(&mut verify_attestations(registry, &whole.root, key)?);
    }
    Ok(attested)
}

/// The public key of a file.
pub fn read_public_key(path: &Path) -> Outcome<PublicKey> {
    let fail =
        |error: &dyn std::fmt::Display| Failure::input(format!("key {}: {error}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| fail(&error))?;
    PublicKey::parse(&text).map_err(|error| fail(&error))
}
