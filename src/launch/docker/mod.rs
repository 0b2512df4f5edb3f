//! Docker's engine as a launcher: the same spec as a container without a network of the engine's.
//!
//! A container has the network of none; published ports lead in through the relay, as everywhere, and
//! what `egress` declares leads out through the other one (`holder`). The keeper attaches to the container before it starts, carries what it
//! says to where an instance's output goes, watches its first process, and removes it in the end: so
//! `ps`, `logs`, `stop` and `rm` ask nobody. The engine must run on this machine: its containers are
//! entered. Reached through `bollard` over the unix socket.

mod archive;
mod container;
mod exec;
mod holder;
mod load;
mod pieces;
mod pump;
mod start;

use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::{
    InspectContainerOptions, KillContainerOptionsBuilder, RemoveContainerOptionsBuilder,
};
use serde::{Deserialize, Serialize};

pub use container::print;

use super::error::LaunchError;
use super::state::Record;
use crate::engine::{EngineAddress, EnginePlace};
use crate::jail::Ended;

/// Seconds that one answer may take: a large image is laid out before it comes.
const PATIENCE: u64 = 1800;
/// How often a container is looked at that is about to have ended.
const GLANCE: Duration = Duration::from_millis(20);

/// An engine of this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engine {
    socket: PathBuf,
}

impl Engine {
    /// By where it is; it must be on this machine.
    pub fn new(address: &EngineAddress) -> Result<Self, LaunchError> {
        match &address.place {
            EnginePlace::Socket(socket) => Ok(Engine { socket: socket.clone() }),
            EnginePlace::Net { .. } => Err(LaunchError::EngineHost(address.to_string())),
        }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What a container of ours is called there.
    fn container(record: &Record) -> String {
        format!("sbx-{}", record.id)
    }

    async fn connect(&self) -> Result<Docker, Error> {
        let path = self.socket.to_string_lossy();
        let docker = Docker::connect_with_unix(&path, PATIENCE, bollard::API_DEFAULT_VERSION)?;
        docker.negotiate_version().await
    }

    /// Asks the engine, and waits for its answer.
    fn ask<T>(&self, work: impl AsyncFnOnce(Docker) -> Result<T, Error>) -> Result<T, LaunchError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(LaunchError::Spawn)?;
        let answer = runtime.block_on(async {
            let docker = self.connect().await.map_err(|error| self.away(&error))?;
            work(docker).await.map_err(|error| LaunchError::Engine(said(&error)))
        });
        runtime.shutdown_background();
        answer
    }

    fn away(&self, error: &Error) -> LaunchError {
        LaunchError::EngineAway { socket: self.socket.clone(), reason: said(error) }
    }

    /// How a container ended whose first process is gone; `None` for one that is gone as well.
    pub(super) fn ended(&self, record: &Record) -> Option<Ended> {
        let name = Self::container(record);
        let code = self.ask(async |docker| {
            loop {
                let found =
                    docker.inspect_container(&name, None::<InspectContainerOptions>).await?;
                let state = found.state.unwrap_or_default();
                if state.running != Some(true) {
                    return Ok(state.exit_code);
                }
                // it has not heard of the end yet
                tokio::time::sleep(GLANCE).await;
            }
        });
        let code = code.ok()??;
        // the engine tells of signals as shells do
        Some(Ended::Code(i32::try_from(code).unwrap_or(i32::from(u8::MAX))))
    }

    /// Sends a signal to the program.
    pub(super) fn pass(&self, record: &Record, signal: i32) {
        let options = KillContainerOptionsBuilder::default().signal(&signal.to_string()).build();
        let name = Self::container(record);
        // one that has just ended needs no signal
        self.ask(async |docker| docker.kill_container(&name, Some(options)).await)
            .unwrap_or_default();
    }

    /// Ends and removes the containers that are there.
    pub(super) fn clean_up(&self, record: &Record) {
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        let names = [Self::container(record), Self::holder(record)];
        // an engine that is away has no container that runs, and forgets none: the next look tries again
        let asked = self.ask(async |docker| {
            for name in &names {
                let removed = docker.remove_container(name, Some(options.clone())).await;
                removed.unwrap_or_default();
            }
            Ok(())
        });
        asked.unwrap_or_default();
    }
}

/// What an engine says, without who said it.
fn said(error: &Error) -> String {
    match error {
        Error::DockerResponseServerError { message, .. } => message.trim().to_owned(),
        error => {
            let mut text = error.to_string();
            let mut source = std::error::Error::source(error);
            while let Some(cause) = source {
                text = format!("{text}: {cause}");
                source = cause.source();
            }
            text
        }
    }
}
