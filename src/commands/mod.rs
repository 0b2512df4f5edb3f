//! The verbs, and the arguments they share.

mod attest;
mod build;
mod cache;
mod check;
mod clean;
mod completions;
mod cp;
mod doctor;
mod documents;
mod engine;
mod exec;
mod expected;
mod fetch;
mod gc;
mod image;
mod init;
mod instances;
mod launchers;
mod load;
mod lock;
mod output;
mod pipes;
mod provenance;
mod pull;
mod push;
mod ready;
mod register;
mod run;
mod save;
mod sbom;
mod show;
mod test;
mod vendor;

use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::failure::{Failure, Outcome};
use crate::ui::Ui;
pub use crate::workspace::Global;
use crate::workspace::{Workspace, variable};

/// Builds, locks and inspects sandboxes for AI agents.
#[derive(Parser)]
#[command(name = "sbx", version, propagate_version = true, max_term_width = 100)]
pub struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build sandboxes into the store
    Build(build::BuildArguments),
    /// Start a sandbox, and build it first where that is needed
    Run(Box<run::RunArguments>),
    /// Run a program in an instance
    Exec(exec::ExecArguments),
    /// Hold a sandbox to what its callers rely on
    Test(test::TestArguments),
    /// Make built sandboxes known outside of their project, and to AgentScope
    Register(register::RegisterArguments),
    /// List instances
    Ps(instances::PsArguments),
    /// Show what an instance said
    Logs(instances::LogsArguments),
    /// Copy files into an instance or out of it
    Cp(cp::CpArguments),
    /// End instances
    Stop(instances::StopArguments),
    /// Remove instances
    Rm(instances::RmArguments),
    /// Resolve what the layers ask for into `sbx.lock`
    Lock(lock::LockArguments),
    /// Fetch everything that a build needs, so that it can run without a network
    Fetch(fetch::FetchArguments),
    /// Put every source of the lock into a directory, for machines without a network
    Vendor(vendor::VendorArguments),
    /// Write the bill of materials of a built sandbox
    Sbom(sbom::SbomArguments),
    /// Write what a built sandbox was made of and how (SLSA provenance)
    Provenance(provenance::ProvenanceArguments),
    /// Read and plan everything without building
    Check(check::CheckArguments),
    /// Write a new project
    Init(init::InitArguments),
    /// Say what this machine can do, and what mends what it cannot
    Doctor(doctor::DoctorArguments),
    /// Show a sandbox's configuration, layers and sizes
    Show(show::ShowArguments),
    /// Bring an image to a registry
    Push(push::PushArguments),
    /// Bring an image in from a registry
    Pull(pull::PullArguments),
    /// Bring an image into docker or podman
    Load(load::LoadArguments),
    /// Write an image into a file: an archive that other tools load, or its file system
    Save(save::SaveArguments),
    /// Remove from the store what nobody needs
    Gc(gc::GcArguments),
    /// Remove the whole store
    Clean(clean::CleanArguments),
    /// Print completions for a shell
    Completions(completions::CompletionsArguments),
}

/// Whether whoever sits there wants and has colours (no-color.org).
fn has_colors() -> bool {
    let is = |name: &str, such: fn(&str) -> bool| variable(name).is_some_and(|value| such(&value));
    !is("NO_COLOR", |value| !value.is_empty()) && !is("TERM", |value| value == "dumb")
}

/// Runs a verb to its exit code.
pub fn run(arguments: Arguments) -> ExitCode {
    let Arguments { mut global, verb } = arguments;
    let ui = Ui::new(global.json, global.quiet, has_colors());
    global.hearer = ui.hearer();
    if let Some(jobs) = global.jobs {
        // the first to say so counts, and this is the first
        rayon::ThreadPoolBuilder::new()
            .num_threads(usize::from(jobs))
            .build_global()
            .unwrap_or_default();
    }
    let result = match verb {
        Verb::Build(arguments) => build::run(&global, &arguments, &ui),
        Verb::Run(arguments) => run::run(&global, &arguments, &ui),
        Verb::Exec(arguments) => exec::run(&arguments, &ui),
        Verb::Test(arguments) => test::run(&global, &arguments, &ui),
        Verb::Register(arguments) => register::run(&global, &arguments, &ui),
        Verb::Ps(arguments) => instances::ps(&arguments, &ui),
        Verb::Logs(arguments) => instances::logs(&arguments, &ui),
        Verb::Cp(arguments) => cp::run(&arguments, &ui),
        Verb::Stop(arguments) => instances::stop(&arguments, &ui),
        Verb::Rm(arguments) => instances::rm(&arguments, &ui),
        Verb::Lock(arguments) => lock::run(&global, &arguments, &ui),
        Verb::Fetch(arguments) => fetch::run(&global, &arguments, &ui),
        Verb::Vendor(arguments) => vendor::run(&global, &arguments, &ui),
        Verb::Sbom(arguments) => sbom::run(&global, &arguments, &ui),
        Verb::Provenance(arguments) => provenance::run(&global, &arguments, &ui),
        Verb::Check(arguments) => check::run(&global, &arguments, &ui),
        Verb::Init(arguments) => init::run(&global, &arguments, &ui),
        Verb::Doctor(arguments) => doctor::run(&global, &arguments, &ui),
        Verb::Show(arguments) => show::run(&global, &arguments, &ui),
        Verb::Push(arguments) => push::run(&global, &arguments, &ui),
        Verb::Pull(arguments) => pull::run(&global, &arguments, &ui),
        Verb::Load(arguments) => load::run(&global, &arguments, &ui),
        Verb::Save(arguments) => save::run(&global, &arguments, &ui),
        Verb::Gc(arguments) => gc::run(&global, &arguments, &ui),
        Verb::Clean(arguments) => clean::run(&global, &arguments, &ui),
        Verb::Completions(arguments) => completions::run(&arguments, &ui),
    };
    match result.and_then(|()| ui.written()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            ui.fail(&failure);
            failure.exit_code()
        }
    }
}

/// An answer that is a document: into a file, or to stdout as it is.
fn write_answer(path: Option<&Path>, document: &[u8], ui: &Ui) -> Outcome {
    match path {
        Some(path) => output::put(path, document, ui),
        None => {
            ui.raw(document);
            Ok(())
        }
    }
}

/// Refuses a command that is of no use without a network.
pub fn needs_network(workspace: &Workspace, command: &str, help: &str) -> Outcome {
    match workspace.client.is_offline() {
        false => Ok(()),
        true => {
            let message = format!("`{command}` needs the network, and `--offline` refuses it");
            Err(Failure::world(message).with_help(help))
        }
    }
}
