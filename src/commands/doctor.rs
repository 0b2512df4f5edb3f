//! `sbx doctor`: what this machine can do, and the one command that mends what it cannot.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use sbx::decl::read_project;
use sbx::jail::instance::lacks_cables;
use sbx::jail::{Emulation, Obstacle, probe};
use sbx::launch::MEND_CABLE;
use sbx::platform::Platform;

use super::Global;
use crate::failure::{Failure, Outcome};
use crate::ui::Ui;
use crate::workspace::{find_root, search_path, store_path};

#[derive(Args)]
pub struct DoctorArguments {}

#[derive(Serialize)]
struct Answer {
    root: bool,
    /// Whether settles and runs work here; what else is in the way is among the obstacles alone.
    sandbox: bool,
    platforms: Vec<Runs>,
    obstacles: Vec<Trouble>,
}

/// What carries out programs of a platform.
#[derive(Serialize)]
struct Runs {
    platform: Platform,
    /// `processor`, `emulator`, an entry of this machine's table, or nothing.
    by: Option<String>,
}

#[derive(Serialize)]
struct Trouble {
    what: String,
    mend: String,
}

pub fn run(global: &Global, _: &DoctorArguments, ui: &Ui) -> Outcome {
    let abilities = probe();
    let sandbox = abilities.obstacles.is_empty();
    let found = platforms(global).into_iter().map(|platform| (platform, Emulation::find(platform)));
    let found: Vec<(Platform, Result<Emulation, Obstacle>)> = found.collect();
    let runs = |(platform, found): &(Platform, Result<Emulation, Obstacle>)| Runs {
        platform: *platform,
        by: found.as_ref().ok().map(by),
    };
    let platforms = found.iter().map(runs).collect();
    let foreign = found.into_iter().filter_map(|(_, found)| found.err());
    let obstacles = abilities
        .obstacles
        .into_iter()
        .chain(foreign)
        .map(|obstacle| Trouble { what: obstacle.what, mend: obstacle.mend });
    let others = foreign_programs().into_iter().map(|path| Trouble {
        what: format!("another program called sbx is in PATH: {}", path.display()),
        mend: "put this one's directory first in PATH, or call it by its path".to_owned(),
    });
    let store = store_trouble(global);
    let egress = lacks_cables().then(|| Trouble {
        what: "instances with `egress` cannot be started".to_owned(),
        mend: MEND_CABLE.to_owned(),
    });
    let answer = Answer {
        root: abilities.root,
        sandbox,
        platforms,
        obstacles: obstacles.chain(others).chain(store).chain(egress).collect(),
    };
    ui.answer(&answer, || show(&answer));
    match answer.sandbox {
        true => Ok(()),
        false => Err(Failure::Silent(3)),
    }
}

/// Those that the project is for, or all where there is none that can be read.
fn platforms(global: &Global) -> Vec<Platform> {
    let project = find_root(global).ok().and_then(|root| read_project(&root).ok());
    project.map_or_else(|| Platform::ALL.to_vec(), |project| project.platforms)
}

fn by(emulation: &Emulation) -> String {
    match emulation {
        Emulation::Native => "processor".to_owned(),
        Emulation::Own => "emulator".to_owned(),
        Emulation::Host(name) => format!("entry `{name}`"),
    }
}

/// Files of this name in PATH that are not this program.
fn foreign_programs() -> Vec<PathBuf> {
    let own = std::env::current_exe().and_then(std::fs::canonicalize).ok();
    search_path()
        .into_iter()
        .map(|dir| dir.join("sbx"))
        .filter(|path| path.is_file() && std::fs::canonicalize(path).ok() != own)
        .collect()
}

fn store_trouble(global: &Global) -> Option<Trouble> {
    let path = store_path(global, &find_root(global).ok()?).ok()?;
    let existing = path.ancestors().find(|dir| dir.exists())?;
    let writable = rustix::fs::access(existing, rustix::fs::Access::WRITE_OK).is_ok();
    (!writable).then(|| Trouble {
        what: format!("the store {} cannot be written", path.display()),
        mend: "name another with `--cache DIR` or `SBX_CACHE`".to_owned(),
    })
}

fn show(answer: &Answer) -> String {
    let mode = if answer.root { "root" } else { "an ordinary user" };
    let head = match answer.sandbox {
        true => format!("builds work here, as {mode}\n"),
        false => {
            format!("content can be laid here, as {mode}, but nothing can be settled or run\n")
        }
    };
    let foreign =
        answer.platforms.iter().filter_map(|Runs { platform, by }| match by.as_deref()? {
            "processor" => None,
            "emulator" => {
                Some(format!("programs of {platform} run through an emulator that is fetched\n"))
            }
            entry => {
                Some(format!("programs of {platform} run through this machine's own {entry}\n"))
            }
        });
    let foreign: String = foreign.collect();
    let troubles: String = answer
        .obstacles
        .iter()
        .map(|trouble| format!("- {}\n  {}\n", trouble.what, trouble.mend))
        .collect();
    head + &foreign + &troubles
}
