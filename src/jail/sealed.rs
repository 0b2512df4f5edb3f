//! This program's own file, where nothing in an instance can write to it.
//!
//! An image's program may be a script for `/proc/self/exe`: what starts it then becomes this program,
//! inside, with its file in reach. Root's file is nobody's in there. An ordinary user's may be the
//! user's own, who is root of the instance, so whatever starts a program there runs from a copy of the
//! mount that is read-only: not even its owner writes through that.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::FdFlags;
use rustix::mount::OpenTreeFlags;
use rustix::process::{Pid, PidfdFlags};
use rustix::thread::ThreadNameSpaceType;

use super::instance::change_mount;

/// The program to start in its place, in a user namespace; to be kept open until it has started.
pub fn seal(program: &Path) -> io::Result<(PathBuf, Option<OwnedFd>)> {
    if !super::mounts::in_user_namespace() {
        return Ok((program.to_owned(), None));
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE;
    let copy = rustix::mount::open_tree(rustix::fs::CWD, program, flags)?;
    change_mount(&copy, libc::MOUNT_ATTR_RDONLY, 0)?;
    rustix::io::fcntl_setfd(&copy, FdFlags::empty())?;
    Ok((PathBuf::from(format!("/proc/self/fd/{}", copy.as_raw_fd())), Some(copy)))
}

/// In an ordinary user's process on its way into an instance: goes to where its keeper is, and starts
/// anew from the copy. Returns on failure.
pub(super) fn restart_beside(keeper: u32, argument: &str) -> io::Result<()> {
    let program = std::fs::read_link("/proc/self/exe")?;
    let keeper = Pid::from_raw(keeper.cast_signed()).ok_or(io::ErrorKind::NotFound)?;
    let keeper = rustix::process::pidfd_open(keeper, PidfdFlags::empty())?;
    let both = ThreadNameSpaceType::USER | ThreadNameSpaceType::MOUNT;
    rustix::thread::move_into_thread_name_spaces(std::os::fd::AsFd::as_fd(&keeper), both)?;
    let (path, _copy) = seal(&program)?;
    let path = CString::new(path.as_os_str().as_bytes())?;
    let argument = CString::new(argument)?;
    let argv = [c"sbx".as_ptr(), argument.as_ptr(), std::ptr::null()];
    // SAFETY: strings and arrays end as they must, and outlive the call
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), [std::ptr::null()].as_ptr()) };
    Err(io::Error::last_os_error())
}
