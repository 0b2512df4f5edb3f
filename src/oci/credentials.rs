//! Who one is at registries: as Docker's and containers' configuration files say, and as the
//! credential helpers say that those name.
//!
//! A file says it of a host, or of a namespace at one (containers-auth.json(5)): of those that a repository
//! is in, the longest counts. Helpers know hosts alone. What Docker's own decoder takes is taken here: `null`,
//! and a file with nothing in it. A damaged file is an error for whoever asks it, and for nobody else.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;

use super::helper::ask;
use crate::blame::Blame;
use crate::engine::parse_config;

/// The name under which helpers keep a token in a password's place.
const TOKEN: &str = "<token>";

/// Why credentials cannot be had. Never says one.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum CredentialError {
    #[error("{path} is no configuration of registries: {reason}")]
    File { path: String, reason: String },
    #[error("the credential helper `{program}` {reason}")]
    Helper { program: String, reason: String },
}

impl CredentialError {
    pub fn blame(&self) -> Blame {
        match self {
            CredentialError::File { .. } => Blame::Input,
            CredentialError::Helper { .. } => Blame::World,
        }
    }
}

/// What a registry, or who gives tokens for it, wants to see.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    Password {
        user: String,
        password: String,
    },
    /// What tokens are given for.
    Identity {
        token: String,
    },
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(…)")
    }
}

impl Credential {
    pub(super) fn new(user: &str, secret: &str) -> Self {
        match user {
            TOKEN => Credential::Identity { token: secret.to_owned() },
            user => Credential::Password { user: user.to_owned(), password: secret.to_owned() },
        }
    }

    /// The value of an `Authorization` header, for a password.
    pub fn basic(&self) -> Option<String> {
        match self {
            Credential::Password { user, password } => {
                Some(format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))))
            }
            Credential::Identity { .. } => None,
        }
    }
}

/// One file. Each part may be `null`.
#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ConfigFile {
    auths: Option<BTreeMap<String, Option<Auth>>>,
    creds_store: Option<String>,
    cred_helpers: Option<BTreeMap<String, Option<String>>>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

/// All files, those that go before others first.
#[derive(Clone, Default)]
pub struct Keychain {
    files: Vec<Result<ConfigFile, CredentialError>>,
}

impl fmt::Debug for Keychain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keychain").field("files", &self.files.len()).finish()
    }
}

impl Keychain {
    /// Parses files: their paths, for messages, and their texts. What is wrong with one is told when it is
    /// asked.
    pub fn parse(files: &[(String, String)]) -> Self {
        let parse = |(path, text): &(String, String)| {
            parse_config::<ConfigFile>(text.as_bytes()).map_err(|error| CredentialError::File {
                path: path.clone(),
                // the error's own words may show what stands there
                reason: format!("line {}, column {}", error.line(), error.column()),
            })
        };
        Keychain { files: files.iter().map(parse).collect() }
    }

    /// What is known for a repository of a registry, which has one or several names.
    pub fn find(
        &self,
        names: &[&str],
        repository: &str,
    ) -> Result<Option<Credential>, CredentialError> {
        for file in &self.files {
            if let Some(found) = file.as_ref().map_err(Clone::clone)?.find(names, repository)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

/// A key of a file as a host, where it is no namespace: people wrote whole addresses once.
fn host(key: &str) -> Option<&str> {
    let bare = key.strip_prefix("https://").or(key.strip_prefix("http://"));
    let (host, path) = bare.unwrap_or(key).split_once('/').unwrap_or((bare.unwrap_or(key), ""));
    let is_host = bare.is_some() || ["", "v1", "v2"].contains(&path.trim_end_matches('/'));
    is_host.then_some(host)
}

/// A repository and the namespaces that it is in, the longest first.
fn namespaces(repository: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(repository), |name| Some(name.rsplit_once('/')?.0))
}

/// Of an exact key, or of one that means the host.
fn at_host<'m, T>(entries: &'m BTreeMap<String, Option<T>>, name: &str) -> Option<&'m T> {
    let named = || entries.iter().find(|(key, _)| host(key) == Some(name)).map(|(_, entry)| entry);
    entries.get(name).or_else(named)?.as_ref()
}

impl ConfigFile {
    fn find(
        &self,
        names: &[&str],
        repository: &str,
    ) -> Result<Option<Credential>, CredentialError> {
        let helpers = self.cred_helpers.as_ref();
        let own = helpers.and_then(|all| names.iter().find_map(|name| at_host(all, name)));
        if let Some(found) = known_to(own, names)? {
            return Ok(Some(found));
        }
        let auths = || self.auths.iter();
        for space in namespaces(repository).filter(|space| !space.is_empty()) {
            let mut keys = names.iter().map(|name| format!("{name}/{space}"));
            let auth = keys.find_map(|key| auths().find_map(|all| all.get(&key)?.as_ref()));
            if let Some(found) = auth.and_then(Auth::credential) {
                return Ok(Some(found));
            }
        }
        // a helper of a host's own stands in place of the one for all, even where it is none
        let store = self.creds_store.as_ref().filter(|_| own.is_none());
        if let Some(found) = known_to(store, names)? {
            return Ok(Some(found));
        }
        let auth = names.iter().find_map(|name| auths().find_map(|all| at_host(all, name)));
        Ok(auth.and_then(Auth::credential))
    }
}

/// What a helper knows of a registry by any of its names.
fn known_to(
    helper: Option<&String>,
    names: &[&str],
) -> Result<Option<Credential>, CredentialError> {
    let Some(helper) = helper.filter(|helper| !helper.is_empty()) else { return Ok(None) };
    for name in names {
        if let Some(found) = ask(helper, name)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

impl Auth {
    fn credential(&self) -> Option<Credential> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = given(&self.identitytoken) {
            return Some(Credential::Identity { token });
        }
        if let (Some(user), Some(password)) = (given(&self.username), given(&self.password)) {
            return Some(Credential::new(&user, &password));
        }
        let decoded = BASE64_STANDARD.decode(given(&self.auth)?).ok()?;
        let text = String::from_utf8(decoded).ok()?;
        let (user, password) = text.trim_end_matches('\0').split_once(':')?;
        Some(Credential::new(user, password))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keychain(text: &str) -> Keychain {
        Keychain::parse(&[("config.json".to_owned(), text.to_owned())])
    }

    fn password(user: &str, password: &str) -> Option<Credential> {
        Some(Credential::Password { user: user.to_owned(), password: password.to_owned() })
    }

    #[test]
    fn credentials_are_found_by_host_however_it_is_written() {
        let all = keychain(
            r#"{"auths":{"https://a.example.org/v2/":{"auth":"dTpwOnE="},"b:5000":{"username":"v","password":"w"},
                "c":{"identitytoken":"t"},"d":{},"e/v1/":{"auth":"dTpw"}}}"#,
        );
        let find = |names: &[&str]| all.find(names, "x").unwrap();
        assert_eq!(find(&["a.example.org"]), password("u", "p:q"));
        assert_eq!(find(&["x", "b:5000"]), password("v", "w"));
        assert_eq!(find(&["c"]), Some(Credential::Identity { token: "t".into() }));
        assert_eq!(find(&["d"]), None);
        assert_eq!(find(&["b"]), None);
        assert_eq!(find(&["e"]), password("u", "p"));
    }

    #[test]
    fn of_namespaces_the_longest_counts_and_then_the_host() {
        let entry = |name: &str| format!(r#""{name}":{{"username":"{name}","password":"p"}}"#);
        let names = ["h", "h/team-a", "h/team-b", "h/team-b/sub/app", "other/team-a"];
        let auths = names.map(entry).join(",");
        let all = keychain(&format!(r#"{{"auths":{{{auths}}}}}"#));
        let find = |repository: &str| all.find(&["h"], repository).unwrap();
        assert_eq!(find("team-a/app"), password("h/team-a", "p"));
        assert_eq!(find("team-b/app"), password("h/team-b", "p"));
        assert_eq!(find("team-b/sub/app"), password("h/team-b/sub/app", "p"));
        assert_eq!(find("team-b/sub/other"), password("h/team-b", "p"));
        assert_eq!(find("team-c/app"), password("h", "p"));
        assert_eq!(find("team-ab"), password("h", "p"), "a name is not its beginning");
        let lone = keychain(&format!(r#"{{"auths":{{{}}}}}"#, entry("h/team-a")));
        assert_eq!(lone.find(&["h"], "team-b/app").unwrap(), None, "it is nobody else's");
    }

    #[test]
    fn what_dockers_decoder_takes_is_taken() {
        for odd in [
            "",
            "\n",
            "null",
            "{}",
            r#"{"auths":null,"credsStore":null,"credHelpers":null}"#,
            r#"{"auths":{"h":null},"credHelpers":{"h":null}}"#,
            r#"{"auths":{"h":{"auth":null}},"credHelpers":{"h":""},"credsStore":"of-no-such-name"}"#,
        ] {
            assert_eq!(keychain(odd).find(&["h"], "a"), Ok(None), "{odd}");
        }
    }

    #[test]
    fn a_damaged_file_is_named_when_it_is_asked_and_not_shown() {
        for text in ["{\"auths\":{\"a\":\"secret\"}}", "secret", "{\"auths\":{\"secret"] {
            let all = Keychain::parse(&[("/home/me/config.json".to_owned(), text.to_owned())]);
            let error = all.find(&["a"], "b").unwrap_err().to_string();
            assert!(error.starts_with("/home/me/config.json is no configuration"), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn helpers_that_are_not_there_are_named() {
        let all = keychain(r#"{"credsStore":"of-no-such-name"}"#);
        let error = all.find(&["a"], "b").unwrap_err().to_string();
        assert!(
            error.starts_with("the credential helper `docker-credential-of-no-such-name` cannot")
        );
    }
}
