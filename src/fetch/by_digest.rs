//! Mirrors by digest: directories, here or on a server, that keep sources as `blobs/ALGORITHM/HEX`, and
//! registries.
//!
//! They are asked for what a lock pins, whatever ecosystem it is of, and for nothing else: an index of
//! today has no digest that anybody could have kept. A directory on this machine is no network, so
//! `--offline` reads it. Its bytes are held against their digest like everybody's: what does not fit is
//! named, and is an error unless another place gives the right ones.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use super::client::{Client, Want};
use super::error::FetchError;
use super::progress::{Meter, Progress};
use crate::decl::{Ask, MirrorPlace, SourceMirror};
use crate::digest::Integrity;
use crate::fsx::{self, IoAt};

/// A repository of a registry that keeps sources. How one speaks with it is not known here.
pub trait SourceRegistry: fmt::Debug + Send + Sync {
    fn ask(&self) -> Ask;

    /// Brings in what it has; answers why it did not, by digest.
    fn take(
        &self,
        client: &Client,
        wants: Vec<Want>,
        progress: &dyn Progress,
    ) -> BTreeMap<Integrity, FetchError>;
}

/// Takes out of `wants` what registries have; answers what they failed at, absence left out.
pub(super) fn take_from<'r>(
    registries: impl Iterator<Item = &'r Arc<dyn SourceRegistry>>,
    client: &Client,
    wants: &mut BTreeMap<Integrity, Want>,
    progress: &dyn Progress,
) -> BTreeMap<Integrity, FetchError> {
    let mut failed = BTreeMap::new();
    for registry in registries {
        let pinned: Vec<Want> = wants.values().filter(|want| want.is_pinned).cloned().collect();
        if pinned.is_empty() {
            break;
        }
        let failures = registry.take(client, pinned, progress);
        wants.retain(|digest, want| !want.is_pinned || failures.contains_key(digest));
        failed.retain(|digest, _| wants.contains_key(digest));
        failed.extend(failures.into_iter().filter(|(_, error)| !error.is_absence()));
    }
    failed
}

/// Tells the drafts of one process apart.
static DRAFTS: AtomicU64 = AtomicU64::new(0);

/// Where a directory of blobs has one: as in an OCI image layout.
pub fn blob_below(digest: &Integrity) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

/// Takes out of `wants` what the directories among some mirrors have; answers what they have damaged.
pub(super) fn take<'m>(
    mirrors: impl Iterator<Item = &'m SourceMirror>,
    wants: &mut BTreeMap<Integrity, Want>,
    progress: &dyn Progress,
) -> BTreeMap<Integrity, FetchError> {
    let mut damaged = BTreeMap::new();
    for mirror in mirrors {
        let MirrorPlace::Dir(dir) = &mirror.place else { continue };
        if wants.values().any(|want| want.is_pinned) && !dir.join("blobs").is_dir() {
            progress
                .noted(&format!("mirror `{}` has no `blobs`: it is passed over", dir.display()));
            continue;
        }
        let take_one = |(digest, want): (&Integrity, &Want)| {
            let path = dir.join(blob_below(digest));
            let found = want.is_pinned && path.exists();
            found.then(|| (*digest, take_file(&path, &path.display().to_string(), want, progress)))
        };
        let taken: Vec<(Integrity, Result<(), FetchError>)> =
            wants.par_iter().filter_map(take_one).collect();
        for (digest, result) in taken {
            match result {
                Ok(()) => {
                    damaged.remove(&digest);
                    wants.remove(&digest);
                }
                Err(error) => {
                    progress.noted(&error.to_string());
                    damaged.insert(digest, error);
                }
            }
        }
    }
    damaged
}

/// Adds the addresses that mirrors on servers have for a source.
pub(super) fn add_urls(mirrors: &[SourceMirror], want: &mut Want) {
    if !want.is_pinned {
        return;
    }
    let below = blob_below(&want.digest);
    let urls = |ask: Ask| {
        mirrors.iter().filter(move |mirror| mirror.ask == ask).filter_map(|mirror| {
            match &mirror.place {
                MirrorPlace::Url(url) => url.join(&below).ok(),
                MirrorPlace::Dir(_) | MirrorPlace::Registry(_) => None,
            }
        })
    };
    let own = std::mem::take(&mut want.urls);
    want.urls = urls(Ask::First).chain(own).chain(urls(Ask::Last)).collect();
}

/// Copies a file of this machine in as the source that it should be; `shown` names it in messages.
pub fn take_file(
    path: &Path,
    shown: &str,
    want: &Want,
    progress: &dyn Progress,
) -> Result<(), FetchError> {
    let mut meter = Meter::start(progress, &want.label, want.size);
    let number = DRAFTS.fetch_add(1, Ordering::Relaxed);
    let draft = Draft(want.part.with_extension(format!("{}-{number}", std::process::id())));
    let mut hasher = want.digest.hasher();
    // where blocks can be shared, only hashing reads them
    let shared = fsx::reflink(path, &draft.0).at("copy", path)?;
    let mut input = File::open(if shared { &draft.0 } else { path }).at("open", path)?;
    let mut output: Box<dyn Write> = match shared {
        true => Box::new(io::sink()),
        false => Box::new(File::create(&draft.0).at("create", &draft.0)?),
    };
    let mut buffer = vec![0; 1 << 18];
    loop {
        let count = input.read(&mut buffer).at("read", path)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        output.write_all(&buffer[..count]).at("write", &draft.0)?;
        meter.reach(hasher.len());
    }
    let found = hasher.finish();
    if found != want.digest {
        let (label, url) = (want.label.clone(), shown.to_owned());
        return Err(FetchError::Digest { label, url, expected: want.digest, found });
    }
    if let Some(dir) = want.into.parent() {
        fs::create_dir_all(dir).at("create", dir)?;
    }
    Ok(fs::rename(&draft.0, &want.into).at("name", &want.into)?)
}

/// A file that goes unless it got its name.
struct Draft(PathBuf);

impl Drop for Draft {
    fn drop(&mut self) {
        fs::remove_file(&self.0).unwrap_or_default();
    }
}
