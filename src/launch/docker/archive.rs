//! A container's files, for who may ask the engine but not look into its containers.
//!
//! The engine packs and unpacks what is in a container's root and volumes (`/containers/ID/archive`); what
//! else is mounted in there it does not see, and would answer for what lies below it: such places are
//! refused. Links are followed one by one, as the engine tells where each leads within the root.

use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::{
    ContainerArchiveInfoOptionsBuilder, DownloadFromContainerOptionsBuilder,
    UploadToContainerOptionsBuilder,
};
use futures::StreamExt;

use super::super::error::LaunchError;
use super::super::state::Record;
use super::Engine;
use super::container::mounted;
use super::pieces::{Pipe, Spring, stream, way};
use crate::fsx::{IoAt, PathIo};
use crate::jail::instance::Tightness;

/// How the engine marks directories and links (Go's `fs.FileMode`).
const DIR: u32 = 1 << 31;
const LINK: u32 = 1 << 27;

/// What a path leads to.
pub(in super::super) struct Followed {
    /// Without links.
    pub path: PathBuf,
    pub is_dir: bool,
}

impl Engine {
    /// Follows a path within a container's root.
    pub(in super::super) fn follow(
        &self,
        record: &Record,
        path: &Path,
    ) -> Result<Followed, LaunchError> {
        text(path)?;
        let (name, tightness) = (Self::container(record), record.tightness);
        self.ask(async |docker| follow(&docker, &name, path, tightness).await)?
    }

    /// Packs what is at a path whose directory has no links, and has it read.
    pub(in super::super) fn take(
        &self,
        record: &Record,
        path: &Path,
        unpack: impl FnOnce(&mut dyn Read) -> Result<(), LaunchError> + Send,
    ) -> Result<(), LaunchError> {
        seen(path, record.tightness)?;
        let options = DownloadFromContainerOptionsBuilder::new().path(text(path)?).build();
        let name = Self::container(record);
        let (sender, receiver) = way();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| unpack(&mut Spring::new(receiver)));
            let sent = self.ask(async move |docker| {
                let mut packed =
                    std::pin::pin!(docker.download_from_container(&name, Some(options)));
                while let Some(piece) = packed.next().await {
                    // who has read enough, or cannot go on, says so itself
                    if sender.send(Ok(piece?)).await.is_err() {
                        break;
                    }
                }
                Ok(())
            });
            let unpacked = reader.join().expect("a reader does not panic");
            sent.and(unpacked)
        })
    }

    /// Unpacks what is written in a directory, under a name there.
    pub(in super::super) fn give(
        &self,
        record: &Record,
        dir: &Path,
        name: &Path,
        pack: impl FnOnce(&mut dyn Write) -> Result<(), PathIo> + Send,
    ) -> Result<(), LaunchError> {
        seen(&dir.join(name), record.tightness)?;
        let options = UploadToContainerOptionsBuilder::new().path(text(dir)?);
        let options = options.no_overwrite_dir_non_dir("true").build();
        let name = Self::container(record);
        let (sender, receiver) = way();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut pipe = Pipe::new(sender);
                pack(&mut pipe).inspect_err(|error| pipe.break_off(error))
            });
            let taken = self.ask(async |docker| {
                let body = bollard::body_try_stream(stream(receiver));
                docker.upload_to_container(&name, Some(options), body).await
            });
            let packed = writer.join().expect("a writer does not panic");
            match packed {
                // an engine that takes no more has said why
                Err(error) if error.source.kind() == io::ErrorKind::BrokenPipe => {
                    taken.and(Err(error.into()))
                }
                Err(error) => Err(error.into()),
                Ok(()) => taken,
            }
        })
    }
}

async fn follow(
    docker: &Docker,
    name: &str,
    path: &Path,
    tightness: Tightness,
) -> Result<Result<Followed, LaunchError>, Error> {
    let fail = |kind: io::ErrorKind| Ok(Err(kind).at("open", path).map_err(LaunchError::from));
    let mut found = Followed { path: "/".into(), is_dir: true };
    for part in path.components() {
        let next = match part {
            Component::RootDir | Component::CurDir | Component::Prefix(_) => continue,
            _ if !found.is_dir => return fail(io::ErrorKind::NotADirectory),
            Component::ParentDir => {
                found.path.pop();
                continue;
            }
            Component::Normal(part) => found.path.join(part),
        };
        let Some(stat) = look(docker, name, &next).await? else {
            return fail(io::ErrorKind::NotFound);
        };
        let (path, stat) = match stat.link {
            None => (next, Some(stat)),
            Some(target) => {
                let end = look(docker, name, &target).await?;
                (target, end)
            }
        };
        if let Err(unseen) = seen(&path, tightness) {
            return Ok(Err(unseen));
        }
        let Some(Stat { is_dir, .. }) = stat else { return fail(io::ErrorKind::NotFound) };
        found = Followed { path, is_dir };
    }
    Ok(Ok(found))
}

struct Stat {
    is_dir: bool,
    /// Where a link leads in the end.
    link: Option<PathBuf>,
}

async fn look(docker: &Docker, name: &str, path: &Path) -> Result<Option<Stat>, Error> {
    let options = ContainerArchiveInfoOptionsBuilder::new().path(&path.to_string_lossy()).build();
    match docker.get_container_archive_info(name, Some(options)).await {
        Ok(found) => Ok(Some(Stat {
            is_dir: found.file_mode & DIR != 0,
            link: (found.file_mode & LINK != 0).then(|| found.link_target.into()),
        })),
        Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn seen(path: &Path, tightness: Tightness) -> Result<(), LaunchError> {
    let over = mounted(tightness).into_iter().find(|dir| path.starts_with(dir));
    over.map_or(Ok(()), |place| Err(LaunchError::Unseen(place)))
}

/// A path as a question to the engine has it.
fn text(path: &Path) -> Result<&str, PathIo> {
    path.to_str().ok_or(io::ErrorKind::InvalidInput).at("name to docker's engine", path)
}
