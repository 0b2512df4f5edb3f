//! Clients in other languages, which drive the real program.

use std::path::Path;
use std::process::Command;

use crate::support::launch::Bench;

#[test]
fn python_builds_runs_and_drives_sandboxes() {
    let bench = Bench::new(None);
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let project = bench.project.command(&[]);
    let inherited = project.get_envs().filter_map(|(name, value)| Some((name, value?)));
    let output = Command::new("python3")
        .arg(here.join("tests/clients/client.py"))
        .arg(project.get_program())
        .current_dir(bench.project.dir.path())
        .env_clear()
        .envs(inherited)
        .env("PYTHONPATH", here.join("clients/python/src"))
        // nothing is written beside the source
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .expect("python3 must be installed (tests/run does it)");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(said, "done\n");
}
