//! What the kernel spares the first process of a process namespace: signals whose default action would
//! end it (signal(7), pid_namespaces(7)). A runtime's program is that process, and knows nothing of it.

use std::fs;

use rustix::process::Pid;

/// Whether a program that handles a signal neither so nor so would have ended by it, were it any other
/// process.
pub(super) fn ends_by_default(program: Pid, signal: i32) -> bool {
    let path = format!("/proc/{}/status", program.as_raw_nonzero());
    // one that is gone has ended
    fs::read_to_string(path).is_ok_and(|status| is_deadly(signal) && is_left_alone(&status, signal))
}

/// Whether the default is an end.
fn is_deadly(signal: i32) -> bool {
    const OTHERS: [i32; 9] = [
        // these two are sent as they are
        libc::SIGKILL,
        libc::SIGSTOP,
        libc::SIGCHLD,
        libc::SIGCONT,
        libc::SIGURG,
        libc::SIGWINCH,
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
    ];
    (1..=31).contains(&signal) && !OTHERS.contains(&signal)
}

/// Neither handled nor ignored, nor held back for somebody to take.
fn is_left_alone(status: &str, signal: i32) -> bool {
    let mut masks = status.lines().filter_map(|line| {
        let (name, mask) = line.split_once(':')?;
        let wanted = ["SigBlk", "SigIgn", "SigCgt"].contains(&name);
        wanted.then(|| u64::from_str_radix(mask.trim(), 16).unwrap_or(u64::MAX))
    });
    masks.all(|mask| mask >> (signal - 1) & 1 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_takes_is_left_alone() {
        let status = "Name:\tsh\nSigBlk:\t0000000000000200\nSigIgn:\t0000000000000004\n\
            SigCgt:\t0000000000010002\nCapEff:\tffffffffffffffff\n";
        let taken = [libc::SIGUSR1, libc::SIGQUIT, libc::SIGINT, libc::SIGCHLD];
        assert!(!taken.into_iter().any(|signal| is_left_alone(status, signal)));
        let left = [libc::SIGHUP, libc::SIGTERM, libc::SIGUSR2, libc::SIGSYS];
        assert!(left.into_iter().all(|signal| is_left_alone(status, signal)));
    }

    #[test]
    fn not_every_default_is_an_end() {
        assert!([libc::SIGINT, libc::SIGTERM, libc::SIGHUP].into_iter().all(is_deadly));
        let others = [libc::SIGCHLD, libc::SIGWINCH, libc::SIGTSTP, libc::SIGKILL, 0, 40];
        assert!(!others.into_iter().any(is_deadly));
    }
}
