//! Sources that are unpacked into a layer: a step that sees nothing.

use serde::{Serialize, Serializer};

use super::owner::{OwnerError, Owners};
use super::step::{Ids, Step, Work};
use super::{PlanError, Planner, key_of};
use crate::decl::{Layer, LayerFiles, Location, Take};
use crate::lock::question::recipe_request;
use crate::lock::{Pin, Source};
use crate::path::LayerPath;

/// A source, and what of it comes where.
#[derive(Clone, Debug)]
pub struct UnpackWork {
    pub pin: Pin,
    pub take: TakeWork,
}

/// Which files, and how they are laid.
#[derive(Clone, Debug, Serialize)]
pub struct TakeWork {
    #[serde(serialize_with = "shown")]
    pub into: LayerPath,
    pub subdirectory: String,
    pub strip: u32,
    pub include: Vec<String>,
    pub exclude: Vec<String>,
    pub ids: Ids,
    pub mode: Option<u32>,
    pub replace: bool,
}

fn shown<S: Serializer>(path: &LayerPath, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(path)
}

impl<'a> Planner<'a> {
    pub(super) fn add_unpack(
        &mut self,
        layer: &'a Layer,
        at: usize,
        take: &Take,
        place: &Location,
    ) -> Result<(), PlanError> {
        let super::Given { project, platform, lock, local, .. } = self.given;
        let not_locked = || PlanError::NotLocked { layer: layer.name.clone(), platform };
        let request = recipe_request(project, layer, at, platform, local).ok_or_else(not_locked)?;
        let pins = lock.answer(&request).ok_or_else(not_locked)?;
        let pin = pins.iter().find(|pin| pin.source().is_some()).ok_or_else(not_locked)?;
        if let Some(take) = self.take_work(layer, take, place)? {
            self.rest.push(unpack_step(layer, pin.clone(), take));
        }
        Ok(())
    }

    /// Adds what is taken of another layer: a step that sees all that this one gives.
    pub(super) fn add_copy(
        &mut self,
        layer: &'a Layer,
        files: &'a LayerFiles,
    ) -> Result<(), PlanError> {
        let Some(stage) = self.given.project.layers.get(&files.layer) else { return Ok(()) };
        let Some(take) = self.take_work(layer, &files.take, &files.at)? else { return Ok(()) };
        let view = self.view(stage, usize::MAX)?;
        for step in view.aside.iter().chain(&view.steps) {
            if !self.aside.iter().any(|known| known.key == step.key) {
                self.aside.push(step.clone());
            }
        }
        let below: Vec<_> = view.steps.iter().map(|step| step.key).collect();
        self.rest.push(Step {
            layer: layer.name.clone(),
            key: key_of("copy", &(&below, &take)),
            title: format!("files of {} {}", files.layer, take.into),
            below,
            work: Work::Copy(take),
        });
        Ok(())
    }

    /// What is taken, with numeric owners; `None` where those are a fault.
    fn take_work(
        &mut self,
        layer: &Layer,
        take: &Take,
        place: &Location,
    ) -> Result<Option<TakeWork>, PlanError> {
        let ids = match Owners::new(self.given.project, layer).ids(take.owner.as_ref(), place) {
            Ok(ids) => ids,
            Err(OwnerError::Fault(fault)) => {
                self.faults.push(*fault);
                return Ok(None);
            }
            Err(OwnerError::NotScanned) => return Err(PlanError::NotScanned(layer.name.clone())),
        };
        Ok(Some(TakeWork {
            into: take.into.clone(),
            subdirectory: take.subdirectory.clone(),
            strip: take.strip,
            include: take.include.clone(),
            exclude: take.exclude.clone(),
            ids,
            mode: take.mode,
            replace: take.replace,
        }))
    }
}

/// A step that lays what is taken of a pin's source. A tree of git's is not an archive of somebody's:
/// its links are kept, and its directories have the owner of what is in them.
pub(super) fn unpack_step(layer: &Layer, pin: Pin, take: TakeWork) -> Step {
    let kind = if matches!(pin, Pin::Git(_)) { "git" } else { "unpack" };
    Step {
        layer: layer.name.clone(),
        key: key_of(kind, &(pin.source().map(|source| source.integrity()), &take)),
        title: format!("{} {}", pin.label(), take.into),
        below: Vec::new(),
        work: Work::Unpack(UnpackWork { pin, take }),
    }
}

impl UnpackWork {
    pub fn source(&self) -> Option<Source<'_>> {
        self.pin.source()
    }
}
