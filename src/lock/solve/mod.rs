//! Resolving what is missing from a lock: Debian first, for programs that resolve other ecosystems run
//! over the lock's own Debian.

mod debian;
mod error;
mod from;
mod git;
mod index;
mod inner;
mod node;
mod npm;
mod npm_digests;
mod npm_git;
mod npm_program;
mod npm_resolve;
mod npm_tools;
mod places;
mod pnpm;
mod project_files;
mod python;
mod registry;
mod source;
mod texts;
mod uv;

pub use error::SolveError;
pub use from::{BaseError, Origins};
pub use places::{Places, lock_path};

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::Lock;
use super::base::{LockedBase, base_request};
use super::interpreter::interpreter_of;
use super::pin::{LaidPin, Pin, PythonPin, RequestId};
use super::question::{LocalDigests, recipe_request, request_of};
use super::toolroom::Toolroom;
use crate::decl::{Layer, Project, Recipe};
use crate::fetch::{Client, MirrorMap, Progress};
use crate::oci::Keychain;
use crate::platform::Platform;
use crate::store::Store;

/// What may change in a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// Nothing that is there.
    Missing,
    /// Everything.
    All,
    /// These packages, and the layers of these names.
    Named(BTreeSet<String>),
}

/// What resolving needs.
pub struct Solver<'a> {
    pub project: &'a Project,
    pub store: &'a Store,
    pub client: &'a Client,
    pub mirrors: &'a MirrorMap,
    pub keychain: &'a Keychain,
    /// Of the files that recipes read.
    pub local: &'a LocalDigests,
    /// Runs the programs that resolve.
    pub toolroom: &'a dyn Toolroom,
    pub now: Timestamp,
    pub progress: &'a dyn Progress,
}

/// A recipe's question, as an ecosystem's solver gets it.
pub struct Ask<'a> {
    pub layer: &'a Layer,
    /// The recipe's place in its layer.
    pub at: usize,
    pub recipe: &'a Recipe,
    pub platform: Platform,
    /// Debian, and what recipes before this one were answered.
    pub lock: &'a Lock,
    /// What the layer had of this kind before: to be preferred, unless it is to be updated.
    pub previous: Vec<&'a Pin>,
    pub update: &'a Update,
    /// What the lock answers this very question, where that is to be updated.
    pub standing: Option<&'a [Pin]>,
}

impl Solver<'_> {
    /// Resolves what `update` says for `layers`, which come in the order of their needs.
    pub fn solve(
        &self,
        lock: &Lock,
        layers: &[(&Layer, Platform)],
        update: &Update,
    ) -> Result<Lock, SolveError> {
        let mut next = lock.clone();
        self.solve_bases(&mut next, layers, update)?;
        self.solve_debian(lock, &mut next, layers, update)?;
        for (layer, platform) in layers {
            self.solve_recipes(lock, &mut next, layer, *platform, update)?;
        }
        next.drop_unasked();
        Ok(next)
    }

    fn places(&self) -> Places<'_> {
        let Solver { project, mirrors, store, keychain, .. } = *self;
        Places { project, mirrors, store, keychain }
    }

    fn solve_recipes(
        &self,
        lock: &Lock,
        next: &mut Lock,
        layer: &Layer,
        platform: Platform,
        update: &Update,
    ) -> Result<(), SolveError> {
        let mut uses = BTreeMap::new();
        for (at, recipe) in layer.recipes.iter().enumerate() {
            let request = recipe_request(self.project, layer, at, platform, self.local);
            let Some(request) = request else { continue };
            let known = next.answers.get(&request);
            let is_base = matches!(recipe, Recipe::From(_));
            let stale = |pins: &Vec<Pin>| {
                touches(update, layer, pins) || !self.holds(layer, at, platform, next, pins)
            };
            if !is_base && known.is_none_or(stale) {
                let previous = lock.previous(layer, platform, recipe.kind());
                let standing = lock.answer(&request);
                let ask =
                    Ask { layer, at, recipe, platform, lock: next, previous, update, standing };
                let pins = self.solve_recipe(&ask)?;
                next.set_answer(request.clone(), pins);
            }
            uses.insert(request, recipe.kind().to_owned());
        }
        next.set_uses(&layer.name, platform, uses);
        Ok(())
    }

    fn holds(
        &self,
        layer: &Layer,
        at: usize,
        platform: Platform,
        lock: &Lock,
        pins: &[Pin],
    ) -> bool {
        holds(self.project, self.local, (layer, at, platform), lock, pins)
    }

    fn solve_recipe(&self, ask: &Ask<'_>) -> Result<Vec<Pin>, SolveError> {
        match ask.recipe {
            Recipe::From(_)
            | Recipe::Debian(_)
            | Recipe::Files(_)
            | Recipe::File(_)
            | Recipe::User(_)
            | Recipe::Dir(_)
            | Recipe::Link(_)
            | Recipe::Own(_)
            | Recipe::GitInit(_)
            | Recipe::Run(_)
            | Recipe::Mcp(_)
            | Recipe::LayerFiles(_) => Ok(Vec::new()),
            Recipe::Venv(venv) => python::solve(self, ask, venv),
            Recipe::Npm(npm) => npm::solve(self, ask, npm),
            Recipe::Archive(archive) => source::archive(self, ask, archive),
            Recipe::PackageFiles(files) => source::package(self, ask, files),
            Recipe::Git(git) => git::solve(self, ask, git),
            Recipe::NodeJs(node) => node::solve(self, ask, node),
            Recipe::NpmTools(tools) => npm_tools::solve(self, ask, tools),
        }
    }
}

fn touches(update: &Update, layer: &Layer, pins: &[Pin]) -> bool {
    match update {
        Update::Missing => false,
        Update::All => true,
        Update::Named(names) => {
            names.contains(layer.name.as_str()) || pins.iter().any(|pin| names.contains(pin.name()))
        }
    }
}

/// Whether an answer is for what lies below its layer now.
fn holds(
    project: &Project,
    local: &LocalDigests,
    (layer, at, platform): (&Layer, usize, Platform),
    lock: &Lock,
    pins: &[Pin],
) -> bool {
    if let Some(laid) = layer.recipes.get(at).and_then(Recipe::laid) {
        let request = recipe_request(project, layer, laid.recipe, platform, local);
        let answer = request.and_then(|request| lock.answer(&request));
        let source = answer.into_iter().flatten().find_map(Pin::source);
        let laid = source.map(|source| Pin::Laid(LaidPin { source: source.integrity() }));
        if !laid.is_some_and(|laid| pins.contains(&laid)) {
            return false;
        }
    }
    let venv = match layer.recipes.get(at) {
        Some(Recipe::Venv(venv)) => venv,
        Some(Recipe::From(_)) => {
            let request = base_request(project, layer, platform);
            let needed = request.is_some_and(|one| from::needs_packages(project, &one, platform));
            return LockedBase::of(pins).is_some_and(|base| base.packages.is_some() || !needed);
        }
        _ => return true,
    };
    let found = interpreter_of(project, layer, platform, lock, venv.python.as_deref());
    let Ok(found) = found else { return false };
    pins.contains(&Pin::Python(PythonPin::of(&found)))
}

/// The layers whose questions the lock does not answer, in order, each once a platform.
pub fn unanswered<'a>(
    project: &Project,
    lock: &Lock,
    layers: &[(&'a Layer, Platform)],
    local: &LocalDigests,
) -> Vec<(&'a Layer, Platform)> {
    let answered = |layer: &Layer, platform: Platform| {
        let debian = request_of(project, layer, platform, lock)
            .is_none_or(|request| lock.find(&layer.name, platform, &request).is_some());
        let mut recipes = (0..layer.recipes.len())
            .filter_map(|at| Some((at, recipe_request(project, layer, at, platform, local)?)));
        let stands = |at: usize, request: &RequestId| {
            let pins = lock.answer(request);
            pins.is_some_and(|pins| holds(project, local, (layer, at, platform), lock, pins))
        };
        debian && recipes.all(|(at, request)| stands(at, &request))
    };
    layers.iter().filter(|(layer, platform)| !answered(layer, *platform)).copied().collect()
}
