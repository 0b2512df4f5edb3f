//! `sbx clean`: removes what can be made again.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use sbx::fsx::remove_tree;
use sbx::jail::run_in_user_namespace;
use sbx::store::Store;

use super::Global;
use crate::failure::{Failure, Outcome};
use crate::ui::Ui;
use crate::workspace::{find_root, own_arguments, store_path};

#[derive(Args)]
pub struct CleanArguments {
    /// Remove the whole store, sources and images included
    #[arg(long)]
    all: bool,
}

#[derive(Serialize)]
struct Answer {
    removed: Vec<PathBuf>,
}

pub fn run(global: &Global, arguments: &CleanArguments, ui: &Ui) -> Outcome {
    let path = store_path(global, &find_root(global)?)?;
    if !path.join("oci-layout").is_file() {
        let answer = Answer { removed: Vec::new() };
        ui.answer(&answer, || format!("there is no store at {}", path.display()));
        return Ok(());
    }
    // trees of an ordinary user hold files of other owners, which only the namespace can remove
    if !rustix::process::geteuid().is_root()
        && path.join("trees").read_dir().is_ok_and(|mut dir| dir.next().is_some())
    {
        let program = std::env::current_exe().map_err(|error| Failure::world(error.to_string()))?;
        let status = run_in_user_namespace(&program, &own_arguments())
            .map_err(|error| Failure::world(error.to_string()))?;
        return match status.code() {
            Some(0) => Ok(()),
            code => {
                Err(Failure::Silent(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(70)))
            }
        };
    }
    Store::open(&path)?.sweep()?;
    let all = [
        "blobs",
        "images",
        "index.json",
        "keys",
        "listings",
        "locks",
        "logs",
        "oci-layout",
        "parts",
        "stats",
        "tmp",
        "trees",
    ];
    let names: &[&str] = if arguments.all { &all } else { &["trees", "logs", "parts", "stats"] };
    let removed: Vec<PathBuf> =
        names.iter().map(|name| path.join(name)).filter(|path| path.exists()).collect();
    for path in &removed {
        remove_tree(path)?;
    }
    if !arguments.all {
        Store::open(&path)?.repair()?;
    }
    let answer = Answer { removed };
    ui.answer(&answer, || {
        answer.removed.iter().map(|path| format!("removed {}\n", path.display())).collect()
    });
    Ok(())
}
