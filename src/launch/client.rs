//! The caller's side: renders a spec for a launcher, starts the instance's keeper, hears how it goes.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::egress::{PROXY_PORT, Policy};
use super::error::LaunchError;
use super::held::HeldImage;
use super::launcher::Launcher;
use super::order::{Message, Order, kill_signal};
use super::probe::Probe;
use super::slots;
use super::spec::Spec;
use super::state::{Claim, InstanceName, Record, State, discard, discard_all};
use crate::decl::Ready;
use crate::fsx::IoAt;
use crate::jail::cgroup::{Cgroup, Quota};
use crate::jail::instance::{Cell, Gate, Ids, NEAR, Program, Volume};
use crate::jail::{Ended, Held, IdMap, receive, seal, send};

/// An instance that is to be started.
#[derive(Debug)]
pub struct Launch<'a> {
    pub state: &'a State,
    pub launcher: Launcher,
    pub spec: &'a Spec,
    /// Trees of the image, bottom first.
    pub trees: Vec<PathBuf>,
    pub name: InstanceName,
    /// 128 random bits, in hexadecimal.
    pub id: String,
    pub detached: bool,
    pub image: HeldImage,
    /// What an engine calls the image.
    pub engine_image: String,
    /// Seconds since 1970.
    pub now: u64,
}

/// What the program reads and writes.
#[derive(Debug)]
pub struct Connections<'a> {
    pub stdio: [BorrowedFd<'a>; 3],
}

/// A keeper that was told what to do.
#[derive(Debug)]
pub struct Attached {
    pub keeper: u32,
    pub dir: PathBuf,
    pub ports: Vec<(u16, u16)>,
    talk: BufReader<UnixStream>,
    seat: UnixStream,
    timeout: Duration,
    argv: String,
    record: Record,
}

/// A keeper that waits to be told what to keep. It takes a while to be there, in which its caller finds
/// that out; it goes when this is dropped.
#[derive(Debug)]
pub struct Waiting {
    talk: UnixStream,
    pid: u32,
}

impl Waiting {
    /// From this program's file.
    pub fn start(program: &Path) -> Result<Self, LaunchError> {
        let (talk, input) = UnixStream::pair().map_err(LaunchError::Spawn)?;
        // kept until the keeper runs from it
        let (program, _sealed) = seal(program).map_err(LaunchError::Spawn)?;
        let child = Command::new(program)
            .arg(super::KEEPER_ARGUMENT)
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(input)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(LaunchError::Spawn)?;
        Ok(Waiting { talk, pid: child.id() })
    }
}

/// How an instance ended.
pub type Outcome = Result<Ended, LaunchError>;

/// Starts an instance with a keeper; answers once its program runs.
pub fn start(
    launch: &Launch<'_>,
    connections: &Connections<'_>,
    keeper: Waiting,
) -> Result<Attached, LaunchError> {
    let spec = launch.spec;
    let map = IdMap::current().at("read", "/proc/self/uid_map")?;
    launch.launcher.refuse(spec, map)?;
    let quota = check_limits(spec, map)?;
    let volumes = volumes(spec)?;
    let limited = |source| LaunchError::Limits { sandbox: spec.sandbox.clone(), source };
    let cgroup = match (&launch.launcher, map) {
        // a runtime that may makes them itself, and so does the engine
        (Launcher::Oci(_), IdMap::Identity) | (Launcher::Docker(_), _) => Cgroup::default(),
        (Launcher::Embedded | Launcher::Oci(_), _) => {
            Cgroup::plan(&launch.id, &quota).map_err(limited)?
        }
    };
    let claim = launch.state.claim(&launch.name)?;
    let order = match order(launch, &claim, cgroup, volumes) {
        Ok(order) => order,
        Err(error) => {
            discard(&claim.dir, Ids::Shared);
            return Err(error);
        }
    };
    if let Launcher::Docker(engine) = &launch.launcher {
        engine.create(spec, &order, &launch.engine_image).inspect_err(|_| {
            discard_all(&claim.dir, &order.record);
        })?;
    }
    let started = instruct(keeper, &claim, &order, connections);
    let mut attached = started.inspect_err(|_| {
        discard_all(&claim.dir, &order.record);
    })?;
    // from here on the lock is the keeper's alone
    drop(claim);
    match attached.hear()? {
        Message::Started { ports } => attached.ports = ports,
        other => return Err(attached.explain(other, spec)),
    }
    Ok(attached)
}

impl Attached {
    fn hear(&mut self) -> Result<Message, LaunchError> {
        let mut line = String::new();
        // an error is the end, too
        self.talk.read_line(&mut line).unwrap_or_default();
        serde_json::from_str(&line).map_err(|_| LaunchError::KeeperGone)
    }

    fn explain(&self, message: Message, spec: &Spec) -> LaunchError {
        match message {
            Message::PortTaken { port, reason } => LaunchError::Port { port, reason },
            Message::Limits { reason } => LaunchError::Limits {
                sandbox: spec.sandbox.clone(),
                source: crate::jail::cgroup::CgroupError::Read(std::io::Error::other(reason)),
            },
            Message::Fault(fault) => LaunchError::of_program(&self.argv, fault),
            Message::Started { .. } | Message::Ready | Message::NotReady | Message::Ended(_) => {
                LaunchError::KeeperGone
            }
        }
    }

    /// The far end of the program's terminal.
    pub fn terminal(&self) -> Option<OwnedFd> {
        receive(self.seat.as_fd()).ok()?.into_iter().next()
    }

    /// Waits until the instance is ready.
    pub fn wait_ready(&mut self) -> Result<(), LaunchError> {
        match self.hear()? {
            Message::Ready => Ok(()),
            Message::NotReady => Err(LaunchError::NotReady { seconds: self.timeout.as_secs_f64() }),
            Message::Ended(how) => Err(LaunchError::EndedEarly(how)),
            _ => Err(LaunchError::KeeperGone),
        }
    }

    /// Waits until the instance has ended.
    pub fn wait(&mut self) -> Outcome {
        loop {
            if let Message::Ended(how) = self.hear()? {
                return Ok(how);
            }
        }
    }

    /// Ends it, and removes what is left.
    pub fn remove(&mut self) {
        Held::pass(kill_signal(), self.keeper);
        // until its end is heard, or its keeper is gone
        while self.hear().is_ok_and(|message| !matches!(message, Message::Ended(_))) {}
        discard_all(&self.dir, &self.record);
    }
}

/// Limits above the machine are no limits.
fn check_limits(spec: &Spec, map: IdMap) -> Result<Quota, LaunchError> {
    let Quota { memory, milli_cpus, pids } = spec.quota();
    let disk = spec.limits.disk;
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if let Some(milli) = milli_cpus.filter(|milli| *milli as usize > processors * 1000) {
        return Err(LaunchError::AboveMachine {
            what: format!("limit cpus={}", f64::from(milli) / 1000.0),
            have: format!("{processors} processors"),
        });
    }
    let info = rustix::system::sysinfo();
    let total = (info.totalram as u64).saturating_mul(info.mem_unit.into());
    // what is written is in memory, too, where that is limited
    for (name, bytes) in [("memory", memory), ("disk", disk)] {
        if let Some(bytes) = bytes.filter(|bytes| *bytes > total) {
            return Err(LaunchError::AboveMachine {
                what: format!("limit {name}={bytes}"),
                have: format!("{total} bytes of memory"),
            });
        }
    }
    // an ordinary user's instances count by their user instead
    let pids = pids.filter(|_| map == IdMap::Identity);
    Ok(Quota { memory, milli_cpus, pids })
}

/// Sources must be there, and be what they seem.
fn volumes(spec: &Spec) -> Result<Vec<Volume>, LaunchError> {
    let check = |volume: &super::VolumeOption| {
        let fail = |reason: String| LaunchError::Volume { path: volume.from.clone(), reason };
        let from = std::path::absolute(&volume.from).map_err(|error| fail(error.to_string()))?;
        let real = from.canonicalize().map_err(|error| fail(error.to_string()))?;
        if real != from.components().collect::<PathBuf>() {
            return Err(fail(format!(
                "it leads through a link to `{}`: name that",
                real.display()
            )));
        }
        Ok(Volume { from: real, to: volume.to.clone(), read_only: volume.read_only })
    };
    spec.volumes.iter().map(check).collect()
}

fn order(
    launch: &Launch<'_>,
    claim: &Claim,
    cgroup: Cgroup,
    volumes: Vec<Volume>,
) -> Result<Order, LaunchError> {
    let spec = launch.spec;
    let data = claim.dir.join("data");
    for path in [data.clone(), data.join("upper"), data.join("work"), data.join("shelf")] {
        std::fs::create_dir(&path).at("create", &path)?;
    }
    let ids = match IdMap::current().at("read", "/proc/self/uid_map")? {
        // the engine has its own ways with owners
        _ if matches!(launch.launcher, Launcher::Docker(_)) => Ids::Shared,
        IdMap::Identity => {
            let lot = u32::from_str_radix(&launch.id[..8], 16).unwrap_or_default();
            Ids::Own { first: slots::take(&claim.dir, lot)? }
        }
        IdMap::Subordinate { .. } => Ids::Shared,
    };
    let egress = Policy::new(&spec.egress, &spec.private);
    let program = Program { env: environment(spec, egress.as_ref()), ..spec.program() };
    let record = record(launch, (&cgroup, ids), &program);
    record.write(&claim.dir).at("write", &claim.dir)?;
    let cell = Cell {
        host_name: launch.name.as_str().to_owned(),
        lowers: launch.trees.clone(),
        dir: data,
        ids,
        volumes,
        gate: egress.as_ref().map(|policy| Gate { ports: policy.ports().into_iter().collect() }),
        tightness: spec.tightness(),
        shared_memory: spec.shared_memory,
        writable: spec.writable(),
        disk: spec.limits.disk,
        processes: spec.pids.filter(|_| ids == Ids::Shared),
        cgroup,
        program,
    };
    Ok(Order {
        record,
        cell,
        quota: if ids == Ids::Shared { Quota::default() } else { spec.quota() },
        dir: claim.dir.clone(),
        ready: probe(spec),
        timeout: spec.timeout,
        egress,
        detached: launch.detached,
        image: launch.image.clone(),
        stop_signal: spec.stop_signal.as_deref().and_then(signal_number).unwrap_or(libc::SIGTERM),
    })
}

/// What is written down before anything that it names is made.
fn record(launch: &Launch<'_>, (cgroup, ids): (&Cgroup, Ids), program: &Program) -> Record {
    let spec = launch.spec;
    Record {
        id: launch.id.clone(),
        name: launch.name.clone(),
        sandbox: spec.sandbox.clone(),
        image: spec.image.to_string(),
        token: spec.token.clone(),
        ports: spec.ports.iter().map(|port| (port.outside, port.inside)).collect(),
        started: launch.now,
        keeper: None,
        first: None,
        cgroup: cgroup.clone(),
        ids,
        tightness: spec.tightness(),
        program: program.clone(),
        launcher: match &launch.launcher {
            Launcher::Oci(runtime) => {
                let below = launch.state.runtimes(ids);
                Launcher::Oci(runtime.clone().for_instance(&below, &launch.id))
            }
            other => other.clone(),
        },
        fleeting: !launch.detached,
    }
}

/// With the relay as the proxy, where names are allowed that nobody has written down.
fn environment(spec: &Spec, egress: Option<&Policy>) -> Vec<(String, String)> {
    let mut env = spec.env.clone();
    if !egress.is_some_and(Policy::is_open) {
        return env;
    }
    let proxy = format!("http://{NEAR}:{PROXY_PORT}");
    let own = "localhost,127.0.0.1,::1".to_owned();
    for (name, value) in [("HTTP_PROXY", &proxy), ("HTTPS_PROXY", &proxy), ("NO_PROXY", &own)] {
        // what the sandbox sets stays, in either spelling
        if spec.env.iter().all(|(known, _)| !known.eq_ignore_ascii_case(name)) {
            env.push((name.to_owned(), value.clone()));
            env.push((name.to_lowercase(), value.clone()));
        }
    }
    env
}

fn probe(spec: &Spec) -> Option<Probe> {
    Some(match spec.ready.clone()? {
        Ready::Http { path, port } => Probe::Http {
            path,
            port: port.or_else(|| spec.first_port()).unwrap_or(80),
            token: spec.token.clone(),
        },
        Ready::Tcp { port } => Probe::Tcp { port },
        Ready::Exec(argv) => Probe::Exec(argv),
    })
}

fn signal_number(name: &str) -> Option<i32> {
    use rustix::process::Signal;
    let signal = match name {
        "SIGABRT" => Signal::ABORT,
        "SIGALRM" => Signal::ALARM,
        "SIGCONT" => Signal::CONT,
        "SIGHUP" => Signal::HUP,
        "SIGINT" => Signal::INT,
        "SIGKILL" => Signal::KILL,
        "SIGPIPE" => Signal::PIPE,
        "SIGQUIT" => Signal::QUIT,
        "SIGSTOP" => Signal::STOP,
        "SIGTERM" => Signal::TERM,
        "SIGTSTP" => Signal::TSTP,
        "SIGUSR1" => Signal::USR1,
        "SIGUSR2" => Signal::USR2,
        "SIGWINCH" => Signal::WINCH,
        number => return number.parse().ok(),
    };
    Some(signal.as_raw())
}

fn instruct(
    keeper: Waiting,
    claim: &Claim,
    order: &Order,
    connections: &Connections<'_>,
) -> Result<Attached, LaunchError> {
    let Waiting { mut talk, pid } = keeper;
    let [input, output, errors] = connections.stdio;
    let lock = claim.lock.as_fd();
    let text = serde_json::to_vec(order).expect("an order has string keys only");
    let (seat, far) = UnixStream::pair().map_err(LaunchError::Spawn)?;
    send(talk.as_fd(), &[lock, input, output, errors, far.as_fd()])
        .map_err(|error| LaunchError::Spawn(error.into()))?;
    // a keeper that died early says nothing more, and that is noticed
    talk.write_all(&text).unwrap_or_default();
    talk.shutdown(std::net::Shutdown::Write).unwrap_or_default();
    Ok(Attached {
        keeper: pid,
        dir: claim.dir.clone(),
        ports: Vec::new(),
        talk: BufReader::new(talk),
        seat,
        timeout: order.timeout,
        argv: order.cell.program.argv[0].clone(),
        record: order.record.clone(),
    })
}
