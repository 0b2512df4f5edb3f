//! From a plan to layers in the store.
//!
//! Steps whose Key is known are done. Of the others, what they need is fetched, contents and files
//! are made in parallel, then the chain of settles runs from the bottom up. Two processes that want
//! one Key take turns, and the second finds the first one's layer.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::error::BuildError;
use super::files;
use super::listing::Listing;
use super::run::{OnFailure, Vault};
use super::shared::Shared;
use super::unpack::unpack;
use crate::decl::Project;
use crate::digest::Digest;
use crate::fetch::{Client, MirrorMap, Progress};
use crate::fsx::IoAt;
use crate::jail::{IdMap, Jail};
use crate::oci::Keychain;
use crate::plan::{FileWork, Step, Work};
use crate::store::{Draft, ImageRecord, Key, LayerRecord, Store, TreeDraft, Voucher};

/// Hears how a build goes on. Called from many threads.
pub trait Events: Progress {
    /// A step begins that takes `units` of work.
    fn step_started(&self, key: &Key, title: &str, units: u64);
    /// One unit of a step is done: a package laid, a package configured.
    fn step_advanced(&self, key: &Key, what: &str);
    /// A line of what a command says.
    fn step_said(&self, key: &Key, line: &str);
    fn step_finished(&self, key: &Key);
    /// Something that people should know.
    fn note(&self, text: &str);
}

/// A layer of a built image.
#[derive(Clone, Debug)]
pub struct BuiltLayer {
    pub name: String,
    pub title: String,
    pub key: Key,
    pub record: LayerRecord,
    pub came: Came,
}

/// Where a layer of a built image came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// The store had it.
    Stored,
    /// A cache had it that others share.
    Shared,
    Made,
}

/// What a layer is of, and what it was made over.
pub(super) struct Made<'s> {
    pub(super) key: Key,
    pub(super) below: &'s [Key],
}

impl<'s> Made<'s> {
    pub(super) fn of(step: &'s Step) -> Self {
        Made { key: step.key, below: &step.below }
    }
}

/// Builds plans into a store.
pub struct Builder<'a> {
    pub project: &'a Project,
    pub store: &'a Store,
    pub client: &'a Client,
    pub mirrors: &'a MirrorMap,
    pub keychain: &'a Keychain,
    pub jail: &'a Jail,
    pub id_map: IdMap,
    pub events: &'a dyn Events,
    pub vault: &'a dyn Vault,
    pub on_failure: OnFailure<'a>,
    /// Who may have layers, and wants those that are made.
    pub shared: Option<&'a dyn Shared>,
}

impl Builder<'_> {
    /// The layer of a step, if the store has it whole.
    pub(super) fn find(&self, step: &Step) -> Result<Option<LayerRecord>, BuildError> {
        let mut damaged = |digest: &Digest| {
            self.events.note(&format!(
                "layer {digest} of the store was damaged: `{}` is built again",
                step.layer
            ));
        };
        let found = self.store.find_layer(&step.key, &mut damaged)?;
        Ok(found.filter(|record| self.store.has_listing(record)))
    }

    /// Takes the Key's lock and makes the layer, unless somebody else has in the meantime.
    pub(super) fn once(
        &self,
        step: &Step,
        make: impl FnOnce() -> Result<LayerRecord, BuildError>,
    ) -> Result<LayerRecord, BuildError> {
        if let Some(found) = self.find(step)? {
            return Ok(found);
        }
        let _lock = self.store.lock(&step.key.0.hex())?;
        match self.find(step)? {
            Some(found) => Ok(found),
            None => match self.await_shared(step) {
                Some(taken) => Ok(taken),
                None => self.make_for_all(step, make),
            },
        }
    }

    /// Makes a layer, and hands it to whoever else may need it.
    fn make_for_all(
        &self,
        step: &Step,
        make: impl FnOnce() -> Result<LayerRecord, BuildError>,
    ) -> Result<LayerRecord, BuildError> {
        let made = make();
        if let Some(shared) = self.shared {
            match &made {
                Ok(record) => shared.give(&step.key, record),
                Err(_) => shared.abandon(&step.key),
            }
        }
        made
    }

    pub(super) fn make_free(&self, step: &Step) -> Result<LayerRecord, BuildError> {
        match &step.work {
            Work::Content(work) => self.make_content(step, work),
            Work::Base(work) => self.make_base(step, work),
            Work::Files(works) => self.once(step, || self.make_files(step, works)),
            Work::Npm(work) => self.make_packages(step, work),
            Work::Wheels(work) => self.make_environment(step, work),
            Work::Unpack(work) => self.make_unpacked(step, work),
            Work::Settle(_)
            | Work::Accounts(_)
            | Work::Run(_)
            | Work::Copy(_)
            | Work::Pnpm(_)
            | Work::Bytecode(_) => {
                unreachable!("only steps that see nothing are free")
            }
        }
    }

    fn make_files(&self, step: &Step, works: &[FileWork]) -> Result<LayerRecord, BuildError> {
        self.events.step_started(&step.key, &step.title, 1);
        let mut draft = self.store.draft()?;
        let tree = self.store.tree_draft()?;
        let layer = &self.project.layers[&step.layer];
        let listing = files::lay(&self.project.root, layer, works, tree.path(), &mut draft)
            .map_err(|source| BuildError::Files { layer: step.layer.to_string(), source })?;
        let inner = tree.path().to_owned();
        self.commit(Made::of(step), draft, tree, &inner, &listing)
    }

    /// Blob, listing, tree, and last the record that makes them count.
    pub(super) fn commit(
        &self,
        made: Made<'_>,
        draft: Draft,
        tree: TreeDraft,
        inner: &Path,
        listing: &Listing,
    ) -> Result<LayerRecord, BuildError> {
        let (diff_id, _) = draft.commit()?;
        let listing = self.store.put_listing(&diff_id, &listing.encode())?;
        tree.commit(inner, &self.tree_path(&diff_id))?;
        let vouchers = self.vouchers(made.below)?;
        let record = self.store.put_vouched(&made.key, diff_id, Some(listing), vouchers)?;
        self.events.step_finished(&made.key);
        Ok(record)
    }

    /// Who answers for some layers: whoever builds over them relies on the same.
    fn vouchers(&self, keys: &[Key]) -> Result<BTreeSet<Voucher>, BuildError> {
        let mut vouchers = BTreeSet::new();
        for key in keys {
            let found = self.store.find_layer(key, &mut |_| {})?;
            vouchers.extend(found.into_iter().flat_map(|record| record.vouchers));
        }
        Ok(vouchers)
    }

    pub(super) fn tree_path(&self, diff_id: &Digest) -> PathBuf {
        self.store.tree_path(&self.id_map.name(), diff_id)
    }

    /// The trees of an image, which is held, bottom first; unpacked within the cap where they are not there.
    pub fn image_trees(&self, image: &ImageRecord) -> Result<Vec<PathBuf>, BuildError> {
        let path = |layer: &LayerRecord| self.tree_path(&layer.diff_id);
        let missing: Vec<_> = image.layers.iter().filter(|layer| !path(layer).is_dir()).collect();
        if missing.is_empty() {
            return Ok(once(image.layers.iter().map(path).collect()));
        }
        // a tree takes about what its tar does
        let size = missing.iter().map(|layer| layer.size).sum();
        let unpack = || -> Result<Vec<PathBuf>, BuildError> {
            image.layers.iter().map(|layer| self.tree(layer)).collect()
        };
        self.store.within_cap_for(size, unpack)?.map(once)
    }

    /// The tree of a layer, unpacked if it is not there.
    pub(super) fn tree(&self, record: &LayerRecord) -> Result<PathBuf, BuildError> {
        let path = self.tree_path(&record.diff_id);
        if path.is_dir() {
            return Ok(path);
        }
        let draft = self.store.tree_draft()?;
        if record.packed.is_some() {
            self.unpack_base(record, draft.path())?;
            let inner = draft.path().to_owned();
            draft.commit(&inner, &path)?;
            return Ok(path);
        }
        let listing = self.listing(record)?;
        let blob = self.store.blob_path(&record.diff_id);
        unpack(&blob, &listing, draft.path(), self.id_map != IdMap::Identity)?;
        let inner = draft.path().to_owned();
        draft.commit(&inner, &path)?;
        Ok(path)
    }

    pub(super) fn listing(&self, record: &LayerRecord) -> Result<Listing, BuildError> {
        Ok(Listing::read(&self.store.listing_path(record)?)?)
    }

    /// Trees of what a step sees, bottom first.
    pub(super) fn below(&self, step: &Step) -> Result<Vec<PathBuf>, BuildError> {
        let tree = |key: &Key| {
            let found = self.store.find_layer(key, &mut |_| {})?;
            let record =
                found.ok_or_else(|| BuildError::Below { layer: step.layer.to_string() })?;
            self.tree(&record)
        };
        let trees = step.below.iter().map(tree).collect::<Result<Vec<PathBuf>, _>>()?;
        Ok(once(trees))
    }

    pub(super) fn log_path(&self, key: &Key) -> Result<PathBuf, BuildError> {
        let dir = self.store.root().join("logs");
        std::fs::create_dir_all(&dir).at("create", &dir)?;
        Ok(dir.join(format!("{}.log", key.0.short())))
    }
}

/// An overlay takes a tree once; of one that is there twice, since a base has it so or since two commands
/// changed nothing, the upper one shows.
pub(super) fn once(trees: Vec<PathBuf>) -> Vec<PathBuf> {
    let above = |at: usize| trees[at + 1..].contains(&trees[at]);
    let shown = (0..trees.len()).filter(|at| !above(*at));
    shown.map(|at| trees[at].clone()).collect()
}
