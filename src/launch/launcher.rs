//! What starts instances: this program itself, a runtime of the OCI's, or docker's engine.
//!
//! All render one [`Spec`], and each says first what it cannot honour. Whatever starts it, an
//! instance has its keeper and its ports lead through the relay: so `ps` need not ask anybody.

use rustix::process::{Pid, WaitStatus};
use serde::{Deserialize, Serialize};

use super::docker::Engine;
use super::error::LaunchError;
use super::oci::Runtime;
use super::order::Order;
use super::spec::Spec;
use super::state::Record;
use crate::decl::Egress;
use crate::jail::instance::{Started, Wires, start};
use crate::jail::{Ended, IdMap, SetupFault};

/// What started an instance, and what it is ended and cleaned up with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Launcher {
    /// This program itself.
    #[default]
    Embedded,
    Oci(Runtime),
    Docker(Engine),
}

impl Launcher {
    pub fn name(&self) -> &'static str {
        match self {
            Launcher::Embedded => "embedded",
            Launcher::Oci(_) => "oci",
            Launcher::Docker(_) => "docker",
        }
    }

    /// What this launcher cannot do for who has that map.
    pub(super) fn refuse(&self, spec: &Spec, map: IdMap) -> Result<(), LaunchError> {
        let refused = |what: &str| LaunchError::Refused {
            launcher: self.name(),
            what: what.to_owned(),
            sandbox: spec.sandbox.clone(),
        };
        if let Some(port) = spec.udp_ports.first() {
            return Err(refused(&format!("port {port}/udp")));
        }
        if spec.limits.disk.is_some() && *self != Launcher::Embedded {
            return Err(refused("`limits disk=`"));
        }
        let closed = match self {
            // what it runs in is no namespace of this machine's: neither relay nor probe get in
            Launcher::Oci(runtime) if !runtime.shares_kernel() => {
                format!("with runtime `{}`", runtime.name())
            }
            // nobody else enters what is real root's
            Launcher::Docker(_) if map != IdMap::Identity => "without root".to_owned(),
            _ => return Ok(()),
        };
        let parts = [
            ("ports", !spec.ports.is_empty()),
            ("`ready`", spec.ready.is_some()),
            ("`egress`", spec.egress != Egress::None),
        ];
        match parts.iter().find(|(_, wanted)| *wanted) {
            Some((part, _)) => Err(refused(&format!("{part} {closed}"))),
            None => Ok(()),
        }
    }

    /// In the keeper: whether a signal should end the program, and the kernel spares it, as it does what is
    /// first in its namespace. Our own first process and docker's are none that a program is.
    pub(super) fn spares(&self, first: Pid, signal: i32) -> bool {
        match self {
            Launcher::Embedded | Launcher::Docker(_) => false,
            Launcher::Oci(runtime) => runtime.spares(first, signal),
        }
    }

    /// In the keeper: sends a signal to a first process that is somebody else's.
    pub(super) fn pass(&self, record: &Record, signal: i32) {
        match self {
            Launcher::Embedded | Launcher::Oci(_) => {}
            Launcher::Docker(engine) => engine.pass(record, signal),
        }
    }

    /// In the keeper: starts the instance. Only our own reports over the wires.
    pub(super) fn start(&self, order: &Order, wires: &Wires) -> Result<Started, SetupFault> {
        match self {
            Launcher::Embedded => start(&order.cell, wires),
            Launcher::Oci(runtime) => runtime.start(order, wires),
            Launcher::Docker(engine) => engine.start(order, wires),
        }
    }

    /// In the keeper: how an instance ended whose first process did, with its status where that was a
    /// child.
    pub(super) fn ended(&self, record: &Record, status: Option<WaitStatus>) -> Ended {
        let killed = Ended::Signal(libc::SIGKILL);
        match self {
            Launcher::Embedded | Launcher::Oci(_) => status.map_or(killed, Ended::of),
            // one that somebody removed was killed before that
            Launcher::Docker(engine) => engine.ended(record).unwrap_or(killed),
        }
    }

    /// Removes what is left of an instance elsewhere than in its directory and its groups.
    pub(super) fn clean_up(&self, record: &Record) {
        match self {
            Launcher::Embedded => {}
            Launcher::Oci(runtime) => runtime.clean_up(record),
            Launcher::Docker(engine) => engine.clean_up(record),
        }
    }
}
