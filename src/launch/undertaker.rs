//! Who ends an instance when its keeper was killed, where the kernel does not: what a runtime or an engine
//! starts is no child that is tied to the keeper.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;

use crate::jail::{Setup, close_all_but};

/// In a process of its own, which nothing ends with the keeper: waits for the keeper's end, then ends the
/// instance. Whoever is alive holds the keeper's lock, so that is among what this one closes.
pub(super) fn wait(keeper: &OwnedFd, first: &OwnedFd) -> Setup<()> {
    close_all_but(&[keeper.as_raw_fd(), first.as_raw_fd()])?;
    let mut gone = [PollFd::from_borrowed_fd(keeper.as_fd(), PollFlags::IN)];
    // a wait that was cut short is a wait that found nothing
    while poll(&mut gone, None).unwrap_or_default() == 0 {}
    // an instance that has just ended needs no end
    rustix::process::pidfd_send_signal(first, Signal::KILL).unwrap_or_default();
    Ok(())
}
