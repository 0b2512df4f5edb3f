//! Indexes of Python packages: where they are and how one is known there, as pip and uv are told.
//!
//! The environment goes before files, uv's words before pip's. Credentials stand in an address or in a
//! netrc file; they are sent to the host they are for and shown to nobody.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use url::Url;

use super::mirror::redact_text;
use crate::blame::Blame;

/// An index, whose address never has a credential in it.
#[derive(Clone, PartialEq, Eq)]
pub struct Index {
    /// Ends in `/`.
    pub url: Url,
    pub user: Option<(String, String)>,
}

impl Index {
    /// An index that a requirements file names.
    pub fn parse(address: &str) -> Option<Self> {
        parse("requirements", address).ok()
    }

    /// The value of an `Authorization` header.
    pub fn authorization(&self) -> Option<String> {
        let (user, password) = self.user.as_ref()?;
        Some(format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))))
    }

    /// An address of the same server, with the credential where a client takes it from.
    pub fn with_user(&self, mut url: Url) -> Url {
        if let Some((user, password)) =
            self.user.as_ref().filter(|_| url.origin() == self.url.origin())
        {
            // an address with a host takes both
            url.set_username(user).unwrap_or_default();
            url.set_password(Some(password)).unwrap_or_default();
        }
        url
    }
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

/// All indexes, in the order in which they are asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indexes {
    extra: Vec<Index>,
    main: Option<Index>,
}

/// An index that is none.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{from}`: `{value}` is no http or https address of an index")]
pub struct IndexError {
    pub from: String,
    pub value: String,
}

impl IndexError {
    pub fn blame(&self) -> Blame {
        Blame::Input
    }
}

fn parse(from: &str, value: &str) -> Result<Index, IndexError> {
    let parsed = Url::parse(value).ok().filter(|url| ["http", "https"].contains(&url.scheme()));
    let mut url =
        parsed.ok_or_else(|| IndexError { from: from.to_owned(), value: redact_text(value) })?;
    let decoded = |text: &str| {
        url::form_urlencoded::parse(format!("x={}", text.replace('+', "%2B")).as_bytes())
            .next()
            .map(|(_, value)| value.into_owned())
            .unwrap_or_default()
    };
    let user = (!url.username().is_empty())
        .then(|| (decoded(url.username()), decoded(url.password().unwrap_or_default())));
    url.set_username("").unwrap_or_default();
    url.set_password(None).unwrap_or_default();
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    Ok(Index { url, user })
}

/// What a machine says of indexes.
#[derive(Clone, Debug, Default)]
pub struct IndexSettings {
    /// Of the environment.
    pub variables: Vec<(String, String)>,
    /// Text of uv's `uv.toml`.
    pub uv: Option<String>,
    /// Text of pip's `pip.conf`; the first one that speaks of a thing counts.
    pub pip: Vec<String>,
    /// Text of a netrc file.
    pub netrc: Option<String>,
}

impl IndexSettings {
    fn variable(&self, names: &[&str]) -> Option<(String, String)> {
        let find = |name: &&str| {
            let found =
                self.variables.iter().find(|(known, value)| known == name && !value.is_empty());
            found.map(|(name, value)| (name.clone(), value.clone()))
        };
        names.iter().find_map(find)
    }

    /// The indexes that are meant.
    pub fn read(&self) -> Result<Indexes, IndexError> {
        let uv = self.uv_indexes();
        let main = self
            .variable(&["UV_DEFAULT_INDEX", "UV_INDEX_URL"])
            .or_else(|| {
                uv.iter().find(|one| one.1).map(|one| ("uv.toml".to_owned(), one.0.clone()))
            })
            .or_else(|| self.variable(&["PIP_INDEX_URL"]))
            .or_else(|| self.pip_value("index-url"));
        let extra = self
            .variable(&["UV_INDEX", "UV_EXTRA_INDEX_URL", "PIP_EXTRA_INDEX_URL"])
            .or_else(|| self.pip_value("extra-index-url"));
        let mut indexes = Indexes::default();
        if let Some((from, value)) = main {
            indexes.main = Some(self.with_netrc(parse(&from, named(&value))?));
        }
        let listed =
            uv.iter().filter(|one| !one.1).map(|one| ("uv.toml".to_owned(), one.0.clone()));
        let words = extra.iter().flat_map(|(from, value)| {
            value.split_whitespace().map(|word| (from.clone(), word.to_owned()))
        });
        for (from, value) in words.chain(listed) {
            indexes.extra.push(self.with_netrc(parse(&from, named(&value))?));
        }
        Ok(indexes)
    }

    /// Addresses of `uv.toml`, and whether each is the default.
    fn uv_indexes(&self) -> Vec<(String, bool)> {
        let Some(table) = self.uv.as_ref().and_then(|text| text.parse::<toml::Table>().ok()) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        let scopes = [Some(&table), table.get("pip").and_then(toml::Value::as_table)];
        for table in scopes.into_iter().flatten() {
            let text = |name: &str| table.get(name).and_then(toml::Value::as_str);
            found.extend(text("index-url").map(|url| (url.to_owned(), true)));
            let list =
                |name: &str| table.get(name).and_then(toml::Value::as_array).into_iter().flatten();
            let urls = list("extra-index-url").filter_map(toml::Value::as_str);
            found.extend(urls.map(|url| (url.to_owned(), false)));
            for one in list("index").filter_map(toml::Value::as_table) {
                let default = one.get("default").and_then(toml::Value::as_bool).unwrap_or(false);
                let url = one.get("url").and_then(toml::Value::as_str);
                found.extend(url.map(|url| (url.to_owned(), default)));
            }
        }
        found
    }

    fn pip_value(&self, name: &str) -> Option<(String, String)> {
        let found = self.pip.iter().find_map(|text| ini_value(text, "global", name));
        found.map(|value| ("pip.conf".to_owned(), value))
    }

    fn with_netrc(&self, mut index: Index) -> Index {
        if let (None, Some(text), Some(host)) = (&index.user, &self.netrc, index.url.host_str()) {
            index.user = netrc_entry(text, host);
        }
        index
    }
}

/// `NAME=URL` is how uv names an index.
fn named(value: &str) -> &str {
    match value.split_once('=') {
        Some((name, url)) if !name.contains([':', '/']) => url,
        _ => value,
    }
}

/// A value of an ini file; further lines of it are indented.
fn ini_value(text: &str, section: &str, name: &str) -> Option<String> {
    let mut here = false;
    let mut found: Option<String> = None;
    for line in text.lines() {
        let bare = line.trim();
        if bare.starts_with(['#', ';']) {
            continue;
        }
        if let (Some(value), true) = (&mut found, line.starts_with([' ', '\t'])) {
            value.push(' ');
            value.push_str(bare);
            continue;
        }
        if found.is_some() {
            break;
        }
        if let Some(title) = bare.strip_prefix('[').and_then(|bare| bare.strip_suffix(']')) {
            here = title == section;
        } else if let Some((key, value)) = bare.split_once(['=', ':']).filter(|_| here)
            && key.trim().replace('_', "-") == name
        {
            found = Some(value.trim().to_owned());
        }
    }
    found.map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// The user of a host.
fn netrc_entry(text: &str, host: &str) -> Option<(String, String)> {
    let mut words = text.split_whitespace();
    let (mut here, mut user, mut password) = (false, None, None);
    while let Some(word) = words.next() {
        match word {
            "machine" | "default" if here => break,
            "machine" => here = words.next() == Some(host),
            "default" => here = true,
            "login" if here => user = words.next(),
            "password" if here => password = words.next(),
            _ => {}
        }
    }
    Some((user?.to_owned(), password.unwrap_or_default().to_owned()))
}

impl Indexes {
    /// Those that are asked, in order; `public` where no other is the default.
    pub fn all(&self, public: &Url) -> Vec<Index> {
        let public = || Index { url: public.clone(), user: None };
        let main = self.main.clone().unwrap_or_else(public);
        let mut all = self.extra.clone();
        all.push(main);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(settings: &IndexSettings) -> Vec<String> {
        let public = Url::parse("https://public.example.org/simple/").unwrap();
        let all = settings.read().unwrap().all(&public);
        let shown = |index: &Index| match &index.user {
            Some((user, password)) => format!("{user}:{password}@{}", index.url),
            None => index.url.to_string(),
        };
        all.iter().map(shown).collect()
    }

    fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn nothing_said_is_the_public_index() {
        assert_eq!(read(&IndexSettings::default()), ["https://public.example.org/simple/"]);
    }

    #[test]
    fn what_pip_is_told_counts() {
        let pip = "[install]\nindex-url = https://no.example.org\n[global]\n# a comment\nindex_url = https://u:p%40ss@i.example.org/simple\nextra-index-url =\n  https://a.example.org/s/\n  https://b.example.org/s\ntimeout = 1\n";
        let netrc = "machine b.example.org login me password secret\nmachine c.example.org login x";
        let settings = IndexSettings {
            pip: vec![pip.to_owned()],
            netrc: Some(netrc.to_owned()),
            ..IndexSettings::default()
        };
        assert_eq!(
            read(&settings),
            [
                "https://a.example.org/s/",
                "me:secret@https://b.example.org/s/",
                "u:p@ss@https://i.example.org/simple/"
            ]
        );
        assert!(!format!("{:?}", settings.read()).contains("secret"));
    }

    #[test]
    fn the_environment_goes_before_files_and_uv_before_pip() {
        let settings = IndexSettings {
            variables: variables(&[
                ("PIP_INDEX_URL", "https://pip.example.org/"),
                ("UV_DEFAULT_INDEX", "corp=https://uv.example.org/"),
                ("UV_INDEX", "x=https://x.example.org/ https://y.example.org/"),
            ]),
            uv: Some("[[index]]\nurl = 'https://toml.example.org/s'\n[[index]]\nurl = 'https://d.example.org'\ndefault = true".to_owned()),
            ..IndexSettings::default()
        };
        assert_eq!(
            read(&settings),
            [
                "https://x.example.org/",
                "https://y.example.org/",
                "https://toml.example.org/s/",
                "https://uv.example.org/"
            ]
        );
    }

    #[test]
    fn what_is_no_index_is_named_without_its_secrets() {
        let settings = IndexSettings {
            variables: variables(&[("PIP_INDEX_URL", "ftp://u:secret@example.org/")]),
            ..IndexSettings::default()
        };
        let error = settings.read().unwrap_err().to_string();
        assert_eq!(
            error,
            "`PIP_INDEX_URL`: `ftp://example.org/` is no http or https address of an index"
        );
    }
}
