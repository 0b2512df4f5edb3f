//! A registry on loopback that hands out one image to whoever has the token, for engines that pull.
//!
//! Layers go out as they lie in the store, uncompressed: that costs nobody any time on one machine, and
//! an engine knows layers by the digests of their tars, so it asks for those that it lacks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::load::{Loaded, Way};
use crate::digest::Digest;
use crate::image::save::Saved;
use crate::serve::{Body, Request, Response, Site};

/// Who may ask.
pub(super) const USER: &str = "sbx";
const OCTETS: &str = "application/octet-stream";

/// Answers for one image, under one repository and tag.
pub(super) struct Counter<'a> {
    saved: &'a Saved<'a>,
    authorization: String,
    /// Blobs that went out.
    given: Mutex<BTreeSet<Digest>>,
    asked: AtomicBool,
}

impl<'a> Counter<'a> {
    pub(super) fn new(saved: &'a Saved<'a>, token: &str) -> Self {
        let pair = BASE64_STANDARD.encode(format!("{USER}:{token}"));
        Counter {
            saved,
            authorization: format!("Basic {pair}"),
            given: Mutex::default(),
            asked: AtomicBool::new(false),
        }
    }

    fn manifest(&self) -> Response {
        let digest = &self.saved.record.manifest;
        let media_type = self.saved.store.media_type_of(digest);
        Response::ok(media_type, Body::File(self.saved.store.blob_path(digest)))
            .with("Docker-Content-Digest", digest.to_string())
    }

    /// A blob of this image; of no other.
    fn blob(&self, digest: &str) -> Option<Digest> {
        let record = self.saved.record;
        let layers = record.layers.iter().map(|layer| layer.blob());
        let mut own = layers.chain([&record.image]);
        own.find(|own| own.to_string() == digest).copied()
    }

    fn give(&self, digest: Digest, method: &str) -> PathBuf {
        if method == "GET" {
            self.given.lock().unwrap_or_else(PoisonError::into_inner).insert(digest);
        }
        self.saved.store.blob_path(&digest)
    }

    /// Whether anybody came, the right one or not.
    pub(super) fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// What went out so far.
    pub(super) fn loaded(&self) -> Loaded {
        let given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let layers = self.saved.record.layers.iter();
        // a layer that an image has twice goes out once
        let sizes: BTreeMap<&Digest, u64> = layers
            .map(|layer| {
                let size = layer.packed.as_ref().map_or(layer.size, |packed| packed.size);
                (layer.blob(), size)
            })
            .filter(|(digest, _)| given.contains(digest))
            .collect();
        Loaded { way: Way::Registry, layers: sizes.len(), bytes: sizes.values().sum() }
    }
}

impl Site for Counter<'_> {
    fn answer(&self, request: &Request) -> Response {
        self.asked.store(true, Ordering::Relaxed);
        let path: Vec<&str> = request.path.iter().map(String::as_str).collect();
        let answer = match path.as_slice() {
            _ if request.authorization.as_deref() != Some(&self.authorization) => {
                Response::refusal(401, "who are you")
                    .with("WWW-Authenticate", "Basic realm=\"sbx\"")
            }
            ["v2"] | ["v2", ""] => Response::ok("application/json", Body::Bytes(b"{}".to_vec())),
            ["v2", .., "manifests", _] => self.manifest(),
            ["v2", .., "blobs", digest] => match self.blob(digest) {
                Some(own) => Response::ok(OCTETS, Body::File(self.give(own, &request.method)))
                    .with("Docker-Content-Digest", (*digest).to_owned()),
                None => Response::refusal(404, "not of this image"),
            },
            _ => Response::refusal(404, "not here"),
        };
        answer.with("Docker-Distribution-Api-Version", "registry/2.0")
    }
}
