//! Debian's podman with storage of its own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::tool;

/// A program `podman` whose storage is in a directory, with a runtime that takes any cgroups.
pub struct Podman {
    dir: PathBuf,
}

impl Podman {
    pub fn new(dir: &Path) -> Self {
        let podman = Podman { dir: dir.to_owned() };
        podman.write("");
        podman
    }

    /// From now on it knows no such command.
    pub fn break_command(&self, name: &str) {
        self.write(&format!("[ \"$1\" = {name} ] && exit 125\n"));
    }

    fn write(&self, before: &str) {
        let script = format!(
            "#!/bin/sh\n{before}exec /usr/bin/podman --root {0}/root --runroot {0}/run \
             --storage-driver vfs --cgroup-manager cgroupfs --runtime runc \"$@\"\n",
            self.dir.display()
        );
        fs::write(self.program(), script).unwrap();
        fs::set_permissions(self.program(), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn program(&self) -> PathBuf {
        self.dir.join("podman")
    }

    /// A search path that finds it first.
    pub fn path(&self) -> String {
        format!("{}:{}", self.dir.display(), std::env::var("PATH").unwrap())
    }

    #[track_caller]
    pub fn podman(&self, arguments: &[&str]) -> String {
        tool(self.program().to_str().unwrap(), arguments)
    }

    /// What an image says when it is run without a network.
    #[track_caller]
    pub fn run(&self, image: &str, words: &[&str]) -> String {
        let limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];
        let options = ["run", "--rm", "--network", "none"];
        self.podman(&[&options[..], &limits, &[image], words].concat())
    }
}
