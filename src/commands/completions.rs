//! `sbx completions`: for bash, zsh, fish and others.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Arguments;
use crate::failure::Outcome;
use crate::ui::Ui;

#[derive(Args)]
pub struct CompletionsArguments {
    shell: Shell,
}

pub fn run(arguments: &CompletionsArguments, ui: &Ui) -> Outcome {
    let mut bytes = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "sbx", &mut bytes);
    ui.raw(&bytes);
    Ok(())
}
