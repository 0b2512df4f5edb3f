//! `sbx build`: from declarations to images in the store.

use std::path::Path;
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use sbx::build::builder::{Builder, BuiltLayer, Came};
use sbx::build::directories::{DIRECTORIES, directories_key};
use sbx::build::error::BuildError;
use sbx::build::local::scan;
use sbx::build::run::OnFailure;
use sbx::build::toolroom::BuildRoom;
use sbx::decl::{Layer, Project};
use sbx::digest::Digest;
use sbx::image::{ImageLayer, write_image};
use sbx::jail::{IdMap, UserNamespaceError, probe, run_in_user_namespace};
use sbx::lock::Lock;
use sbx::lock::question::LocalDigests;
use sbx::lock::solve::{SolveError, Solver, Update, unanswered};
use sbx::lock::toolroom::ToolError;
use sbx::plan::{Plan, PlanError, Shard};
use sbx::platform::Platform;
use sbx::ship::{Exchange, SharedCache, Tally};
use sbx::store::{Claimant, ImageRecord, Key, PublishedImage};

use super::Global;
use super::cache::{self, CacheArguments};
use super::expected::{self, drop_outdated, hold};
use crate::failure::{Failure, Outcome};
use crate::ui::Ui;
use crate::workspace::{Target, Workspace, now_nanos, own_arguments};

#[derive(Args)]
pub struct BuildArguments {
    /// Names of sandboxes, or globs of names
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Every sandbox of the project
    #[arg(long, conflicts_with = "names")]
    all: bool,
    /// Of what is named, build the share of one of N machines
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    /// Fail where the lock would have to change or an image is not the recorded one; read no index
    #[arg(long)]
    locked: bool,
    /// Write the ids of the images into the lock, for `--locked` to hold
    #[arg(long, conflicts_with = "locked")]
    record: bool,
    /// Build for this platform (default: this machine's)
    #[arg(long, value_name = "OS/ARCH")]
    platform: Vec<Platform>,
    /// Make the compressed twins of all layers now
    #[arg(long)]
    compress: bool,
    #[command(flatten)]
    cache: CacheArguments,
    /// Open a shell in a step that failed, before the build ends
    #[arg(long)]
    shell_on_failure: bool,
}

/// What a build may do beside building.
#[derive(Clone, Copy)]
pub struct Manner<'a> {
    pub locked: bool,
    pub on_failure: OnFailure<'a>,
    pub cache: Option<&'a SharedCache<'a>>,
}

impl Manner<'_> {
    /// Refuses an image that the lock does not expect.
    fn check(&self, lock: &Lock, plan: &Plan, record: &ImageRecord, ui: &Ui) -> Outcome {
        if self.locked { hold(lock, plan, &record.image, ui) } else { Ok(()) }
    }
}

/// `build --json`.
#[derive(Serialize)]
struct Answer {
    sandbox: String,
    image: Digest,
    /// The pushed manifest, once it is known.
    manifest: Option<Digest>,
    platform: Platform,
    layers: Vec<AnswerLayer>,
    /// Layers that came out of a cache and were put into it, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    cache: Option<Tally>,
    seconds: f64,
}

#[derive(Serialize)]
struct AnswerLayer {
    name: String,
    key: Key,
    diff_id: Digest,
    size: u64,
    /// Whether it was there, in the store or in a cache.
    cached: bool,
}

pub fn run(global: &Global, arguments: &BuildArguments, ui: &Ui) -> Outcome {
    let workspace = Workspace::open(global)?;
    let targets = workspace.targets(&arguments.names, arguments.all, &arguments.platform)?;
    let lock = ensure_lock(&workspace, &targets, arguments.locked, ui)?;
    let shell = arguments.shell_on_failure;
    let on_failure = if shell { OnFailure::Shell(ui) } else { OnFailure::End };
    let setup = arguments.cache.set_up(&workspace, ui)?;
    let cache = setup.open()?;
    let manner = Manner { locked: arguments.locked, on_failure, cache: cache.as_ref() };
    let (mut results, mut answers) = (Vec::new(), Vec::new());
    let tell = |answer: Answer| {
        cache::tell(answer.cache, ui);
        ui.answer(&answer, || answer.image.to_string());
    };
    // what an ordinary user's process answers has to wait: another may begin anew
    let is_sure = rustix::process::geteuid().is_root();
    for target in share(&workspace, targets, arguments.shard, &lock, ui)? {
        let start = Instant::now();
        let Some(built) = obtain(&workspace, target, &lock, manner, ui)? else {
            return run_in_namespace(&workspace.jail.program);
        };
        let (key, image) = (built.plan.key, built.record.image);
        results.push(expected::Obtained { target, key, image });
        let mut answer = answer(target, &built);
        if arguments.compress {
            answer.manifest = Some(compress(&workspace, &built)?);
        }
        answer.seconds = start.elapsed().as_secs_f64();
        if is_sure { tell(answer) } else { answers.push(answer) }
    }
    answers.into_iter().for_each(tell);
    if arguments.record { expected::record(&workspace, &results, ui) } else { Ok(()) }
}

/// What of some targets falls to a share.
fn share<'a>(
    workspace: &Workspace,
    mut targets: Vec<Target<'a>>,
    shard: Option<Shard>,
    lock: &Lock,
    ui: &Ui,
) -> Outcome<Vec<Target<'a>>> {
    let Some(shard) = shard else { return Ok(targets) };
    let plans = targets.iter().map(|target| plan_target(workspace, *target, lock));
    let mut selected = shard.select(&plans.collect::<Outcome<Vec<_>>>()?).into_iter();
    targets.retain(|_| selected.next().unwrap_or_default());
    if targets.is_empty() {
        ui.say(&format!("nothing falls to share {shard}"));
    }
    Ok(targets)
}

/// The layers of all targets, each after those it needs.
pub fn layers_of<'a>(project: &'a Project, targets: &[Target<'a>]) -> Vec<(&'a Layer, Platform)> {
    let mut layers: Vec<(&Layer, Platform)> = Vec::new();
    for target in targets {
        for layer in project.layers_of(target.sandbox, target.platform) {
            if !layers
                .iter()
                .any(|(known, platform)| known.name == layer.name && *platform == target.platform)
            {
                layers.push((layer, target.platform));
            }
        }
    }
    layers
}

/// The lock, with what was missing resolved.
pub fn ensure_lock(
    workspace: &Workspace,
    targets: &[Target<'_>],
    locked: bool,
    ui: &Ui,
) -> Outcome<Lock> {
    let lock = workspace.read_lock()?;
    let layers = layers_of(&workspace.project, targets);
    let local = scan_layers(workspace, &layers)?;
    let names: Vec<String> = unanswered(&workspace.project, &lock, &layers, &local)
        .into_iter()
        .map(|(layer, platform)| format!("`{}` for {platform}", layer.name))
        .collect();
    if names.is_empty() {
        workspace.register(&lock)?;
        return Ok(lock);
    }
    if locked {
        let message = format!(
            "the lock does not answer layer {}, and `--locked` refuses to change it",
            names.join(", ")
        );
        return Err(Failure::input(message).with_help("run `sbx lock`"));
    }
    ui.say(&format!("resolving layer {}", names.join(", ")));
    let mut next = solve(workspace, &local, &lock, &layers, &Update::Missing, ui)?;
    drop_outdated(workspace, &mut next);
    next.write(&workspace.lock_path())?;
    workspace.register(&next)?;
    Ok(next)
}

/// Resolves. Where that takes a program which only runs in a user namespace, the command is started
/// anew in one, and this one ends as that does.
pub fn solve(
    workspace: &Workspace,
    local: &LocalDigests,
    lock: &Lock,
    layers: &[(&Layer, Platform)],
    update: &Update,
    ui: &Ui,
) -> Outcome<Lock> {
    let builder = builder(workspace, ui, current_map()?, OnFailure::End);
    let solver = Solver {
        project: &workspace.project,
        store: &workspace.store,
        client: &workspace.client,
        mirrors: &workspace.mirrors,
        keychain: &workspace.keychain,
        local,
        toolroom: &BuildRoom { builder, local },
        now: workspace.now,
        progress: ui,
    };
    match workspace.store.within_cap(|| solver.solve(lock, layers, update))? {
        Err(SolveError::Tool(ToolError::Namespace)) => {
            run_in_namespace(&workspace.jail.program)?;
            Err(Failure::Silent(0))
        }
        solved => Ok(solved?),
    }
}

pub fn current_map() -> Outcome<IdMap> {
    IdMap::current().map_err(|error| Failure::world(format!("/proc/self/uid_map: {error}")))
}

/// Digests of the local files of some layers.
pub fn scan_layers(workspace: &Workspace, layers: &[(&Layer, Platform)]) -> Outcome<LocalDigests> {
    let mut unique: Vec<&Layer> = Vec::new();
    for (layer, _) in layers {
        if !unique.iter().any(|known| known.name == layer.name) {
            unique.push(layer);
        }
    }
    Ok(scan(&workspace.store, &workspace.project.root, &unique, now_nanos())?)
}

/// The plan of a target.
pub fn plan_target(workspace: &Workspace, target: Target<'_>, lock: &Lock) -> Outcome<Plan> {
    let local = scan_layers(workspace, &layers_of(&workspace.project, &[target]))?;
    let plan = Plan::new(&workspace.project, target.sandbox, target.platform, lock, &local);
    plan.map_err(|error: PlanError| error.into())
}

/// What building needs, out of the workspace.
pub fn builder<'a>(
    workspace: &'a Workspace,
    ui: &'a Ui,
    id_map: IdMap,
    on_failure: OnFailure<'a>,
) -> Builder<'a> {
    Builder {
        project: &workspace.project,
        store: &workspace.store,
        client: &workspace.client,
        mirrors: &workspace.mirrors,
        keychain: &workspace.keychain,
        jail: &workspace.jail,
        id_map,
        events: ui,
        vault: &workspace.vault,
        on_failure,
        shared: None,
    }
}

/// An image that the store has, with the plan that gave it.
pub struct Built {
    pub plan: Plan,
    pub record: ImageRecord,
    /// Empty where the store had it.
    layers: Vec<BuiltLayer>,
    pub tally: Option<Tally>,
}

/// Builds one target; `None` where that needs a user namespace that this process is not in.
pub fn obtain(
    workspace: &Workspace,
    target: Target<'_>,
    lock: &Lock,
    manner: Manner<'_>,
    ui: &Ui,
) -> Outcome<Option<Built>> {
    let plan = plan_target(workspace, target, lock)?;
    let exchange = manner.cache.map(|cache| cache.exchange(&plan, ui));
    if let Some(record) = workspace.store.use_image(&plan.key)? {
        manner.check(lock, &plan, &record, ui)?;
        publish(workspace, target, &record)?;
        if let Some(exchange) = &exchange {
            workspace.store.within_cap(|| exchange.during(|| exchange.offer(&plan)))?;
        }
        let tally = exchange.map(|exchange| exchange.tally());
        return Ok(Some(Built { plan, record, layers: Vec::new(), tally }));
    }
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    workspace.store.sweep()?;
    let builder = builder(workspace, ui, current_map()?, manner.on_failure);
    let layers = match workspace.store.within_cap(|| build(builder, &plan, exchange.as_ref()))? {
        Err(BuildError::Gone { pins }) if !manner.locked => {
            let names: Vec<&str> = pins.iter().map(|pin| &*pin.name).collect();
            ui.say(&format!(
                "note: {} left the archive: its layer is resolved again",
                names.join(", ")
            ));
            let lock = solve_again(workspace, target, lock, &names, ui)?;
            return obtain(workspace, target, &lock, Manner { locked: true, ..manner }, ui);
        }
        result => result?,
    };
    let mut record = write_image(&workspace.store, &plan.spec, &image_layers(&layers))?;
    record.keys = keys(&plan);
    manner.check(lock, &plan, &record, ui)?;
    workspace.store.put_image(&plan.key, &record)?;
    publish(workspace, target, &record)?;
    let tally = exchange.map(|exchange| exchange.tally());
    Ok(Some(Built { plan, record, layers, tally }))
}

/// Builds a plan, with what a cache has and for those who share it.
fn build(
    builder: Builder<'_>,
    plan: &Plan,
    exchange: Option<&Exchange<'_>>,
) -> Result<Vec<BuiltLayer>, BuildError> {
    let Some(exchange) = exchange else { return builder.build(plan) };
    exchange.during(|| {
        let layers = Builder { shared: Some(exchange), ..builder }.build(plan)?;
        exchange.offer(plan);
        Ok(layers)
    })
}

/// Keys of all that a plan makes.
fn keys(plan: &Plan) -> Vec<Key> {
    let steps = plan.aside.iter().chain(&plan.steps).map(|step| step.key);
    steps.chain([directories_key(plan)]).collect()
}

/// Resolves the layers anew that have packages of these names, keeping every other pin.
fn solve_again(
    workspace: &Workspace,
    target: Target<'_>,
    lock: &Lock,
    names: &[&str],
    ui: &Ui,
) -> Outcome<Lock> {
    let layers = layers_of(&workspace.project, &[target]);
    let update = Update::Named(names.iter().map(|name| name.to_string()).collect());
    let local = scan_layers(workspace, &layers)?;
    let mut next = solve(workspace, &local, lock, &layers, &update, ui)?;
    drop_outdated(workspace, &mut next);
    next.write(&workspace.lock_path())?;
    Ok(next)
}

/// An ordinary user works in a user namespace: the same command, started anew in it.
pub fn run_in_namespace(program: &Path) -> Outcome {
    let status = run_in_user_namespace(program, &own_arguments()).map_err(namespace_failure)?;
    match status.code() {
        Some(0) => Ok(()),
        Some(code) => Err(Failure::Silent(u8::try_from(code).unwrap_or(70))),
        None => Err(Failure::world("the command was ended by a signal")),
    }
}

fn namespace_failure(error: UserNamespaceError) -> Failure {
    // of several obstacles, the first one's mend comes first
    let help = probe().obstacles.into_iter().next().map(|obstacle| obstacle.mend);
    let help = help.or_else(|| error.help().map(str::to_owned));
    let failure = Failure::world(error.to_string());
    match help {
        Some(help) => failure.with_help(help),
        None => failure,
    }
}

fn image_layers(layers: &[BuiltLayer]) -> Vec<ImageLayer> {
    let layer = |layer: &BuiltLayer| ImageLayer {
        record: layer.record.clone(),
        created_by: format!("sbx {}", layer.title),
        comment: format!("layer {}, key {}", layer.name, layer.key),
    };
    layers.iter().map(layer).collect()
}

fn publish(workspace: &Workspace, target: Target<'_>, record: &ImageRecord) -> Outcome {
    let claimant = Claimant { project: &workspace.project.name, root: &workspace.project.root };
    let image = PublishedImage {
        platform: target.platform,
        manifest: record.manifest,
        size: record.manifest_size,
    };
    workspace.store.publish(&claimant, &target.sandbox.name, &[image])?;
    Ok(())
}

fn answer(target: Target<'_>, built: &Built) -> Answer {
    let Built { plan, record, layers: built, tally } = built;
    let steps = plan.steps.iter().map(|step| (step.layer.to_string(), step.key));
    let names = steps.chain([(DIRECTORIES.to_owned(), directories_key(plan))]);
    let layers =
        names.zip(&record.layers).enumerate().map(|(at, ((name, key), layer))| AnswerLayer {
            name,
            key,
            diff_id: layer.diff_id,
            size: layer.size,
            cached: built.get(at).is_none_or(|built| built.came != Came::Made),
        });
    Answer {
        sandbox: target.sandbox.name.to_string(),
        image: record.image,
        manifest: None,
        platform: target.platform,
        layers: layers.collect(),
        cache: *tally,
        seconds: 0.0,
    }
}

/// Makes the compressed twins and answers the manifest that lists them.
fn compress(workspace: &Workspace, built: &Built) -> Outcome<Digest> {
    let Built { plan, record, .. } = built;
    let record = workspace.store.find_image(&plan.key)?.ok_or_else(|| {
        let image = record.image;
        Failure::world(format!("image {image} went out of the store while it was packed"))
    })?;
    Ok(sbx::image::write_compressed(&workspace.store, &plan.spec, record.image, &record.layers)?)
}
