//! What a build needs from outside, and fetching it.

use std::collections::BTreeSet;

use super::builder::Builder;
use super::error::BuildError;
use crate::fetch::FetchError;
use crate::lock::solve::Places;
use crate::lock::{BaseLayerPin, DebPin, Source};
use crate::plan::Plan;
use crate::store::Key;

impl Builder<'_> {
    /// The sources of a plan that the store does not have and a build needs.
    pub fn missing_sources<'p>(&self, plan: &'p Plan) -> Result<Vec<Source<'p>>, BuildError> {
        Ok(self.lacking_sources(plan, &self.wanted(plan)?))
    }

    /// The sources of some steps that the store does not have.
    pub(super) fn lacking_sources<'p>(
        &self,
        plan: &'p Plan,
        wanted: &BTreeSet<Key>,
    ) -> Vec<Source<'p>> {
        let places = self.places();
        let mut missing = Vec::new();
        for step in plan.aside.iter().chain(&plan.steps) {
            if wanted.contains(&step.key) {
                let lacks: Vec<_> =
                    step.work.sources().into_iter().filter(|one| !places.has(one)).collect();
                if !lacks.is_empty() {
                    missing.extend(step.work.outer().into_iter().filter(|one| !places.has(one)));
                }
                missing.extend(lacks);
            }
        }
        missing.sort_by_key(Source::integrity);
        missing.dedup_by_key(|source| source.integrity());
        missing
    }

    pub(super) fn places(&self) -> Places<'_> {
        let Builder { project, mirrors, store, keychain, .. } = *self;
        Places { project, mirrors, store, keychain }
    }

    /// Fetches packages of sbx's own, if they are not there.
    pub fn fetch_tools(&self, tools: &[Source<'_>]) -> Result<(), BuildError> {
        Ok(self.places().fetch_tools(self.client, tools, self.events)?)
    }

    /// Fetches sources.
    pub fn fetch(&self, sources: &[Source<'_>]) -> Result<(), BuildError> {
        if sources.is_empty() {
            return Ok(());
        }
        let places = self.places();
        places.hold(sources)?;
        self.store.make_room()?;
        let (layers, others): (Vec<_>, Vec<_>) =
            sources.iter().copied().partition(|source| matches!(source, Source::BaseLayer(_)));
        let mut failures = places.fetch(self.client, &others, self.events)?;
        let layers: Vec<&BaseLayerPin> = layers
            .into_iter()
            .filter_map(|source| match source {
                Source::BaseLayer(pin) => Some(pin),
                _ => None,
            })
            .collect();
        failures.extend(places.fetch_layers(self.client, &layers, self.events)?);
        if failures.is_empty() {
            return Ok(());
        }
        let lost = sources.iter().filter(|source| failures.contains_key(&source.integrity()));
        let deb = |source: &Source<'_>| match source {
            Source::Deb(pin) => Some((*pin).clone()),
            _ => None,
        };
        let pins: Option<Vec<DebPin>> = lost.map(deb).collect();
        match pins {
            Some(pins) if failures.values().all(FetchError::is_gone) => {
                Err(BuildError::Gone { pins })
            }
            _ => {
                let errors = failures.into_values().collect();
                Err(BuildError::Sources { total: sources.len(), errors })
            }
        }
    }
}
