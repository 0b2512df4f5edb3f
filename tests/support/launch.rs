//! A project of one static program, and what to ask of its instances.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::project::{Outcome, Project};
use super::user::User;

const SANDBOXES: &str = r#"
project "t"
layer "box" {
    file "/etc/passwd" content="root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n"
    file "/srv/below" content="below\n"
    dir "/tmp" mode=0o1777
    dir "/workspace"
    files "busybox" into="/bin/busybox"
    files "probe" into="/bin/probe"
    link "/bin/sh" to="busybox"
    link "/bin/true" to="busybox"
}
sandbox "s" { layers "box"; command "/bin/sh" "-c" "echo said; exec busybox sleep 300"; }
sandbox "high" extends="s" { security-level "high"; }
sandbox "low" extends="s" { security-level "low"; }
sandbox "limited" extends="s" { limits memory="64MiB" cpus=1 pids=20; }
sandbox "huge" extends="s" { limits cpus=4096; }
sandbox "small" extends="s" { limits disk="8MiB"; }
sandbox "vast" extends="s" { limits disk="900TiB"; }
sandbox "few" extends="s" { limits pids=40; }
sandbox "secret" extends="s" { env-from-host "SBX_TEST_SECRET"; }
sandbox "web" {
    layers "box"
    port 80
    ready http="/index.html"
    command "/bin/sh" "-c" "mkdir -p /srv/www; echo $SECRET_TOKEN >/srv/www/index.html; exec busybox httpd -f -p 80 -h /srv/www"
}
sandbox "never" { layers "box"; port 80; ready tcp=81; command "/bin/sh" "-c" "echo the reason; exec busybox sleep 300"; }
sandbox "dies" { layers "box"; ready tcp=81; command "/bin/sh" "-c" "echo the reason; exit 9"; }
sandbox "asks" { layers "box"; ready exec="test -e /made"; command "/bin/sh" "-c" "busybox sleep 0.2; >/made; exec busybox sleep 300"; }
sandbox "ann" extends="s" { user "ann"; workdir "/tmp"; }
"#;

/// Instances of one project, of root or of an ordinary user.
pub struct Bench<'a> {
    pub project: Project,
    user: Option<&'a User>,
    /// Options of every `run`.
    options: Vec<String>,
}

impl<'a> Bench<'a> {
    pub fn new(user: Option<&'a User>) -> Self {
        Self::declaring(user, "")
    }

    /// With more sandboxes than those of every bench.
    pub fn declaring(user: Option<&'a User>, more: &str) -> Self {
        let project = Project::new().file("sandboxes.kdl", &format!("{SANDBOXES}{more}"));
        let dir = project.dir.path();
        fs::copy("/bin/busybox", dir.join("busybox")).expect("tests/run installs busybox-static");
        let probe = dir.join("probe");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/probe.c");
        super::tool("gcc", &["-static", "-O1", "-o", probe.to_str().unwrap(), source]);
        let state = dir.join("state");
        fs::create_dir(&state).unwrap();
        let project = project.var("SBX_STATE", state.to_str().unwrap());
        if let Some(user) = user {
            user.own(project.dir.path());
        }
        Bench { project, user, options: Vec::new() }
    }

    /// Starts every instance so.
    pub fn launcher(mut self, options: &[&str]) -> Self {
        self.options = options.iter().map(|word| word.to_string()).collect();
        self
    }

    pub fn options(&self) -> &[String] {
        &self.options
    }

    /// Sets a variable for every run of the program.
    pub fn set(&mut self, name: &str, value: &str) {
        self.project.set(name, value);
    }

    pub fn state(&self) -> PathBuf {
        self.project.dir.path().join("state")
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        self.plain_command(&self.with_options(arguments))
    }

    /// Without the options of every `run`.
    pub fn plain_command(&self, arguments: &[&str]) -> Command {
        let run = self.project.run(arguments);
        match self.user {
            Some(user) => run.by(user).command(),
            None => run.command(),
        }
    }

    fn with_options<'w>(&'w self, arguments: &[&'w str]) -> Vec<&'w str> {
        let options: Vec<&str> = self.options.iter().map(String::as_str).collect();
        match arguments {
            ["run", rest @ ..] => [&["run"], &options[..], rest].concat(),
            _ => arguments.to_vec(),
        }
    }

    pub fn sbx(&self, arguments: &[&str]) -> Outcome {
        Outcome::new(self.command(arguments).stdin(Stdio::null()).output().unwrap())
    }

    /// With a mount namespace of its own, in which root has run this script.
    pub fn sbx_with_mounts(&self, script: &str, arguments: &[&str]) -> Outcome {
        let run = self.project.run(&self.with_options(arguments)).mounts(script);
        let mut command = match self.user {
            Some(user) => run.by(user).command(),
            None => run.command(),
        };
        Outcome::new(command.stdin(Stdio::null()).output().unwrap())
    }

    /// Runs a shell script in a sandbox of that name.
    pub fn script(&self, sandbox: &str, script: &str) -> Outcome {
        self.sbx(&["run", sandbox, "--", "sh", "-c", script])
    }

    pub fn exec(&self, instance: &str, script: &str) -> Outcome {
        self.sbx(&["exec", instance, "sh", "-c", script])
    }

    /// Started and ready: `run -d --json`'s answer.
    #[track_caller]
    pub fn detach(&self, arguments: &[&str]) -> serde_json::Value {
        let outcome = self.sbx(&[&["run", "-d", "--json"], arguments].concat()).success();
        serde_json::from_str(&outcome.stdout).unwrap()
    }

    pub fn spawn(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    #[track_caller]
    pub fn ps(&self) -> Vec<serde_json::Value> {
        let outcome = self.sbx(&["ps", "--json"]).success();
        serde_json::from_str(&outcome.stdout).unwrap()
    }

    pub fn status(&self, name: &str) -> Option<String> {
        let rows = self.ps();
        let row = rows.iter().find(|row| row["name"] == name)?;
        Some(row["status"].as_str().unwrap().to_owned())
    }

    /// A number of the instance's record.
    pub fn number(&self, name: &str, field: &str) -> u32 {
        let record = fs::read(self.state().join(name).join("record")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        u32::try_from(record[field].as_u64().unwrap()).unwrap()
    }

    /// Control groups of this instance that are left on the machine.
    pub fn groups(&self, id: &str) -> Vec<PathBuf> {
        let output =
            super::tool("find", &["/sys/fs/cgroup", "-type", "d", "-name", &format!("sbx-{id}")]);
        output.lines().map(PathBuf::from).collect()
    }
}

impl Drop for Bench<'_> {
    fn drop(&mut self) {
        let outcome = self.sbx(&["ps", "--json"]);
        let rows: Vec<serde_json::Value> =
            serde_json::from_str(&outcome.stdout).unwrap_or_default();
        for row in rows {
            drop(self.sbx(&["rm", "-f", row["name"].as_str().unwrap_or_default()]));
        }
    }
}

/// Waits for what must come soon.
#[track_caller]
pub fn soon(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !is() {
        assert!(Instant::now() < end, "{what} did not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

pub fn exists(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // one that nobody has waited for yet is gone all the same
    !stat.is_empty() && !stat.contains(") Z ")
}

pub fn kill(pid: u32, signal: &str) {
    super::tool("kill", &[&format!("-{signal}"), &pid.to_string()]);
}
