//! `sbx run`: from a name to a running instance.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use sbx::build::run::OnFailure;
use sbx::decl::{PortDecl, Ready, Sandbox};
use sbx::digest::Digest;
use sbx::image::save::Saved;
use sbx::jail::Emulation;
use sbx::launch::docker::Engine;
use sbx::launch::{
    Attached, Connections, HeldImage, InstanceName, Launch, Launcher, PortOption, PrivateOption,
    Request, Spec, State, VariableOption, VolumeOption, Waiting, start,
};
use sbx::name::SandboxName;
use sbx::oci::document::Config;
use sbx::plan::{ImageSpec, Plan};
use sbx::platform::Platform;
use sbx::reference::Reference;
use sbx::store::{ImageRecord, Key, Store};

use super::Global;
use super::build::{
    Built, Manner, builder, current_map, ensure_lock, obtain, plan_target, run_in_namespace,
};
use super::cache::{CacheArguments, tell};
use super::image::{as_reference, find_pulled, open_for};
use super::instances::show_log;
use super::launchers::{LauncherArguments, LauncherName, Pinned, Printed, pushed};
use super::pipes::{Pipes, hold_signals, pass_signals};
use super::register::at_home;
use crate::failure::{Failure, Outcome};
use crate::ui::Ui;
use crate::workspace::{
    Target, Workspace, now_seconds, own_program, random_hex, state_path, variable,
};

#[derive(Args)]
pub struct RunArguments {
    /// Leave it running, and answer once it is ready
    #[arg(long, short)]
    detach: bool,
    /// What the instance is called (default: the sandbox's name and a number)
    #[arg(long, value_name = "NAME")]
    name: Option<InstanceName>,
    /// Publish a port of the instance on 127.0.0.1; HOST may be 0 for any
    #[arg(long, short, value_name = "HOST:PORT")]
    publish: Vec<PortOption>,
    /// Set a variable
    #[arg(long, short, value_name = "NAME=VALUE")]
    env: Vec<VariableOption>,
    /// Mount a file or directory of this machine
    #[arg(long, short, value_name = "SOURCE:PATH[:ro]")]
    volume: Vec<VolumeOption>,
    /// How long it may take to be ready (default: as declared, or 60)
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    timeout: Option<u32>,
    #[command(flatten)]
    launcher: LauncherArguments,
    /// Run it without the limits that are declared
    #[arg(long)]
    no_limits: bool,
    /// Let a host of `egress` be this machine or in its own networks
    #[arg(long, value_name = "HOST:PORT")]
    allow_private: Vec<PrivateOption>,
    /// Let the program read what is typed or piped in
    #[arg(long, short)]
    interactive: bool,
    /// Give the program a terminal
    #[arg(long, short, requires = "interactive", conflicts_with = "detach")]
    tty: bool,
    /// For this platform, if something here can run it (default: this machine's)
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
    /// Fail where the lock would have to change, and read no index
    #[arg(long)]
    locked: bool,
    #[command(flatten)]
    cache: CacheArguments,
    /// The sandbox, or the reference of an image that was pulled
    #[arg(value_name = "SANDBOX")]
    sandbox: String,
    /// A program to run in place of the sandbox's own
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// `run -d --json`.
#[derive(Serialize)]
struct Answer {
    id: String,
    name: String,
    url: Option<String>,
    token: Option<String>,
    /// Inside to outside.
    ports: BTreeMap<u16, u16>,
    image: String,
    seconds: f64,
}

pub fn run(global: &Global, arguments: &RunArguments, ui: &Ui) -> Outcome {
    let begun = Instant::now();
    arguments.launcher.check()?;
    let home = at_home(global, &arguments.sandbox)?;
    // it gets ready while this process finds out for what
    let starts = !arguments.launcher.print && rustix::process::geteuid().is_root();
    let keeper = starts.then(|| Ok::<_, Failure>(Waiting::start(&own_program()?)?)).transpose()?;
    let workspace = open_for(&home.global, &arguments.sandbox)?;
    if arguments.launcher.print {
        return print(&workspace, arguments, ui);
    }
    let launcher = arguments.launcher.find()?;
    let Some(keeper) = keeper else { return run_in_namespace(&workspace.jail.program) };
    let prepared = prepare(&workspace, arguments, ui)?;
    let spec = &prepared.spec;
    warn_of_private(spec, ui);
    if home.image.is_some_and(|image| image != spec.image) {
        let again = format!("run `sbx register {0}` in its project", spec.sandbox);
        ui.say(&format!("note: `{}` is another image than was registered: {again}", spec.sandbox));
    }
    let builder = builder(&workspace, ui, current_map()?, OnFailure::End);
    let (trees, engine_image) = match &launcher {
        Launcher::Docker(engine) => (Vec::new(), bring(&workspace, engine, &prepared, ui)?),
        _ => (builder.image_trees(&prepared.record)?, String::new()),
    };
    let id = random_hex(16)?;
    let name = match &arguments.name {
        Some(name) => name.clone(),
        None => format!("{}-{}", spec.sandbox, &id[..8]).parse()?,
    };
    let state = State::open(&state_path()?)?;
    let launch = Launch {
        state: &state,
        launcher,
        spec,
        trees,
        name,
        id,
        detached: arguments.detach,
        image: HeldImage { store: workspace.store.root().to_owned(), key: prepared.key },
        engine_image,
        now: now_seconds(),
    };
    match (arguments.detach, arguments.tty) {
        (true, _) => detach(launch, keeper, begun, ui),
        (false, true) => attend(launch, keeper, ui),
        (false, false) => follow(launch, keeper, arguments.interactive, begun, ui),
    }
}

/// Builds what is not built; `None` where that needs a user namespace.
fn build(
    workspace: &Workspace,
    target: Target<'_>,
    arguments: &RunArguments,
    ui: &Ui,
) -> Outcome<Option<Built>> {
    let lock = ensure_lock(workspace, &[target], arguments.locked, ui)?;
    let setup = arguments.cache.set_up(workspace, ui)?;
    let cache = setup.open()?;
    let cache = cache.as_ref();
    let manner = Manner { locked: arguments.locked, on_failure: OnFailure::End, cache };
    let built = obtain(workspace, target, &lock, manner, ui)?;
    tell(built.as_ref().and_then(|built| built.tally), ui);
    Ok(built)
}

/// What is to be started.
struct Prepared {
    spec: Spec,
    record: ImageRecord,
    /// What the image's plan is known by.
    key: Key,
    platform: Platform,
    /// What engines call the image.
    reference: String,
}

fn prepare(workspace: &Workspace, arguments: &RunArguments, ui: &Ui) -> Outcome<Prepared> {
    if let Some(reference) = as_reference(&arguments.sandbox) {
        return prepare_pulled(workspace, arguments, &reference?);
    }
    let target = workspace.target(&arguments.sandbox, arguments.platform)?;
    check_platform(arguments, target.platform, |host| {
        match workspace.project.platforms.contains(&host) {
            true => "leave `--platform` out".to_owned(),
            false => format!("add {host} to `platforms` in `project`"),
        }
    })?;
    let Some(Built { plan, record, .. }) = build(workspace, target, arguments, ui)? else {
        return Err(Failure::world("the build needs a user namespace"));
    };
    let request = request(arguments, with_keys(workspace, target, &arguments.env));
    let spec = spec(target, (&plan, record.image), &request, &variable)?;
    let reference = workspace.project.reference_of(target.sandbox);
    Ok(Prepared { spec, record, key: plan.key, platform: target.platform, reference })
}

/// Instances have no emulator of sbx's: what this machine cannot run itself is not started. An engine
/// knows for itself. `mend` is how there is an image for this machine.
fn check_platform(
    arguments: &RunArguments,
    platform: Platform,
    mend: impl FnOnce(Platform) -> String,
) -> Outcome {
    if arguments.launcher.launcher == LauncherName::Docker {
        return Ok(());
    }
    match Emulation::find(platform) {
        Ok(Emulation::Native | Emulation::Host(_)) => Ok(()),
        Ok(Emulation::Own) | Err(_) => {
            let (name, host) = (&arguments.sandbox, Platform::host());
            let message = format!("`{name}` is for {platform}, and this machine runs {host}");
            let help = format!("{}, or run it on a machine of that platform", mend(host));
            Err(Failure::input(message).with_help(help))
        }
    }
}

/// An image that was pulled runs as its config says.
fn prepare_pulled(
    workspace: &Workspace,
    arguments: &RunArguments,
    reference: &Reference,
) -> Outcome<Prepared> {
    let found = find_pulled(workspace, reference, arguments.platform)?;
    check_platform(arguments, found.platform, |host| {
        format!("run `sbx pull {reference} --platform {host}`")
    })?;
    let config = Config::parse(&workspace.store.read_blob(&found.record.image)?);
    let settings = config.and_then(|config| config.settings());
    let settings =
        settings.map_err(|error| Failure::world(format!("image `{reference}`: {error}")))?;
    let image = ImageSpec::of_image(found.platform, &settings);
    let ports = image.ports.iter().filter(|port| port.protocol == "tcp");
    let ports = ports.map(|port| PortDecl { number: port.number, udp: false }).collect();
    let name = reference.repository().rsplit('/').next().unwrap_or_default();
    let name = name.parse::<SandboxName>();
    let name = name.map_err(|error| Failure::input(error.to_string()))?;
    let sandbox = Sandbox::of_image(name, ports);
    let token = random_hex(16)?;
    let image = (&image, found.record.image);
    let request = request(arguments, arguments.env.clone());
    let spec = Spec::new(&sandbox, image, &request, &variable, || token)?;
    let reference = reference.to_string();
    Ok(Prepared {
        spec,
        key: Store::pulled_key(&reference, found.platform),
        record: found.record,
        platform: found.platform,
        reference,
    })
}

fn spec(
    target: Target<'_>,
    (plan, image): (&Plan, Digest),
    request: &Request,
    host: &dyn Fn(&str) -> Option<String>,
) -> Outcome<Spec> {
    let token = random_hex(16)?;
    Ok(Spec::new(target.sandbox, (&plan.spec, image), request, host, || token)?)
}

fn request(arguments: &RunArguments, env: Vec<VariableOption>) -> Request {
    Request {
        publish: arguments.publish.clone(),
        env,
        volumes: arguments.volume.clone(),
        timeout: arguments.timeout.map(|seconds| Duration::from_secs(seconds.into())),
        command: arguments.command.clone(),
        terminal: arguments.tty,
        no_limits: arguments.no_limits,
        private: arguments.allow_private.iter().map(|option| option.0.clone()).collect(),
    }
}

fn warn_of_private(spec: &Spec, ui: &Ui) {
    for host in &spec.private {
        let sandbox = &spec.sandbox;
        ui.say(&format!(
            "warning: `{sandbox}` may reach `{host}` on this machine and in its own networks"
        ));
    }
}

/// Brings an image to docker's engine, if it is not there.
fn bring(workspace: &Workspace, engine: &Engine, prepared: &Prepared, ui: &Ui) -> Outcome<String> {
    let Prepared { record, platform, reference, .. } = prepared;
    let saved = Saved { store: &workspace.store, record, platform: *platform, reference };
    let bringing = || ui.say(&format!("bringing {} to docker's engine", record.image));
    Ok(engine.bring(&saved, bringing)?)
}

/// What the launcher would be told. What it refuses comes before the image, which may have to be built; one
/// that was pushed need not be here at all.
fn print(workspace: &Workspace, arguments: &RunArguments, ui: &Ui) -> Outcome {
    let target = workspace.target(&arguments.sandbox, arguments.platform)?;
    let launcher = &arguments.launcher;
    let for_cluster = launcher.launcher == LauncherName::Kubernetes;
    let by_name = for_cluster && !launcher.with_secrets;
    // what is a Secret's there need not be known here
    let absent = |name: &str| variable(name).or(Some(String::new()));
    let host: &dyn Fn(&str) -> Option<String> = if by_name { &absent } else { &variable };
    let env = match by_name {
        true => arguments.env.clone(),
        false => with_keys(workspace, target, &arguments.env),
    };
    let request = request(arguments, env);
    let spec = |plan: &Plan, image: Digest| spec(target, (plan, image), &request, host);
    let lock = ensure_lock(workspace, &[target], arguments.locked, ui)?;
    let plan = plan_target(workspace, target, &lock)?;
    // no refusal is about the image's id, which is not known yet
    launcher.refuse(&spec(&plan, Digest::of(b""))?)?;
    let (spec, image) = match &launcher.image {
        Some(Pinned { reference, digest }) => (spec(&plan, *digest)?, reference.clone()),
        None => {
            let Some(Built { plan, record, .. }) = build(workspace, target, arguments, ui)? else {
                return run_in_namespace(&workspace.jail.program);
            };
            let image = match for_cluster {
                true => pushed(workspace, &target.sandbox.name, &record.image)?,
                false => workspace.project.reference_of(target.sandbox),
            };
            (spec(&plan, record.image)?, image)
        }
    };
    let name = arguments.name.as_ref().map_or(&*spec.sandbox, InstanceName::as_str);
    let printed = Printed { spec: &spec, name, image, platform: target.platform };
    launcher.write(printed, ui)
}

/// What is asked for, and the keys of MCP servers that this machine has: a server without its key is
/// left out at its start.
fn with_keys(
    workspace: &Workspace,
    target: Target<'_>,
    asked: &[VariableOption],
) -> Vec<VariableOption> {
    let mut env = asked.to_vec();
    for var in workspace.project.host_vars(target.sandbox, target.platform) {
        let declared = target.sandbox.env_from_host.iter().any(|known| known.name == var.name);
        if !declared
            && !env.iter().any(|option| option.name == var.name)
            && let Some(value) = variable(&var.name)
        {
            env.push(VariableOption { name: var.name, value });
        }
    }
    env
}

fn answer(launch: &Launch<'_>, attached: &Attached, begun: Instant) -> Answer {
    let spec = launch.spec;
    let first = attached.ports.first().map(|(outside, _)| *outside);
    Answer {
        id: launch.id.clone(),
        name: launch.name.to_string(),
        url: first.map(|port| format!("http://127.0.0.1:{port}")),
        token: spec.token.clone(),
        ports: attached.ports.iter().map(|(outside, inside)| (*inside, *outside)).collect(),
        image: spec.image.to_string(),
        seconds: begun.elapsed().as_secs_f64(),
    }
}

/// For people: where it is, what to show, and a line to try.
fn describe(answer: &Answer, ready: Option<&Ready>) -> String {
    let Some(url) = &answer.url else { return answer.name.clone() };
    let path = match ready {
        Some(Ready::Http { path, .. }) => path,
        _ => "/",
    };
    let mut lines = vec![url.clone()];
    let mut shown = String::new();
    if let Some(token) = &answer.token {
        lines.push(format!("token {token}"));
        shown = format!("-H 'Authorization: Bearer {token}' ");
    }
    lines.push(format!("curl {shown}{url}{path}"));
    lines.join("\n")
}

fn detach(launch: Launch<'_>, keeper: Waiting, begun: Instant, ui: &Ui) -> Outcome {
    let null = std::fs::File::open("/dev/null")
        .map_err(|error| Failure::world(format!("/dev/null: {error}")))?;
    let null = std::os::fd::AsFd::as_fd(&null);
    let mut attached = start(&launch, &Connections { stdio: [null; 3] }, keeper)?;
    if let Err(error) = attached.wait_ready() {
        show_log(&attached.dir, ui);
        attached.remove();
        return Err(error.into());
    }
    let answer = answer(&launch, &attached, begun);
    ui.answer(&answer, || describe(&answer, launch.spec.ready.as_ref()));
    Ok(())
}

/// Until the program ends, with what it says.
fn follow(
    launch: Launch<'_>,
    keeper: Waiting,
    interactive: bool,
    begun: Instant,
    ui: &Ui,
) -> Outcome {
    let held = hold_signals();
    let pipes = Pipes::open(ui, interactive)?;
    let mut attached = start(&launch, &Connections { stdio: pipes.near() }, keeper)?;
    let far = pipes.give_away();
    pass_signals(held, attached.keeper);
    let ended = std::thread::scope(|scope| {
        far.carry(scope, ui);
        let ready = attached.wait_ready();
        if ready.is_ok() && launch.spec.first_port().is_some() {
            let answer = answer(&launch, &attached, begun);
            ui.answer(&answer, || describe(&answer, launch.spec.ready.as_ref()));
        }
        match ready {
            Err(sbx::launch::LaunchError::EndedEarly(how)) => Ok(how),
            Err(error) => {
                attached.remove();
                Err(error)
            }
            Ok(()) => attached.wait(),
        }
    });
    end(ended?.code())
}

/// With a terminal that somebody sits at.
fn attend(launch: Launch<'_>, keeper: Waiting, ui: &Ui) -> Outcome {
    let Some(seat) = ui.seat() else {
        return Err(Failure::input("there is no terminal here").with_help("leave `-t` out"));
    };
    let held = hold_signals();
    let pipes = Pipes::open(ui, false)?;
    let mut attached = start(&launch, &Connections { stdio: pipes.near() }, keeper)?;
    drop(pipes.give_away());
    pass_signals(held, attached.keeper);
    if let Some(far) = attached.terminal() {
        // whoever sits there sees what went wrong, or is gone
        seat.join(&far).unwrap_or_default();
    }
    end(attached.wait()?.code())
}

/// A child's exit code is this process's.
pub fn end(code: u8) -> Outcome {
    match code {
        0 => Ok(()),
        code => Err(Failure::Silent(code)),
    }
}
