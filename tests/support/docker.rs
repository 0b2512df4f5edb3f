//! Debian's docker with a daemon and data of its own, which ends with the test: this system's, or the
//! current one on containerd's store, in a system of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::apt::mmdebstrap;
use super::tool;

/// Starts the daemon in a system of its own: `sh -c CURRENT ROOT`, in a mount namespace that goes with
/// the daemon, and all of these mounts and docker's data with it. Its socket is seen from outside.
const CURRENT: &str = r#"set -e
mount --bind "$0" "$0"
mount -t proc proc "$0/proc"
mount --rbind /sys "$0/sys"
mount --rbind /dev "$0/dev"
mount -t tmpfs tmpfs "$0/run"
exec chroot "$0" dockerd --config-file /daemon.json --host unix:///docker.sock \
    --data-root /run/data --exec-root /run/exec --pidfile /run/docker.pid \
    --bridge none --iptables=false --ip6tables=false
"#;
const ON_CONTAINERD: &str = r#"{"features": {"containerd-snapshotter": true}}"#;

const PATIENCE: Duration = Duration::from_secs(60);

pub struct Engine {
    daemon: Child,
    dir: PathBuf,
    host: String,
    bridge: Option<String>,
}

/// A running container, removed in the end.
pub struct Container<'a> {
    engine: &'a Engine,
    pub id: String,
}

impl Engine {
    /// Starts a daemon whose data is in a directory. It makes no bridge and no firewall rule.
    pub fn start(dir: &Path) -> Self {
        Self::with_bridge(dir, None)
    }

    /// Likewise, with a bridge of its own, so that published ports are served on this machine.
    pub fn start_with_ports(dir: &Path) -> Self {
        let number = std::process::id();
        let name = format!("sbxt{number}");
        let net = [number / 256 % 256, number % 256].map(|part| part.to_string()).join(".");
        tool("ip", &["link", "add", &name, "type", "bridge"]);
        tool("ip", &["address", "add", &format!("10.{net}.1/24"), "dev", &name]);
        tool("ip", &["link", "set", &name, "up"]);
        Self::with_bridge(dir, Some(name))
    }

    /// Starts trixie's docker on containerd's store, in a system that is made for it in a directory: that
    /// fetches a hundred megabytes. It makes no bridge and no firewall rule.
    pub fn start_on_containerd(dir: &Path) -> Self {
        let root = dir.join("root");
        mmdebstrap("trixie", "docker.io", false, &root);
        fs::write(root.join("daemon.json"), ON_CONTAINERD).unwrap();
        Self::on_containerd(dir, &["--mount"])
    }

    /// Starts what was made so, and has ended, anew: with nothing in it, in a network of its own.
    pub fn start_apart(dir: &Path) -> Self {
        Self::on_containerd(dir, &["--mount", "--net"])
    }

    fn on_containerd(dir: &Path, namespaces: &[&str]) -> Self {
        let root = dir.join("root");
        let host = format!("unix://{}", root.join("docker.sock").display());
        let mut command = Command::new("unshare");
        command.args(namespaces).args(["sh", "-c", CURRENT]).arg(&root);
        Self::answering(command, dir, host, None)
    }

    fn with_bridge(dir: &Path, bridge: Option<String>) -> Self {
        let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
        let host = format!("unix://{}", path("docker.sock"));
        let mut command = Command::new("/usr/sbin/dockerd");
        command
            .args(["--host", &host, "--data-root", &path("data"), "--exec-root", &path("exec")])
            .args(["--pidfile", &path("docker.pid")])
            .args(["--bridge", bridge.as_deref().unwrap_or("none")])
            .args(["--iptables=false", "--ip6tables=false"]);
        Self::answering(command, dir, host, bridge)
    }

    /// Waits until a daemon that is started so answers.
    fn answering(mut command: Command, dir: &Path, host: String, bridge: Option<String>) -> Self {
        let log = File::create(dir.join("dockerd.log")).unwrap();
        let daemon = command
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .expect("dockerd must be installed (tests/run does it)");
        let engine = Engine { daemon, dir: dir.to_owned(), host, bridge };
        let start = Instant::now();
        while !engine.command(&["info"]).output().unwrap().status.success() {
            let said = || fs::read_to_string(dir.join("dockerd.log")).unwrap();
            assert!(start.elapsed() < PATIENCE, "dockerd does not answer:\n{}", said());
            std::thread::sleep(Duration::from_millis(100));
        }
        engine
    }

    /// As `DOCKER_HOST` names it.
    pub fn host(&self) -> &str {
        &self.host
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(["--host", &self.host]).args(arguments);
        command
    }

    #[track_caller]
    pub fn docker(&self, arguments: &[&str]) -> String {
        tool("docker", &[&["--host", &self.host], arguments].concat())
    }

    /// Brings in an image of a store.
    pub fn load(&self, store: &Path, sandbox: &str) {
        let from = format!("oci:{}:{sandbox}", store.display());
        let into = format!("docker-daemon:sbx/{sandbox}:test");
        tool("skopeo", &["copy", "--quiet", "--dest-daemon-host", &self.host, &from, &into]);
    }

    /// Starts an image that was brought in, without any network.
    pub fn run(&self, sandbox: &str, options: &[&str]) -> Container<'_> {
        let image = format!("sbx/{sandbox}:test");
        let id = self.docker(
            &[&["run", "--detach", "--network", "none"], options, &[image.as_str()]].concat(),
        );
        Container { engine: self, id: id.trim().to_owned() }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // asked nicely it takes its containers along
        let pid = rustix::process::Pid::from_child(&self.daemon);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.daemon.wait().unwrap();
        for mount in ["exec", "data"] {
            let _ = Command::new("umount")
                .args(["--recursive", "--quiet"])
                .arg(self.dir.join(mount))
                .stderr(Stdio::null())
                .status();
        }
        if let Some(bridge) = &self.bridge {
            let _ = Command::new("ip").args(["link", "delete", bridge]).status();
        }
    }
}

impl Container<'_> {
    /// What it has said.
    pub fn logs(&self) -> String {
        let output = self.engine.command(&["logs", &self.id]).output().unwrap();
        [output.stdout, output.stderr]
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .concat()
    }

    #[track_caller]
    pub fn exec(&self, words: &[&str]) -> String {
        self.engine.docker(&[&["exec", &self.id], words].concat())
    }

    /// A program of this machine's, in the container's network.
    pub fn beside(&self, program: &Path) -> Command {
        let pid = self.engine.docker(&["inspect", "--format", "{{.State.Pid}}", &self.id]);
        let mut command = Command::new("nsenter");
        command.args(["--target", pid.trim(), "--net"]).arg(program);
        command
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let _ = self.engine.command(&["rm", "--force", "--volumes", &self.id]).output();
    }
}
