//! Bringing an image to an engine: the archive of `docker save`, streamed, where it is not there yet.

use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::ImportImageOptions;
use futures::{StreamExt, TryStreamExt};
use tokio::sync::mpsc::Receiver;

use super::super::error::LaunchError;
use super::Engine;
use super::pieces::{Piece, Pipe, stream, way};
use crate::image::save::{ArchiveKind, Saved};

impl Engine {
    /// The name that the engine has for an image, which is brought to it if it is not there;
    /// `bringing` hears of that first.
    pub fn bring(&self, saved: &Saved<'_>, bringing: impl FnOnce()) -> Result<String, LaunchError> {
        let id = saved.record.image.to_string();
        // what `sbx load` brought to containerd's store is known there by its manifest
        for known in [&id, &saved.record.manifest.to_string()] {
            if self.ask(async |docker| find(&docker, known).await)?.is_some() {
                return Ok(known.clone());
            }
        }
        bringing();
        self.load(saved)?;
        if self.ask(async |docker| find(&docker, &id).await)?.is_some() {
            return Ok(id);
        }
        // an engine on containerd's store knows images by their manifests, which it made itself
        let found = self.ask(async |docker| find(&docker, saved.reference).await)?;
        let wanted: Vec<String> =
            saved.record.layers.iter().map(|layer| layer.diff_id.to_string()).collect();
        match found {
            Some((id, layers)) if layers == wanted => Ok(id),
            _ => Err(LaunchError::Engine(format!("it did not take image {id}"))),
        }
    }

    fn load(&self, saved: &Saved<'_>) -> Result<(), LaunchError> {
        let (sender, receiver) = way();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut pipe = Pipe::new(sender);
                let written = saved.write(ArchiveKind::Docker, &mut pipe);
                written.inspect_err(|error| pipe.break_off(error))
            });
            let loaded = self.ask(async |docker| load(&docker, receiver).await);
            let written = writer.join().expect("a writer does not panic");
            match (loaded, written) {
                (Ok(()), Ok(())) => Ok(()),
                (Err(error), _) => Err(error),
                (Ok(()), Err(error)) => Err(LaunchError::Engine(error.to_string())),
            }
        })
    }
}

/// An image's name there, and its layers.
async fn find(docker: &Docker, name: &str) -> Result<Option<(String, Vec<String>)>, Error> {
    match docker.inspect_image(name).await {
        Ok(image) => {
            let layers = image.root_fs.and_then(|root| root.layers).unwrap_or_default();
            Ok(Some((image.id.unwrap_or_default(), layers)))
        }
        Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn load(docker: &Docker, receiver: Receiver<Piece>) -> Result<(), Error> {
    let body = bollard::body_try_stream(stream(receiver));
    let told = docker.import_image(ImportImageOptions::default(), body, None);
    told.map(|told| told.map(drop)).try_collect().await
}
