//! `sbx register`: makes built sandboxes known outside of their project.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use serde::Serialize;

use sbx::digest::Digest;
use sbx::registry::{Entry, Registry, agentscope};

use super::Global;
use super::build::plan_target;
use super::output;
use crate::failure::{Failure, Outcome};
use crate::ui::Ui;
use crate::workspace::{Target, Workspace, find_root, now_seconds, registry_path, variable};

#[derive(Args)]
pub struct RegisterArguments {
    /// Names of built sandboxes, or globs of names
    #[arg(value_name = "NAME", required_unless_present = "list")]
    names: Vec<String>,
    /// Write a module for AgentScope Runtime, too: `--extension` of its server loads it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["list", "remove"])]
    agentscope: Option<PathBuf>,
    /// Show what is registered
    #[arg(long, conflicts_with_all = ["names", "remove"])]
    list: bool,
    /// Forget these types
    #[arg(long)]
    remove: bool,
}

/// `register --json`.
#[derive(Serialize)]
struct Answer {
    registered: Vec<Entry>,
    /// The module that was written.
    agentscope: Option<PathBuf>,
    /// Images that the module names and the engine does not have.
    missing: Vec<Missing>,
}

#[derive(Serialize)]
struct Missing {
    image: String,
    /// The command that brings it in.
    mend: String,
}

/// What the engine says of an image.
enum Known {
    Yes,
    No,
    /// There is none to ask.
    NoEngine(String),
}

pub fn run(global: &Global, arguments: &RegisterArguments, ui: &Ui) -> Outcome {
    let registry = Registry::at(&registry_path()?);
    if arguments.list {
        let entries = registry.list()?;
        ui.answer(&entries, || table(&entries));
        return Ok(());
    }
    if arguments.remove {
        registry.remove(&arguments.names)?;
        ui.answer(&serde_json::json!({ "removed": arguments.names }), || {
            arguments.names.join("\n")
        });
        return Ok(());
    }
    let entries = entries(global, arguments)?;
    let mut answer = Answer { registered: entries, agentscope: None, missing: Vec::new() };
    if let Some(path) = &arguments.agentscope {
        let module = agentscope::module(&answer.registered)?;
        answer.missing = missing(&answer.registered, ui)?;
        output::put(path, module.as_bytes(), ui)?;
        answer.agentscope = Some(path.clone());
    }
    registry.put(&answer.registered)?;
    for Missing { image, mend } in &answer.missing {
        ui.say(&format!("note: docker has no `{image}`: run `{mend}`"));
    }
    ui.answer(&answer, || {
        let line = |entry: &Entry| format!("{} {}", entry.name, entry.image);
        answer.registered.iter().map(line).collect::<Vec<_>>().join("\n")
    });
    Ok(())
}

/// What is declared, if it is built as it is declared.
fn entries(global: &Global, arguments: &RegisterArguments) -> Outcome<Vec<Entry>> {
    let workspace = Workspace::open(global)?;
    let lock = workspace.read_lock()?;
    let store = workspace.store.root();
    let entry = |target: Target<'_>| -> Outcome<Entry> {
        let name = &target.sandbox.name;
        let plan = plan_target(&workspace, target, &lock)?;
        let record = workspace.store.find_image(&plan.key)?.ok_or_else(|| {
            Failure::input(format!("`{name}` is not built as it is declared now"))
                .with_help(format!("run `sbx build {name}`"))
        })?;
        let image = (target.platform, record.image);
        Ok(Entry::new(&workspace.project, target.sandbox, image, store, now_seconds()))
    };
    let targets = workspace.targets(&arguments.names, false, &[])?;
    // a type has one image: this machine's, or the first that the project names
    let mut entries: Vec<Entry> = Vec::new();
    for target in targets {
        if !entries.iter().any(|known| known.name == target.sandbox.name) {
            entries.push(entry(target)?);
        }
    }
    Ok(entries)
}

fn missing(entries: &[Entry], ui: &Ui) -> Outcome<Vec<Missing>> {
    let mut missing = Vec::new();
    for entry in entries {
        let image = agentscope::image_name(entry, &variable)?;
        match ask(&image) {
            Known::Yes => {}
            Known::No => {
                let name = &entry.name;
                let mend = match image == entry.reference {
                    true => format!("sbx load {name}"),
                    false => format!("sbx load {name} --reference {image}"),
                };
                missing.push(Missing { image, mend });
            }
            Known::NoEngine(reason) => {
                ui.say(&format!("note: whether docker has `{image}` is not known: {reason}"));
            }
        }
    }
    Ok(missing)
}

/// Through docker's own program, which knows where its engine is as AgentScope's client does.
fn ask(image: &str) -> Known {
    let ask =
        |arguments: &[&str]| Command::new("docker").args(arguments).stdin(Stdio::null()).output();
    match ask(&["image", "inspect", "--format", "{{.Id}}", image]) {
        Err(error) => Known::NoEngine(format!("the program `docker` cannot be started: {error}")),
        Ok(output) if output.status.success() => Known::Yes,
        Ok(_) => match ask(&["version", "--format", "{{.Server.Version}}"]) {
            Ok(output) if output.status.success() => Known::No,
            _ => Known::NoEngine("its engine does not answer".to_owned()),
        },
    }
}

fn table(entries: &[Entry]) -> String {
    let mut lines = vec![format!("{:24} {:12} {:8} PROJECT", "TYPE", "IMAGE", "LEVEL")];
    for entry in entries {
        let (image, project) = (&entry.image.hex()[..12], entry.project.display());
        lines.push(format!(
            "{:24} {image} {:8} {project}",
            entry.name.as_str(),
            entry.security_level
        ));
    }
    lines.join("\n")
}

/// Where a sandbox is declared.
pub struct Home {
    pub global: Global,
    /// What was registered, where that led there.
    pub image: Option<Digest>,
}

/// The project around, or for a registered type the one that it was registered from.
pub fn at_home(global: &Global, name: &str) -> Outcome<Home> {
    let around = || Home { global: global.clone(), image: None };
    if global.project.is_some() || find_root(global).is_ok() {
        return Ok(around());
    }
    let registry = Registry::at(&registry_path()?);
    let Some(entry) = registry.find(name)? else { return Ok(around()) };
    if !Path::new(&entry.project).join("sandboxes.kdl").is_file() {
        let message =
            format!("`{name}` was registered from {}, which is gone", entry.project.display());
        return Err(
            Failure::input(message).with_help(format!("run `sbx register --remove {name}`"))
        );
    }
    let cache = global.cache.clone().or(Some(entry.store));
    let global = Global { project: Some(entry.project), cache, ..global.clone() };
    Ok(Home { global, image: Some(entry.image) })
}
