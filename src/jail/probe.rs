//! What this machine allows, and the one command that mends what it does not.
//!
//! The namespaces are tried, not guessed at: a setting that looks forbidding may have an exception
//! for this program, and a filter cannot be read. Settings are looked at for the cause of a refusal.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::mount::MountPropagationFlags;
use rustix::thread::UnshareFlags;

use super::spec::{SetupFault, Spec};
use super::subordinate::{GROUPS, NEEDED, USERS, find_range, mend_range, user_name};
use super::userns::{MEND_TOOL, UserNamespaceError};
use crate::platform::Platform;

const CONTAINER: &str = "run the container with `--privileged`, or with `--cap-add SYS_ADMIN --security-opt seccomp=unconfined --security-opt apparmor=unconfined`; or take what is settled and run elsewhere from a shared cache (`sbx build --cache-from REF`)";
const FILTERED: &str = "run the container with `--security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined`";
const MASKED: &str = "run the container with `--security-opt systempaths=unconfined`";
const OTHER_DISK: &str =
    "name a directory on another file system, such as a volume, with `--cache DIR` or `SBX_CACHE`";
const AS_ROOT: &str = "run it as root";

/// What a build sandbox finds here.
#[derive(Clone, Debug)]
pub struct Abilities {
    pub root: bool,
    /// What stands in the way; empty where settles and runs work.
    pub obstacles: Vec<Obstacle>,
}

/// Something that stands in the way.
#[derive(Clone, Debug)]
pub struct Obstacle {
    pub what: String,
    /// The one command that mends it.
    pub mend: String,
}

impl Obstacle {
    fn new(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { what: what.into(), mend: mend.into() }
    }
}

/// Tries what a sandbox needs, in a process that ends at once. Nothing on the machine changes.
pub fn probe() -> Abilities {
    let uid = rustix::process::geteuid().as_raw();
    let root = uid == 0;
    let mut obstacles = Vec::new();
    if let Err(error) = try_namespaces(root) {
        obstacles.push(explain(root, &error.to_string()));
    }
    if !fs::read_to_string("/proc/filesystems").is_ok_and(|text| text.contains("\toverlay\n")) {
        obstacles.push(Obstacle::new("the kernel has no overlayfs loaded", MEND_OVERLAY));
    }
    if !root {
        obstacles.extend(id_obstacles(uid));
    }
    Abilities { root, obstacles }
}

const MEND_OVERLAY: &str = "run `sudo modprobe overlay`";

fn id_obstacles(uid: u32) -> Vec<Obstacle> {
    let name = user_name(uid);
    let poor = [USERS, GROUPS]
        .into_iter()
        .filter(|kind| find_range(*kind, uid, &name).is_none_or(|range| range.count < NEEDED))
        .map(|kind| {
            let file = kind.file;
            let what = format!("user `{name}` has fewer than {NEEDED} subordinate ids in `{file}`");
            Obstacle::new(what, mend_range(&name))
        });
    let absent = ["newuidmap", "newgidmap"]
        .into_iter()
        .filter(|tool| {
            Command::new(tool).output().is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        })
        .map(|tool| Obstacle::new(format!("`{tool}` is not installed"), MEND_TOOL));
    poor.chain(absent).collect()
}

/// Makes the namespaces and changes a mount in them.
fn try_namespaces(root: bool) -> io::Result<()> {
    let mut flags = UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWCGROUP;
    if !root {
        flags |= UnshareFlags::NEWUSER;
    }
    attempt(move || {
        // SAFETY: the forked process has one thread; no flag shares file descriptors or memory
        unsafe { rustix::thread::unshare_unsafe(flags) }?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        Ok(rustix::mount::mount_change("/", private)?)
    })
}

/// Makes a user namespace with a table of foreign formats of its own.
pub(super) fn try_table() -> io::Result<()> {
    attempt(|| {
        // SAFETY: the forked process has one thread; neither flag shares file descriptors or memory
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS) }?;
        super::emulator::open_table().map(drop)?;
        Ok(())
    })
}

/// What stands in the way of programs of another platform.
pub(super) fn without_table(platform: Platform, error: &io::Error) -> Obstacle {
    let cannot = format!("programs of {platform} cannot be run");
    if let Some(limit) = exhausted(false) {
        let mend = format!("run `sudo sysctl -w {limit}=15000`");
        return Obstacle::new(format!("{cannot}: the kernel's limit `{limit}` is 0"), mend);
    }
    let mend = match error.raw_os_error() {
        Some(libc::ENODEV) => "run `sudo modprobe binfmt_misc`",
        _ => "run `sudo apt-get install qemu-user-static`; Linux 6.7 and newer need nothing",
    };
    let what = format!(
        "{cannot}: a user namespace gets no table of foreign formats ({error}), and this machine's \
         has no entry for them with flag `F`"
    );
    Obstacle::new(what, mend)
}

/// Tries something in a process that ends at once: a few system calls, and nothing that a fork in a
/// process with threads forbids.
fn attempt(steps: impl Fn() -> io::Result<()> + Send + Sync + 'static) -> io::Result<()> {
    // all went well: there is nothing to start
    let steps = move || steps().and(Err(io::Error::from_raw_os_error(libc::ECANCELED)));
    let mut command = Command::new("/proc/self/exe");
    // SAFETY: as the caller promises
    let result = unsafe { command.pre_exec(steps) }.spawn();
    match result {
        Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => Ok(()),
        Err(error) => Err(error),
        // the attempt never lets the program start
        Ok(mut child) => child.wait().map(drop),
    }
}

fn sysctl(name: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/")))
        .ok()
        .map(|text| text.trim().to_owned())
}

/// The likely cause of a refusal.
fn explain(root: bool, reason: &str) -> Obstacle {
    if let Some(limit) = exhausted(root) {
        return Obstacle::new(
            format!("the kernel's limit `{limit}` is 0"),
            format!("run `sudo sysctl -w {limit}=15000`"),
        );
    }
    if root {
        let what = format!(
            "root may not make namespaces and mounts here ({reason}), as in a container with Docker's default seccomp filter and capabilities"
        );
        return Obstacle::new(what, CONTAINER);
    }
    user_obstacle()
        .unwrap_or_else(|| Obstacle::new(format!("the kernel refuses ({reason})"), AS_ROOT))
}

fn exhausted(root: bool) -> Option<String> {
    let kinds = ["user", "mnt", "pid", "net", "uts", "ipc", "cgroup"];
    kinds
        .iter()
        .filter(|kind| !(root && **kind == "user"))
        .map(|kind| format!("user.max_{kind}_namespaces"))
        .find(|name| sysctl(name).as_deref() == Some("0"))
}

/// Settings that forbid user namespaces to ordinary users.
fn user_obstacle() -> Option<Obstacle> {
    let is = |name, value| sysctl(name).is_some_and(|found| found == value);
    if is("kernel.unprivileged_userns_clone", "0") {
        return Some(Obstacle::new(
            "the kernel keeps user namespaces to root",
            "run `sudo sysctl -w kernel.unprivileged_userns_clone=1`",
        ));
    }
    if is("kernel.apparmor_restrict_unprivileged_userns", "1") {
        return Some(Obstacle::new(
            "AppArmor restricts user namespaces of programs without a profile",
            "run `sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`",
        ));
    }
    let filtered =
        fs::read_to_string("/proc/self/status").is_ok_and(|text| text.contains("Seccomp:\t2"));
    filtered.then(|| {
        Obstacle::new(
            "a seccomp filter forbids namespaces, as Docker's default one does in a container",
            FILTERED,
        )
    })
}

/// The error for a namespace that the kernel refused, with its likely cause.
pub(super) fn forbidden(reason: String) -> UserNamespaceError {
    let Obstacle { what, mend } = explain(false, &reason);
    UserNamespaceError::Forbidden { reason: format!("{what} ({reason})"), mend }
}

/// What mends a step of a sandbox's set-up that failed.
pub(super) fn find_mend(fault: &SetupFault, spec: &Spec) -> Option<String> {
    let step = fault.step.as_str();
    match fault.errno? {
        libc::EINVAL if step == "mount the overlay" && lies_on_overlay(&spec.upper) => {
            Some(OTHER_DISK.to_owned())
        }
        libc::ENODEV if step == "mount the overlay" => Some(MEND_OVERLAY.to_owned()),
        libc::EPERM if step == "mount /proc" => Some(MASKED.to_owned()),
        libc::EPERM | libc::EACCES | libc::ENOSPC
            if step == "unshare namespaces"
                || step.starts_with("mount")
                || step == "make mounts private" =>
        {
            let root = rustix::process::geteuid().is_root() && !super::mounts::in_user_namespace();
            Some(explain(root, &fault.reason).mend)
        }
        _ => None,
    }
}

/// An overlay's upper directory may not lie on another overlay, such as a container's own root.
fn lies_on_overlay(path: &Path) -> bool {
    const OVERLAYFS_MAGIC: u64 = 0x794c_7630;
    rustix::fs::statfs(path).is_ok_and(|stat| stat.f_type as u64 == OVERLAYFS_MAGIC)
}
