//! Whose turn it is when something ends: every error of the library answers `blame()`, and the
//! binary turns the answer into its exit code in one place.

/// Who can mend a failure. The exit codes are documented in the README.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// A file or an argument of the user's (exit code 1).
    Input,
    /// The network, a registry, the disk, the kernel (exit code 3).
    World,
    /// This program (exit code 70).
    Bug,
}
