//! The image that an instance runs from.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::store::{Held, Key, Lease, Store, StoreError};

/// No collector takes it away meanwhile.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HeldImage {
    /// The directory of its store.
    pub store: PathBuf,
    /// What its plan is known by.
    pub key: Key,
}

impl HeldImage {
    pub(super) fn hold(&self) -> Result<Lease, StoreError> {
        let lease = Store::open(&self.store)?.lease()?;
        lease.hold([Held::Image(&self.key)])?;
        Ok(lease)
    }
}
