//! Fetching: bytes from the network, under the name of their digest and under no other.
//!
//! A file counts as fetched when its size and digest are those of its pin; until then it is a part,
//! which whoever comes next resumes. No server is believed: what a range request, an `ETag` or a
//! `Content-Length` promises is worth nothing until the digest fits, so parts need no other witness
//! and may be continued from another mirror than the one they began at.
//!
//! At most eight transfers run at a time, over HTTP/1.1 (measured faster than one multiplexed
//! connection for many small files), and each host's name is asked for once: name servers drop
//! bursts. Redirects are followed to other hosts without credentials, never from https to http.
//! Addresses are shown without credentials and without queries. A host that could not be reached
//! for one file is not asked for the others.

mod by_digest;
mod client;
mod connect;
pub mod defaults;
mod error;
mod indexes;
mod login;
mod mirror;
mod npmrc;
mod pace;
mod part;
mod progress;
mod proxy;
mod resolver;
mod retry;
mod send;
mod settings;
mod transfer;
mod words;

pub use by_digest::{SourceRegistry, blob_below, take_file};
pub use client::{Client, ClientConfig, Document, Headers, Want};
pub use connect::{Authorities, authority};
pub use error::{FetchError, Tries};
pub use indexes::{Index, IndexError, IndexSettings, Indexes};
pub use login::Login;
pub use mirror::{MirrorError, MirrorMap};
pub use npmrc::{
    Credentials, NpmRegistries, NpmSettings, NpmSettingsError, has_credential, public_settings,
};
pub use pace::Pace;
pub use progress::{Hearer, NoProgress, Progress};
pub use proxy::{ProxyConfig, ProxyError, is_loopback};
pub use retry::without_label;
pub use send::{Answer, Letter, Method, Refusal};
pub use settings::{Settings, parse_cap};
pub use words::Said;
