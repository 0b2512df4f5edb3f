//! What each name of `index.json` takes of the disk.

use std::collections::BTreeMap;

use serde::Serialize;

use super::inventory::Inventory;
use super::mark::Marks;

/// What a sandbox's newest images, or those of a reference that was pulled, take of the disk: layers,
/// documents, compressed and unpacked forms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Share {
    pub name: String,
    /// Whether a registry has it.
    pub pulled: bool,
    /// Bytes.
    pub bytes: u64,
    /// Of them, those that no other name has.
    pub alone: u64,
}

/// The shares of all names, the largest first.
pub(super) fn shares(marks: &Marks, inventory: &Inventory) -> Vec<Share> {
    let listed = &marks.listed;
    let mut owners: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, one) in listed.iter().enumerate() {
        for blob in &one.blobs {
            owners.entry(blob.clone()).or_default().push(at);
            // trees have short names
            if let Some(short) = blob.get(..SHORT) {
                owners.entry(short.to_owned()).or_default().push(at);
            }
        }
    }
    for (twin, layer) in marks.twinned() {
        if let (false, Some(of)) = (owners.contains_key(twin), owners.get(&layer)) {
            owners.insert(twin.to_owned(), of.clone());
        }
    }
    let fresh = |name: &str, pulled| Share { name: name.to_owned(), pulled, bytes: 0, alone: 0 };
    let mut shares: Vec<Share> = listed.iter().map(|one| fresh(&one.name, one.pulled)).collect();
    for item in &inventory.items {
        let of = item.blob().and_then(|blob| owners.get(&blob));
        for at in of.into_iter().flatten() {
            shares[*at].bytes += item.size;
            if of.is_some_and(|of| of.len() == 1) {
                shares[*at].alone += item.size;
            }
        }
    }
    shares.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
    shares
}

/// `sha256/` and the 32 digits that a tree is called by.
const SHORT: usize = "sha256/".len() + 32;
