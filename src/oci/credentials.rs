//! Who one is at registries: as Docker's and containers' configuration files say, and as the
//! credential helpers say that those name.
//!
//! A helper is somebody else's program: it gets a name and half a minute, and neither what it answers
//! nor what it complains of is ever shown. `docker_credential` was looked at and waits for helpers
//! without an end.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;

use crate::blame::Blame;

/// How long a helper may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest answer of a helper that is read.
const LONGEST: u64 = 1 << 20;
/// The name under which helpers keep a token in a password's place.
const TOKEN: &str = "<token>";

/// Why credentials cannot be had. Never says one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CredentialError {
    #[error("{path} is no configuration of registries: {reason}")]
    File { path: String, reason: String },
    #[error("the credential helper `{program}` {reason}")]
    Helper { program: String, reason: String },
}

impl CredentialError {
    pub fn blame(&self) -> Blame {
        match self {
            CredentialError::File { .. } => Blame::Input,
            CredentialError::Helper { .. } => Blame::World,
        }
    }
}

/// What a registry, or who gives tokens for it, wants to see.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    Password {
        user: String,
        password: String,
    },
    /// What tokens are given for.
    Identity {
        token: String,
    },
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(…)")
    }
}

impl Credential {
    fn new(user: &str, secret: &str) -> Self {
        match user {
            TOKEN => Credential::Identity { token: secret.to_owned() },
            user => Credential::Password { user: user.to_owned(), password: secret.to_owned() },
        }
    }

    /// The value of an `Authorization` header, for a password.
    pub fn basic(&self) -> Option<String> {
        match self {
            Credential::Password { user, password } => {
                Some(format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))))
            }
            Credential::Identity { .. } => None,
        }
    }
}

/// One file.
#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ConfigFile {
    auths: BTreeMap<String, Auth>,
    creds_store: Option<String>,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

/// All files, those that go before others first.
#[derive(Clone, Default)]
pub struct Keychain {
    files: Vec<ConfigFile>,
}

impl fmt::Debug for Keychain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keychain").field("files", &self.files.len()).finish()
    }
}

impl Keychain {
    /// Parses files: their paths, for messages, and their texts.
    pub fn parse(files: &[(String, String)]) -> Result<Self, CredentialError> {
        let parse = |(path, text): &(String, String)| {
            serde_json::from_str::<ConfigFile>(text).map_err(|error| CredentialError::File {
                path: path.clone(),
                // the error's own words may show what stands there
                reason: format!("line {}, column {}", error.line(), error.column()),
            })
        };
        Ok(Keychain { files: files.iter().map(parse).collect::<Result<_, _>>()? })
    }

    /// What is known for a registry, which has one or several names.
    pub fn find(&self, names: &[&str]) -> Result<Option<Credential>, CredentialError> {
        for file in &self.files {
            for name in names {
                if let Some(found) = file.find(name)? {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }
}

/// A key of a file as a host: people wrote whole addresses once.
fn host(key: &str) -> &str {
    let key = key.strip_prefix("https://").or(key.strip_prefix("http://")).unwrap_or(key);
    key.split('/').next().unwrap_or_default()
}

impl ConfigFile {
    fn find(&self, name: &str) -> Result<Option<Credential>, CredentialError> {
        let fits = |key: &str| key == name || host(key) == name;
        let helper = self.cred_helpers.iter().find(|(key, _)| fits(key)).map(|(_, helper)| helper);
        if let Some(helper) = helper.or(self.creds_store.as_ref()).filter(|one| !one.is_empty())
            && let Some(found) = ask(helper, name, PATIENCE)?
        {
            return Ok(Some(found));
        }
        let exact = self.auths.get(name);
        let auth =
            exact.or_else(|| self.auths.iter().find(|(key, _)| fits(key)).map(|(_, auth)| auth));
        Ok(auth.and_then(Auth::credential))
    }
}

impl Auth {
    fn credential(&self) -> Option<Credential> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = given(&self.identitytoken) {
            return Some(Credential::Identity { token });
        }
        if let (Some(user), Some(password)) = (given(&self.username), given(&self.password)) {
            return Some(Credential::new(&user, &password));
        }
        let decoded = BASE64_STANDARD.decode(given(&self.auth)?).ok()?;
        let text = String::from_utf8(decoded).ok()?;
        let (user, password) = text.trim_end_matches('\0').split_once(':')?;
        Some(Credential::new(user, password))
    }
}

/// Asks a credential helper; `None` where it knows nothing.
fn ask(
    helper: &str,
    name: &str,
    patience: Duration,
) -> Result<Option<Credential>, CredentialError> {
    let program = format!("docker-credential-{helper}");
    let failed = |reason: String| CredentialError::Helper { program: program.clone(), reason };
    if helper.contains('/') {
        return Err(failed("is no name of a program".to_owned()));
    }
    let mut command = Command::new(&program);
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child =
        command.spawn().map_err(|error| failed(format!("cannot be started: {error}")))?;
    if let Some(mut input) = child.stdin.take() {
        // one that does not listen is judged by its end
        input.write_all(name.as_bytes()).unwrap_or_default();
    }
    let output = child.stdout.take().map(|output| {
        std::thread::spawn(move || {
            let mut text = String::new();
            output.take(LONGEST).read_to_string(&mut text).map(|_| text).unwrap_or_default()
        })
    });
    let Some(status) = wait(&mut child, patience) else {
        return Err(failed(format!("gave no answer within {} s", patience.as_secs())));
    };
    let text = output.and_then(|thread| thread.join().ok()).unwrap_or_default();
    if !status.success() {
        let unknown = text.contains("credentials not found");
        return if unknown { Ok(None) } else { Err(failed(format!("ended with {status}"))) };
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: String,
    }
    let answer: Answer = serde_json::from_str(&text)
        .map_err(|_| failed("gave an answer that cannot be read".to_owned()))?;
    Ok(Some(Credential::new(&answer.username, &answer.secret)))
}

/// Waits for a program's end, and ends it where that takes too long.
fn wait(child: &mut Child, patience: Duration) -> Option<std::process::ExitStatus> {
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if start.elapsed() < patience => std::thread::sleep(Duration::from_millis(5)),
            Ok(None) | Err(_) => {
                // it may have ended by itself in the meantime
                child.kill().unwrap_or_default();
                child.wait().map(drop).unwrap_or_default();
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keychain(text: &str) -> Keychain {
        Keychain::parse(&[("config.json".to_owned(), text.to_owned())]).unwrap()
    }

    fn password(user: &str, password: &str) -> Option<Credential> {
        Some(Credential::Password { user: user.to_owned(), password: password.to_owned() })
    }

    #[test]
    fn credentials_are_found_by_host_however_it_is_written() {
        let all = keychain(
            r#"{"auths":{"https://a.example.org/v2/":{"auth":"dTpwOnE="},"b:5000":{"username":"v","password":"w"},
                "c":{"identitytoken":"t"},"d":{}}}"#,
        );
        assert_eq!(all.find(&["a.example.org"]).unwrap(), password("u", "p:q"));
        assert_eq!(all.find(&["x", "b:5000"]).unwrap(), password("v", "w"));
        assert_eq!(all.find(&["c"]).unwrap(), Some(Credential::Identity { token: "t".into() }));
        assert_eq!(all.find(&["d"]).unwrap(), None);
        assert_eq!(all.find(&["b"]).unwrap(), None);
    }

    #[test]
    fn a_damaged_file_is_named_and_not_shown() {
        let files =
            [("/home/me/config.json".to_owned(), "{\"auths\":{\"a\":\"secret\"}}".to_owned())];
        let error = Keychain::parse(&files).unwrap_err().to_string();
        assert!(error.starts_with("/home/me/config.json is no configuration"), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }

    #[test]
    fn helpers_that_are_not_there_are_named() {
        let all = keychain(r#"{"credsStore":"of-no-such-name"}"#);
        let error = all.find(&["a"]).unwrap_err().to_string();
        assert!(
            error.starts_with("the credential helper `docker-credential-of-no-such-name` cannot")
        );
    }
}
