//! References: the names of images at registries.
//!
//! The grammar is that of the distribution project, which every registry and engine shares. A name
//! without a registry is one of Docker's short names; which registry that means, `fetch::defaults`
//! says. Nothing here knows an address.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::digest::Digest;

/// `[REGISTRY/]REPOSITORY[:TAG][@DIGEST]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    registry: Option<Box<str>>,
    repository: Box<str>,
    tag: Option<Box<str>>,
    digest: Option<Digest>,
}

/// A text that is no reference.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{text}` is no reference to an image: {reason}")]
pub struct ReferenceError {
    pub text: String,
    pub reason: &'static str,
}

/// The tag that is meant where neither tag nor digest is said.
const LATEST: &str = "latest";
/// Longest repository that registries take.
const LONGEST: usize = 255;

impl Reference {
    /// `HOST[:PORT]`; `None` for one of Docker's short names.
    pub fn registry(&self) -> Option<&str> {
        self.registry.as_deref()
    }

    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, which says nothing where there is a digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// What a registry's manifests are asked for by: the digest, or the tag.
    pub fn version(&self) -> String {
        match (self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.as_deref().unwrap_or(LATEST).to_owned(),
        }
    }

    /// The name without its registry, as locks write it.
    pub fn name(&self) -> String {
        let tag = self.tag.as_deref().or(self.digest.is_none().then_some(LATEST));
        let tag = tag.map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest = self.digest.map(|digest| format!("@{digest}")).unwrap_or_default();
        format!("{}{tag}{digest}", self.repository)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(registry) = &self.registry {
            write!(f, "{registry}/")?;
        }
        f.write_str(&self.name())
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let fail = |reason| ReferenceError { text: text.to_owned(), reason };
        let (rest, digest) = match text.split_once('@') {
            None => (text, None),
            Some((rest, digest)) => {
                let digest = digest.parse().map_err(|_| fail("its digest is no `sha256:…`"))?;
                (rest, Some(digest))
            }
        };
        let (registry, rest) = match rest.split_once('/') {
            Some((first, rest)) if is_host(first) => (Some(first), rest),
            _ => (None, rest),
        };
        let (repository, tag) = match rest.split_once(':') {
            None => (rest, None),
            Some((repository, tag)) => (repository, Some(tag)),
        };
        if registry.is_some_and(|registry| !is_sound_host(registry)) {
            return Err(fail("its registry is no host"));
        }
        if repository.is_empty() {
            return Err(fail("it names no repository"));
        }
        if repository.len() > LONGEST {
            return Err(fail("a repository has at most 255 characters"));
        }
        if !repository.split('/').all(is_component) {
            return Err(fail("a repository has lower-case letters, digits, `.`, `_` and `-`"));
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(fail("a tag has letters, digits, `_`, `.` and `-`, at most 128"));
        }
        Ok(Reference {
            registry: registry.map(Into::into),
            repository: repository.into(),
            tag: tag.map(Into::into),
            digest,
        })
    }
}

/// A repository of a registry: what has no tag and no digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository(Reference);

/// A text that is no repository.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RepositoryError {
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    #[error("`{0}` means one image, and a repository is asked for: leave tag and digest out")]
    Image(Reference),
}

impl Repository {
    /// As registries are asked.
    pub fn reference(&self) -> &Reference {
        &self.0
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(registry) = &self.0.registry {
            write!(f, "{registry}/")?;
        }
        f.write_str(&self.0.repository)
    }
}

impl FromStr for Repository {
    type Err = RepositoryError;

    fn from_str(text: &str) -> Result<Self, RepositoryError> {
        let reference: Reference = text.parse()?;
        match (&reference.tag, reference.digest) {
            (None, None) => Ok(Repository(reference)),
            _ => Err(RepositoryError::Image(reference)),
        }
    }
}

/// Whether the first part of a name is a registry and not a part of a repository.
fn is_host(text: &str) -> bool {
    text == "localhost" || text.contains(['.', ':']) || text.bytes().any(|c| c.is_ascii_uppercase())
}

fn is_sound_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"-._".contains(&c);
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let sound = match inner {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(plain),
    };
    sound && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// Lower-case words, with `.`, `_`, `__` or dashes between them.
fn is_component(text: &str) -> bool {
    let word = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let ends = text.bytes().next().is_some_and(word) && text.bytes().last().is_some_and(word);
    ends && text.bytes().all(|c| word(c) || b"._-".contains(&c))
        && !["..", "._", "_.", ".-", "-.", "_-", "-_", "___"].iter().any(|pair| text.contains(pair))
}

fn is_tag(text: &str) -> bool {
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    text.bytes().next().is_some_and(word)
        && text.len() <= 128
        && text.bytes().all(|c| word(c) || b".-".contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (Option<String>, String, String) {
        let reference: Reference = text.parse().unwrap();
        let registry = reference.registry().map(str::to_owned);
        (registry, reference.repository().to_owned(), reference.version())
    }

    #[test]
    fn a_reference_is_a_registry_a_repository_and_a_version() {
        let own = |host: &str, repository: &str, version: &str| {
            (Some(host.to_owned()), repository.to_owned(), version.to_owned())
        };
        assert_eq!(parts("debian"), (None, "debian".into(), "latest".into()));
        assert_eq!(parts("debian:trixie-slim"), (None, "debian".into(), "trixie-slim".into()));
        assert_eq!(parts("team/app"), (None, "team/app".into(), "latest".into()));
        assert_eq!(parts("localhost/a"), own("localhost", "a", "latest"));
        assert_eq!(parts("127.0.0.1:5000/a/b:1"), own("127.0.0.1:5000", "a/b", "1"));
        assert_eq!(parts("[::1]:5000/a:1"), own("[::1]:5000", "a", "1"));
        let digest = Digest::of(b"");
        let text = format!("registry.example.org/a:1@{digest}");
        assert_eq!(parts(&text), own("registry.example.org", "a", &digest.to_string()));
        assert_eq!(text.parse::<Reference>().unwrap().to_string(), text);
    }

    #[test]
    fn a_repository_is_not_too_long() {
        assert!("a".repeat(LONGEST).parse::<Reference>().is_ok());
        let told = "a".repeat(LONGEST + 1).parse::<Reference>().unwrap_err();
        assert_eq!(told.reason, "a repository has at most 255 characters");
    }

    #[test]
    fn names_in_locks_have_no_registry() {
        let name = |text: &str| text.parse::<Reference>().unwrap().name();
        assert_eq!(name("registry.example.org/team/app"), "team/app:latest");
        let digest = Digest::of(b"");
        assert_eq!(name(&format!("localhost:1/a@{digest}")), format!("a@{digest}"));
    }

    #[test]
    fn a_repository_has_no_version() {
        let shown = |text: &str| text.parse::<Repository>().map(|one| one.to_string());
        assert_eq!(shown("localhost:1/a/b").as_deref(), Ok("localhost:1/a/b"));
        assert!(shown("localhost:1/a:1").unwrap_err().to_string().contains("leave tag"));
        let digest = Digest::of(b"");
        assert!(shown(&format!("a@{digest}")).unwrap_err().to_string().contains("leave tag"));
        assert!(shown("A").unwrap_err().to_string().contains("no reference"));
    }

    #[test]
    fn what_no_registry_takes_is_no_reference() {
        for text in [
            "",
            ":tag",
            "Debian",
            "a//b",
            "a/../b",
            "/a",
            "a:",
            "a:b/c",
            "-a",
            "a_-b",
            "host.org/",
            "http://host/a",
            "a@sha256:0",
            "a@md5:00",
            "host:port/a",
            "a b",
            "ho st.org/a",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }
}
