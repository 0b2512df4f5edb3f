//! `sbx sbom`: the bill of materials of a built sandbox.

use clap::{Args, ValueEnum};

use sbx::report::{CYCLONEDX_PREDICATE, Inventory, SPDX_PREDICATE, attest, cyclonedx, spdx};

use super::Global;
use super::documents::DocumentArguments;
use crate::failure::Outcome;
use crate::ui::Ui;

#[derive(Args)]
pub struct SbomArguments {
    #[command(flatten)]
    document: DocumentArguments,
    /// Which document
    #[arg(long, value_enum, default_value_t = Format::Spdx)]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    /// SPDX 2.3, JSON
    Spdx,
    /// CycloneDX 1.6, JSON
    Cyclonedx,
}

pub fn run(global: &Global, arguments: &SbomArguments, ui: &Ui) -> Outcome {
    arguments.document.answer(global, ui, |given| {
        let inventory = Inventory::new(given)?;
        let (document, kind) = match arguments.format {
            Format::Spdx => (spdx(&inventory), SPDX_PREDICATE),
            Format::Cyclonedx => (cyclonedx(&inventory), CYCLONEDX_PREDICATE),
        };
        Ok(match arguments.document.is_signed() {
            true => attest(&inventory.subject, &[], kind, &document),
            false => document,
        })
    })
}
