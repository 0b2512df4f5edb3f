//! Pythons with packages of the public index, to judge by what others wrote.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::tool;

/// No package is newer, so that a run tells what the last one told.
const AS_OF: &str = "2026-11-20";

/// Makes an environment in `dir` and answers its Python.
pub fn environment(dir: &Path, packages: &[&str]) -> PathBuf {
    let at = |name: &str| dir.join("bin").join(name).to_str().unwrap().to_owned();
    let python = at("python");
    tool("python3", &["-m", "venv", "--clear", dir.to_str().unwrap()]);
    let patient = |program: &str, arguments: &[&str]| {
        for pause in [2, 10, 30] {
            if Command::new(program).args(arguments).output().unwrap().status.success() {
                return;
            }
            std::thread::sleep(Duration::from_secs(pause));
        }
        tool(program, arguments);
    };
    patient(&at("pip"), &["install", "--quiet", "uv"]);
    let install = ["pip", "install", "--python", &python, "--exclude-newer", AS_OF];
    patient(&at("uv"), &[&install[..], packages].concat());
    python.into()
}

/// Likewise, kept beside the build under a name.
pub fn kept_environment(name: &str, packages: &[&str]) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    // other runs of the tests may be at it
    let held = fs::File::create(dir.with_extension("held")).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let done = dir.join("packages");
    let wanted = packages.join("\n");
    if fs::read_to_string(&done).ok() != Some(wanted.clone()) {
        environment(&dir, packages);
        fs::write(&done, wanted).unwrap();
    }
    dir.join("bin/python")
}
