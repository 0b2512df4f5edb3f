//! Images that were pulled: listed in `index.json` under the reference they were pulled by.
//!
//! Such an image has a record like one that was built, and no project. It stays for as long as it is
//! used at least once within a while, and a cap leaves it room; then its name goes, and the collector
//! takes the rest: a registry has it.

use super::{ImageRecord, Key, PublishedImage, Store, StoreError};
use crate::digest::Digest;
use crate::platform::Platform;

impl Store {
    /// What a pulled image is known by, as a plan's Key is for one that was built.
    pub fn pulled_key(reference: &str, platform: Platform) -> Key {
        Key(Digest::of(format!("pulled\n{reference}\n{platform}\n").as_bytes()))
    }

    /// The image that was pulled by this reference, for who is going to use it.
    pub fn use_pulled(
        &self,
        reference: &str,
        platform: Platform,
    ) -> Result<Option<ImageRecord>, StoreError> {
        self.use_image(&Self::pulled_key(reference, platform))
    }

    /// Remembers a pulled image, all of whose blobs are here.
    pub fn put_pulled(
        &self,
        reference: &str,
        platform: Platform,
        record: &ImageRecord,
    ) -> Result<(), StoreError> {
        self.put_image(&Self::pulled_key(reference, platform), record)?;
        let (manifest, size) = (record.manifest, record.manifest_size);
        self.publish_pulled(reference, &PublishedImage { platform, manifest, size })
    }

    /// Takes the name of a pulled image out of `index.json`; answers whether it was there.
    pub fn forget(&self, reference: &str) -> Result<bool, StoreError> {
        let _lock = self.lock("index")?;
        Ok(self.withdraw(|entry| entry.is_pulled() && entry.name == reference)? > 0)
    }
}
