//! Mirrors: other places for the same bytes.
//!
//! A mirror is named for an archive (`debian`, `debian-security`, a repository's name) or for a host,
//! by `SBX_MIRROR_NAME=URL` (upper case, `_` for `-` and `.`) or in `settings.kdl`
//! (`mirror "debian" "URL"`). It replaces the public address. The environment goes before the file,
//! and a mirror of an archive before one of its host.

use std::collections::BTreeMap;

use url::Url;

use super::defaults;
use super::indexes::{Index, Indexes};
use super::npmrc::{Credentials, NpmRegistries};
use crate::blame::Blame;

/// Archive or host → base URL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MirrorMap {
    mirrors: BTreeMap<String, Url>,
    /// Where Python packages come from, which pip and uv are told in their own way.
    indexes: Indexes,
    /// Where npm's packages come from, which npm and pnpm are told in their own way.
    registries: NpmRegistries,
}

/// A mirror that is none.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("mirror `{name}`: `{value}` is no http or https address of a directory")]
pub struct MirrorError {
    pub name: String,
    pub value: String,
}

impl MirrorError {
    pub fn blame(&self) -> Blame {
        Blame::Input
    }
}

/// The key under which a name is looked up: lower case, one kind of separator.
fn key(name: &str) -> String {
    name.to_ascii_lowercase().replace(['_', '.'], "-")
}

impl MirrorMap {
    /// Reads the environment's variables; others are passed over.
    pub fn from_variables(
        variables: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, MirrorError> {
        let mut map = MirrorMap::default();
        for (variable, value) in variables {
            if let Some(name) = variable.strip_prefix("SBX_MIRROR_").filter(|_| !value.is_empty()) {
                map.insert(&name.to_ascii_lowercase(), &value)?;
            }
        }
        Ok(map)
    }

    /// Adds a mirror; answers whether there was none of that name.
    pub(super) fn insert(&mut self, name: &str, value: &str) -> Result<bool, MirrorError> {
        let fits = |url: &Url| {
            let plain = url.query().is_none() && url.fragment().is_none();
            plain && ["http", "https"].contains(&url.scheme())
        };
        let parsed = Url::parse(value).ok().filter(fits);
        let url = parsed
            .ok_or_else(|| MirrorError { name: name.to_owned(), value: redact_text(value) })?;
        Ok(self.mirrors.insert(key(name), as_directory(url)).is_none())
    }

    /// These mirrors, and those of `other` that are named for something else.
    pub fn or(self, other: MirrorMap) -> Self {
        let mirrors = other.mirrors.into_iter().chain(self.mirrors).collect();
        MirrorMap { mirrors, ..self }
    }

    /// These mirrors, with the indexes that a machine is configured for.
    pub fn with_indexes(self, indexes: Indexes) -> Self {
        MirrorMap { indexes, ..self }
    }

    /// Credentials for registries, of which some may be mirrored here.
    pub fn known_by(&self, credentials: Credentials) -> Credentials {
        credentials.with_places(self.mirrors.values())
    }

    /// Indexes of Python packages, in the order in which they are asked. A mirror of the public index
    /// (`pypi`) stands for it and for its files.
    pub fn python_indexes(&self) -> Vec<Index> {
        let public = Url::parse(defaults::PYPI).expect("the public index has an address");
        self.indexes.all(&self.base("pypi", &public))
    }

    /// These mirrors, with the registries that a machine and its projects are configured for.
    pub fn with_registries(self, registries: NpmRegistries) -> Self {
        MirrorMap { registries, ..self }
    }

    /// The registries of npm's packages for a project's directory, by scope; `""` for all packages
    /// without one of their own. A mirror called `npm` stands for that one.
    pub fn npm_registries(&self, dir: &str) -> BTreeMap<String, Url> {
        self.mirrored(self.registries.of(dir))
    }

    fn mirrored(&self, registries: &BTreeMap<String, Url>) -> BTreeMap<String, Url> {
        let main =
            registries.get("").map_or_else(|| self.npm_registry(), |url| self.base("npm", url));
        let scopes = registries.iter().filter(|(scope, _)| !scope.is_empty());
        let scopes = scopes.map(|(scope, url)| (scope.clone(), self.base(scope, url)));
        scopes.chain([(String::new(), main)]).collect()
    }

    /// The registry that a project's directory has a package of this name from.
    pub fn npm_place(&self, dir: &str, name: &str) -> Url {
        let mut registries = self.npm_registries(dir);
        let own = registries.remove(scope_of(name)).or_else(|| registries.remove(""));
        own.unwrap_or_else(|| self.npm_registry())
    }

    /// The registry of npm's packages where nothing else is said.
    fn npm_registry(&self) -> Url {
        self.base("npm", &Url::parse(defaults::NPM).expect("the public registry has an address"))
    }

    /// The registries that may have a package, whoever asks for it: those that are named for its scope,
    /// or those that are named for all others, and the public one where none of them is.
    pub fn npm_places(&self, name: &str) -> Vec<Url> {
        let scope = scope_of(name);
        let named = |scope: &str| {
            let all = self.registries.all().filter(|one| one.contains_key(scope));
            let urls = all.filter_map(|one| self.mirrored(one).remove(scope));
            urls.collect::<Vec<_>>()
        };
        let mut found = if scope.is_empty() { Vec::new() } else { named(scope) };
        if found.is_empty() {
            found = named("");
            let everywhere = self.registries.all().all(|one| one.contains_key(""));
            found.extend((!everywhere).then(|| self.npm_registry()));
        }
        let mut seen = std::collections::BTreeSet::new();
        found.retain(|url| seen.insert(url.clone()));
        found
    }

    /// The base URL of an archive: its mirror, or the mirror of its host with the same path, or what
    /// is given. Ends in `/`.
    pub fn base(&self, name: &str, public: &Url) -> Url {
        if let Some(mirror) = self.mirrors.get(&key(name)) {
            return mirror.clone();
        }
        let host = public.host_str().map(key).and_then(|host| self.mirrors.get(&host));
        as_directory(match host {
            None => public.clone(),
            Some(mirror) => {
                let mut url = mirror.clone();
                let below = public.path().trim_start_matches('/');
                url.set_path(&format!("{}{below}", mirror.path()));
                url
            }
        })
    }
}

/// `@acme`, or nothing.
fn scope_of(name: &str) -> &str {
    name.split_once('/').map_or("", |(scope, _)| scope)
}

fn as_directory(mut url: Url) -> Url {
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    url
}

/// A URL as it may be shown: without user and password, and without a query, where tokens live.
pub(super) fn redact(url: &Url) -> String {
    let mut url = url.clone();
    // a URL without a host has no credentials to lose
    url.set_username("").unwrap_or_default();
    url.set_password(None).unwrap_or_default();
    url.set_query(None);
    url.to_string()
}

/// Likewise for what may be no URL: then nothing before the last `@` is shown.
pub(super) fn redact_text(text: &str) -> String {
    match Url::parse(text) {
        Ok(url) if url.has_host() => redact(&url),
        _ => text.rsplit_once('@').map_or(text, |(_, rest)| rest).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> MirrorMap {
        let mut map = MirrorMap::default();
        for (name, value) in pairs {
            map.insert(name, value).unwrap();
        }
        map
    }

    fn variables(pairs: &[(&str, &str)]) -> Result<MirrorMap, MirrorError> {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        MirrorMap::from_variables(pairs)
    }

    #[test]
    fn the_environment_goes_before_the_settings_and_both_before_the_public_address() {
        let settings = map(&[
            ("debian", "https://u:p@n.example.org/debian"),
            ("debian-security", "http://other.example.org"),
            ("files.example.com", "http://m.example.org/f"),
        ]);
        let own = [("SBX_MIRROR_DEBIAN_SECURITY", "http://m.example.org/sec"), ("PATH", "/bin")];
        let map = variables(&own).unwrap().or(settings);
        let public = Url::parse("http://files.example.com/x/y").unwrap();
        let base = |name| map.base(name, &public).to_string();
        assert_eq!(base("debian-security"), "http://m.example.org/sec/");
        assert_eq!(base("debian"), "https://u:p@n.example.org/debian/");
        assert_eq!(base("else"), "http://m.example.org/f/x/y/");
        assert_eq!(redact(&map.base("debian", &public)), "https://n.example.org/debian/");
        let unknown = Url::parse("http://files.example.net/x").unwrap();
        assert_eq!(map.base("else", &unknown).as_str(), "http://files.example.net/x/");
    }

    #[test]
    fn a_host_is_named_in_the_environment_too() {
        let map = variables(&[("SBX_MIRROR_FILES_EXAMPLE_COM", "http://m.example.org")]).unwrap();
        let public = Url::parse("http://files.example.com/x").unwrap();
        assert_eq!(map.base("else", &public).as_str(), "http://m.example.org/x/");
    }

    #[test]
    fn what_is_no_mirror_is_refused_without_its_secrets() {
        for bad in
            ["ftp://u:secret@example.org", "u:secret@example.org", "http://example.org/?t=secret"]
        {
            let error = variables(&[("SBX_MIRROR_DEBIAN", bad)]).unwrap_err().to_string();
            assert!(error.starts_with("mirror `debian`: `"), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
