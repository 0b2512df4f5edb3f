//! What of a store is needed, by whom, and since when nobody used it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::gone::Gone;
use super::inventory::Class;
use super::layout::Entry;
use super::lease::Holdings;
use super::project::Wanted;
use super::record::{ImageRecord, LayerRecord};
use super::{StoreError, layout};
use crate::digest::Digest;
use crate::fsx::IoAt;

/// How badly something is needed, the least first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// By nobody.
    #[default]
    Loose,
    /// By a lock or an image, and it can be fetched or made again.
    Rebuildable,
    /// It is an image that was pulled.
    Pulled,
    /// It is an image that a project calls its newest.
    Kept,
    /// By a process that runs.
    Held,
}

/// What is known of one blob, or of one layer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mark {
    pub(super) standing: Standing,
    pub(super) class: Option<Class>,
    /// Seconds since 1970.
    pub(super) used: i64,
    /// Of pulled images, which are no good in parts: what goes in one turn.
    pub(super) turn: usize,
}

/// All marks of a store.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// By `ALGORITHM/HEX`.
    blobs: BTreeMap<String, Mark>,
    /// By the first 32 digits: trees have short names.
    layers: BTreeMap<String, Mark>,
    keys: BTreeMap<String, Mark>,
    images: BTreeMap<String, Mark>,
    /// Of images, by the name of their record.
    manifests: BTreeMap<String, String>,
    /// Twin's digest, by the name of its record.
    twins: BTreeMap<String, String>,
    places: BTreeSet<String>,
    /// What `index.json` lists.
    pub(super) listed: Vec<Listed>,
    pub(super) holdings: Holdings,
    /// What counts as if it were not listed.
    pub(super) gone: Gone,
}

/// A name of `index.json`, and the blobs of its images by `ALGORITHM/HEX`.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) pulled: bool,
    pub(super) blobs: BTreeSet<String>,
    /// When a pulled one goes; 0 for others.
    turn: usize,
}

impl Marks {
    /// What nobody used or saw for `unseen` is gone.
    pub(super) fn read(root: &Path, unseen: Option<Duration>) -> Result<Self, StoreError> {
        let mut marks = Marks { holdings: Holdings::read(root)?, ..Marks::default() };
        if let Some(age) = unseen {
            marks.gone = Gone::find(root, age, &marks.holdings)?;
        }
        let published = marks.mark_index(root)?;
        marks.mark_images(root, &published)?;
        marks.take_turns();
        marks.mark_keys(root)?;
        let wanted = Wanted::read(root, &marks.gone)?;
        for source in &wanted.sources {
            marks.raise(source, Class::Source, Standing::Rebuildable, 0);
        }
        marks.places = wanted.places;
        marks.mark_twins(root)?;
        let held: Vec<String> = marks.holdings.blobs.keys().cloned().collect();
        for name in held {
            let class = marks.blob(&name).class.unwrap_or(Class::Source);
            marks.raise(&name, class, Standing::Held, 0);
        }
        Ok(marks)
    }

    /// Marks what `index.json` lists, and answers what its manifests are.
    fn mark_index(&mut self, root: &Path) -> Result<BTreeMap<String, Standing>, StoreError> {
        let mut published = BTreeMap::new();
        let gone = &self.gone;
        let entries = layout::listed(root)?.into_iter().filter(|entry| !gone.has(entry));
        for entry in entries.collect::<Vec<_>>() {
            let pulled = entry.is_pulled();
            let Entry { name, nested, .. } = entry;
            let standing = if pulled { Standing::Pulled } else { Standing::Kept };
            let mut blobs = BTreeSet::from([nested.clone()]);
            for manifest in digests(&document(root, &nested), "manifests") {
                let value = document(root, &manifest);
                let config = value["config"]["digest"].as_str().map(|text| text.replace(':', "/"));
                blobs.extend(digests(&value, "layers").into_iter().chain(config));
                let known = published.entry(manifest.clone()).or_insert(standing);
                *known = standing.max(*known);
                blobs.insert(manifest);
            }
            for blob in &blobs {
                self.raise(blob, Class::Image, standing, 0);
            }
            self.listed.push(Listed { name, pulled, blobs, turn: 0 });
        }
        Ok(published)
    }

    fn mark_images(
        &mut self,
        root: &Path,
        published: &BTreeMap<String, Standing>,
    ) -> Result<(), StoreError> {
        for (name, record, used) in records::<ImageRecord>(root, "images")? {
            let standing = match published.get(&blob_name(&record.manifest)) {
                _ if self.holdings.images.contains(&name) => Standing::Held,
                Some(standing) => *standing,
                None => Standing::Loose,
            };
            // a base's layer is a blob as somebody else packed it, and a tree by its own digest
            let layers = record.layers.iter().flat_map(|layer| [&layer.diff_id, layer.blob()]);
            for digest in layers.chain([&record.image, &record.manifest]) {
                self.raise(&blob_name(digest), Class::Image, standing, used);
            }
            for key in &record.keys {
                let standing = match standing {
                    Standing::Kept | Standing::Pulled => Standing::Rebuildable,
                    other => other,
                };
                raise(self.keys.entry(key.0.hex()).or_default(), None, standing, used);
            }
            self.manifests.insert(name.clone(), blob_name(&record.manifest));
            raise(self.images.entry(name).or_default(), None, standing, used);
        }
        Ok(())
    }

    /// The longest unused of pulled images first. What several have goes with the last of them.
    fn take_turns(&mut self) {
        let mut listed = std::mem::take(&mut self.listed);
        listed.sort_by_cached_key(|one| {
            let used = one.blobs.iter().map(|blob| self.blob(blob).used).max();
            (used, one.name.clone())
        });
        let is_held = |name: &String| self.holdings.images.contains(name);
        let held = self.manifests.iter().filter(|(name, _)| is_held(name));
        let held: BTreeSet<String> = held.map(|(_, manifest)| manifest.clone()).collect();
        for (turn, one) in (1..).zip(listed.iter_mut().filter(|one| one.pulled)) {
            one.turn = turn;
            for blob in &one.blobs {
                self.blobs.entry(blob.clone()).or_default().turn = turn;
            }
            // who runs one needs its name as well
            if !one.blobs.is_disjoint(&held) {
                one.blobs.iter().for_each(|blob| self.raise(blob, Class::Image, Standing::Held, 0));
            }
        }
        self.listed = listed;
    }

    fn mark_keys(&mut self, root: &Path) -> Result<(), StoreError> {
        for (name, record, used) in records::<LayerRecord>(root, "keys")? {
            let mark = self.keys.entry(name.clone()).or_default();
            let held = self.holdings.keys.contains(&name);
            raise(mark, None, if held { Standing::Held } else { Standing::Loose }, used);
            let mark = *mark;
            for digest in [&record.diff_id, record.blob()] {
                self.raise(&blob_name(digest), Class::Layer, mark.standing, mark.used);
            }
        }
        Ok(())
    }

    /// A twin is needed where its layer is, but can always be made again.
    fn mark_twins(&mut self, root: &Path) -> Result<(), StoreError> {
        for (name, record, used) in records::<Value>(root, "twins")? {
            let Some(digest) = record["digest"].as_str() else { continue };
            let layer = name.split('.').next().unwrap_or_default();
            let layer = self.blob(&format!("sha256/{layer}"));
            let twin = digest.replace(':', "/");
            let standing = layer.standing.min(Standing::Rebuildable);
            self.raise(&twin, Class::Twin, standing, layer.used.max(used));
            self.twins.insert(name, twin);
        }
        Ok(())
    }

    fn raise(&mut self, blob: &str, class: Class, standing: Standing, used: i64) {
        raise(self.blobs.entry(blob.to_owned()).or_default(), Some(class), standing, used);
        if let Some(short) = blob.strip_prefix("sha256/").and_then(|hex| hex.get(..32)) {
            raise(self.layers.entry(short.to_owned()).or_default(), Some(class), standing, used);
        }
    }

    /// Names of the pulled images that are gone, and of those of which something went in these turns.
    pub(super) fn forgotten(&self, turns: &BTreeSet<usize>) -> Vec<String> {
        let pulled = self.listed.iter().filter(|listed| listed.pulled);
        let mut gone: Vec<_> = pulled.filter(|listed| turns.contains(&listed.turn)).collect();
        gone.sort_by_key(|listed| listed.turn);
        let turned = gone.into_iter().map(|listed| &listed.name);
        self.gone.pulled().chain(turned).cloned().collect()
    }

    /// The blob of the layer that a blob is the twin of.
    pub(super) fn twinned(&self) -> impl Iterator<Item = (&str, String)> {
        self.twins.iter().map(|(name, twin)| {
            let layer = name.split('.').next().unwrap_or_default();
            (twin.as_str(), format!("sha256/{layer}"))
        })
    }

    /// Of a blob by `ALGORITHM/HEX`.
    pub(super) fn blob(&self, name: &str) -> Mark {
        self.blobs.get(name).copied().unwrap_or_default()
    }

    /// Of a layer by its digest's first 32 digits.
    pub(super) fn layer(&self, short: &str) -> Mark {
        self.layers.get(short).copied().unwrap_or_default()
    }

    /// Of a record in `facts`, `keys`, `images` or `twins`, by its name.
    pub(super) fn record(&self, kind: &str, name: &str) -> Mark {
        match kind {
            // what a source says is kept as long as the source is, or would be if it were there
            "facts" => self.blob(&name.replacen('-', "/", 1)),
            "keys" => self.keys.get(name).copied().unwrap_or_default(),
            "images" => {
                let manifest = self.manifests.get(name).map(|blob| self.blob(blob));
                let turn = manifest.unwrap_or_default().turn;
                Mark { turn, ..self.images.get(name).copied().unwrap_or_default() }
            }
            _ => self.twins.get(name).map(|twin| self.blob(twin)).unwrap_or_default(),
        }
    }

    /// Whether a file in `stats` is of a project that uses the store.
    pub(super) fn knows_project(&self, stat: &str) -> bool {
        stat.get(..8).is_some_and(|place| self.places.contains(place))
    }
}

fn raise(mark: &mut Mark, class: Option<Class>, standing: Standing, used: i64) {
    mark.standing = mark.standing.max(standing);
    mark.used = mark.used.max(used);
    // an image's layer is its Key's, too: the first word is the stronger
    mark.class = mark.class.min(class).or(mark.class).or(class);
}

fn blob_name(digest: &Digest) -> String {
    format!("sha256/{}", digest.hex())
}

/// A small document that is a blob; `Null` where it is gone or damaged.
fn document(root: &Path, name: &str) -> Value {
    let bytes = fs::read(root.join("blobs").join(name)).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

fn digests(document: &Value, list: &str) -> Vec<String> {
    let entries = document[list].as_array().into_iter().flatten();
    entries.filter_map(|entry| Some(entry["digest"].as_str()?.replace(':', "/"))).collect()
}

/// Records of one kind with their names and times; what cannot be read is none.
fn records<T: DeserializeOwned>(
    root: &Path,
    kind: &str,
) -> Result<Vec<(String, T, i64)>, StoreError> {
    let dir = root.join(kind);
    let Ok(entries) = fs::read_dir(&dir) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.at("list", &dir)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let (Ok(bytes), Ok(meta)) = (fs::read(entry.path()), entry.metadata()) else { continue };
        if let Ok(record) = serde_json::from_slice(&bytes) {
            found.push((name, record, meta.mtime()));
        }
    }
    Ok(found)
}
