//! `sbx push`: an image to a registry.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, ValueEnum};
use serde::Serialize;

use sbx::decl::{ImageSource, Recipe};
use sbx::digest::Digest;
use sbx::fetch::MirrorMap;
use sbx::image::{Compression, Form};
use sbx::lock::Lock;
use sbx::oci::{Access, Registry};
use sbx::plan::Plan;
use sbx::platform::Platform;
use sbx::reference::Reference;
use sbx::ship::{Push, Pushed, Shipped, Traffic, mounts};
use sbx::store::{ImageRecord, PushedImage};

use super::Global;
use super::attest::Papers;
use super::build::{layers_of, plan_target};
use crate::failure::{Failure, Outcome};
use crate::ui::Ui;
use crate::workspace::{Target, Workspace};

#[derive(Args)]
pub struct PushArguments {
    /// Name of a sandbox that is built
    name: String,
    /// Where to (default: the sandbox's `reference`)
    #[arg(value_name = "REF")]
    reference: Option<Reference>,
    /// Of these platforms (default: all that are built)
    #[arg(long, value_name = "OS/ARCH")]
    platform: Vec<Platform>,
    #[command(flatten)]
    form: FormArguments,
    /// Attach its bills of materials (SPDX, CycloneDX) and its provenance (SLSA)
    #[arg(long)]
    pub attest: bool,
    /// Sign it with this key (PKCS #8 or cosign's, ECDSA P-256), and what is attached
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Speak plain http with a registry that is not on this machine
    #[arg(long)]
    plain_http: bool,
}

/// How layers are compressed. The manifest's digest depends on it.
#[derive(Args)]
pub struct FormArguments {
    /// How to compress layers; docker before 23 takes gzip only
    #[arg(long, value_enum, default_value_t = Kind::Gzip)]
    compression: Kind,
    /// How hard to try: 1 to 12 for gzip, 1 to 19 for zstd (default: 3)
    #[arg(long, value_name = "N")]
    level: Option<u8>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Gzip,
    Zstd,
}

impl FormArguments {
    fn form(&self) -> Outcome<Form> {
        let compression = match self.compression {
            Kind::Gzip => Compression::Gzip,
            Kind::Zstd => Compression::Zstd,
        };
        Form::new(compression, self.level).map_err(|error| Failure::input(error.to_string()))
    }
}

/// `push --json`.
#[derive(Serialize)]
struct Answer {
    reference: Reference,
    /// Of what the reference names: a manifest, or an index of several platforms'.
    digest: Digest,
    images: Vec<AnswerImage>,
    blobs: Traffic,
    /// Digests of what was attached.
    attached: Vec<Digest>,
    seconds: f64,
}

#[derive(Serialize)]
struct AnswerImage {
    platform: Platform,
    image: Digest,
    manifest: Digest,
}

/// An image of the store that is to be pushed.
pub struct Ready {
    pub platform: Platform,
    pub plan: Plan,
    pub record: ImageRecord,
}

pub fn run(global: &Global, arguments: &PushArguments, ui: &Ui) -> Outcome {
    let start = Instant::now();
    let workspace = Workspace::open(global)?;
    let lock = workspace.read_lock()?;
    let targets = find_targets(&workspace, arguments)?;
    let reference = match &arguments.reference {
        Some(reference) => reference.clone(),
        None => default_reference(&workspace, targets[0])?,
    };
    if reference.digest().is_some() {
        return Err(Failure::input(format!(
            "`{reference}` has a digest, and nothing can be pushed to one"
        ))
        .with_help("name a tag"));
    }
    let ready = find_ready(&workspace, &targets, &lock, !arguments.platform.is_empty())?;
    let homes = homes(&workspace, &targets, &reference, &ready);
    let mounts = mounts(&homes, reference.repository());
    // a mirror is read from, and never written to
    let mirrors = MirrorMap::default();
    let registry = Registry::new(&workspace.client, &workspace.keychain, &mirrors, &reference)?
        .with_access(Access::Write { mounts });
    let registry = if arguments.plain_http { registry.with_plain_http() } else { registry };
    let (store, form) = (&workspace.store, arguments.form.form()?);
    let push = Push { store, registry: &registry, form, homes, progress: ui };
    let images: Vec<Shipped<'_>> =
        ready.iter().map(|one| Shipped { spec: &one.plan.spec, record: &one.record }).collect();
    ui.sends();
    let pushed = store.within_cap(|| push.run(&images, &reference.version()))??;
    remember(&workspace, &reference, &ready, &pushed)?;
    let attached = Papers { workspace: &workspace, lock: &lock, targets: &targets, ready: &ready };
    let attached = attached.attach(arguments, &registry, &pushed, ui)?;
    let answer = Answer { attached, ..answer(reference, &ready, &pushed, start) };
    ui.answer(&answer, || format!("{}@{}", answer.reference, answer.digest));
    Ok(())
}

/// One sandbox, on the platforms asked for or on all that the project has.
fn find_targets<'a>(
    workspace: &'a Workspace,
    arguments: &PushArguments,
) -> Outcome<Vec<Target<'a>>> {
    let platforms = match arguments.platform.as_slice() {
        [] => &workspace.project.platforms,
        named => named,
    };
    let targets = workspace.targets(std::slice::from_ref(&arguments.name), false, platforms)?;
    match targets.iter().all(|target| target.sandbox.name == targets[0].sandbox.name) {
        true => Ok(targets),
        false => Err(Failure::input(format!("`{}` means more than one sandbox", arguments.name))),
    }
}

fn default_reference(workspace: &Workspace, target: Target<'_>) -> Outcome<Reference> {
    let text = workspace.project.reference_of(target.sandbox);
    text.parse().map_err(|error: sbx::reference::ReferenceError| Failure::input(error.to_string()))
}

/// The images as they are built; a platform that nobody asked for may be missing, but not all.
fn find_ready(
    workspace: &Workspace,
    targets: &[Target<'_>],
    lock: &Lock,
    all: bool,
) -> Outcome<Vec<Ready>> {
    let mut ready = Vec::new();
    let (mut missing, mut failure) = (None, None);
    for target in targets {
        let plan = match plan_target(workspace, *target, lock) {
            Ok(plan) => plan,
            // a platform that is not locked is not built either
            Err(error) if !all => {
                failure.get_or_insert(error);
                continue;
            }
            Err(error) => return Err(error),
        };
        match workspace.store.use_image(&plan.key)? {
            Some(record) => ready.push(Ready { platform: target.platform, plan, record }),
            None => missing = Some(target.platform),
        }
    }
    let name = &targets[0].sandbox.name;
    match (missing, failure) {
        (Some(platform), _) if all || ready.is_empty() => {
            let message = format!("`{name}` is not built for {platform} as it is declared now");
            Err(Failure::input(message)
                .with_help(format!("run `sbx build {name} --platform {platform}`")))
        }
        (None, Some(error)) if ready.is_empty() => Err(error),
        _ => Ok(ready),
    }
}

/// Where the registry has blobs already: where they were pushed to, and where bases came from.
fn homes(
    workspace: &Workspace,
    targets: &[Target<'_>],
    reference: &Reference,
    ready: &[Ready],
) -> BTreeMap<Digest, String> {
    let mut homes = BTreeMap::new();
    let layers = layers_of(&workspace.project, targets);
    let bases =
        layers.iter().flat_map(|(layer, _)| &layer.recipes).filter_map(|recipe| match recipe {
            Recipe::From(from) => match &from.source {
                ImageSource::Registry(base) if base.registry() == reference.registry() => {
                    Some(base)
                }
                _ => None,
            },
            _ => None,
        });
    for base in bases {
        for layer in ready.iter().flat_map(|one| &one.record.layers) {
            let packed = layer.packed.iter();
            homes.extend(packed.map(|packed| (packed.digest, base.repository().to_owned())));
        }
    }
    homes.extend(workspace.store.find_homes(registry_name(reference)));
    homes
}

fn registry_name(reference: &Reference) -> &str {
    reference.registry().unwrap_or(sbx::fetch::defaults::DOCKER_NAMES[0])
}

fn remember(
    workspace: &Workspace,
    reference: &Reference,
    ready: &[Ready],
    pushed: &Pushed,
) -> Outcome {
    let one = |ready: &Ready| PushedImage {
        image: ready.record.image,
        reference: reference.to_string(),
        manifest: pushed.root.digest,
    };
    let all: Vec<PushedImage> = ready.iter().map(one).collect();
    Ok(workspace.store.put_pushes(&all)?)
}

fn answer(reference: Reference, ready: &[Ready], pushed: &Pushed, start: Instant) -> Answer {
    let image = |(ready, manifest): (&Ready, &sbx::ship::Placed)| AnswerImage {
        platform: ready.platform,
        image: ready.record.image,
        manifest: manifest.digest,
    };
    Answer {
        reference,
        digest: pushed.root.digest,
        images: ready.iter().zip(&pushed.manifests).map(image).collect(),
        blobs: pushed.traffic,
        attached: Vec::new(),
        seconds: start.elapsed().as_secs_f64(),
    }
}
