//! The builder's way with sources that are unpacked.

use super::builder::{Builder, Made};
use super::error::BuildError;
use super::extract::{self, Blob, ExtractError, Nature};
use crate::lock::Source;
use crate::plan::{Step, UnpackWork};
use crate::store::LayerRecord;

impl Builder<'_> {
    pub(super) fn make_unpacked(
        &self,
        step: &Step,
        work: &UnpackWork,
    ) -> Result<LayerRecord, BuildError> {
        self.once(step, || match self.unpack(step, work) {
            Err(BuildError::Extract {
                source: ExtractError::Corrupt { label, expected, .. },
                ..
            }) => {
                self.events
                    .note(&format!("`{label}` was damaged in the store: it is fetched again"));
                self.store.drop_source(&expected)?;
                self.fetch(&work.source().into_iter().collect::<Vec<_>>())?;
                self.unpack(step, work)
            }
            result => result,
        })
    }

    fn unpack(&self, step: &Step, work: &UnpackWork) -> Result<LayerRecord, BuildError> {
        self.events.step_started(&step.key, &step.title, 1);
        let Some(source) = work.source() else {
            return Err(BuildError::Below { layer: step.layer.to_string() });
        };
        let digest = source.integrity();
        let path = self.store.source_path(&digest);
        let nature = match source {
            Source::Git(_) => Nature::Tree,
            _ => Nature::Archive,
        };
        let blob = Blob { label: source.label(), path: &path, digest, nature };
        let mut draft = self.store.draft()?;
        let tree = self.store.tree_draft()?;
        let listing = extract::lay(&blob, &work.take, tree.path(), &mut draft)
            .map_err(|source| BuildError::Extract { layer: step.layer.to_string(), source })?;
        let inner = tree.path().to_owned();
        self.commit(Made::of(step), draft, tree, &inner, &listing)
    }
}
