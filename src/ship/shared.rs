//! A tag that several signers write to.
//!
//! Each reads what is there, adds his own and writes all of it. Who wrote in between is overwritten, and no
//! registry says so. What can be done is done: little time passes between reading and writing, for all that
//! takes long is done before; each looks again after a while (`oci::pause`) and puts back what is missing of
//! all that he saw; and what was written is not only under the tag, for it is listed as what refers to the image:
//! whoever finds there what nobody had written before he began, and what the tag lacks, has overwritten it.

use std::collections::BTreeSet;
use std::time::Instant;

use serde_json::Value;

use super::ShipError;
use super::attest::MOST;
use crate::digest::Digest;
use crate::fetch::FetchError;
use crate::oci::{Artifact, OciError, Registry, pause};

/// How often it is written to where others write to it as well.
const ROUNDS: u32 = 12;

/// A tag under which there are papers about a manifest.
pub(super) struct SharedTag<'a> {
    registry: &'a Registry<'a>,
    subject: &'a Digest,
    artifact_type: &'a str,
    tag: &'a str,
    /// Artifacts that are known to refer to the manifest: what they have needs no looking after.
    known: BTreeSet<Digest>,
    papers: Papers,
}

/// What is to be under a tag.
#[derive(Default)]
struct Papers {
    own: Vec<Value>,
    /// What gave way to that.
    gone: Vec<Value>,
    others: Vec<Value>,
}

/// What came of it.
pub(super) struct Settled {
    /// What the tag names now.
    pub(super) digest: Digest,
    /// Whether somebody else wrote that, and listed it.
    pub(super) is_listed: bool,
    /// Artifacts that say nothing which what the tag names does not.
    pub(super) replaced: BTreeSet<Digest>,
}

impl<'a> SharedTag<'a> {
    pub(super) fn new(
        registry: &'a Registry<'a>,
        subject: &'a Digest,
        artifact_type: &'a str,
        tag: &'a str,
    ) -> Self {
        let (known, papers) = (BTreeSet::new(), Papers::default());
        SharedTag { registry, subject, artifact_type, tag, known, papers }
    }

    /// Adds papers. What gives way to them is chosen of what is there before them: what comes at the same time
    /// stays, whoever wrote it.
    pub(super) fn add(
        mut self,
        own: Vec<Value>,
        gives_way: &dyn Fn(&Value) -> Result<bool, ShipError>,
        write: &mut dyn FnMut(Vec<Value>) -> Result<Digest, ShipError>,
    ) -> Result<Settled, ShipError> {
        let there = self.look()?;
        for layer in there.iter().flat_map(|there| &there.layers) {
            if !own.contains(layer) && gives_way(layer)? {
                self.papers.gone.push(layer.clone());
            }
        }
        self.papers.own = own;
        if let Some(Artifact { digest, layers, .. }) = there
            && self.papers.merge(&layers) == layers
        {
            return Ok(self.settle(digest, None, BTreeSet::new()));
        }
        self.known.extend(self.list()?);
        let (mut written, mut replaced) = (None, BTreeSet::new());
        for round in 0..ROUNDS {
            let start = Instant::now();
            let (digest, there) = self.look()?.map(|there| (there.digest, there.layers)).unzip();
            let there = there.unwrap_or_default();
            let layers = self.papers.merge(&there);
            match digest {
                Some(digest) if layers == there => {
                    if !self.find_lost(&mut replaced)? {
                        return Ok(self.settle(digest, written, replaced));
                    }
                }
                digest => {
                    replaced.extend(digest);
                    written = Some(self.write(layers, there.len(), write)?);
                    replaced.extend(written);
                    pause(start.elapsed(), round);
                }
            }
        }
        match self.look()?.filter(|there| self.papers.are_in(&there.layers)) {
            Some(there) => Ok(self.settle(there.digest, written, replaced)),
            None => Err(ShipError::Unsettled { registry: self.host(), tag: self.tag.to_owned() }),
        }
    }

    fn write(
        &mut self,
        layers: Vec<Value>,
        count: usize,
        write: &mut dyn FnMut(Vec<Value>) -> Result<Digest, ShipError>,
    ) -> Result<Digest, ShipError> {
        if layers.len() > MOST {
            let tag = self.tag.to_owned();
            return Err(ShipError::Crowded { registry: self.host(), tag, count });
        }
        let digest = write(layers)?;
        self.known.insert(digest);
        Ok(digest)
    }

    fn settle(
        &self,
        digest: Digest,
        written: Option<Digest>,
        mut replaced: BTreeSet<Digest>,
    ) -> Settled {
        replaced.remove(&digest);
        let is_listed = written != Some(digest) && self.known.contains(&digest);
        Settled { digest, is_listed, replaced }
    }

    fn host(&self) -> String {
        self.registry.host().to_owned()
    }

    fn look(&self) -> Result<Option<Artifact>, ShipError> {
        match self.registry.find_artifact(self.tag) {
            Err(OciError::Missing { .. }) => Ok(None),
            found => Ok(Some(found?)),
        }
    }

    /// What refers to the manifest and is of the kind that is under the tag.
    fn list(&self) -> Result<Vec<Digest>, ShipError> {
        let listed = self.registry.list_referrers(self.subject)?.into_iter();
        let listed = listed.filter(|one| one.artifact_type == self.artifact_type);
        Ok(listed.map(|one| one.digest).collect())
    }

    /// Whether there is what others wrote since, and what was overwritten then: it is kept from now on.
    fn find_lost(&mut self, replaced: &mut BTreeSet<Digest>) -> Result<bool, ShipError> {
        let mut is_lost = false;
        for digest in self.list()? {
            if !self.known.insert(digest) {
                continue;
            }
            match self.registry.find_artifact(&digest.to_string()) {
                // nobody reads it
                Err(OciError::Missing { .. } | OciError::Fetch(FetchError::TooLarge { .. })) => {}
                found => {
                    is_lost |= self.papers.see(&found?.layers);
                    replaced.insert(digest);
                }
            }
        }
        Ok(is_lost)
    }
}

impl Papers {
    /// What is to be there, given what is.
    fn merge(&mut self, there: &[Value]) -> Vec<Value> {
        self.see(there);
        let kept = there.iter().filter(|layer| !self.gone.contains(layer));
        let mut all: Vec<Value> = kept.cloned().collect();
        for layer in self.others.iter().chain(&self.own) {
            if !all.contains(layer) {
                all.push(layer.clone());
            }
        }
        all
    }

    /// Remembers what others wrote; answers whether any of it is new.
    fn see(&mut self, layers: &[Value]) -> bool {
        let known = |layer: &Value| {
            [&self.own, &self.gone, &self.others].iter().any(|papers| papers.contains(layer))
        };
        let new: Vec<Value> = layers.iter().filter(|layer| !known(layer)).cloned().collect();
        let is_new = !new.is_empty();
        self.others.extend(new);
        is_new
    }

    fn are_in(&self, layers: &[Value]) -> bool {
        self.own.iter().all(|layer| layers.contains(layer))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_others_wrote_is_put_back_and_what_gave_way_is_not() {
        let papers = |names: &str| names.chars().map(|name| json!({"x": name})).collect::<Vec<_>>();
        let mut merged = Papers { own: papers("no"), gone: papers("g"), others: Vec::new() };
        assert_eq!(merged.merge(&papers("abg")), papers("abno"));
        // somebody who had not read them wrote all anew
        assert_eq!(merged.merge(&papers("gc")), papers("cabno"));
        assert!(merged.see(&papers("acgnd")));
        assert!(!merged.see(&papers("acgnd")));
        assert_eq!(merged.merge(&papers("onabcd")), papers("onabcd"), "it is all there");
    }
}
