//! Runtimes of the OCI: they start an instance from a bundle, a root and a `config.json`.
//!
//! The root is laid as for an instance of our own, in a mount namespace that only the runtime sees;
//! the document says the rest (`config`). The keeper is the nearest reaper of what the runtime
//! leaves behind (`PR_SET_CHILD_SUBREAPER`), so the instance is its child, and it learns how that ends.
//! What the runtime knows of an instance whose keeper was killed is forgotten by the next who looks,
//! with the runtime's own `delete`.

mod config;
mod exec;
mod signal;
mod start;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::Pid;
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};

pub use config::print;

use super::state::Record;
use crate::jail::release_signals;

/// Runtimes whose instances are processes of this machine, in namespaces that can be entered.
const SHARING: &[&str] = &["crun", "runc", "youki"];
/// Where runtimes look for programs of their own.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Version 2 beside version 1: crun refuses both at once, and does with version 1.
const HYBRID: &str = "/sys/fs/cgroup/unified";

/// A program that starts bundles.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    program: PathBuf,
    /// Where it keeps what it knows of this instance.
    state: PathBuf,
}

impl Runtime {
    pub fn new(program: PathBuf) -> Self {
        Runtime { program, state: PathBuf::new() }
    }

    /// A state apart from all others, wherever the instance's own directory goes.
    pub(super) fn for_instance(self, below: &Path, id: &str) -> Self {
        Runtime { state: below.join(id), ..self }
    }

    pub fn name(&self) -> String {
        self.program.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Whether its instances can be looked into from this machine.
    pub fn shares_kernel(&self) -> bool {
        SHARING.contains(&self.name().as_str())
    }

    /// Whether a signal should end the program, and the kernel spares it.
    pub(super) fn spares(&self, first: Pid, signal: i32) -> bool {
        // another kernel's program is no process of this machine
        self.shares_kernel() && signal::ends_by_default(first, signal)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear().env("PATH", PATH).arg("--root").arg(&self.state);
        let hybrid = self.name() == "crun" && Path::new(HYBRID).is_dir();
        let prepare = move || {
            release_signals();
            if hybrid { Ok(hide_hybrid()?) } else { Ok(()) }
        };
        // SAFETY: a few system calls, in a process that is about to become the runtime
        unsafe { command.pre_exec(prepare) };
        command
    }

    /// What an instance is called there.
    fn id(record: &Record) -> String {
        format!("sbx-{}", record.id)
    }

    /// Ends what is left of an instance, and forgets it.
    pub(super) fn clean_up(&self, record: &Record) {
        if !self.state.is_dir() {
            return;
        }
        // out of their own namespace, ordinary users have nothing left but these files
        if rustix::process::geteuid().is_root() {
            let mut command = self.command();
            command.args(["delete", "--force", &Self::id(record)]);
            // an instance that never came to be is not known there either
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.status().map(drop).unwrap_or_default();
        }
        std::fs::remove_dir_all(&self.state).unwrap_or_default();
    }
}

fn hide_hybrid() -> rustix::io::Result<()> {
    // SAFETY: the flag shares neither descriptors nor memory, and this process has one thread
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    match rustix::mount::unmount(HYBRID, UnmountFlags::DETACH) {
        // in a user namespace it is part of what is above; or it was hidden already
        Err(rustix::io::Errno::INVAL) => {
            rustix::mount::mount(c"tmpfs", HYBRID, c"tmpfs", MountFlags::empty(), None)
        }
        result => result,
    }
}
