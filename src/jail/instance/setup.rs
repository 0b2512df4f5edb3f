//! The keeper's side: from the host's view into an instance's namespaces.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags};
use rustix::thread::LinkNameSpaceType;

use super::super::child::{Setup, Step, fault, fork, open_self, unshare};
use super::super::spec::{Report, SetupFault};
use super::{Cell, first, ids, mounts};

/// Descriptors that an instance is started with.
#[derive(Debug)]
pub struct Wires {
    pub stdio: [OwnedFd; 3],
    /// Where reports go, a line each.
    pub report: OwnedFd,
    /// A socket that a terminal's far end is handed out by.
    pub seat: OwnedFd,
    /// Likewise for the sockets of the gate, where there is one.
    pub gate: Option<OwnedFd>,
}

/// An instance whose first process is there.
#[derive(Debug)]
pub struct Started {
    /// A child of the caller's.
    pub first: Pid,
    pub handle: OwnedFd,
}

impl Wires {
    pub(super) fn say(&self, report: &Report) {
        let mut line = serde_json::to_vec(report).expect("a report has string keys only");
        line.push(b'\n');
        // a keeper that is gone takes this process with it
        rustix::io::write(&self.report, &line).unwrap_or_default();
    }
}

/// Makes the instance's first process. The caller has one thread. What comes after is reported.
pub fn start(cell: &Cell, wires: &Wires) -> Result<Started, SetupFault> {
    let namespace = cell.ids.namespace(cell.processes)?;
    let own = open_self()?;
    let (mut hear, tell) = std::io::pipe().step("open a pipe")?;
    let Some(guide) = fork()? else {
        drop(hear);
        guide(cell, wires, &namespace, &own, tell);
    };
    drop(tell);
    let mut answer = Vec::new();
    hear.read_to_end(&mut answer).step("wait for the instance")?;
    ids::reap(guide)?;
    let number: i32 = match serde_json::from_slice::<Result<i32, SetupFault>>(&answer) {
        Ok(answer) => answer?,
        Err(_) => return Err(fault("start the instance", "its first process is gone")),
    };
    let first =
        Pid::from_raw(number).ok_or_else(|| fault("start the instance", "it has no number"))?;
    let handle = rustix::process::pidfd_open(first, PidfdFlags::empty())
        .step("open a handle of the instance")?;
    Ok(Started { first, handle })
}

/// Goes down, and answers with the number of the process that it left there.
fn guide(
    cell: &Cell,
    wires: &Wires,
    namespace: &OwnedFd,
    keeper: &OwnedFd,
    mut tell: std::io::PipeWriter,
) -> ! {
    let answer = match descend(cell, namespace) {
        Ok(None) => {
            drop(tell);
            first::main(cell, wires, keeper)
        }
        Ok(Some(pid)) => Ok(pid),
        Err(fault) => Err(fault),
    };
    let text = serde_json::to_vec(&answer).expect("a fault has string keys only");
    tell.write_all(&text).unwrap_or_default();
    // SAFETY: nothing of the keeper's is to be flushed or run by its copy
    unsafe { libc::_exit(0) }
}

/// `None` in the instance's first process.
fn descend(cell: &Cell, namespace: &OwnedFd) -> Setup<Option<i32>> {
    cell.cgroup.join().step("join the control groups")?;
    mounts::outside(cell, namespace.as_fd())?;
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::User))
        .step("enter the user namespace")?;
    ids::become_root()?;
    unshare()?;
    let flags = libc::CLONE_PARENT | libc::SIGCHLD;
    // SAFETY: without CLONE_VM this is a fork, of a process with one thread
    match unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) } {
        -1 => Err(std::io::Error::last_os_error()).step("start the first process"),
        0 => Ok(None),
        pid => Ok(Some(i32::try_from(pid).unwrap_or_default())),
    }
}
