//! `sbx sbom`: the bill of materials of a built sandbox.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use sbx::platform::Platform;
use sbx::report::{CYCLONEDX_PREDICATE, Given, Inventory, SPDX_PREDICATE, attest, cyclonedx, spdx};

use super::Global;
use super::build::plan_target;
use super::provenance::seal;
use crate::failure::Outcome;
use crate::ui::Ui;
use crate::workspace::Workspace;

#[derive(Args)]
pub struct SbomArguments {
    /// Name of a sandbox
    name: String,
    /// Which document
    #[arg(long, value_enum, default_value_t = Format::Spdx)]
    format: Format,
    /// For this platform (default: this machine's)
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
    /// Sign it with this key: the answer is an attestation, as `provenance` gives it
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Where it goes (default: stdout)
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// SPDX 2.3, JSON
    Spdx,
    /// CycloneDX 1.6, JSON
    Cyclonedx,
}

pub fn run(global: &Global, arguments: &SbomArguments, ui: &Ui) -> Outcome {
    let workspace = Workspace::open(global)?;
    let lock = workspace.read_lock()?;
    let target = workspace.target(&arguments.name, arguments.platform)?;
    let plan = plan_target(&workspace, target, &lock)?;
    let (project, store) = (&workspace.project, &workspace.store);
    let given = Given { project, sandbox: target.sandbox, lock: &lock, plan: &plan, store };
    let inventory = Inventory::new(given)?;
    let (mut document, kind) = match arguments.format {
        Format::Spdx => (spdx(&inventory), SPDX_PREDICATE),
        Format::Cyclonedx => (cyclonedx(&inventory), CYCLONEDX_PREDICATE),
    };
    if let Some(path) = &arguments.key {
        document = seal(path, &attest(&inventory.subject, &[], kind, &document))?;
    }
    super::write_answer(arguments.output.as_deref(), &document, ui)
}
