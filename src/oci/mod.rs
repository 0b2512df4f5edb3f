//! Images of others: their names, their documents, and where their bytes are.
//!
//! Own code over `fetch`, some hundred lines: `oci-client` brings an HTTP client of its own, which
//! knows nothing of this program's certificates, mirrors, proxies, retries and `--offline`, and
//! `docker_credential` waits for helpers without an end. What is here reads; what writes to registries
//! stands on the same references, credentials and tokens.

pub mod credentials;
pub mod document;
mod error;
mod layout;
mod packing;
pub mod peek;
mod registry;
mod source;

pub use credentials::Keychain;
pub use error::OciError;
pub use packing::{Packing, Unpacked};
pub use source::{Image, ImageLayer, Origin};
