//! A repository at a registry (OCI distribution-spec 1.1, pull).
//!
//! Nothing is asked ahead: the first request goes without a token, and what the registry then demands
//! is answered once for all further ones. A token goes to the registry it was made for and to no host
//! that it redirects to. Plain http is spoken with loopback, and where a mirror is named so.

use std::sync::{Mutex, PoisonError};

use serde::Deserialize;
use url::Url;

use super::credentials::{Credential, Keychain};
use super::document::accepted;
use super::error::OciError;
use crate::digest::Digest;
use crate::fetch::{Client, Document, FetchError, Headers, MirrorMap, defaults};
use crate::reference::Reference;

/// Largest manifest or index that is read; registries take no larger ones.
const LARGEST_MANIFEST: u64 = 4 << 20;
/// Largest answer of whoever gives tokens.
const LARGEST_TOKEN: u64 = 1 << 20;

/// A repository, and who one is there.
pub(super) struct Registry<'a> {
    client: &'a Client,
    keychain: &'a Keychain,
    /// As people call it.
    host: String,
    /// `https://HOST/v2/REPOSITORY/`.
    base: Url,
    repository: String,
    /// Out of a mirror's address.
    credential: Option<Credential>,
    authorization: Mutex<Option<String>>,
    image: String,
}

impl<'a> Registry<'a> {
    pub(super) fn new(
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
            Some(host) if is_loopback(host) => (host, format!("http://{host}/")),
            Some(host) => (host, format!("https://{host}/")),
        };
        let failed = || OciError::Address { image: image.clone(), registry: host.to_owned() };
        let public = Url::parse(&public).map_err(|_| failed())?;
        let mut url = mirrors.base(named.unwrap_or("docker"), &public);
        let official = named.is_none() && !reference.repository().contains('/');
        let library = if official { "library/" } else { "" };
        // a mirror's path is a part of its repositories' names
        let prefix = url.path().trim_matches('/').to_owned();
        let prefix = if prefix.is_empty() { prefix } else { format!("{prefix}/") };
        let repository = format!("{prefix}{library}{}", reference.repository());
        let credential = credential_of(&url);
        url.set_username("").and_then(|()| url.set_password(None)).map_err(|()| failed())?;
        url.set_path(&format!("/v2/{repository}/"));
        let authorization = Mutex::default();
        let host = host.to_owned();
        Ok(Registry {
            client,
            keychain,
            host,
            base: url,
            repository,
            credential,
            authorization,
            image,
        })
    }

    /// A manifest or an index, by tag or digest; its bytes are not judged yet.
    pub(super) fn manifest(&self, version: &str) -> Result<Document, OciError> {
        let url = self.url("manifests", version);
        let accept = Some(accepted());
        self.ask(|authorization| {
            let headers = Headers { accept: accept.clone(), authorization, form: None };
            let label = format!("manifest of `{}`", self.image);
            self.client.get_with(&label, std::slice::from_ref(&url), &headers, LARGEST_MANIFEST)
        })
    }

    /// A small blob, whose bytes are not judged yet.
    pub(super) fn blob(
        &self,
        label: &str,
        digest: &Digest,
        limit: u64,
    ) -> Result<Vec<u8>, OciError> {
        let url = self.blob_url(digest);
        let document = self.ask(|authorization| {
            let headers = Headers { authorization, ..Headers::default() };
            self.client.get_with(label, std::slice::from_ref(&url), &headers, limit)
        })?;
        Ok(document.bytes)
    }

    pub(super) fn blob_url(&self, digest: &Digest) -> Url {
        self.url("blobs", &digest.to_string())
    }

    fn url(&self, kind: &str, version: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{kind}/{version}", self.base.path()));
        url
    }

    /// Makes a request with what is known of who one is, and again with what the registry demands.
    pub(super) fn ask<T>(
        &self,
        request: impl Fn(Option<String>) -> Result<T, FetchError>,
    ) -> Result<T, OciError> {
        let known = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let challenge = match request(known) {
            Err(FetchError::Unauthorized { challenge, .. }) => challenge,
            result => return result.map_err(|error| self.judge(error)),
        };
        let authorization = self.authorize(&challenge)?;
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(authorization.clone());
        request(Some(authorization)).map_err(|error| self.judge(error))
    }

    fn judge(&self, error: FetchError) -> OciError {
        let (image, registry) = (self.image.clone(), self.host.clone());
        match error {
            FetchError::Unauthorized { .. } | FetchError::Status { status: 401 | 403, .. } => {
                self.denied()
            }
            error if error.is_gone() => OciError::Missing { image, registry },
            error => error.into(),
        }
    }

    fn denied(&self) -> OciError {
        let known = self.find_credential().is_ok_and(|found| found.is_some());
        let who = if known { "this user" } else { "strangers" };
        OciError::Denied { image: self.image.clone(), registry: self.host.clone(), who }
    }

    fn find_credential(&self) -> Result<Option<Credential>, OciError> {
        if self.credential.is_some() {
            return Ok(self.credential.clone());
        }
        let docker = [defaults::DOCKER_LOGIN, defaults::DOCKER_NAMES[1], defaults::DOCKER_NAMES[0]];
        // who is reached through a mirror is known by the mirror's name
        let port = self.base.port().map(|port| format!(":{port}")).unwrap_or_default();
        let reached = format!("{}{port}", self.base.host_str().unwrap_or_default());
        let names: Vec<&str> = match self.host == defaults::DOCKER_NAMES[0] {
            true if defaults::DOCKER.contains(&reached) => docker.to_vec(),
            _ => vec![&reached],
        };
        Ok(self.keychain.find(&names)?)
    }

    /// The value of an `Authorization` header that a challenge asks for.
    fn authorize(&self, challenge: &str) -> Result<String, OciError> {
        let odd = || OciError::Challenge {
            image: self.image.clone(),
            registry: self.host.clone(),
            challenge: challenge.chars().take(80).collect(),
        };
        let (scheme, parameters) = challenge.split_once(' ').unwrap_or((challenge, ""));
        let credential = self.find_credential()?;
        if scheme.eq_ignore_ascii_case("basic") {
            let basic = credential.and_then(|credential| credential.basic());
            return basic.ok_or_else(|| self.denied());
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(odd());
        }
        let find = |name: &str| find_parameter(parameters, name);
        let realm = find("realm").and_then(|realm| Url::parse(&realm).ok()).ok_or_else(odd)?;
        // a password goes over plain http only where the registry itself is reached so
        let secure = realm.scheme() == "https" || realm.scheme() == self.base.scheme();
        if !secure {
            return Err(odd());
        }
        let own = format!("repository:{}:pull", self.repository);
        let scope = find("scope").unwrap_or(own);
        let service = find("service").unwrap_or_default();
        let token = self.token(realm, &service, &scope, credential.as_ref())?;
        Ok(format!("Bearer {}", token.ok_or_else(odd)?))
    }

    fn token(
        &self,
        mut realm: Url,
        service: &str,
        scope: &str,
        credential: Option<&Credential>,
    ) -> Result<Option<String>, OciError> {
        let mut headers = Headers::default();
        match credential {
            Some(Credential::Identity { token }) => {
                let fields = [
                    ("grant_type", "refresh_token"),
                    ("service", service),
                    ("client_id", "sbx"),
                    ("scope", scope),
                    ("refresh_token", token),
                ];
                let mut form = url::form_urlencoded::Serializer::new(String::new());
                headers.form = Some(form.extend_pairs(fields).finish());
            }
            known => {
                let fields = [("service", service), ("scope", scope)];
                let given = fields.into_iter().filter(|(_, value)| !value.is_empty());
                realm.query_pairs_mut().extend_pairs(given);
                headers.authorization = known.and_then(Credential::basic);
            }
        }
        let label = format!("token for `{}`", self.image);
        let answer =
            self.client.get_with(&label, &[realm], &headers, LARGEST_TOKEN).map_err(|error| {
                match error {
                    error if error.is_gone() => error.into(),
                    error => self.judge(error),
                }
            })?;
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let answer: Option<Answer> = serde_json::from_slice(&answer.bytes).ok();
        let token = answer.and_then(|answer| answer.token.or(answer.access_token));
        let plain =
            |token: &String| !token.is_empty() && token.bytes().all(|c| c.is_ascii_graphic());
        Ok(token.filter(plain))
    }
}

fn is_loopback(host: &str) -> bool {
    let Ok(url) = Url::parse(&format!("http://{host}/")) else { return false };
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn credential_of(url: &Url) -> Option<Credential> {
    let decoded = |text: &str| {
        let pair = format!("x={}", text.replace('+', "%2B"));
        url::form_urlencoded::parse(pair.as_bytes()).next().map(|(_, value)| value.into_owned())
    };
    let user = decoded(url.username()).filter(|user| !user.is_empty())?;
    let password = decoded(url.password().unwrap_or_default())?;
    Some(Credential::Password { user, password })
}

/// A parameter of a challenge: `realm="…",service="…"` (RFC 9110, 11.2).
fn find_parameter(parameters: &str, name: &str) -> Option<String> {
    let mut rest = parameters;
    loop {
        let (key, after) = rest.split_once('=')?;
        let key = key.trim_start_matches([',', ' ']).trim();
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        if key.eq_ignore_ascii_case(name) {
            return Some(value.trim().to_owned());
        }
        rest = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_a_challenge_may_hold_commas_and_come_in_any_order() {
        let text =
            r#"realm="https://auth.example.org/token",service=a, scope="repository:a:pull,push""#;
        let find = |name: &str| find_parameter(text, name);
        assert_eq!(find("realm").as_deref(), Some("https://auth.example.org/token"));
        assert_eq!(find("service").as_deref(), Some("a"));
        assert_eq!(find("Scope").as_deref(), Some("repository:a:pull,push"));
        assert_eq!(find("error"), None);
    }

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
