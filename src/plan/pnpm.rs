//! Projects of pnpm's: a step that runs the pinned pnpm over what the layer needs, offline.

use super::node::headers;
use super::npm::Script;
use super::spec::environment;
use super::step::{RunWork, Step, Work};
use super::{PlanError, Planner, key_of};
use crate::decl::{Kind, Layer, Npm};
use crate::digest::Digest;
use crate::lock::{NpmPart, NpmPin, Pin};
use crate::path::LayerPath;
use crate::store::Key;

/// Where the step finds pnpm, in a directory that no layer keeps.
pub const PNPM: &str = "/run/sbx/pnpm";

/// How pnpm installs what is locked: nothing is resolved, no code of packages or of the project runs,
/// no file is shared with a store that will not be there. The store's place is the one that pnpm has
/// of itself, so that a later pnpm in the image takes up what it finds.
const WORDS: &str = "install --frozen-lockfile --ignore-scripts --ignore-pnpmfile --package-import-method=copy --store-dir=/root/.local/share/pnpm/store --registry=\"$npm_config_registry\" --reporter=append-only";

/// An installation by pnpm.
#[derive(Clone, Debug)]
pub struct PnpmWork {
    pub run: RunWork,
    pub program: NpmPin,
    /// Where the project is in the image.
    pub root: LayerPath,
    /// Its directory below the declarations', whose files are lent where no layer has laid them;
    /// `None` where all of them come from an earlier recipe.
    pub project: Option<String>,
}

impl<'a> Planner<'a> {
    /// Adds the installation, if pins mean one by pnpm, and the scripts that run after it.
    pub(super) fn add_pnpm(
        &mut self,
        layer: &'a Layer,
        at: usize,
        npm: &Npm,
        pins: &[Pin],
    ) -> Result<bool, PlanError> {
        let packages: Vec<&NpmPin> = pins.iter().filter_map(Pin::npm).collect();
        let Some((program, file)) = pins.iter().find_map(|pin| manager(pin, &packages)) else {
            return Ok(false);
        };
        let view = self.view(layer, at)?;
        for step in view.aside.iter().chain(&view.steps) {
            if !self.aside.iter().any(|known| known.key == step.key) {
                self.aside.push(step.clone());
            }
        }
        let below: Vec<Key> = view.steps.iter().map(|step| step.key).collect();
        let shelf = packages.iter().map(|pin| Pin::Npm((*pin).clone())).collect();
        let run = self.pnpm_run(layer, npm, file, shelf);
        let files = npm.files.iter().map(|path| (path, self.given.local.files.get(path)));
        let files: Vec<(&String, Option<&Digest>)> = files.collect();
        let root = npm.into.to_string();
        let key = key_of("pnpm", &(&below, &run, files, &root, self.given.platform));
        let project = npm.laid.is_none().then(|| npm.project.clone());
        let into = npm.into.clone();
        self.rest.push(Step {
            layer: layer.name.clone(),
            key,
            title: format!("pnpm {root}: {} packages", packages.len() - 1),
            below,
            work: Work::Pnpm(PnpmWork { run, program: program.clone(), root: into, project }),
        });
        let scripts: Vec<Script<'_>> = pins.iter().filter_map(Script::of).collect();
        if !scripts.is_empty() {
            self.add_scripts(layer, at, &npm.into, key, scripts)?;
        }
        Ok(true)
    }

    fn pnpm_run(&self, layer: &Layer, npm: &Npm, program: &str, shelf: Vec<Pin>) -> RunWork {
        let mut layers = self.given.project.closure_on(layer, self.given.platform);
        layers.push(layer);
        let mut env = environment(&[], &layers, self.base_below(layer).as_ref());
        // whether development dependencies come is for `omit` to say
        env.retain(|(name, _)| name != "NODE_ENV");
        env.extend(headers(&layers));
        let mut command = format!("node {PNPM}/{program} {WORDS}");
        for (kind, word) in [(Kind::Dev, " --prod"), (Kind::Optional, " --no-optional")] {
            command += if npm.omit.contains(&kind) { word } else { "" };
        }
        RunWork {
            command,
            shell: "/bin/sh".to_owned(),
            cwd: npm.into.to_string(),
            env,
            secrets: Vec::new(),
            allow: Vec::new(),
            deny: Vec::new(),
            shelf,
            timeout: None,
        }
    }
}

/// The program that a pin names as the one that installs, and its file.
fn manager<'p>(pin: &'p Pin, packages: &[&'p NpmPin]) -> Option<(&'p NpmPin, &'p str)> {
    let Pin::NpmPart(NpmPart::Manager { name, version, program }) = pin else { return None };
    let own = packages.iter().find(|pin| pin.name == *name && pin.version == *version);
    own.map(|pin| (*pin, &**program))
}
