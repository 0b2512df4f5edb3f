//! What refers to an image: signatures, bills of materials, provenance (OCI distribution-spec 1.1,
//! referrers).
//!
//! A registry that knows of referrers lists them by itself, in pages, and says so when it takes one. For one
//! that does not, there is a tag with an index of them, made of the image's digest, which whoever writes
//! keeps, looking again for others who write at once. That nobody could be asked is no answer, so it is
//! never taken for an empty list.

use std::collections::BTreeSet;
use std::time::Instant;

use serde_json::{Value, json};
use url::Url;

use super::document::Descriptor;
use super::error::OciError;
use super::meeting::pause;
use super::registry::{LARGEST_MANIFEST, Registry};
use crate::digest::Digest;
use crate::fetch::{Answer, FetchError, Letter, Method};
use crate::media;

/// How often the index behind a tag is written where others write it as well.
const ROUNDS: u32 = 12;
/// Pages of a registry's list that are read; what stands on later ones is not looked at.
const PAGES: usize = 50;

/// A manifest that refers to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referrer {
    pub digest: Digest,
    pub artifact_type: String,
}

/// A manifest of what is no image.
#[derive(Clone, Debug, PartialEq)]
pub struct Artifact {
    pub digest: Digest,
    pub size: u64,
    pub layers: Vec<Value>,
}

impl Artifact {
    /// Its layers and their annotations, but for what is none.
    pub fn described(&self) -> Vec<(Descriptor, Value)> {
        let layer = |value: &Value| {
            let descriptor = serde_json::from_value(value.clone()).ok()?;
            Some((descriptor, value["annotations"].clone()))
        };
        self.layers.iter().filter_map(layer).collect()
    }
}

/// A manifest that is to refer to another. All that it names was brought in.
pub struct Referring<'a> {
    pub subject: &'a Digest,
    pub artifact_type: &'a str,
    pub bytes: &'a [u8],
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
            match answer.headers("link").find_map(|field| self.next_page(&url, field)) {
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
                accept: Some(media::INDEX),
                authorization,
                ..Letter::new(&label, Method::GET, url)
            };
            self.client.send(&letter, b"", LARGEST_MANIFEST, self.client.hearer())
        })
    }

    /// Where a list goes on. It is the registry's own, whatever a proxy before it is called.
    fn next_page(&self, from: &Url, field: &str) -> Option<Url> {
        let to = from.join(next_of(field)?).ok()?;
        let mut next = self.base.clone();
        next.set_path(to.path());
        next.set_query(to.query());
        Some(next)
    }

    /// Writes a manifest that refers to another under its digest; `bring` brings in again what is missing of
    /// that which it names.
    pub fn put_referrer(
        &self,
        referring: &Referring<'_>,
        bring: impl FnMut() -> Result<(), OciError>,
    ) -> Result<Digest, OciError> {
        let digest = Digest::of(referring.bytes);
        let version = digest.to_string();
        let written = self.put_manifest(&version, media::MANIFEST, referring.bytes, bring)?;
        if !written.lists_referrers {
            self.list_by_tag(referring, &BTreeSet::new())?;
        }
        Ok(digest)
    }

    /// Lists a manifest that refers to another at a registry that keeps no list: under the tag that is for
    /// this, in place of some that say nothing which this one does not.
    pub fn list_by_tag(
        &self,
        referring: &Referring<'_>,
        replaced: &BTreeSet<Digest>,
    ) -> Result<(), OciError> {
        let digest = Digest::of(referring.bytes);
        let entry = json!({
            "mediaType": media::MANIFEST, "digest": digest, "size": referring.bytes.len(),
            "artifactType": referring.artifact_type,
        });
        let of = |entry: &Value| entry["digest"].as_str()?.parse::<Digest>().ok();
        let is_own = |entry: &Value| of(entry) == Some(digest);
        let is_replaced = |entry: &Value| {
            of(entry).is_some_and(|other| other != digest && replaced.contains(&other))
        };
        let is_done =
            |entries: &[Value]| entries.iter().any(is_own) && !entries.iter().any(is_replaced);
        for round in 0..ROUNDS {
            let start = Instant::now();
            let mut entries = self.read_fallback(referring.subject)?;
            if is_done(&entries) {
                return Ok(());
            }
            entries.retain(|one| !is_replaced(one) && !is_own(one));
            entries.push(entry.clone());
            entries.sort_by_key(|entry| entry["digest"].to_string());
            let index = json!({
                "schemaVersion": 2, "mediaType": media::INDEX, "manifests": entries,
            });
            let (tag, bytes) = (fallback(referring.subject), index.to_string().into_bytes());
            // what it names, the registry has taken
            self.put_manifest(&tag, media::INDEX, &bytes, || Ok::<_, OciError>(()))?;
            pause(start.elapsed(), round);
        }
        match self.read_fallback(referring.subject)?.iter().any(is_own) {
            true => Ok(()),
            false => Err(OciError::Session {
                image: self.image.clone(),
                registry: self.host.clone(),
                what: "does not keep the list of what refers to it, or others write it all the time",
            }),
        }
    }

    /// An artifact's manifest, held against its digest: its layers.
    pub fn artifact(&self, version: &str) -> Result<Vec<(Descriptor, Value)>, OciError> {
        Ok(self.find_artifact(version)?.described())
    }

    /// Likewise, as it is written there.
    pub fn find_artifact(&self, version: &str) -> Result<Artifact, OciError> {
        let document = self.manifest(version)?;
        let found = Digest::of(&document.bytes);
        if let Some(expected) = version.parse().ok().filter(|expected| *expected != found) {
            let (image, what) = (self.image.clone(), "what refers to it");
            return Err(OciError::Digest { image, what, expected, found });
        }
        let value: Value = serde_json::from_slice(&document.bytes).unwrap_or_default();
        let layers = value["layers"].as_array().cloned().unwrap_or_default();
        Ok(Artifact { digest: found, size: document.bytes.len() as u64, layers })
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

/// The address whose relation is `next`, of the links in a `Link` field (RFC 8288).
fn next_of(field: &str) -> Option<&str> {
    pieces(field, ',').find_map(|link| {
        let (address, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        is_next(parameters).then_some(address)
    })
}

/// Whether a link's relation is `next`: of several that it has, the first counts.
fn is_next(parameters: &str) -> bool {
    let relations = pieces(parameters, ';').find_map(|parameter| {
        let (name, value) = parameter.trim().split_once('=')?;
        name.trim().eq_ignore_ascii_case("rel").then(|| value.trim().trim_matches('"'))
    });
    let relations = relations.unwrap_or_default();
    relations.split_ascii_whitespace().any(|one| one.eq_ignore_ascii_case("next"))
}

/// A text cut at a character, but not within an address or quotes.
fn pieces(text: &str, at: char) -> impl Iterator<Item = &str> {
    let (mut within, mut is_escaped) = (None, false);
    text.split(move |c| {
        match (within, c) {
            (Some(_), _) if is_escaped => is_escaped = false,
            (Some('"'), '\\') => is_escaped = true,
            (Some(end), c) if c == end => within = None,
            (None, '<') => within = Some('>'),
            (None, '"') => within = Some('"'),
            (None, c) => return c == at,
            _ => {}
        }
        false
    })
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
            ("</a>; rel=first, </b>; rel=next,</c>; rel=last", Some("/b")),
            ("</a>; title=\"b, </c>; rel=next\"; rel=up,\t</d>; rel=next; rel=up", Some("/d")),
            ("</a>; rel=up; rel=next", None),
            ("</a>; title=\"\\\"; rel=next", None),
            ("</a>; rel=\"first\"", None),
            ("</a", None),
            ("", None),
        ] {
            assert_eq!(next_of(link), next, "{link}");
        }
    }
}
