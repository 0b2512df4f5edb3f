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
    #[arg(long, value_name = "URI", value_parser = uri)]
    builder: Option<String>,
}

/// A URI, as SLSA wants its builders called (v1, `TypeURI`).
pub fn uri(text: &str) -> Result<String, String> {
    let is_plain = !text.contains(|c: char| c.is_whitespace() || c.is_control());
    match url::Url::parse(text).is_ok() && is_plain {
        true => Ok(text.to_owned()),
        false => Err("it is no URI, as `https://ci.example.org/runner` is one".to_owned()),
    }
}

pub fn run(global: &Global, arguments: &ProvenanceArguments, ui: &Ui) -> Outcome {
    let builder = arguments.builder.as_deref();
    arguments.document.answer(
        global,
        ui,
        |given| Ok(Provenance::new(given, builder)?.to_bytes(&[])),
    )
}
