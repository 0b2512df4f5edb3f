//! Starting images: what a sandbox is to run with, computed once, and the launchers that render it.
//!
//! A [`Spec`] comes from the declaration, the image's configuration and the command line, without
//! I/O. A launcher refuses what it cannot honour. The `embedded` one ([`start`]) needs no daemon: each
//! instance has a *keeper*, a small process that started it, holds its lock, log and ports, and takes
//! it along when it dies. So what is true of an instance can be seen from its lock, whatever was
//! killed, and all mounts are in namespaces that end with the instance.
//!
//! Published ports are listened on by a *relay*, which lives in the instance's network namespace
//! and connects there. Another one lets an instance out where [`egress`] says so.

mod client;
mod copy;
pub mod docker;
pub mod egress;
mod error;
mod held;
mod keeper;
pub mod kubernetes;
mod launcher;
mod log;
pub mod oci;
mod options;
mod order;
mod probe;
mod relay;
mod slots;
mod spec;
mod state;
mod undertaker;

pub use client::{Attached, Connections, Launch, Outcome, Waiting, start};
pub use error::{LaunchError, MEND_CABLE};
pub use held::HeldImage;
pub use launcher::Launcher;
pub use options::{OptionError, PortOption, PrivateOption, VariableOption, VolumeOption};
pub use spec::{Publish, Request, Spec};
pub use state::{Instance, InstanceName, Record, State, Status};

/// The hidden first argument of a keeper.
const KEEPER_ARGUMENT: &str = "--instance-keeper";

/// To be called at the beginning of `main`: does not return in an instance's keeper.
pub fn intercept() {
    keeper::intercept();
}
