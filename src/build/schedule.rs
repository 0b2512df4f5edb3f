//! In which order steps are made: those that see nothing at once, in parallel; every other after all
//! that it sees. What an image does not ship is made only where something that is missing sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use rayon::prelude::*;

use super::builder::{BuildError, Builder, BuiltLayer, directories_key};
use crate::jail::Jail;
use crate::plan::{Plan, Step, Work};
use crate::store::{Held, Key, LayerRecord};

impl Builder<'_> {
    /// Builds all layers of a plan, bottom first.
    pub fn build(&self, plan: &Plan) -> Result<Vec<BuiltLayer>, BuildError> {
        // what is made here becomes part of images: whoever builds must not show in its modes
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        let wanted = self.prepare(plan)?;
        let jail = self.jail_over(plan, &wanted)?;
        let records = Builder { jail: &jail, ..*self }.make(plan, &wanted)?;
        let mut layers: Vec<BuiltLayer> = Vec::new();
        for (step, record) in plan.steps.iter().zip(records) {
            let (name, title) = (step.layer.to_string(), step.title.clone());
            let cached = !wanted.contains(&step.key);
            layers.push(BuiltLayer { name, title, key: step.key, record, cached });
        }
        self.add_directories(plan, &mut layers)?;
        Ok(layers)
    }

    /// Makes all steps of a plan and answers their trees, bottom first.
    pub fn trees(&self, plan: &Plan) -> Result<Vec<PathBuf>, BuildError> {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        let wanted = self.prepare(plan)?;
        let jail = self.jail_over(plan, &wanted)?;
        let records = Builder { jail: &jail, ..*self }.make(plan, &wanted)?;
        records.iter().map(|record| self.tree(record)).collect()
    }

    /// Holds what the plan has and needs, fetches what is missing, and answers which steps have to be
    /// made.
    fn prepare(&self, plan: &Plan) -> Result<BTreeSet<Key>, BuildError> {
        let steps = || plan.aside.iter().chain(&plan.steps);
        let directories = directories_key(plan);
        let keys = steps().map(|step| &step.key).chain([&directories]);
        self.store.hold(keys.map(Held::Key))?;
        let wanted = self.wanted(plan)?;
        let made = steps().filter(|step| wanted.contains(&step.key));
        let sources: Vec<_> = made.flat_map(|step| step.work.sources()).collect();
        self.places().hold(&sources)?;
        self.fetch(&self.missing_sources(plan)?)?;
        Ok(wanted)
    }

    /// The sandbox for what a plan has to run; where it has nothing to run, this machine need not be
    /// able to.
    fn jail_over(&self, plan: &Plan, wanted: &BTreeSet<Key>) -> Result<Jail, BuildError> {
        let mut made = plan.aside.iter().chain(&plan.steps);
        match made.any(|step| step.work.runs_programs() && wanted.contains(&step.key)) {
            true => self.jail_for(plan.platform),
            false => Ok(self.jail.clone()),
        }
    }

    /// Makes the steps that are wanted and answers the layers of all that are in the image.
    fn make(&self, plan: &Plan, wanted: &BTreeSet<Key>) -> Result<Vec<LayerRecord>, BuildError> {
        let all = || plan.aside.iter().chain(&plan.steps);
        let free: Vec<&Step> =
            all().filter(|step| step.work.is_free() && wanted.contains(&step.key)).collect();
        free.par_iter().try_for_each(|step| self.make_step(plan, step).map(drop))?;
        let steps: BTreeMap<Key, &Step> = all().map(|step| (step.key, step)).collect();
        let mut made = BTreeSet::new();
        plan.steps
            .iter()
            .map(|step| self.make_over(plan, step, &steps, wanted, &mut made))
            .collect()
    }

    /// Makes a step after those that it sees.
    fn make_over(
        &self,
        plan: &Plan,
        step: &Step,
        steps: &BTreeMap<Key, &Step>,
        wanted: &BTreeSet<Key>,
        made: &mut BTreeSet<Key>,
    ) -> Result<LayerRecord, BuildError> {
        if wanted.contains(&step.key) && made.insert(step.key) {
            for below in step.below.iter().filter_map(|key| steps.get(key)) {
                self.make_over(plan, below, steps, wanted, made)?;
            }
        }
        self.make_step(plan, step)
    }

    fn make_step(&self, plan: &Plan, step: &Step) -> Result<LayerRecord, BuildError> {
        match &step.work {
            Work::Base(_)
            | Work::Content(_)
            | Work::Files(_)
            | Work::Npm(_)
            | Work::Wheels(_)
            | Work::Unpack(_) => self.make_free(step),
            Work::Bytecode(work) => self.make_bytecode(step, work),
            Work::Settle(work) => self.make_settle(plan, step, work),
            Work::Accounts(work) => self.make_accounts(step, work),
            Work::Run(work) => self.make_run(step, work),
            Work::Copy(take) => self.make_copy(step, take),
            Work::Pnpm(work) => self.make_pnpm(step, work),
        }
    }

    /// Keys of the steps that have to be made: those of the image that the store does not have, and
    /// those that such a step sees.
    pub(super) fn wanted(&self, plan: &Plan) -> Result<BTreeSet<Key>, BuildError> {
        let all = plan.aside.iter().chain(&plan.steps);
        let steps: BTreeMap<Key, &Step> = all.map(|step| (step.key, step)).collect();
        let mut next: Vec<Key> = plan.steps.iter().map(|step| step.key).collect();
        let mut seen = BTreeSet::new();
        let mut wanted = BTreeSet::new();
        while let Some(key) = next.pop() {
            let Some(step) = steps.get(&key).filter(|_| seen.insert(key)) else { continue };
            if self.find(step)?.is_none() {
                wanted.insert(key);
                next.extend(&step.below);
            }
        }
        Ok(wanted)
    }
}
