//! Projects over the public Debian's Python, which is locked and built once for all tests.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use super::project::{Outcome, Project};

/// What they stand on: a layer `debian`.
const DEBIAN: &str = "layer \"debian\" { debian \"trixie\" { suites \"trixie\"; base \"essential\"; packages \"libstdc++6\" \"python3\"; }; }\n";

/// From the public archives: what does not come the first time is asked for again.
pub fn patiently(run: impl Fn() -> Outcome) -> Outcome {
    let mut outcome = run();
    for pause in [2, 10, 30] {
        if outcome.code != Some(3) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_secs(pause));
        outcome = run();
    }
    outcome
}

/// A store with that Debian, in the directory that Cargo keeps for tests, and its lock. Nothing else
/// is ever built in it.
fn base() -> &'static (PathBuf, String) {
    static BUILT: OnceLock<(PathBuf, String)> = OnceLock::new();
    BUILT.get_or_init(|| {
        let store = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("trixie-store");
        fs::create_dir_all(&store).unwrap();
        let kept = store.with_file_name("trixie.lock");
        // where it used to be, nobody would take the directory for a store
        fs::rename(store.join("tests.lock"), &kept).unwrap_or_default();
        // what resolves comes with it
        let environment = "layer \"six\" needs=\"debian\" { venv \"/six\" bytecode=#false { packages \"six\"; }; npm-tools \"is-number@7.0.0\"; }";
        let declared = format!("{DEBIAN}{environment}\nsandbox \"below\" {{ layers \"six\"; }}\n");
        let project = Project::new().file("sandboxes.kdl", &declared).store(&store);
        if let Ok(lock) = fs::read_to_string(&kept) {
            project.write("sbx.lock", &lock);
        }
        patiently(|| project.sbx(&["build", "below"])).success();
        let lock = project.read("sbx.lock");
        fs::write(&kept, &lock).unwrap();
        (store, lock)
    })
}

/// Sandbox `s` of a layer `l` over that Debian, with these nodes.
pub fn over_python(nodes: &str) -> Project {
    let sandbox = "sandbox \"s\" { layers \"l\"; }\n";
    declared(&format!("layer \"l\" needs=\"debian\" {{\n{nodes}\n}}\n{sandbox}"))
}

/// Whatever is declared, over that Debian.
pub fn declared(text: &str) -> Project {
    let (store, lock) = base();
    let project = Project::new().file("sbx.lock", lock).stocked(store);
    project.file("sandboxes.kdl", &format!("{DEBIAN}{text}"))
}
