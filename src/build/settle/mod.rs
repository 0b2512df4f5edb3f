//! Settling.
pub mod accounts;
mod script;
mod scrub;
pub mod sources;
