//! Another program in an instance of a runtime that no namespace leads into: by its own `exec`.

use std::process::Command;

use super::super::error::LaunchError;
use super::super::state::Record;
use super::Runtime;
use crate::jail::instance::Program;

impl Runtime {
    /// The command that runs a program there, with the caller's own stdin, stdout and stderr. It
    /// wants users as numbers.
    pub fn exec_command(&self, record: &Record, program: &Program) -> Result<Command, LaunchError> {
        let mut command = self.command();
        command.args(["exec", "--cwd", &program.cwd]);
        if program.user != record.program.user {
            let numbers = program.user.bytes().all(|c| c.is_ascii_digit() || c == b':');
            if !numbers || program.user.is_empty() {
                return Err(LaunchError::UserNumber(program.user.clone()));
            }
            command.args(["--user", &program.user]);
        }
        if program.terminal {
            command.arg("--tty");
        }
        for (name, value) in &program.env {
            if !record.program.env.contains(&(name.clone(), value.clone())) {
                command.arg("--env").arg(format!("{name}={value}"));
            }
        }
        command.arg(Self::id(record)).args(&program.argv);
        Ok(command)
    }
}
