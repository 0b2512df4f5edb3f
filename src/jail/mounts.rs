//! The sandbox's file systems.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    UnmountFlags,
};

use super::child::{Setup, Step};
use super::spawn::{Bind, SetupFault, Spec};

/// Paths of /proc that tell of the host or reach into it.
const MASKED: &[&str] = &[
    "acpi",
    "asound",
    "interrupts",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
];
/// Paths of /proc that may be read only.
const READ_ONLY: &[&str] = &["bus", "fs", "irq", "sys", "sysrq-trigger"];

const DEVICES: &[&str] = &["full", "null", "random", "tty", "urandom", "zero"];

/// Builds the sandbox's root and makes it the process's own.
pub(super) fn enter(spec: &Spec) -> Setup<()> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).step("make mounts private")?;
    mount_overlay(spec)?;
    let root = &spec.root;
    mount_dev(root)?;
    mount_proc(root)?;
    mount_sys(root)?;
    for bind in &spec.binds {
        mount_bind(root, bind)?;
    }
    rustix::process::chdir(root).step("enter the root")?;
    // the old root is stacked on the new one, and leaves (pivot_root(2), pivot_root(".", "."))
    rustix::process::pivot_root(".", ".").step("pivot the root")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).step("leave the old root")?;
    rustix::process::chdir("/").step("enter the new root")
}

/// Through the mount API that takes one directory a call, where the kernel has it (6.5); the old one
/// takes a page of options at most.
fn mount_overlay(spec: &Spec) -> Setup<()> {
    let userxattr = in_user_namespace();
    match mount_overlay_by_parts(spec, userxattr) {
        Err(fault) if fault.step == "add a layer" => mount_overlay_by_options(spec, userxattr),
        result => result,
    }
}

fn mount_overlay_by_parts(spec: &Spec, userxattr: bool) -> Setup<()> {
    let context =
        rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).step("open overlayfs")?;
    let fd = context.as_fd();
    let set = |key: &str, value: &Path| rustix::mount::fsconfig_set_string(fd, key, value);
    for lower in spec.lowers.iter().rev() {
        set("lowerdir+", lower).step("add a layer")?;
    }
    set("upperdir", &spec.upper).step("add the upper directory")?;
    set("workdir", &spec.work).step("add the work directory")?;
    if userxattr {
        rustix::mount::fsconfig_set_flag(fd, "userxattr").step("use user attributes")?;
    }
    rustix::mount::fsconfig_set_flag(fd, "volatile").step("make the overlay volatile")?;
    for (key, value) in
        [("redirect_dir", "nofollow"), ("metacopy", "off"), ("index", "off"), ("xino", "off")]
    {
        // a user namespace may not say what it could not have anyway
        if !userxattr {
            set(key, Path::new(value)).step(format!("set {key}"))?;
        }
    }
    rustix::mount::fsconfig_create(fd).step("mount the overlay")?;
    let mount = rustix::mount::fsmount(fd, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        .step("mount the overlay")?;
    rustix::mount::move_mount(&mount, "", CWD, &spec.root, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .step("place the overlay")
}

fn mount_overlay_by_options(spec: &Spec, userxattr: bool) -> Setup<()> {
    // names relative to the directory of all trees keep the options short
    let base = spec.lowers.first().and_then(|lower| lower.parent()).unwrap_or(Path::new("/"));
    rustix::process::chdir(base).step("enter the directory of trees")?;
    let short =
        |lower: &PathBuf| lower.strip_prefix(base).unwrap_or(lower).to_string_lossy().into_owned();
    let lowers: Vec<String> = spec.lowers.iter().rev().map(short).collect();
    let user = if userxattr {
        ",userxattr"
    } else {
        ",redirect_dir=nofollow,metacopy=off,index=off,xino=off"
    };
    let options = format!(
        "lowerdir={},upperdir={},workdir={},volatile{user}",
        lowers.join(":"),
        spec.upper.display(),
        spec.work.display()
    );
    let options = std::ffi::CString::new(options).step("write the overlay's options")?;
    rustix::mount::mount("overlay", &spec.root, "overlay", MountFlags::empty(), options.as_c_str())
        .step("mount the overlay")
}

/// Whether uid 0 here is somebody else outside.
pub(super) fn in_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"]
}

fn make_dir(path: &Path) -> Setup<()> {
    fs::create_dir_all(path).step(format!("create {}", path.display()))
}

fn mount_tmpfs(path: &Path, options: &str, flags: MountFlags) -> Setup<()> {
    make_dir(path)?;
    let options = std::ffi::CString::new(options).step("write mount options")?;
    rustix::mount::mount("tmpfs", path, "tmpfs", flags, options.as_c_str())
        .step(format!("mount {}", path.display()))
}

fn mount_dev(root: &Path) -> Setup<()> {
    let dev = root.join("dev");
    mount_tmpfs(&dev, "mode=0755,size=1m", MountFlags::NOSUID)?;
    for name in DEVICES {
        bind(&Path::new("/dev").join(name), &dev.join(name), false)?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        rustix::fs::symlink(target, dev.join(name)).step(format!("link /dev/{name}"))?;
    }
    mount_tmpfs(&dev.join("shm"), "mode=1777,size=64m", MountFlags::NOSUID | MountFlags::NODEV)?;
    make_dir(&dev.join("pts"))?;
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    rustix::mount::mount(
        "devpts",
        dev.join("pts"),
        "devpts",
        flags,
        c"newinstance,ptmxmode=0666,mode=0620",
    )
    .step("mount /dev/pts")
}

fn mount_proc(root: &Path) -> Setup<()> {
    let proc = root.join("proc");
    make_dir(&proc)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("proc", &proc, "proc", flags, c"").step("mount /proc")?;
    for name in MASKED {
        let path = proc.join(name);
        match fs::symlink_metadata(&path) {
            Err(_) => {}
            Ok(meta) if meta.is_dir() => {
                mount_tmpfs(&path, "mode=0755,size=4k", MountFlags::RDONLY)?
            }
            Ok(_) => bind(&root.join("dev/null"), &path, false)?,
        }
    }
    for name in READ_ONLY {
        let path = proc.join(name);
        if path.exists() {
            bind(&path, &path, true)?;
        }
    }
    Ok(())
}

/// An empty /sys: nothing that is built may depend on this machine's hardware.
fn mount_sys(root: &Path) -> Setup<()> {
    mount_tmpfs(&root.join("sys"), "mode=0755,size=4k", MountFlags::RDONLY)
}

fn mount_bind(root: &Path, spec: &Bind) -> Setup<()> {
    bind(&spec.from, &inside(root, &spec.to)?, spec.read_only)
}

/// A mount point in the sandbox; none may be reached through a link of the image's.
fn inside(root: &Path, to: &str) -> Setup<PathBuf> {
    let mut path = root.to_owned();
    for part in to.split('/').filter(|part| !part.is_empty()) {
        path.push(part);
        if part == ".." || path.is_symlink() {
            return Err(SetupFault {
                step: format!("bind {to}"),
                reason: "the path leads through a link".to_owned(),
            });
        }
    }
    Ok(path)
}

fn bind(from: &Path, to: &Path, read_only: bool) -> Setup<()> {
    let step = || format!("bind {}", to.display());
    if !to.exists() {
        if let Some(parent) = to.parent() {
            make_dir(parent)?;
        }
        match from.is_dir() {
            true => make_dir(to)?,
            false => drop(
                rustix::fs::open(
                    to,
                    rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY,
                    Mode::from_raw_mode(0o644),
                )
                .step(step())?,
            ),
        }
    }
    rustix::mount::mount_bind_recursive(from, to).step(step())?;
    if read_only {
        // a mount of somebody else's keeps the flags it was locked with
        let locked = rustix::fs::statvfs(to).map(|stat| stat.f_flag).step(step())?;
        let keep = [
            (rustix::fs::StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
            (rustix::fs::StatVfsMountFlags::NODEV, MountFlags::NODEV),
            (rustix::fs::StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        ];
        let flags = keep
            .iter()
            .filter(|(flag, _)| locked.contains(*flag))
            .fold(MountFlags::BIND | MountFlags::RDONLY, |flags, (_, flag)| flags | *flag);
        rustix::mount::mount_remount(to, flags, c"").step(step())?;
    }
    Ok(())
}
