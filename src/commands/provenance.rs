//! `sbx provenance`: what a built sandbox was made of and how, signed where a key is given.

use clap::Args;

use sbx::report::Provenance;

use super::Global;
use super::documents::DocumentArguments;
use crate::failure::Outcome;
use crate::ui::Ui;

#[derive(Args)]
pub struct ProvenanceArguments {
    #[command(flatten)]
    document: DocumentArguments,
    /// Who builds, as a URI (default: somebody's own machine)
    #[arg(long, value_name = "URI")]
    builder: Option<String>,
}

pub fn run(global: &Global, arguments: &ProvenanceArguments, ui: &Ui) -> Outcome {
    let builder = arguments.builder.as_deref();
    arguments.document.answer(
        global,
        ui,
        |given| Ok(Provenance::new(given, builder)?.to_bytes(&[])),
    )
}
