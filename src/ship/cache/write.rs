//! Layers into a shared cache, beside the build that makes them.
//!
//! An entry is written once: one's own that is there stays, unless this build was offered it and had to
//! refuse it; what others say of the same Key stays beside it. The layer goes as it goes with a push, under the digest that it has there, so a registry that has
//! it in any repository known here keeps one blob; the manifest goes last, so an entry that is there is
//! whole. Of two that write at once either may come last: both are right.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::AtomicBool;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::Finally;
use super::entry::{Entry, FACTS, LARGEST_FACTS, LISTING, Part, tag};
use super::manifest::Said;
use crate::digest::Digest;
use crate::fetch::{FetchError, Progress};
use crate::fsx::IoAt;
use crate::image::Form;
use crate::media;
use crate::oci::{EMPTY, OciError, Registry, Supplied};
use crate::plan::Step;
use crate::platform::Platform;
use crate::report::Sheet;
use crate::report::sign::{PrivateKey, PublicKey};
use crate::ship::ShipError;
use crate::ship::cargo::Turn;
use crate::ship::push::Push;
use crate::ship::supply::Bytes;
use crate::store::{Key, LayerRecord, Store, Voucher};

/// Entries on their way at a time.
const PARALLEL: usize = 4;
/// How hard listings are compressed.
const LEVEL: i32 = 3;

/// A repository that layers are put into.
pub(super) struct Desk<'a> {
    pub(super) name: String,
    pub(super) registry: Registry<'a>,
    /// Repositories of the registry that blobs may be mounted from.
    pub(super) homes: BTreeMap<Digest, String>,
    pub(super) key: Option<PrivateKey>,
    /// Ids of the keys whose layers it signs, too.
    pub(super) believed: BTreeSet<Digest>,
    pub(super) progress: &'a dyn Progress,
    /// Whether the one config of all entries is there.
    pub(super) config: Mutex<bool>,
    /// It takes nothing, and that was said.
    pub(super) off: AtomicBool,
}

impl Desk<'_> {
    pub(super) fn open<'s>(&'s self, store: &'s Store) -> Writer<'s> {
        let Desk { registry, progress, .. } = self;
        let (form, homes) = (Form::default(), self.homes.clone());
        let push = Push { store, registry, form, homes, last: None, progress: *progress };
        Writer { push, desk: self, turn: Turn::default() }
    }

    /// The key that others know its entries by.
    pub(super) fn signer(&self) -> Option<PublicKey> {
        self.key.as_ref().map(PrivateKey::public)
    }

    /// Whether somebody's word is what this desk would write.
    pub(super) fn is_own(&self, voucher: &Voucher) -> bool {
        self.signer().is_none_or(|own| *voucher == Voucher::Key(own.id()))
    }

    /// Whether what others answer for is given on. Where nothing is signed, nothing is promised.
    pub(super) fn believes(&self, voucher: &Voucher) -> bool {
        match voucher {
            _ if self.key.is_none() => true,
            Voucher::Key(id) => self.believed.contains(id),
            Voucher::Nobody => false,
        }
    }

    /// Has the config there that all manifests here name.
    pub(super) fn bring_config(&self) -> Result<(), ShipError> {
        let mut is_there = self.config();
        if !*is_there {
            let supplied = Supplied { digest: Digest::of(EMPTY), size: EMPTY.len() as u64 };
            let supply = Bytes { label: "config".to_owned(), supplied, bytes: EMPTY.to_vec() };
            self.registry.upload(&supply, None, self.progress)?;
            *is_there = true;
        }
        Ok(())
    }

    /// It may have gone.
    pub(super) fn forget_config(&self) {
        *self.config() = false;
    }

    fn config(&self) -> MutexGuard<'_, bool> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts layers into it.
pub(super) struct Writer<'a> {
    push: Push<'a>,
    desk: &'a Desk<'a>,
    turn: Turn,
}

impl Writer<'_> {
    /// Writes an entry, but for one of ours that is there and was not refused; answers whether it did.
    pub(super) fn put(
        &self,
        step: &Step,
        platform: Platform,
        record: &LayerRecord,
        refused: &[Entry],
    ) -> Result<bool, Untaken> {
        let tag = tag(&step.key, platform);
        let stays = |said: &Said| {
            let own = said.own(&step.key, platform, self.desk.signer().as_ref());
            own.is_some_and(|own| !refused.contains(&own) && !self.says_more(step, &own))
        };
        if stays(&self.find(&tag)?) {
            return Ok(false);
        }
        // somebody else's layer is where it came from
        let bring = || self.bring(step, platform, record);
        let Some(entry) = bring().map_err(Untaken::of_layer)? else { return Ok(false) };
        // whoever made it at the same time may have been faster
        let said = self.find(&tag)?;
        if stays(&said) {
            return Ok(false);
        }
        self.write(&tag, said, &entry, refused, &|| bring().map(drop))?;
        self.remember(&entry);
        Ok(true)
    }

    /// Writes the manifest around what this machine says and others said.
    fn write(
        &self,
        tag: &str,
        said: Said,
        entry: &Entry,
        refused: &[Entry],
        bring: &dyn Fn() -> Result<(), ShipError>,
    ) -> Result<(), ShipError> {
        let key = self.desk.key.as_ref();
        let mut manifest = said.with(entry, key, refused);
        loop {
            let bring = || {
                self.desk.forget_config();
                bring()
            };
            let registry = self.push.registry;
            match registry.put_manifest(tag, media::MANIFEST, &manifest.bytes, bring) {
                Ok(_) => return Ok(()),
                // what others name may have gone
                Err(ShipError::Oci(error)) if manifest.has_strangers && error.is_about_parts() => {
                    manifest = Said::default().with(entry, key, &[]);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// What is there; what cannot be read is to be replaced.
    fn find(&self, tag: &str) -> Result<Said, ShipError> {
        match self.push.registry.manifest(tag) {
            Ok(document) => Ok(Said::parse(&document.bytes).unwrap_or_default()),
            // who may not look may be let write, and hears it if not
            Err(OciError::Missing { .. } | OciError::Denied { .. }) => Ok(Said::default()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether more is known here of the sources than an entry says.
    fn says_more(&self, step: &Step, entry: &Entry) -> bool {
        entry.facts.is_none() && Sheet::is_about(step) && {
            Sheet::is_known(self.push.store, step, &|voucher| self.desk.believes(voucher))
        }
    }

    /// Brings all that an entry names in.
    fn bring(
        &self,
        step: &Step,
        platform: Platform,
        record: &LayerRecord,
    ) -> Result<Option<Entry>, ShipError> {
        let listing = self.put_listing(record)?;
        let (Some(twin), _) = self.push.bring_layer(record, &self.turn)? else { return Ok(None) };
        let facts = self.put_facts(step, record)?;
        self.desk.bring_config()?;
        Ok(Some(Entry {
            key: step.key,
            platform,
            diff_id: record.diff_id,
            size: record.size,
            form: self.push.form.to_string(),
            layer: Part {
                media_type: self.push.form.media_type().to_owned(),
                digest: twin.digest,
                size: twin.size,
            },
            listing,
            facts,
        }))
    }

    /// Where the layer lies now, for pushes to other repositories; without that they ask for more.
    fn remember(&self, entry: &Entry) {
        let Push { store, registry, .. } = self.push;
        let blobs = [entry.layer.digest];
        store.put_homes(registry.host(), registry.repository(), &blobs).unwrap_or_default();
    }

    fn put_listing(&self, record: &LayerRecord) -> Result<Part, ShipError> {
        let path = self.push.store.listing_path(record)?;
        let bytes = std::fs::read(&path).at("read", &path)?;
        let packed = zstd::encode_all(&*bytes, LEVEL).at("compress", &path)?;
        let label = format!("listing of layer {}", record.diff_id.short());
        self.put_part(&label, LISTING, &packed)
    }

    /// What is known here of the sources that a layer is made of, so that nobody needs them to say what
    /// it brings.
    fn put_facts(&self, step: &Step, record: &LayerRecord) -> Result<Option<Part>, ShipError> {
        let believes = |voucher: &Voucher| self.desk.believes(voucher);
        let Some(sheet) = Sheet::gather(self.push.store, step, &believes) else { return Ok(None) };
        let bytes = sheet.to_bytes();
        if bytes.len() as u64 > LARGEST_FACTS {
            return Ok(None);
        }
        let label = format!("sources of layer {}", record.diff_id.short());
        self.put_part(&label, FACTS, &bytes).map(Some)
    }

    fn put_part(&self, label: &str, media_type: &str, bytes: &[u8]) -> Result<Part, ShipError> {
        self.put_bytes(label, bytes)?;
        let (digest, size) = (Digest::of(bytes), bytes.len() as u64);
        Ok(Part { media_type: media_type.to_owned(), digest, size })
    }

    fn put_bytes(&self, label: &str, bytes: &[u8]) -> Result<(), ShipError> {
        let supplied = Supplied { digest: Digest::of(bytes), size: bytes.len() as u64 };
        let supply = Bytes { label: label.to_owned(), supplied, bytes: bytes.to_vec() };
        self.push.offer(&supplied, &supply).map(drop)
    }
}

/// Why an entry is not written.
#[derive(Debug)]
pub(super) enum Untaken {
    /// Something is wrong with this layer, here or there.
    Layer(ShipError),
    /// The repository takes nothing.
    All(ShipError),
}

impl From<ShipError> for Untaken {
    fn from(error: ShipError) -> Self {
        Untaken::All(error)
    }
}

impl Untaken {
    /// Of what an entry names: a registry may refuse one blob, and the store may lack one.
    fn of_layer(error: ShipError) -> Self {
        let is_of_layer = match &error {
            ShipError::Oci(OciError::Fetch(FetchError::Status { status, .. })) => {
                (400..500).contains(status) && ![408, 425, 429].contains(status)
            }
            ShipError::Oci(OciError::Digest { .. } | OciError::Source { .. }) => true,
            ShipError::Oci(_) | ShipError::Fetch(_) => false,
            _ => true,
        };
        if is_of_layer { Untaken::Layer(error) } else { Untaken::All(error) }
    }
}

/// Layers that wait to be written, each once.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<(Key, LayerRecord)>,
    known: BTreeSet<Key>,
    closed: bool,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, key: &Key, record: &LayerRecord) {
        let mut state = self.state();
        if state.known.insert(*key) {
            state.waiting.push_back((*key, record.clone()));
            self.changed.notify_one();
        }
    }

    /// What is there already need not be written.
    pub(super) fn pass(&self, key: &Key) {
        self.state().known.insert(*key);
    }

    /// Nothing more comes.
    fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    fn next(&self) -> Option<(Key, LayerRecord)> {
        let idle = |state: &mut State| state.waiting.is_empty() && !state.closed;
        let state = self.changed.wait_while(self.state(), idle);
        state.unwrap_or_else(PoisonError::into_inner).waiting.pop_front()
    }

    /// Does some work while what it adds is written, and waits for the end of both.
    pub(super) fn during<T>(
        &self,
        write: impl Fn(&Key, &LayerRecord) + Sync,
        work: impl FnOnce() -> T,
    ) -> T {
        let hand = || {
            while let Some((key, record)) = self.next() {
                write(&key, &record);
            }
        };
        std::thread::scope(|scope| {
            (0..PARALLEL).for_each(|_| drop(scope.spawn(hand)));
            let _closing = Finally(|| self.close());
            work()
        })
    }
}
