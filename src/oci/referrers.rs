//! What refers to an image: signatures, bills of materials, provenance (OCI distribution-spec 1.1,
//! referrers).
//!
//! A registry that knows of referrers lists them by itself, in pages, and says so when it takes one. For one
//! that does not, there is a tag with an index of them, made of the image's digest, which whoever writes
//! keeps: two who write at once are told apart by looking again. That nobody could be asked is no answer, so
//! it is never taken for an empty list.

use serde_json::{Value, json};
use url::Url;

use super::document::Descriptor;
use super::error::OciError;
use super::registry::{LARGEST_MANIFEST, Registry};
use crate::digest::Digest;
use crate::fetch::{Answer, FetchError, Letter, Method, NoProgress};

const MEDIA_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MEDIA_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// How often the index behind a tag is written where others write it as well.
const ROUNDS: usize = 5;
/// Pages of a registry's list that are read; what stands on later ones is not looked at.
const PAGES: usize = 50;

/// A manifest that refers to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referrer {
    pub digest: Digest,
    pub artifact_type: String,
}

/// A manifest that is to refer to another. All that it names was brought in.
pub struct Referring<'a> {
    /// The tag that it goes under, or its digest alone.
    pub tag: Option<&'a str>,
    pub subject: &'a Digest,
    pub artifact_type: &'a str,
    pub bytes: &'a [u8],
    /// One before it that says nothing which this one does not.
    pub replaces: Option<Digest>,
}

/// The tag that lists what refers to a manifest.
fn fallback(subject: &Digest) -> String {
    format!("sha256-{}", subject.hex())
}

impl Registry<'_> {
    /// What refers to a manifest.
    pub fn list_referrers(&self, subject: &Digest) -> Result<Vec<Referrer>, OciError> {
        let entries = match self.read_list(subject)? {
            Some(entries) => entries,
            None => self.read_fallback(subject)?,
        };
        let referrer = |entry: &Value| {
            let digest = entry["digest"].as_str()?.parse().ok()?;
            let artifact_type = entry["artifactType"].as_str().unwrap_or_default().to_owned();
            Some(Referrer { digest, artifact_type })
        };
        Ok(entries.iter().filter_map(referrer).collect())
    }

    /// The registry's own list, page by page; none where it keeps none.
    fn read_list(&self, subject: &Digest) -> Result<Option<Vec<Value>>, OciError> {
        let mut url = self.url("referrers", &subject.to_string());
        let mut all = Vec::new();
        for page in 0..PAGES {
            let answer = match self.read_page(&url) {
                Err(error) if page == 0 && keeps_no_list(&error) => return Ok(None),
                answer => answer?,
            };
            match entries(&answer.bytes) {
                Some(entries) => all.extend(entries),
                None if page == 0 => return Ok(None),
                None => break,
            }
            match answer.header("link").and_then(|link| self.next_page(&url, link)) {
                Some(next) => url = next,
                None => break,
            }
        }
        Ok(Some(all))
    }

    fn read_page(&self, url: &Url) -> Result<Answer, OciError> {
        let label = format!("referrers of `{}`", self.image);
        self.ask(|authorization| {
            let letter = Letter {
                accept: Some(MEDIA_INDEX),
                authorization,
                ..Letter::new(&label, Method::GET, url)
            };
            self.client.send(&letter, b"", LARGEST_MANIFEST, &NoProgress)
        })
    }

    /// Where a list goes on (RFC 8288). It is the registry's own, whatever a proxy before it is called.
    fn next_page(&self, from: &Url, link: &str) -> Option<Url> {
        let to = from.join(next_of(link)?).ok()?;
        let mut next = self.base.clone();
        next.set_path(to.path());
        next.set_query(to.query());
        Some(next)
    }

    /// Writes a manifest that refers to another; `bring` brings in again what is missing of that which it
    /// names.
    pub fn put_referrer(
        &self,
        referring: &Referring<'_>,
        bring: impl FnMut() -> Result<(), OciError>,
    ) -> Result<Digest, OciError> {
        let Referring { subject, bytes, .. } = *referring;
        let digest = Digest::of(bytes);
        let version = referring.tag.map_or_else(|| digest.to_string(), str::to_owned);
        if self.put_manifest(&version, MEDIA_MANIFEST, bytes, bring)?.lists_referrers {
            return Ok(digest);
        }
        let entry = json!({
            "mediaType": MEDIA_MANIFEST, "digest": digest, "size": bytes.len(),
            "artifactType": referring.artifact_type,
        });
        let replaced = referring.replaces.filter(|replaced| *replaced != digest);
        let is =
            |entry: &Value, digest: &Digest| entry["digest"].as_str() == Some(&digest.to_string());
        let is_replaced =
            |entry: &Value| replaced.as_ref().is_some_and(|replaced| is(entry, replaced));
        let is_done = |entries: &[Value]| {
            entries.iter().any(|entry| is(entry, &digest)) && !entries.iter().any(is_replaced)
        };
        for _ in 0..ROUNDS {
            let mut entries = self.read_fallback(subject)?;
            if is_done(&entries) {
                return Ok(digest);
            }
            entries.retain(|one| !is_replaced(one) && !is(one, &digest));
            entries.push(entry.clone());
            entries.sort_by_key(|entry| entry["digest"].to_string());
            let index = json!({
                "schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": entries,
            });
            let (tag, bytes) = (fallback(subject), index.to_string().into_bytes());
            // what it names, the registry has taken
            self.put_manifest(&tag, MEDIA_INDEX, &bytes, || Ok::<_, OciError>(()))?;
        }
        match is_done(&self.read_fallback(subject)?) {
            true => Ok(digest),
            false => Err(self.forgets()),
        }
    }

    /// What was written is not there, though the registry took it.
    pub fn forgets(&self) -> OciError {
        OciError::Session {
            image: self.image.clone(),
            registry: self.host.clone(),
            what: "does not keep what refers to it",
        }
    }

    /// An artifact's manifest, held against its digest: its layers.
    pub fn artifact(&self, version: &str) -> Result<Vec<(Descriptor, Value)>, OciError> {
        let (_, layers) = self.find_artifact(version)?;
        let layer = |value: Value| {
            let descriptor = serde_json::from_value(value.clone()).ok()?;
            Some((descriptor, value["annotations"].clone()))
        };
        Ok(layers.into_iter().filter_map(layer).collect())
    }

    /// Likewise, its digest and its layers as they are written there.
    pub fn find_artifact(&self, version: &str) -> Result<(Digest, Vec<Value>), OciError> {
        let document = self.manifest(version)?;
        let found = Digest::of(&document.bytes);
        if let Some(expected) = version.parse().ok().filter(|expected| *expected != found) {
            let (image, what) = (self.image.clone(), "what refers to it");
            return Err(OciError::Digest { image, what, expected, found });
        }
        let value: Value = serde_json::from_slice(&document.bytes).unwrap_or_default();
        Ok((found, value["layers"].as_array().cloned().unwrap_or_default()))
    }

    fn read_fallback(&self, subject: &Digest) -> Result<Vec<Value>, OciError> {
        match self.manifest(&fallback(subject)) {
            Err(OciError::Missing { .. }) => Ok(Vec::new()),
            document => Ok(entries(&document?.bytes).unwrap_or_default()),
        }
    }
}

/// Of what is an index.
fn entries(bytes: &[u8]) -> Option<Vec<Value>> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    value["manifests"].as_array().cloned()
}

/// Whether a registry does not know the question. The specification has it say 404; some that are older than
/// the question say that it makes no sense to them. Then the tag is asked for, and there 404 alone is none.
fn keeps_no_list(error: &OciError) -> bool {
    matches!(
        error,
        OciError::Missing { .. }
            | OciError::Fetch(FetchError::Status { status: 400 | 405 | 406 | 501, .. })
    )
}

/// The address of a `Link` header whose relation is `next`.
fn next_of(link: &str) -> Option<&str> {
    let mut rest = link;
    loop {
        let (_, from) = rest.split_once('<')?;
        let (address, more) = from.split_once('>')?;
        let end = more.find(",<").or_else(|| more.find(", <")).unwrap_or(more.len());
        let is_next = |parameter: &str| {
            let (name, value) = parameter.trim().split_once('=').unwrap_or_default();
            let mut relations = value.trim_matches('"').split(' ');
            name.eq_ignore_ascii_case("rel")
                && relations.any(|one| one.eq_ignore_ascii_case("next"))
        };
        if more[..end].trim_end_matches(',').split(';').any(is_next) {
            return Some(address);
        }
        rest = &more[end..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_goes_on_where_its_link_says() {
        for (link, next) in [
            ("</v2/a/referrers/x?last=1>; rel=\"next\"", Some("/v2/a/referrers/x?last=1")),
            ("<https://r/v2?n=1,2>;rel=next", Some("https://r/v2?n=1,2")),
            ("</a>; rel=\"prev\", </b>; title=\"x\"; REL=\"last next\"", Some("/b")),
            ("</a>; rel=\"first\"", None),
            ("</a", None),
            ("", None),
        ] {
            assert_eq!(next_of(link), next, "{link}");
        }
    }
}
