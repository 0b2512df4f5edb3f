//! `sbx ps`, `logs`, `stop`, `rm`: instances that were started.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use sbx::launch::{Instance, LaunchError, State, Status};

use super::build::run_in_namespace;
use crate::failure::{Failure, Outcome};
use crate::ui::{Stream, Ui};
use crate::workspace::{now_seconds, own_program, state_path};

#[derive(Args)]
pub struct PsArguments {}

#[derive(Args)]
pub struct LogsArguments {
    /// Go on until the instance ends
    #[arg(long, short)]
    follow: bool,
    #[arg(value_name = "INSTANCE")]
    instance: String,
}

#[derive(Args)]
pub struct StopArguments {
    /// How long it may take to end by itself
    #[arg(long, short = 't', value_name = "SECONDS", default_value = "10")]
    time: u32,
    #[arg(value_name = "INSTANCE", required = true)]
    instances: Vec<String>,
}

#[derive(Args)]
pub struct RmArguments {
    /// Those that run, too
    #[arg(long, short)]
    force: bool,
    #[arg(value_name = "INSTANCE", required = true)]
    instances: Vec<String>,
}

/// A row of `ps --json`.
#[derive(Serialize)]
struct Row<'a> {
    id: &'a str,
    name: &'a str,
    sandbox: &'a str,
    image: &'a str,
    launcher: &'static str,
    status: String,
    code: Option<u8>,
    ports: std::collections::BTreeMap<u16, u16>,
    url: Option<String>,
    token: Option<&'a str>,
    seconds: u64,
}

impl<'a> Row<'a> {
    fn new(instance: &'a Instance) -> Self {
        let record = &instance.record;
        let live = matches!(instance.status, Status::Running | Status::Starting);
        let ports = record.ports.iter().filter(|_| live);
        let url = ports.clone().next().map(|(outside, _)| format!("http://127.0.0.1:{outside}"));
        Row {
            id: &record.id,
            name: record.name.as_str(),
            sandbox: &record.sandbox,
            image: &record.image,
            launcher: record.launcher.name(),
            status: match instance.status {
                Status::Ended(_) => "ended".to_owned(),
                status => status.to_string(),
            },
            code: match instance.status {
                Status::Ended(how) => Some(how.code()),
                _ => None,
            },
            ports: ports.map(|(outside, inside)| (*inside, *outside)).collect(),
            url,
            token: record.token.as_deref(),
            seconds: now_seconds().saturating_sub(record.started),
        }
    }
}

pub fn ps(_: &PsArguments, ui: &Ui) -> Outcome {
    let state = State::open(&state_path()?)?;
    let instances = state.list()?;
    if !rustix::process::geteuid().is_root() && state.has_leftovers()? {
        return run_in_namespace(&own_program()?);
    }
    let rows: Vec<Row<'_>> = instances.iter().map(Row::new).collect();
    ui.answer(&rows, || {
        let mut lines =
            vec![format!("{:24} {:20} {:12} {:8} PORTS", "NAME", "SANDBOX", "STATUS", "AGE")];
        for (row, instance) in rows.iter().zip(&instances) {
            let ports: Vec<String> = row
                .ports
                .iter()
                .map(|(inside, outside)| format!("127.0.0.1:{outside}->{inside}"))
                .collect();
            let age = age(row.seconds);
            lines.push(format!(
                "{:24} {:20} {:12} {age:8} {}",
                row.name,
                row.sandbox,
                instance.status.to_string(),
                ports.join(" ")
            ));
        }
        lines.join("\n")
    });
    Ok(())
}

fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

pub fn logs(arguments: &LogsArguments, ui: &Ui) -> Outcome {
    let instance = State::open(&state_path()?)?.get(&arguments.instance)?;
    let old = std::fs::File::open(instance.dir.join("log.1"));
    if let Ok(old) = old {
        ui.carry(old, Stream::Output);
    }
    let path = instance.dir.join("log");
    let Ok(mut log) = std::fs::File::open(&path) else { return Ok(()) };
    loop {
        // looked at first: what was written before the end is carried after it
        let over = !arguments.follow || instance.wait_ended(Duration::ZERO);
        ui.carry(&mut log, Stream::Output);
        if over {
            return Ok(());
        }
        if sbx::fsx::inode(&log)
            != std::fs::File::open(&path).ok().as_ref().and_then(sbx::fsx::inode)
            && let Ok(next) = std::fs::File::open(&path)
        {
            log = next;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// How much of a log is shown when a start failed.
const TAIL: u64 = 8 << 10;

/// The end of what an instance said, as part of the story.
pub fn show_log(dir: &Path, ui: &Ui) {
    let Ok(mut log) = std::fs::File::open(dir.join("log")) else { return };
    let size = log.metadata().map_or(0, |meta| meta.len());
    log.seek(SeekFrom::Start(size.saturating_sub(TAIL))).unwrap_or_default();
    let mut bytes = Vec::new();
    log.read_to_end(&mut bytes).unwrap_or_default();
    for line in String::from_utf8_lossy(&bytes).lines() {
        let shown: String = line.chars().filter(|c| *c == '\t' || !c.is_control()).collect();
        ui.say(&format!("log: {shown}"));
    }
}

/// `stop --json`, `rm --json`.
#[derive(Serialize)]
struct Done<'a> {
    name: &'a str,
    status: String,
}

pub fn stop(arguments: &StopArguments, ui: &Ui) -> Outcome {
    let state = State::open(&state_path()?)?;
    for name in &arguments.instances {
        let instance = state.get(name)?;
        stop_one(&instance, Duration::from_secs(arguments.time.into()))?;
        let status = state.get(name).map_or("gone".to_owned(), |one| one.status.to_string());
        let name = instance.record.name.as_str();
        ui.answer(&Done { name, status }, || name.to_owned());
    }
    Ok(())
}

fn stop_one(instance: &Instance, patience: Duration) -> Outcome {
    instance.ask_to_stop();
    if instance.wait_ended(patience) {
        return Ok(());
    }
    instance.kill();
    match instance.wait_ended(Duration::from_secs(10)) {
        true => Ok(()),
        false => Err(Failure::world(format!("instance `{}` does not end", instance.record.name))),
    }
}

pub fn rm(arguments: &RmArguments, ui: &Ui) -> Outcome {
    if !rustix::process::geteuid().is_root() {
        // files of other owners are removed as their owners' root
        return run_in_namespace(&own_program()?);
    }
    let state = State::open(&state_path()?)?;
    for name in &arguments.instances {
        let instance = state.get(name)?;
        // a keeper whose instance has ended is about to end as well
        let patience = match instance.status {
            Status::Ended(_) => Duration::from_secs(10),
            _ => Duration::ZERO,
        };
        if !instance.wait_ended(patience) {
            if !arguments.force {
                return Err(LaunchError::Running(name.clone()).into());
            }
            instance.kill();
            if !instance.wait_ended(Duration::from_secs(10)) {
                return Err(Failure::world(format!("instance `{name}` does not end")));
            }
        }
        if !instance.discard() {
            return Err(Failure::world(format!("{} cannot be removed", instance.dir.display())));
        }
        let name = instance.record.name.as_str();
        ui.answer(&Done { name, status: "gone".to_owned() }, || name.to_owned());
    }
    Ok(())
}
