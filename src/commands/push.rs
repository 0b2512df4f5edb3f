//! `sbx push`: an image to a registry.

use std::collections::BTreeMap;
use std::time::Instant;

use clap::{Args, ValueEnum};
use serde::Serialize;

use sbx::decl::{ImageSource, Recipe};
use sbx::digest::Digest;
use sbx::image::{Compression, Form};
use sbx::oci::{Access, Registry};
use sbx::platform::Platform;
use sbx::reference::Reference;
use sbx::ship::{Attach, Push, Pushed, Shipped, Traffic, mounts};
use sbx::store::PushedImage;

use super::Global;
use super::attest::{AttestArguments, Sources};
use super::build::layers_of;
use super::ready::{Ready, Wanted, With};
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
    /// What is built for these platforms (default: all that is built)
    #[arg(long, value_name = "OS/ARCH")]
    platform: Vec<Platform>,
    /// Put into the index, too, what was pulled by this reference (default: for all platforms that it was
    /// pulled for)
    #[arg(long, value_name = "[OS/ARCH=]REF")]
    with: Vec<With>,
    #[command(flatten)]
    form: FormArguments,
    #[command(flatten)]
    attest: AttestArguments,
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
    /// How hard to try: 1 to 12 for gzip (default: 1), 1 to 19 for zstd (default: 3)
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
    /// By what it was pulled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pulled: Option<Reference>,
}

pub fn run(global: &Global, arguments: &PushArguments, ui: &Ui) -> Outcome {
    let start = Instant::now();
    let workspace = Workspace::open(global)?;
    let help = "`sbx save` writes the image into a file";
    super::needs_network(&workspace, "push", help)?;
    let lock = workspace.read_lock()?;
    let targets = find_targets(&workspace, arguments)?;
    let reference = match &arguments.reference {
        Some(reference) => reference.clone(),
        None => default_reference(&workspace, targets[0])?,
    };
    refuse_digest(&reference)?;
    let (all, with) = (!arguments.platform.is_empty(), &arguments.with);
    let wanted = Wanted { workspace: &workspace, lock: &lock, targets: &targets, all, with };
    let client = &workspace.client;
    let ready = std::thread::scope(|scope| {
        // reading certificates takes about as long as planning
        scope.spawn(|| client.prepare());
        wanted.find(ui)
    })?;
    let sources = Sources { workspace: &workspace, lock: &lock, targets: &targets, ready: &ready };
    let papers = arguments.attest.prepare(&sources, ui)?;
    let registry = Registry::writable(client, &workspace.keychain, &reference)?;
    let homes = homes(&workspace, &targets, &registry, &ready)?;
    let mounts = mounts(&homes, registry.repository());
    let registry = registry.with_access(Access::Write { mounts });
    let registry = if arguments.plain_http { registry.with_plain_http() } else { registry };
    let (store, form) = (&workspace.store, arguments.form.form()?);
    let last = store.find_last_push(&reference);
    let push = Push { store, registry: &registry, form, homes, last, progress: ui };
    let images: Vec<Shipped<'_>> = ready.iter().map(Ready::shipped).collect();
    ui.sends();
    let mut attached = Vec::new();
    let mut attach = papers.as_ref().map(|papers| {
        |pushed: &Pushed| {
            attached = papers.attach(&registry, pushed, ui)?;
            Ok(())
        }
    });
    let attach = attach.as_mut().map(|attach| attach as Attach<'_>);
    let pushed = store.within_cap(|| push.run(&images, &reference.version(), attach))??;
    remember(&workspace, &reference, &ready, &pushed)?;
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

fn refuse_digest(reference: &Reference) -> Outcome {
    match reference.digest() {
        None => Ok(()),
        Some(_) => {
            let message = format!("`{reference}` has a digest, and nothing can be pushed to one");
            Err(Failure::input(message).with_help("name a tag"))
        }
    }
}

/// Where the registry has blobs already: where they were pushed to, and where bases and what was pulled
/// came from.
fn homes(
    workspace: &Workspace,
    targets: &[Target<'_>],
    registry: &Registry<'_>,
    ready: &[Ready],
) -> Outcome<BTreeMap<Digest, String>> {
    let mut homes = BTreeMap::new();
    let layers = layers_of(&workspace.project, targets);
    let bases =
        layers.iter().flat_map(|(layer, _)| &layer.recipes).filter_map(|recipe| match recipe {
            Recipe::From(from) => match &from.source {
                ImageSource::Registry(base) => Some(base),
                _ => None,
            },
            _ => None,
        });
    let mut add = |from: &Reference, blobs: &[Digest]| {
        let home = Registry::writable(&workspace.client, &workspace.keychain, from)?;
        if home.host() == registry.host() {
            homes.extend(blobs.iter().map(|blob| (*blob, home.repository().to_owned())));
        }
        Outcome::Ok(())
    };
    let built = ready.iter().filter(|one| one.pulled().is_none());
    let of_bases: Vec<Digest> = built.flat_map(packed).collect();
    for base in bases {
        add(base, &of_bases)?;
    }
    for one in ready {
        if let Some(from) = one.pulled() {
            let blobs: Vec<Digest> = packed(one).chain([one.record.image]).collect();
            add(from, &blobs)?;
        }
    }
    homes.extend(workspace.store.find_homes(registry.host()));
    Ok(homes)
}

/// Layers that stayed as their registry has them.
fn packed(one: &Ready) -> impl Iterator<Item = Digest> {
    one.record.layers.iter().filter_map(|layer| Some(layer.packed.as_ref()?.digest))
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
        pulled: ready.pulled().cloned(),
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
