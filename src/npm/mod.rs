//! What npm's packages are made of: names, tarballs, locks, trees.
//!
//! Pure knowledge: what a `package-lock.json` says is laid where, what of a tarball an installation
//! keeps, which commands are linked. Resolving is left to the real, pinned npm; nothing here asks a
//! registry, and nothing runs a package's own code.

mod commands;
mod lock;
mod manifest;
mod name;
mod tarball;
mod tree;

pub use commands::{Bringer, Command, commands, order};
pub use lock::{LockFault, Locked, PackageLock, link_targets};
pub use manifest::{Bins, Manifest, ManifestError, Specs, bins};
pub use name::{PackageName, PackageNameError};
pub use tarball::{Item, ItemKind, Tarball, TarballError};
pub use tree::{Omit, Origin, Placed, Tree};
