//! Projects of pnpm's: the packages of their lock become pins, and the pinned pnpm that installs them.
//!
//! Which pnpm it is, `packageManager` of the project says; else the `node` recipe below, if its pnpm
//! reads such a lock; else it is the newest that does and runs on the Node below.

use std::collections::BTreeSet;

use serde_json::Value;

use super::node::{newest, runs_on};
use super::npm::{NpmLockError, Reading, omit};
use super::registry::{MissingError, Release};
use super::{Ask, SolveError, Solver};
use crate::decl::{Kind, Recipe};
use crate::lock::interpreter::debs_below;
use crate::lock::question::recipe_request;
use crate::lock::{NpmPart, NpmPin, Pin};
use crate::npm::{
    LockFault, Machine, Manifest, Origin, PnpmFault, PnpmForm, PnpmLock, PnpmOne, PnpmWorkspace,
    pnpm_dir,
};

/// pnpm's lock.
pub(super) const LOCK: &str = "pnpm-lock.yaml";
/// What it says of a project of several directories.
const WORKSPACE: &str = "pnpm-workspace.yaml";
/// Settings that move packages out of their usual directories.
const LAYOUT: [&str; 4] =
    ["node-linker", "virtual-store-dir", "modules-dir", "virtual-store-dir-max-length"];

/// Why a project of pnpm's cannot be locked.
#[derive(Debug, thiserror::Error)]
pub enum PnpmLockError {
    #[error(transparent)]
    Fault(#[from] PnpmFault),
    #[error("pnpm runs on Node, and no layer below has it")]
    NoNode,
    #[error("pnpm cannot leave out `peer` dependencies")]
    Peers,
    #[error("`packageManager` is pnpm {named}, which does not read a lock of version {form}")]
    Reader { named: String, form: PnpmForm },
    #[error("`packageManager` is pnpm {named}, and that is a program of another digest")]
    Digest { named: String },
    #[error("`scripts` are run in pnpm's usual layout only, and `{setting}` is set")]
    Layout { setting: &'static str },
}

impl PnpmLockError {
    pub fn help(&self) -> Option<String> {
        match self {
            PnpmLockError::Fault(fault) => fault.help(),
            PnpmLockError::NoNode => Some("let the layer need one with `node \"22\"`".to_owned()),
            PnpmLockError::Peers => Some("leave `\"peer\"` out of `omit`".to_owned()),
            PnpmLockError::Reader { .. } => {
                Some("make the lock anew with that pnpm: `pnpm install --lockfile-only`".to_owned())
            }
            PnpmLockError::Digest { .. } => None,
            PnpmLockError::Layout { .. } => {
                Some("say `run \"pnpm rebuild NAME\"` after `npm` instead".to_owned())
            }
        }
    }
}

/// The Node that a layer sees, and the pnpm beside it.
struct Runtime {
    node: String,
    pnpm: Option<NpmPin>,
}

impl Reading<'_> {
    fn pnpm_failed(&self, source: impl Into<PnpmLockError>) -> SolveError {
        self.failed(LOCK, NpmLockError::Pnpm(source.into()))
    }

    /// Whether pnpm installs the project.
    pub(super) fn is_pnpm(&self, manifest: &Manifest, npm_lock: Option<&str>) -> bool {
        if !self.files.is_file(LOCK) {
            return false;
        }
        let named = manifest.package_manager.as_str();
        let chosen = named.is_some_and(|named| named.starts_with("pnpm@"));
        if let (Some(lock), false) = (npm_lock, chosen) {
            let layer = &self.ask.layer.name;
            self.solver.progress.noted(&format!(
                "layer `{layer}`: `{lock}` counts, `{LOCK}` beside it does not: `packageManager` does not name pnpm"
            ));
            return false;
        }
        true
    }

    pub(super) fn solve_pnpm(&self, manifest: &Manifest) -> Result<Vec<Pin>, SolveError> {
        if self.npm.omit.contains(&Kind::Peer) {
            return Err(self.pnpm_failed(PnpmLockError::Peers));
        }
        let lock = self.pnpm_lock(manifest)?;
        let workspace = self.workspace()?;
        let mut more = machines(self.ask, &manifest.pnpm["supportedArchitectures"]);
        more.extend(machines(self.ask, &workspace.supported_architectures));
        let set = lock.set(self.ask.platform, omit(self.npm), &more);
        let set = set.map_err(|fault| self.pnpm_failed(fault))?;
        let pnpm = self.pnpm_program(lock.form, manifest)?;
        let program = pnpm.bins.iter().find(|(name, _)| &**name == "pnpm");
        let mut pins: Vec<Pin> = set.iter().filter_map(pin).map(Pin::Npm).collect();
        pins.push(Pin::NpmPart(NpmPart::Manager {
            name: pnpm.name.clone(),
            version: pnpm.version.clone(),
            program: program.map_or("bin/pnpm.cjs".into(), |(_, file)| file.clone()),
        }));
        self.tell_pnpm(
            &set,
            &lock,
            &[&manifest.pnpm["onlyBuiltDependencies"], &workspace.only_built_dependencies],
        );
        pins.extend(self.pnpm_scripts(&set, major(&pnpm.version), &workspace)?);
        pins.push(Pin::Npm(NpmPin { bins: Vec::new(), ..pnpm }));
        pins.sort();
        pins.dedup();
        Ok(pins)
    }

    /// The lock, which agrees with what its directories say of themselves.
    fn pnpm_lock(&self, manifest: &Manifest) -> Result<PnpmLock, SolveError> {
        let bytes = self.files.read(LOCK)?;
        let text = String::from_utf8(bytes).map_err(|_| self.failed(LOCK, NpmLockError::Text))?;
        let lock = PnpmLock::parse(&text).map_err(|fault| self.pnpm_failed(fault))?;
        for at in lock.importers.keys() {
            let name = format!("{at}/package.json");
            let agreed = match at == "." {
                true => lock.agree(at, manifest),
                false if !self.files.is_file(&name) => continue,
                false => lock.agree(at, &self.manifest(&name)?),
            };
            agreed.map_err(|fault| self.pnpm_failed(fault))?;
        }
        Ok(lock)
    }

    fn workspace(&self) -> Result<PnpmWorkspace, SolveError> {
        if !self.files.is_file(WORKSPACE) {
            return Ok(PnpmWorkspace::default());
        }
        let text = String::from_utf8_lossy(&self.files.read(WORKSPACE)?).into_owned();
        let parsed = PnpmWorkspace::parse(&text);
        parsed.map_err(|fault| self.failed(WORKSPACE, NpmLockError::Pnpm(fault.into())))
    }

    /// The pnpm that installs.
    fn pnpm_program(&self, form: PnpmForm, manifest: &Manifest) -> Result<NpmPin, SolveError> {
        let Solver { project, .. } = *self.solver;
        let Some(runtime) = runtime(self.solver, self.ask) else {
            return Err(self.pnpm_failed(PnpmLockError::NoNode));
        };
        let reads = |version: &str| form.readers().contains(&major(version));
        let named = manifest.package_manager.as_str().and_then(|text| text.strip_prefix("pnpm@"));
        let (wanted, digest) = match named.map(|named| named.split_once('+').unwrap_or((named, "")))
        {
            Some((version, _)) if !reads(version) => {
                let named = version.to_owned();
                return Err(self.pnpm_failed(PnpmLockError::Reader { named, form }));
            }
            Some((version, digest)) => (vec![version.to_owned()], digest),
            None => match runtime.pnpm.filter(|pin| reads(&pin.version)) {
                Some(pin) => return Ok(pin),
                None => (form.readers().iter().map(u64::to_string).collect(), ""),
            },
        };
        let missing = |source| SolveError::Missing { layer: self.ask.layer.name.clone(), source };
        let package = "pnpm".to_owned();
        let Some(document) = self.solver.npm_document(&self.npm.project, &package)? else {
            return Err(missing(MissingError::Package { package }));
        };
        let day = project.as_of(self.ask.layer, self.ask.recipe);
        let found = document.seen(day);
        let runs = |release: &Release| named.is_some() || runs_on(release, &runtime.node);
        let choose = |wanted: &String| newest(&document, &package, &found, Some(wanted), &runs);
        let Some(pin) = wanted.iter().find_map(choose) else {
            let (wanted, day) = (wanted.join(", "), day.map(str::to_owned));
            return Err(missing(MissingError::Version { package, wanted, day, found }));
        };
        let own = format!("{}.{}", pin.integrity.algorithm(), pin.integrity.hex());
        let comparable = digest.split('.').next() == Some(pin.integrity.algorithm());
        match comparable && digest != own {
            true => Err(self.pnpm_failed(PnpmLockError::Digest { named: wanted.concat() })),
            false => Ok(pin),
        }
    }

    /// Names the packages that are known to have install scripts and do not run them.
    fn tell_pnpm(&self, set: &[PnpmOne], lock: &PnpmLock, built: &[&Value]) {
        let listed = built.iter().filter_map(|list| list.as_array()).flatten();
        let listed: BTreeSet<&str> = listed.filter_map(Value::as_str).collect();
        let wants = |one: &&PnpmOne| {
            let said = lock.packages.get(&one.key).is_some_and(|package| package.requires_build);
            (said || listed.contains(one.name.as_str()))
                && !self.npm.scripts.iter().any(|name| name == one.name.as_str())
        };
        self.tell_names(
            set.iter().filter(wants).map(|one| format!("{} {}", one.name, one.version)),
        );
    }

    /// What runs of what packages want to run.
    fn pnpm_scripts(
        &self,
        set: &[PnpmOne],
        major: u64,
        workspace: &PnpmWorkspace,
    ) -> Result<Vec<Pin>, SolveError> {
        if self.npm.scripts.is_empty() {
            return Ok(Vec::new());
        }
        let settings =
            self.files.is_file(".npmrc").then(|| self.files.read(".npmrc")).transpose()?;
        let settings = String::from_utf8_lossy(&settings.unwrap_or_default()).into_owned();
        let sets = |setting: &&&str| {
            let line =
                |line: &str| line.split('=').next().is_some_and(|key| key.trim() == **setting);
            settings.lines().any(line) || workspace.sets(setting)
        };
        if let Some(setting) = LAYOUT.iter().find(sets) {
            return Err(self.pnpm_failed(PnpmLockError::Layout { setting }));
        }
        let mut scripts = Vec::new();
        for name in &self.npm.scripts {
            let refused = |reason: &str| {
                let fault = LockFault::Script { name: name.clone(), reason: reason.to_owned() };
                self.failed(LOCK, fault.into())
            };
            let before = scripts.len();
            let ones: Vec<&PnpmOne> = set.iter().filter(|one| one.name.as_str() == name).collect();
            for one in &ones {
                let Some(pin) = pin(one) else { return Err(refused("is a file of the project's")) };
                let dir = pnpm_dir(&one.key, major);
                let place = format!("node_modules/.pnpm/{dir}/node_modules/{}", one.name);
                let parts = self.scripts_of(LOCK, &NpmPin { place: place.into(), ..pin })?;
                scripts.extend(parts.into_iter().map(Pin::NpmPart));
            }
            if ones.is_empty() {
                return Err(refused("is not in the tree"));
            }
            if scripts.len() == before {
                return Err(refused("has no install scripts"));
            }
        }
        Ok(scripts)
    }
}

/// `None` for a file of the project, which lies there.
fn pin(one: &PnpmOne) -> Option<NpmPin> {
    let path = match &one.origin {
        Origin::Registry(path) => path.clone().unwrap_or_default(),
        Origin::Address(url) => url.to_string(),
        Origin::File(_) | Origin::Git(_) => return None,
    };
    Some(NpmPin {
        name: one.name.as_str().into(),
        version: one.version.as_str().into(),
        integrity: one.integrity,
        place: "".into(),
        path: path.into(),
        bins: Vec::new(),
    })
}

/// The first number of a version.
pub(super) fn major(version: &str) -> u64 {
    version.split('.').next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// Machines that `supportedArchitectures` names.
fn machines(ask: &Ask<'_>, value: &Value) -> Vec<Machine> {
    if !value.is_object() {
        return Vec::new();
    }
    let own = Machine::of(ask.platform);
    let list = |name: &str, own: &str| -> Vec<String> {
        let said = value[name].as_array().into_iter().flatten().filter_map(Value::as_str);
        let said: Vec<String> =
            said.map(|text| if text == "current" { own } else { text }.to_owned()).collect();
        if said.is_empty() { vec![own.to_owned()] } else { said }
    };
    let mut found = Vec::new();
    for os in list("os", &own.os) {
        for cpu in list("cpu", &own.cpu) {
            for libc in list("libc", &own.libc) {
                found.push(Machine { os: os.clone(), cpu: cpu.clone(), libc });
            }
        }
    }
    found
}

/// What the layers below and the recipes before say of Node: the `node` recipe that is nearest,
/// Debian's package, or the base.
fn runtime(solver: &Solver<'_>, ask: &Ask<'_>) -> Option<Runtime> {
    let below = solver.project.closure_on(ask.layer, ask.platform);
    let own = (ask.layer, ask.at);
    let below = below.into_iter().map(|layer| (layer, layer.recipes.len())).chain([own]);
    let mut found = None;
    for (layer, until) in below {
        for at in 0..until {
            if !matches!(layer.recipes[at], Recipe::NodeJs(_)) {
                continue;
            }
            let request = recipe_request(solver.project, layer, at, ask.platform, solver.local)?;
            let pins = ask.lock.answer(&request).unwrap_or_default();
            let pins: Vec<NpmPin> = pins.iter().filter_map(Pin::npm).cloned().collect();
            let node = pins.iter().find(|pin| pin.place.is_empty())?.version.to_string();
            let pnpm = pins.into_iter().find(|pin| &*pin.name == "pnpm");
            let pnpm = pnpm.map(|pin| NpmPin { place: "".into(), ..pin });
            found = Some(Runtime { node, pnpm });
        }
    }
    found.or_else(|| deb_runtime(ask, solver)).or_else(|| {
        // a base says which Node it has, if it is one of Node's own
        let base = ask.lock.base_below(solver.project, ask.layer, ask.platform)?;
        let said = base.settings.iter().filter(|(kind, _)| *kind == "env");
        let mut said = said.filter_map(|(_, words)| match words {
            [name, version, ..] if &**name == "NODE_VERSION" => Some(version.to_string()),
            _ => None,
        });
        Some(Runtime { node: said.next().unwrap_or_default(), pnpm: None })
    })
}

/// Debian's Node.
fn deb_runtime(ask: &Ask<'_>, solver: &Solver<'_>) -> Option<Runtime> {
    let mut debs = debs_below(solver.project, ask.layer, ask.platform, ask.lock);
    let deb = debs.find(|deb| deb.name == "nodejs")?;
    let node = deb.version.split(['+', '-', '~']).next().unwrap_or_default().to_owned();
    Some(Runtime { node, pnpm: None })
}
