//! Bringing an image to an engine: the archive of `docker save`, streamed, where it is not there yet.

use std::io::{self, Write};

use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::ImportImageOptions;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::super::error::LaunchError;
use super::Engine;
use crate::image::save::{ArchiveKind, Saved};

/// Pieces that are on their way at once, and their size.
const PIECES: usize = 8;
const PIECE: usize = 256 << 10;

type Piece = Result<Bytes, io::Error>;

impl Engine {
    /// The name that the engine has for an image, which is brought to it if it is not there;
    /// `bringing` hears of that first.
    pub fn bring(&self, saved: &Saved<'_>, bringing: impl FnOnce()) -> Result<String, LaunchError> {
        let id = saved.record.image.to_string();
        if self.ask(async |docker| find(&docker, &id).await)?.is_some() {
            return Ok(id);
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
        let (sender, receiver) = channel(PIECES);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut pipe = Pipe { sender, piece: Vec::with_capacity(PIECE) };
                let written = saved.write(ArchiveKind::Docker, &mut pipe);
                if let Err(error) = &written {
                    // an archive that breaks off must not look whole
                    pipe.send(Err(io::Error::other(error.to_string()))).unwrap_or_default();
                }
                written
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
    let pieces = futures::stream::unfold(receiver, async |mut receiver| {
        receiver.recv().await.map(|piece| (piece, receiver))
    });
    let body = bollard::body_try_stream(pieces);
    let told = docker.import_image(ImportImageOptions::default(), body, None);
    told.map(|told| told.map(drop)).try_collect().await
}

/// What is written here goes to the engine.
struct Pipe {
    sender: Sender<Piece>,
    piece: Vec<u8>,
}

impl Pipe {
    fn send(&self, piece: Piece) -> io::Result<()> {
        self.sender.blocking_send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        self.send(Ok(piece.into()))
    }
}
