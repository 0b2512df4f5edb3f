//! Layers out of a shared cache.
//!
//! All Keys are asked for at once, one request each; the first goes alone, for it brings the token that
//! the others show, or shows that nobody answers. What is fetched gathers beside the store and is held
//! against all that its entry says while it is unpacked: the blob against its digest, the tar against
//! size and digest, the listing against the tar. Only then does any of it get a name. What it says of its
//! sources comes along where the store does not know that already.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::entry::{Entry, EntryError, LARGEST_FACTS, Trust, Vouched, tag};
use super::manifest::Said;
use crate::build::listing::Listing;
use crate::build::unpack::survey;
use crate::digest::Digest;
use crate::fetch::{Login, Progress, Want};
use crate::fsx::IoAt;
use crate::image::{Form, Twin, remember_twin};
use crate::oci::{OciError, Origin, Packing, Registry};
use crate::plan::Step;
use crate::platform::Platform;
use crate::report::Sheet;
use crate::store::{Draft, Key, LayerRecord, Store, Voucher};
use crate::tarball::Limits;

/// Questions at a time.
const PARALLEL: usize = 8;
/// Largest listing that is unpacked: ten times what the largest layers known have.
const LARGEST_LISTING: u64 = 256 << 20;

/// A repository that layers are taken from.
pub(super) struct Shelf<'a> {
    pub(super) name: String,
    pub(super) origin: Origin<'a>,
    pub(super) trust: Trust,
    /// It cannot be had, and that was said.
    pub(super) off: AtomicBool,
}

/// What a shelf says to a Key: what those say who are believed there, if there is anything.
type Answer = Result<Option<Vec<Vouched>>, EntryError>;

impl<'a> Shelf<'a> {
    pub(super) fn is_off(&self) -> bool {
        self.off.load(Ordering::Relaxed)
    }

    fn registry(&self) -> &Registry<'a> {
        self.origin.registry().expect("a shelf is opened at a registry")
    }

    /// What it has for these Keys, in their order. After the first failure of the shelf itself no more
    /// is asked.
    pub(super) fn look(&self, keys: &[Key], platform: Platform) -> Vec<(Key, Answer)> {
        let Some((first, rest)) = keys.split_first() else { return Vec::new() };
        let ended = AtomicBool::new(false);
        let ask = |key: &Key| {
            let answer = self.find(key, platform);
            let failed = answer.as_ref().is_err_and(EntryError::is_of_cache);
            ended.fetch_or(failed, Ordering::Relaxed);
            (*key, answer)
        };
        let mut answers = vec![ask(first)];
        let next = AtomicUsize::new(0);
        let hand = || {
            let mut answers = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                let Some(key) = rest.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
                answers.push(ask(key));
            }
            answers
        };
        std::thread::scope(|scope| {
            let hands: Vec<_> = (0..PARALLEL.min(rest.len())).map(|_| scope.spawn(hand)).collect();
            for hand in hands {
                answers.extend(hand.join().expect("asking does not panic"));
            }
        });
        answers
    }

    fn find(&self, key: &Key, platform: Platform) -> Answer {
        match self.registry().manifest(&tag(key, platform)) {
            Ok(document) => {
                Said::parse(&document.bytes)?.believed(key, platform, &self.trust).map(Some)
            }
            Err(OciError::Missing { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Brings a layer into the store. What is said of its sources is not needed for it: why that is not taken
    /// comes beside the layer.
    pub(super) fn take(
        &self,
        vouched: &Vouched,
        step: &Step,
        store: &Store,
        progress: &dyn Progress,
    ) -> Result<(LayerRecord, Option<EntryError>), EntryError> {
        let entry = &vouched.entry;
        let listing = self.listing(entry)?;
        let (sheet, untold) = match self.sheet(entry, step, store) {
            Err(error) if error.is_of_cache() => return Err(error),
            Err(error) => (None, Some(error)),
            Ok(sheet) => (sheet, None),
        };
        let corner = store.tree_draft()?;
        let blob = corner.path().join("layer");
        self.fetch(entry, &blob, store, progress)?;
        let draft = unpack(entry, &blob, &listing, store)?;
        drop(corner);
        if vouched.voucher == Voucher::Nobody {
            store.mark_unvouched()?;
        }
        if let Some(sheet) = sheet {
            sheet.remember(store, &vouched.voucher)?;
        }
        let (diff_id, _) = draft.commit()?;
        let listing = store.put_listing(&diff_id, &listing.encode())?;
        let vouchers = BTreeSet::from([vouched.voucher.clone()]);
        let record = store.put_vouched(&entry.key, diff_id, Some(listing), vouchers)?;
        self.remember(vouched, store);
        Ok((record, untold))
    }

    fn listing(&self, entry: &Entry) -> Result<Listing, EntryError> {
        let part = &entry.listing;
        let label = format!("listing of layer {}", entry.diff_id.short());
        let packed = self.registry().blob(&label, &part.digest, part.size)?;
        if Digest::of(&packed) != part.digest {
            return Err(EntryError::Listing);
        }
        let mut bytes = Vec::new();
        let decoder = zstd::Decoder::new(&*packed).map_err(|_| EntryError::Listing)?;
        // no listing is longer than the tar that has the same in it
        let longest = entry.size.min(LARGEST_LISTING);
        let read = decoder.take(longest + 1).read_to_end(&mut bytes);
        read.map_err(|_| EntryError::Listing)?;
        let bytes = Some(bytes).filter(|bytes| bytes.len() as u64 <= longest);
        let listing = bytes.and_then(|bytes| Listing::decode_of(&bytes, entry.size));
        listing.ok_or(EntryError::Listing)
    }

    /// What is said of the sources of a step, as far as that is news.
    fn sheet(
        &self,
        entry: &Entry,
        step: &Step,
        store: &Store,
    ) -> Result<Option<Sheet>, EntryError> {
        let Some(part) = entry.facts.as_ref().filter(|_| !Sheet::is_known(store, step, &|_| true))
        else {
            return Ok(None);
        };
        let label = format!("sources of layer {}", entry.diff_id.short());
        let bytes = self.registry().blob(&label, &part.digest, part.size.min(LARGEST_FACTS))?;
        match Digest::of(&bytes) == part.digest {
            true => Ok(Some(Sheet::parse(&bytes, step)?)),
            false => Err(EntryError::Facts),
        }
    }

    fn fetch(
        &self,
        entry: &Entry,
        blob: &Path,
        store: &Store,
        progress: &dyn Progress,
    ) -> Result<(), EntryError> {
        let digest = entry.layer.digest;
        let want = Want {
            label: format!("layer {}", entry.diff_id.short()),
            urls: Vec::new(),
            size: Some(entry.layer.size),
            digest: digest.into(),
            is_pinned: false,
            login: Login::Nobody,
            part: store.part_path(&digest),
            into: blob.to_owned(),
        };
        let failures = self.origin.fetch(vec![(digest, want)], store, progress)?;
        failures.into_values().next().map_or(Ok(()), |error| Err(error.into()))
    }

    /// What the layer's twin is, and where it lies: so that a push finds it there and makes none. Only a
    /// key that is trusted is believed in that, and only for what would be made here as well. Without that, the
    /// next push asks for more.
    fn remember(&self, vouched: &Vouched, store: &Store) {
        let Vouched { entry, voucher } = vouched;
        let form = Form::default();
        if *voucher != Voucher::Nobody && entry.form == form.to_string() {
            let twin = Twin { digest: entry.layer.digest, size: entry.layer.size };
            remember_twin(store, &entry.diff_id, form, twin).unwrap_or_default();
        }
        let (host, repository) = (self.registry().host(), self.registry().repository());
        store.put_homes(host, repository, &[entry.layer.digest]).unwrap_or_default();
    }
}

/// The tar of a layer, whole and right, and not named yet.
fn unpack(
    entry: &Entry,
    blob: &Path,
    listing: &Listing,
    store: &Store,
) -> Result<Draft, EntryError> {
    let packing: Packing = entry.layer.media_type.parse().map_err(EntryError::Damaged)?;
    let tar = packing.decoder(blob).at("open", blob)?.take(entry.size + 1);
    let mut draft = store.draft()?;
    // no layer holds more than its tar
    let limits = Limits { bytes: entry.size, members: entry.size / 512 };
    let mut tar = Copied { from: tar, into: &mut draft, failure: None };
    let surveyed = survey(&mut tar, limits, listing);
    // what is wrong with the bytes says more than what is wrong with what they say
    let copied = io::copy(&mut tar, &mut io::sink());
    tar.failure.map_or(Ok(()), Err).at("unpack", blob)?;
    copied.map_err(EntryError::Packed)?;
    let (expected, found) = (entry.diff_id, draft.digest());
    if found != expected || draft.len() != entry.size {
        return Err(EntryError::DiffId { expected, found });
    }
    surveyed?;
    Ok(draft)
}

/// Bytes that are written down while they are read.
struct Copied<'a, R> {
    from: R,
    into: &'a mut Draft,
    /// Why they could not be.
    failure: Option<io::Error>,
}

impl<R: Read> Read for Copied<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        let written = self.into.write_all(&buffer[..count]);
        written.map(|()| count).map_err(|error| {
            let told = io::Error::from(error.kind());
            self.failure = Some(error);
            told
        })
    }
}
