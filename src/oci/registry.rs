//! A repository at a registry (OCI distribution-spec 1.1); what is read of it.
//! `upload` and `sending` write, `token` says who one is.
//!
//! Nothing is asked ahead: the first request goes without a token, and what the registry then demands
//! is answered for all further ones, until that ends. Only the registry's own demands are answered; a token
//! goes to the registry it was made for and to no host that it redirects to. Plain http is spoken with
//! loopback (but for hosts that this machine has certificates for), where a mirror is named so, and where
//! one is told to.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use url::Url;

use super::credentials::{Credential, Keychain};
use super::document::accepted;
use super::error::{Deed, OciError, Who};
use super::token::{credential_of, names};
use crate::digest::Digest;
use crate::fetch::{
    self, Client, Document, FetchError, Headers, MirrorMap, Said, authority, defaults,
};
use crate::reference::Reference;

/// Largest manifest or index that is read; registries take no larger ones.
pub(super) const LARGEST_MANIFEST: u64 = 4 << 20;

/// What is to be done with a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Access {
    #[default]
    Read,
    Write {
        /// Repositories of the same registry that blobs may be mounted from.
        mounts: Vec<String>,
    },
}

/// What was shown to a registry, and is again.
#[derive(Clone)]
pub(super) struct Pass {
    /// The value of an `Authorization` header.
    pub(super) authorization: String,
    /// Whether it is of somebody in particular.
    pub(super) is_user: bool,
}

/// A repository, and who one is there.
pub struct Registry<'a> {
    pub(super) client: &'a Client,
    pub(super) keychain: &'a Keychain,
    /// As people call it.
    pub(super) host: String,
    /// Likewise what answers in its place: it, or a mirror.
    pub(super) place: String,
    /// What either is called where people log in.
    pub(super) names: Vec<String>,
    /// `https://HOST/v2/REPOSITORY/`.
    pub(super) base: Url,
    pub(super) repository: String,
    pub(super) access: Access,
    /// Out of a mirror's address.
    pub(super) credential: Option<Credential>,
    pass: Mutex<Option<Pass>>,
    /// Held by whoever asks for another one.
    renewing: Mutex<()>,
    /// Who one is there, once that was asked for.
    pub(super) login: OnceLock<Option<Credential>>,
    /// Whether it takes a small blob in the request that ends a session, as far as is known.
    pub(super) takes_whole: AtomicBool,
    pub(super) image: String,
    /// Whether it ever answered.
    spoke: AtomicBool,
}

impl<'a> Registry<'a> {
    pub fn new(
        client: &'a Client,
        keychain: &'a Keychain,
        mirrors: &MirrorMap,
        reference: &Reference,
    ) -> Result<Self, OciError> {
        let image = reference.to_string();
        let docker = |host: &&str| defaults::DOCKER_NAMES.contains(host);
        let named = reference.registry().filter(|host| !docker(host));
        let (host, public) = match named {
            None => (defaults::DOCKER_NAMES[0], defaults::DOCKER.to_owned()),
            Some(host) => {
                let is_own = is_loopback(host) && !client.has_certificates(host);
                let scheme = if is_own || client.is_plain(host) { "http" } else { "https" };
                (host, format!("{scheme}://{host}/"))
            }
        };
        let failed = || OciError::Address { image: image.clone(), registry: host.to_owned() };
        let public = Url::parse(&public).map_err(|_| failed())?;
        let mut url = mirrors.base(named.unwrap_or("docker"), &public);
        let is_mirror = url != public;
        let place = if is_mirror { authority(&url) } else { host.to_owned() };
        let names = names(host, &url, is_mirror);
        let official = named.is_none() && !reference.repository().contains('/');
        let library = if official { "library/" } else { "" };
        // a mirror's path is a part of its repositories' names
        let prefix = url.path().trim_matches('/').to_owned();
        let prefix = if prefix.is_empty() { prefix } else { format!("{prefix}/") };
        let repository = format!("{prefix}{library}{}", reference.repository());
        let credential = credential_of(&url);
        url.set_username("").and_then(|()| url.set_password(None)).map_err(|()| failed())?;
        url.set_path(&format!("/v2/{repository}/"));
        let host = host.to_owned();
        Ok(Registry {
            client,
            keychain,
            host,
            place,
            names,
            base: url,
            repository,
            access: Access::Read,
            credential,
            pass: Mutex::default(),
            renewing: Mutex::default(),
            login: OnceLock::new(),
            takes_whole: AtomicBool::new(true),
            image,
            spoke: AtomicBool::new(false),
        })
    }

    /// Likewise, to be written to: a mirror is only read from.
    pub fn writable(
        client: &'a Client,
        keychain: &'a Keychain,
        reference: &Reference,
    ) -> Result<Self, OciError> {
        let registry = Self::new(client, keychain, &MirrorMap::default(), reference)?;
        Ok(registry.with_access(Access::Write { mounts: Vec::new() }))
    }

    /// Likewise, to be used so.
    pub fn with_access(self, access: Access) -> Self {
        Registry { access, ..self }
    }

    /// Likewise, as messages call it: where no image of the repository is meant, no tag is.
    pub fn named(self, name: &impl ToString) -> Self {
        Registry { image: name.to_string(), ..self }
    }

    /// Likewise, over plain http: whoever says so answers for what goes over it.
    pub fn with_plain_http(mut self) -> Self {
        // every address that is made here can have either scheme
        self.base.set_scheme("http").unwrap_or_default();
        self
    }

    /// Likewise, where it is known already what it wants to see.
    pub(super) fn with_pass(self, pass: Option<Pass>) -> Self {
        Registry { pass: Mutex::new(pass), ..self }
    }

    /// As people call the registry.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// As the registry calls it.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// A manifest or an index, by tag or digest; its bytes are not judged yet.
    pub fn manifest(&self, version: &str) -> Result<Document, OciError> {
        let url = self.url("manifests", version);
        let accept = Some(accepted());
        self.ask(|authorization| {
            let headers =
                Headers { accept: accept.clone(), login: authorization.into(), form: None };
            let label = format!("manifest of `{}`", self.image);
            self.client.get_with(&label, std::slice::from_ref(&url), &headers, LARGEST_MANIFEST)
        })
    }

    /// A small blob, whose bytes are not judged yet.
    pub fn blob(&self, label: &str, digest: &Digest, limit: u64) -> Result<Vec<u8>, OciError> {
        let url = self.blob_url(digest);
        let document = self.ask(|authorization| {
            let headers = Headers { login: authorization.into(), ..Headers::default() };
            self.client.get_with(label, std::slice::from_ref(&url), &headers, limit)
        })?;
        Ok(document.bytes)
    }

    pub(super) fn blob_url(&self, digest: &Digest) -> Url {
        self.url("blobs", &digest.to_string())
    }

    pub(super) fn url(&self, kind: &str, version: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{kind}/{version}", self.base.path()));
        url
    }

    /// Makes a request with what is known of who one is, and again with what the registry demands.
    pub(super) fn ask<T>(
        &self,
        request: impl Fn(Option<String>) -> Result<T, FetchError>,
    ) -> Result<T, OciError> {
        self.ask_on(request, || 0)
    }

    /// Likewise for what may take longer than a token lives: each demand is answered that comes after more
    /// came in than before the last one.
    pub(super) fn ask_on<T>(
        &self,
        request: impl Fn(Option<String>) -> Result<T, FetchError>,
        came: impl Fn() -> u64,
    ) -> Result<T, OciError> {
        let mut had = None;
        loop {
            let shown = self.known();
            let answer = request(shown.clone());
            if !answer.as_ref().is_err_and(is_unanswered) {
                self.spoke.store(true, Ordering::Relaxed);
            }
            let error = match answer {
                Err(error) if error.demands() => error,
                result => return result.map_err(|error| self.judge(error)),
            };
            // what another thread was given meanwhile has not been refused
            if self.known() == shown {
                let has = came();
                if had.is_some_and(|had| has <= had) {
                    return Err(self.judge(error));
                }
                had = Some(has);
            }
            let challenge = match error {
                FetchError::Unauthorized { challenge, .. } => challenge,
                // some say only at their root what they want to see
                error => self.find_challenge().ok_or_else(|| self.judge(error))?,
            };
            self.renew(&challenge, shown.as_deref())?;
        }
    }

    /// What the registry's root demands.
    fn find_challenge(&self) -> Option<String> {
        let mut root = self.base.clone();
        root.set_path("/v2/");
        let label = format!("registry of `{}`", self.image);
        match self.client.get(&label, &[root], LARGEST_MANIFEST) {
            Err(FetchError::Unauthorized { challenge, .. }) => Some(challenge),
            _ => None,
        }
    }

    /// Answers a challenge to what was shown, for this request and those to come. One thread does so for
    /// all: whoever comes when it was done has the answer.
    pub(super) fn renew(&self, challenge: &str, shown: Option<&str>) -> Result<Pass, OciError> {
        let _alone = self.renewing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pass) = self.pass().filter(|pass| Some(&*pass.authorization) != shown) {
            return Ok(pass);
        }
        let pass = self.authorize(challenge)?;
        *self.pass.lock().unwrap_or_else(PoisonError::into_inner) = Some(pass.clone());
        Ok(pass)
    }

    pub(super) fn pass(&self) -> Option<Pass> {
        self.pass.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is shown of who one is.
    pub(super) fn known(&self) -> Option<String> {
        self.pass().map(|pass| pass.authorization)
    }

    pub(super) fn judge(&self, error: FetchError) -> OciError {
        self.judge_for(error, self.pass().is_some_and(|pass| pass.is_user))
    }

    /// Likewise, where who one is was shown in this very request or not.
    pub(super) fn judge_for(&self, error: FetchError, is_user: bool) -> OciError {
        let (image, registry) = (self.image.clone(), self.place.clone());
        match error {
            FetchError::Unauthorized { said, .. }
            | FetchError::Status { status: 401 | 403, said, .. } => self.denied(said, is_user),
            error if error.is_gone() => OciError::Missing { image, registry },
            error @ FetchError::Broken { .. } if !self.spoke.load(Ordering::Relaxed) => {
                OciError::Mute(error)
            }
            error => error.into(),
        }
    }

    pub(super) fn denied(&self, said: Said, is_user: bool) -> OciError {
        let (image, registry) = (self.image.clone(), self.place.clone());
        let who = if is_user { Who::User } else { Who::Strangers };
        let deed = match self.access {
            Access::Read => Deed::Read,
            Access::Write { .. } => Deed::Write,
        };
        OciError::Denied { image, registry, who, deed, said }
    }
}

/// Whether it was no answer of the registry's.
fn is_unanswered(error: &FetchError) -> bool {
    !matches!(error, FetchError::Unauthorized { .. } | FetchError::Status { .. })
}

fn is_loopback(host: &str) -> bool {
    Url::parse(&format!("http://{host}/")).is_ok_and(|url| fetch::is_loopback(&url))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_loopback() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:1", "[::1]:5000"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["registry.example.org", "10.0.0.1:5000", "localhost.example.org", "[::2]"] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn short_names_and_mirrors_lead_to_repositories() {
        let client = Client::new(crate::fetch::ClientConfig::default());
        let keychain = Keychain::default();
        let base = |reference: &str, mirror: Option<(&str, &str)>| {
            let mirror = mirror.map(|(name, url)| (format!("SBX_MIRROR_{name}"), url.to_owned()));
            let mirrors = MirrorMap::from_variables(mirror.into_iter()).unwrap();
            let reference = reference.parse().unwrap();
            let registry = Registry::new(&client, &keychain, &mirrors, &reference).unwrap();
            registry.base.to_string()
        };
        let docker = defaults::DOCKER;
        assert_eq!(base("debian", None), format!("{docker}v2/library/debian/"));
        assert_eq!(base("team/app:1", None), format!("{docker}v2/team/app/"));
        let full = format!("{}/debian", defaults::DOCKER_NAMES[0]);
        assert_eq!(base(&full, None), format!("{docker}v2/library/debian/"));
        let mirror = Some(("DOCKER", "https://u:p@m.example.org/hub/"));
        assert_eq!(base("debian", mirror), "https://m.example.org/v2/hub/library/debian/");
        let mirror = Some(("R_EXAMPLE_ORG", "http://m.example.org"));
        assert_eq!(base("r.example.org/a", mirror), "http://m.example.org/v2/a/");
        assert_eq!(base("localhost:5000/a", None), "http://localhost:5000/v2/a/");
    }
}
