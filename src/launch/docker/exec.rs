//! Another program in a container, by the engine.

use std::os::fd::OwnedFd;

use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use bollard::query_parameters::ResizeExecOptionsBuilder;

use super::super::error::LaunchError;
use super::super::state::Record;
use super::Engine;
use super::pump::{Ends, Streams, pump};
use crate::jail::instance::Program;
use crate::jail::{Ended, Terminal, open_terminal};

impl Engine {
    /// Runs a program to its end, with these descriptors or at somebody's terminal.
    pub fn exec(
        &self,
        record: &Record,
        program: &Program,
        stdio: [OwnedFd; 3],
        seat: Option<&Terminal>,
    ) -> Result<Ended, LaunchError> {
        let Some(seat) = seat else { return self.exec_over(record, program, Ends::of(stdio)) };
        let opened = open_terminal().map_err(LaunchError::Setup)?;
        let (far, near) = opened;
        let ends = Ends::of_terminal(near).map_err(LaunchError::Spawn)?;
        std::thread::scope(|scope| {
            let joined = scope.spawn(move || seat.join(&far));
            let ended = self.exec_over(record, program, ends);
            // its near end is closed by now; whoever sits there sees what went wrong, or is gone
            joined.join().expect("a terminal does not panic").unwrap_or_default();
            ended
        })
    }

    fn exec_over(
        &self,
        record: &Record,
        program: &Program,
        ends: Ends,
    ) -> Result<Ended, LaunchError> {
        let env = program.env.iter().filter(|pair| !record.program.env.contains(pair));
        let options = CreateExecOptions {
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(program.terminal),
            env: Some(env.map(|(name, value)| format!("{name}={value}")).collect()),
            cmd: Some(program.argv.clone()),
            user: Some(program.user.clone()),
            working_dir: Some(program.cwd.clone()),
            ..CreateExecOptions::default()
        };
        let name = Self::container(record);
        let code = self.ask(async |docker| {
            let exec = docker.create_exec(&name, options).await?;
            let start = StartExecOptions { tty: program.terminal, ..StartExecOptions::default() };
            let started = docker.start_exec(&exec.id, Some(start)).await?;
            if let StartExecResults::Attached { output, input } = started {
                pump(Streams { output, input }, ends, async |rows, columns| {
                    let size = ResizeExecOptionsBuilder::default();
                    let size = size.h(rows.into()).w(columns.into()).build();
                    docker.resize_exec(&exec.id, size).await.is_ok()
                })
                .await?;
            }
            docker.inspect_exec(&exec.id).await
        })?;
        let code = code.exit_code.and_then(|code| i32::try_from(code).ok());
        Ok(Ended::Code(code.unwrap_or(i32::from(u8::MAX))))
    }
}
