//! Trees of npm's packages: a step that sees nothing, and one for each install script that is named,
//! which sees the tree and what the layer needs.

use super::node::headers;
use super::run::title;
use super::spec::environment;
use super::step::{RunWork, Step, Work};
use super::{PlanError, Planner, key_of};
use crate::decl::{Layer, Npm, Recipe};
use crate::lock::question::recipe_request;
use crate::lock::{NpmPart, NpmPin, Pin};
use crate::npm::order;
use crate::path::LayerPath;
use crate::store::Key;

/// Events of an installation, in their order.
const EVENTS: [&str; 3] = ["preinstall", "install", "postinstall"];

/// Where Debian's npm keeps its own packages.
const DEBIAN_MODULES: &str = "/usr/share/nodejs";

/// Version of what is packed of a commit.
const PACKED: &str = "packed 1";

/// A tree of packages.
#[derive(Clone, Debug)]
pub struct NpmWork {
    /// The directory that it is below.
    pub root: LayerPath,
    pub packages: Vec<NpmPin>,
    pub parts: Vec<NpmPart>,
    /// Sources that tarballs of packages lie in.
    pub outer: Vec<Pin>,
    /// Installed globally: commands can be executed, and have no links in a `.bin`.
    pub is_global: bool,
}

/// An install script of a package.
pub(super) struct Script<'a> {
    place: &'a str,
    event: &'a str,
    command: &'a str,
    env: &'a [(Box<str>, Box<str>)],
}

impl<'a> Script<'a> {
    pub(super) fn of(pin: &'a Pin) -> Option<Self> {
        match pin {
            Pin::NpmPart(NpmPart::Script { place, event, command, env }) => {
                Some(Script { place, event, command, env })
            }
            _ => None,
        }
    }
}

impl<'a> Planner<'a> {
    pub(super) fn add_npm(
        &mut self,
        layer: &'a Layer,
        at: usize,
        npm: &Npm,
    ) -> Result<(), PlanError> {
        let super::Given { project, platform, lock, local, .. } = self.given;
        let not_locked = || PlanError::NotLocked { layer: layer.name.clone(), platform };
        let request = recipe_request(project, layer, at, platform, local).ok_or_else(not_locked)?;
        let pins = lock.answer(&request).ok_or_else(not_locked)?;
        match self.add_pnpm(layer, at, npm, pins)? {
            true => Ok(()),
            false => self.add_tree(layer, at, &npm.into, pins, self.outer(layer, npm, pins)),
        }
    }

    /// The source that the project is in, where packages of it lie there, too.
    fn outer(&self, layer: &Layer, npm: &Npm, pins: &[Pin]) -> Vec<Pin> {
        let super::Given { project, platform, lock, local, .. } = self.given;
        let is_inner = |pin: &Pin| pin.npm().is_some_and(|pin| pin.laid_in().is_some());
        let Some(laid) = npm.laid.as_ref().filter(|_| pins.iter().any(is_inner)) else {
            return Vec::new();
        };
        let request = recipe_request(project, layer, laid.recipe, platform, local);
        let answer = request.and_then(|request| lock.answer(&request)).unwrap_or_default();
        answer.iter().filter(|pin| pin.source().is_some()).cloned().collect()
    }

    /// The step of a tree without scripts.
    pub(super) fn tree_step(layer: &Layer, work: NpmWork) -> Step {
        let root = &work.root;
        let packages = work.packages.iter().map(|pin| (&pin.place, &pin.integrity, &pin.bins));
        let packages = packages.collect::<Vec<_>>();
        let identity =
            (root.to_string(), packages, &work.parts, work.is_global.then_some("global"));
        // what is packed of a commit may change with what packs it
        let packed = work.packages.iter().filter(|pin| pin.is_git()).map(|pin| &pin.place);
        let packed = packed.collect::<Vec<_>>();
        let key = match packed.is_empty() {
            true => key_of("npm", &identity),
            false => key_of("npm", &(&identity, PACKED, packed)),
        };
        Step {
            layer: layer.name.clone(),
            key,
            title: format!("npm {root}: {} packages", work.packages.len()),
            below: Vec::new(),
            work: Work::Npm(work),
        }
    }

    /// Adds the tree that pins mean, and its scripts.
    pub(super) fn add_tree(
        &mut self,
        layer: &'a Layer,
        at: usize,
        root: &LayerPath,
        pins: &[Pin],
        outer: Vec<Pin>,
    ) -> Result<(), PlanError> {
        let mut work = NpmWork {
            root: root.clone(),
            packages: Vec::new(),
            parts: Vec::new(),
            outer,
            is_global: false,
        };
        let scripts: Vec<Script<'_>> = pins.iter().filter_map(Script::of).collect();
        for pin in pins {
            match pin {
                Pin::Npm(pin) => work.packages.push(pin.clone()),
                Pin::NpmPart(NpmPart::Script { .. }) => {}
                Pin::NpmPart(part) => work.parts.push(part.clone()),
                _ => {}
            }
        }
        if work.packages.is_empty() && work.parts.is_empty() {
            return Ok(());
        }
        let step = Self::tree_step(layer, work);
        let key = step.key;
        self.rest.push(step);
        if scripts.is_empty() { Ok(()) } else { self.add_scripts(layer, at, root, key, scripts) }
    }

    pub(super) fn add_scripts(
        &mut self,
        layer: &'a Layer,
        at: usize,
        root: &LayerPath,
        tree: Key,
        mut scripts: Vec<Script<'_>>,
    ) -> Result<(), PlanError> {
        let phase = |script: &Script<'_>| EVENTS.iter().position(|event| *event == script.event);
        scripts.sort_by(|one, two| {
            phase(one).cmp(&phase(two)).then_with(|| order(one.place, two.place))
        });
        let view = self.view(layer, at)?;
        for step in view.aside.iter().chain(&view.steps) {
            if !self.aside.iter().any(|known| known.key == step.key) {
                self.aside.push(step.clone());
            }
        }
        let mut below: Vec<Key> = view.steps.iter().map(|step| step.key).chain([tree]).collect();
        for script in scripts {
            let work = self.script_work(layer, at, root, &script);
            let key = key_of("run", &(&below, &work, self.given.platform));
            let (place, event) = (script.place, script.event);
            self.rest.push(Step {
                layer: layer.name.clone(),
                key,
                title: format!("{place}: {event}: {}", title(script.command)),
                below: below.clone(),
                work: Work::Run(work),
            });
            below.push(key);
        }
        Ok(())
    }

    /// A script with the surroundings that npm gives it.
    fn script_work(
        &self,
        layer: &Layer,
        at: usize,
        root: &LayerPath,
        script: &Script<'_>,
    ) -> RunWork {
        let mut layers = self.given.project.closure_on(layer, self.given.platform);
        layers.push(layer);
        let mut env = environment(&[], &layers, self.base_below(layer).as_ref());
        let dir = format!("{root}/{}", script.place);
        let modules = npm_modules(&layers);
        if let Some((_, path)) = env.iter_mut().find(|(name, _)| name == "PATH") {
            *path = format!("{}:{path}", search_path(&dir, &modules));
        }
        env.extend(headers(&layers));
        let mut set = |name: &str, value: &str| env.push((name.to_owned(), value.to_owned()));
        set("INIT_CWD", &root.to_string());
        // without it, npm's `node-gyp` does nothing, and says so to nobody
        set("npm_config_node_gyp", &format!("{modules}/node-gyp/bin/node-gyp.js"));
        set("npm_command", "ci");
        set("npm_lifecycle_event", script.event);
        set("npm_lifecycle_script", script.command);
        set("npm_package_json", &format!("{dir}/package.json"));
        for (name, value) in script.env {
            set(name, value);
        }
        RunWork {
            command: script.command.to_owned(),
            shell: "/bin/sh".to_owned(),
            cwd: dir,
            env,
            secrets: Vec::new(),
            allow: Vec::new(),
            deny: Vec::new(),
            shelf: self.shelf(layer, at + 1),
            timeout: None,
        }
    }
}

/// Where npm keeps its own packages: that of the highest Node, or else Debian's.
fn npm_modules(layers: &[&Layer]) -> String {
    let recipes = layers.iter().rev().flat_map(|layer| &layer.recipes);
    let mut prefixes = recipes.filter_map(|recipe| match recipe {
        Recipe::NodeJs(node) => Some(&node.into),
        _ => None,
    });
    let modules =
        prefixes.next().map(|prefix| format!("{prefix}/lib/node_modules/npm/node_modules"));
    modules.unwrap_or_else(|| DEBIAN_MODULES.to_owned())
}

/// The commands of a package's own dependencies, then those of each directory above it, then what
/// builds add-ons.
fn search_path(dir: &str, modules: &str) -> String {
    let above = dir.match_indices('/').skip(1).map(|(at, _)| &dir[..at]).chain([dir]);
    let above = above.filter(|dir| !dir.ends_with("/node_modules"));
    let mut path: Vec<String> = above.map(|dir| format!("{dir}/node_modules/.bin")).collect();
    path.reverse();
    path.push(format!("{modules}/@npmcli/run-script/lib/node-gyp-bin"));
    path.join(":")
}
