//! What the tests stand on: packages and a signed Debian repository of their own, a server that
//! counts, and a project that is built by the real program.

pub mod apt;
pub mod deb;
pub mod depot;
pub mod docker;
pub mod git;
pub mod http;
pub mod keys;
pub mod launch;
pub mod mcp;
pub mod npm;
pub mod oci;
pub mod pnpm;
pub mod podman;
pub mod project;
pub mod pypi;
pub mod python;
pub mod registry;
pub mod repo;
pub mod server;
pub mod sets;
pub mod survey;
pub mod trixie;
pub mod user;

use std::process::Command;

/// Runs a program that must succeed, and answers its output.
#[track_caller]
pub fn tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| {
        panic!("`{program}` must be installed (tests/run does it): {error}")
    });
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Whether what takes long is tried, too: `tests/run --full`.
pub fn is_full() -> bool {
    std::env::var_os("SBX_TEST_FULL").is_some_and(|value| !value.is_empty())
}
