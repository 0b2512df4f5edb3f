//! `sbx exec`: another program in an instance that runs.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use clap::Args;

use sbx::jail::Terminal;
use sbx::jail::instance::{Program, Visitor, enter};
use sbx::launch::docker::Engine;
use sbx::launch::oci::Runtime;
use sbx::launch::{Instance, LaunchError, Launcher, State, VariableOption};

use super::pipes::{Pipes, hold_signals, pass_signals};
use super::run::end;
use crate::failure::{Failure, Outcome};
use crate::ui::Ui;
use crate::workspace::{own_program, state_path, variable};

#[derive(Args)]
pub struct ExecArguments {
    /// Let the program read what is typed or piped in
    #[arg(long, short)]
    interactive: bool,
    /// Give the program a terminal
    #[arg(long, short, requires = "interactive")]
    tty: bool,
    /// Set a variable
    #[arg(long, short, value_name = "NAME=VALUE")]
    env: Vec<VariableOption>,
    /// Who runs it (default: as the instance's own program)
    #[arg(long, short, value_name = "USER")]
    user: Option<String>,
    /// Where it runs
    #[arg(long, short, value_name = "DIR")]
    workdir: Option<String>,
    /// The instance: its name, or how its id begins
    #[arg(value_name = "INSTANCE")]
    instance: String,
    /// The program and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    command: Vec<String>,
}

pub fn run(arguments: &ExecArguments, ui: &Ui) -> Outcome {
    let state = State::open(&state_path()?)?;
    let instance = state.get_running(&arguments.instance)?;
    let first = instance.handle()?;
    let program = program(arguments, instance.record.program.clone());
    match &instance.record.launcher {
        Launcher::Docker(engine) => return by_engine(engine, arguments, &instance, &program, ui),
        Launcher::Oci(runtime) if !runtime.shares_kernel() => {
            return by_runtime(runtime, arguments, &instance, &program);
        }
        Launcher::Oci(_) | Launcher::Embedded => {}
    }
    let groups = instance.record.groups();
    let visitor = Visitor {
        program,
        tightness: instance.record.tightness,
        cgroup: groups
            .map_err(|error| Failure::world(format!("the instance's control groups: {error}")))?,
    };
    let seat = seat(arguments, ui)?;
    let held = hold_signals();
    let pipes = Pipes::open(ui, arguments.interactive && seat.is_none())?;
    let failed = |error: std::io::Error| Failure::from(LaunchError::Spawn(error));
    let keeper = instance.record.keeper.unwrap_or_default();
    let entered =
        enter(&own_program()?, keeper, first.as_fd(), pipes.near(), &visitor).map_err(failed)?;
    let far = pipes.give_away();
    pass_signals(held, entered.pid());
    let ended = std::thread::scope(|scope| {
        far.carry(scope, ui);
        if let Some(seat) = &seat
            && let Ok(Some(terminal)) = entered.terminal()
        {
            // whoever sits there sees what went wrong, or is gone
            seat.join(&terminal).unwrap_or_default();
        }
        entered.wait()
    });
    match ended.map_err(failed)? {
        Ok(how) => end(how.code()),
        Err(fault) => Err(LaunchError::of_program(&visitor.program.argv[0], fault).into()),
    }
}

/// Where somebody sits, if they are to.
fn seat(arguments: &ExecArguments, ui: &Ui) -> Outcome<Option<Terminal>> {
    if !arguments.tty {
        return Ok(None);
    }
    let nobody = || Failure::input("there is no terminal here").with_help("leave `-t` out");
    ui.seat().ok_or_else(nobody).map(Some)
}

/// Docker's engine starts it, and this process carries what it reads and says.
fn by_engine(
    engine: &Engine,
    arguments: &ExecArguments,
    instance: &Instance,
    program: &Program,
    ui: &Ui,
) -> Outcome {
    let seat = seat(arguments, ui)?;
    let pipes = Pipes::open(ui, arguments.interactive && seat.is_none())?;
    let failed = |error: std::io::Error| Failure::from(LaunchError::Spawn(error));
    let [input, output, errors] = pipes.near();
    let own = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map_err(failed);
    let stdio = [own(input)?, own(output)?, own(errors)?];
    let far = pipes.give_away();
    let ended = std::thread::scope(|scope| {
        far.carry(scope, ui);
        engine.exec(&instance.record, program, stdio, seat.as_ref())
    });
    end(ended?.code())
}

/// The runtime takes this process's place for the while.
fn by_runtime(
    runtime: &Runtime,
    arguments: &ExecArguments,
    instance: &Instance,
    program: &Program,
) -> Outcome {
    let mut command = runtime.exec_command(&instance.record, program)?;
    if !arguments.interactive {
        command.stdin(Stdio::null());
    }
    let held = hold_signals();
    let failed = |error: std::io::Error| Failure::from(LaunchError::Spawn(error));
    let mut child = command.spawn().map_err(failed)?;
    pass_signals(held, child.id());
    let status = child.wait().map_err(failed)?;
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(255);
    end(u8::try_from(code).unwrap_or(255))
}

fn program(arguments: &ExecArguments, own: Program) -> Program {
    let mut env = own.env;
    for option in &arguments.env {
        env.retain(|(name, _)| *name != option.name);
        env.push((option.name.clone(), option.value.clone()));
    }
    if arguments.tty && !env.iter().any(|(name, _)| name == "TERM") {
        env.push(("TERM".to_owned(), variable("TERM").unwrap_or_else(|| "xterm".to_owned())));
    }
    Program {
        argv: arguments.command.clone(),
        env,
        cwd: arguments.workdir.clone().unwrap_or(own.cwd),
        user: arguments.user.clone().unwrap_or(own.user),
        terminal: arguments.tty,
        writable: own.writable,
    }
}
