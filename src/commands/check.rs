//! `sbx check`: reads and plans without building.

use clap::Args;
use serde::Serialize;

use sbx::lock::Lock;
use sbx::lock::solve::unanswered;
use sbx::platform::Platform;
use sbx::store::Key;

use super::Global;
use super::build::{layers_of, plan_target, scan_layers};
use super::cache::check_keys;
use crate::failure::Outcome;
use crate::ui::Ui;
use crate::workspace::{Target, Workspace};

#[derive(Args)]
pub struct CheckArguments {
    /// Names of sandboxes, or globs of names (default: all)
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

#[derive(Serialize)]
struct Planned {
    sandbox: String,
    platform: Platform,
    /// Layers whose questions the lock does not answer; with any, there is no plan yet.
    unlocked: Vec<String>,
    steps: Vec<PlannedStep>,
}

#[derive(Serialize)]
struct PlannedStep {
    layer: String,
    title: String,
    key: Key,
    cached: bool,
}

pub fn run(global: &Global, arguments: &CheckArguments, ui: &Ui) -> Outcome {
    let workspace = Workspace::open(global)?;
    let all = arguments.names.is_empty();
    let platforms = workspace.project.platforms.clone();
    let targets = workspace.targets(&arguments.names, all, &platforms)?;
    let lock = workspace.read_lock()?;
    check_keys(&workspace.project)?;
    let mut planned = Vec::new();
    for target in targets {
        let (sandbox, platform) = (target.sandbox.name.to_string(), target.platform);
        let unlocked = unlocked(&workspace, target, &lock)?;
        let mut steps = Vec::new();
        if !unlocked.is_empty() {
            planned.push(Planned { sandbox, platform, unlocked, steps });
            continue;
        }
        let plan = plan_target(&workspace, target, &lock)?;
        for step in &plan.steps {
            let mut damaged = |digest: &sbx::digest::Digest| {
                ui.say(&format!("note: layer {digest} of the store is damaged"))
            };
            let cached = workspace.store.find_layer(&step.key, &mut damaged)?.is_some();
            steps.push(PlannedStep {
                layer: step.layer.to_string(),
                title: step.title.clone(),
                key: step.key,
                cached,
            });
        }
        planned.push(Planned { sandbox, platform, unlocked, steps });
    }
    ui.answer(&planned, || planned.iter().map(show).collect());
    Ok(())
}

fn unlocked(workspace: &Workspace, target: Target<'_>, lock: &Lock) -> Outcome<Vec<String>> {
    let layers = layers_of(&workspace.project, &[target]);
    let local = scan_layers(workspace, &layers)?;
    let layers = unanswered(&workspace.project, lock, &layers, &local);
    Ok(layers.into_iter().map(|(layer, _)| layer.name.to_string()).collect())
}

fn show(planned: &Planned) -> String {
    if !planned.unlocked.is_empty() {
        let names = planned.unlocked.join(", ");
        return format!(
            "{} {}\n  not locked yet: {names} (`sbx lock` resolves them)\n",
            planned.sandbox, planned.platform
        );
    }
    let step = |step: &PlannedStep| {
        let mark = if step.cached { "cached" } else { "to build" };
        format!("  {:8} {:16} {}\n", mark, step.layer, step.title)
    };
    let steps: String = planned.steps.iter().map(step).collect();
    format!("{} {}\n{steps}", planned.sandbox, planned.platform)
}
