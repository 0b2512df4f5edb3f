//! The npm of the tests: pinned, installed once by whatever npm the machine has (tests/run), with a
//! cache of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// Which npm trees are compared with.
pub const VERSION: &str = "10.9.9";
/// The newest day whose releases locks are made of.
pub const BEFORE: &str = "2026-11-20";

fn home() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("npm-{VERSION}"))
}

/// npm, about to run.
pub fn npm() -> Command {
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _held = INSTALLING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let program = home().join("node_modules/npm/bin/npm-cli.js");
    if !program.is_file() {
        let into = home().to_str().unwrap().to_owned();
        super::tool(
            "npm",
            &["install", "--silent", "--no-audit", "--prefix", &into, &format!("npm@{VERSION}")],
        );
    }
    let mut command = Command::new("node");
    command.arg(program).env("npm_config_cache", home().join("cache"));
    command.env("npm_config_update_notifier", "false");
    command
}
