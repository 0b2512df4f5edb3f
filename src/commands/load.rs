//! `sbx load`: an image into docker or podman.

use std::time::Instant;

use clap::{Args, ValueEnum};
use serde::Serialize;

use sbx::digest::Digest;
use sbx::image::save::Saved;
use sbx::platform::Platform;
use sbx::reference::Reference;
use sbx::ship::{Docker, Loaded, Podman};

use super::Global;
use super::image::{find_image, open_for};
use crate::failure::{Failure, Outcome};
use crate::ui::Ui;
use crate::workspace::{random_hex, search_path, variable};

#[derive(Args)]
pub struct LoadArguments {
    /// Name of a sandbox that is built, or a reference that was pulled
    name: String,
    /// Into what (default: docker where it answers, else podman)
    #[arg(long, value_enum)]
    engine: Option<Engine>,
    /// What the engine is to call the image (default: the declared reference)
    #[arg(long, value_name = "NAME:TAG")]
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

/// Where docker is when nothing else is said.
const SOCKET: &str = "unix:///var/run/docker.sock";

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
    let (engine, loaded) = match find_engine(arguments.engine)? {
        Found::Docker(docker) => (Engine::Docker, docker.load(&saved, &token)?),
        Found::Podman(podman) => (Engine::Podman, podman.load(&saved, &token)?),
    };
    let answer = Answer {
        engine,
        reference,
        image: found.record.image,
        loaded,
        seconds: start.elapsed().as_secs_f64(),
    };
    ui.answer(&answer, || answer.reference.clone());
    Ok(())
}

enum Found {
    Docker(Box<Docker>),
    Podman(Podman),
}

fn find_engine(asked: Option<Engine>) -> Outcome<Found> {
    let docker = || {
        let host = variable("DOCKER_HOST").filter(|host| !host.is_empty());
        Docker::find(host.as_deref().unwrap_or(SOCKET))
    };
    if !matches!(asked, Some(Engine::Podman))
        && let Some(docker) = docker()?
    {
        return Ok(Found::Docker(Box::new(docker)));
    }
    if !matches!(asked, Some(Engine::Docker))
        && let Some(podman) = Podman::find(&search_path())
    {
        return Ok(Found::Podman(podman));
    }
    let what = match asked {
        Some(Engine::Docker) => "docker does not answer",
        Some(Engine::Podman) => "`podman` is not on this machine",
        None => "neither docker answers nor is `podman` on this machine",
    };
    Err(Failure::world(what).with_help("start docker, or name its socket with `DOCKER_HOST`"))
}
