//! Images into an engine on this machine.

use serde::Serialize;

/// How an image came into an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// It had it.
    There,
    /// An archive without the layers that it had.
    Archive,
    /// It pulled from a registry on loopback what it lacked.
    Registry,
}

/// What a load came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Loaded {
    pub way: Way,
    /// Layers that travelled.
    pub layers: usize,
    /// Bytes of them.
    pub bytes: u64,
}
