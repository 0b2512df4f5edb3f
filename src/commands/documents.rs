//! What `sbx sbom` and `sbx provenance` have in common: a document on a sandbox as it is declared now, signed
//! where a key is given.

use std::path::{Path, PathBuf};

use clap::Args;

use sbx::platform::Platform;
use sbx::report::sign::{Envelope, PrivateKey};
use sbx::report::{Given, PAYLOAD_TYPE};

use super::Global;
use super::build::plan_target;
use crate::failure::{Failure, Outcome};
use crate::ui::Ui;
use crate::workspace::{Workspace, key_password};

#[derive(Args)]
pub struct DocumentArguments {
    /// Name of a sandbox
    name: String,
    /// For this platform (default: this machine's)
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
    /// Sign it with this key (PKCS #8 or cosign's, ECDSA P-256): the answer is a DSSE envelope
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Where it goes (default: stdout)
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl DocumentArguments {
    pub fn is_signed(&self) -> bool {
        self.key.is_some()
    }

    /// Answers with a document; one that is signed is a statement.
    pub fn answer(
        &self,
        global: &Global,
        ui: &Ui,
        write: impl FnOnce(Given<'_>) -> Outcome<Vec<u8>>,
    ) -> Outcome {
        let workspace = Workspace::open(global)?;
        let lock = workspace.read_lock()?;
        let target = workspace.target(&self.name, self.platform)?;
        let plan = plan_target(&workspace, target, &lock)?;
        let (project, store) = (&workspace.project, &workspace.store);
        let given = Given { project, sandbox: target.sandbox, lock: &lock, plan: &plan, store };
        let mut document = write(given)?;
        if let Some(path) = &self.key {
            document = Envelope::sign(&read_key(path)?, PAYLOAD_TYPE, &document).to_bytes();
        }
        super::write_answer(self.output.as_deref(), &document, ui)
    }
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
