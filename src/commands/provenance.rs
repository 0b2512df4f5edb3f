//! `sbx provenance`: what a built sandbox was made of and how, signed where a key is given.

use std::path::{Path, PathBuf};

use clap::Args;

use sbx::platform::Platform;
use sbx::report::sign::{Envelope, PrivateKey};
use sbx::report::{Given, PAYLOAD_TYPE, provenance};

use super::Global;
use super::build::plan_target;
use crate::failure::{Failure, Outcome};
use crate::ui::Ui;
use crate::workspace::{Workspace, key_password};

#[derive(Args)]
pub struct ProvenanceArguments {
    /// Name of a sandbox
    name: String,
    /// For this platform (default: this machine's)
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
    /// Who builds, as a URI (default: somebody's own machine)
    #[arg(long, value_name = "URI")]
    builder: Option<String>,
    /// Sign it with this key (PKCS #8 or cosign's, ECDSA P-256): the answer is a DSSE envelope
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Where it goes (default: stdout)
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub fn run(global: &Global, arguments: &ProvenanceArguments, ui: &Ui) -> Outcome {
    let workspace = Workspace::open(global)?;
    let lock = workspace.read_lock()?;
    let target = workspace.target(&arguments.name, arguments.platform)?;
    let plan = plan_target(&workspace, target, &lock)?;
    let (project, store) = (&workspace.project, &workspace.store);
    let given = Given { project, sandbox: target.sandbox, lock: &lock, plan: &plan, store };
    let mut document = provenance(given, arguments.builder.as_deref(), &[])?;
    if let Some(path) = &arguments.key {
        document = seal(path, &document)?;
    }
    super::write_answer(arguments.output.as_deref(), &document, ui)
}

/// A statement in an envelope, signed by the key of a file.
pub fn seal(path: &Path, statement: &[u8]) -> Outcome<Vec<u8>> {
    Ok(Envelope::sign(&read_key(path)?, PAYLOAD_TYPE, statement).to_bytes())
}

/// The private key of a file.
pub fn read_key(path: &Path) -> Outcome<PrivateKey> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::input(format!("key {}: {error}", path.display())))?;
    PrivateKey::parse(&text, key_password().as_deref()).map_err(|error| {
        let failure = Failure::input(format!("key {}: {error}", path.display()));
        match error.help() {
            Some(help) => failure.with_help(help),
            None => failure,
        }
    })
}
