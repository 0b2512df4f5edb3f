//! Registries of npm's packages: where they are and how one is known there, as npm and pnpm are told.
//!
//! The environment goes before a project's `.npmrc`, and that before the user's. A credential is for
//! the addresses below the one that it is named for: what of npm's is asked for there gets it from the
//! client (`Login::Npm`), so that no address, lock or program of a sandbox ever has it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use url::Url;

use super::mirror::redact_text;
use super::proxy::is_loopback;
use crate::blame::Blame;

/// What a machine and a project say of npm's registries.
#[derive(Clone, Debug, Default)]
pub struct NpmSettings {
    /// Of the environment.
    pub variables: Vec<(String, String)>,
    /// Text of the user's `.npmrc`.
    pub user: Option<String>,
    /// Texts of projects' `.npmrc`, by their directories below this project's; its own is at the empty one.
    pub projects: BTreeMap<String, String>,
}

/// Where packages are, by scope (`@acme`); `""` for all others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NpmRegistries {
    own: BTreeMap<String, Url>,
    /// By a project's directory.
    projects: BTreeMap<String, BTreeMap<String, Url>>,
}

/// How one is known at addresses. None is sent over plain http, unless a registry or a mirror at that server
/// is named so, or it is this machine: a document may name any address.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// `host:port/path/`, and the value of an `Authorization` header.
    headers: BTreeMap<String, String>,
    /// Servers (`host:port`) that are meant to be reached over plain http.
    plain: BTreeSet<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.headers.keys()).finish()
    }
}

/// A registry that is none.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{from}`: `{value}` is no http or https address of a registry")]
pub struct NpmSettingsError {
    pub from: String,
    pub value: String,
}

impl NpmSettingsError {
    pub fn blame(&self) -> Blame {
        Blame::Input
    }
}

impl Credentials {
    /// What is sent to an address: what is said of the longest path above it.
    pub fn find(&self, url: &Url) -> Option<&str> {
        if self.headers.is_empty() || !url.username().is_empty() {
            return None;
        }
        let server = server(url)?;
        if url.scheme() != "https" && !is_loopback(url) && !self.plain.contains(&server) {
            return None;
        }
        let whole = format!("{server}{}", url.path());
        let mut end = whole.len();
        while let Some(slash) = whole[..end].rfind('/') {
            if let Some(found) = self.headers.get(&whole[..=slash]) {
                return Some(found);
            }
            end = slash;
        }
        None
    }

    /// Likewise, where these addresses are named by whoever names credentials.
    pub(super) fn with_places<'u>(mut self, urls: impl Iterator<Item = &'u Url>) -> Self {
        self.plain.extend(urls.filter(|url| url.scheme() == "http").filter_map(server));
        self
    }
}

fn server(url: &Url) -> Option<String> {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    Some(format!("{}{port}", url.host_str()?))
}

impl NpmRegistries {
    /// The registries of a project's directory; those of this project's own for one that says nothing.
    pub(super) fn of(&self, dir: &str) -> &BTreeMap<String, Url> {
        self.projects.get(dir).unwrap_or(&self.own)
    }

    /// Everything that is said.
    pub(super) fn all(&self) -> impl Iterator<Item = &BTreeMap<String, Url>> {
        std::iter::once(&self.own).chain(self.projects.values())
    }
}

/// Keys and values, the first of each that counts.
type Values = BTreeMap<String, (String, String)>;

impl NpmSettings {
    /// What is meant.
    pub fn read(&self) -> Result<(NpmRegistries, Credentials), NpmSettingsError> {
        let mut own = self.environment();
        let root = self.projects.get("");
        for (from, text) in [(".npmrc", root), ("~/.npmrc", self.user.as_ref())] {
            self.add(&mut own, from, text.map(String::as_str).unwrap_or_default());
        }
        let mut registries = NpmRegistries { own: registries(&own)?, projects: BTreeMap::new() };
        let mut credentials = credentials(&own);
        for (dir, text) in self.projects.iter().filter(|(dir, _)| !dir.is_empty()) {
            let mut values = self.environment();
            self.add(&mut values, &format!("{dir}/.npmrc"), text);
            for (key, value) in &own {
                values.entry(key.clone()).or_insert_with(|| value.clone());
            }
            registries.projects.insert(dir.clone(), self::registries(&values)?);
            for (at, header) in self::credentials(&values).headers {
                credentials.headers.entry(at).or_insert(header);
            }
        }
        let credentials = credentials.with_places(registries.all().flat_map(BTreeMap::values));
        Ok((registries, credentials))
    }

    fn environment(&self) -> Values {
        let mut values = Values::new();
        for (name, value) in self.variables.iter().filter(|(_, value)| !value.is_empty()) {
            let Some(head) = name.get(..11) else { continue };
            if !head.eq_ignore_ascii_case("npm_config_") {
                continue;
            }
            let key = &name[11..];
            let key = match key.starts_with("//") {
                true => key.to_owned(),
                // a leading `_` is part of the name
                false => {
                    let (first, rest) = key.split_at(key.len().min(1));
                    (first.to_owned() + &rest.replace('_', "-")).to_lowercase()
                }
            };
            values.entry(key).or_insert((name.clone(), value.clone()));
        }
        values
    }

    fn add(&self, values: &mut Values, from: &str, text: &str) {
        for (key, value) in pairs(text) {
            let value = (from.to_owned(), self.expanded(&value));
            values.entry(self.expanded(&key)).or_insert(value);
        }
    }

    /// `${NAME}` is a variable, `${NAME?}` one that may be missing.
    fn expanded(&self, text: &str) -> String {
        let mut whole = String::new();
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            let (before, after) = rest.split_at(start);
            whole.push_str(before);
            let Some((name, behind)) = after[2..].split_once('}') else { break };
            let wanted = name.strip_suffix('?').unwrap_or(name);
            let found = self.variables.iter().find(|(known, _)| known == wanted);
            match found {
                Some((_, value)) if !before.ends_with('\\') => whole.push_str(value),
                None if name.ends_with('?') => {}
                _ => whole.push_str(&after[..name.len() + 3]),
            }
            rest = behind;
            if rest.is_empty() {
                return whole;
            }
        }
        whole + rest
    }
}

/// Lines of an `.npmrc`.
fn pairs(text: &str) -> impl Iterator<Item = (String, String)> + '_ {
    text.lines().filter_map(|line| {
        let line = line.trim();
        if line.starts_with(['#', ';', '[']) {
            return None;
        }
        let (key, value) = line.split_once('=')?;
        let value = value.trim();
        let quoted = value.len() > 1
            && ['"', '\''].iter().any(|sign| value.starts_with(*sign) && value.ends_with(*sign));
        let value = match quoted {
            true => &value[1..value.len() - 1],
            false => value.split([';', '#']).next().unwrap_or_default().trim(),
        };
        Some((key.trim().trim_matches(['"', '\'']).to_owned(), value.to_owned()))
    })
}

fn registries(values: &Values) -> Result<BTreeMap<String, Url>, NpmSettingsError> {
    let mut found = BTreeMap::new();
    for (key, (from, value)) in values {
        let scope = match key.strip_suffix(":registry") {
            Some(scope) if scope.starts_with('@') => scope,
            None if key == "registry" => "",
            _ => continue,
        };
        let url = Url::parse(value).ok();
        let url = url.filter(|url| ["http", "https"].contains(&url.scheme()) && url.has_host());
        let Some(mut url) = url else {
            return Err(NpmSettingsError { from: from.clone(), value: redact_text(value) });
        };
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        found.insert(scope.to_owned(), url);
    }
    Ok(found)
}

fn credentials(values: &Values) -> Credentials {
    let mut users: BTreeMap<&str, (Option<&str>, Option<String>)> = BTreeMap::new();
    let mut found = BTreeMap::new();
    for (key, (_, value)) in values {
        let Some((at, what)) = key.strip_prefix("//").and_then(|key| key.rsplit_once(':')) else {
            continue;
        };
        // a variable that is not set gives no credential
        if value.is_empty() || value.contains("${") {
            continue;
        }
        match what {
            "_authToken" => drop(found.insert(at, format!("Bearer {value}"))),
            "_auth" => drop(found.entry(at).or_insert_with(|| format!("Basic {value}"))),
            "username" => users.entry(at).or_default().0 = Some(value),
            "_password" => {
                let decoded = BASE64_STANDARD.decode(value).ok();
                users.entry(at).or_default().1 =
                    decoded.and_then(|text| String::from_utf8(text).ok());
            }
            _ => {}
        }
    }
    for (at, (user, password)) in users {
        if let (Some(user), Some(password)) = (user, password) {
            let both = BASE64_STANDARD.encode(format!("{user}:{password}"));
            found.entry(at).or_insert_with(|| format!("Basic {both}"));
        }
    }
    let at = |at: &str| if at.ends_with('/') { at.to_owned() } else { format!("{at}/") };
    let headers = found.into_iter().map(|(place, header)| (at(place), header)).collect();
    Credentials { headers, plain: BTreeSet::new() }
}

/// Settings of a connection or of this machine, which no program in a sandbox is told.
const PRIVATE: &[&str] = &[
    "_auth",
    "_authtoken",
    "_password",
    "always-auth",
    "ca",
    "cache",
    "cafile",
    "cert",
    "certfile",
    "email",
    "globalconfig",
    "https-proxy",
    "key",
    "keyfile",
    "noproxy",
    "prefix",
    "proxy",
    "registry",
    "store-dir",
    "userconfig",
    "username",
];

/// An `.npmrc` without registries, credentials, and what is of a machine.
pub fn public_settings(text: &str) -> String {
    let public = |line: &&str| match pairs(line).next() {
        None => false,
        Some((key, value)) => {
            let key = key.to_lowercase();
            let private = key.starts_with("//") || key.ends_with(":registry");
            !private && !PRIVATE.contains(&&*key) && !value.contains("${")
        }
    };
    text.lines().filter(public).map(|line| format!("{line}\n")).collect()
}

/// Whether an `.npmrc` has a credential in it, rather than the name of a variable.
pub fn has_credential(text: &str) -> bool {
    pairs(text).any(|(key, value)| {
        let kind = key.rsplit(':').next().unwrap_or_default();
        let secret = ["_authToken", "_auth", "_password"].contains(&kind);
        secret && !value.is_empty() && !value.contains("${")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)], user: &str, project: &str) -> NpmSettings {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        NpmSettings {
            variables: variables.iter().map(owned).collect(),
            user: Some(user.to_owned()),
            projects: BTreeMap::from([(String::new(), project.to_owned())]),
        }
    }

    fn sent(credentials: &Credentials, url: &str) -> Option<String> {
        credentials.find(&Url::parse(url).unwrap()).map(str::to_owned)
    }

    #[test]
    fn the_environment_goes_before_the_project_and_the_project_before_the_user() {
        let user = "registry=https://user.example.org\n@a:registry=https://a.example.org/npm";
        let project =
            "registry = \"https://project.example.org/x\"\n; no\n@b:registry=https://${HOST}/";
        let read = |variables: &[(&str, &str)]| {
            let (registries, _) = settings(variables, user, project).read().unwrap();
            let shown = |(scope, url): (&String, &Url)| format!("{scope} {url}");
            registries.of("").iter().map(shown).collect::<Vec<_>>()
        };
        let rest = ["@a https://a.example.org/npm/", "@b https://b.example.org/"];
        let host = ("HOST", "b.example.org");
        assert_eq!(read(&[host])[0], " https://project.example.org/x/");
        assert_eq!(read(&[host])[1..], rest);
        let env = ("NPM_CONFIG_REGISTRY", "https://env.example.org/");
        assert_eq!(read(&[host, env])[0], " https://env.example.org/");
        let error = settings(&[], "", "registry=ftp://u:secret@x.example.org/").read().unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn credentials_are_for_what_lies_below_their_address() {
        let text = "//h.example.org/npm/:_authToken=${TOKEN}\n//h.example.org:8080/:_auth=dTpw\n\
            //p.example.org/:username=me\n//p.example.org/:_password=c2VjcmV0\n//q.example.org/:_authToken=${NONE}";
        let registry = "registry=http://h.example.org:8080/";
        let (_, credentials) = settings(&[("TOKEN", "t0ken")], text, registry).read().unwrap();
        let bearer = Some("Bearer t0ken".to_owned());
        assert_eq!(sent(&credentials, "https://h.example.org/npm/a/-/a-1.tgz"), bearer);
        assert_eq!(sent(&credentials, "https://h.example.org/npm"), None);
        assert_eq!(sent(&credentials, "https://h.example.org.evil/npm/"), None);
        assert_eq!(
            sent(&credentials, "http://h.example.org:8080/x"),
            Some("Basic dTpw".to_owned())
        );
        // a document that names an address over plain http gets nothing sent there
        assert_eq!(sent(&credentials, "http://h.example.org/npm/a/-/a-1.tgz"), None);
        assert_eq!(sent(&credentials, "http://p.example.org/@a/b"), None);
        let named = Url::parse("http://p.example.org/npm/").unwrap();
        let with_mirror = credentials.clone().with_places([&named].into_iter());
        assert!(sent(&with_mirror, "http://p.example.org/@a/b").is_some());
        let basic = Some("Basic bWU6c2VjcmV0".to_owned());
        assert_eq!(sent(&credentials, "https://p.example.org/@a/b"), basic);
        assert_eq!(sent(&credentials, "https://q.example.org/a"), None);
        assert!(!format!("{credentials:?}").contains("t0ken"));
    }

    #[test]
    fn programs_are_told_neither_registries_nor_credentials() {
        let text = "registry=https://x\n@a:registry=https://y\n//x/:_authToken=t\n_auth=z\nlegacy-peer-deps=true\n# c\n";
        assert_eq!(public_settings(text), "legacy-peer-deps=true\n");
        assert!(has_credential(text) && !has_credential("//x/:_authToken=${T}\n"));
    }
}
