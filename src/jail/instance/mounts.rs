//! An instance's file systems: those that the trees' owner mounts, and those of the instance's own.

use std::fs;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags, OpenTreeFlags};
use rustix::thread::UnshareFlags;

use super::super::child::{Setup, Step};
use super::super::mounts::{
    inside, lay_devices, make_dir, make_read_only, mount_proc, mount_tmpfs, pivot,
};
use super::super::overlay;
use super::{Cell, Ids, NEAR, Tightness, Volume, ids};

/// Where a root that is read-only is writable all the same, in memory.
const IN_MEMORY: &[(&str, &str)] = &[("tmp", "mode=1777,size=50%"), ("run", "mode=0755,size=10%")];

/// In an instance's directory.
const SHELF: &str = "shelf";

/// Paths of /sys that tell of the machine's hardware.
pub(super) const MASKED: &[&str] = &["firmware", "devices/virtual/powercap"];

/// The overlay and the volumes, by the trees' owner, in a mount namespace of its own.
pub(super) fn outside(cell: &Cell, namespace: BorrowedFd<'_>) -> Setup<()> {
    // SAFETY: this process has one thread, and the flag shares neither descriptors nor memory
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.step("unshare mounts")?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).step("make mounts private")?;
    let dir = |name: &str| cell.dir.join(name);
    // where to mount on, in memory: making a file on a disk takes longer than a mount
    let shelf = dir(SHELF);
    mount_tmpfs(&shelf, "mode=0700,size=1m", MountFlags::NOSUID | MountFlags::NODEV)?;
    let root = root(cell);
    make_dir(&root)?;
    let (upper, work) = match cell.disk {
        None => (dir("upper"), dir("work")),
        Some(bytes) => lay_out_in_memory(&shelf.join("memory"), bytes)?,
    };
    let lowers = show_trees(cell, &shelf, namespace)?;
    chown(&upper, Some(cell.ids.root()), Some(cell.ids.root())).step("give the root its owner")?;
    overlay::mount(&lowers, &upper, &work, &root)?;
    if cell.tightness == Tightness::High {
        open_gaps(cell, &root)?;
    }
    cell.volumes.iter().try_for_each(|volume| mount_volume(cell, &root, volume))?;
    // the way here is closed to the instance's root; a working directory moves to the copied mount
    rustix::process::chdir(&root).step("enter the root")
}

/// Where the root is mounted.
pub(super) fn root(cell: &Cell) -> PathBuf {
    cell.dir.join(SHELF).join("root")
}

/// What is written, where it can be no more than so many bytes.
fn lay_out_in_memory(point: &Path, bytes: u64) -> Setup<(PathBuf, PathBuf)> {
    // files that hold nothing take memory, too
    let options = format!("mode=0700,size={bytes},nr_inodes={}", (bytes / 1024).max(1024));
    mount_tmpfs(point, &options, MountFlags::NOSUID | MountFlags::NODEV)?;
    let (upper, work) = (point.join("upper"), point.join("work"));
    make_dir(&upper)?;
    make_dir(&work)?;
    Ok((upper, work))
}

/// Overlays want their layers attached somewhere (before Linux 6.14).
fn show_trees(cell: &Cell, shelf: &Path, namespace: BorrowedFd<'_>) -> Setup<Vec<PathBuf>> {
    if cell.ids == Ids::Shared {
        return Ok(cell.lowers.clone());
    }
    let show = |(at, tree): (usize, &PathBuf)| {
        let mount = cell.ids.show_tree(tree, namespace)?;
        let place = shelf.join(at.to_string());
        make_dir(&place)?;
        ids::attach(&mount, &place)?;
        Ok(place)
    };
    cell.lowers.iter().enumerate().map(show).collect()
}

/// What stays writable where the root will not: directories in memory, and those that are named.
fn open_gaps(cell: &Cell, root: &Path) -> Setup<()> {
    let owner = cell.ids.root();
    for (name, options) in IN_MEMORY {
        let path = make_point(cell, root, name, true)?;
        let options = format!("{options},uid={owner},gid={owner}");
        mount_tmpfs(&path, &options, MountFlags::NOSUID | MountFlags::NODEV)?;
    }
    for name in &cell.writable {
        let path = make_point(cell, root, name, true)?;
        rustix::mount::mount_bind(&path, &path).step(format!("keep `{name}` writable"))?;
    }
    Ok(())
}

fn mount_volume(cell: &Cell, root: &Path, volume: &Volume) -> Setup<()> {
    let step = || format!("mount `{}` on `{}`", volume.from.display(), volume.to);
    let is_dir = fs::metadata(&volume.from).step(step())?.is_dir();
    let point = make_point(cell, root, &volume.to, is_dir)?;
    let mount = cell.ids.show_volume(&volume.from)?;
    let read_only = if volume.read_only { libc::MOUNT_ATTR_RDONLY } else { 0 };
    let set = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | read_only;
    ids::change(&mount, set, 0).step(step())?;
    ids::attach(&mount, &point)
}

/// A place to mount on; what had to be made is the instance's root's.
fn make_point(cell: &Cell, root: &Path, to: &str, is_dir: bool) -> Setup<PathBuf> {
    let point = inside(root, to)?;
    let mut missing: Vec<&Path> = point.ancestors().take_while(|path| !path.exists()).collect();
    let step = || format!("make `{to}`");
    while let Some(path) = missing.pop() {
        if is_dir || !missing.is_empty() {
            fs::create_dir(path).step(step())?;
        } else {
            fs::File::create_new(path).step(step())?;
        }
        chown(path, Some(cell.ids.root()), Some(cell.ids.root())).step(step())?;
    }
    Ok(point)
}

/// The rest, by the instance's first process, which then sees nothing else.
pub(super) fn within(cell: &Cell) -> Setup<()> {
    let root = Path::new(".");
    // a copied mount is locked in its place, and a locked one cannot become the root
    let copy = ids::detach(root, OpenTreeFlags::AT_RECURSIVE)?;
    ids::attach(&copy, root)?;
    rustix::process::fchdir(&copy).step("enter the root")?;
    mount_dev(root, cell.shared_memory)?;
    inside(root, "proc")?;
    mount_proc(root)?;
    mount_sys(root)?;
    pivot(root)?;
    lay_names(cell)?;
    make_dir(Path::new(&cell.program.cwd))?;
    match cell.tightness {
        Tightness::High => make_read_only(Path::new("/"), 0).step("make the root read-only"),
        Tightness::Low | Tightness::Medium => Ok(()),
    }
}

fn mount_dev(root: &Path, shared_memory: u64) -> Setup<()> {
    let dev = inside(root, "dev")?;
    mount_tmpfs(&dev, "mode=0755,size=64k", MountFlags::NOSUID | MountFlags::NOEXEC)?;
    lay_devices(&dev, shared_memory)?;
    let queues = dev.join("mqueue");
    make_dir(&queues)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("mqueue", &queues, "mqueue", flags, c"").step("mount /dev/mqueue")
}

fn mount_sys(root: &Path) -> Setup<()> {
    let sys = inside(root, "sys")?;
    make_dir(&sys)?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("sysfs", &sys, "sysfs", flags, c"").step("mount /sys")?;
    for path in MASKED.iter().map(|name| sys.join(name)).filter(|path| path.is_dir()) {
        mount_tmpfs(&path, "mode=0755,size=4k", MountFlags::RDONLY)?;
    }
    Ok(())
}

/// Files that say what this host is called, and who knows others, if anybody does.
pub(super) fn lay_names(cell: &Cell) -> Setup<()> {
    let name = &cell.host_name;
    let server = match cell.gate {
        Some(_) => format!("nameserver {NEAR}\noptions timeout:5 attempts:2\n"),
        None => "options timeout:1 attempts:1\n".to_owned(),
    };
    let texts = [
        ("/etc/hostname", format!("{name}\n")),
        ("/etc/hosts", format!("127.0.0.1 localhost {name}\n::1 localhost\n")),
        ("/etc/resolv.conf", server),
    ];
    if !Path::new("/etc").is_dir() {
        return Ok(());
    }
    for (path, text) in texts {
        let step = || format!("write {path}");
        // a link may lead to where nothing is, or to a file that others share; a volume is left alone
        if fs::symlink_metadata(path).is_ok() && fs::remove_file(path).is_err() {
            continue;
        }
        fs::write(path, text).step(step())?;
    }
    Ok(())
}
