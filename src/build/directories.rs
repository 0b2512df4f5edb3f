//! The layer that restates directories which an image's layers share.

use std::path::PathBuf;

use rayon::prelude::*;

use super::builder::{Builder, BuiltLayer, Came, Made};
use super::compose::{ComposeError, Delta, Origin, compose, restate};
use super::error::BuildError;
use super::listing::Listing;
use crate::digest::Digest;
use crate::path::LayerPath;
use crate::plan::{FileWork, Plan, Step, Work};
use crate::store::Key;

/// The name of the layer that restates directories.
pub const DIRECTORIES: &str = "directories";

/// The Key of the layer that restates directories for a plan.
pub fn directories_key(plan: &Plan) -> Key {
    Key(Digest::of(format!("directories {}", plan.key).as_bytes()))
}

impl Builder<'_> {
    /// Checks that the layers may meet, and adds the one that restates directories where needed.
    pub(super) fn add_directories(
        &self,
        plan: &Plan,
        layers: &mut Vec<BuiltLayer>,
    ) -> Result<(), BuildError> {
        let listings: Vec<Listing> =
            layers.par_iter().map(|layer| self.listing(&layer.record)).collect::<Result<_, _>>()?;
        let trees: Vec<PathBuf> =
            layers.iter().map(|layer| self.tree_path(&layer.record.diff_id)).collect();
        let replaces: Vec<Vec<LayerPath>> = plan.steps.iter().map(replaces).collect();
        let place = |key: &Key| plan.steps.iter().position(|step| step.key == *key);
        let sees: Vec<Vec<usize>> =
            plan.steps.iter().map(|step| step.below.iter().filter_map(place).collect()).collect();
        let deltas: Vec<Delta<'_>> = plan
            .steps
            .iter()
            .enumerate()
            .map(|(at, step)| Delta {
                layer: step.layer.as_str(),
                origin: match step.work {
                    Work::Content(_) => Origin::Content,
                    // layers of one base lie over each other as its maker meant it
                    Work::Base(_) | Work::Settle(_) | Work::Accounts(_) => Origin::Step,
                    Work::Run(_) | Work::Pnpm(_) => Origin::Run,
                    Work::Files(_)
                    | Work::Npm(_)
                    | Work::Wheels(_)
                    | Work::Bytecode(_)
                    | Work::Copy(_)
                    | Work::Unpack(_) => Origin::Files,
                },
                listing: &listings[at],
                tree: &trees[at],
                replaces: &replaces[at],
                sees: &sees[at],
            })
            .collect();
        let dirs = loop {
            match compose(&deltas) {
                // it may have gone, or never have been needed
                Err(ComposeError::NoTree(at)) => drop(self.tree(&layers[at].record)?),
                composed => break composed?,
            }
        };
        if dirs.is_empty() {
            return Ok(());
        }
        let key = directories_key(plan);
        let title = "metadata of directories that layers share".to_owned();
        let mut draft = self.store.draft()?;
        let tree = self.store.tree_draft()?;
        let listing = restate(dirs, tree.path(), &mut draft)?;
        let inner = tree.path().to_owned();
        let record = self.commit(Made { key, below: &[] }, draft, tree, &inner, &listing)?;
        let came = Came::Made;
        layers.push(BuiltLayer { name: DIRECTORIES.to_owned(), title, key, record, came });
        Ok(())
    }
}

/// Paths that a step may lay over what is below.
fn replaces(step: &Step) -> Vec<LayerPath> {
    if let Some(take) = step.work.take() {
        return take.replace.then(|| take.into.clone()).into_iter().collect();
    }
    let Work::Files(works) = &step.work else { return Vec::new() };
    let path = |work: &FileWork| match work {
        FileWork::Local { into, replace: true, .. } => Some(into.clone()),
        FileWork::Inline { path, replace: true, .. }
        | FileWork::Link { path, replace: true, .. } => Some(path.clone()),
        _ => None,
    };
    works.iter().filter_map(path).collect()
}
