//! The overlay: the layers below, and the upper directory that becomes the delta.
//!
//! mount(2) takes a page of options, which sixty full paths overflow, and the newer calls take at
//! most 255 bytes a path. So every directory is opened first and named by the number of its
//! descriptor, from within /proc/self/fd: five hundred layers fit, whatever their paths hold, and
//! the mount table of the sandbox tells nothing of the host.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::mount::MountFlags;

use super::child::{Setup, Step};

/// Mounts it on `root`, over trees that are named bottom first.
pub(super) fn mount(lowers: &[PathBuf], upper: &Path, work: &Path, root: &Path) -> Setup<()> {
    // it becomes the mode of the sandbox's own root directory
    rustix::fs::chmod(upper, Mode::from_raw_mode(0o755))
        .step(format!("set the mode of `{}`", upper.display()))?;
    let lowers = lowers.iter().rev().map(|lower| open(lower)).collect::<Setup<Vec<_>>>()?;
    let (upper, work) = (open(upper)?, open(work)?);
    let root = rustix::fs::open(root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .step(format!("open `{}`", root.display()))?;
    let numbers: Vec<String> = lowers.iter().map(number).collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={},volatile,{}",
        numbers.join(":"),
        number(&upper),
        number(&work),
        features(super::mounts::in_user_namespace()),
    );
    let options = CString::new(options).step("write the overlay's options")?;
    rustix::process::chdir("/proc/self/fd").step("enter /proc/self/fd")?;
    // device nodes of an image are not this machine's devices
    let flags = MountFlags::NODEV;
    rustix::mount::mount("overlay", number(&root), "overlay", flags, options.as_c_str())
        .step("mount the overlay")
}

/// Nothing that leaves marks in the upper directory which mean something in this mount only. A user
/// namespace has other attributes for its marks, and no redirects anyway.
fn features(in_user_namespace: bool) -> &'static str {
    match in_user_namespace {
        true => "userxattr",
        false => "redirect_dir=nofollow,metacopy=off,index=off,xino=off",
    }
}

fn open(path: &Path) -> Setup<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).step(format!("open `{}`", path.display()))
}

fn number(fd: &OwnedFd) -> String {
    fd.as_raw_fd().to_string()
}
