//! An instance for somebody else's runtime: its root, laid as for one of our own, and the words for
//! what confines it.
//!
//! The root is mounted in a mount namespace of the caller's, so that nothing is left of it but what
//! the runtime copies into the instance. The way to it must be open to the instance's root. As root's
//! instances' is nobody outside, it is attached below [`PLACE`], whatever the modes of the state's
//! directories.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::mount::OpenTreeFlags;
use rustix::thread::LinkNameSpaceType;

use super::super::child::{Setup, Step, apart};
use super::super::mounts::{MASKED, READ_ONLY, make_dir};
use super::{Cell, Identity, Ids, ids, mounts};

/// An empty directory of the machine's, which is covered in the runtime's view only.
const PLACE: &str = "/run/sbx/root";

/// A root that was laid.
#[derive(Debug)]
pub struct Laid {
    pub root: PathBuf,
    /// Who the program is.
    pub identity: Identity,
}

/// Lays the root of an instance out in a new mount namespace of this process, which has one thread.
pub fn lay_root(cell: &Cell) -> Setup<Laid> {
    cell.cgroup.join().step("join the control groups")?;
    let namespace = cell.ids.namespace(cell.processes)?;
    mounts::outside(cell, namespace.as_fd())?;
    let identity = furnish(cell, &namespace)?;
    if cell.ids == Ids::Shared {
        // the instance's root is who started it, and the namespace will be made by the runtime
        ids::limit_processes(cell.processes);
        return Ok(Laid { root: mounts::root(cell), identity });
    }
    let copy = ids::detach(Path::new("."), OpenTreeFlags::AT_RECURSIVE)?;
    make_dir(Path::new(PLACE))?;
    ids::attach(&copy, Path::new(PLACE))?;
    Ok(Laid { root: PLACE.into(), identity })
}

/// What is written below the root is written by its own root, who sees nothing else.
fn furnish(cell: &Cell, namespace: &OwnedFd) -> Setup<Identity> {
    apart("furnish the root", || {
        rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::User))
            .step("enter the user namespace")?;
        ids::become_root()?;
        rustix::process::chroot(".").step("enter the root")?;
        mounts::lay_names(cell)?;
        make_dir(Path::new(&cell.program.cwd))?;
        Identity::find(&cell.program.user, Path::new("/"))
    })
}

/// Paths that tell of the machine or reach into it.
pub fn masked_paths() -> Vec<String> {
    let proc = MASKED.iter().map(|name| format!("/proc/{name}"));
    proc.chain(mounts::MASKED.iter().map(|name| format!("/sys/{name}"))).collect()
}

/// Paths that may be read only.
pub fn read_only_paths() -> Vec<String> {
    READ_ONLY.iter().map(|name| format!("/proc/{name}")).collect()
}
