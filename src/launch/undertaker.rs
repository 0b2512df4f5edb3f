//! Who ends an instance when its keeper was killed, where the kernel does not: what a runtime or an engine
//! starts is no child that is tied to the keeper.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, Signal, getpid, pidfd_open};

use super::keeper::{fault, spawn};
use crate::jail::{Setup, close_all_but};

/// In the keeper: leaves a process that ends with the instance, or ends the instance after the keeper;
/// `otherwise` does that where the instance is not the caller's to end.
pub(super) fn send(first: &OwnedFd, otherwise: impl FnOnce()) -> Setup<()> {
    let keeper = pidfd_open(getpid(), PidfdFlags::empty());
    let keeper = keeper.map_err(|error| fault("open a handle of this process", &error.into()))?;
    spawn(|| wait(&keeper, first, otherwise)).map(drop)
}

/// Whoever holds the keeper's lock counts as alive, so that is among what this one closes.
fn wait(keeper: &OwnedFd, first: &OwnedFd, otherwise: impl FnOnce()) -> Setup<()> {
    close_all_but(&[keeper.as_raw_fd(), first.as_raw_fd()])?;
    let mut ended = [keeper, first].map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN));
    // a wait that was cut short is a wait that found nothing
    while poll(&mut ended, None).unwrap_or_default() == 0 {}
    // an instance that has just ended needs no end
    if rustix::process::pidfd_send_signal(first, Signal::KILL) == Err(Errno::PERM) {
        otherwise();
    }
    Ok(())
}
