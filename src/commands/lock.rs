//! `sbx lock`: resolves, updates, checks and compares.

use std::collections::BTreeSet;

use clap::Args;

use sbx::decl::Layer;
use sbx::lock::solve::{Origins, Update, unanswered};
use sbx::lock::{Change, Lock, LockDiff};
use sbx::platform::Platform;

use super::Global;
use super::build::{layers_of, scan_layers, solve};
use super::expected::drop_outdated;
use crate::failure::{Failure, Outcome};
use crate::ui::Ui;
use crate::workspace::{Target, Workspace};

#[derive(Args)]
pub struct LockArguments {
    /// Resolve anew: these packages or layers, or everything
    #[arg(long, value_name = "NAME", num_args = 0..)]
    update: Option<Vec<String>>,
    /// Fail if the lock does not answer the declarations; change nothing
    #[arg(long, conflicts_with_all = ["update", "diff"])]
    check: bool,
    /// Show what would change, and change nothing
    #[arg(long)]
    diff: bool,
}

pub fn run(global: &Global, arguments: &LockArguments, ui: &Ui) -> Outcome {
    let workspace = Workspace::open(global)?;
    let platforms = workspace.project.platforms.clone();
    let targets = workspace.targets(&[], true, &platforms)?;
    let lock = workspace.read_lock()?;
    if arguments.check {
        return check(&workspace, &targets, &lock, ui);
    }
    let layers = layers_of(&workspace.project, &targets);
    let update = match &arguments.update {
        None => Update::Missing,
        Some(names) if names.is_empty() => Update::All,
        Some(names) => Update::Named(known_names(&lock, &workspace, names)?),
    };
    let local = scan_layers(&workspace, &layers)?;
    let mut next = solve(&workspace, &local, &lock, &layers, &update, ui)?;
    // what no sandbox has any more is not locked any more
    next.retain(|name, platform| {
        layers.iter().any(|(layer, of)| layer.name == *name && *of == platform)
    });
    drop_outdated(&workspace, &mut next);
    let diff = LockDiff::between(&lock, &next);
    if !arguments.diff && next != lock {
        next.write(&workspace.lock_path())?;
        workspace.register(&next)?;
    }
    ui.answer(&diff, || show(&diff));
    Ok(())
}

fn check(workspace: &Workspace, targets: &[Target<'_>], lock: &Lock, ui: &Ui) -> Outcome {
    let layers = layers_of(&workspace.project, targets);
    let local = scan_layers(workspace, &layers)?;
    if !workspace.client.is_offline() {
        tell_moved(workspace, &layers, lock, ui);
    }
    let stale: Vec<String> = unanswered(&workspace.project, lock, &layers, &local)
        .into_iter()
        .map(|(layer, platform)| format!("`{}` for {platform}", layer.name))
        .collect();
    match stale.is_empty() {
        true => Ok(()),
        false => {
            let message = format!("the lock does not answer layer {}", stale.join(", "));
            Err(Failure::input(message).with_help("run `sbx lock`"))
        }
    }
}

/// Says which bases have moved at their registries. That makes a lock no worse, so it fails nothing.
fn tell_moved(workspace: &Workspace, layers: &[(&Layer, Platform)], lock: &Lock, ui: &Ui) {
    for (layer, platform) in layers {
        let origin = Origins {
            project: &workspace.project,
            client: &workspace.client,
            mirrors: &workspace.mirrors,
            keychain: &workspace.keychain,
        };
        match origin.find_moved(lock, layer, *platform) {
            Ok(None) => {}
            Ok(Some((pin, now))) => ui.say(&format!(
                "note: base `{}` for {platform} has moved: locked is {}, it is now {now} \
                 (`sbx lock --update {}` follows it)",
                pin.name, pin.manifest, layer.name
            )),
            Err(error) => {
                ui.say(&format!(
                    "note: whether the base of layer `{}` moved is not known: {error}",
                    layer.name
                ));
            }
        }
    }
}

fn known_names(lock: &Lock, workspace: &Workspace, names: &[String]) -> Outcome<BTreeSet<String>> {
    let locked = lock.names();
    let packages = || locked.iter().copied();
    let layers = || workspace.project.layers.keys().map(|name| name.as_str());
    for name in names {
        if !packages().chain(layers()).any(|known| known == name) {
            let failure =
                Failure::input(format!("neither a locked package nor a layer is called `{name}`"));
            return Err(match sbx::decl::nearest(name, packages().chain(layers())) {
                Some(near) => failure.with_help(format!("did you mean `{near}`?")),
                None => failure,
            });
        }
    }
    Ok(names.iter().cloned().collect())
}

fn show(diff: &LockDiff) -> String {
    if diff.is_empty() {
        return "the lock is up to date".to_owned();
    }
    let line = |change: &Change| {
        let Change { layer, platform, package, from, to, bytes } = change;
        let versions = match (from, to) {
            (None, Some(to)) => format!("+ {package} {to}"),
            (Some(from), None) => format!("- {package} {from}"),
            (Some(from), Some(to)) => format!("~ {package} {from} → {to}"),
            (None, None) => package.clone(),
        };
        format!("{layer} {platform} {versions} ({bytes:+} bytes)\n")
    };
    let lines: String = diff.changes.iter().map(line).collect();
    format!("{lines}{} packages, {:+} bytes", diff.changes.len(), diff.bytes())
}
