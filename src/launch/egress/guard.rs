//! The relay's process: what it gives up before it listens to anybody.

use std::fs::File;
use std::os::fd::AsRawFd;

use super::journal::Journal;
use super::policy::Policy;
use super::serve::serve;
use crate::jail::instance::{GateSockets, become_nobody};
use crate::jail::{Setup, SetupFault, close_all_but};

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
    // what the keeper holds is not for one who listens to what is hostile
    let mut kept = vec![sockets.names.as_raw_fd(), sink.file.as_raw_fd()];
    kept.extend(sockets.listeners.iter().map(AsRawFd::as_raw_fd));
    close_all_but(&kept)?;
    serve(policy, sockets, Journal::open(sink.file, sink.most)).map_err(failed)
}
