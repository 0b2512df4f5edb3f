//! `sbx fetch`: everything that a build needs, before the network goes away.

use clap::Args;
use serde::Serialize;

use sbx::build::emulator::packages;
use sbx::build::run::OnFailure;
use sbx::jail::IdMap;
use sbx::lock::Source;
use sbx::lock::solve::Places;
use sbx::platform::Platform;

use super::Global;
use super::build::{builder, ensure_lock};
use crate::failure::Outcome;
use crate::ui::Ui;
use crate::workspace::Workspace;

#[derive(Args)]
pub struct FetchArguments {
    /// Names of sandboxes, or globs of names (default: all)
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Fail where the lock would have to change
    #[arg(long)]
    locked: bool,
    /// For this platform (default: this machine's)
    #[arg(long, value_name = "OS/ARCH")]
    platform: Vec<Platform>,
}

#[derive(Serialize)]
struct Answer {
    files: usize,
    bytes: u64,
}

pub fn run(global: &Global, arguments: &FetchArguments, ui: &Ui) -> Outcome {
    let workspace = Workspace::open(global)?;
    let all = arguments.names.is_empty();
    let targets = workspace.targets(&arguments.names, all, &arguments.platform)?;
    let lock = ensure_lock(&workspace, &targets, arguments.locked, ui)?;
    let layers = super::build::layers_of(&workspace.project, &targets);
    let Workspace { project, mirrors, store, keychain, .. } = &workspace;
    let places = Places { project, mirrors, store, keychain };
    let mut missing = lock.sources(|name, platform| {
        layers.iter().any(|(layer, of)| layer.name == *name && *of == platform)
    });
    missing.retain(|source| !places.has(source));
    let tools = packages(targets.iter().map(|target| target.platform));
    let tools: Vec<Source<'_>> =
        tools.iter().map(Source::Deb).filter(|one| !places.has(one)).collect();
    let builder = builder(&workspace, ui, IdMap::Identity, OnFailure::End);
    store.within_cap(|| builder.fetch(&missing).and_then(|()| builder.fetch_tools(&tools)))??;
    missing.extend(tools);
    let bytes = missing.iter().filter_map(|source| store.find_source(&source.integrity())).sum();
    let answer = Answer { files: missing.len(), bytes };
    ui.answer(&answer, || format!("fetched {} files, {} bytes", answer.files, answer.bytes));
    Ok(())
}
