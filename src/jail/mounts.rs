//! The sandbox's file systems.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use super::child::{Setup, Step, fault};
use super::overlay;
use super::spec::{Bind, SECRETS, SecretFile, Spec};

/// Paths of /proc that tell of the host or reach into it.
pub(super) const MASKED: &[&str] = &[
    "acpi",
    "asound",
    "cmdline",
    "config.gz",
    "diskstats",
    "driver",
    "interrupts",
    "iomem",
    "ioports",
    "kallsyms",
    "kcore",
    "key-users",
    "keys",
    "kmsg",
    "kpagecgroup",
    "kpagecount",
    "kpageflags",
    "latency_stats",
    "mdstat",
    "modules",
    "mtrr",
    "partitions",
    "sched_debug",
    "scsi",
    "slabinfo",
    "timer_list",
    "timer_stats",
    "vmallocinfo",
    "vmcore",
];
/// Paths of /proc that may be read only.
pub(super) const READ_ONLY: &[&str] = &["bus", "fs", "irq", "pressure", "sys", "sysrq-trigger"];

const DEVICES: &[&str] = &["full", "null", "random", "tty", "urandom", "zero"];

/// Builds the sandbox's root and makes it the process's own.
pub(super) fn enter(spec: &Spec) -> Setup<()> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).step("make mounts private")?;
    let root = &spec.root;
    overlay::mount(&spec.lowers, &spec.upper, &spec.work, root)?;
    mount_dev(root)?;
    mount_proc(root)?;
    mount_sys(root)?;
    for bind in &spec.binds {
        mount_bind(root, bind)?;
    }
    mount_secrets(root, &spec.secrets)?;
    pivot(root)
}

/// Makes a mount the root; what was the root before is gone from view.
pub(super) fn pivot(root: &Path) -> Setup<()> {
    rustix::process::chdir(root).step("enter the root")?;
    // the old root is stacked on the new one, and leaves (pivot_root(2), pivot_root(".", "."))
    rustix::process::pivot_root(".", ".").step("pivot the root")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).step("leave the old root")?;
    rustix::process::chdir("/").step("enter the new root")
}

/// Whether uid 0 here is somebody else outside.
pub(super) fn in_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"]
}

pub(super) fn make_dir(path: &Path) -> Setup<()> {
    fs::create_dir_all(path).step(format!("create `{}`", path.display()))
}

pub(super) fn mount_tmpfs(path: &Path, options: &str, flags: MountFlags) -> Setup<()> {
    make_dir(path)?;
    let options = std::ffi::CString::new(options).step("write mount options")?;
    rustix::mount::mount("tmpfs", path, "tmpfs", flags, options.as_c_str())
        .step(format!("mount `{}`", path.display()))
}

fn mount_dev(root: &Path) -> Setup<()> {
    let dev = root.join("dev");
    mount_tmpfs(&dev, "mode=0755,size=1m", MountFlags::NOSUID)?;
    lay_devices(&dev, 64 << 20)?;
    // what a program would leave here is in no delta: better that it fails
    make_read_only(&dev, 0).step("make /dev read-only")
}

/// What every program expects in /dev, with shared memory of so many bytes.
pub(super) fn lay_devices(dev: &Path, shared_memory: u64) -> Setup<()> {
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
    let options = format!("mode=1777,size={shared_memory}");
    mount_tmpfs(&dev.join("shm"), &options, MountFlags::NOSUID | MountFlags::NODEV)?;
    make_dir(&dev.join("pts"))?;
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    rustix::mount::mount(
        "devpts",
        dev.join("pts"),
        "devpts",
        flags,
        // group 5 is Debian's `tty`, to whom terminals belong
        c"newinstance,ptmxmode=0666,mode=0620,gid=5",
    )
    .step("mount /dev/pts")
}

pub(super) fn mount_proc(root: &Path) -> Setup<()> {
    let proc = root.join("proc");
    make_dir(&proc)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("proc", &proc, "proc", flags, c"").step("mount /proc")?;
    let null = root.join("dev/null");
    // one file system that is empty does for all directories
    let mut empty: Option<PathBuf> = None;
    for name in MASKED {
        let path = proc.join(name);
        let over = match (fs::symlink_metadata(&path), &empty) {
            (Err(_), _) => continue,
            (Ok(meta), None) if meta.is_dir() => {
                mount_tmpfs(&path, "mode=0755,size=4k", MountFlags::RDONLY)?;
                empty = Some(path);
                continue;
            }
            (Ok(meta), Some(empty)) if meta.is_dir() => empty,
            (Ok(_), _) => &null,
        };
        rustix::mount::mount_bind(over, &path).step(format!("mask `{}`", path.display()))?;
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

/// Secrets, where only root looks, and nobody writes.
fn mount_secrets(root: &Path, secrets: &[SecretFile]) -> Setup<()> {
    if secrets.is_empty() {
        return Ok(());
    }
    let dir = inside(root, SECRETS)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_tmpfs(&dir, "mode=0700,size=8m", flags)?;
    for secret in secrets {
        let step = || format!("lay secret `{}`", secret.name);
        if secret.name.contains('/') || secret.name.starts_with('.') {
            return Err(fault(&step(), "its name is no file's"));
        }
        let path = dir.join(&secret.name);
        fs::write(&path, &secret.bytes).step(step())?;
        rustix::fs::chmod(&path, rustix::fs::Mode::from_raw_mode(0o400)).step(step())?;
    }
    make_read_only(&dir, 0).step("make secrets read-only")
}

/// A mount point in the sandbox; none may be reached through a link of the image's.
pub(super) fn inside(root: &Path, to: &str) -> Setup<PathBuf> {
    let mut path = root.to_owned();
    for part in to.split('/').filter(|part| !part.is_empty()) {
        path.push(part);
        if part == ".." || path.is_symlink() {
            return Err(fault(&format!("bind `{to}`"), "the path leads through a link"));
        }
    }
    Ok(path)
}

pub(super) fn bind(from: &Path, to: &Path, read_only: bool) -> Setup<()> {
    let step = || format!("bind `{}` to `{}`", from.display(), to.display());
    if !to.exists() {
        if let Some(parent) = to.parent() {
            make_dir(parent)?;
        }
        if fs::metadata(from).step(step())?.is_dir() {
            make_dir(to)?;
        } else {
            fs::File::create(to).step(step())?;
        }
    }
    rustix::mount::mount_bind_recursive(from, to).step(step())?;
    match read_only {
        true => make_read_only(to, libc::AT_RECURSIVE).step(step()),
        false => Ok(()),
    }
}

/// With everything that is mounted below, if `AT_RECURSIVE` says so (mount_setattr(2), Linux 5.12);
/// flags that a mount was locked with stay.
pub(super) fn make_read_only(path: &Path, reach: libc::c_int) -> std::io::Result<()> {
    let path = std::ffi::CString::new(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()))?;
    // SAFETY: all fields are numbers
    let mut change: libc::mount_attr = unsafe { std::mem::zeroed() };
    change.attr_set = libc::MOUNT_ATTR_RDONLY;
    // SAFETY: path and change outlive the call, and the size is the struct's
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            reach,
            &change,
            size_of_val(&change),
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
