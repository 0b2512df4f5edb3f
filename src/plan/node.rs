//! Node: its program as it is in its package, package managers as npm installs them globally.

use super::npm::NpmWork;
use super::step::{FileWork, Ids};
use super::unpack::{TakeWork, unpack_step};
use super::{PlanError, Planner};
use crate::decl::{Layer, NodeJs, Recipe};
use crate::lock::question::recipe_request;
use crate::lock::{NpmPin, Pin};

impl<'a> Planner<'a> {
    /// Adds the steps; answers links to the commands of the package managers.
    pub(super) fn add_node(
        &mut self,
        layer: &'a Layer,
        at: usize,
        node: &NodeJs,
    ) -> Result<Vec<FileWork>, PlanError> {
        let super::Given { project, platform, lock, local, .. } = self.given;
        let not_locked = || PlanError::NotLocked { layer: layer.name.clone(), platform };
        let request = recipe_request(project, layer, at, platform, local).ok_or_else(not_locked)?;
        let pins = lock.answer(&request).ok_or_else(not_locked)?;
        let pins = pins.iter().filter_map(|pin| match pin {
            Pin::Npm(pin) => Some(pin),
            _ => None,
        });
        let (managers, runtimes): (Vec<&NpmPin>, Vec<&NpmPin>) =
            pins.partition(|pin| !pin.place.is_empty());
        for pin in runtimes {
            let step = unpack_step(layer, Pin::Npm(pin.clone()), taken(node));
            self.rest.push(step);
        }
        let root = node.into.join(b"lib").unwrap_or_default();
        let links = managers.iter().flat_map(|pin| {
            pin.bins.iter().filter_map(|(name, file)| {
                let path = node.into.join(format!("bin/{name}").as_bytes()).ok()?;
                let to = format!("../lib/{}/{file}", pin.place);
                Some(FileWork::Link { path, to, replace: false })
            })
        });
        let links = links.collect();
        let packages = managers.into_iter().cloned().collect();
        let (parts, outer) = (Vec::new(), Vec::new());
        let work = NpmWork { root, packages, parts, outer, is_global: true };
        self.rest.push(Self::tree_step(layer, work));
        Ok(links)
    }
}

/// The program and its licence, and what was asked for beside them.
fn taken(node: &NodeJs) -> TakeWork {
    let mut include = vec!["/bin/node".to_owned(), "/LICENSE".to_owned()];
    if node.headers {
        include.push("/include".to_owned());
    }
    if node.docs {
        include.extend(["/share", "/README.md", "/CHANGELOG.md"].map(str::to_owned));
    }
    TakeWork {
        into: node.into.clone(),
        subdirectory: String::new(),
        strip: 1,
        include,
        exclude: Vec::new(),
        ids: Ids { uid: 0, gid: 0 },
        mode: None,
        replace: false,
    }
}

/// Where what compiles add-ons finds Node's headers, if one of these layers has them: without a
/// network it cannot fetch them.
pub(super) fn headers(layers: &[&Layer]) -> Option<(String, String)> {
    let recipes = layers.iter().rev().flat_map(|layer| &layer.recipes);
    let mut prefixes = recipes.filter_map(|recipe| match recipe {
        Recipe::NodeJs(node) if node.headers => Some(node.into.to_string()),
        _ => None,
    });
    prefixes.next().map(|prefix| ("npm_config_nodedir".to_owned(), prefix))
}
