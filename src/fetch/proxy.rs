//! Proxies: by whom requests are carried.
//!
//! The usual variables say it (`http_proxy`, `https_proxy`, `all_proxy`, `no_proxy`, lower case before
//! upper), then `settings.kdl`. What names no proxy at all is reached directly.

use std::collections::BTreeMap;

use url::Url;

use super::mirror::redact_text;
use crate::blame::Blame;

/// Which proxy carries which requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyConfig {
    /// For `http:` addresses.
    pub http: Option<Url>,
    /// For `https:` addresses.
    pub https: Option<Url>,
    /// Hosts, `.domains`, addresses and networks that are reached directly, with commas between.
    pub except: String,
}

/// A proxy that is none.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("proxy of `{name}`: `{value}` is no http or https address")]
pub struct ProxyError {
    pub name: String,
    pub value: String,
}

impl ProxyError {
    pub fn blame(&self) -> Blame {
        Blame::Input
    }
}

impl ProxyConfig {
    /// Reads the environment's variables; others are passed over.
    pub fn from_variables(
        variables: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ProxyError> {
        let known: BTreeMap<String, String> = variables
            .filter(|(name, value)| {
                name.to_ascii_lowercase().ends_with("_proxy") && !value.is_empty()
            })
            .collect();
        let find = |name: &'static str| {
            let upper = name.to_ascii_uppercase();
            let value = known.get(name).or_else(|| known.get(&upper))?;
            Some((name, value.as_str()))
        };
        let parse = |found: Option<(&str, &str)>| {
            found.map(|(name, value)| Self::parse(name, value)).transpose()
        };
        Ok(ProxyConfig {
            http: parse(find("http_proxy").or_else(|| find("all_proxy")))?,
            https: parse(find("https_proxy").or_else(|| find("all_proxy")))?,
            except: find("no_proxy").map(|(_, value)| value.to_owned()).unwrap_or_default(),
        })
    }

    /// A proxy's address; `host:port` means http, as everywhere.
    pub(super) fn parse(name: &str, value: &str) -> Result<Url, ProxyError> {
        let full = match value.contains("://") {
            true => value.to_owned(),
            false => format!("http://{value}"),
        };
        let url = Url::parse(&full).ok().filter(|url| ["http", "https"].contains(&url.scheme()));
        url.ok_or_else(|| ProxyError { name: name.to_owned(), value: redact_text(&full) })
    }

    /// Whether it says anything.
    pub fn is_empty(&self) -> bool {
        self.http.is_none() && self.https.is_none()
    }

    /// This one, or `other` where this says nothing.
    pub fn or(self, other: ProxyConfig) -> Self {
        if !self.is_empty() {
            return self;
        }
        let except = [self.except, other.except.clone()];
        let except: Vec<_> = except.into_iter().filter(|list| !list.is_empty()).collect();
        ProxyConfig { except: except.join(","), ..other }
    }

    pub(super) fn apply(
        &self,
        builder: reqwest::ClientBuilder,
    ) -> reqwest::Result<reqwest::ClientBuilder> {
        // the system's own idea of proxies is the environment again, which is not read here
        let mut builder = builder.no_proxy();
        let except = || reqwest::NoProxy::from_string(&self.except);
        if let Some(url) = &self.http {
            builder = builder.proxy(reqwest::Proxy::http(url.clone())?.no_proxy(except()));
        }
        if let Some(url) = &self.https {
            builder = builder.proxy(reqwest::Proxy::https(url.clone())?.no_proxy(except()));
        }
        Ok(builder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<ProxyConfig, ProxyError> {
        let owned = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        ProxyConfig::from_variables(owned)
    }

    #[test]
    fn lower_case_goes_before_upper_and_a_scheme_before_all() {
        let config = read(&[
            ("HTTP_PROXY", "http://upper.example.org"),
            ("http_proxy", "lower.example.org:3128"),
            ("ALL_PROXY", "http://all.example.org"),
            ("NO_PROXY", "localhost,.internal"),
            ("MY_PROXY", "no address"),
        ])
        .unwrap();
        assert_eq!(config.http.unwrap().as_str(), "http://lower.example.org:3128/");
        assert_eq!(config.https.unwrap().as_str(), "http://all.example.org/");
        assert_eq!(config.except, "localhost,.internal");
        assert!(read(&[("http_proxy", "")]).unwrap().is_empty());
    }

    #[test]
    fn what_is_no_proxy_is_refused_without_its_password() {
        let error = read(&[("https_proxy", "socks5://u:secret@proxy.example.org")]).unwrap_err();
        insta::assert_snapshot!(error, @"proxy of `https_proxy`: `socks5://proxy.example.org` is no http or https address");
    }

    #[test]
    fn the_environment_goes_before_the_settings() {
        let settings = read(&[("all_proxy", "http://s.example.org"), ("no_proxy", "b")]).unwrap();
        let own = read(&[("http_proxy", "http://e.example.org"), ("no_proxy", "a")]).unwrap();
        assert_eq!(own.clone().or(settings.clone()), own);
        let silent = read(&[("no_proxy", "a")]).unwrap();
        assert_eq!(silent.or(settings).except, "a,b");
    }
}
