//! `sbx exec`: another program in an instance that runs.

use std::os::fd::AsFd;

use clap::Args;

use sbx::jail::instance::{Program, Visitor, enter};
use sbx::launch::{LaunchError, State, VariableOption};

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
    let visitor = Visitor {
        program: program(arguments, instance.record.program.clone()),
        tightness: instance.record.tightness,
        cgroup: instance.record.cgroup.clone(),
    };
    let seat = match arguments.tty {
        true => Some(ui.seat().ok_or_else(|| {
            Failure::input("there is no terminal here").with_help("leave `-t` out")
        })?),
        false => None,
    };
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
