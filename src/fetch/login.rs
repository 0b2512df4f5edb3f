//! What a request says of who asks.
//!
//! Nothing, unless whoever asks says so: an address is shown no credential because of where it leads to, for
//! a registry or a document may have named it. What npm is told of addresses is looked up for what is npm's,
//! and for nothing else that lies at the same host.

use std::fmt;

use reqwest::RequestBuilder;
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, HeaderValue};
use url::Url;

use super::npmrc::Credentials;

/// Who one is where something is asked for.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Login {
    #[default]
    Nobody,
    /// Whoever npm is told to be at the address.
    Npm,
    /// The value of an `Authorization` header; a redirect to another host goes without it.
    Header(String),
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Login::Nobody => "Nobody",
            Login::Npm => "Npm",
            Login::Header(_) => "Header(…)",
        })
    }
}

impl From<Option<String>> for Login {
    fn from(value: Option<String>) -> Self {
        value.map_or(Login::Nobody, Login::Header)
    }
}

impl Login {
    /// What is shown at an address.
    pub(super) fn find<'a>(&'a self, credentials: &'a Credentials, url: &Url) -> Option<&'a str> {
        match self {
            Login::Nobody => None,
            Login::Npm => credentials.find(url),
            Login::Header(value) => Some(value),
        }
    }
}

/// What every request says: the forms that are understood, and who asks.
pub(super) fn dress(
    request: RequestBuilder,
    accept: Option<&str>,
    authorization: Option<&str>,
) -> RequestBuilder {
    let mut request = request.header(ACCEPT_ENCODING, "identity");
    if let Some(value) = accept {
        request = request.header(ACCEPT, value);
    }
    if let Some(value) = authorization {
        request = request.header(AUTHORIZATION, sensitive(value));
    }
    request
}

/// A value that no message shows; what no header may have is sent as nothing.
pub(super) fn sensitive(value: &str) -> HeaderValue {
    let mut value = HeaderValue::from_str(value).unwrap_or(HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}
