//! The command line: reads, plans, runs, reports. What things mean is in the library.

mod commands;
mod failure;
mod ui;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    sbx::jail::intercept();
    sbx::launch::intercept();
    commands::run(commands::Arguments::parse())
}
