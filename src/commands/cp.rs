//! `sbx cp`: files between this machine and an instance that runs.

use std::path::Path;

use clap::Args;
use serde::Serialize;

use sbx::launch::State;

use crate::failure::{Failure, Outcome};
use crate::ui::Ui;
use crate::workspace::{now_seconds, state_path};

#[derive(Args)]
pub struct CpArguments {
    /// A path, or `INSTANCE:PATH`
    #[arg(value_name = "FROM")]
    from: String,
    /// A path, or `INSTANCE:PATH`; a directory that is there is copied into
    #[arg(value_name = "TO")]
    to: String,
}

#[derive(Serialize)]
struct Answer<'a> {
    from: &'a str,
    to: &'a str,
}

/// An instance and an absolute path in it.
fn split(text: &str) -> Option<(&str, &Path)> {
    let (instance, path) = text.split_once(':')?;
    let plain = !instance.is_empty() && !instance.contains('/');
    (plain && path.starts_with('/')).then_some((instance, Path::new(path)))
}

pub fn run(arguments: &CpArguments, ui: &Ui) -> Outcome {
    let CpArguments { from, to } = arguments;
    let state = State::open(&state_path()?)?;
    match (split(from), split(to)) {
        (Some((instance, path)), None) => {
            state.get_running(instance)?.copy_out(path, Path::new(to))?;
        }
        (None, Some((instance, path))) => {
            state.get_running(instance)?.copy_in(Path::new(from), path, now_seconds())?;
        }
        _ => {
            let message = "one of the two paths is an instance's";
            return Err(Failure::input(message).with_help("write it as `INSTANCE:/PATH`"));
        }
    }
    ui.answer(&Answer { from, to }, String::new);
    Ok(())
}
