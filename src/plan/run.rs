//! Commands: what each of them sees.
//!
//! A command sees the closure of its layer's needs and what its own layer brought before it, and
//! nothing else of the sandbox it is built for. So its view is planned as if it were an image of its
//! own: where a sandbox orders its Debian layers otherwise, or leaves build stages out, the view has
//! steps that no image ships, and one layer is the same bytes in every sandbox.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::node::headers;
use super::spec::environment;
use super::step::{RunWork, Step, Work};
use super::{Given, PlanError, Planner, Scope, key_of};
use crate::decl::{Layer, Recipe, Run};
use crate::lock::Pin;
use crate::lock::question::recipe_request;
use crate::name::LayerName;

/// Views by layer and by the number of its recipes that are seen. Commands of one project see much
/// the same.
#[derive(Default)]
pub(super) struct Views(RefCell<BTreeMap<(LayerName, usize), Rc<View>>>);

/// What a command sees.
pub(super) struct View {
    /// Bottom first.
    pub steps: Vec<Step>,
    /// What those see, in turn.
    pub aside: Vec<Step>,
}

/// Longest command that is shown whole.
const SHOWN: usize = 72;

impl<'a> Planner<'a> {
    /// Adds a command that sees the recipes of its layer before `at`. A recipe that implies commands
    /// of its own (install scripts) gives them its place and one, so that they see what it laid.
    pub(super) fn add_run(
        &mut self,
        layer: &'a Layer,
        at: usize,
        run: &Run,
    ) -> Result<(), PlanError> {
        let view = self.view(layer, at)?;
        for step in view.aside.iter().chain(&view.steps) {
            if !self.aside.iter().any(|known| known.key == step.key) {
                self.aside.push(step.clone());
            }
        }
        let work = self.run_work(layer, at, run);
        let below: Vec<_> = view.steps.iter().map(|step| step.key).collect();
        self.rest.push(Step {
            layer: layer.name.clone(),
            key: key_of("run", &(&below, &work, self.given.platform)),
            title: title(&run.command),
            below,
            work: Work::Run(work),
        });
        Ok(())
    }

    /// What recipe `at` of a layer sees.
    pub(super) fn view(&mut self, layer: &'a Layer, at: usize) -> Result<Rc<View>, PlanError> {
        let name = (layer.name.clone(), at);
        if let Some(view) = self.given.views.0.borrow().get(&name) {
            return Ok(Rc::clone(view));
        }
        let mut inner = Planner::new(self.given, Scope::Whole);
        inner.add_all(&self.given.project.closure_on(layer, self.given.platform))?;
        inner.add(layer, at)?;
        let Planner { chain, rest, aside, faults, .. } = inner;
        // those of layers that are shipped are found there, too
        self.faults.extend(faults.into_iter().filter(|_| !layer.ship));
        let view = Rc::new(View { steps: chain.into_iter().chain(rest).collect(), aside });
        self.given.views.0.borrow_mut().insert(name, Rc::clone(&view));
        Ok(view)
    }

    /// What the recipes of a layer before one of them are locked to.
    pub(super) fn shelf(&self, layer: &Layer, at: usize) -> Vec<Pin> {
        let Given { project, platform, lock, local, .. } = self.given;
        let requests =
            (0..at).filter_map(|before| recipe_request(project, layer, before, platform, local));
        let pins = requests.filter_map(|request| lock.answer(&request)).flatten();
        let mut pins: Vec<Pin> = pins.filter(|pin| !pin.is_base()).cloned().collect();
        pins.sort();
        pins.dedup();
        pins
    }

    fn run_work(&self, layer: &Layer, at: usize, run: &Run) -> RunWork {
        let mut layers = self.given.project.closure_on(layer, self.given.platform);
        layers.push(layer);
        let base = self.base_below(layer);
        let mut env = environment(&run.env, &layers, base.as_ref());
        env.extend(headers(&layers));
        RunWork {
            command: run.command.clone(),
            shell: run.shell.to_string(),
            cwd: run.cwd.clone().unwrap_or(usual_dir(layer, at)),
            env,
            secrets: run.secrets.clone(),
            allow: run.allow.clone(),
            deny: run.deny.clone(),
            shelf: self.shelf(layer, at),
            timeout: run.timeout,
        }
    }
}

/// Where the last recipe before one laid a project, or the root.
fn usual_dir(layer: &Layer, at: usize) -> String {
    let dir = layer.recipes[..at].iter().rev().find_map(Recipe::project_dir);
    dir.map_or("/".to_owned(), ToString::to_string)
}

/// `run npm run build`, on one line.
pub(super) fn title(command: &str) -> String {
    let line = command.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN) {
        None => format!("run {line}"),
        Some((end, _)) => format!("run {}…", &line[..end]),
    }
}
