//! What this machine allows, and the one command that mends what it does not.

use std::fs;
use std::io;
use std::process::Command;

use super::userns::{MEND_TOOL, UserNamespaceError, find_range, mend_range, user_name};

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

fn sysctl(name: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/")))
        .ok()
        .map(|text| text.trim().to_owned())
}

/// Looks at the machine without changing anything.
pub fn probe() -> Abilities {
    let uid = rustix::process::geteuid().as_raw();
    let mut obstacles = Vec::new();
    let mut add =
        |what: &str, mend: String| obstacles.push(Obstacle { what: what.to_owned(), mend });
    if uid == 0 {
        if !may_mount() {
            add(
                "this root may not make mount namespaces (a container with Docker's default seccomp and capabilities)",
                "run the container with `--privileged`, or with `--cap-add SYS_ADMIN --security-opt seccomp=unconfined --security-opt apparmor=unconfined`".to_owned(),
            );
        }
        return Abilities { root: true, obstacles };
    }
    if let Some((what, mend)) = namespace_obstacle() {
        add(&what, mend);
    }
    let name = user_name(uid);
    for file in ["/etc/subuid", "/etc/subgid"] {
        if find_range(file, uid, &name).is_none() {
            add(&format!("user `{name}` has no subordinate ids in `{file}`"), mend_range(&name));
        }
    }
    for tool in ["newuidmap", "newgidmap"] {
        if Command::new(tool).output().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            add(&format!("`{tool}` is not installed"), MEND_TOOL.to_owned());
        }
    }
    Abilities { root: false, obstacles }
}

/// Settings of the kernel that forbid user namespaces to ordinary users.
fn namespace_obstacle() -> Option<(String, String)> {
    let is = |name, value| sysctl(name).is_some_and(|found| found == value);
    let mend = |setting: &str| format!("run `sudo sysctl -w {setting}`");
    if is("user.max_user_namespaces", "0") {
        return Some((
            "the kernel allows no user namespaces".to_owned(),
            mend("user.max_user_namespaces=15000"),
        ));
    }
    if is("kernel.unprivileged_userns_clone", "0") {
        let what = "the kernel keeps user namespaces to root".to_owned();
        return Some((what, mend("kernel.unprivileged_userns_clone=1")));
    }
    if is("kernel.apparmor_restrict_unprivileged_userns", "1") {
        let what = "AppArmor restricts user namespaces of programs without a profile".to_owned();
        return Some((what, mend("kernel.apparmor_restrict_unprivileged_userns=0")));
    }
    let filtered =
        fs::read_to_string("/proc/self/status").is_ok_and(|text| text.contains("Seccomp:\t2"));
    filtered.then(|| {
        let what = "a seccomp filter is installed (a container with Docker's default profile)".to_owned();
        (what, "run the container with `--security-opt seccomp=unconfined --security-opt apparmor=unconfined`".to_owned())
    })
}

/// Whether this root has the capability that mounts want.
fn may_mount() -> bool {
    rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::SYS_ADMIN))
}

/// The error for a namespace that the kernel refused, with its likely cause.
pub(super) fn forbidden(reason: String) -> UserNamespaceError {
    let (what, mend) = namespace_obstacle()
        .unwrap_or_else(|| ("the kernel refuses".to_owned(), "run sbx as root".to_owned()));
    UserNamespaceError::Forbidden { reason: format!("{what} ({reason})"), mend }
}
