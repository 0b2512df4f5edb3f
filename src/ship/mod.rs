//! Shipping: images out to registries and engines, and in from registries.
//!
//! Only what is missing travels. Who says what is missing is whoever is to get it: a registry is asked
//! for each blob by its digest, an engine for the layers that it has. What the store remembers (twins,
//! pushes) saves questions and reading, and is never the reason to leave something out.

mod attest;
mod attested;
mod cache;
mod cargo;
mod counter;
mod docker;
mod error;
mod listed;
mod load;
mod podman;
mod pull;
mod push;
mod shared;
mod shipped;
mod supply;

pub use attest::{Attaching, Attestation, SignedForm};
pub use attested::{Attested, read_attested};
pub use cache::{Exchange, Reach, SharedCache, Tally, Trust};
pub use docker::Docker;
pub use error::ShipError;
pub use load::{Loaded, Way};
pub use podman::Podman;
pub use pull::{Pull, Pulled};
pub use push::{Attach, Push, Pushed, Traffic, mounts};
pub use shipped::{Placed, Shipped};
pub use supply::{Bytes, Stored};
