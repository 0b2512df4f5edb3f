//! Proxies: by whom requests are carried.
//!
//! The usual variables say it (`http_proxy`, `https_proxy`, `all_proxy`, `no_proxy`, lower case before
//! upper), then `settings.kdl`. What names no proxy at all is reached directly, and so is this machine itself,
//! as Go's tools have it. Which proxy carries an address is decided here alone, so that whoever could not be
//! reached can be named.

use std::collections::BTreeMap;
use std::net::IpAddr;

use url::{Host, Url};

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

    pub(super) fn apply(&self, builder: reqwest::ClientBuilder) -> reqwest::ClientBuilder {
        // the system's own idea of proxies is the environment again, which is not read here
        let builder = builder.no_proxy();
        if self.is_empty() {
            return builder;
        }
        let own = self.clone();
        builder.proxy(reqwest::Proxy::custom(move |url| own.find(url).cloned()))
    }

    /// Who carries requests to an address.
    pub(super) fn find(&self, url: &Url) -> Option<&Url> {
        let proxy = match url.scheme() {
            "http" => self.http.as_ref()?,
            "https" => self.https.as_ref()?,
            _ => return None,
        };
        let excepted = || self.except.split(',').any(|entry| is_meant(entry.trim(), url));
        (!is_loopback(url) && !excepted()).then_some(proxy)
    }
}

/// Whether an address is on this machine.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Whether an exception is for an address: `*`, a domain with all below it, an address, or a network.
fn is_meant(entry: &str, url: &Url) -> bool {
    let address = match url.host() {
        Some(Host::Domain(name)) => {
            let domain = entry.trim_start_matches('.').to_ascii_lowercase();
            let below = name
                .strip_suffix(&domain)
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
            return entry == "*" || !domain.is_empty() && below;
        }
        Some(Host::Ipv4(address)) => IpAddr::V4(address),
        Some(Host::Ipv6(address)) => IpAddr::V6(address),
        None => return false,
    };
    let (network, bits) = entry.split_once('/').unwrap_or((entry, "128"));
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else {
        return entry == "*";
    };
    is_within(address, network, bits)
}

/// Whether the first bits of two addresses are the same.
fn is_within(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    let first = |value: u128, len: u32| value.checked_shr(len.saturating_sub(bits)).unwrap_or(0);
    match (address, network) {
        (IpAddr::V4(one), IpAddr::V4(two)) => {
            first(one.to_bits().into(), 32) == first(two.to_bits().into(), 32)
        }
        (IpAddr::V6(one), IpAddr::V6(two)) => {
            first(one.to_bits(), 128) == first(two.to_bits(), 128)
        }
        _ => false,
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
    fn this_machine_and_what_is_excepted_are_reached_directly() {
        let list = "internal, .example.org,10.0.0.0/8,192.168.1.7,fd00::/16";
        let config = read(&[("all_proxy", "http://p.example.net"), ("no_proxy", list)]).unwrap();
        let is_direct = |url: &str| config.find(&Url::parse(url).unwrap()).is_none();
        for host in [
            "localhost:5000",
            "127.0.0.1",
            "127.8.9.10:1",
            "[::1]:5000",
            "internal",
            "a.internal",
            "example.org",
            "b.EXAMPLE.org",
            "10.255.0.1",
            "192.168.1.7:443",
            "[fd00:1::2]",
        ] {
            for scheme in ["http", "https"] {
                assert!(is_direct(&format!("{scheme}://{host}/x")), "{host}");
            }
        }
        for host in [
            "localhost.example.net",
            "notinternal",
            "xexample.org",
            "11.0.0.1",
            "192.168.1.8",
            "[fd01::1]",
        ] {
            assert!(!is_direct(&format!("http://{host}/x")), "{host}");
        }
        let none = read(&[("https_proxy", "http://p.example.net"), ("no_proxy", "*")]).unwrap();
        for url in ["https://a.example.net/", "https://10.0.0.1/", "https://[fd00::1]/"] {
            assert!(none.find(&Url::parse(url).unwrap()).is_none(), "{url}");
        }
        let whole =
            read(&[("http_proxy", "http://p.example.net"), ("no_proxy", "0.0.0.0/0")]).unwrap();
        assert!(whole.find(&Url::parse("http://11.0.0.1/").unwrap()).is_none());
        assert!(whole.find(&Url::parse("http://[fd00::1]/").unwrap()).is_some());
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
