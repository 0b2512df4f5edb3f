//! Images to a registry.
//!
//! What is known of an image (twins that were made once) is enough to know its manifest's digest, and a
//! registry that names that digest has all of it: so a push that changes nothing is one question. Else
//! each blob is there because a manifest of the repository lists it, or is asked for, mounted from a
//! repository that got it before, or sent; layers that have no twin yet are compressed while they are sent,
//! one after the other on all processors, several on the way at a time. The manifest goes last, and the tag
//! moves with it; where something is to be attached, the manifest goes under its digest, what is attached
//! follows, and then the tag moves, so that nobody finds an image by its tag that is not signed yet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::ShipError;
use super::cargo::{Cargo, Turn, label};
use super::listed::Listed;
use super::shipped::{self, Placed, Shipped};
use super::supply::{Bytes, Grown, Stored};
use crate::digest::Digest;
use crate::fetch::Progress;
use crate::image::{Form, Growth, ImageError, Twin, find_twin, has_bytes, make_twin};
use crate::media;
use crate::oci::{Mounted, Registry, Supplied, Supply};
use crate::store::{Held, LayerRecord, Store, StoreError};

/// Blobs on their way at a time.
const PARALLEL: usize = 8;
/// So many blobs are asked for one by one; for more, a manifest that lists them is looked for.
const FEW: usize = 4;
/// Layers of at most so many bytes are compressed before anything is asked.
const SMALL: u64 = 4 << 20;
/// What is known of a large blob for longer is asked anew before it is sent.
const STALE: Duration = Duration::from_secs(2);

/// A push under way.
pub struct Push<'a> {
    pub store: &'a Store,
    pub registry: &'a Registry<'a>,
    pub form: Form,
    /// Repositories of the registry that blobs may be mounted from.
    pub homes: BTreeMap<Digest, String>,
    /// What went to the repository last: a manifest or an index.
    pub last: Option<Digest>,
    pub progress: &'a dyn Progress,
}

/// What the blobs of a push came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// That the repository had.
    pub there: usize,
    pub mounted: usize,
    pub sent: usize,
    /// Bytes of those that were sent.
    pub bytes: u64,
}

/// What a push came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// What the tag names: a manifest, or an index of several platforms'.
    pub root: Placed,
    /// In the order of the images.
    pub manifests: Vec<Placed>,
    pub traffic: Traffic,
}

/// What is done when all manifests are there and the tag has not moved yet. All that can fail by itself was
/// done before.
pub type Attach<'a> = &'a mut dyn FnMut(&Pushed) -> Result<(), ShipError>;

impl Push<'_> {
    /// Brings images (one, or one of each platform) under a tag.
    pub fn run(
        &self,
        images: &[Shipped<'_>],
        tag: &str,
        attach: Option<Attach<'_>>,
    ) -> Result<Pushed, ShipError> {
        // the first question also brings a token for all that follow
        let named = self.registry.find_manifest(tag)?;
        let listed = Listed::new(self.registry, named.or(self.last));
        let single = images.len() == 1;
        let to = To { tag: (single && attach.is_none()).then_some(tag), named };
        let mut traffic = Traffic::default();
        let mut manifests = Vec::new();
        let mut bytes = Vec::new();
        for image in images {
            let (manifest, moved);
            (manifest, bytes, moved) = self.push_image(*image, to, &listed)?;
            traffic.add(moved);
            manifests.push(manifest);
        }
        let root = match single {
            true => manifests[0].clone(),
            false => {
                bytes = shipped::index(self.store, images, &manifests)?;
                Placed::new(&bytes, media::INDEX)
            }
        };
        let is_new = named != Some(root.digest);
        let pushed = Pushed { root, manifests, traffic };
        if let Some(attach) = attach {
            if is_new && !single {
                self.put(&pushed.root.digest.to_string(), &pushed.root, &bytes)?;
            }
            attach(&pushed)?;
        }
        if is_new && to.tag.is_none() {
            self.put(tag, &pushed.root, &bytes)?;
        }
        Ok(pushed)
    }

    /// Writes a manifest or an index; what it names, the registry has taken.
    fn put(&self, version: &str, placed: &Placed, bytes: &[u8]) -> Result<(), ShipError> {
        let nothing = || Ok::<_, ShipError>(());
        self.registry.put_manifest(version, &placed.media_type, bytes, nothing).map(drop)
    }

    /// Brings one image under a tag, or under its digest alone; answers its manifest, too.
    fn push_image(
        &self,
        image: Shipped<'_>,
        to: To<'_>,
        listed: &Listed<'_>,
    ) -> Result<(Placed, Vec<u8>, Traffic), ShipError> {
        let layers = &image.record().layers;
        let mut twins: Vec<Option<Twin>> = layers.iter().map(|layer| self.find(layer)).collect();
        let missing =
            |(layer, twin): (&LayerRecord, &Option<Twin>)| layer.packed.is_none() && twin.is_none();
        let whole = !layers.iter().zip(&twins).any(missing);
        let manifest = |twins: &[Option<Twin>]| image.manifest(self.store, twins, self.form);
        let mut is_there = false;
        if whole {
            let (ends, bytes) = manifest(&twins)?;
            let named = to.named == Some(ends.digest);
            is_there = named || self.find_beside(&ends.digest, listed, layers.len())?;
            if named || is_there && to.tag.is_none() {
                return Ok((ends, bytes, Traffic::default()));
            }
        }
        let mut traffic = Traffic::default();
        if !is_there {
            (twins, traffic) = self.bring(image, &twins, Some(listed))?;
        }
        let (ends, bytes) = manifest(&twins)?;
        self.registry.put_manifest(&to.version(&ends), &ends.media_type, &bytes, || {
            let (_, again) = self.bring(image, &twins, None)?;
            traffic.add(Traffic { there: 0, ..again });
            Ok::<_, ShipError>(())
        })?;
        self.remember(image, &twins)?;
        Ok((ends, bytes, traffic))
    }

    /// Whether a manifest is there. If it is not, what is listed will be asked for: that comes meanwhile.
    fn find_beside(
        &self,
        digest: &Digest,
        listed: &Listed<'_>,
        layers: usize,
    ) -> Result<bool, ShipError> {
        let version = digest.to_string();
        let found = std::thread::scope(|scope| {
            if layers >= FEW {
                scope.spawn(|| listed.blobs());
            }
            self.registry.find_manifest(&version)
        });
        Ok(found?.is_some())
    }

    /// Brings the twin of one layer in.
    pub(super) fn bring_layer(
        &self,
        layer: &LayerRecord,
        turn: &Turn,
    ) -> Result<(Option<Twin>, Traffic), ShipError> {
        self.carry(&Cargo::Layer(layer, self.find(layer)), turn, Known::Nothing)
    }

    fn find(&self, layer: &LayerRecord) -> Option<Twin> {
        match layer.packed {
            Some(_) => None,
            None => find_twin(self.store, &layer.diff_id, self.form),
        }
    }

    /// Which repository has what, for pushes to others.
    fn remember(&self, image: Shipped<'_>, twins: &[Option<Twin>]) -> Result<(), ShipError> {
        let record = image.record();
        let blobs = record.layers.iter().zip(twins).filter_map(|(layer, twin)| {
            let twin = twin.map(|twin| twin.digest);
            twin.or_else(|| layer.packed.as_ref().map(|packed| packed.digest))
        });
        let blobs: Vec<Digest> = blobs.chain([record.image]).collect();
        let (host, repository) = (self.registry.host(), self.registry.repository());
        match self.store.put_homes(host, repository, &blobs) {
            Err(StoreError::ReadOnly { .. }) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Brings all blobs in; answers all twins. What is listed is there.
    fn bring(
        &self,
        image: Shipped<'_>,
        known: &[Option<Twin>],
        listed: Option<&Listed<'_>>,
    ) -> Result<(Vec<Option<Twin>>, Traffic), ShipError> {
        let record = image.record();
        let mut seen = BTreeSet::new();
        let layers =
            record.layers.iter().zip(known).filter(|(layer, _)| seen.insert(layer.diff_id));
        let mut cargo: Vec<Cargo<'_>> =
            layers.map(|(layer, twin)| Cargo::Layer(layer, *twin)).collect();
        cargo.push(Cargo::Config(record.image, self.store.find_blob(&record.image).unwrap_or(0)));
        let asked = Instant::now();
        let there = self.find_there(&cargo, listed)?;
        let is_there =
            |one: &Cargo<'_>| one.supplied().is_some_and(|known| there.contains(&known.digest));
        let (there, mut missing): (Vec<_>, Vec<_>) = cargo.into_iter().partition(is_there);
        // what can go out at once, then what takes longest
        missing.sort_by_key(|one| std::cmp::Reverse((one.supplied().is_some(), one.size())));
        let results = self.work(&missing, asked)?;
        let mut traffic = Traffic { there: there.len(), ..Traffic::default() };
        let mut twins = BTreeMap::new();
        for one in &there {
            twins.extend(one.layer().map(|layer| (layer.diff_id, one.twin())));
        }
        for (one, (twin, moved)) in missing.iter().zip(results) {
            traffic.add(moved);
            twins.extend(one.layer().map(|layer| (layer.diff_id, twin)));
        }
        let twin = |layer: &LayerRecord| twins.get(&layer.diff_id).copied().flatten();
        Ok((record.layers.iter().map(twin).collect(), traffic))
    }

    /// Of what is known by its digest, what is there: it is listed, or asked for.
    fn find_there(
        &self,
        cargo: &[Cargo<'_>],
        listed: Option<&Listed<'_>>,
    ) -> Result<BTreeSet<Digest>, ShipError> {
        let known = || cargo.iter().filter_map(|one| Some((one.label(), one.supplied()?)));
        let listed = listed.filter(|_| known().count() > FEW).map(Listed::blobs);
        let is_listed = |blob: &Supplied| listed.is_some_and(|all| all.contains(&blob.digest));
        let (listed, doubtful): (Vec<_>, Vec<_>) = known().partition(|(_, blob)| is_listed(blob));
        let answers = self.registry.has_blobs(&doubtful)?;
        let asked = doubtful.iter().zip(answers).filter(|(_, is_there)| *is_there);
        let asked = asked.map(|((_, blob), _)| blob.digest);
        Ok(listed.iter().map(|(_, blob)| blob.digest).chain(asked).collect())
    }

    /// Does all of it with several hands; the first failure ends it. All was asked for, then.
    fn work(
        &self,
        cargo: &[Cargo<'_>],
        asked: Instant,
    ) -> Result<Vec<(Option<Twin>, Traffic)>, ShipError> {
        let next = AtomicUsize::new(0);
        let turn = Turn::default();
        let failure = Mutex::new(None);
        let hand = || {
            let mut done = Vec::new();
            while lock(&failure).is_none() {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(one) = cargo.get(at) else { break };
                match self.carry(one, &turn, Known::Missing(asked)) {
                    Ok(result) => done.push((at, result)),
                    Err(error) => drop(lock(&failure).get_or_insert(error)),
                }
            }
            done
        };
        let mut done: Vec<_> = std::thread::scope(|scope| {
            let hands: Vec<_> = (0..PARALLEL.min(cargo.len())).map(|_| scope.spawn(hand)).collect();
            let ended = hands.into_iter().map(|hand| hand.join().expect("a hand does not panic"));
            ended.flatten().collect()
        });
        if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        done.sort_by_key(|(at, _)| *at);
        Ok(done.into_iter().map(|(_, result)| result).collect())
    }

    fn carry(
        &self,
        cargo: &Cargo<'_>,
        turn: &Turn,
        known: Known,
    ) -> Result<(Option<Twin>, Traffic), ShipError> {
        let twin = cargo.twin();
        let session = match cargo.supplied() {
            None => None,
            Some(supplied) => match self.ask(&cargo.label(), &supplied, known)? {
                Asked::There(traffic) => return Ok((twin, traffic)),
                Asked::Not(session) => session,
            },
        };
        match cargo {
            Cargo::Config(digest, _) => {
                let bytes = self.store.read_blob(digest)?;
                let supplied = Supplied { digest: *digest, size: bytes.len() as u64 };
                let supply = Bytes { label: cargo.label(), supplied, bytes };
                Ok((None, self.send(&supply, supplied.size, session)?))
            }
            Cargo::Layer(layer, twin) => {
                let is_here = match twin {
                    Some(twin) => has_bytes(self.store, twin)?,
                    None => layer.packed.is_some(),
                };
                if let Some(supplied) = cargo.supplied().filter(|_| is_here) {
                    return Ok((*twin, self.send_file(layer, &supplied, session)?));
                }
                let (twin, traffic) = self.send_growing(layer, session, turn)?;
                Ok((Some(twin), traffic))
            }
        }
    }

    /// Asks for a blob, and for it to be mounted. What takes long to send is asked for again where it was
    /// missing a while ago: others may have sent it since.
    fn ask(&self, label: &str, supplied: &Supplied, known: Known) -> Result<Asked, ShipError> {
        let asks = match known {
            Known::Nothing => true,
            Known::Missing(asked) => supplied.size > SMALL && asked.elapsed() > STALE,
        };
        if asks && self.registry.has_blob(label, supplied)? {
            return Ok(Asked::There(Traffic { there: 1, ..Traffic::default() }));
        }
        let home = self.homes.get(&supplied.digest);
        let Some(home) = home.filter(|home| *home != self.registry.repository()) else {
            return Ok(Asked::Not(None));
        };
        match self.registry.mount(label, &supplied.digest, home)? {
            Mounted::Done => Ok(Asked::There(Traffic { mounted: 1, ..Traffic::default() })),
            Mounted::Not(session) => Ok(Asked::Not(session)),
        }
    }

    /// Asks for a blob and sends it where it is missing.
    pub(super) fn offer(
        &self,
        supplied: &Supplied,
        supply: &dyn Supply,
    ) -> Result<Traffic, ShipError> {
        match self.ask(supply.label(), supplied, Known::Nothing)? {
            Asked::There(traffic) => Ok(traffic),
            Asked::Not(session) => self.send(supply, supplied.size, session),
        }
    }

    fn send(
        &self,
        supply: &dyn Supply,
        size: u64,
        session: Option<url::Url>,
    ) -> Result<Traffic, ShipError> {
        let label = supply.label();
        self.progress.started(label, Some(size));
        let sent = self.registry.upload(supply, session, self.progress);
        self.progress.finished(label);
        Ok(match sent? {
            true => {
                let bytes = supply.known().map_or(size, |known| known.size);
                Traffic { sent: 1, bytes, ..Traffic::default() }
            }
            false => Traffic { there: 1, ..Traffic::default() },
        })
    }

    /// Sends a blob of the store. One that a registry does not take may be damaged here.
    fn send_file(
        &self,
        layer: &LayerRecord,
        supplied: &Supplied,
        session: Option<url::Url>,
    ) -> Result<Traffic, ShipError> {
        let path = self.store.blob_path(&supplied.digest);
        let supply = Stored { label: label(layer), supplied: *supplied, path };
        let sent = self.send(&supply, supplied.size, session);
        if sent.is_err()
            && let Err(error @ StoreError::Corrupt { .. }) =
                self.store.verify_blob(&supplied.digest)
        {
            self.store.drop_blob(&supplied.digest)?;
            return Err(error.into());
        }
        sent
    }

    /// Compresses a layer, and sends it meanwhile.
    fn send_growing(
        &self,
        layer: &LayerRecord,
        session: Option<url::Url>,
        turn: &Turn,
    ) -> Result<(Twin, Traffic), ShipError> {
        self.store.hold([Held::Blob(&layer.diff_id)])?;
        let growth = Growth::default();
        let taken = turn.take();
        let make = || {
            let made = make_twin(self.store, &layer.diff_id, self.form, &growth);
            drop(taken);
            made
        };
        let supply = Grown { label: label(layer), growth: &growth };
        if layer.size <= SMALL {
            let twin = make()?;
            let supplied = Supplied { digest: twin.digest, size: twin.size };
            return Ok((twin, self.offer(&supplied, &supply)?));
        }
        let (made, sent, abandoned) = std::thread::scope(|scope| {
            let maker = scope.spawn(make);
            // what it comes to is not known yet; a third is usual
            let sent = self.send(&supply, layer.size / 3, session);
            let abandoned = sent.is_err() && growth.abandon();
            (maker.join().expect("compressing does not panic"), sent, abandoned)
        });
        match (made, sent) {
            (Ok(twin), sent) => Ok((twin, sent?)),
            // nobody waited for it any more
            (Err(ImageError::Twin { .. }), Err(error)) if abandoned => Err(error),
            // what was sent of it ended because of this
            (Err(error), _) => Err(error.into()),
        }
    }
}

/// Repositories that a token is asked for beside the own one: those that have most of the blobs.
pub fn mounts(homes: &BTreeMap<Digest, String>, own: &str) -> Vec<String> {
    let mut counts: BTreeMap<&String, usize> = BTreeMap::new();
    for home in homes.values().filter(|home| *home != own) {
        *counts.entry(home).or_default() += 1;
    }
    let mut mounts: Vec<(usize, &String)> =
        counts.into_iter().map(|(home, count)| (count, home)).collect();
    mounts.sort_by(|a, b| b.cmp(a));
    mounts.into_iter().take(4).map(|(_, home)| home.clone()).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Traffic {
    fn add(&mut self, other: Traffic) {
        self.there += other.there;
        self.mounted += other.mounted;
        self.sent += other.sent;
        self.bytes += other.bytes;
    }
}

/// Where a manifest goes.
#[derive(Clone, Copy)]
struct To<'a> {
    /// Or under its digest alone.
    tag: Option<&'a str>,
    /// What the tag of the push names now.
    named: Option<Digest>,
}

impl To<'_> {
    fn version(self, manifest: &Placed) -> String {
        self.tag.map_or_else(|| manifest.digest.to_string(), str::to_owned)
    }
}

/// What is known of a blob before it is carried.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    Nothing,
    /// It was asked for with all others, then.
    Missing(Instant),
}

/// What a registry says of a blob.
enum Asked {
    There(Traffic),
    Not(Option<url::Url>),
}
