//! The build sandbox: where other people's programs run over a layer, and touch nothing else.
//!
//! Namespaces for mounts, processes, network, host name, IPC and control groups; an overlay of the
//! layers below with an upper directory that becomes the delta; no network but loopback;
//! capabilities bounded to what dpkg needs; a seccomp filter; /proc masked, /sys empty. As root it
//! uses root's own rights; an ordinary user first enters a user namespace with subordinate ids
//! ([`run_in_user_namespace`]), in which everything is the same.
//!
//! Nothing may happen between fork and exec in a process with threads, so the program starts itself
//! anew with one hidden argument ([`intercept`]), and that single-threaded child does the rest.
//! Rejected: running bubblewrap or runc (a program more to install, and 9.5 or 61 ms a start), and
//! the crate `hakoniwa`, which forks in place, passes an overlay's layers as one string of a page at
//! most, and lets a system call filter be written rather than bringing one.

pub mod cgroup;
mod child;
mod emulator;
mod filter;
pub mod instance;
mod mounts;
mod netlink;
mod network;
mod overlay;
mod passing;
mod probe;
mod program;
mod sealed;
mod signals;
mod spawn;
mod spec;
mod subordinate;
mod terminal;
mod userns;

pub use child::{Setup, apart, close_all_but, die_with_parent, forget_parent, fork};
pub use emulator::{Emulation, Emulator};
pub use passing::{open_terminal, pass_terminal_over, receive, send};
pub use probe::{Abilities, Obstacle, probe};
pub use sealed::seal;
pub use signals::{Held, release_signals};
pub use spawn::{End, Jail, JailError, Outcome};
pub use spec::{Bind, Ended, Report, SECRETS, SecretFile, SetupFault, Socket, Spec};
pub use terminal::Terminal;
pub use userns::{IdMap, UserNamespaceError, run_in_user_namespace};

/// The hidden first argument of a child that sets up a build sandbox.
const CHILD_ARGUMENT: &str = "--jail-child";
/// That of a child which enters an instance.
const ENTER_ARGUMENT: &str = "--jail-enter";

/// To be called before anything else in `main`: does not return in a child that sets up a sandbox,
/// and finishes entering a user namespace in one that was started for that.
pub fn intercept() {
    userns::finish_entering();
    match std::env::args_os().nth(1) {
        Some(first) if first == CHILD_ARGUMENT => child::main(),
        Some(first) if first == ENTER_ARGUMENT => {
            let keeper = std::env::args().nth(2).and_then(|number| number.parse().ok());
            instance::enter_main(keeper);
        }
        _ => {}
    }
}
