//! `sbx fetch`: everything that a build needs, before the network goes away.

use clap::Args;
use serde::Serialize;

use sbx::build::builder::Builder;
use sbx::jail::IdMap;
use sbx::lock::DebPin;
use sbx::platform::Platform;

use super::Global;
use super::build::ensure_lock;
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
    let wanted = lock.layers.iter().filter(|((name, platform), _)| {
        layers.iter().any(|(layer, of)| layer.name == *name && of == platform)
    });
    let mut missing: Vec<&DebPin> = wanted
        .flat_map(|(_, locked)| &locked.debs)
        .filter(|pin| workspace.store.find_blob(&pin.digest) != Some(pin.size))
        .collect();
    missing.sort_by_key(|pin| pin.digest);
    missing.dedup_by_key(|pin| pin.digest);
    let builder = Builder {
        project: &workspace.project,
        store: &workspace.store,
        client: &workspace.client,
        mirrors: &workspace.mirrors,
        jail: &workspace.jail,
        id_map: IdMap::Identity,
        events: ui,
    };
    builder.fetch(&missing)?;
    let answer = Answer { files: missing.len(), bytes: missing.iter().map(|pin| pin.size).sum() };
    ui.answer(&answer, || format!("fetched {} files, {} bytes", answer.files, answer.bytes));
    Ok(())
}
