//! Who answers for what a store has and did not make.
//!
//! Who takes layers from others builds over them, and what was built is not told from what was taken. So
//! a layer's record names the keys that answer for it and for all below it; and that nobody does is
//! remembered of the store as a whole: what such a store has is not signed.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Store, StoreError};
use crate::digest::Digest;
use crate::fsx;

/// Who answers for something that was not made here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Voucher {
    /// Whoever has the key of that id.
    Key(Digest),
    Nobody,
}

/// The file that says so.
pub(super) const UNVOUCHED: &str = "unvouched";

impl Store {
    /// Remembers that the store has layers that nobody vouched for.
    pub fn mark_unvouched(&self) -> Result<(), StoreError> {
        match self.is_vouched() {
            true => Ok(fsx::write_atomic(&self.unvouched(), b"")?),
            false => Ok(()),
        }
    }

    /// Whether it has none.
    pub fn is_vouched(&self) -> bool {
        !self.unvouched().exists()
    }

    fn unvouched(&self) -> PathBuf {
        self.root.join(UNVOUCHED)
    }
}
