//! The launch spec: everything that a launcher must honour, computed once and without I/O.

use std::time::Duration;

use super::egress::{Policy, Wish};
use super::error::LaunchError;
use super::options::{PortOption, VariableOption, VolumeOption};
use crate::decl::{Egress, Limits, Ready, Sandbox, SecurityLevel};
use crate::digest::Digest;
use crate::jail::cgroup::Quota;
use crate::jail::instance::{Program, Tightness};
use crate::plan::ImageSpec;

/// How long a start may take where nothing is declared.
const TIMEOUT: u64 = 60;
/// Docker's size of /dev/shm.
const SHARED_MEMORY: u64 = 64 << 20;
/// Processes and threads where nothing is declared: no program needs so many, and a fork bomb wants more.
const PIDS: u32 = 4096;
/// What AgentScope's launchers set, and its images expect.
const TOKEN: &str = "SECRET_TOKEN";
const PROXY_TIMEOUT: &str = "NGINX_TIMEOUT";

/// What the command line asks for.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub publish: Vec<PortOption>,
    pub env: Vec<VariableOption>,
    pub volumes: Vec<VolumeOption>,
    pub timeout: Option<Duration>,
    /// In place of the image's, entrypoint included; without one the sandbox serves its ports.
    pub command: Vec<String>,
    pub terminal: bool,
    pub no_limits: bool,
    /// Hosts of `egress` that may be this machine or in its networks.
    pub private: Vec<Wish>,
}

/// A port of the instance and where it is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish {
    /// On 127.0.0.1; 0 for any that is free.
    pub outside: u16,
    pub inside: u16,
}

/// What an instance is started with.
#[derive(Clone, Debug)]
pub struct Spec {
    pub sandbox: String,
    pub image: Digest,
    pub env: Vec<(String, String)>,
    /// Variables whose values are this machine's: its own and the token.
    pub secrets: Vec<String>,
    /// What its callers must show, where it serves something.
    pub token: Option<String>,
    pub argv: Vec<String>,
    pub workdir: String,
    pub user: String,
    pub ports: Vec<Publish>,
    pub udp_ports: Vec<u16>,
    pub volumes: Vec<VolumeOption>,
    /// As declared.
    pub limits: Limits,
    /// Processes and threads: as declared, or a number that no program needs.
    pub pids: Option<u32>,
    pub security_level: SecurityLevel,
    pub shared_memory: u64,
    pub ready: Option<Ready>,
    pub timeout: Duration,
    pub egress: Egress,
    /// Hosts of `egress` that may be this machine or in its networks.
    pub private: Vec<Wish>,
    pub stop_signal: Option<String>,
    pub terminal: bool,
}

impl Spec {
    /// `host` knows variables of this machine; `token` is random and new.
    pub fn new(
        sandbox: &Sandbox,
        image: (&ImageSpec, Digest),
        request: &Request,
        host: &dyn Fn(&str) -> Option<String>,
        token: impl FnOnce() -> String,
    ) -> Result<Self, LaunchError> {
        let (config, image) = image;
        let name = sandbox.name.to_string();
        let argv = match request.command.as_slice() {
            [] => config.entrypoint.iter().chain(&config.command).cloned().collect(),
            command => command.to_vec(),
        };
        if argv.is_empty() {
            return Err(LaunchError::NoCommand(name));
        }
        let timeout = request
            .timeout
            .unwrap_or_else(|| Duration::from_secs(sandbox.timeout.map_or(TIMEOUT, u64::from)));
        let mut env = environment(sandbox, config, request, host)?;
        let token = serving(sandbox, request).then(|| guard(&mut env, timeout, token));
        let mut secrets: Vec<String> =
            sandbox.env_from_host.iter().map(|variable| variable.name.clone()).collect();
        if token.is_some() && !secrets.iter().any(|name| name == TOKEN) {
            secrets.push(TOKEN.to_owned());
        }
        let limits = if request.no_limits { Limits::default() } else { sandbox.limits };
        let pids = limits.pids.or((!request.no_limits).then_some(PIDS));
        let workdir = if config.workdir.is_empty() { "/" } else { &config.workdir };
        Ok(Spec {
            sandbox: name,
            image,
            env,
            secrets,
            token,
            argv,
            workdir: workdir.to_owned(),
            user: config.user.clone(),
            ports: ports(sandbox, request),
            udp_ports: udp_ports(sandbox, request),
            volumes: request.volumes.clone(),
            limits,
            pids,
            security_level: sandbox.security_level,
            shared_memory: SHARED_MEMORY,
            ready: sandbox.ready.clone().filter(|_| request.command.is_empty()),
            timeout,
            egress: sandbox.egress.clone(),
            private: private(sandbox, request)?,
            stop_signal: config.stop_signal.clone(),
            terminal: request.terminal,
        })
    }

    /// The port that answers for the sandbox: its first.
    pub fn first_port(&self) -> Option<u16> {
        self.ports.first().map(|port| port.inside)
    }

    /// For a document that nobody starts from here: no relay of ours would serve what leads out.
    pub(super) fn refuse_egress(&self, launcher: &'static str) -> Result<(), LaunchError> {
        match self.egress {
            Egress::None => Ok(()),
            Egress::Hosts(_) | Egress::Any => Err(LaunchError::Refused {
                launcher,
                what: "`egress` in what it prints".to_owned(),
                sandbox: self.sandbox.clone(),
            }),
        }
    }

    pub(super) fn tightness(&self) -> Tightness {
        match self.security_level {
            SecurityLevel::Low => Tightness::Low,
            SecurityLevel::Medium => Tightness::Medium,
            SecurityLevel::High => Tightness::High,
        }
    }

    pub(super) fn quota(&self) -> Quota {
        let Limits { memory, milli_cpus, .. } = self.limits;
        Quota { memory, milli_cpus, pids: self.pids }
    }

    pub(super) fn program(&self) -> Program {
        Program {
            argv: self.argv.clone(),
            env: self.env.clone(),
            cwd: self.workdir.clone(),
            user: self.user.clone(),
            terminal: self.terminal,
            writable: self.places(),
        }
    }

    /// All places that a tightly confined instance may write to.
    fn places(&self) -> Vec<String> {
        let volumes = self.volumes.iter().filter(|volume| !volume.read_only);
        self.gaps().into_iter().chain(volumes.map(|volume| volume.to.clone())).collect()
    }

    /// Where a tightly confined instance works.
    pub(super) fn writable(&self) -> Vec<String> {
        let mut dirs = vec!["/workspace".to_owned()];
        if self.workdir != "/" && self.workdir != "/workspace" {
            dirs.push(self.workdir.clone());
        }
        dirs
    }

    /// Where anything may be written, besides.
    pub(super) fn gaps(&self) -> Vec<String> {
        ["/tmp".to_owned(), "/run".to_owned()].into_iter().chain(self.writable()).collect()
    }
}

/// What may be private must be declared; where security is highest, nothing leads out.
fn private(sandbox: &Sandbox, request: &Request) -> Result<Vec<Wish>, LaunchError> {
    let policy = Policy::new(&sandbox.egress, &[]);
    if policy.is_some() && sandbox.security_level == SecurityLevel::High {
        return Err(LaunchError::EgressAtHigh(sandbox.name.to_string()));
    }
    let declared = |wish: &&Wish| policy.as_ref().is_some_and(|policy| policy.covers(wish));
    match request.private.iter().find(|wish| !declared(wish)) {
        None => Ok(request.private.clone()),
        Some(wish) => Err(LaunchError::NotDeclared {
            host: wish.to_string(),
            sandbox: sandbox.name.to_string(),
        }),
    }
}

/// Whether there is something to guard: its own command runs and has a port.
fn serving(sandbox: &Sandbox, request: &Request) -> bool {
    !sandbox.ports.is_empty() && request.command.is_empty()
}

fn udp_ports(sandbox: &Sandbox, request: &Request) -> Vec<u16> {
    let declared = sandbox.ports.iter().filter(|port| port.udp && request.command.is_empty());
    declared.map(|port| port.number).collect()
}

fn ports(sandbox: &Sandbox, request: &Request) -> Vec<Publish> {
    let asked = request.publish.iter().map(|port| (port.outside, port.inside));
    let mut ports: Vec<Publish> =
        asked.map(|(outside, inside)| Publish { outside, inside }).collect();
    if !request.command.is_empty() {
        return ports;
    }
    for port in sandbox.ports.iter().filter(|port| !port.udp) {
        if !ports.iter().any(|known| known.inside == port.number) {
            ports.push(Publish { outside: 0, inside: port.number });
        }
    }
    ports
}

fn environment(
    sandbox: &Sandbox,
    config: &ImageSpec,
    request: &Request,
    host: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<(String, String)>, LaunchError> {
    let mut env = config.env.clone();
    for variable in &sandbox.env_from_host {
        if request.env.iter().any(|option| option.name == variable.name) {
            continue;
        }
        let value = host(&variable.name).or_else(|| variable.default.clone());
        let value = value.ok_or_else(|| LaunchError::Variable {
            name: variable.name.clone(),
            sandbox: sandbox.name.to_string(),
        })?;
        set(&mut env, &variable.name, value);
    }
    for option in &request.env {
        set(&mut env, &option.name, option.value.clone());
    }
    if request.terminal && !env.iter().any(|(name, _)| name == "TERM") {
        let term = host("TERM").unwrap_or_else(|| "xterm".to_owned());
        env.push(("TERM".to_owned(), term));
    }
    Ok(env)
}

fn set(env: &mut Vec<(String, String)>, name: &str, value: String) {
    match env.iter_mut().find(|(known, _)| known == name) {
        Some(slot) => slot.1 = value,
        None => env.push((name.to_owned(), value)),
    }
}

/// The token that callers must show; what is declared or passed stays.
fn guard(
    env: &mut Vec<(String, String)>,
    timeout: Duration,
    token: impl FnOnce() -> String,
) -> String {
    let find = |env: &[(String, String)], name: &str| {
        env.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    };
    if find(env, PROXY_TIMEOUT).is_none() {
        set(env, PROXY_TIMEOUT, timeout.as_secs().max(1).to_string());
    }
    find(env, TOKEN).filter(|token| !token.is_empty()).unwrap_or_else(|| {
        let token = token();
        set(env, TOKEN, token.clone());
        token
    })
}
