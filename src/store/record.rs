//! What a Key is known to give.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Held, Stamp, Store, StoreError, Voucher};
use crate::digest::Digest;
use crate::fsx::{self, IoAt};

/// Hash of a layer's inputs. Same Key, same layer, on every machine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(pub Digest);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The layer that a Key gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Digest of the uncompressed tar (OCI image-spec, `diff_ids`).
    pub diff_id: Digest,
    /// How somebody else stored it: then that is the blob, and there is none of the tar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packed: Option<Packed>,
    /// Size of the uncompressed tar in bytes.
    pub size: u64,
    /// Digest of its listing, if it has one: layers of the same bytes may claim directories differently.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listing: Option<Digest>,
    /// How the blob looked when its bytes were last known to be right.
    pub stamp: Stamp,
    /// Who answers for it, where it was not made here, and for all that it was made over.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub vouchers: BTreeSet<Voucher>,
}

/// A layer as somebody else stored it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packed {
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// OCI's.
    pub media_type: String,
}

impl LayerRecord {
    /// The blob that has its bytes.
    pub fn blob(&self) -> &Digest {
        self.packed.as_ref().map_or(&self.diff_id, |packed| &packed.digest)
    }
}

/// The image that a plan gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// Digest of the image's config.
    pub image: Digest,
    /// Digest of the layout manifest.
    pub manifest: Digest,
    /// Size of the layout manifest in bytes.
    pub manifest_size: u64,
    /// The layers, bottom first.
    pub layers: Vec<LayerRecord>,
    /// Keys of all steps of its plan, those included that the image does not ship: what the next
    /// build of it wants to find.
    #[serde(default)]
    pub keys: Vec<Key>,
}

impl Store {
    /// The layer that `key` gave, if the store still has its bytes. A blob whose stamp is not the
    /// recorded one is hashed: intact, it gets a new record; damaged, it is dropped and reported
    /// through `damaged`, and built again.
    pub fn find_layer(
        &self,
        key: &Key,
        damaged: &mut dyn FnMut(&Digest),
    ) -> Result<Option<LayerRecord>, StoreError> {
        let Some(record) = self.read_record::<LayerRecord>("keys", key)? else { return Ok(None) };
        let checked = self.check_layer(&record, damaged)?;
        if let Some(checked) = checked.as_ref().filter(|checked| **checked != record) {
            self.write_record("keys", key, checked)?;
        }
        Ok(checked)
    }

    fn check_layer(
        &self,
        record: &LayerRecord,
        damaged: &mut dyn FnMut(&Digest),
    ) -> Result<Option<LayerRecord>, StoreError> {
        let Some(stamp) = Stamp::at(&self.blob_path(record.blob())) else { return Ok(None) };
        if stamp == record.stamp {
            return Ok(Some(record.clone()));
        }
        match self.verify_blob(record.blob()) {
            Ok(()) => Ok(Some(LayerRecord { stamp, ..record.clone() })),
            Err(StoreError::Corrupt { .. }) => {
                damaged(record.blob());
                self.drop_blob(record.blob())?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Remembers what `key` gave, here.
    pub fn put_layer(&self, key: &Key, diff_id: Digest) -> Result<LayerRecord, StoreError> {
        self.put_vouched(key, diff_id, None, BTreeSet::new())
    }

    /// Likewise, where somebody else answers for it.
    pub fn put_vouched(
        &self,
        key: &Key,
        diff_id: Digest,
        listing: Option<Digest>,
        vouchers: BTreeSet<Voucher>,
    ) -> Result<LayerRecord, StoreError> {
        let path = self.blob_path(&diff_id);
        let meta = fs::symlink_metadata(&path).at("stat", &path)?;
        let stamp = Stamp::new(&meta);
        let size = stamp.size;
        let record = LayerRecord { diff_id, packed: None, size, listing, stamp, vouchers };
        self.write_record("keys", key, &record)?;
        Ok(record)
    }

    /// Remembers a layer that stays as somebody else stored it; `size` is that of its tar.
    pub fn put_packed(
        &self,
        key: &Key,
        diff_id: Digest,
        size: u64,
        listing: Digest,
        packed: Packed,
    ) -> Result<LayerRecord, StoreError> {
        let path = self.blob_path(&packed.digest);
        let meta = fs::symlink_metadata(&path).at("stat", &path)?;
        let (packed, stamp) = (Some(packed), Stamp::new(&meta));
        let (listing, vouchers) = (Some(listing), BTreeSet::new());
        let record = LayerRecord { diff_id, packed, size, listing, stamp, vouchers };
        self.write_record("keys", key, &record)?;
        Ok(record)
    }

    /// The image that the plan of that Key gave, if every blob of it is as it was. One whose stamp is
    /// another, since a layer of another image gave the same bytes, is hashed before it is believed.
    pub fn find_image(&self, key: &Key) -> Result<Option<ImageRecord>, StoreError> {
        let Some(record) = self.read_record::<ImageRecord>("images", key)? else { return Ok(None) };
        let intact = |digest| self.read_blob(digest).is_ok();
        let layers: Option<Vec<LayerRecord>> =
            record.layers.iter().map(|layer| self.stamped_anew(layer)).collect();
        let Some(layers) = layers.filter(|_| intact(&record.image) && intact(&record.manifest))
        else {
            return Ok(None);
        };
        let checked = ImageRecord { layers, ..record.clone() };
        if checked != record {
            self.write_record("images", key, &checked)?;
        }
        Ok(Some(checked))
    }

    /// A layer with the stamp that its blob has now, if that is intact. Damage is for the build to find.
    fn stamped_anew(&self, layer: &LayerRecord) -> Option<LayerRecord> {
        let stamp = Stamp::at(&self.blob_path(layer.blob()))?;
        let intact = stamp == layer.stamp || self.verify_blob(layer.blob()).is_ok();
        intact.then(|| LayerRecord { stamp, ..layer.clone() })
    }

    /// Likewise, for who is going to use the image: holds it first, and remembers when it was used.
    pub fn use_image(&self, key: &Key) -> Result<Option<ImageRecord>, StoreError> {
        self.hold([Held::Image(key)])?;
        let found = self.find_image(key)?;
        if found.is_some() {
            // a time that cannot be set makes the image seem older than it is, and no more
            touch(&self.root.join("images").join(key.0.hex()));
        }
        Ok(found)
    }

    pub fn put_image(&self, key: &Key, record: &ImageRecord) -> Result<(), StoreError> {
        self.write_record("images", key, record)
    }

    fn read_record<T: DeserializeOwned>(
        &self,
        kind: &str,
        key: &Key,
    ) -> Result<Option<T>, StoreError> {
        let path = self.root.join(kind).join(key.0.hex());
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            result => result.at("read", &path)?,
        };
        // a record says nothing that could not be found out again: a damaged one is no record
        Ok(serde_json::from_slice(&bytes).ok())
    }

    fn write_record<T: Serialize>(
        &self,
        kind: &str,
        key: &Key,
        record: &T,
    ) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(record).expect("records have string keys only");
        Ok(fsx::write_atomic(&self.root.join(kind).join(key.0.hex()), &bytes)?)
    }
}

/// Gives a file the present as its time.
pub(super) fn touch(path: &Path) {
    let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
        .unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key(Digest::of(text.as_bytes()))
    }

    #[test]
    fn a_layer_is_found_by_its_key_until_its_bytes_change() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        let diff_id = store.put_blob(b"layer").unwrap();
        let record = store.put_layer(&key("a"), diff_id).unwrap();
        let mut damaged = Vec::new();
        assert_eq!(store.find_layer(&key("a"), &mut |d| damaged.push(*d)).unwrap(), Some(record));
        fs::write(store.blob_path(&diff_id), "damage").unwrap();
        assert_eq!(store.find_layer(&key("a"), &mut |d| damaged.push(*d)).unwrap(), None);
        assert_eq!(damaged, [diff_id]);
        assert!(!store.has_blob(&diff_id), "it must not be believed again");
    }

    #[test]
    fn a_copied_store_is_hashed_once_and_believed() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        let diff_id = store.put_blob(b"layer").unwrap();
        store.put_layer(&key("a"), diff_id).unwrap();
        fs::remove_file(store.blob_path(&diff_id)).unwrap();
        fs::write(store.blob_path(&diff_id), "layer").unwrap();
        let mut none = |digest: &Digest| panic!("{digest} is whole");
        let found = store.find_layer(&key("a"), &mut none).unwrap().unwrap();
        assert_eq!(Some(found.stamp), Stamp::at(&store.blob_path(&diff_id)));
    }

    #[test]
    fn an_image_outlives_a_blob_that_was_put_again_but_no_damage() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        let diff_id = store.put_blob(b"layer").unwrap();
        let layers = vec![store.put_layer(&key("a"), diff_id).unwrap()];
        let image = store.put_blob(b"{}").unwrap();
        let record =
            ImageRecord { image, manifest: image, manifest_size: 2, layers, keys: Vec::new() };
        store.put_image(&key("i"), &record).unwrap();
        let path = store.blob_path(&diff_id);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "layer").unwrap();
        let found = store.find_image(&key("i")).unwrap().unwrap();
        assert_eq!(Some(found.layers[0].stamp), Stamp::at(&path));
        assert_eq!(store.find_image(&key("i")).unwrap(), Some(found));
        fs::write(&path, "damage").unwrap();
        assert_eq!(store.find_image(&key("i")).unwrap(), None);
    }

    #[test]
    fn a_damaged_record_is_no_record() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        fs::write(home.path().join("keys").join(key("a").0.hex()), "{").unwrap();
        assert_eq!(store.find_layer(&key("a"), &mut |_| ()).unwrap(), None);
    }
}
