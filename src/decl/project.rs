//! The project: everything that it declares, and how its layers hang together.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::as_of::AsOf;
use super::cache::CacheSource;
use super::layer::Layer;
use super::mirror::SourceMirror;
use super::recipe::Recipe;
use super::sandbox::Sandbox;
use crate::name::{LayerName, ProjectName, SandboxName};
use crate::platform::Platform;
use crate::reference::Repository;

/// Everything that a project declares.
#[derive(Clone, Debug)]
pub struct Project {
    /// Absolute.
    pub root: PathBuf,
    pub name: ProjectName,
    /// Where images are pushed to: `{project}` and `{sandbox}` stand for the names.
    pub reference: String,
    pub platforms: Vec<Platform>,
    pub as_of: Vec<AsOf>,
    /// Where sources lie under their digests.
    pub mirrors: Vec<SourceMirror>,
    /// Where layers are taken from before they are made.
    pub cache_from: Vec<CacheSource>,
    /// Where layers are put by whoever has the key to sign them.
    pub cache_to: Option<Repository>,
    pub sandboxes: BTreeMap<SandboxName, Sandbox>,
    pub layers: BTreeMap<LayerName, Layer>,
    /// Every file that was read, relative to the root.
    pub files: Vec<PathBuf>,
}

impl Project {
    /// The layers that `layer` needs, directly or not, each before those that need it; without
    /// `layer` itself.
    pub fn closure(&self, layer: &Layer) -> Vec<&Layer> {
        let mut order = Vec::new();
        for need in &layer.needs {
            self.visit(need, &mut order);
        }
        order
    }

    fn visit<'a>(&'a self, name: &LayerName, order: &mut Vec<&'a Layer>) {
        let Some(layer) = self.layers.get(name) else { return };
        if order.iter().any(|known| known.name == *name) {
            return;
        }
        for need in &layer.needs {
            self.visit(need, order);
        }
        order.push(layer);
    }

    /// Likewise, without layers that do not exist for a platform.
    pub fn closure_on(&self, layer: &Layer, platform: Platform) -> Vec<&Layer> {
        let mut order = self.closure(layer);
        order.retain(|layer| layer.is_for(platform));
        order
    }

    /// The layers of a sandbox's image: those that others are only built with are left out, and so
    /// is what only those need.
    pub fn shipped_layers(&self, sandbox: &Sandbox, platform: Platform) -> Vec<&Layer> {
        let mut shipped: Vec<&LayerName> = Vec::new();
        let mut next: Vec<&LayerName> = sandbox.layers.iter().collect();
        while let Some(name) = next.pop() {
            let layer = self.layers.get(name).filter(|layer| layer.ship);
            if let Some(layer) = layer.filter(|layer| !shipped.contains(&&layer.name)) {
                shipped.push(&layer.name);
                next.extend(&layer.needs);
            }
        }
        let mut order = self.layers_of(sandbox, platform);
        order.retain(|layer| shipped.contains(&&layer.name));
        order
    }

    /// All layers of a sandbox for one platform, those it is only built with included, each after those it needs, otherwise in the order
    /// of declaration.
    pub fn layers_of(&self, sandbox: &Sandbox, platform: Platform) -> Vec<&Layer> {
        let mut order = Vec::new();
        for name in &sandbox.layers {
            self.visit(name, &mut order);
        }
        order.retain(|layer| layer.is_for(platform));
        order
    }

    /// The newest day whose releases the resolver of a recipe may see: its own, its layer's, or the
    /// project's.
    pub fn as_of<'a>(&'a self, layer: &'a Layer, recipe: &'a Recipe) -> Option<&'a str> {
        let ecosystem = recipe.ecosystem()?;
        let of = |list: &'a [AsOf]| list.iter().find(|as_of| as_of.is_for(ecosystem));
        let around = || of(&layer.as_of).or_else(|| of(&self.as_of));
        recipe.as_of().or_else(|| around().map(|as_of| as_of.date.as_str()))
    }

    /// Where a sandbox's image is pushed to, without a tag.
    pub fn reference_of(&self, sandbox: &Sandbox) -> String {
        let template = sandbox.reference.as_ref().unwrap_or(&self.reference);
        template
            .replace("{project}", self.name.as_str())
            .replace("{sandbox}", sandbox.name.as_str())
    }
}
