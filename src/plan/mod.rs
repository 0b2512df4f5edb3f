//! Plans: a sandbox's layers as ordered steps with Keys, without I/O.
//!
//! The order is: debian contents, each with its settle on top, and accounts, as one chain in the
//! order of needs; then everything else. So an edit of local files never settles anything, and
//! sandboxes share chains as far as they share debian layers. A chain step's Key covers the whole
//! chain before it, because dpkg's database is one; a content's Key covers its packages only.

mod from;
mod mcp;
mod node;
mod npm;
mod npm_tools;
mod owner;
mod pnpm;
mod python;
mod rest;
mod run;
mod shard;
mod spec;
mod step;
mod unpack;

pub use npm::NpmWork;
pub use pnpm::{PNPM, PnpmWork};
pub use python::{BytecodeWork, WheelsWork};
pub use shard::{Shard, ShardError};
pub use spec::{ImageSpec, Port};
pub use step::{
    AccountWork, BaseWork, ContentWork, FileWork, Ids, RunWork, SettleWork, SourceWork, Step, Work,
};
pub use unpack::{TakeWork, UnpackWork};

use std::collections::BTreeMap;

use serde::Serialize;

use self::mcp::Configs;
use self::run::Views;
use crate::decl::{Fault, Faults, Layer, PathRules, Project, Recipe, Sandbox};
use crate::digest::Digest;
use crate::fetch::defaults;
use crate::lock::base::{base_layer, from_of};
use crate::lock::interpreter::InterpreterError;
use crate::lock::question::{LocalDigests, debian_of, request_of, suites_of};
use crate::lock::{DebPin, Lock};
use crate::name::{LayerName, SandboxName};
use crate::platform::Platform;
use crate::store::Key;

/// Version of the layer format: a change of it makes all layers anew.
const FORMAT: u32 = 3;

/// What is to be done for one sandbox on one platform.
#[derive(Clone, Debug)]
pub struct Plan {
    pub sandbox: SandboxName,
    pub platform: Platform,
    /// Deltas of the image, bottom first.
    pub steps: Vec<Step>,
    /// Steps that are in no image, but are seen by others: each after those it sees itself.
    pub aside: Vec<Step>,
    pub spec: ImageSpec,
    /// Covers all steps and the configuration.
    pub key: Key,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error(transparent)]
    Faults(#[from] Faults),
    #[error(
        "layer `{layer}` for {platform} is not in the lock, or was changed since it was locked"
    )]
    NotLocked { layer: LayerName, platform: Platform },
    #[error(
        "sandbox `{sandbox}`: layers `{one}` and `{two}` bring `{package}` at {first} and at {second}"
    )]
    Versions {
        sandbox: SandboxName,
        one: LayerName,
        two: LayerName,
        package: String,
        first: String,
        second: String,
    },
    #[error(transparent)]
    Interpreter(#[from] InterpreterError),
    #[error("local files of layer `{0}` have not been looked at")]
    NotScanned(LayerName),
}

impl PlanError {
    pub fn blame(&self) -> crate::blame::Blame {
        match self {
            PlanError::NotScanned(_) => crate::blame::Blame::Bug,
            _ => crate::blame::Blame::Input,
        }
    }

    /// The next command.
    pub fn help(&self) -> Option<String> {
        match self {
            PlanError::Interpreter(error) => Some(error.help().to_owned()),
            PlanError::NotLocked { .. } => Some("run `sbx lock`".to_owned()),
            PlanError::Versions { package, .. } => {
                Some(format!("run `sbx lock --update {package}`"))
            }
            _ => None,
        }
    }
}

/// A Key over a canonical encoding of what a step depends on.
fn key_of(kind: &str, inputs: &impl Serialize) -> Key {
    let text = serde_json::to_vec(&(FORMAT, kind, inputs)).expect("inputs have string keys only");
    Key(Digest::of(&text))
}

/// What a plan is made of.
#[derive(Clone, Copy)]
struct Given<'a> {
    project: &'a Project,
    sandbox: &'a SandboxName,
    platform: Platform,
    lock: &'a Lock,
    local: &'a LocalDigests,
    views: &'a Views,
}

/// Which recipes are planned.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Whole,
    /// Bases and Debian.
    Ground,
}

struct Planner<'a> {
    given: Given<'a>,
    scope: Scope,
    chain: Vec<Step>,
    rest: Vec<Step>,
    aside: Vec<Step>,
    /// By name: version and the layer that brought it.
    shipped: BTreeMap<String, (String, LayerName)>,
    /// Lists of MCP servers, by where they are.
    configs: Configs,
    faults: Vec<Fault>,
}

impl<'a> Planner<'a> {
    fn new(given: Given<'a>, scope: Scope) -> Self {
        Planner {
            given,
            scope,
            chain: Vec::new(),
            rest: Vec::new(),
            aside: Vec::new(),
            shipped: BTreeMap::new(),
            configs: Configs::default(),
            faults: Vec::new(),
        }
    }
}

impl Plan {
    /// Plans a sandbox for a platform.
    pub fn new(
        project: &Project,
        sandbox: &Sandbox,
        platform: Platform,
        lock: &Lock,
        local: &LocalDigests,
    ) -> Result<Self, PlanError> {
        let layers = project.shipped_layers(sandbox, platform);
        let views = Views::default();
        let given = Given { project, sandbox: &sandbox.name, platform, lock, local, views: &views };
        let mut planner = Planner::new(given, Scope::Whole);
        planner.add_all(&layers)?;
        planner.add_configs();
        Faults::check(planner.faults)?;
        let steps: Vec<Step> = planner.chain.into_iter().chain(planner.rest).collect();
        let mut aside = planner.aside;
        aside.retain(|step| !steps.iter().any(|shipped| shipped.key == step.key));
        let base = layers.iter().find(|layer| from_of(layer).is_some());
        let base = base.and_then(|layer| lock.base_below(project, layer, platform));
        let spec = ImageSpec::new(sandbox, &layers, platform, base.as_ref());
        let keys: Vec<Key> = steps.iter().map(|step| step.key).collect();
        let key = key_of("image", &(&keys, &spec));
        Ok(Plan { sandbox: sandbox.name.clone(), platform, steps, aside, spec, key })
    }

    /// Plans what programs that resolve for a layer run over: the base and the Debian packages of the
    /// layers that it needs, and its own. It is no image; its sandbox has the layer's name.
    pub fn ground(
        project: &Project,
        layer: &Layer,
        platform: Platform,
        lock: &Lock,
        local: &LocalDigests,
    ) -> Result<Self, PlanError> {
        let sandbox = layer.name.as_str().parse::<SandboxName>();
        let sandbox = sandbox.expect("what names a layer can name a sandbox");
        let views = Views::default();
        let given = Given { project, sandbox: &sandbox, platform, lock, local, views: &views };
        let mut planner = Planner::new(given, Scope::Ground);
        let layers: Vec<&Layer> =
            project.closure_on(layer, platform).into_iter().chain([layer]).collect();
        planner.add_all(&layers)?;
        Faults::check(planner.faults)?;
        let steps: Vec<Step> = planner.chain.into_iter().chain(planner.rest).collect();
        let spec = ImageSpec::bare(platform);
        let keys: Vec<Key> = steps.iter().map(|step| step.key).collect();
        let key = key_of("ground", &keys);
        Ok(Plan { sandbox, platform, steps, aside: Vec::new(), spec, key })
    }
}

impl<'a> Planner<'a> {
    /// Adds whole layers: a base, if there is one, below all others.
    fn add_all(&mut self, layers: &[&'a Layer]) -> Result<(), PlanError> {
        let is_base = |layer: &&&Layer| from_of(layer).is_some();
        let bases = layers.iter().filter(is_base);
        let others = layers.iter().filter(|layer| !is_base(layer));
        bases.chain(others).try_for_each(|layer| self.add(layer, usize::MAX))
    }

    /// Adds the steps of a layer's recipes, those at and after `until` left out.
    fn add(&mut self, layer: &'a Layer, until: usize) -> Result<(), PlanError> {
        self.add_base(layer)?;
        let users = layer.recipes.iter().filter_map(|recipe| match recipe {
            Recipe::User(user) => Some(AccountWork {
                name: user.name.clone(),
                uid: user.uid,
                gid: user.gid,
                group: user.group.clone(),
                groups: user.groups.clone(),
                home: user.home.clone(),
                shell: user.shell.clone(),
            }),
            _ => None,
        });
        let users: Vec<AccountWork> = users.collect();
        match debian_of(layer) {
            Some(_) => self.add_debian(layer, users)?,
            None if !users.is_empty() => {
                let names: Vec<_> = users.iter().map(|user| user.name.as_str()).collect();
                let title = format!("user {}", names.join(" "));
                let below = self.chain_keys();
                let key = key_of("accounts", &(&below, &users));
                self.chain.push(Step {
                    below,
                    layer: layer.name.clone(),
                    key,
                    title,
                    work: Work::Accounts(users),
                });
            }
            None => {}
        }
        self.add_rest(layer, until)
    }

    fn chain_keys(&self) -> Vec<Key> {
        self.chain.iter().map(|step| step.key).collect()
    }

    fn add_debian(
        &mut self,
        layer: &'a Layer,
        accounts: Vec<AccountWork>,
    ) -> Result<(), PlanError> {
        let not_locked =
            || PlanError::NotLocked { layer: layer.name.clone(), platform: self.given.platform };
        let request = request_of(self.given.project, layer, self.given.platform, self.given.lock)
            .ok_or_else(not_locked)?;
        let locked = self
            .given
            .lock
            .find(&layer.name, self.given.platform, &request)
            .ok_or_else(not_locked)?;
        let pins = self.ship(layer, &locked.debs)?;
        let fresh = self.chain.is_empty();
        let title = debian_title(layer);
        let identity: Vec<_> =
            pins.iter().map(|pin| (&pin.name, &pin.version, &pin.arch, &pin.digest)).collect();
        let paths = self.path_rules(layer);
        let key = key_of("content", &(identity, fresh, &paths));
        self.chain.push(Step {
            layer: layer.name.clone(),
            key,
            title: title.clone(),
            below: Vec::new(),
            work: Work::Content(ContentWork { pins: pins.clone(), fresh, paths }),
        });
        let settle = self.settle_work(layer, pins, accounts);
        self.add_settle(layer, &title, settle);
        Ok(())
    }

    /// Which of a layer's packages no layer below has; one that another has in another version cannot
    /// be.
    fn ship(&mut self, layer: &Layer, debs: &[DebPin]) -> Result<Vec<DebPin>, PlanError> {
        let mut pins: Vec<DebPin> = Vec::new();
        for pin in debs {
            match self.shipped.get(&*pin.name) {
                None => pins.push(pin.clone()),
                Some((version, _)) if **version == *pin.version => {}
                Some((version, other)) => {
                    return Err(PlanError::Versions {
                        sandbox: self.given.sandbox.clone(),
                        one: other.clone(),
                        two: layer.name.clone(),
                        package: pin.name.to_string(),
                        first: version.clone(),
                        second: pin.version.to_string(),
                    });
                }
            }
        }
        for pin in &pins {
            self.shipped
                .insert(pin.name.to_string(), (pin.version.to_string(), layer.name.clone()));
        }
        Ok(pins)
    }

    fn add_settle(&mut self, layer: &Layer, title: &str, settle: SettleWork) {
        let marks: Vec<_> = settle.pins.iter().map(|pin| (&pin.name, pin.mark)).collect();
        let keyrings: Vec<_> = settle
            .keyrings
            .iter()
            .map(|(path, file)| (path, self.given.local.files.get(file)))
            .collect();
        let below = self.chain_keys();
        let inputs = (
            &below,
            marks,
            &settle.accounts,
            &settle.sources,
            keyrings,
            &settle.debconf,
            self.given.platform,
        );
        let key = key_of("settle", &inputs);
        self.chain.push(Step {
            layer: layer.name.clone(),
            key,
            title: format!("settle {title}"),
            below,
            work: Work::Settle(settle),
        });
    }

    /// What is left out of packages: the lowest debian layer says it for all.
    fn path_rules(&self, layer: &Layer) -> PathRules {
        let below = self.given.project.closure(layer).into_iter().chain([layer]);
        below.filter_map(debian_of).next().map(|debian| debian.paths.clone()).unwrap_or_default()
    }

    /// apt in the image is told of the public archives, by the first layer that has them.
    fn settle_work(
        &self,
        layer: &Layer,
        pins: Vec<DebPin>,
        accounts: Vec<AccountWork>,
    ) -> SettleWork {
        let Some(recipe) = debian_of(layer) else {
            return SettleWork {
                pins,
                accounts,
                sources: vec![],
                keyrings: vec![],
                debconf: vec![],
            };
        };
        let mut sources = Vec::new();
        let mut keyrings = Vec::new();
        let based = base_layer(self.given.project, layer, self.given.platform).is_some();
        // a base has its own
        let lowest = !based
            && !self.given.project.closure(layer).iter().any(|below| debian_of(below).is_some());
        if lowest {
            for archive in ["debian", "debian-security"] {
                let suites: Vec<String> = suites_of(self.given.project, layer, None)
                    .into_iter()
                    .filter(|suite| defaults::debian_archive(suite) == archive)
                    .collect();
                if let Some(uri) = defaults::debian_url(archive).filter(|_| !suites.is_empty()) {
                    sources.push(SourceWork {
                        name: "debian".to_owned(),
                        uri: uri.to_owned(),
                        suites,
                        components: recipe.components.clone(),
                        signed_by: "/usr/share/keyrings/debian-archive-keyring.gpg".to_owned(),
                    });
                }
            }
        }
        for repository in &recipe.repositories {
            let signed_by = format!("/etc/apt/keyrings/{}.asc", repository.name);
            keyrings.push((signed_by.clone(), repository.key.clone()));
            sources.push(SourceWork {
                name: repository.name.clone(),
                uri: repository.url.clone(),
                suites: vec![repository.suite.clone()],
                components: repository.components.clone(),
                signed_by,
            });
        }
        SettleWork { pins, accounts, sources, keyrings, debconf: recipe.debconf.clone() }
    }
}

fn debian_title(layer: &Layer) -> String {
    let Some(recipe) = debian_of(layer) else { return String::new() };
    let names: Vec<&str> = recipe.packages.iter().map(|package| package.name.as_str()).collect();
    let release = recipe.release.as_deref().unwrap_or_default();
    format!("debian {release}: {}", names.join(" ")).replace(" :", ":")
}
