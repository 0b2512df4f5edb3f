//! Images of others: their names, their documents, and where their bytes are.
//!
//! Own code over `fetch`, some three thousand lines: `oci-client` brings an HTTP client of its own, which
//! knows nothing of this program's certificates, mirrors, proxies, retries and `--offline`, and
//! `docker_credential` waits for helpers without an end. What reads and what writes stand on the same
//! references, credentials and tokens; what an image is, the modules above know.

pub mod credentials;
mod depository;
pub mod document;
mod empty;
mod error;
mod helper;
mod layout;
mod manifests;
mod meeting;
mod packing;
pub mod peek;
mod referrers;
mod registry;
mod sending;
mod source;
mod token;
mod upload;

pub use credentials::Keychain;
pub use depository::{Depository, SOURCE_DIGEST, source_digest};
pub use empty::{EMPTY, MEDIA_EMPTY, empty_config};
pub use error::{Deed, OciError, Who};
pub use manifests::Written;
pub use meeting::pause;
pub use packing::{Packing, Unpacked};
pub use referrers::{Artifact, Referrer, Referring};
pub use registry::{Access, Registry};
pub use source::{Image, ImageLayer, Origin, Whole};
pub use upload::{Mounted, Supplied, Supply};
