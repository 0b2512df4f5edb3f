//! A terminal in the sandbox, joined to the one that somebody sits at.
//!
//! The program never holds the caller's own terminal: it could type into it (TIOCSTI). It gets one of
//! the sandbox's, and bytes are carried between the two.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios};

/// How often to look whether the window has another size.
const GLANCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };

/// Where somebody sits.
#[derive(Debug)]
pub struct Terminal {
    pub input: OwnedFd,
    pub output: OwnedFd,
}

/// Gives a terminal back the modes it had.
struct Restore<'a> {
    terminal: &'a OwnedFd,
    modes: Termios,
}

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        rustix::termios::tcsetattr(self.terminal, OptionalActions::Drain, &self.modes)
            .unwrap_or_default();
    }
}

impl Terminal {
    /// Carries bytes both ways until the far end is closed.
    pub fn join(&self, far: &OwnedFd) -> rustix::io::Result<()> {
        let modes = rustix::termios::tcgetattr(&self.input)?;
        let mut raw = modes.clone();
        raw.make_raw();
        let _restore = Restore { terminal: &self.input, modes };
        rustix::termios::tcsetattr(&self.input, OptionalActions::Flush, &raw)?;
        let mut listening = true;
        loop {
            if let Ok(size) = rustix::termios::tcgetwinsize(&self.input) {
                rustix::termios::tcsetwinsize(far, size)?;
            }
            let wanted = if listening { PollFlags::IN } else { PollFlags::empty() };
            let mut polled = [
                PollFd::from_borrowed_fd(far.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.input.as_fd(), wanted),
            ];
            match rustix::event::poll(&mut polled, Some(&GLANCE)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
            let [far_has, input_has] = polled.map(|fd| fd.revents());
            if !far_has.is_empty() && !carry(far, &self.output)? {
                return Ok(());
            }
            // an input that ended is no reason to end what still runs
            if listening && !input_has.is_empty() {
                listening = carry(&self.input, far)?;
            }
        }
    }
}

/// Carries what there is; `false` at its end. A terminal whose program is gone fails with EIO.
fn carry(from: &OwnedFd, to: &OwnedFd) -> rustix::io::Result<bool> {
    let mut bytes = [0; 4096];
    let n = match rustix::io::read(from, &mut bytes) {
        Ok(0) | Err(Errno::IO) => return Ok(false),
        Err(Errno::INTR | Errno::AGAIN) => return Ok(true),
        Ok(n) => n,
        Err(error) => return Err(error),
    };
    let mut rest = &bytes[..n];
    while !rest.is_empty() {
        match rustix::io::write(to, rest) {
            Ok(written) => rest = &rest[written..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}
