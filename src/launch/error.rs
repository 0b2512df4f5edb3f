//! Why an instance was not started, found or ended.

use std::path::PathBuf;

use crate::blame::Blame;
use crate::fsx::PathIo;
use crate::jail::cgroup::CgroupError;
use crate::jail::instance::{CABLE, UNLOCKED};
use crate::jail::{Ended, SetupFault};
use crate::tarball::TarError;

#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error(transparent)]
    Io(#[from] PathIo),
    #[error("there is no instance `{0}`")]
    Unknown(String),
    #[error("there is an instance `{0}` already")]
    NameTaken(String),
    #[error("`{0}` is no name of an instance: letters, digits, `-`, `_` and `.`, at most 60")]
    Name(String),
    #[error("instance `{0}` does not run")]
    NotRunning(String),
    #[error("instance `{0}` runs")]
    Running(String),
    #[error("port {port} of 127.0.0.1 cannot be listened on: {reason}")]
    Port { port: u16, reason: String },
    #[error("variable `{name}` is not set on this machine, and sandbox `{sandbox}` asks for it")]
    Variable { name: String, sandbox: String },
    #[error("sandbox `{0}` has no command")]
    NoCommand(String),
    #[error("{}: {reason}", path.display())]
    Volume { path: PathBuf, reason: String },
    #[error("{what} is above what this machine has: {have}")]
    AboveMachine { what: String, have: String },
    #[error("the limits of sandbox `{sandbox}` cannot be set: {source}")]
    Limits { sandbox: String, source: CgroupError },
    #[error("launcher `{launcher}` cannot honour {what} of sandbox `{sandbox}`")]
    Refused { launcher: &'static str, what: String, sandbox: String },
    #[error("sandbox `{0}` declares `egress`, and nothing leads out at `security-level \"high\"`")]
    EgressAtHigh(String),
    #[error("`{host}` is not among the `egress` of sandbox `{sandbox}`")]
    NotDeclared { host: String, sandbox: String },
    #[error(
        "launcher `kubernetes` cannot honour `limits pids={count}`: nodes limit that, no Pod does"
    )]
    Pids { count: u32 },
    #[error("launcher `{0}` takes root")]
    NotRoot(&'static str),
    #[error("this machine has no runtime `{0}`")]
    NoRuntime(String),
    #[error("`{0}` is no number of a user, and the runtime knows no names")]
    UserNumber(String),
    #[error("runtime `{0}` shows nobody the files of an instance")]
    Opaque(String),
    #[error("docker's engine at `{host}` is not on this machine", host = .0)]
    EngineHost(String),
    #[error("docker's engine does not answer at {}: {reason}", socket.display())]
    EngineAway { socket: PathBuf, reason: String },
    #[error("docker's engine says: {0}")]
    Engine(String),
    #[error("what docker's engine packed cannot be unpacked: {0}")]
    Packed(#[from] TarError),
    #[error("docker's engine shows nobody but root what is in `{0}` of an instance")]
    Unseen(&'static str),
    #[error("the instance cannot be set up: {}: {}", .0.step, .0.reason)]
    Setup(SetupFault),
    #[error("`{program}` cannot be started: {reason}")]
    Program { program: String, reason: String, found: bool },
    #[error("the instance is not ready after {seconds} s")]
    NotReady { seconds: f64 },
    #[error("the instance ended before it was ready ({0})")]
    EndedEarly(Ended),
    #[error("the instance's keeper is gone")]
    KeeperGone,
    #[error("the keeper cannot be started: {0}")]
    Spawn(std::io::Error),
    #[error("all ranges of ids for instances are taken")]
    NoIds,
}

impl LaunchError {
    pub fn blame(&self) -> Blame {
        match self {
            LaunchError::Unknown(_)
            | LaunchError::NameTaken(_)
            | LaunchError::Name(_)
            | LaunchError::NotRunning(_)
            | LaunchError::Running(_)
            | LaunchError::Variable { .. }
            | LaunchError::NoCommand(_)
            | LaunchError::Volume { .. }
            | LaunchError::AboveMachine { .. }
            | LaunchError::EgressAtHigh(_)
            | LaunchError::NotDeclared { .. }
            | LaunchError::Refused { .. }
            | LaunchError::Pids { .. }
            | LaunchError::NotRoot(_)
            | LaunchError::NoRuntime(_)
            | LaunchError::UserNumber(_)
            | LaunchError::Opaque(_)
            | LaunchError::EngineHost(_)
            | LaunchError::Unseen(_) => Blame::Input,
            _ => Blame::World,
        }
    }

    /// A step that failed; it may be the program's own start.
    pub fn of_program(program: &str, fault: SetupFault) -> Self {
        if fault.step != format!("start `{program}`") {
            return LaunchError::Setup(fault);
        }
        LaunchError::Program {
            program: program.to_owned(),
            reason: fault.reason,
            found: fault.errno != Some(libc::ENOENT),
        }
    }

    /// The code of a program that was not started, as shells have it.
    pub fn code(&self) -> Option<u8> {
        match self {
            LaunchError::Program { found, .. } => Some(if *found { 126 } else { 127 }),
            _ => None,
        }
    }

    /// The next command.
    pub fn help(&self) -> Option<String> {
        let text = match self {
            LaunchError::Unknown(_) => "run `sbx ps` to see which there are".to_owned(),
            LaunchError::NameTaken(name) => {
                format!("run `sbx rm -f {name}`, or give this one another `--name`")
            }
            LaunchError::NotRunning(name) => format!("run `sbx logs {name}` to see how it ended"),
            LaunchError::Running(name) => format!("run `sbx stop {name}`, or say `--force`"),
            LaunchError::Port { port, .. } => {
                format!(
                    "publish another with `-p 0:PORT`, or find who has it: `ss -ltnp 'sport = {port}'`"
                )
            }
            LaunchError::Variable { name, .. } => {
                format!("run `export {name}=…`, or pass `-e {name}=…`")
            }
            LaunchError::NoCommand(_) => "declare a `command`, or name one after `--`".to_owned(),
            LaunchError::AboveMachine { .. } => {
                "lower `limits` of the sandbox, or pass `--no-limits`".to_owned()
            }
            LaunchError::Limits { .. } => {
                "run it as root, or pass `--no-limits` to run without them".to_owned()
            }
            LaunchError::EgressAtHigh(_) => {
                "leave `egress` out, or choose `security-level \"medium\"`".to_owned()
            }
            LaunchError::NotDeclared { host, .. } => {
                format!("declare `egress \"{host}\"`, or leave `--allow-private` out")
            }
            LaunchError::Setup(fault) => return mend(fault).map(str::to_owned),
            LaunchError::Pids { .. } => {
                "set `podPidsLimit` of the nodes, and pass `--waive pids`".to_owned()
            }
            LaunchError::NotRoot(_) => {
                "run it as root, or leave `--launcher` out, which takes no root".to_owned()
            }
            LaunchError::NoRuntime(name) => {
                format!("install it (`apt-get install {name}`), or name another with `--runtime`")
            }
            LaunchError::EngineHost(_) => {
                "name its socket: `DOCKER_HOST=unix:///var/run/docker.sock`".to_owned()
            }
            LaunchError::EngineAway { reason, .. } if reason.contains("ermission denied") => {
                "become one of the socket's group (`usermod --append --groups docker NAME` as root, and a new login)"
                    .to_owned()
            }
            LaunchError::EngineAway { .. } => {
                "start it (`systemctl start docker`), or name another with `DOCKER_HOST=unix://…`"
                    .to_owned()
            }
            LaunchError::Opaque(_) => {
                "let a program of the instance do it, such as `sbx exec -i INSTANCE tar -xC DIR <FILE`"
                    .to_owned()
            }
            LaunchError::Unseen(_) => {
                "copy by way of another directory of the instance, or run it as root".to_owned()
            }
            LaunchError::NotReady { .. } => "allow more with `--timeout SECONDS`".to_owned(),
            _ => return None,
        };
        Some(text)
    }
}

/// What mends a kernel that knows no cables.
pub const MEND_CABLE: &str =
    "`egress` takes network devices of kind veth: run `modprobe veth` as root";

/// What mends a step of the set-up.
fn mend(fault: &SetupFault) -> Option<&'static str> {
    let step = fault.step.as_str();
    if step == UNLOCKED {
        return Some("it takes Linux 6.2 with Landlock: choose `security-level \"medium\"`");
    }
    match fault.errno? {
        libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS if step.starts_with("map the owners") => {
            Some(
                "it takes Linux 5.19 and a file system that can show other owners: put it on ext4, xfs or btrfs, such as with `--cache DIR`",
            )
        }
        libc::EOPNOTSUPP if step == CABLE => Some(MEND_CABLE),
        libc::EINVAL if step == "mount the overlay" => {
            Some("name a directory on another file system with `SBX_STATE`")
        }
        libc::EPERM | libc::EACCES => Some("run `sbx doctor` to see what is missing"),
        _ => None,
    }
}
