//! What was pushed where: so that a registry is asked to mount what another of its repositories has, and
//! launchers know under which name and digest an image can be pulled.
//!
//! `pushes/images`: images and where each was pushed to last, the newest at the end. `pushes/HEX` (the
//! digest of a registry's name): blobs and the repository that got each. Both forget their oldest lines.
//! Nothing here is believed: what a registry does not have it says when it is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Store, StoreError, StoreLock};
use crate::digest::Digest;
use crate::fsx;
use crate::reference::Reference;

/// So many lines are kept.
const IMAGES: usize = 1024;
const BLOBS: usize = 8192;

/// An image at a registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushedImage {
    /// Digest of its config.
    pub image: Digest,
    /// `REGISTRY/REPOSITORY:TAG`.
    pub reference: String,
    /// What the registry knows it by: digest of its manifest, or of the index of all platforms.
    pub manifest: Digest,
}

impl Store {
    /// Where an image was pushed to, the latest place first.
    pub fn find_pushes(&self, image: &Digest) -> Vec<PushedImage> {
        let all: Vec<PushedImage> = read(&self.pushes("images"));
        all.into_iter().rev().filter(|one| one.image == *image).collect()
    }

    /// What was pushed last into the repository that a reference is of.
    pub fn find_last_push(&self, reference: &Reference) -> Option<Digest> {
        let place =
            |one: &Reference| (one.registry().map(str::to_owned), one.repository().to_owned());
        let all: Vec<PushedImage> = read(&self.pushes("images"));
        let same = |one: &PushedImage| {
            let known = one.reference.parse().ok();
            known.is_some_and(|known| place(&known) == place(reference))
        };
        Some(all.into_iter().rev().find(same)?.manifest)
    }

    /// Remembers that images are at a registry now.
    pub fn put_pushes(&self, pushed: &[PushedImage]) -> Result<(), StoreError> {
        let path = self.pushes("images");
        let known: Vec<PushedImage> = read(&path);
        if pushed.iter().all(|one| known.contains(one)) {
            return Ok(());
        }
        let Some(_lock) = self.lock_pushes()? else { return Ok(()) };
        let mut all: Vec<PushedImage> = read(&path);
        let same = |old: &PushedImage| {
            pushed.iter().any(|new| new.image == old.image && new.reference == old.reference)
        };
        all.retain(|old| !same(old));
        all.extend_from_slice(pushed);
        self.write_pushes(&path, all, IMAGES)
    }

    /// Repositories of a registry that got blobs from here.
    pub fn find_homes(&self, registry: &str) -> BTreeMap<Digest, String> {
        let lines: Vec<(Digest, String)> = read(&self.homes(registry));
        lines.into_iter().collect()
    }

    /// Remembers that a repository has blobs now. The newest is a blob's home: what got it earlier may be
    /// gone.
    pub fn put_homes(
        &self,
        registry: &str,
        repository: &str,
        blobs: &[Digest],
    ) -> Result<(), StoreError> {
        let known = self.find_homes(registry);
        let is_known = |blob: &Digest| known.get(blob).is_some_and(|home| home == repository);
        let news: BTreeSet<Digest> = blobs.iter().filter(|blob| !is_known(blob)).copied().collect();
        if news.is_empty() {
            return Ok(());
        }
        let Some(_lock) = self.lock_pushes()? else { return Ok(()) };
        let path = self.homes(registry);
        let mut all: Vec<(Digest, String)> = read(&path);
        all.retain(|(blob, _)| !news.contains(blob));
        all.extend(news.into_iter().map(|blob| (blob, repository.to_owned())));
        self.write_pushes(&path, all, BLOBS)
    }

    fn homes(&self, registry: &str) -> PathBuf {
        self.pushes(&Digest::of(registry.as_bytes()).hex())
    }

    fn pushes(&self, name: &str) -> PathBuf {
        self.root.join("pushes").join(name)
    }

    /// `None` where nothing can be remembered.
    fn lock_pushes(&self) -> Result<Option<StoreLock>, StoreError> {
        match self.lock("pushes") {
            Err(StoreError::Io(error)) if fsx::is_read_only(&error.source) => Ok(None),
            result => result.map(Some),
        }
    }

    fn write_pushes<T: Serialize>(
        &self,
        path: &Path,
        mut lines: Vec<T>,
        most: usize,
    ) -> Result<(), StoreError> {
        lines.drain(..lines.len().saturating_sub(most));
        let bytes = serde_json::to_vec(&lines).expect("pushes are plain lists");
        Ok(fsx::write_atomic(path, &bytes)?)
    }
}

/// What cannot be read is forgotten.
fn read<T: DeserializeOwned>(path: &Path) -> Vec<T> {
    let bytes = fs::read(path).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_push_of_an_image_comes_first() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        let image = Digest::of(b"image");
        let pushed = |reference: &str, manifest: &[u8]| PushedImage {
            image,
            reference: reference.to_owned(),
            manifest: Digest::of(manifest),
        };
        for one in [pushed("r/a:1", b"1"), pushed("r/b:1", b"1"), pushed("r/a:1", b"2")] {
            store.put_pushes(&[one]).unwrap();
        }
        let found = store.find_pushes(&image);
        assert_eq!(found, [pushed("r/a:1", b"2"), pushed("r/b:1", b"1")]);
        assert_eq!(store.find_pushes(&Digest::of(b"other")), []);
        let last = |reference: &str| store.find_last_push(&reference.parse().unwrap());
        assert_eq!(last("r.example/a:3"), None);
        store.put_pushes(&[pushed("r.example/a:1", b"3"), pushed("r.example/ab:1", b"4")]).unwrap();
        assert_eq!(last("r.example/a:3"), Some(Digest::of(b"3")));
    }

    #[test]
    fn blobs_have_homes_by_registry() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        let blob = Digest::of(b"blob");
        store.put_homes("r", "team/a", &[blob]).unwrap();
        assert_eq!(store.find_homes("r").get(&blob).map(String::as_str), Some("team/a"));
        assert!(store.find_homes("other").is_empty());
        // the newest is where it is
        let other = Digest::of(b"other");
        store.put_homes("r", "team/b", &[blob, other]).unwrap();
        store.put_homes("r", "team/b", &[blob]).unwrap();
        let homes = store.find_homes("r");
        assert_eq!(homes.values().collect::<Vec<_>>(), ["team/b", "team/b"]);
        let lines: Vec<(Digest, String)> = read(&store.homes("r"));
        assert_eq!(lines.len(), 2, "one of each");
    }
}
