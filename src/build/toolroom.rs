//! Where resolvers run: npm, pnpm and uv at lock time, as the untrusted programs that they are.
//!
//! They see the trees of the layers that the lock's Debian gives, a directory to work in, and a relay
//! to one registry; no file, address or variable of this machine's. What they write is read back as
//! data, file by file, and never followed through a link.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::builder::Builder;
use super::error::BuildError;
use super::room::{Room, Visit, VisitError, printable};
use crate::fetch::Client;
use crate::fsx::{IoAt, PathIo};
use crate::jail::{Bind, End, Jail, JailError, Outcome};
use crate::lock::Lock;
use crate::lock::question::LocalDigests;
use crate::lock::toolroom::{ToolError, ToolJob, ToolResult, Toolroom};
use crate::plan::Plan;
use crate::platform::Platform;
use crate::serve::{Closed, Relay, Site, address};

/// Where the program works, in its view.
const WORK: &str = "/work";
/// What stands for the relay's address in a job.
const RELAY: &str = "{relay}";
/// Largest file that is read back: a lock file of a thousand packages has half a megabyte.
const LARGEST: u64 = 256 << 20;
/// Lines of output that an error shows.
const SHOWN: usize = 30;

/// Runs jobs over what the lock's Debian and runtimes give, which is built where it is missing.
pub struct BuildRoom<'a> {
    pub builder: Builder<'a>,
    pub local: &'a LocalDigests,
}

impl Toolroom for BuildRoom<'_> {
    fn run(&self, lock: &Lock, job: &ToolJob) -> Result<ToolResult, ToolError> {
        if !rustix::process::geteuid().is_root() {
            return Err(ToolError::Namespace);
        }
        let project = self.builder.project;
        let layer = project.layers.get(&job.layer);
        let layer =
            layer.ok_or_else(|| broken(job, "its layer is not declared".to_owned(), None))?;
        // programs run on this machine, whatever platform they resolve for
        let host = Platform::host();
        let plan = Plan::ground(project, layer, host, lock, self.local).map_err(|error| {
            let known = project.platforms.contains(&host);
            let add =
                format!("add `{host}` to `platforms` in `project`: resolvers run on this machine");
            broken(job, error.to_string(), if known { error.help() } else { Some(add) })
        })?;
        let failed = |error: BuildError| broken(job, error.to_string(), error.help());
        let lowers = self.builder.trees(&plan).map_err(failed)?;
        let scratch = self.builder.store.tree_draft().map_err(|error| failed(error.into()))?;
        let (jail, client) = (self.builder.jail, self.builder.client);
        Toolbench { jail, client, lowers: &lowers, scratch: scratch.path() }.run(job)
    }
}

/// What a job is run with.
pub struct Toolbench<'a> {
    pub jail: &'a Jail,
    pub client: &'a Client,
    /// Trees that the program sees, bottom first; may be none.
    pub lowers: &'a [PathBuf],
    /// An empty directory; nothing in it is wanted afterwards.
    pub scratch: &'a Path,
}

impl Toolbench<'_> {
    /// Runs a job to its end.
    pub fn run(&self, job: &ToolJob) -> Result<ToolResult, ToolError> {
        let failed = |error: PathIo| broken(job, error.to_string(), None);
        let room = Room { jail: self.jail, lowers: self.lowers, scratch: self.scratch };
        room.prepare().map_err(failed)?;
        let work = self.scratch.join("place");
        lay(&work, job).map_err(failed)?;
        let relay = job.registry.clone().map(|registry| Relay::new(self.client, registry));
        let site: &dyn Site = relay.as_ref().map_or(&Closed, |relay| relay);
        let mut output = String::new();
        let mut line = |line: &str| {
            output.push_str(line);
            output.push('\n');
        };
        let stay = room.visit(&visit(&work, job), site, &mut line).map_err(|error| {
            let help = match &error {
                VisitError::Jail(error) => error.help().map(str::to_owned),
                VisitError::Io(_) => None,
            };
            match error {
                // the set-up got as far as the program: it is the job that names no program
                VisitError::Jail(JailError::Setup { step, reason, .. })
                    if step.starts_with("start `") =>
                {
                    broken(job, format!("{step}: {reason}"), None)
                }
                error => broken(job, error.to_string(), help),
            }
        })?;
        if !stay.outcome.success() {
            let relay = relay.iter().flat_map(Relay::failures);
            let names = stay
                .names
                .iter()
                .map(|name| format!("name `{name}` was asked for, and is not known"));
            let unrouted = (stay.outcome.unrouted > 0).then(|| {
                "addresses other than the relay's were tried, and cannot be reached".to_owned()
            });
            let also: Vec<String> = relay.chain(names).chain(unrouted).collect();
            return Err(ToolError::Failed {
                tool: job.tool.clone(),
                status: stay.outcome.reason(),
                output: shown(&stay.outcome, &also),
            });
        }
        let mut result = ToolResult { output, ..ToolResult::default() };
        for name in &job.results {
            if let Some(bytes) = read_back(&work, name).map_err(failed)? {
                result.files.insert(name.clone(), bytes);
            }
        }
        result.origins = relay.iter().flat_map(Relay::origins).collect();
        Ok(result)
    }
}

fn broken(job: &ToolJob, reason: String, help: Option<String>) -> ToolError {
    ToolError::Room { tool: job.tool.clone(), reason, help }
}

fn shown(outcome: &Outcome, also: &[String]) -> String {
    let skip = outcome.tail.len().saturating_sub(SHOWN);
    let lines = outcome.tail.iter().skip(skip).chain(also.iter().take(SHOWN));
    let mut text: Vec<String> = lines.map(|line| format!("  {}", printable(line))).collect();
    if outcome.end == End::Timeout {
        text.push("  it was ended at its time limit".to_owned());
    }
    text.join("\n")
}

/// Lays the job's files, with the relay's address in them.
fn lay(work: &Path, job: &ToolJob) -> Result<(), PathIo> {
    let home = work.join(".home");
    fs::create_dir_all(&home).at("create", &home)?;
    for (name, bytes) in &job.files {
        let path = work.join(name);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).at("create", dir)?;
        }
        let bytes = match std::str::from_utf8(bytes) {
            Ok(text) if text.contains(RELAY) => with_relay(text).into_bytes(),
            _ => bytes.clone(),
        };
        fs::write(&path, bytes).at("write", &path)?;
    }
    Ok(())
}

fn with_relay(text: &str) -> String {
    text.replace(RELAY, &address())
}

fn visit(work: &Path, job: &ToolJob) -> Visit {
    let mount = |(from, to): &(PathBuf, String)| Bind {
        from: from.clone(),
        to: to.clone(),
        read_only: true,
    };
    let place = Bind { from: work.to_owned(), to: WORK.to_owned(), read_only: false };
    let mut env: Vec<(String, String)> =
        job.env.iter().map(|(name, value)| (name.clone(), with_relay(value))).collect();
    if !env.iter().any(|(name, _)| name == "HOME") {
        env.push(("HOME".to_owned(), format!("{WORK}/.home")));
    }
    Visit {
        argv: job.command.iter().map(|word| with_relay(word)).collect(),
        env,
        cwd: WORK.to_owned(),
        binds: std::iter::once(place).chain(job.mounts.iter().map(mount)).collect(),
        timeout: Some(job.timeout),
        secrets: Vec::new(),
    }
}

/// Reads a file that the program may have left; a link, a pipe or a device is no file.
fn read_back(work: &Path, name: &str) -> Result<Option<Vec<u8>>, PathIo> {
    let mut dir =
        rustix::fs::open(work, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(io::Error::from)
            .at("open", work)?;
    let path = work.join(name);
    let parts: Vec<&str> = name.split('/').collect();
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    for (at, part) in parts.iter().enumerate() {
        let last = at + 1 == parts.len();
        let kind = if last { OFlags::RDONLY } else { OFlags::PATH | OFlags::DIRECTORY };
        match rustix::fs::openat(&dir, *part, flags | kind, Mode::empty()) {
            Ok(next) => dir = next,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(io::Error::from(error)).at("open", &path),
        }
    }
    let file = fs::File::from(dir);
    let regular = file.metadata().at("stat", &path)?.is_file();
    let mut bytes = Vec::new();
    if regular {
        file.take(LARGEST + 1).read_to_end(&mut bytes).at("read", &path)?;
    }
    if !regular || bytes.len() as u64 > LARGEST {
        let error = io::Error::new(io::ErrorKind::InvalidData, "no file, or too large");
        return Err(error).at("read", &path);
    }
    Ok(Some(bytes))
}
