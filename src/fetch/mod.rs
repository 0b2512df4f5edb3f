//! Fetching: bytes from the network, under the name of their digest and under no other.
//!
//! A file counts as fetched when its size and digest are those of its pin; until then it is a part,
//! which whoever comes next resumes. At most eight transfers run at a time, over HTTP/1.1 (measured
//! faster than one multiplexed connection for many small files, and name servers drop bursts).
//! Redirects are followed to other hosts without credentials, never from https to http.

mod client;
pub mod defaults;
mod error;
mod mirror;
mod transfer;

pub use client::{Client, ClientConfig, Document, NoProgress, Progress, Want};
pub use error::FetchError;
pub use mirror::{MirrorError, MirrorMap};
