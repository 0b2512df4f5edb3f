//! The build sandbox as an ordinary user with subordinate ids. The user is made for the test, which
//! needs root, `useradd` and `newuidmap`, and fails without them. Without the test harness, whose
//! threads a process that enters a user namespace must not have.

#[path = "support/jail.rs"]
mod support;

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use sbx::jail::{IdMap, probe, run_in_user_namespace};
use support::{open_dir, run, spec};
use tempfile::TempDir;

fn main() -> ExitCode {
    sbx::jail::intercept();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["as-user", rest @ ..] => as_user(rest),
        ["in-namespace", home, script] => in_namespace(Path::new(home), script),
        ["probe"] => {
            println!("{:?}", probe());
            ExitCode::SUCCESS
        }
        _ => tests(),
    }
}

/// A user with a home, removed at the end.
struct User {
    name: String,
    id: u32,
    home: TempDir,
}

impl User {
    fn new(tag: &str) -> Self {
        let name = format!("sbx-{tag}-{}", std::process::id());
        tool("useradd", &["--no-create-home", "--shell", "/usr/sbin/nologin", &name]);
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        let line = passwd.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap();
        let id = line.split(':').nth(2).unwrap().parse().unwrap();
        let home = tempfile::tempdir().unwrap();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let program = home.path().join("program");
        fs::copy(std::env::current_exe().unwrap(), program).unwrap();
        let own = open_dir(home.path().join("own"));
        std::os::unix::fs::chown(&own, Some(id), Some(id)).unwrap();
        Self { name, id, home }
    }

    fn program(&self) -> PathBuf {
        self.home.path().join("program")
    }

    fn own(&self) -> PathBuf {
        self.home.path().join("own")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.program());
        command.args(arguments).uid(self.id).gid(self.id).stderr(Stdio::inherit());
        command
    }

    /// Runs a script in a sandbox, in a user namespace.
    fn run(&self, script: &str) -> Output {
        self.sandbox(script).output().unwrap()
    }

    fn sandbox(&self, script: &str) -> Command {
        self.command(&["as-user", "in-namespace", self.own().to_str().unwrap(), script])
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // what belongs to subordinate ids is root's to remove
        sbx::fsx::remove_tree(&self.own()).unwrap();
        tool("userdel", &[&self.name]);
    }
}

#[track_caller]
fn tool(name: &str, arguments: &[&str]) {
    let status = Command::new(name).args(arguments).status();
    assert!(status.as_ref().is_ok_and(|status| status.success()), "`{name}`: {status:?}");
}

/// As the user: the same program, in a namespace.
fn as_user(arguments: &[&str]) -> ExitCode {
    let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
    match run_in_user_namespace(&std::env::current_exe().unwrap(), &arguments) {
        Ok(status) => {
            let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap());
            ExitCode::from(u8::try_from(code).unwrap())
        }
        Err(error) => {
            println!("{error}\n{}", error.help().unwrap_or_default());
            ExitCode::from(3)
        }
    }
}

/// In the namespace: the sandbox.
fn in_namespace(home: &Path, script: &str) -> ExitCode {
    println!("map {}", IdMap::current().unwrap().name());
    let spec = spec(home, &["/bin/sh", "-c", script]);
    let (outcome, said) = run(&std::env::current_exe().unwrap(), &spec);
    print!("{said}");
    match outcome {
        Ok(outcome) => {
            println!("{}", outcome.reason());
            ExitCode::from(if outcome.success() { 0 } else { 9 })
        }
        Err(error) => {
            println!("{error}\n{}", error.help().unwrap_or_default());
            ExitCode::from(4)
        }
    }
}

/// The user's first subordinate id.
fn first_subordinate(name: &str) -> u32 {
    let text = fs::read_to_string("/etc/subuid").unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("{name}:")));
    line.expect("useradd gave ids").split(':').nth(1).unwrap().parse().unwrap()
}

fn files_get_other_owners() {
    let user = User::new("own");
    let first = first_subordinate(&user.name);
    let output = user.run(
        "id -u; echo new >/srv/new; chown 33:42 /srv/new; mkdir /srv/dir; rm -r /srv/deep; \
         chown 65534 /srv/dir; chmod 4755 /srv/new; rm /srv/doomed; mkdir /srv/deep; \
         stat -c '%u %g' /srv/new; grep CapBnd /proc/self/status; tail -n +3 /proc/net/dev | wc -l",
    );
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    let expected =
        format!("map u{}-{first}\n0\n33 42\nCapBnd:\t00000000800400fb\n1\nexit code 0\n", user.id);
    assert_eq!(said, expected);
    let meta = |name: &str| fs::symlink_metadata(user.own().join("upper/srv").join(name)).unwrap();
    assert_eq!(meta("new").uid(), first + 32, "1 is the first subordinate id");
    assert_eq!(meta("new").mode() & 0o7777, 0o4755);
    assert_eq!(meta("dir").uid(), first + 65_533);
    assert_eq!(meta("dir").gid(), user.id);
    assert_eq!(meta("doomed").rdev(), 0);
}

fn ends_and_signals_pass_through() {
    let user = User::new("end");
    let output = user.run("exit 5");
    assert_eq!(output.status.code(), Some(9));
    assert!(String::from_utf8_lossy(&output.stdout).ends_with("exit code 5\n"));
    sbx::fsx::remove_tree(&user.own()).unwrap();
    let own = open_dir(user.own());
    std::os::unix::fs::chown(&own, Some(user.id), Some(user.id)).unwrap();
    let mut child =
        user.sandbox("echo >/tmp/up; sleep 63.25").stdout(Stdio::null()).spawn().unwrap();
    let begin = Instant::now();
    while !user.own().join("upper/tmp/up").exists() {
        assert!(begin.elapsed() < Duration::from_secs(20), "the sandbox did not start");
        std::thread::sleep(Duration::from_millis(10));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15), "the inner process got the signal");
    let running = || {
        fs::read_dir("/proc").unwrap().flatten().any(|entry| {
            fs::read(entry.path().join("cmdline")).is_ok_and(|line| line == b"sleep\x0063.25\0")
        })
    };
    while running() {
        assert!(begin.elapsed() < Duration::from_secs(30), "the sandbox outlived its parent");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn missing_ids_name_the_command_that_gives_them() {
    let user = User::new("none");
    for option in ["--del-subuids", "--del-subgids"] {
        let first = first_of(option, &user.name);
        tool("usermod", &[option, &format!("{first}-{}", first + 65_535), &user.name]);
    }
    let output = user.run("true");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("subordinate ids in `/etc/subuid`"), "{said}");
    let mend = said.lines().find(|line| line.starts_with("run `sudo usermod")).unwrap();
    let probed = user.command(&["probe"]).output().unwrap();
    assert!(String::from_utf8_lossy(&probed.stdout).contains(mend), "doctor says the same");
    // the command does what it says
    let words: Vec<&str> =
        mend.trim_matches(|c| c != '-' && !char::is_alphanumeric(c)).split(' ').collect();
    tool("usermod", &words[3..]);
    assert!(user.run("true").status.success());
}

fn first_of(option: &str, name: &str) -> u32 {
    let file = if option.contains("uid") { "/etc/subuid" } else { "/etc/subgid" };
    let text = fs::read_to_string(file).unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap();
    line.split(':').nth(1).unwrap().parse().unwrap()
}

fn a_forbidden_namespace_names_the_setting() {
    // the limit of a namespace of its own, so that the machine's stays as it is
    let script = "echo 0 >/proc/sys/user/max_mnt_namespaces; exec \"$0\" probe";
    let program = std::env::current_exe().unwrap();
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "sh", "-c", script])
        .arg(program)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("run `sudo sysctl -w user.max_mnt_namespaces=15000`"), "{said}");
}

fn an_able_machine_has_no_obstacles() {
    let user = User::new("able");
    for command in [&mut user.command(&["probe"]), Command::new(user.program()).arg("probe")] {
        let said = String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned();
        assert!(said.contains("obstacles: []"), "{said}");
    }
}

fn tests() -> ExitCode {
    let tests: &[(&str, fn())] = &[
        ("files_get_other_owners", files_get_other_owners),
        ("ends_and_signals_pass_through", ends_and_signals_pass_through),
        (
            "missing_ids_name_the_command_that_gives_them",
            missing_ids_name_the_command_that_gives_them,
        ),
        ("a_forbidden_namespace_names_the_setting", a_forbidden_namespace_names_the_setting),
        ("an_able_machine_has_no_obstacles", an_able_machine_has_no_obstacles),
    ];
    let failed = tests.iter().filter(|(name, test)| {
        let passed = std::panic::catch_unwind(test).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        !passed
    });
    ExitCode::from(u8::from(failed.count() > 0))
}
