//! Owners in an instance and the machine's (user_namespaces(7), mount_setattr(2)).

use std::fs;
use std::io::{PipeReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::mount::OpenTreeFlags;
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};

use super::super::child::{Setup, Step, fault, fork};

/// How many ids an instance has: Debian's own end with 65534, `nobody`.
pub const COUNT: u32 = 65_536;

/// Whose an instance's ids are outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ids {
    /// Nobody else's, from this one on.
    Own { first: u32 },
    /// The starter's, who is in a user namespace already.
    Shared,
}

/// `inside outside count`, as in a map's row.
pub type Row = (u32, u32, u32);

impl Ids {
    /// Who root of the instance is for the starter.
    pub fn root(self) -> u32 {
        match self {
            Ids::Own { first } => first,
            Ids::Shared => 0,
        }
    }

    /// The map of a user namespace of these ids.
    pub fn rows(self) -> Vec<Row> {
        match self {
            Ids::Own { first } => vec![(0, first, COUNT)],
            // a row must lie within one of the starter's own, which has its root apart
            Ids::Shared => vec![(0, 0, 1), (1, 1, COUNT - 1)],
        }
    }

    /// A user namespace of these ids, without a process in it.
    pub(super) fn namespace(self, processes: Option<u32>) -> Setup<OwnedFd> {
        namespace(&self.rows(), processes)
    }

    /// A file system's part as the instance is to see it: owners of the trees are the instance's.
    pub(super) fn show_tree(self, tree: &Path, namespace: BorrowedFd<'_>) -> Setup<OwnedFd> {
        let mount = detach(tree, OpenTreeFlags::empty())?;
        map(&mount, namespace).step(format!("map the owners of `{}`", tree.display()))?;
        Ok(mount)
    }

    /// Likewise for something of the host's: its owner is the instance's root, and other users of
    /// the instance own what they write there.
    pub(super) fn show_volume(self, from: &Path) -> Setup<OwnedFd> {
        let mount = detach(from, OpenTreeFlags::empty())?;
        let Ids::Own { first } = self else { return Ok(mount) };
        let step = || format!("map the owners of `{}`", from.display());
        let owner = fs::symlink_metadata(from).step(step())?.uid();
        if (first..first + COUNT).contains(&owner) {
            return Ok(mount);
        }
        let rows = [(owner, first, 1), (first + 1, first + 1, COUNT - 1)];
        let namespace = namespace(&rows, None)?;
        map(&mount, namespace.as_fd()).step(step())?;
        Ok(mount)
    }
}

/// A copy of a mount that is attached nowhere yet.
pub(super) fn detach(path: &Path, reach: OpenTreeFlags) -> Setup<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | reach;
    rustix::mount::open_tree(rustix::fs::CWD, path, flags)
        .step(format!("open `{}`", path.display()))
}

fn map(mount: &OwnedFd, namespace: BorrowedFd<'_>) -> std::io::Result<()> {
    let number = namespace.as_raw_fd().cast_unsigned().into();
    change(mount, libc::MOUNT_ATTR_IDMAP, number)
}

/// Sets attributes of a detached mount; those it has, it keeps.
pub(in super::super) fn change(mount: &OwnedFd, set: u64, namespace: u64) -> std::io::Result<()> {
    // SAFETY: all fields are numbers
    let mut change: libc::mount_attr = unsafe { std::mem::zeroed() };
    change.attr_set = set;
    change.userns_fd = namespace;
    // SAFETY: path and change outlive the call, and the size is the struct's
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &change,
            size_of_val(&change),
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Made by a child that lives as long as its maps take. No more processes than so many can be in it:
/// the limit that its maker has holds for all of them together, whoever they become in there (Linux
/// 5.14; root's own has none).
fn namespace(rows: &[Row], processes: Option<u32>) -> Setup<OwnedFd> {
    let (mut hear, tell) = std::io::pipe().step("open a pipe")?;
    let (wait, go) = std::io::pipe().step("open a pipe")?;
    let Some(pid) = fork()? else {
        drop((hear, go));
        limit_processes(processes);
        hold_namespace(tell, wait);
    };
    drop((tell, wait));
    let pid_number = pid.as_raw_nonzero();
    let mut errno = [0; 4];
    let made = hear.read_exact(&mut errno).step("make a user namespace").and_then(|()| {
        match i32::from_ne_bytes(errno) {
            0 => Ok(()),
            errno => Err(std::io::Error::from_raw_os_error(errno)).step("make a user namespace"),
        }
    });
    let opened = made.and_then(|()| {
        let text: String = rows.iter().map(|(a, b, n)| format!("{a} {b} {n}\n")).collect();
        for file in ["uid_map", "gid_map"] {
            let path = format!("/proc/{pid_number}/{file}");
            fs::write(&path, &text).step(format!("write {file}"))?;
        }
        let file = fs::File::open(format!("/proc/{pid_number}/ns/user"));
        file.map(OwnedFd::from).step("open a user namespace")
    });
    drop(go);
    rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())
        .step("wait for a child")?;
    opened
}

/// For what this process starts from now on.
pub(super) fn limit_processes(processes: Option<u32>) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Some(most) = processes.map(u64::from) else { return };
    let own = getrlimit(Resource::Nproc);
    let most = own.maximum.map_or(most, |maximum| maximum.min(most));
    // it is no higher than before, which is always allowed
    setrlimit(Resource::Nproc, Rlimit { current: Some(most), maximum: own.maximum })
        .unwrap_or_default();
}

fn hold_namespace(mut tell: std::io::PipeWriter, mut wait: PipeReader) -> ! {
    // SAFETY: this process has one thread, and the flag shares nothing
    let made = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER) };
    let errno = made.map_or_else(|errno| errno.raw_os_error(), |()| 0);
    // a parent that is gone closes both pipes, and that ends this process too
    tell.write_all(&errno.to_ne_bytes()).unwrap_or_default();
    wait.read_exact(&mut [0]).unwrap_or_default();
    // SAFETY: nothing of the parent's is to be flushed or run by its copy
    unsafe { libc::_exit(0) }
}

/// Attaches a detached mount.
pub(super) fn attach(mount: &OwnedFd, to: &Path) -> Setup<()> {
    let flags = rustix::mount::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", rustix::fs::CWD, to, flags)
        .step(format!("mount `{}`", to.display()))
}

/// Becomes root of the user namespace that this process has entered.
pub(super) fn become_root() -> Setup<()> {
    use rustix::process::{Gid, Uid};
    let (user, group) = (Some(Uid::ROOT), Some(Gid::ROOT));
    rustix::thread::set_thread_groups(&[]).step("leave all groups")?;
    rustix::thread::set_thread_res_gid(group, group, group).step("become the root group")?;
    rustix::thread::set_thread_res_uid(user, user, user).step("become root")
}

/// Waits for a child that must end well.
pub(super) fn reap(pid: rustix::process::Pid) -> Setup<()> {
    let ended = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())
        .step("wait for a child")?;
    match ended.and_then(|(_, status)| status.exit_status()) {
        Some(0) => Ok(()),
        _ => Err(fault("enter the instance", "the process that does it failed")),
    }
}
