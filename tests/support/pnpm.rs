//! The pnpms of the tests: pinned, each installed once by whatever npm the machine has, with a store and
//! a home of their own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

fn home(version: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("pnpm-{version}"))
}

/// pnpm, about to run.
pub fn pnpm(version: &str) -> Command {
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _held = INSTALLING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let home = home(version);
    let program = home.join("node_modules/pnpm/bin/pnpm.cjs");
    if !program.is_file() {
        let package = format!("pnpm@{version}");
        let into = home.to_str().unwrap();
        super::tool("npm", &["install", "--silent", "--no-audit", "--prefix", into, &package]);
    }
    let mut command = Command::new("node");
    command.arg(program).env("HOME", &home).env("CI", "1");
    // with more, which of two workspaces' versions it hoists is a matter of chance
    command.env("UV_THREADPOOL_SIZE", "1");
    command.env("XDG_DATA_HOME", home.join("data")).env("XDG_CACHE_HOME", home.join("cache"));
    command
}
