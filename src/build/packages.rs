//! Trees of npm's packages as steps of a build.

use super::builder::{Builder, Made};
use super::error::BuildError;
use super::npm::{self, NpmError};
use crate::digest::Integrity;
use crate::lock::Source;
use crate::npm::TarballError;
use crate::plan::{NpmWork, Step};
use crate::store::LayerRecord;

impl Builder<'_> {
    pub(super) fn make_packages(
        &self,
        step: &Step,
        work: &NpmWork,
    ) -> Result<LayerRecord, BuildError> {
        self.once(step, || match self.lay_packages(step, work) {
            Err(BuildError::Npm { layer, source }) => match *source {
                NpmError::Tarball { package, integrity, source: TarballError::Corrupt { .. } } => {
                    self.events.note(&format!(
                        "npm package `{package}` was damaged in the store: it is fetched again"
                    ));
                    self.store.drop_source(&integrity)?;
                    let lost = work.packages.iter().find(|pin| pin.integrity == integrity);
                    let lost: Vec<Source<'_>> = lost.map(Source::Npm).into_iter().collect();
                    self.fetch(&lost)?;
                    self.lay_packages(step, work)
                }
                source => Err(BuildError::Npm { layer, source: Box::new(source) }),
            },
            result => result,
        })
    }

    fn lay_packages(&self, step: &Step, work: &NpmWork) -> Result<LayerRecord, BuildError> {
        self.events.step_started(&step.key, &step.title, 1);
        let mut draft = self.store.draft()?;
        let tree = self.store.tree_draft()?;
        let blob = |integrity: &Integrity| self.store.source_path(integrity);
        let listing = npm::lay(work, &blob, tree.path(), &mut draft).map_err(|source| {
            BuildError::Npm { layer: step.layer.to_string(), source: Box::new(source) }
        })?;
        let inner = tree.path().to_owned();
        self.commit(Made::of(step), draft, tree, &inner, &listing)
    }
}
