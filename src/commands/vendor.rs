//! `sbx vendor`: every source of the lock in one place, for machines that see nothing else.

use std::path::Path;

use clap::Args;
use rayon::prelude::*;
use serde::Serialize;

use sbx::build::emulator::packages;
use sbx::build::run::OnFailure;
use sbx::decl::MirrorPlace;
use sbx::jail::IdMap;
use sbx::lock::Source;
use sbx::oci::Registry;
use sbx::reference::Reference;
use sbx::store::Held;
use sbx::vendor::{VendorDir, VendorError, VendorRepository};

use super::Global;
use super::build::{builder, ensure_lock, layers_of};
use crate::failure::{Failure, Outcome};
use crate::ui::Ui;
use crate::workspace::Workspace;

#[derive(Args)]
pub struct VendorArguments {
    /// Where they go: a directory, or `oci://HOST/REPOSITORY[:TAG]`; what is there already is kept
    #[arg(value_name = "DIR|REF")]
    place: MirrorPlace,
    /// Names of sandboxes, or globs of names (default: all); all platforms of the project are meant
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Fail where the lock would have to change
    #[arg(long)]
    locked: bool,
    /// Speak plain http with a registry that is not on this machine
    #[arg(long)]
    plain_http: bool,
}

/// How many sources are on their way at a time.
const PARALLEL: usize = 8;

#[derive(Serialize)]
struct Answer {
    files: usize,
    /// Of them, those that were not there before, and their bytes.
    added: usize,
    bytes: u64,
}

pub fn run(global: &Global, arguments: &VendorArguments, ui: &Ui) -> Outcome {
    let workspace = Workspace::open(global)?;
    let all = arguments.names.is_empty();
    let platforms = workspace.project.platforms.clone();
    let targets = workspace.targets(&arguments.names, all, &platforms)?;
    let lock = ensure_lock(&workspace, &targets, arguments.locked, ui)?;
    let layers = layers_of(&workspace.project, &targets);
    let mut sources = lock.sources(|name, platform| {
        layers.iter().any(|(layer, of)| layer.name == *name && *of == platform)
    });
    let tools = packages(platforms);
    let tools: Vec<Source<'_>> = tools.iter().map(Source::Deb).collect();
    builder(&workspace, ui, IdMap::Identity, OnFailure::End).fetch_tools(&tools)?;
    sources.extend(tools);
    let answer = match &arguments.place {
        MirrorPlace::Dir(dir) if is_like_registry(dir) => {
            let dir = dir.display();
            return Err(Failure::input(format!(
                "`{dir}` is a directory that is not there, and reads like a registry's repository"
            ))
            .with_help(format!(
                "say `oci://{dir}` for the registry, or `./{dir}` for the directory"
            )));
        }
        MirrorPlace::Dir(dir) => fill_dir(&workspace, dir, &sources, ui)?,
        MirrorPlace::Registry(reference) => {
            let registry = open(&workspace, reference, arguments.plain_http)?;
            fill_repository(&workspace, &registry, &reference.version(), &sources, ui)?
        }
        MirrorPlace::Url(_) => {
            let message = format!("`{}` can be read from only", arguments.place);
            return Err(Failure::input(message)
                .with_help("name a directory, or `oci://HOST/REPOSITORY[:TAG]`"));
        }
    };
    ui.answer(&answer, || {
        let Answer { files, added, bytes } = &answer;
        format!("vendored {files} files, {added} of them now ({bytes} bytes)")
    });
    Ok(())
}

/// Whether a path begins as a registry's name would (`HOST:PORT/…`, `registry.example.org/…`, `localhost/…`),
/// and nothing of that name is there.
fn is_like_registry(path: &Path) -> bool {
    let Some((first, _)) = path.to_str().and_then(|text| text.split_once('/')) else {
        return false;
    };
    let is_host = first == "localhost" || first.contains([':', '.']) && !first.starts_with('.');
    is_host && !Path::new(first).exists()
}

fn fill_dir(
    workspace: &Workspace,
    path: &Path,
    sources: &[Source<'_>],
    ui: &Ui,
) -> Outcome<Answer> {
    let dir = VendorDir::open(path)?;
    let survey = dir.survey(sources)?;
    for digest in &survey.damaged {
        ui.say(&format!("note: {digest} was damaged in {}: removed", path.display()));
    }
    let put = |source: &Source<'_>| dir.add(&workspace.store, source);
    let added = add(workspace, &survey.missing, put, ui)?;
    dir.list(&workspace.project.name, sources)?;
    Ok(Answer { files: sources.len(), added: added.len(), bytes: added.iter().sum() })
}

fn open<'a>(
    workspace: &'a Workspace,
    reference: &Reference,
    plain_http: bool,
) -> Outcome<Registry<'a>> {
    let registry = Registry::writable(&workspace.client, &workspace.keychain, reference)?;
    Ok(if plain_http { registry.with_plain_http() } else { registry })
}

fn fill_repository(
    workspace: &Workspace,
    registry: &Registry<'_>,
    version: &str,
    sources: &[Source<'_>],
    ui: &Ui,
) -> Outcome<Answer> {
    let repository = VendorRepository::open(registry, version)?;
    ui.sends();
    let put = |source: &Source<'_>| repository.add(&workspace.store, source, ui);
    let added = add(workspace, &repository.missing(sources)?, put, ui)?;
    let (layers, bytes): (Vec<_>, Vec<u64>) = added.into_iter().unzip();
    repository.list(&layers, ui)?;
    Ok(Answer { files: sources.len(), added: layers.len(), bytes: bytes.iter().sum() })
}

/// Fetches what the store lacks and hands everything on; what the store has damaged is fetched again.
fn add<T: Send>(
    workspace: &Workspace,
    missing: &[Source<'_>],
    put: impl Fn(&Source<'_>) -> Result<T, VendorError> + Sync,
    ui: &Ui,
) -> Outcome<Vec<T>> {
    let store = &workspace.store;
    let held: Vec<_> = missing.iter().map(|one| (one.integrity(), one.size())).collect();
    store.hold(held.iter().map(|(digest, size)| Held::Source(digest, *size)))?;
    let builder = builder(workspace, ui, IdMap::Identity, OnFailure::End);
    builder.fetch(missing)?;
    let one = |source: &Source<'_>| match put(source) {
        Err(VendorError::Corrupt { label, expected, .. }) => {
            ui.say(&format!("note: {label} was damaged in the store: it is fetched again"));
            store.drop_source(&expected)?;
            builder.fetch(&[*source])?;
            Ok(put(source)?)
        }
        added => Ok(added?),
    };
    // a registry answers slower than a disk, and to several at once
    let hands = rayon::ThreadPoolBuilder::new().num_threads(PARALLEL).build();
    let hands = hands.map_err(|error| Failure::world(error.to_string()))?;
    hands.install(|| missing.par_iter().map(one).collect())
}
