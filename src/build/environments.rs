//! Environments as steps of a build.

use super::builder::{Builder, Made};
use super::error::BuildError;
use super::wheels::{self, WheelFile, WheelsError};
use crate::lock::{Source, WheelPin};
use crate::plan::{BytecodeWork, Step, WheelsWork};
use crate::python::WheelError;
use crate::store::LayerRecord;

impl Builder<'_> {
    pub(super) fn make_environment(
        &self,
        step: &Step,
        work: &WheelsWork,
    ) -> Result<LayerRecord, BuildError> {
        self.once(step, || match self.make_wheels(step, work) {
            Err(BuildError::Wheels {
                source: WheelsError::Wheel { file, source: WheelError::Corrupt { expected, .. } },
                ..
            }) => {
                self.events
                    .note(&format!("wheel `{file}` was damaged in the store: it is fetched again"));
                self.store.drop_blob(&expected)?;
                let lost = work.wheels.iter().filter(|pin| pin.digest == expected);
                let lost: Vec<Source<'_>> = lost.map(Source::Wheel).collect();
                self.fetch(&lost)?;
                self.make_wheels(step, work)
            }
            result => result,
        })
    }

    fn make_wheels(&self, step: &Step, work: &WheelsWork) -> Result<LayerRecord, BuildError> {
        self.events.step_started(&step.key, &step.title, 1);
        let mut draft = self.store.draft()?;
        let tree = self.store.tree_draft()?;
        let wheel = |pin: &WheelPin| WheelFile {
            blob: self.store.blob_path(&pin.digest),
            file_name: pin.file_name.to_string(),
            digest: pin.digest,
        };
        let files: Vec<WheelFile> = work.wheels.iter().map(wheel).collect();
        let mut note = |text: &str| self.events.note(text);
        let listing = wheels::lay(work, &files, tree.path(), &mut draft, &mut note)
            .map_err(|source| BuildError::Wheels { layer: step.layer.to_string(), source })?;
        let inner = tree.path().to_owned();
        self.commit(Made::of(step), draft, tree, &inner, &listing)
    }

    pub(super) fn make_bytecode(
        &self,
        step: &Step,
        work: &BytecodeWork,
    ) -> Result<LayerRecord, BuildError> {
        self.once(step, || {
            self.events.step_started(&step.key, &step.title, 1);
            let lowers = self.below(step)?;
            let scratch = self.store.tree_draft()?;
            let mut draft = self.store.draft()?;
            let listing = wheels::compile(work, &lowers, self.jail, scratch.path(), &mut draft)
                .map_err(|source| BuildError::Wheels { layer: step.layer.to_string(), source })?;
            let inner = scratch.path().join("upper");
            self.commit(Made::of(step), draft, scratch, &inner, &listing)
        })
    }
}
