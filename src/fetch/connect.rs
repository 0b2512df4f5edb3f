//! The HTTP client: certificates, proxies, redirects, time limits.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use reqwest::{Certificate, Identity, redirect};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use url::Url;

use super::client::ClientConfig;
use super::error::FetchError;
use super::resolver::Names;

/// Most redirects that are followed for one request.
const REDIRECTS: usize = 5;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Line {
    /// Redirects are followed, and silence has a limit.
    Asking,
    /// Nothing is followed, and silence has a limit.
    Confiding,
    /// Nothing is followed; whoever sends looks after the time.
    Sending,
    /// Likewise, over plain http: then no certificate is ever judged, and none is read.
    SendingPlain,
}

/// Whose word is taken for a host that there are authorities for in its directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Authorities {
    /// Theirs, and the platform's: as with registries.
    #[default]
    All,
    /// Theirs alone: as docker does it with engines.
    Own,
}

/// The clients of an engine, by who is trusted. Most hosts share one.
#[derive(Default)]
pub(super) struct Lines {
    clients: Mutex<BTreeMap<(Option<PathBuf>, Line), reqwest::Client>>,
    /// Origins that were looked for a directory of.
    hosts: Mutex<BTreeMap<String, Option<Trust>>>,
}

impl Lines {
    pub(super) fn get(
        &self,
        config: &ClientConfig,
        names: &Names,
        url: &Url,
        line: Line,
    ) -> Result<reqwest::Client, FetchError> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let origin = url.origin().ascii_serialization();
        let trust = hosts.entry(origin).or_insert_with(|| Trust::at(config, url)).clone();
        drop(hosts);
        self.find(config, names, trust, line)
    }

    /// For hosts of which nothing in particular is known.
    pub(super) fn usual(
        &self,
        config: &ClientConfig,
        names: &Names,
        line: Line,
    ) -> Result<reqwest::Client, FetchError> {
        self.find(config, names, None, line)
    }

    fn find(
        &self,
        config: &ClientConfig,
        names: &Names,
        trust: Option<Trust>,
        line: Line,
    ) -> Result<reqwest::Client, FetchError> {
        let mut lines = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (trust.as_ref().map(|trust| trust.dir.clone()), line);
        if let Some(known) = lines.get(&key) {
            return Ok(known.clone());
        }
        let client = connect(config, names, trust.as_ref(), line)?;
        lines.insert(key, client.clone());
        Ok(client)
    }
}

/// `HOST[:PORT]` of an address, without the port that its scheme has.
pub fn authority(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}{port}", url.host_str().unwrap_or_default())
}

/// A directory of certificates for one host.
#[derive(Clone)]
pub(super) struct Trust {
    dir: PathBuf,
}

impl Trust {
    pub(super) fn find(config: &ClientConfig, host: &str) -> Option<Self> {
        let mut dirs = config.host_certificates.iter().map(|dir| dir.join(host));
        dirs.find(|dir| dir.is_dir()).map(|dir| Trust { dir })
    }

    /// For an address, whether or not the port that its scheme has is written.
    fn at(config: &ClientConfig, url: &Url) -> Option<Self> {
        let port = url.port_or_known_default().unwrap_or_default();
        let whole = format!("{}:{port}", url.host_str().unwrap_or_default());
        Trust::find(config, &authority(url)).or_else(|| Trust::find(config, &whole))
    }

    /// Authorities, and who one is oneself.
    fn read(&self) -> Result<(Vec<Certificate>, Option<Identity>), FetchError> {
        let (mut roots, mut identity) = (Vec::new(), None);
        let fail = |path: &Path, reason: String| FetchError::Certificates {
            path: path.to_owned(),
            reason,
        };
        let entries = std::fs::read_dir(&self.dir);
        let entries = entries.map_err(|error| fail(&self.dir, error.to_string()))?;
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            match path.extension().and_then(OsStr::to_str) {
                Some("crt") => roots.extend(read_certificates(&path)?),
                Some("cert") => {
                    let read = |path: &Path| {
                        std::fs::read(path).map_err(|error| fail(path, error.to_string()))
                    };
                    let mut pem = read(&path.with_extension("key"))?;
                    pem.push(b'\n');
                    pem.extend(read(&path)?);
                    let own = Identity::from_pem(&pem);
                    let own = own.map_err(|error| fail(&path, super::retry::innermost(&error)))?;
                    identity = Some(own);
                }
                _ => {}
            }
        }
        Ok((roots, identity))
    }
}

/// Builds a client.
fn connect(
    config: &ClientConfig,
    names: &Names,
    trust: Option<&Trust>,
    line: Line,
) -> Result<reqwest::Client, FetchError> {
    // somebody may have chosen a provider before; then that one serves
    rustls::crypto::ring::default_provider().install_default().unwrap_or_default();
    let is_plain = line == Line::SendingPlain || config.socket.is_some();
    let (mut roots, mut identity, mut is_alone) = (Vec::new(), None, false);
    if !is_plain {
        (roots, identity) = trust.map(Trust::read).transpose()?.unwrap_or_default();
        is_alone = config.authorities == Authorities::Own && !roots.is_empty();
        for path in config.certificates.iter().filter(|_| !is_alone) {
            roots.extend(read_certificates(path)?);
        }
    }
    let builder = || {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("sbx/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            // a mirror is not told where else its client has been
            .referer(false)
            .dns_resolver(names.clone())
            .pool_max_idle_per_host(config.parallel)
            .connect_timeout(config.connect_timeout);
        builder = match line {
            Line::Asking => builder.redirect(policy()).read_timeout(config.stall_timeout),
            Line::Confiding => {
                builder.redirect(redirect::Policy::none()).read_timeout(config.stall_timeout)
            }
            Line::Sending | Line::SendingPlain => builder.redirect(redirect::Policy::none()),
        };
        if let Some(identity) = &identity {
            builder = builder.identity(identity.clone());
        }
        match &config.socket {
            Some(socket) => builder.no_proxy().unix_socket(socket.clone()),
            None => config.proxies.apply(builder),
        }
    };
    let setup = |error: reqwest::Error| FetchError::Setup(super::retry::innermost(&error));
    if is_plain || is_alone {
        return builder().tls_certs_only(roots).build().map_err(setup);
    }
    let platform = builder().tls_certs_merge(roots.clone()).build();
    match platform {
        // a bare machine has no authorities at all: http works there, and Debian's archives are
        // signed; https is refused as untrusted, with advice
        Err(_) if roots.is_empty() => builder().tls_certs_only([]).build().map_err(setup),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_found_with_and_without_the_usual_port() {
        let home = tempfile::tempdir().unwrap();
        for name in ["a:443", "b", "c:80"] {
            std::fs::create_dir(home.path().join(name)).unwrap();
        }
        let dirs = vec![home.path().to_owned()];
        let config = ClientConfig { host_certificates: dirs, ..ClientConfig::default() };
        let found = |url: &str| Trust::at(&config, &Url::parse(url).unwrap()).is_some();
        assert!(found("https://a:443/v2/") && found("https://a/v2/"));
        assert!(found("https://b:443/v2/") && found("https://b/v2/"));
        assert!(!found("https://a:8443/v2/") && !found("https://b:8443/v2/"));
        assert!(!found("https://c/v2/") && !found("https://c:443/v2/"));
    }
}
