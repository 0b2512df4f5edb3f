//! Manifests of a repository, written when all that they name is there.
//!
//! Docker's own registry writes a blob's entry in a repository anew whenever somebody sends that blob, and
//! whoever reads it meanwhile finds it empty. So of two that push the same at once, one may hear that its
//! manifest names what is not there, which is true for a moment only. That answer is not believed at once:
//! what is missing is brought in again, which mostly is to find it there, and the manifest is offered anew.
//! An answer that stays is an error as it came.

use std::time::Duration;

use super::error::OciError;
use super::registry::Registry;
use super::upload::absent;
use crate::digest::Digest;
use crate::fetch::{FetchError, Letter, Method};

/// How often a manifest is offered, and the pause after the first refusal.
const ROUNDS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(50);
/// What registries call it that something is missing; the last one docker's, of an entry that is empty.
const PARTS: [&str; 4] =
    ["MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN", "MANIFEST_UNKNOWN", "DIGEST_INVALID"];

/// What a registry says to a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Whether it lists by itself what refers to another manifest.
    pub lists_referrers: bool,
}

impl Registry<'_> {
    /// The digest of what a tag names, or of what has a digest, without its bytes.
    pub fn find_manifest(&self, version: &str) -> Result<Option<Digest>, OciError> {
        let url = self.url("manifests", version);
        let accept = super::document::accepted();
        let label = format!("manifest of `{}`", self.image);
        let letter = Letter { accept: Some(&accept), ..Letter::new(&label, Method::HEAD, &url) };
        let answer = absent(self.write(&letter, b""))?;
        let digest = answer.and_then(|answer| answer.header("docker-content-digest")?.parse().ok());
        Ok(digest)
    }

    /// Writes a manifest or an index under a tag or its digest. All that it names was brought in; `bring`
    /// brings in again what is missing of that.
    pub fn put_manifest<E: From<OciError>>(
        &self,
        version: &str,
        media_type: &str,
        bytes: &[u8],
        mut bring: impl FnMut() -> Result<(), E>,
    ) -> Result<Written, E> {
        let mut round = 1;
        loop {
            let error = match self.offer_manifest(version, media_type, bytes) {
                Ok(written) => return Ok(written),
                Err(error) => error,
            };
            if round == ROUNDS || !error.is_about_parts() {
                return Err(error.into());
            }
            std::thread::sleep(PAUSE * round);
            bring()?;
            round += 1;
        }
    }

    fn offer_manifest(
        &self,
        version: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<Written, OciError> {
        let url = self.url("manifests", version);
        let label = format!("manifest of `{}`", self.image);
        let letter =
            Letter { media_type: Some(media_type), ..Letter::new(&label, Method::PUT, &url) };
        let answer = self.write(&letter, bytes).map_err(|error| self.no_repository(error))?;
        let expected = Digest::of(bytes);
        match answer.header("docker-content-digest").and_then(|text| text.parse().ok()) {
            Some(found) if found != expected => Err(OciError::Digest {
                image: self.image.clone(),
                what: "the registry, asked to store the manifest,",
                expected,
                found,
            }),
            // 201 is the specification's word for it; whoever says something else is asked
            _ if answer.status != 201 && self.find_manifest(&expected.to_string())?.is_none() => {
                let what = "says that it took the manifest, and does not have it";
                let (image, registry) = (self.image.clone(), self.host.clone());
                Err(OciError::Session { image, registry, what })
            }
            _ => Ok(Written { lists_referrers: answer.header("oci-subject").is_some() }),
        }
    }
}

impl OciError {
    /// Whether a manifest may have been refused for what it names: 400 with docker's registry of today, 404
    /// with its next. Whoever says that it is for something else is believed.
    pub fn is_about_parts(&self) -> bool {
        match self {
            OciError::NoRepository { .. } => true,
            OciError::Fetch(FetchError::Status { status: 400, said, .. }) => {
                said.codes().is_empty() || said.codes().iter().any(|code| PARTS.contains(&&**code))
            }
            _ => false,
        }
    }
}
