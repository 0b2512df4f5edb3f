//! Where npm's tarballs are: at the usual path of their registry, or where its documents say.

use std::collections::BTreeMap;

use serde::Deserialize;
use url::Url;

use super::places::below;
use crate::digest::Integrity;
use crate::fetch::{Client, FetchError, Headers, MirrorMap};
use crate::lock::NpmPin;
use crate::npm::PackageName;

/// Largest document of a package; the whole history of the largest ones takes a quarter of it.
const DOCUMENT: u64 = 256 << 20;
/// Documents with what installing needs and nothing else.
const ABBREVIATED: &str = "application/vnd.npm.install-v1+json, application/json;q=0.8";

/// Where the tarball of a pin may be: at the usual path of its registry, at the one that it had, or at
/// an address of its own.
pub(super) fn tarball_urls(mirrors: &MirrorMap, pin: &NpmPin) -> Vec<Url> {
    if pin.path.starts_with("https://") || pin.path.starts_with("http://") {
        return Url::parse(&pin.path).into_iter().collect();
    }
    let registry = mirrors.npm_registry();
    let usual = pin.name.parse().ok().map(|name: PackageName| name.tarball_path(&pin.version));
    let known = Some(pin.path.to_string()).filter(|path| !path.is_empty());
    usual.into_iter().chain(known).filter_map(|path| below(registry.clone(), &path)).collect()
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    versions: BTreeMap<String, Version>,
}

#[derive(Deserialize)]
struct Version {
    dist: Dist,
}

#[derive(Deserialize)]
struct Dist {
    tarball: String,
    integrity: Option<String>,
}

/// Where the registry says that a tarball is: that of its version, unless its digest is another.
pub(super) fn find_tarball(
    client: &Client,
    mirrors: &MirrorMap,
    pin: &NpmPin,
) -> Result<Vec<Url>, FetchError> {
    let of_registry = !pin.path.contains(':');
    let Some(url) = below(mirrors.npm_registry(), &pin.name).filter(|_| of_registry) else {
        return Ok(Vec::new());
    };
    let headers = Headers { accept: Some(ABBREVIATED.to_owned()), authorization: None };
    let label = format!("npm package `{}`", pin.name);
    let document = match client.get_with(&label, &[url], &headers, DOCUMENT) {
        Err(error) if error.is_gone() => return Ok(Vec::new()),
        result => result?,
    };
    let Ok(document) = serde_json::from_slice::<Document>(&document.bytes) else {
        return Ok(Vec::new());
    };
    let same = |version: &&Version| {
        let said = version.dist.integrity.as_deref().and_then(Integrity::parse_sri);
        said.is_none_or(|said| {
            said == pin.integrity || said.algorithm() != pin.integrity.algorithm()
        })
    };
    let found = document.versions.get(&*pin.version).filter(same);
    let url = found.and_then(|version| Url::parse(&version.dist.tarball).ok());
    Ok(url.into_iter().collect())
}
