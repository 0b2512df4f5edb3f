//! `sbx run`: from a name to a running instance.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use sbx::build::run::OnFailure;
use sbx::decl::Ready;
use sbx::launch::{
    Attached, Connections, HeldImage, InstanceName, Launch, PortOption, Request, Spec, State,
    VariableOption, VolumeOption, start,
};
use sbx::store::Key;

use super::Global;
use super::build::{Built, Manner, builder, current_map, ensure_lock, obtain, run_in_namespace};
use super::instances::show_log;
use super::pipes::{Pipes, hold_signals, pass_signals};
use super::register::at_home;
use crate::failure::{Failure, Outcome};
use crate::ui::Ui;
use crate::workspace::{Target, Workspace, now_seconds, random_hex, state_path, variable};

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
    /// What starts it
    #[arg(long, value_enum, default_value = "embedded")]
    launcher: Launcher,
    /// Run it without the limits that are declared
    #[arg(long)]
    no_limits: bool,
    /// Let the program read what is typed or piped in
    #[arg(long, short)]
    interactive: bool,
    /// Give the program a terminal
    #[arg(long, short, requires = "interactive", conflicts_with = "detach")]
    tty: bool,
    /// Fail where the lock would have to change, and read no index
    #[arg(long)]
    locked: bool,
    /// The sandbox
    #[arg(value_name = "SANDBOX")]
    sandbox: String,
    /// A program to run in place of the sandbox's own
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Launcher {
    /// This program itself: no daemon, no other program
    Embedded,
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
    let home = at_home(global, &arguments.sandbox)?;
    let workspace = Workspace::open(&home.global)?;
    if !rustix::process::geteuid().is_root() {
        return run_in_namespace(&workspace.jail.program);
    }
    let Launcher::Embedded = arguments.launcher;
    let Prepared { spec, trees, key } = prepare(&workspace, arguments, ui)?;
    if home.image.is_some_and(|image| image != spec.image) {
        let again = format!("run `sbx register {0}` in its project", spec.sandbox);
        ui.say(&format!("note: `{}` is another image than was registered: {again}", spec.sandbox));
    }
    let id = random_hex(16)?;
    let name = match &arguments.name {
        Some(name) => name.clone(),
        None => format!("{}-{}", spec.sandbox, &id[..8]).parse()?,
    };
    let state = State::open(&state_path()?)?;
    let launch = Launch {
        program: &workspace.jail.program,
        state: &state,
        spec: &spec,
        trees,
        name,
        id,
        detached: arguments.detach,
        image: HeldImage { store: workspace.store.root().to_owned(), key },
        now: now_seconds(),
    };
    match (arguments.detach, arguments.tty) {
        (true, _) => detach(launch, begun, ui),
        (false, true) => attend(launch, ui),
        (false, false) => follow(launch, arguments.interactive, begun, ui),
    }
}

/// What is to be started, out of which trees.
struct Prepared {
    spec: Spec,
    trees: Vec<PathBuf>,
    /// What the image's plan is known by.
    key: Key,
}

fn prepare(workspace: &Workspace, arguments: &RunArguments, ui: &Ui) -> Outcome<Prepared> {
    let targets = workspace.targets(std::slice::from_ref(&arguments.sandbox), false, &[])?;
    let [target] = targets.as_slice() else {
        return Err(Failure::input(format!("`{}` names several sandboxes", arguments.sandbox)));
    };
    let lock = ensure_lock(workspace, &targets, arguments.locked, ui)?;
    let manner = Manner { locked: arguments.locked, on_failure: OnFailure::End };
    let Some(Built { plan, record, .. }) = obtain(workspace, *target, &lock, manner, ui)? else {
        return Err(Failure::world("the build needs a user namespace"));
    };
    let trees = builder(workspace, ui, current_map()?, OnFailure::End).image_trees(&record)?;
    let request = Request {
        publish: arguments.publish.clone(),
        env: with_keys(workspace, *target, &arguments.env),
        volumes: arguments.volume.clone(),
        timeout: arguments.timeout.map(|seconds| Duration::from_secs(seconds.into())),
        command: arguments.command.clone(),
        terminal: arguments.tty,
        no_limits: arguments.no_limits,
    };
    let token = random_hex(16)?;
    let image = (&plan.spec, record.image);
    let spec = Spec::new(target.sandbox, image, &request, &variable, || token)?;
    Ok(Prepared { spec, trees, key: plan.key })
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

fn detach(launch: Launch<'_>, begun: Instant, ui: &Ui) -> Outcome {
    let null = std::fs::File::open("/dev/null")
        .map_err(|error| Failure::world(format!("/dev/null: {error}")))?;
    let null = std::os::fd::AsFd::as_fd(&null);
    let mut attached = start(&launch, &Connections { stdio: [null; 3] })?;
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
fn follow(launch: Launch<'_>, interactive: bool, begun: Instant, ui: &Ui) -> Outcome {
    let held = hold_signals();
    let pipes = Pipes::open(ui, interactive)?;
    let mut attached = start(&launch, &Connections { stdio: pipes.near() })?;
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
fn attend(launch: Launch<'_>, ui: &Ui) -> Outcome {
    let Some(seat) = ui.seat() else {
        return Err(Failure::input("there is no terminal here").with_help("leave `-t` out"));
    };
    let held = hold_signals();
    let pipes = Pipes::open(ui, false)?;
    let mut attached = start(&launch, &Connections { stdio: pipes.near() })?;
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
