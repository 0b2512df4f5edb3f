//! Commands as steps of a build.

use std::path::Path;

use super::builder::{Builder, Made};
use super::error::BuildError;
use super::run::{self, Dress, RunJob};
use super::view::View;
use crate::plan::{RunWork, Step};
use crate::serve::Shelf;
use crate::store::LayerRecord;

impl Builder<'_> {
    pub(super) fn make_run(&self, step: &Step, work: &RunWork) -> Result<LayerRecord, BuildError> {
        self.make_dressed(step, work, |_, _| Ok(Dress::default()))
    }

    /// Runs a command that is shown what `dress` says, of what it sees and in a directory to work in.
    pub(super) fn make_dressed(
        &self,
        step: &Step,
        work: &RunWork,
        dress: impl FnOnce(&View, &Path) -> Result<Dress, BuildError>,
    ) -> Result<LayerRecord, BuildError> {
        self.once(step, || {
            self.events.step_started(&step.key, &step.title, 1);
            let failed = |source| BuildError::Run {
                layer: step.layer.to_string(),
                source: Box::new(source),
            };
            let lowers = self.below(step)?;
            let shelved = work.shelf.iter().filter_map(|pin| run::shelve(pin, self.store));
            let log = self.log_path(&step.key)?;
            let scratch = self.store.tree_draft()?;
            let mut draft = self.store.draft()?;
            let job = RunJob {
                work,
                lowers: &lowers,
                jail: self.jail,
                vault: self.vault,
                shelf: &Shelf::new(shelved),
                scratch: scratch.path(),
                log: &log,
                on_failure: self.on_failure,
                dress: dress(&View::new(&lowers), scratch.path())?,
            };
            let mut line = |line: &str| self.events.step_said(&step.key, line);
            let listing = job.run(&mut draft, &mut line).map_err(failed)?;
            let inner = scratch.path().join("upper");
            self.commit(Made::of(step), draft, scratch, &inner, &listing)
        })
    }
}
