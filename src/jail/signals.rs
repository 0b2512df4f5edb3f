//! Waiting for a child as if one were not there: signals that would end this process go to the child,
//! which knows how to end, and this process ends after it.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};

use rustix::process::{Pid, Signal};

/// Asked for by people and by supervisors.
const PASSED_ON: [libc::c_int; 4] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM];

/// Holds signals back from now on, until it is dropped.
pub(super) struct Relay {
    before: libc::sigset_t,
    held: libc::sigset_t,
}

impl Relay {
    pub(super) fn begin() -> Self {
        // SAFETY: both sets are filled by the calls below before anybody reads them
        let (mut held, mut before): (libc::sigset_t, libc::sigset_t) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        // SAFETY: the sets outlive the calls, and the numbers are signals
        unsafe {
            libc::sigemptyset(&mut held);
            for signal in PASSED_ON.into_iter().chain([libc::SIGCHLD]) {
                libc::sigaddset(&mut held, signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, &held, &mut before);
        }
        Self { before, held }
    }

    /// Lets a child that is yet to be started have its signals.
    pub(super) fn spare(&self, command: &mut Command) {
        let before = self.before;
        let restore = move || {
            // SAFETY: the set was filled when the relay began
            match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut()) }
            {
                0 => Ok(()),
                errno => Err(io::Error::from_raw_os_error(errno)),
            }
        };
        // SAFETY: one system call, as may be made between fork and exec
        unsafe { command.pre_exec(restore) };
    }

    /// Waits for the end of a child that was started since.
    pub(super) fn wait(&self, child: &mut Child) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            // SAFETY: an all-zero siginfo is valid; set and info outlive the call
            let (signal, info) = unsafe {
                let mut info: libc::siginfo_t = std::mem::zeroed();
                (libc::sigwaitinfo(&self.held, &mut info), info)
            };
            // what the terminal sends, it sends to the child as well
            if PASSED_ON.contains(&signal) && info.si_code != libc::SI_KERNEL {
                pass_on(child, signal);
            }
        }
    }
}

fn pass_on(child: &Child, signal: libc::c_int) {
    let pid = Pid::from_raw(child.id().cast_signed());
    if let (Some(pid), Some(signal)) = (pid, Signal::from_named_raw(signal)) {
        // one that has just ended needs no signal
        rustix::process::kill_process(pid, signal).unwrap_or_default();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // SAFETY: the set was filled when this began
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut()) };
    }
}

/// Holds no signal back any more. A program inherits what its starter holds back, and would never hear of it.
pub fn release_signals() {
    // SAFETY: an all-zero set is valid and is filled by the call after
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

/// All signals, held back for good and taken one at a time.
#[derive(Debug)]
pub struct Held {
    set: libc::sigset_t,
}

impl Held {
    pub fn all() -> Self {
        // SAFETY: an all-zero set is valid, is filled by the first call and outlives the second
        let set = unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&mut set);
            libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
            set
        };
        Self { set }
    }

    /// Those that people and supervisors ask with.
    pub fn asked() -> Self {
        // SAFETY: an all-zero set is valid, is filled by the calls and outlives the last
        let set = unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            for signal in PASSED_ON.into_iter().chain([libc::SIGUSR1, libc::SIGUSR2]) {
                libc::sigaddset(&mut set, signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
            set
        };
        Self { set }
    }

    /// Sends a signal to a process; one that is gone needs none.
    pub fn pass(signal: libc::c_int, pid: u32) {
        // SAFETY: two numbers
        unsafe { libc::kill(pid.cast_signed(), signal) };
    }

    /// Waits for one; 0 where the wait was cut short.
    pub fn next(&self) -> libc::c_int {
        // SAFETY: the set is filled, and no information is asked for
        unsafe { libc::sigwaitinfo(&self.set, std::ptr::null_mut()).max(0) }
    }

    /// A descriptor that can be waited for beside others (signalfd(2)).
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        // SAFETY: the set is filled; the answer is a new descriptor or -1
        let fd = unsafe { libc::signalfd(-1, &self.set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        match fd {
            -1 => Err(io::Error::last_os_error()),
            // SAFETY: it was just opened, and nobody else has it
            fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        }
    }

    /// The next signal of such a descriptor, if there is one.
    pub fn read(descriptor: &OwnedFd) -> Option<libc::c_int> {
        let mut bytes = [0; size_of::<libc::signalfd_siginfo>()];
        let n = rustix::io::read(descriptor, &mut bytes).ok()?;
        // the first field is the number
        let number = bytes.get(..4).filter(|_| n == bytes.len())?;
        Some(i32::from_ne_bytes(number.try_into().ok()?))
    }
}
