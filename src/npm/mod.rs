//! What npm's packages are made of: names, tarballs, locks, trees.
//!
//! Pure knowledge: what a `package-lock.json` says is laid where, what of a tarball an installation
//! keeps, which commands are linked. Resolving is left to the real, pinned npm; nothing here asks a
//! registry, and nothing runs a package's own code.

mod checkout;
mod commands;
mod git_spec;
mod lock;
mod manifest;
mod name;
mod packlist;
mod pattern;
mod pnpm_dir;
mod pnpm_lock;
mod pnpm_set;
mod pnpm_workspace;
mod tarball;
mod tree;
mod unpacked;
mod workspaces;

pub use commands::{Bringer, Command, commands, order};
pub use git_spec::GitSpec;
pub use lock::{LockFault, Locked, PackageLock, link_targets};
pub use manifest::{Bins, Manifest, ManifestError, Specs, bins};
pub use name::{PackageName, PackageNameError};
pub use pattern::PatternFault;
pub use pnpm_dir::pnpm_dir;
pub use pnpm_lock::{PnpmFault, PnpmForm, PnpmLock, pnpm_files};
pub use pnpm_set::PnpmOne;
pub use pnpm_workspace::PnpmWorkspace;
pub use tarball::{Item, ItemKind, Tarball, TarballError};
pub use tree::{Machine, Omit, Origin, Placed, Tree};
pub use unpacked::unpack;
pub use workspaces::{local_dependencies, matching_manifests, workspace_manifests};
