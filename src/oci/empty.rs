//! The config of an artifact that has none (OCI image-spec, guidelines for artifacts).

use serde_json::{Value, json};

use crate::digest::Digest;

pub const MEDIA_EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// Its bytes, which a repository must have.
pub const EMPTY: &[u8] = b"{}";

/// What a manifest says of it.
pub fn empty_config() -> Value {
    json!({"mediaType": MEDIA_EMPTY, "digest": Digest::of(EMPTY), "size": EMPTY.len()})
}
