//! What people declare: `sandboxes.kdl`, `layers/*.kdl` and what they `include`, in KDL v2.
//!
//! Everything is read, and every fault of every file is collected, before anything is refused: a
//! person mends ten mistakes in one go. What leaves this module is checked and merged (`extends` is
//! resolved, names exist, no cycles), so nothing below it looks at KDL. `docs/kdl.md` describes every
//! node; what needs the lock, the store or the disk to be judged does not belong here.

mod as_of;
mod cache;
mod checks;
mod debian;
mod editable;
mod fault;
mod files;
mod from;
mod git;
mod git_url;
mod init;
mod layer;
mod layer_files;
mod mcp;
mod merge;
mod mirror;
mod node;
mod nodejs;
mod npm;
mod npm_tools;
mod picks;
mod place;
mod project;
mod python;
mod reading;
mod recipe;
mod run;
mod sandbox;
mod take;
mod units;

pub use as_of::AsOf;
pub use cache::CacheSource;
pub use debian::{
    Base, Debconf, Debian, PackageRequest, PathRules, PinRule, Repository, VersionRule,
};
pub use editable::Editable;
pub use fault::{Fault, Faults, Location, SourceFile, nearest};
pub use files::{Files, InlineFile};
pub use from::{BaseImage, ImageSource};
pub use git::{Git, History};
pub use git_url::{GitUrl, Reach, redact};
pub use init::{InitFile, init_files};
pub use layer::{Layer, Owner};
pub use layer_files::LayerFiles;
pub use mcp::{KeyVar, Mcp, Server, Start, ToolCall};
pub use mirror::{Ask, MirrorPlace, MirrorPlaceError, SourceMirror};
pub use nodejs::NodeJs;
pub use npm::{Kind, LaidProject, Npm};
pub use npm_tools::{NpmTools, parse_spec};
pub use picks::{PatternError, Picks};
pub use place::{Dir, GitInit, Link, Own, User};
pub use project::Project;
pub use python::Venv;
pub use reading::{no_project, read_project};
pub use recipe::Recipe;
pub use run::{Leftover, Run, Secret, SecretSource};
pub use sandbox::{Egress, HostVar, Limits, PortDecl, Ready, Sandbox, SecurityLevel};
pub use take::{Archive, PackageFiles, PackageIndex, Take};
pub use units::parse_size;
