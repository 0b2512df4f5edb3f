//! `sbx clean --all`: removes the whole store. All that is less blunt is `gc`'s.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use sbx::store::Store;

use super::Global;
use super::build::run_in_namespace;
use crate::failure::Outcome;
use crate::ui::Ui;
use crate::workspace::{find_store, own_program};

#[derive(Args)]
pub struct CleanArguments {
    /// Remove the whole store, sources and images included
    #[arg(long, required = true)]
    all: bool,
}

#[derive(Serialize)]
struct Answer {
    removed: Vec<PathBuf>,
}

pub fn run(global: &Global, _arguments: &CleanArguments, ui: &Ui) -> Outcome {
    let path = find_store(global)?;
    let Some(store) = Store::find(&path)? else {
        let answer = Answer { removed: Vec::new() };
        ui.answer(&answer, || format!("there is no store at {}", path.display()));
        return Ok(());
    };
    if remove_as_owner(&path)? {
        return Ok(());
    }
    let answer = Answer { removed: store.remove_all()? };
    ui.answer(&answer, || {
        answer.removed.iter().map(|path| format!("removed {}\n", path.display())).collect()
    });
    Ok(())
}

/// Trees of an ordinary user hold files of other owners, which only its user namespace can remove:
/// starts this command anew in one where that is so, and answers whether it did.
pub fn remove_as_owner(store: &Path) -> Outcome<bool> {
    let is_filled = |name| store.join(name).read_dir().is_ok_and(|mut dir| dir.next().is_some());
    if rustix::process::geteuid().is_root() || !["trees", "tmp"].into_iter().any(is_filled) {
        return Ok(false);
    }
    enter_namespace().map(|()| true)
}

/// Runs this command once more, in the user namespace, and ends as that does.
pub fn enter_namespace() -> Outcome {
    run_in_namespace(&own_program()?)
}
