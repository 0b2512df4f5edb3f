//! The relay's process: what it gives up before it listens to anybody.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use super::journal::Journal;
use super::policy::Policy;
use super::serve::serve;
use crate::jail::instance::{GateSockets, become_nobody};
use crate::jail::{Setup, SetupFault};

/// Where refusals are written down, and how many bytes of them at most.
#[derive(Debug)]
pub struct Sink {
    pub file: File,
    pub most: Option<usize>,
}

/// In a process of its own, a child of the one with that number: serves until it is killed.
pub fn guard(policy: Policy, sockets: GateSockets, sink: Sink, parent: u32) -> Setup<()> {
    let failed = |error: std::io::Error| SetupFault {
        step: "serve the way out".to_owned(),
        reason: error.to_string(),
        errno: error.raw_os_error(),
    };
    crate::launch::relay::raise_file_limit();
    become_nobody()?;
    let found = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    if found.cast_unsigned() != parent {
        return Err(failed(std::io::ErrorKind::BrokenPipe.into()));
    }
    let mut kept = vec![sockets.names.as_raw_fd(), sink.file.as_raw_fd()];
    kept.extend(sockets.listeners.iter().map(AsRawFd::as_raw_fd));
    close_all_but(&kept).map_err(failed)?;
    serve(policy, sockets, Journal::open(sink.file, sink.most)).map_err(failed)
}

/// What the keeper holds is not for one who listens to what is hostile.
fn close_all_but(kept: &[RawFd]) -> std::io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(null.as_fd())?;
    rustix::stdio::dup2_stdout(null.as_fd())?;
    rustix::stdio::dup2_stderr(null.as_fd())?;
    drop(null);
    // collected first: closing while reading would change the directory
    let open: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for fd in open.into_iter().filter(|fd| *fd > 2 && !kept.contains(fd)) {
        // SAFETY: this process ends by _exit: nobody uses or drops what the keeper had open
        unsafe { libc::close(fd) };
    }
    Ok(())
}
