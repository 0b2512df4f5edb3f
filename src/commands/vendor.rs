//! `sbx vendor`: every source of the lock in one directory, for machines without a network.

use std::path::PathBuf;

use clap::Args;
use rayon::prelude::*;
use serde::Serialize;

use sbx::build::emulator::packages;
use sbx::build::run::OnFailure;
use sbx::jail::IdMap;
use sbx::lock::Source;
use sbx::store::Held;
use sbx::vendor::{VendorDir, VendorError};

use super::Global;
use super::build::{builder, ensure_lock, layers_of};
use crate::failure::Outcome;
use crate::ui::Ui;
use crate::workspace::Workspace;

#[derive(Args)]
pub struct VendorArguments {
    /// Where they go; what is there already is checked and kept
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Names of sandboxes, or globs of names (default: all); all platforms of the project are meant
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Fail where the lock would have to change
    #[arg(long)]
    locked: bool,
}

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
    let dir = VendorDir::open(&arguments.dir)?;
    let survey = dir.survey(&sources)?;
    for digest in &survey.damaged {
        ui.say(&format!("note: {digest} was damaged in {}: removed", arguments.dir.display()));
    }
    let bytes = add(&workspace, &dir, &survey.missing, ui)?;
    dir.list(&workspace.project.name, &sources)?;
    let answer = Answer { files: sources.len(), added: survey.missing.len(), bytes };
    ui.answer(&answer, || {
        let Answer { files, added, bytes } = &answer;
        format!("vendored {files} files, {added} of them now ({bytes} bytes)")
    });
    Ok(())
}

/// Fetches what the store lacks and hands everything on; what the store has damaged is fetched again.
fn add(workspace: &Workspace, dir: &VendorDir, missing: &[Source<'_>], ui: &Ui) -> Outcome<u64> {
    let store = &workspace.store;
    let held: Vec<_> = missing.iter().map(|one| (one.integrity(), one.size())).collect();
    store.hold(held.iter().map(|(digest, size)| Held::Source(digest, *size)))?;
    let builder = builder(workspace, ui, IdMap::Identity, OnFailure::End);
    builder.fetch(missing)?;
    let one = |source: &Source<'_>| match dir.add(store, source) {
        Err(VendorError::Corrupt { label, expected, .. }) => {
            ui.say(&format!("note: {label} was damaged in the store: it is fetched again"));
            store.drop_source(&expected)?;
            builder.fetch(&[*source])?;
            Ok(dir.add(store, source)?)
        }
        added => Ok(added?),
    };
    missing.par_iter().map(one).sum()
}
