//! HTTP to an instance, as its callers speak it.

use std::time::Duration;

use reqwest::Method;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use serde_json::Value;
use url::Url;

use super::brief;

/// A request that was not answered as it must be.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("`{0}` is no address of an instance")]
    Address(String),
    #[error("the HTTP client cannot be made: {0}")]
    Setup(String),
    #[error("{call} is not answered: {reason}")]
    Network { call: String, reason: String },
    #[error("{call} answers {status}: {body}")]
    Status { call: String, status: u16, body: String },
    #[error("{call} answers what is no JSON: {body}")]
    NoJson { call: String, body: String },
}

/// What callers show.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shown {
    /// The token that is right.
    Token,
    Nothing,
    Wrong,
}

/// A request.
#[derive(Clone, Debug)]
pub(super) struct Call<'a> {
    pub method: Method,
    pub path: &'a str,
    pub query: &'a [(&'a str, &'a str)],
    /// Media type and bytes.
    pub body: Option<(&'a str, Vec<u8>)>,
    pub shown: Shown,
}

/// An answer of any status.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

/// Whoever has an instance's address and token.
#[derive(Debug)]
pub struct Caller {
    runtime: tokio::runtime::Runtime,
    http: reqwest::Client,
    url: Url,
    token: Option<String>,
}

impl<'a> Call<'a> {
    pub fn new(method: Method, path: &'a str) -> Self {
        Call { method, path, query: &[], body: None, shown: Shown::Token }
    }

    pub fn get(path: &'a str) -> Self {
        Call::new(Method::GET, path)
    }

    pub fn post(path: &'a str, body: &Value) -> Self {
        let body = Some(("application/json", body.to_string().into_bytes()));
        Call { body, ..Call::new(Method::POST, path) }
    }

    pub fn query(self, query: &'a [(&'a str, &'a str)]) -> Self {
        Call { query, ..self }
    }

    pub fn shown(self, shown: Shown) -> Self {
        Call { shown, ..self }
    }

    fn label(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

impl Caller {
    /// `patience` is for one answer.
    pub fn new(url: &str, token: Option<String>, patience: Duration) -> Result<Self, CallError> {
        let sound = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let url = sound.ok_or_else(|| CallError::Address(url.to_owned()))?;
        // somebody may have chosen a provider before; then that one serves
        rustls::crypto::ring::default_provider().install_default().unwrap_or_default();
        let setup = |error: &dyn std::fmt::Display| CallError::Setup(error.to_string());
        let builder = || {
            let builder = reqwest::Client::builder().no_proxy().timeout(patience);
            builder.redirect(reqwest::redirect::Policy::none())
        };
        // a machine without authorities can ask over http all the same
        let http = builder().build().or_else(|_| builder().tls_certs_only([]).build());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Caller {
            runtime: runtime.map_err(|error| setup(&error))?,
            http: http.map_err(|error| setup(&error))?,
            url,
            token,
        })
    }

    pub(super) fn ask(&self, call: Call<'_>) -> Result<Answer, CallError> {
        let label = call.label();
        let mut url = self.url.clone();
        url.set_path(&format!("{}{}", self.url.path().trim_end_matches('/'), call.path));
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(call.query);
        }
        let mut request = self.http.request(call.method, url);
        let token = match call.shown {
            Shown::Token => self.token.as_deref(),
            Shown::Nothing => None,
            Shown::Wrong => Some("wrong"),
        };
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some((kind, bytes)) = call.body {
            request = request.header(CONTENT_TYPE, kind).body(bytes);
        }
        let answer = self.runtime.block_on(async {
            let answer = request.send().await?;
            let status = answer.status().as_u16();
            Ok::<_, reqwest::Error>(Answer { status, body: answer.bytes().await?.to_vec() })
        });
        answer.map_err(|error| CallError::Network { call: label, reason: innermost(&error) })
    }

    /// The body of an answer whose status says that it was done.
    pub(super) fn done(&self, call: Call<'_>) -> Result<String, CallError> {
        let label = call.label();
        let Answer { status, body } = self.ask(call)?;
        let body = String::from_utf8_lossy(&body).into_owned();
        match status {
            200..300 => Ok(body),
            _ => Err(CallError::Status { call: label, status, body: brief(&body) }),
        }
    }

    pub(super) fn json(&self, call: Call<'_>) -> Result<Value, CallError> {
        let label = call.label();
        let body = self.done(call)?;
        serde_json::from_str(&body)
            .map_err(|_| CallError::NoJson { call: label, body: brief(&body) })
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), innermost)
}
