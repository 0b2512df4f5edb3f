//! An instance for somebody else's runtime: its root, laid as for one of our own, and the words for
//! what confines it.
//!
//! The root is mounted in a mount namespace of the caller's, so that nothing is left of it but what
//! the runtime copies into the instance. The way to it must be open to the instance's root, who is
//! nobody outside: it is attached below [`PLACE`], whatever the modes of the state's directories.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::mount::OpenTreeFlags;
use rustix::thread::LinkNameSpaceType;

use super::super::child::{Setup, Step, fault, fork};
use super::super::mounts::{MASKED, READ_ONLY, make_dir};
use super::{Cell, Identity, ids, mounts};

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
    let namespace = cell.ids.namespace(cell.processes)?;
    mounts::outside(cell, namespace.as_fd())?;
    let identity = furnish(cell, &namespace)?;
    let copy = ids::detach(Path::new("."), OpenTreeFlags::AT_RECURSIVE)?;
    make_dir(Path::new(PLACE))?;
    ids::attach(&copy, Path::new(PLACE))?;
    Ok(Laid { root: PLACE.into(), identity })
}

/// What is written below the root is written by its own root, who sees nothing else.
fn furnish(cell: &Cell, namespace: &OwnedFd) -> Setup<Identity> {
    let (mut hear, mut tell) = std::io::pipe().step("open a pipe")?;
    let Some(child) = fork()? else {
        drop(hear);
        let answer = furnish_within(cell, namespace);
        let text = serde_json::to_vec(&answer).expect("a fault has string keys only");
        tell.write_all(&text).unwrap_or_default();
        // SAFETY: nothing of the parent's is to be flushed or run by its copy
        unsafe { libc::_exit(0) }
    };
    drop(tell);
    let mut answer = Vec::new();
    hear.read_to_end(&mut answer).step("wait for a child")?;
    ids::reap(child)?;
    serde_json::from_slice::<Setup<Identity>>(&answer)
        .unwrap_or_else(|_| Err(fault("furnish the root", "the process that does it is gone")))
}

fn furnish_within(cell: &Cell, namespace: &OwnedFd) -> Setup<Identity> {
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::User))
        .step("enter the user namespace")?;
    ids::become_root()?;
    rustix::process::chroot(".").step("enter the root")?;
    mounts::lay_names(cell)?;
    make_dir(Path::new(&cell.program.cwd))?;
    Identity::find(&cell.program.user, Path::new("/"))
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
