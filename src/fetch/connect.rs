//! The HTTP client: certificates, proxies, redirects, time limits.

use std::path::Path;

use reqwest::{Certificate, redirect};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use url::Url;

use super::client::ClientConfig;
use super::error::FetchError;
use super::resolver::Names;

/// Most redirects that are followed for one request.
const REDIRECTS: usize = 5;

/// Builds the client that all requests go through.
pub(super) fn connect(config: &ClientConfig, names: &Names) -> Result<reqwest::Client, FetchError> {
    // somebody may have chosen a provider before; then that one serves
    rustls::crypto::ring::default_provider().install_default().unwrap_or_default();
    let mut roots = Vec::new();
    for path in &config.certificates {
        roots.extend(read_certificates(path)?);
    }
    let builder = || {
        let builder = reqwest::Client::builder()
            .user_agent(concat!("sbx/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            .redirect(policy())
            // a mirror is not told where else its client has been
            .referer(false)
            .dns_resolver(names.clone())
            .pool_max_idle_per_host(config.parallel)
            .connect_timeout(config.connect_timeout)
            .read_timeout(config.stall_timeout);
        config.proxies.apply(builder)
    };
    let setup = |error: reqwest::Error| FetchError::Setup(super::retry::innermost(&error));
    let platform = builder().map_err(setup)?.tls_certs_merge(roots.clone()).build();
    match platform {
        // a bare machine has no authorities at all: http works there, and Debian's archives are
        // signed; https is refused as untrusted, with advice
        Err(_) if roots.is_empty() => {
            builder().map_err(setup)?.tls_certs_only([]).build().map_err(setup)
        }
        built => built.map_err(setup),
    }
}

fn policy() -> redirect::Policy {
    redirect::Policy::custom(|attempt| {
        let secure = |url: &Url| url.scheme() == "https";
        let downgrade = attempt.previous().last().is_some_and(secure) && !secure(attempt.url());
        if attempt.previous().len() > REDIRECTS {
            attempt.error(format!("more than {REDIRECTS} times"))
        } else if downgrade {
            attempt.error("from https to http")
        } else {
            attempt.follow()
        }
    })
}

fn read_certificates(path: &Path) -> Result<Vec<Certificate>, FetchError> {
    let fail = |reason: String| FetchError::Certificates { path: path.to_owned(), reason };
    let pem = std::fs::read(path).map_err(|error| fail(error.to_string()))?;
    let mut found = Vec::new();
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let der = certificate.map_err(|error| fail(error.to_string()))?;
        // judged here, where the file can still be named
        store.add(der.clone()).map_err(|error| fail(error.to_string()))?;
        let root = Certificate::from_der(&der);
        found.push(root.map_err(|error| fail(super::retry::innermost(&error)))?);
    }
    if found.is_empty() {
        return Err(fail("it holds no certificate in PEM form".to_owned()));
    }
    Ok(found)
}
