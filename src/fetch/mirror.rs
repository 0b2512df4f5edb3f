//! Mirrors: other places for the same bytes.
//!
//! A mirror is named for an archive (`debian`, `debian-security`, a repository's name) or for a host,
//! by `SBX_MIRROR_NAME=URL` (upper case, `_` for `-` and `.`) or in `settings.kdl`
//! (`mirror "debian" "URL"`). It replaces the public address; the environment goes before the file.

use std::collections::BTreeMap;

use url::Url;

/// Archive or host → base URL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MirrorMap(BTreeMap<String, Url>);

/// A mirror that is none.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum MirrorError {
    #[error("mirror `{name}`: `{value}` is no http or https URL")]
    Url { name: String, value: String },
    #[error("settings: {0}")]
    Settings(String),
}

/// The key under which a name is looked up: lower case, one kind of separator.
fn key(name: &str) -> String {
    name.to_ascii_lowercase().replace(['_', '.'], "-")
}

impl MirrorMap {
    /// Adds mirrors from the environment's variables; others are passed over.
    pub fn add_variables(
        &mut self,
        variables: impl Iterator<Item = (String, String)>,
    ) -> Result<(), MirrorError> {
        for (variable, value) in variables {
            if let Some(name) = variable.strip_prefix("SBX_MIRROR_").filter(|_| !value.is_empty()) {
                self.insert(name, &value)?;
            }
        }
        Ok(())
    }

    /// Adds mirrors of `settings.kdl`, where the environment has not named one already.
    pub fn add_settings(&mut self, text: &str) -> Result<(), MirrorError> {
        let document = kdl::KdlDocument::parse_v2(text)
            .map_err(|error| MirrorError::Settings(error.to_string()))?;
        for node in document.nodes() {
            let argument = |at: usize| node.get(at).and_then(|value| value.as_string());
            match (node.name().value(), argument(0), argument(1)) {
                ("mirror", Some(name), Some(value)) => {
                    if !self.0.contains_key(&key(name)) {
                        self.insert(name, value)?;
                    }
                }
                (other, ..) => {
                    let message =
                        format!("`{other}` is not understood: write `mirror \"debian\" \"URL\"`");
                    return Err(MirrorError::Settings(message));
                }
            }
        }
        Ok(())
    }

    fn insert(&mut self, name: &str, value: &str) -> Result<(), MirrorError> {
        let fail =
            || MirrorError::Url { name: name.to_ascii_lowercase(), value: redact_text(value) };
        let mut url = Url::parse(value).map_err(|_| fail())?;
        if !["http", "https"].contains(&url.scheme()) {
            return Err(fail());
        }
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        self.0.insert(key(name), url);
        Ok(())
    }

    /// The base URL of an archive: its mirror, or the mirror of its host with the same path, or what
    /// is given. Ends in `/`.
    pub fn base(&self, name: &str, public: &Url) -> Url {
        if let Some(mirror) = self.0.get(&key(name)) {
            return mirror.clone();
        }
        let host = public.host_str().map(key).and_then(|host| self.0.get(&host));
        let mut base = match host {
            None => public.clone(),
            Some(mirror) => {
                let mut url = mirror.clone();
                url.set_path(&format!(
                    "{}{}",
                    mirror.path(),
                    public.path().trim_start_matches('/')
                ));
                url
            }
        };
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        base
    }
}

/// A URL as it may be shown: without user and password.
pub(super) fn redact(url: &Url) -> String {
    let mut url = url.clone();
    // a URL without a host has no credentials to lose
    url.set_username("").unwrap_or_default();
    url.set_password(None).unwrap_or_default();
    url.to_string()
}

fn redact_text(text: &str) -> String {
    Url::parse(text).map_or_else(|_| text.to_owned(), |url| redact(&url))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_goes_before_the_settings_and_both_before_the_public_address() {
        let mut map = MirrorMap::default();
        let variables =
            [("SBX_MIRROR_DEBIAN_SECURITY", "http://m.example.org/sec"), ("PATH", "/bin")];
        map.add_variables(variables.into_iter().map(|(a, b)| (a.to_owned(), b.to_owned())))
            .unwrap();
        map.add_settings("mirror \"debian\" \"https://u:p@n.example.org/debian\"\nmirror \"debian-security\" \"http://other.example.org\"\nmirror \"files.example.com\" \"http://m.example.org/f\"").unwrap();
        let public = Url::parse("http://files.example.com/x/y").unwrap();
        let base = |name| map.base(name, &public).to_string();
        assert_eq!(base("debian-security"), "http://m.example.org/sec/");
        assert_eq!(base("debian"), "https://u:p@n.example.org/debian/");
        assert_eq!(base("else"), "http://m.example.org/f/x/y/");
        assert_eq!(redact(&map.base("debian", &public)), "https://n.example.org/debian/");
    }

    #[test]
    fn what_is_no_url_is_refused_without_its_password() {
        let mut map = MirrorMap::default();
        let bad = [("SBX_MIRROR_DEBIAN".to_owned(), "ftp://u:secret@example.org".to_owned())];
        let error = map.add_variables(bad.into_iter()).unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
        assert!(map.add_settings("mirrors").is_err());
    }
}
