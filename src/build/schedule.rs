//! In which order steps are made: those that see nothing at once, in parallel; every other after all
//! that it sees. What an image does not ship is made only where something that is missing sees it.
//!
//! A shared cache is asked first, for all that the store lacks at once. What it has comes while the
//! rest is made, and what only such layers need is neither made nor fetched. One that does not come is
//! made after all, with what it needs. Before a program runs, the cache is asked again, and another
//! machine that is at the same is waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use super::builder::{Builder, BuiltLayer, Came, once};
use super::directories::directories_key;
use super::error::BuildError;
use super::shared::{Arrival, Arrivals};
use crate::jail::Jail;
use crate::plan::{Plan, Step, Work};
use crate::store::{Held, Key, LayerRecord};

/// How a plan is carried out.
struct Course<'p> {
    plan: &'p Plan,
    steps: BTreeMap<Key, &'p Step>,
    /// What the store lacks and nobody else has.
    made: BTreeSet<Key>,
    /// What comes from a cache.
    arrivals: Arrivals,
    /// When the cache was asked.
    looked: Instant,
}

/// A cache is asked again for what is about to be made so much later.
const LATE: Duration = Duration::from_secs(2);

impl Builder<'_> {
    /// Builds all layers of a plan, bottom first.
    pub fn build(&self, plan: &Plan) -> Result<Vec<BuiltLayer>, BuildError> {
        // what is made here becomes part of images: whoever builds must not show in its modes
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        let course = self.prepare(plan)?;
        let jail = self.jail_over(&course)?;
        let records = Builder { jail: &jail, ..*self }.carry_out(&course)?;
        let mut layers: Vec<BuiltLayer> = Vec::new();
        for (step, record) in plan.steps.iter().zip(records) {
            let (name, title) = (step.layer.to_string(), step.title.clone());
            let came = self.came(&course, &step.key);
            layers.push(BuiltLayer { name, title, key: step.key, record, came });
        }
        self.add_directories(plan, &mut layers)?;
        Ok(layers)
    }

    /// Makes all steps of a plan and answers their trees, bottom first.
    pub fn trees(&self, plan: &Plan) -> Result<Vec<PathBuf>, BuildError> {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        let course = self.prepare(plan)?;
        let jail = self.jail_over(&course)?;
        let records = Builder { jail: &jail, ..*self }.carry_out(&course)?;
        let trees = records.iter().map(|record| self.tree(record));
        Ok(once(trees.collect::<Result<_, _>>()?))
    }

    /// The sandbox for what a plan has to run; where it has nothing to run, this machine need not be
    /// able to.
    fn jail_over(&self, course: &Course<'_>) -> Result<Jail, BuildError> {
        let mut made = course.made.iter().filter_map(|key| course.steps.get(key));
        match made.any(|step| step.work.runs_programs()) {
            true => self.jail_for(course.plan.platform),
            false => Ok(self.jail.clone()),
        }
    }

    /// Holds what the plan has and needs, and finds out which steps have to be made and which come from
    /// elsewhere.
    fn prepare<'p>(&self, plan: &'p Plan) -> Result<Course<'p>, BuildError> {
        let all = || plan.aside.iter().chain(&plan.steps);
        let directories = directories_key(plan);
        let keys = all().map(|step| &step.key).chain([&directories]);
        self.store.hold(keys.map(Held::Key))?;
        let lacking = self.wanted(plan)?;
        let looked = Instant::now();
        let offered = self.look(all().filter(|step| lacking.contains(&step.key)));
        let mut coming = BTreeSet::new();
        let made = reach(plan, |step| {
            let offered = offered.contains(&step.key);
            if offered {
                coming.insert(step.key);
            }
            Ok(offered || !lacking.contains(&step.key))
        })?;
        let needing = all().filter(|step| made.contains(&step.key));
        let sources: Vec<_> = needing.flat_map(|step| step.work.sources()).collect();
        self.places().hold(&sources)?;
        let coming = all().map(|step| step.key).filter(|key| coming.contains(key)).collect();
        let steps = all().map(|step| (step.key, step)).collect();
        Ok(Course { plan, steps, made, arrivals: Arrivals::new(coming), looked })
    }

    /// Which of these steps a cache has. Layers of bases stay where their registry has them.
    fn look<'p>(&self, steps: impl Iterator<Item = &'p Step>) -> BTreeSet<Key> {
        let Some(shared) = self.shared else { return BTreeSet::new() };
        let own = steps.filter(|step| !matches!(step.work, Work::Base(_)));
        let keys: Vec<Key> = own.map(|step| step.key).collect();
        if keys.is_empty() { BTreeSet::new() } else { shared.look(&keys) }
    }

    /// Makes what is to be made, while the rest comes; answers the layers of all that are in the image.
    fn carry_out(&self, course: &Course<'_>) -> Result<Vec<LayerRecord>, BuildError> {
        std::thread::scope(|scope| {
            if let Some(shared) = self.shared {
                let take = |key: &Key| self.take_shared(shared, course.steps[key]);
                for _ in 0..course.arrivals.hands() {
                    scope.spawn(move || course.arrivals.bring(take));
                }
            }
            let made = self.make(course);
            course.arrivals.end();
            made
        })
    }

    fn make(&self, course: &Course<'_>) -> Result<Vec<LayerRecord>, BuildError> {
        let Course { plan, made, .. } = course;
        self.fetch(&self.lacking_sources(plan, made))?;
        let all = plan.aside.iter().chain(&plan.steps);
        let free: Vec<&Step> =
            all.filter(|step| step.work.is_free() && made.contains(&step.key)).collect();
        free.par_iter().try_for_each(|step| self.make_step(plan, step).map(drop))?;
        let mut seen = BTreeSet::new();
        plan.steps.iter().map(|step| self.make_over(course, step, &mut seen)).collect()
    }

    /// Makes a step after those that it sees, if it does not come from elsewhere.
    fn make_over(
        &self,
        course: &Course<'_>,
        step: &Step,
        seen: &mut BTreeSet<Key>,
    ) -> Result<LayerRecord, BuildError> {
        if let Arrival::Here(record) = course.arrivals.wait(&step.key) {
            return Ok(record);
        }
        let planned = course.made.contains(&step.key);
        if (planned || self.find(step)?.is_none()) && seen.insert(step.key) {
            for below in step.below.iter().filter_map(|key| course.steps.get(key)) {
                self.make_over(course, below, seen)?;
            }
            if let Some(record) = self.take_late(course, step) {
                return Ok(record);
            }
            if !planned {
                // nobody thought that it would be needed
                let lost = BTreeSet::from([step.key]);
                self.fetch(&self.lacking_sources(course.plan, &lost))?;
                if step.work.runs_programs() {
                    let jail = self.jail_for(course.plan.platform)?;
                    return Builder { jail: &jail, ..*self }.make_step(course.plan, step);
                }
            }
        }
        self.make_step(course.plan, step)
    }

    /// Another machine may have made a step while this one waited for what it sees.
    fn take_late(&self, course: &Course<'_>, step: &Step) -> Option<LayerRecord> {
        let late = !step.work.is_free() && course.looked.elapsed() > LATE;
        let shared = self.shared.filter(|_| late)?;
        let found = shared.look(&[step.key]).contains(&step.key);
        let record = found.then(|| self.take_shared(shared, step)).flatten()?;
        course.arrivals.add(step.key, record.clone());
        Some(record)
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

    fn came(&self, course: &Course<'_>, key: &Key) -> Came {
        if self.shared.is_some_and(|shared| shared.took(key)) {
            return Came::Shared;
        }
        let lost = matches!(course.arrivals.wait(key), Arrival::Lost);
        if lost || course.made.contains(key) { Came::Made } else { Came::Stored }
    }

    /// Keys of the steps that the store lacks: those of the image, and those that such a step sees.
    pub(super) fn wanted(&self, plan: &Plan) -> Result<BTreeSet<Key>, BuildError> {
        reach(plan, |step| Ok(self.find(step)?.is_some()))
    }
}

/// Keys of the steps of an image that are not there, and of those that such a step sees and that are
/// not there either.
fn reach(
    plan: &Plan,
    mut is_there: impl FnMut(&Step) -> Result<bool, BuildError>,
) -> Result<BTreeSet<Key>, BuildError> {
    let all = plan.aside.iter().chain(&plan.steps);
    let steps: BTreeMap<Key, &Step> = all.map(|step| (step.key, step)).collect();
    let mut next: Vec<Key> = plan.steps.iter().map(|step| step.key).collect();
    let mut seen = BTreeSet::new();
    let mut wanted = BTreeSet::new();
    while let Some(key) = next.pop() {
        let Some(step) = steps.get(&key).filter(|_| seen.insert(key)) else { continue };
        if !is_there(step)? {
            wanted.insert(key);
            next.extend(&step.below);
        }
    }
    Ok(wanted)
}
