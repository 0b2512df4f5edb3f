//! Images in the lock: what `build --record` writes down, and `--locked` holds.

use std::collections::BTreeMap;

use sbx::digest::Digest;
use sbx::lock::{Expected, ImageLock, Lock};
use sbx::plan::{Plan, Work};
use sbx::store::Key;

use super::build::plan_target;
use crate::failure::{Failure, Outcome};
use crate::ui::Ui;
use crate::workspace::{Target, Workspace};

/// An image that was built.
pub struct Obtained<'a> {
    pub target: Target<'a>,
    pub key: Key,
    pub image: Digest,
}

/// Holds what was built against the lock.
pub fn hold(lock: &Lock, plan: &Plan, image: &Digest, ui: &Ui) -> Outcome {
    let Plan { sandbox, platform, key, .. } = plan;
    match lock.expected(sandbox, *platform, key) {
        Expected::Image(expected) if expected != *image => {
            let message = format!(
                "`{sandbox}` for {platform} is image {image}, and the lock expects {expected}"
            );
            Err(Failure::input(message).with_help(advice(plan)))
        }
        Expected::Outdated => {
            ui.say(&format!(
                "note: the lock expects nothing of `{sandbox}` for {platform} as it is declared now \
                 (`sbx build {sandbox} --record` writes its image down)"
            ));
            Ok(())
        }
        Expected::Image(_) | Expected::Nothing => Ok(()),
    }
}

/// What may have differed, since all that was asked for did not.
fn advice(plan: &Plan) -> String {
    let runs = |work: &Work| matches!(work, Work::Run(_) | Work::Settle(_) | Work::Pnpm(_));
    let steps = plan.aside.iter().chain(&plan.steps).filter(|step| runs(&step.work));
    let mut layers: Vec<String> = steps.map(|step| format!("`{}`", step.layer)).collect();
    layers.sort();
    layers.dedup();
    let programs = match layers.as_slice() {
        [] => String::new(),
        layers => format!(
            "programs ran in layer {}, which may not do the same twice; ",
            layers.join(", ")
        ),
    };
    format!(
        "declaration and pins are the same. {programs}a store or cache that others wrote may be wrong: \
         build with an empty `--cache DIR` to see. `sbx build {} --record` accepts what was built",
        plan.sandbox
    )
}

/// Writes down what was built.
pub fn record(workspace: &Workspace, built: &[Obtained<'_>], ui: &Ui) -> Outcome {
    let before = workspace.read_lock()?;
    let mut lock = before.clone();
    for Obtained { target, key, image } in built {
        let (sandbox, platform) = (&target.sandbox.name, target.platform);
        match lock.expected(sandbox, platform, key) {
            Expected::Image(old) if old != *image => {
                ui.say(&format!("note: `{sandbox}` for {platform} was expected to be {old}"));
            }
            _ => {}
        }
        let place = (sandbox.clone(), platform);
        lock.images.insert(place, ImageLock { key: *key, image: *image });
    }
    if lock != before {
        lock.write(&workspace.lock_path())?;
        workspace.register(&lock)?;
    }
    Ok(())
}

/// Drops from a lock that changed what it expects of images that are other ones now.
pub fn drop_outdated(workspace: &Workspace, lock: &mut Lock) {
    let mut keys = BTreeMap::new();
    for (name, platform) in lock.images.keys() {
        let Some(sandbox) = workspace.project.sandboxes.get(name) else { continue };
        let target = Target { sandbox, platform: *platform };
        // what cannot be planned is not what was recorded
        if let Ok(plan) = plan_target(workspace, target, lock) {
            keys.insert((name.clone(), *platform), plan.key);
        }
    }
    lock.retain_images(|name, platform| keys.get(&(name.clone(), platform)).copied());
}
