//! Bases: somebody else's layers, as they are, below everything.
//!
//! The Key of such a layer is the digest of its tar: whoever has the bytes has the layer, whatever
//! image it came with.

use super::step::{BaseWork, Step, Work};
use super::{PlanError, Planner};
use crate::decl::Layer;
use crate::lock::base::{LockedBase, base_request, from_of};
use crate::store::Key;

impl<'a> Planner<'a> {
    /// The base that a layer stands on.
    pub(super) fn base_below(&self, layer: &Layer) -> Option<LockedBase<'a>> {
        let super::Given { project, platform, lock, .. } = self.given;
        lock.base_below(project, layer, platform)
    }

    /// Adds the layers of the base that a layer begins with.
    pub(super) fn add_base(&mut self, layer: &'a Layer) -> Result<(), PlanError> {
        let Some(from) = from_of(layer) else { return Ok(()) };
        let super::Given { project, platform, lock, .. } = self.given;
        let request = base_request(project, layer, platform);
        let pins = request.as_ref().and_then(|request| lock.answer(request));
        let not_locked = || PlanError::NotLocked { layer: layer.name.clone(), platform };
        let base = pins.and_then(LockedBase::of).ok_or_else(not_locked)?;
        for pin in base.layers {
            self.chain.push(Step {
                layer: layer.name.clone(),
                key: Key(pin.diff_id),
                title: format!("from {}", from.source),
                below: Vec::new(),
                work: Work::Base(BaseWork { pin: pin.clone() }),
            });
        }
        Ok(())
    }
}
