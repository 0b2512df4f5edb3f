//! From a plan to layers in the store.
//!
//! Steps whose Key is known are done. Of the others, what they need is fetched, contents and files
//! are made in parallel, then the chain of settles runs from the bottom up. Two processes that want
//! one Key take turns, and the second finds the first one's layer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::base::BaseError;
use super::compose::{ComposeError, Delta, Origin, compose, restate};
use super::content::{self, ContentError, Laying};
use super::emulator::EmulatorError;
use super::extract::ExtractError;
use super::files::{self, FilesError};
use super::listing::{Listing, ListingError};
use super::npm::NpmError;
use super::run::{self, Dress, OnFailure, RunError, RunJob, Vault};
use super::settle::accounts::Account;
use super::settle::sources::{AptSource, AptStanza};
use super::settle::{self, NewPackage, Settle, SettleError};
use super::shared::Shared;
use super::unpack::{UnpackError, unpack};
use super::view::View;
use super::wheels::WheelsError;
use crate::blame::Blame;
use crate::debian::path_filter::PathFilter;
use crate::decl::Project;
use crate::digest::Digest;
use crate::fetch::{Client, FetchError, MirrorMap, Progress};
use crate::fsx::{IoAt, PathIo};
use crate::jail::{IdMap, Jail};
use crate::lock::{DebPin, Source};
use crate::npm::TarballError;
use crate::oci::{Keychain, OciError};
use crate::path::{LayerPath, PathError};
use crate::plan::{AccountWork, ContentWork, FileWork, Plan, RunWork, SettleWork, Step, Work};
use crate::serve::Shelf;
use crate::store::{Draft, ImageRecord, Key, LayerRecord, Store, StoreError};

/// Why a build ended.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Io(#[from] PathIo),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("{tool}: {source}")]
    Program { tool: String, source: TarballError },
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("{} of {total} sources cannot be fetched:\n{}", errors.len(), list(errors))]
    Sources { errors: Vec<FetchError>, total: usize },
    #[error("{} left every archive that the lock was made from", labels(pins))]
    Gone { pins: Vec<DebPin> },
    #[error(transparent)]
    Oci(#[from] OciError),
    #[error("layer `{layer}`: {source}")]
    Base { layer: String, source: BaseError },
    #[error("layer `{layer}`: {source}")]
    Content { layer: String, source: ContentError },
    #[error("layer `{layer}`: {source}")]
    Settle { layer: String, source: SettleError },
    #[error("layer `{layer}`: {source}")]
    Wheels { layer: String, source: WheelsError },
    #[error("layer `{layer}`: {source}")]
    Npm { layer: String, source: Box<NpmError> },
    #[error("layer `{layer}`: {source}")]
    Extract { layer: String, source: ExtractError },
    #[error("layer `{layer}`: {source}")]
    Files { layer: String, source: FilesError },
    #[error("layer `{layer}`: {source}")]
    Run { layer: String, source: Box<RunError> },
    #[error("layer `{layer}`: a layer below it went out of the store while it was built")]
    Below { layer: String },
    #[error(transparent)]
    Compose(#[from] ComposeError),
    #[error(transparent)]
    Listing(#[from] ListingError),
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    #[error(transparent)]
    Emulator(#[from] EmulatorError),
}

fn list(errors: &[FetchError]) -> String {
    errors.iter().map(|error| format!("  {error}")).collect::<Vec<_>>().join("\n")
}

fn labels(pins: &[DebPin]) -> String {
    pins.iter().map(|pin| format!("`{}`", pin.label())).collect::<Vec<_>>().join(", ")
}

impl BuildError {
    pub fn blame(&self) -> Blame {
        match self {
            BuildError::Oci(error) => error.blame(),
            BuildError::Base { source, .. } => source.blame(),
            BuildError::Content { source, .. } => source.blame(),
            BuildError::Settle { source, .. } => source.blame(),
            BuildError::Files { source, .. } => source.blame(),
            BuildError::Wheels { source, .. } => source.blame(),
            BuildError::Npm { source, .. } => source.blame(),
            BuildError::Extract { source, .. } => source.blame(),
            BuildError::Run { source, .. } => source.blame(),
            BuildError::Compose(error) => error.blame(),
            _ => Blame::World,
        }
    }

    /// The next command.
    pub fn help(&self) -> Option<String> {
        match self {
            BuildError::Sources { errors, .. } => {
                errors.iter().find_map(FetchError::help).map(str::to_owned)
            }
            BuildError::Fetch(error) => error.help().map(str::to_owned),
            BuildError::Oci(error) => error.help(),
            BuildError::Store(error) => error.help().map(str::to_owned),
            BuildError::Emulator(error) => error.help().map(str::to_owned),
            BuildError::Settle { source, .. } => source.help().map(str::to_owned),
            BuildError::Compose(error) => error.help().map(str::to_owned),
            BuildError::Run { source, .. } => source.help(),
            BuildError::Wheels { source, .. } => source.help(),
            BuildError::Gone { pins } => {
                let names: Vec<&str> = pins.iter().map(|pin| &*pin.name).collect();
                Some(format!("run `sbx lock --update {}`", names.join(" ")))
            }
            _ => None,
        }
    }
}

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

/// The name of the layer that restates directories.
pub const DIRECTORIES: &str = "directories";

/// The Key of the layer that restates directories for a plan.
pub fn directories_key(plan: &Plan) -> Key {
    Key(Digest::of(format!("directories {}", plan.key).as_bytes()))
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
        Ok(found.filter(|record| self.store.listing_path(&record.diff_id).exists()))
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
            None => {
                let record = make()?;
                self.shared.inspect(|shared| shared.give(&step.key, &record));
                Ok(record)
            }
        }
    }

    pub(super) fn make_free(&self, step: &Step) -> Result<LayerRecord, BuildError> {
        match &step.work {
            Work::Content(work) => self.once(step, || match self.make_content(step, work) {
                Err(BuildError::Content {
                    source: ContentError::Corrupt { expected, package, .. },
                    ..
                }) => {
                    self.events.note(&format!(
                        "package `{package}` was damaged in the store: it is fetched again"
                    ));
                    self.store.drop_blob(&expected)?;
                    let lost: Vec<Source<'_>> = work
                        .pins
                        .iter()
                        .filter(|pin| pin.digest == expected)
                        .map(Source::Deb)
                        .collect();
                    self.fetch(&lost)?;
                    self.make_content(step, work)
                }
                result => result,
            }),
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

    fn make_content(&self, step: &Step, work: &ContentWork) -> Result<LayerRecord, BuildError> {
        self.events.step_started(&step.key, &step.title, work.pins.len() as u64);
        let packages = self.packages(&work.pins);
        let filter = PathFilter::new(&work.paths.exclude, &work.paths.include)
            .expect("patterns were checked when they were read");
        let laying = Laying { fresh: work.fresh, filter: &filter };
        let mut draft = self.store.draft()?;
        let tree = self.store.tree_draft()?;
        let progress = |label: &str| self.events.step_advanced(&step.key, label);
        let listing = content::lay(&packages, laying, tree.path(), &mut draft, &progress)
            .map_err(|source| BuildError::Content { layer: step.layer.to_string(), source })?;
        let inner = tree.path().to_owned();
        self.commit(step.key, draft, tree, &inner, &listing)
    }

    fn make_files(&self, step: &Step, works: &[FileWork]) -> Result<LayerRecord, BuildError> {
        self.events.step_started(&step.key, &step.title, 1);
        let mut draft = self.store.draft()?;
        let tree = self.store.tree_draft()?;
        let layer = &self.project.layers[&step.layer];
        let listing = files::lay(&self.project.root, layer, works, tree.path(), &mut draft)
            .map_err(|source| BuildError::Files { layer: step.layer.to_string(), source })?;
        let inner = tree.path().to_owned();
        self.commit(step.key, draft, tree, &inner, &listing)
    }

    /// Blob, listing, tree, and last the record that makes them count.
    pub(super) fn commit(
        &self,
        key: Key,
        draft: Draft,
        tree: crate::store::TreeDraft,
        inner: &Path,
        listing: &Listing,
    ) -> Result<LayerRecord, BuildError> {
        let (diff_id, _) = draft.commit()?;
        listing.write(&self.store.listing_path(&diff_id))?;
        tree.commit(inner, &self.tree_path(&diff_id))?;
        let record = self.store.put_layer(&key, diff_id)?;
        self.events.step_finished(&key);
        Ok(record)
    }

    pub(super) fn tree_path(&self, diff_id: &Digest) -> PathBuf {
        self.store.tree_path(&self.id_map.name(), diff_id)
    }

    /// The trees of an image, bottom first, unpacked where they are not there.
    pub fn image_trees(&self, image: &ImageRecord) -> Result<Vec<PathBuf>, BuildError> {
        image.layers.iter().map(|layer| self.tree(layer)).collect()
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

    fn listing(&self, record: &LayerRecord) -> Result<Listing, BuildError> {
        Ok(Listing::read(&self.store.listing_path(&record.diff_id))?)
    }

    fn packages(&self, pins: &[DebPin]) -> Vec<content::Package> {
        let package = |pin: &DebPin| content::Package {
            label: pin.label(),
            blob: self.store.blob_path(&pin.digest),
            digest: pin.digest,
        };
        pins.iter().map(package).collect()
    }

    /// Trees of what a step sees, bottom first.
    pub(super) fn below(&self, step: &Step) -> Result<Vec<PathBuf>, BuildError> {
        let tree = |key: &Key| {
            let found = self.store.find_layer(key, &mut |_| {})?;
            let record =
                found.ok_or_else(|| BuildError::Below { layer: step.layer.to_string() })?;
            self.tree(&record)
        };
        // an overlay takes a tree once; of a layer that a base has twice, the upper one shows
        let above = |at: usize| step.below[at + 1..].contains(&step.below[at]);
        let once = (0..step.below.len()).filter(|at| !above(*at));
        once.map(|at| tree(&step.below[at])).collect()
    }

    pub(super) fn make_settle(
        &self,
        plan: &Plan,
        step: &Step,
        work: &SettleWork,
    ) -> Result<LayerRecord, BuildError> {
        self.once(step, || {
            self.events.step_started(&step.key, &step.title, work.pins.len() as u64);
            let failed = |source| BuildError::Settle { layer: step.layer.to_string(), source };
            let content_failed =
                |source| BuildError::Content { layer: step.layer.to_string(), source };
            let lowers = self.below(step)?;
            let packages = self.packages(&work.pins);
            let controls = content::read_controls(&packages).map_err(content_failed)?;
            let packages: Vec<NewPackage> = packages
                .into_iter()
                .zip(controls)
                .zip(&work.pins)
                .map(|((package, control), pin)| NewPackage {
                    label: package.label,
                    blob: package.blob,
                    auto: pin.mark == crate::lock::Mark::Auto,
                    diverts: content::diverts(&control),
                    control,
                })
                .collect();
            let mut keyrings = Vec::new();
            for (path, file) in &work.keyrings {
                let full = self.project.root.join(file);
                keyrings.push((path.clone(), std::fs::read(&full).at("read", &full)?));
            }
            let log = self.log_path(&step.key)?;
            let scratch = self.store.tree_draft()?;
            let mut draft = self.store.draft()?;
            let job = Settle {
                lowers: &lowers,
                content: lowers.last().map(PathBuf::as_path),
                packages: &packages,
                accounts: &accounts(&work.accounts),
                sources: &sources(work),
                keyrings: &keyrings,
                debconf: &debconf(work),
                arch: plan.platform.debian(),
                jail: self.jail,
                scratch: scratch.path(),
                log: &log,
            };
            let mut progress = |package: &str| self.events.step_advanced(&step.key, package);
            let listing = settle::settle(&job, &mut draft, &mut progress).map_err(failed)?;
            let inner = scratch.path().join("upper");
            self.commit(step.key, draft, scratch, &inner, &listing)
        })
    }

    pub(super) fn make_run(&self, step: &Step, work: &RunWork) -> Result<LayerRecord, BuildError> {
        self.make_dressed(step, work, |_, _| Ok(Dress::default()))
    }

    /// Runs a command that is shown what `dress` says, of what it sees and in a directory to work in.
    pub(super) fn make_dressed(
        &self,
        step: &Step,
        work: &RunWork,
        dress: impl FnOnce(&View, &Path) -> Result<Dress, BuildError>,
    ) -> Result<LayerRecord, BuildError> {
        self.once(step, || {
            self.events.step_started(&step.key, &step.title, 1);
            let failed = |source| BuildError::Run {
                layer: step.layer.to_string(),
                source: Box::new(source),
            };
            let lowers = self.below(step)?;
            let shelved = work.shelf.iter().filter_map(|pin| run::shelve(pin, self.store));
            let log = self.log_path(&step.key)?;
            let scratch = self.store.tree_draft()?;
            let mut draft = self.store.draft()?;
            let job = RunJob {
                work,
                lowers: &lowers,
                jail: self.jail,
                vault: self.vault,
                shelf: &Shelf::new(shelved),
                scratch: scratch.path(),
                log: &log,
                on_failure: self.on_failure,
                dress: dress(&View::new(&lowers), scratch.path())?,
            };
            let mut line = |line: &str| self.events.step_said(&step.key, line);
            let listing = job.run(&mut draft, &mut line).map_err(failed)?;
            let inner = scratch.path().join("upper");
            self.commit(step.key, draft, scratch, &inner, &listing)
        })
    }

    fn log_path(&self, key: &Key) -> Result<PathBuf, BuildError> {
        let dir = self.store.root().join("logs");
        std::fs::create_dir_all(&dir).at("create", &dir)?;
        Ok(dir.join(format!("{}.log", key.0.short())))
    }

    pub(super) fn make_accounts(
        &self,
        step: &Step,
        work: &[AccountWork],
    ) -> Result<LayerRecord, BuildError> {
        self.once(step, || {
            self.events.step_started(&step.key, &step.title, 1);
            let failed = |source| BuildError::Settle { layer: step.layer.to_string(), source };
            let view = View::new(&self.below(step)?);
            let scratch = self.store.tree_draft()?;
            let mut draft = self.store.draft()?;
            settle::add_to(scratch.path(), &view, &accounts(work)).map_err(failed)?;
            let listing = super::capture::capture(scratch.path(), &view, &mut draft)
                .map_err(|error| failed(error.into()))?;
            let inner = scratch.path().to_owned();
            self.commit(step.key, draft, scratch, &inner, &listing)
        })
    }

    /// Checks that the layers may meet, and adds the one that restates directories where needed.
    pub(super) fn add_directories(
        &self,
        plan: &Plan,
        layers: &mut Vec<BuiltLayer>,
    ) -> Result<(), BuildError> {
        let listings: Vec<Listing> =
            layers.par_iter().map(|layer| self.listing(&layer.record)).collect::<Result<_, _>>()?;
        let trees: Vec<PathBuf> =
            layers.iter().map(|layer| self.tree_path(&layer.record.diff_id)).collect();
        let replaces: Vec<Vec<LayerPath>> = plan.steps.iter().map(replaces).collect();
        let place = |key: &Key| plan.steps.iter().position(|step| step.key == *key);
        let sees: Vec<Vec<usize>> =
            plan.steps.iter().map(|step| step.below.iter().filter_map(place).collect()).collect();
        let deltas: Vec<Delta<'_>> = plan
            .steps
            .iter()
            .enumerate()
            .map(|(at, step)| Delta {
                layer: step.layer.as_str(),
                origin: match step.work {
                    Work::Content(_) => Origin::Content,
                    // layers of one base lie over each other as its maker meant it
                    Work::Base(_) | Work::Settle(_) | Work::Accounts(_) => Origin::Step,
                    Work::Run(_) | Work::Pnpm(_) => Origin::Run,
                    Work::Files(_)
                    | Work::Npm(_)
                    | Work::Wheels(_)
                    | Work::Bytecode(_)
                    | Work::Copy(_)
                    | Work::Unpack(_) => Origin::Files,
                },
                listing: &listings[at],
                tree: &trees[at],
                replaces: &replaces[at],
                sees: &sees[at],
            })
            .collect();
        let dirs = loop {
            match compose(&deltas) {
                // it may have gone, or never have been needed
                Err(ComposeError::NoTree(at)) => drop(self.tree(&layers[at].record)?),
                composed => break composed?,
            }
        };
        if dirs.is_empty() {
            return Ok(());
        }
        let key = directories_key(plan);
        let title = "metadata of directories that layers share".to_owned();
        let mut draft = self.store.draft()?;
        let tree = self.store.tree_draft()?;
        let listing = restate(dirs, tree.path(), &mut draft)?;
        let inner = tree.path().to_owned();
        let record = self.commit(key, draft, tree, &inner, &listing)?;
        let came = Came::Made;
        layers.push(BuiltLayer { name: DIRECTORIES.to_owned(), title, key, record, came });
        Ok(())
    }
}

/// Paths that a step may lay over what is below.
fn replaces(step: &Step) -> Vec<LayerPath> {
    if let Some(take) = step.work.take() {
        return take.replace.then(|| take.into.clone()).into_iter().collect();
    }
    let Work::Files(works) = &step.work else { return Vec::new() };
    let path = |work: &FileWork| match work {
        FileWork::Local { into, replace: true, .. } => Some(into.clone()),
        FileWork::Inline { path, replace: true, .. }
        | FileWork::Link { path, replace: true, .. } => Some(path.clone()),
        _ => None,
    };
    works.iter().filter_map(path).collect()
}

fn accounts(work: &[AccountWork]) -> Vec<Account> {
    let account = |account: &AccountWork| Account {
        name: account.name.clone(),
        uid: account.uid,
        gid: account.gid,
        group: account.group.clone(),
        groups: account.groups.clone(),
        home: account.home.clone(),
        shell: account.shell.clone(),
    };
    work.iter().map(account).collect()
}

/// Stanzas of one name go into one file.
fn sources(work: &SettleWork) -> Vec<AptSource> {
    let mut files: BTreeMap<&str, Vec<AptStanza>> = BTreeMap::new();
    for source in &work.sources {
        files.entry(&source.name).or_default().push(AptStanza {
            uri: source.uri.clone(),
            suites: source.suites.clone(),
            components: source.components.clone(),
            signed_by: source.signed_by.clone(),
        });
    }
    files.into_iter().map(|(name, stanzas)| AptSource { name: name.to_owned(), stanzas }).collect()
}

fn debconf(work: &SettleWork) -> String {
    let line = |answer: &crate::decl::Debconf| {
        format!("{} {} {} {}\n", answer.package, answer.question, answer.kind, answer.value)
    };
    work.debconf.iter().map(line).collect()
}
