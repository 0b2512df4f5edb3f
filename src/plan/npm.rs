//! Trees of npm's packages: a step that sees nothing, and one for each install script that is named.

use crate::lock::{NpmPart, NpmPin};
use crate::path::LayerPath;

/// A tree of packages.
#[derive(Clone, Debug)]
pub struct NpmWork {
    /// The directory that it is below.
    pub root: LayerPath,
    pub packages: Vec<NpmPin>,
    pub parts: Vec<NpmPart>,
}
