//! Who one is at a registry, and the tokens that it wants to see (distribution-spec, token
//! authentication).
//!
//! A registry says in its refusal who gives tokens and what for. Whoever only reads asks for just that.
//! Whoever writes asks for its own repository to be read and written, and for those to be read that blobs
//! are to be mounted from: a token that lacks them would cost a round for every blob. Where such a token
//! is refused, one for the own repository alone is asked for, and blobs are uploaded.

use serde::Deserialize;
use url::Url;

use super::credentials::Credential;
use super::error::OciError;
use super::registry::{Access, Pass, Registry};
use crate::fetch::{Headers, Said, authority, defaults};

/// Largest answer of whoever gives tokens.
const LARGEST_TOKEN: u64 = 1 << 20;

impl Registry<'_> {
    /// Who one is there. A helper is asked once.
    pub(super) fn find_credential(&self) -> Result<Option<Credential>, OciError> {
        if self.credential.is_some() {
            return Ok(self.credential.clone());
        }
        if let Some(known) = self.login.get() {
            return Ok(known.clone());
        }
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        let found = self.keychain.find(&names, &self.repository)?;
        Ok(self.login.get_or_init(|| found).clone())
    }

    /// What a challenge of the registry's own asks for.
    pub(super) fn authorize(&self, challenge: &str) -> Result<Pass, OciError> {
        let odd = || OciError::Challenge {
            image: self.image.clone(),
            registry: self.place.clone(),
            challenge: challenge.chars().take(80).collect(),
        };
        let (scheme, parameters) = challenge.split_once(' ').unwrap_or((challenge, ""));
        let credential = self.find_credential()?;
        let is_user = credential.is_some();
        if scheme.eq_ignore_ascii_case("basic") {
            let basic = credential.and_then(|credential| credential.basic());
            let authorization = basic.ok_or_else(|| self.denied(Said::default(), is_user))?;
            return Ok(Pass { authorization, is_user });
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
        let service = find("service").unwrap_or_default();
        let asked = find("scope");
        let ask =
            |scopes: &[String]| self.token(realm.clone(), &service, scopes, credential.as_ref());
        let scopes = self.scopes(asked);
        let is_refusal = |error: &OciError| match error {
            OciError::Denied { .. } => true,
            OciError::Fetch(error) => error.is_refusal(),
            _ => false,
        };
        let token = match ask(&scopes) {
            Err(error) if scopes.len() > 1 && is_refusal(&error) => ask(&scopes[..1])?,
            given => given?,
        };
        let authorization = format!("Bearer {}", token.ok_or_else(odd)?);
        Ok(Pass { authorization, is_user })
    }

    /// What a token is asked for, the own repository first.
    fn scopes(&self, asked: Option<String>) -> Vec<String> {
        let of = |repository: &str, actions: &str| format!("repository:{repository}:{actions}");
        match &self.access {
            Access::Read => vec![asked.unwrap_or_else(|| of(&self.repository, "pull"))],
            Access::Write { mounts } => {
                let own = of(&self.repository, "pull,push");
                [own].into_iter().chain(mounts.iter().map(|from| of(from, "pull"))).collect()
            }
        }
    }

    fn token(
        &self,
        mut realm: Url,
        service: &str,
        scopes: &[String],
        credential: Option<&Credential>,
    ) -> Result<Option<String>, OciError> {
        let mut headers = Headers::default();
        match credential {
            Some(Credential::Identity { token }) => {
                let scope = scopes.join(" ");
                let fields = [
                    ("grant_type", "refresh_token"),
                    ("service", service),
                    ("client_id", "sbx"),
                    ("scope", &*scope),
                    ("refresh_token", token),
                ];
                let mut form = url::form_urlencoded::Serializer::new(String::new());
                headers.form = Some(form.extend_pairs(fields).finish());
            }
            known => {
                let fields = scopes.iter().map(|scope| ("scope", scope.as_str()));
                let fields = [("service", service)].into_iter().chain(fields);
                let given = fields.filter(|(_, value)| !value.is_empty());
                realm.query_pairs_mut().extend_pairs(given);
                headers.login = known.and_then(Credential::basic).into();
            }
        }
        let label = format!("token for `{}`", self.image);
        let answer =
            self.client.get_with(&label, &[realm], &headers, LARGEST_TOKEN).map_err(|error| {
                match error {
                    error if error.is_gone() => error.into(),
                    error => self.judge_for(error, credential.is_some()),
                }
            })?;
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let answer: Option<Answer> = serde_json::from_slice(&answer.bytes).ok();
        let given = answer.map(|answer| [answer.token, answer.access_token]);
        let plain =
            |token: &String| !token.is_empty() && token.bytes().all(|c| c.is_ascii_graphic());
        Ok(given.into_iter().flatten().flatten().find(plain))
    }
}

/// What a registry is called where people log in, by its name and its address: by its name as it is written,
/// or, where it is reached through a mirror, by that one's. Docker's own has names of its own.
pub(super) fn names(host: &str, url: &Url, is_mirror: bool) -> Vec<String> {
    let reached = url.host_str().unwrap_or_default();
    let docker = Url::parse(defaults::DOCKER).ok();
    let is_docker = defaults::DOCKER_NAMES.contains(&reached)
        || docker.is_some_and(|docker| docker.host_str() == Some(reached));
    if host == defaults::DOCKER_NAMES[0] && is_docker {
        let names = [defaults::DOCKER_LOGIN, defaults::DOCKER_NAMES[1], defaults::DOCKER_NAMES[0]];
        return names.map(str::to_owned).to_vec();
    }
    let mut names = match (is_mirror, url.port_or_known_default()) {
        (true, Some(port)) => vec![authority(url), format!("{reached}:{port}")],
        _ => vec![host.to_owned(), host.to_ascii_lowercase()],
    };
    names.dedup();
    names
}

pub(super) fn credential_of(url: &Url) -> Option<Credential> {
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
    use crate::fetch::{Client, ClientConfig, FetchError, MirrorMap};
    use crate::oci::Keychain;

    #[test]
    fn a_password_goes_over_plain_http_only_where_the_registry_is_reached_so() {
        let client = Client::new(ClientConfig { offline: true, ..ClientConfig::default() });
        let login = r#"{"auths":{"r.example.org":{"auth":"dTpw"}}}"#.to_owned();
        let keychain = Keychain::parse(&[("config.json".to_owned(), login)]);
        let reference = "r.example.org/a".parse().unwrap();
        let asked = |is_plain: bool, realm: &str| {
            let mirrors = MirrorMap::default();
            let registry = Registry::new(&client, &keychain, &mirrors, &reference).unwrap();
            let registry = if is_plain { registry.with_plain_http() } else { registry };
            let error = registry.authorize(&format!("Bearer realm=\"{realm}\"")).err().unwrap();
            match error {
                OciError::Challenge { .. } => false,
                // without a network, this is as far as it gets
                OciError::Fetch(FetchError::Offline { .. }) => true,
                error => panic!("{error}"),
            }
        };
        // whoever gives tokens may well be another host
        assert!(asked(false, "https://auth.example.net/token"));
        assert!(!asked(false, "http://auth.example.net/token"));
        assert!(!asked(false, "http://r.example.org/token"));
        assert!(asked(true, "http://auth.example.net/token"));
        assert!(!asked(true, "ftp://r.example.org/token"));
    }

    #[test]
    fn a_login_is_for_what_answers_by_its_own_name() {
        let client = Client::new(ClientConfig { offline: true, ..ClientConfig::default() });
        let entry = |name: &str| format!(r#""{name}":{{"username":"{name}","password":"p"}}"#);
        let names = [defaults::DOCKER_LOGIN, "h.example.org:443", "h.example.org:80", "m:80"];
        let full = format!("{}/library/debian", defaults::DOCKER_NAMES[0]);
        let like = format!("https://{}.example.org/", defaults::DOCKER_NAMES[0]);
        let auths = names.map(entry).join(",");
        let text = format!(r#"{{"auths":{{{auths}}}}}"#);
        let keychain = Keychain::parse(&[("config.json".to_owned(), text)]);
        let known = |reference: &str, mirror: &str| {
            let mirror = [("SBX_MIRROR_DOCKER".to_owned(), mirror.to_owned())];
            let mirrors = MirrorMap::from_variables(mirror.into_iter()).unwrap();
            let reference = reference.parse().unwrap();
            let registry = Registry::new(&client, &keychain, &mirrors, &reference).unwrap();
            match registry.find_credential().unwrap() {
                Some(Credential::Password { user, .. }) => user,
                other => format!("{other:?}"),
            }
        };
        for (reference, mirror, user) in [
            ("debian", "", names[0]),
            (&*full, "", names[0]),
            ("debian", defaults::DOCKER, names[0]),
            // a part of a name is another name
            ("debian", "http://registry/", "None"),
            ("debian", &*like, "None"),
            ("debian", "https://i/", "None"),
            ("debian", "http://m/", "m:80"),
            ("debian", "http://m:80/", "m:80"),
            ("debian", "https://m/", "None"),
            ("h.example.org:443/a", "", "h.example.org:443"),
            ("h.example.org:80/a", "", "h.example.org:80"),
            ("h.example.org/a", "", "None"),
        ] {
            assert_eq!(known(reference, mirror), user, "{reference} {mirror}");
        }
    }

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
}
