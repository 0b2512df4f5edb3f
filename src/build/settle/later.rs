//! Programs of maintainer scripts that run beside dpkg instead of holding it up.
//!
//! A few programs take most of a settle's time, and nothing that dpkg does afterwards reads what they
//! write: caches of fonts, icons and types of files, bundles of certificates, bytecode. Each one makes
//! its result anew from what it finds, so a call may run later than it was made, as long as a run
//! begins after the last call. A stand-in, found first through PATH, notes the call and starts the
//! real program with little priority; the script waits for all of them at its end, and a failure is
//! one of the settle. Calls by full path, or of programs that are not there, are dpkg's as ever.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::script::MOUNT;
use crate::build::view::View;
use crate::fsx::{IoAt, PathIo};
use crate::path::LayerPath;

/// How calls of one program go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Together {
    /// Each writes files of its own.
    AtOnce,
    /// All write the same file.
    InTurn,
}

/// What a failure means to the scripts that call the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    Ends,
    /// They go on, and so does the settle.
    Noted,
}

struct Program {
    name: &'static str,
    together: Together,
    failure: Failure,
    /// A package that reads the result in a script of its own; with it, nothing is put off.
    read_by: Option<&'static str>,
}

const fn program(name: &'static str, together: Together, failure: Failure) -> Program {
    Program { name, together, failure, read_by: None }
}

const PROGRAMS: &[Program] = &[
    program("py3compile", Together::AtOnce, Failure::Ends),
    program("fc-cache", Together::InTurn, Failure::Noted),
    Program {
        name: "update-ca-certificates",
        together: Together::InTurn,
        failure: Failure::Ends,
        read_by: Some("usr/share/doc/ca-certificates-java"),
    },
    program("update-mime-database", Together::InTurn, Failure::Ends),
    program("update-desktop-database", Together::InTurn, Failure::Noted),
    program("gtk-update-icon-cache", Together::InTurn, Failure::Noted),
];

/// Lays a stand-in for each program of the view. `mount` is what the scripts find at [`MOUNT`].
pub(super) fn lay(view: &View, mount: &Path) -> Result<(), PathIo> {
    let dir = mount.join("later/bin");
    fs::create_dir_all(&dir).at("create", &dir)?;
    for program in PROGRAMS {
        let Some(real) = program.find(view) else { continue };
        let path = dir.join(program.name);
        fs::write(&path, program.stand_in(&real)).at("write", &path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).at("set mode of", &path)?;
    }
    Ok(())
}

/// Waits for everything that was put off, shows what it said, and fails where it failed.
pub(super) fn wait() -> String {
    format!(
        "flock {MOUNT}/later/held true\n\
         for log in {MOUNT}/later/*.log; do [ ! -s \"$log\" ] || cat \"$log\"; done\n\
         if [ -s {MOUNT}/later/failed ]; then cat {MOUNT}/later/failed >&2; exit 1; fi\n"
    )
}

impl Program {
    fn find(&self, view: &View) -> Option<String> {
        let there = |path: &str| {
            let path = LayerPath::parse_member(path.as_bytes()).ok()?;
            view.find(&path)
        };
        if self.read_by.is_some_and(|reader| there(reader).is_some()) {
            return None;
        }
        let mut places = ["usr/sbin", "usr/bin"].into_iter();
        places.find_map(|dir| {
            let path = format!("{dir}/{}", self.name);
            there(&path).map(|_| format!("/{path}"))
        })
    }

    /// Holds a shared lock from before it answers until the real program is done. Output that goes to
    /// a file of the caller's stays there; a pipe must not be held open, since the caller waits for
    /// its end.
    fn stand_in(&self, real: &str) -> String {
        let Program { name, together, failure, .. } = self;
        let turn = match together {
            Together::AtOnce => String::new(),
            Together::InTurn => format!("exec 9>{MOUNT}/later/{name}.turn; flock 9\n    "),
        };
        let failed = match failure {
            Failure::Ends => format!("echo \"`{name} $*` failed with $?\" >>{MOUNT}/later/failed")
                .replace('`', "\\`"),
            Failure::Noted => format!("echo \"note: {name} $* failed with $?\" >>$log"),
        };
        format!(
            "#!/bin/sh\n\
             exec 8>>{MOUNT}/later/held\n\
             flock -s 8\n\
             log={MOUNT}/later/$$.log\n\
             [ -f /proc/$$/fd/1 ] || exec >>$log\n\
             [ -f /proc/$$/fd/2 ] || exec 2>>$log\n\
             (\n    {turn}nice -n 10 {real} \"$@\" || {failed}\n) \
             </dev/null 3>&- 4>&- 5>&- 6>&- 7>&- &\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// A stand-in for `real`, with its files below `dir`.
    fn stand_in(dir: &Path, failure: Failure, real: &str) -> std::path::PathBuf {
        let program = program("tool", Together::InTurn, failure);
        fs::create_dir_all(dir.join("later")).unwrap();
        let real_path = dir.join("real");
        fs::write(&real_path, format!("#!/bin/sh\n{real}")).unwrap();
        let path = dir.join("tool");
        // by `sh`: what another test forks meanwhile may hold the files open, and open for writing
        // they cannot be executed
        let text = program.stand_in(&format!("sh {}", real_path.display()));
        fs::write(&path, text.replace(MOUNT, dir.to_str().unwrap())).unwrap();
        path
    }

    fn calling(tool: &Path) -> Command {
        let mut command = Command::new("sh");
        command.arg(tool);
        command
    }

    fn wait_in(dir: &Path) -> std::process::Output {
        let text = format!("set -e\n{}", wait()).replace(MOUNT, dir.to_str().unwrap());
        Command::new("sh").args(["-c", &text]).output().unwrap()
    }

    #[test]
    fn a_call_answers_at_once_and_is_done_when_waited_for() {
        let home = tempfile::tempdir().unwrap();
        let done = home.path().join("done");
        let real = format!("sleep 0.3; echo said; echo \"$1\" >>{}", done.display());
        let tool = stand_in(home.path(), Failure::Ends, &real);
        for call in ["one", "two"] {
            let output = calling(&tool).arg(call).output().unwrap();
            assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
        }
        assert!(!done.exists(), "nobody waited");
        let waited = wait_in(home.path());
        assert!(waited.status.success(), "{waited:?}");
        assert_eq!(String::from_utf8_lossy(&waited.stdout), "said\nsaid\n");
        assert_eq!(fs::read_to_string(done).unwrap().lines().count(), 2);
    }

    #[test]
    fn output_that_goes_to_a_file_stays_there() {
        let home = tempfile::tempdir().unwrap();
        let tool = stand_in(home.path(), Failure::Ends, "echo text; echo error >&2");
        let file = fs::File::create(home.path().join("file")).unwrap();
        calling(&tool).stdout(file.try_clone().unwrap()).stderr(file).status().unwrap();
        assert!(wait_in(home.path()).stdout.is_empty());
        assert_eq!(fs::read_to_string(home.path().join("file")).unwrap(), "text\nerror\n");
    }

    #[test]
    fn a_failure_is_one_of_the_settle_unless_scripts_go_on() {
        let home = tempfile::tempdir().unwrap();
        let tool = stand_in(home.path(), Failure::Noted, "exit 3");
        calling(&tool).arg("--all").output().unwrap();
        let waited = wait_in(home.path());
        assert!(waited.status.success(), "{waited:?}");
        assert_eq!(String::from_utf8_lossy(&waited.stdout), "note: tool --all failed with 3\n");
        let tool = stand_in(home.path(), Failure::Ends, "exit 3");
        calling(&tool).arg("--all").output().unwrap();
        let waited = wait_in(home.path());
        assert_eq!(waited.status.code(), Some(1));
        assert_eq!(String::from_utf8_lossy(&waited.stderr), "`tool --all` failed with 3\n");
    }
}
