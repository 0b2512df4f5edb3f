//! What lies on top of the chain: recipes of files, together where they stand together, and a step for
//! each other recipe.

use super::owner::{OwnerError, Owners};
use super::step::{FileWork, Step, Work};
use super::{PlanError, Planner, Scope, key_of};
use crate::decl::{Layer, Recipe};

/// Recipes of files that stand together: they become one step.
#[derive(Default)]
struct FileHeap {
    works: Vec<FileWork>,
    titles: Vec<String>,
}

impl FileHeap {
    fn lay(&mut self, works: impl IntoIterator<Item = FileWork>, title: Option<String>) {
        let before = self.works.len();
        self.works.extend(works);
        self.titles.extend(title.filter(|_| self.works.len() > before));
    }
}

/// Whether all that a recipe gives are files that its layer lays itself.
fn is_of_files(recipe: &Recipe) -> bool {
    let is_step = matches!(
        recipe,
        Recipe::Run(_)
            | Recipe::Venv(_)
            | Recipe::NodeJs(_)
            | Recipe::Npm(_)
            | Recipe::NpmTools(_)
            | Recipe::LayerFiles(_)
    );
    !is_step && recipe.take().is_none()
}

impl<'a> Planner<'a> {
    /// What lies on top of the chain: consecutive recipes of files as one step, and a step for each
    /// other.
    pub(super) fn add_rest(&mut self, layer: &'a Layer, until: usize) -> Result<(), PlanError> {
        if self.scope == Scope::Ground {
            return Ok(());
        }
        let owners = Owners::new(self.given.project, layer);
        let mut heap = FileHeap::default();
        for (at, recipe) in layer.recipes.iter().enumerate().take(until) {
            if !is_of_files(recipe) {
                self.push_files(layer, std::mem::take(&mut heap));
            }
            self.add_recipe(layer, at, &owners, &mut heap)?;
        }
        self.push_files(layer, heap);
        Ok(())
    }

    /// Adds the steps of a recipe, and to the heap what it lays itself.
    fn add_recipe(
        &mut self,
        layer: &'a Layer,
        at: usize,
        owners: &Owners,
        heap: &mut FileHeap,
    ) -> Result<(), PlanError> {
        match &layer.recipes[at] {
            Recipe::Run(run) => self.add_run(layer, at, run)?,
            Recipe::Venv(venv) => self.add_venv(layer, at, venv)?,
            Recipe::Npm(npm) => self.add_npm(layer, at, npm)?,
            Recipe::LayerFiles(files) => self.add_copy(layer, files)?,
            Recipe::NodeJs(node) => {
                let links = self.add_node(layer, at, node)?;
                heap.lay(links, Some(format!("commands of node {}", node.into)));
            }
            Recipe::NpmTools(tools) => {
                let links = self.add_tools(layer, at, tools)?;
                let title = format!("commands of {}", tools.packages.join(" "));
                heap.lay(links, Some(title));
            }
            Recipe::Mcp(mcp) => {
                let (wrappers, title) = self.add_servers(layer, mcp);
                heap.lay(wrappers, title);
            }
            recipe => match recipe.take() {
                Some(take) => self.add_unpack(layer, at, take, recipe.at())?,
                None => self.add_own(layer, at, owners, heap)?,
            },
        }
        Ok(())
    }

    /// Lays files whose bytes are at hand.
    fn add_own(
        &mut self,
        layer: &'a Layer,
        at: usize,
        owners: &Owners,
        heap: &mut FileHeap,
    ) -> Result<(), PlanError> {
        let local = || self.given.local.recipes.get(&(layer.name.clone(), at)).copied();
        match owners.work(&layer.recipes[at], at, local) {
            Ok(Some((work, title))) => heap.lay([work], Some(title)),
            Ok(None) => {}
            Err(OwnerError::Fault(fault)) => self.faults.push(*fault),
            Err(OwnerError::NotScanned) => {
                return Err(PlanError::NotScanned(layer.name.clone()));
            }
        }
        Ok(())
    }

    fn push_files(&mut self, layer: &Layer, FileHeap { works, titles }: FileHeap) {
        if works.is_empty() {
            return;
        }
        self.rest.push(Step {
            layer: layer.name.clone(),
            key: key_of("files", &works),
            title: titles.join("; "),
            below: Vec::new(),
            work: Work::Files(works),
        });
    }
}
