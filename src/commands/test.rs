//! `sbx test`: a sandbox held to what its callers rely on.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use sbx::contract::{
    Caller, Check, Expected, Flaw, Manners, Trial, Verdict, check_app, check_ports, check_servers,
    junit,
};
use sbx::decl::{Egress, Ready, Recipe, Server};
use sbx::launch::{State, Status, VariableOption};

use super::Global;
use super::instances::show_log;
use super::output;
use super::register::at_home;
use crate::failure::{Failure, Outcome};
use crate::ui::Ui;
use crate::workspace::{Target, Workspace, own_program, random_hex, state_path, variable};

/// Behind this path, AgentScope's app answers.
const APP: &str = "/fastapi/";

#[derive(Args)]
pub struct TestArguments {
    /// Ask this running instance instead of starting one
    #[arg(long, value_name = "INSTANCE", conflicts_with = "url")]
    instance: Option<String>,
    /// Ask what answers at this address instead
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// What it wants to be shown
    #[arg(long, value_name = "TOKEN", requires = "url")]
    token: Option<String>,
    /// Set a variable of the instance that is started
    #[arg(long, short, value_name = "NAME=VALUE", conflicts_with_all = ["instance", "url"])]
    env: Vec<VariableOption>,
    /// How long it may take to be ready, and each answer after that
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    timeout: u32,
    /// Run it without the limits that are declared
    #[arg(long, conflicts_with_all = ["instance", "url"])]
    no_limits: bool,
    /// Write the checks for CI systems, too
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// The sandbox
    #[arg(value_name = "SANDBOX")]
    sandbox: String,
}

/// `test --json`.
#[derive(Serialize)]
struct Answer<'a> {
    sandbox: &'a str,
    passed: usize,
    failed: usize,
    left_out: usize,
    checks: &'a [Check],
}

/// What is asked.
#[derive(Default)]
struct Subject {
    url: Option<String>,
    token: Option<String>,
    /// Outside and inside.
    ports: Vec<(u16, u16)>,
    /// Removed in the end.
    own: Option<Own>,
}

/// An instance that was started for the test.
struct Own {
    program: PathBuf,
    id: String,
}

impl Drop for Own {
    fn drop(&mut self) {
        let mut command = Command::new(&self.program);
        command.args(["rm", "--force", "--quiet", &self.id]);
        // what is left of it, `sbx ps` shows
        drop(command.stdin(Stdio::null()).output());
    }
}

pub fn run(global: &Global, arguments: &TestArguments, ui: &Ui) -> Outcome {
    let workspace = Workspace::open(&at_home(global, &arguments.sandbox)?.global)?;
    let target = workspace.target(&arguments.sandbox, None)?;
    let mut trial = Trial::default();
    if let Some(subject) = subject(&workspace, target, arguments, &mut trial)? {
        check(&workspace, target, arguments, &subject, &mut trial)?;
        if let Some(own) = subject.own.as_ref().filter(|_| trial.count(Verdict::Failed) > 0) {
            let found = State::open(&state_path()?)?.get(&own.id);
            found.map(|instance| show_log(&instance.dir, ui)).unwrap_or_default();
        }
    }
    let sandbox = target.sandbox.name.as_str();
    if let Some(path) = &arguments.junit {
        output::put(path, junit(&trial, sandbox).as_bytes(), ui)?;
    }
    let count = |verdict| trial.count(verdict);
    let answer = Answer {
        sandbox,
        passed: count(Verdict::Passed),
        failed: count(Verdict::Failed),
        left_out: count(Verdict::LeftOut),
        checks: trial.checks(),
    };
    ui.answer(&answer, || table(&answer));
    if answer.failed > 0 { Err(Failure::Silent(1)) } else { Ok(()) }
}

/// Finds or starts what is asked; `None` for what did not start, which is noted.
fn subject(
    workspace: &Workspace,
    target: Target<'_>,
    arguments: &TestArguments,
    trial: &mut Trial,
) -> Outcome<Option<Subject>> {
    if let Some(url) = &arguments.url {
        let (url, token) = (Some(url.clone()), arguments.token.clone());
        return Ok(Some(Subject { url, token, ..Subject::default() }));
    }
    if let Some(name) = &arguments.instance {
        return running(name, target).map(Some);
    }
    start(workspace, arguments, trial)
}

fn running(name: &str, target: Target<'_>) -> Outcome<Subject> {
    let instance = State::open(&state_path()?)?.get_running(name)?;
    let record = instance.record;
    if record.sandbox != target.sandbox.name.as_str() || instance.status != Status::Running {
        let message = format!("instance `{name}` is one of sandbox `{}`", record.sandbox);
        return Err(Failure::input(message).with_help(format!("run `sbx test {}`", record.sandbox)));
    }
    let first = record.ports.first();
    Ok(Subject {
        url: first.map(|(outside, _)| format!("http://127.0.0.1:{outside}")),
        token: record.token,
        ports: record.ports,
        own: None,
    })
}

/// By `sbx run`, as anybody would start it.
fn start(
    workspace: &Workspace,
    arguments: &TestArguments,
    trial: &mut Trial,
) -> Outcome<Option<Subject>> {
    let program = own_program()?;
    let mut command = Command::new(&program);
    command.args(["run", "--detach", "--json", "--project"]).arg(&workspace.project.root);
    command.arg("--cache").arg(workspace.store.root());
    command.args(["--timeout", &arguments.timeout.to_string()]);
    for option in &arguments.env {
        command.args(["--env", &format!("{}={}", option.name, option.value)]);
    }
    command.args(arguments.no_limits.then_some("--no-limits"));
    command.arg(&arguments.sandbox).stdin(Stdio::null()).stderr(Stdio::inherit());
    let begun = Instant::now();
    let output = command.output().map_err(|error| Failure::world(format!("`sbx run`: {error}")))?;
    let seconds = begun.elapsed().as_secs_f64();
    match output.status.code() {
        Some(0) => {}
        // what is wrong before the sandbox is asked has been said
        Some(code @ (1 | 2 | 70)) => return Err(Failure::Silent(u8::try_from(code).unwrap_or(70))),
        _ => {
            let flaw = Flaw::Failed("it did not start, or was not ready in time".to_owned());
            trial.note("start", "ready", Err(flaw), seconds);
            return Ok(None);
        }
    }
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| Failure::world(format!("what `sbx run` answers: {error}")))?;
    let text = |field: &str| answer[field].as_str().map(str::to_owned);
    let own = text("id").map(|id| Own { program, id });
    let ready = answer["seconds"].as_f64().unwrap_or(seconds);
    trial.note("start", "ready", Ok(format!("after {ready:.2} s")), ready);
    let number = |port: &serde_json::Value| port.as_u64().and_then(|port| u16::try_from(port).ok());
    let ports = answer["ports"].as_object().into_iter().flatten();
    let ports =
        ports.filter_map(|(inside, outside)| Some((number(outside)?, inside.parse().ok()?)));
    Ok(Some(Subject { url: text("url"), token: text("token"), ports: ports.collect(), own }))
}

fn check(
    workspace: &Workspace,
    target: Target<'_>,
    arguments: &TestArguments,
    subject: &Subject,
    trial: &mut Trial,
) -> Outcome {
    let sandbox = target.sandbox;
    let patience = Duration::from_secs(arguments.timeout.into());
    let caller = subject.url.as_ref().map(|url| Caller::new(url, subject.token.clone(), patience));
    let caller = caller.transpose().map_err(|error| Failure::input(error.to_string()))?;
    let app = matches!(&sandbox.ready, Some(Ready::Http { path, .. }) if path.starts_with(APP));
    let Some(caller) = caller.as_ref().filter(|_| app) else {
        check_ports(trial, caller.as_ref(), &subject.ports, sandbox.ready.as_ref());
        return Ok(());
    };
    let manners = if subject.own.is_some() { Manners::Own } else { Manners::Guest };
    let scratch = format!("sbx-test-{}", random_hex(4)?);
    check_app(trial, caller, &scratch, manners);
    let servers = expected(workspace, target, arguments, manners);
    check_servers(trial, caller, &servers, (patience, sandbox.egress != Egress::None));
    Ok(())
}

/// The servers that the layers declare.
fn expected(
    workspace: &Workspace,
    target: Target<'_>,
    arguments: &TestArguments,
    manners: Manners,
) -> Vec<Expected> {
    let layers = workspace.project.shipped_layers(target.sandbox, target.platform).into_iter();
    let servers = layers.flat_map(|layer| &layer.recipes).filter_map(|recipe| match recipe {
        Recipe::Mcp(mcp) => Some(&mcp.servers),
        _ => None,
    });
    let expected = |server: &Server| {
        let excuse = excuse(server, arguments, manners);
        Expected { name: server.name.clone(), probe: server.probe.clone(), excuse }
    };
    servers.flatten().map(expected).collect()
}

/// Why a server may be missing: no key of it is there.
fn excuse(server: &Server, arguments: &TestArguments, manners: Manners) -> Option<String> {
    let full = |value: Option<&str>| value.is_some_and(|value| !value.is_empty());
    let is_set = |name: &str| {
        let option = arguments.env.iter().find(|option| option.name == name);
        match option {
            Some(option) => !option.value.is_empty(),
            None => full(variable(name).as_deref()),
        }
    };
    let missing = server.from_host.iter().find(|key| {
        !full(key.default.as_deref()) && (manners == Manners::Guest || !is_set(&key.from))
    })?;
    Some(match manners {
        Manners::Own => format!("variable {} is not set", missing.from),
        Manners::Guest => format!("it may have been started without {}", missing.from),
    })
}

fn table(answer: &Answer<'_>) -> String {
    let line = |check: &Check| {
        let verdict = match check.verdict {
            Verdict::Passed => "passed",
            Verdict::Failed => "FAILED",
            Verdict::LeftOut => "left out",
        };
        let Check { group, name, seen, seconds, .. } = check;
        format!("{verdict:9} {group:10} {name:28} {seconds:7.3} s  {seen}")
    };
    let mut lines: Vec<String> = answer.checks.iter().map(line).collect();
    let Answer { sandbox, passed, failed, left_out, .. } = answer;
    lines.push(format!("{sandbox}: {passed} passed, {failed} failed, {left_out} left out"));
    lines.join("\n")
}
