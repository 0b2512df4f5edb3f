//! `sbx load`: an image into docker or podman.

use std::fmt;
use std::path::Path;
use std::time::Instant;

use clap::{Args, ValueEnum};
use serde::Serialize;

use sbx::digest::Digest;
use sbx::engine::{EnginePlace, NamedBy};
use sbx::image::save::Saved;
use sbx::platform::Platform;
use sbx::reference::Reference;
use sbx::ship::{Docker, Loaded, Podman, ShipError};

use super::Global;
use super::engine::find_engine_address;
use super::image::{find_image, open_for, parse_name};
use crate::failure::{Failure, Outcome};
use crate::ui::Ui;
use crate::workspace::{Workspace, random_hex, search_path};

#[derive(Args)]
pub struct LoadArguments {
    /// Name of a sandbox that is built, or a reference that was pulled
    name: String,
    /// Into what (default: docker where it answers, else podman)
    #[arg(long, value_enum)]
    engine: Option<Engine>,
    /// What the engine is to call the image (default: the declared reference)
    #[arg(long, value_name = "NAME:TAG", value_parser = parse_name)]
    reference: Option<Reference>,
    /// Of this platform (default: this machine's)
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
}

#[derive(Clone, Copy, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Engine {
    Docker,
    Podman,
}

/// `load --json`.
#[derive(Serialize)]
struct Answer {
    engine: Engine,
    reference: String,
    image: Digest,
    #[serde(flatten)]
    loaded: Loaded,
    seconds: f64,
}

pub fn run(global: &Global, arguments: &LoadArguments, ui: &Ui) -> Outcome {
    let start = Instant::now();
    let workspace = open_for(global, &arguments.name)?;
    let found = find_image(&workspace, &arguments.name, arguments.platform)?;
    let reference = match &arguments.reference {
        Some(reference) => reference.to_string(),
        None => found.reference.clone(),
    };
    let saved = Saved {
        store: &workspace.store,
        record: &found.record,
        platform: found.platform,
        reference: &reference,
    };
    let token = random_hex(16)?;
    let whole = || ui.say("the engine does not reach this machine: it gets the whole image");
    let (engine, loaded) = match find_engine(&workspace, arguments.engine, ui)? {
        Found::Docker(docker) => (Engine::Docker, docker.load(&saved, &token, whole)?),
        Found::Podman(podman) => (Engine::Podman, podman.load(&saved, &token)?),
    };
    let answer = Answer {
        engine,
        reference,
        image: found.record.image,
        loaded,
        seconds: start.elapsed().as_secs_f64(),
    };
    ui.say(&format!("loaded into {engine}"));
    ui.answer(&answer, || answer.reference.clone());
    Ok(())
}

enum Found {
    Docker(Box<Docker>),
    Podman(Podman),
}

fn find_engine(workspace: &Workspace, asked: Option<Engine>, ui: &Ui) -> Outcome<Found> {
    let podman = || Podman::find(&search_path()).map(Found::Podman);
    if let Some(Engine::Podman) = asked {
        return podman().ok_or_else(|| Failure::world("`podman` is not on this machine"));
    }
    let address = find_engine_address()?;
    match Docker::find(&address, &workspace.store) {
        Ok(docker) => Ok(Found::Docker(Box::new(docker))),
        // nobody said that it must be docker
        Err(error @ ShipError::EngineAway { .. })
            if asked.is_none() && address.named_by == NamedBy::Nobody =>
        {
            let nobody = |path: &Path| !path.exists();
            if !matches!(&address.place, EnginePlace::Socket(path) if nobody(path)) {
                ui.say(&format!("note: {error}"));
            }
            podman().ok_or_else(|| {
                let help = "start docker, or name its socket with `DOCKER_HOST`";
                Failure::world("neither docker answers nor is `podman` on this machine")
                    .with_help(help)
            })
        }
        Err(error) => Err(error.into()),
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Engine::Docker => "docker",
            Engine::Podman => "podman",
        })
    }
}
