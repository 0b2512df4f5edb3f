//! Where docker's engine is: what `docker` itself would speak to, in its own order.
//!
//! `DOCKER_HOST`; the context that `DOCKER_CONTEXT` names, then the one that `docker context use` chose; the
//! machine's socket, and a user's own (rootless) where that one is not there. A context is a directory that
//! is called by the digest of its name (docker's cli, `cli/context/store`). What is chosen and cannot be
//! spoken to is said by name: nothing else takes its place.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::blame::Blame;
use crate::digest::Digest;
use crate::fsx::{IoAt, PathIo};

/// Where an engine listens that nobody moved.
const SOCKET: &str = "/var/run/docker.sock";

/// What this machine says of engines.
#[derive(Clone, Debug, Default)]
pub struct EngineSettings {
    /// `DOCKER_HOST`.
    pub host: Option<String>,
    /// `DOCKER_CONTEXT`.
    pub context: Option<String>,
    /// `DOCKER_CONFIG`, or `.docker` at home.
    pub config: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`.
    pub runtime: Option<PathBuf>,
    /// `DOCKER_CERT_PATH`.
    pub certificates: Option<PathBuf>,
    pub tls: TlsChoice,
}

/// Whether TLS is spoken at `DOCKER_HOST`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsChoice {
    #[default]
    None,
    /// `DOCKER_TLS_VERIFY`.
    Verified,
    /// `DOCKER_TLS` alone.
    Unverified,
}

/// An engine, and who named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineAddress {
    pub place: EnginePlace,
    pub named_by: NamedBy,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnginePlace {
    Socket(PathBuf),
    Net { host: String, port: u16, tls: Option<Tls> },
}

/// Whom to trust there and who one is; where nothing is said, the machine's authorities hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    pub authority: Option<PathBuf>,
    /// Certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedBy {
    Host,
    Context(String),
    /// It is where engines are.
    Nobody,
}

/// Why an engine cannot be spoken to that somebody chose.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("{by} names docker's engine at `{address}`, which is not spoken to")]
    Address { by: NamedBy, address: String },
    #[error("{by} asks for TLS without certificates being verified, which is not done")]
    Unverified { by: NamedBy },
    #[error("{by} is not among those of `{}`", dir.display())]
    NoContext { by: NamedBy, dir: PathBuf },
    #[error("`{}`: {source}", path.display())]
    Document { path: PathBuf, source: serde_json::Error },
    #[error(transparent)]
    Io(#[from] PathIo),
}

impl EngineError {
    pub fn blame(&self) -> Blame {
        Blame::Input
    }

    /// The next step.
    pub fn help(&self) -> Option<String> {
        match self {
            EngineError::Address { .. } => Some(
                "`unix://PATH` and `tcp://HOST:PORT` are; `ssh -L` brings another machine's socket here"
                    .to_owned(),
            ),
            EngineError::Unverified { .. } => {
                Some("name its authority: `DOCKER_TLS_VERIFY=1` and `DOCKER_CERT_PATH`".to_owned())
            }
            EngineError::NoContext { .. } => {
                Some("`docker context ls` shows them; `DOCKER_CONTEXT=default` is the machine's".to_owned())
            }
            EngineError::Document { .. } | EngineError::Io(_) => None,
        }
    }
}

/// `config.json`, as far as it is about engines.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfigFile {
    current_context: Option<String>,
}

/// A context's `meta.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Meta {
    #[serde(default)]
    endpoints: Endpoints,
}

#[derive(Default, Deserialize)]
struct Endpoints {
    docker: Option<Endpoint>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Endpoint {
    #[serde(default)]
    host: String,
    #[serde(default, rename = "SkipTLSVerify")]
    skip_tls_verify: bool,
}

impl EngineSettings {
    /// The engine that is meant.
    pub fn find(&self) -> Result<EngineAddress, EngineError> {
        if let Some(host) = &self.host {
            let dir = self.certificates.as_deref().or(self.config.as_deref());
            let tls = match self.tls {
                TlsChoice::None => None,
                _ => Some(dir.map(Tls::of_dir).unwrap_or_default()),
            };
            let address = EngineAddress::parse(host, tls, NamedBy::Host)?;
            let is_net = matches!(address.place, EnginePlace::Net { .. });
            return match self.tls {
                TlsChoice::Unverified if is_net => {
                    Err(EngineError::Unverified { by: NamedBy::Host })
                }
                _ => Ok(address),
            };
        }
        let chosen = match (&self.context, &self.config) {
            (Some(name), _) => Some(name.clone()),
            (None, Some(dir)) => read(&dir.join("config.json"), parse_config::<ConfigFile>)?
                .and_then(|file| file.current_context.filter(|name| !name.is_empty())),
            (None, None) => None,
        };
        match chosen.filter(|name| name != "default") {
            Some(name) => self.context(name),
            None => Ok(EngineAddress { place: self.usual(), named_by: NamedBy::Nobody }),
        }
    }

    /// The machine's socket, or a user's own.
    fn usual(&self) -> EnginePlace {
        let socket = PathBuf::from(SOCKET);
        let own = self.runtime.as_ref().map(|dir| dir.join("docker.sock"));
        EnginePlace::Socket(own.filter(|own| !socket.exists() && own.exists()).unwrap_or(socket))
    }

    fn context(&self, name: String) -> Result<EngineAddress, EngineError> {
        let contexts = self.config.clone().unwrap_or_default().join("contexts");
        let id = Digest::of(name.as_bytes()).hex();
        let by = NamedBy::Context(name);
        let path = contexts.join("meta").join(&id).join("meta.json");
        let meta = read(&path, |bytes| serde_json::from_slice::<Meta>(bytes))?;
        let endpoint = meta.and_then(|meta| meta.endpoints.docker);
        let Some(endpoint) = endpoint.filter(|one| !one.host.is_empty()) else {
            return Err(EngineError::NoContext { by, dir: contexts });
        };
        let tls = Tls::of_dir(&contexts.join("tls").join(id).join("docker"));
        let tls = Some(tls).filter(|tls| *tls != Tls::default());
        let address = EngineAddress::parse(&endpoint.host, tls, by)?;
        match &address.place {
            EnginePlace::Net { .. } if endpoint.skip_tls_verify => {
                Err(EngineError::Unverified { by: address.named_by })
            }
            _ => Ok(address),
        }
    }
}

impl Tls {
    /// What lies there by docker's names.
    fn of_dir(dir: &Path) -> Self {
        let file = |name: &str| Some(dir.join(name)).filter(|path| path.is_file());
        Tls { authority: file("ca.pem"), identity: file("cert.pem").zip(file("key.pem")) }
    }
}

impl EngineAddress {
    /// As `DOCKER_HOST` has it.
    pub fn of_host(host: &str) -> Result<Self, EngineError> {
        Self::parse(host, None, NamedBy::Host)
    }

    fn parse(text: &str, tls: Option<Tls>, named_by: NamedBy) -> Result<Self, EngineError> {
        let place = match text.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Some(EnginePlace::Socket(path.into())),
            Some(("tcp" | "http", rest)) => net(rest, tls),
            _ => None,
        };
        match place {
            Some(place) => Ok(EngineAddress { place, named_by }),
            None => Err(EngineError::Address { by: named_by, address: text.to_owned() }),
        }
    }

    /// Whether it is another machine's by its name. One that is this machine's may still run apart.
    pub fn is_elsewhere(&self) -> bool {
        let EnginePlace::Net { host, .. } = &self.place else { return false };
        let bare = host.trim_matches(['[', ']']);
        let is_loopback = bare.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
        bare != "localhost" && !is_loopback
    }
}

/// `HOST[:PORT]`, with docker's own port where none is said.
fn net(text: &str, tls: Option<Tls>) -> Option<EnginePlace> {
    let place = text.trim_end_matches('/');
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
        _ => (place, if tls.is_some() { 2376 } else { 2375 }),
    };
    let host = if host.is_empty() { "localhost" } else { host };
    let is_sound = !host.contains(['/', '@', '?', '#']);
    is_sound.then(|| EnginePlace::Net { host: host.to_owned(), port, tls })
}

/// Docker's `config.json`, as its own decoder takes it: the first value of the text, whatever follows. `null`
/// and nothing at all say nothing.
pub fn parse_config<T: DeserializeOwned + Default>(text: &[u8]) -> serde_json::Result<T> {
    let first = serde_json::Deserializer::from_slice(text).into_iter::<Option<T>>().next();
    Ok(first.transpose()?.flatten().unwrap_or_default())
}

/// A document, where it is there.
fn read<T>(
    path: &Path,
    parse: impl Fn(&[u8]) -> serde_json::Result<T>,
) -> Result<Option<T>, EngineError> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes.at("read", path)?,
    };
    parse(&bytes)
        .map(Some)
        .map_err(|source| EngineError::Document { path: path.to_owned(), source })
}

impl fmt::Display for EngineAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            EnginePlace::Socket(path) => write!(f, "unix://{}", path.display()),
            EnginePlace::Net { host, port, .. } => write!(f, "tcp://{host}:{port}"),
        }
    }
}

impl fmt::Display for NamedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NamedBy::Host => f.write_str("`DOCKER_HOST`"),
            NamedBy::Context(name) => write!(f, "docker's context `{name}`"),
            NamedBy::Nobody => f.write_str("nobody"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Settings whose `.docker` has a context `far` at a host.
    fn with_context(home: &Path, host: &str) -> EngineSettings {
        // sha256 of `far`, as docker's cli computes it
        let id = Digest::of(b"far").hex();
        let meta = home.join("contexts/meta").join(&id);
        fs::create_dir_all(&meta).unwrap();
        let text = format!(
            r#"{{"Name":"far","Metadata":{{}},"Endpoints":{{"docker":{{"Host":"{host}","SkipTLSVerify":false}}}}}}"#
        );
        fs::write(meta.join("meta.json"), text).unwrap();
        fs::write(home.join("config.json"), r#"{"auths":{},"currentContext":"far"}"#).unwrap();
        EngineSettings { config: Some(home.to_owned()), ..EngineSettings::default() }
    }

    fn shown(settings: &EngineSettings) -> String {
        let found = settings.find();
        found.map_or_else(|error| error.to_string(), |one| format!("{one} by {}", one.named_by))
    }

    #[test]
    fn docker_host_comes_before_contexts_and_those_before_the_machines_socket() {
        let home = tempfile::tempdir().unwrap();
        let mut settings = with_context(home.path(), "unix:///far.sock");
        assert_eq!(shown(&settings), "unix:///far.sock by docker's context `far`");
        settings.context = Some("near".to_owned());
        assert!(shown(&settings).starts_with("docker's context `near` is not among those of"));
        settings.context = Some("default".to_owned());
        let usual = settings.find().unwrap();
        assert_eq!(usual.named_by, NamedBy::Nobody);
        settings.context = Some("far".to_owned());
        settings.host = Some("tcp://build.example.org".to_owned());
        assert_eq!(shown(&settings), "tcp://build.example.org:2375 by `DOCKER_HOST`");
        settings.tls = TlsChoice::Verified;
        assert_eq!(shown(&settings), "tcp://build.example.org:2376 by `DOCKER_HOST`");
        fs::write(home.path().join("config.json"), "{").unwrap();
        let broken = EngineSettings { config: settings.config, ..EngineSettings::default() };
        assert!(shown(&broken).contains("config.json`: EOF"), "{}", shown(&broken));
    }

    #[test]
    fn an_odd_file_chooses_no_context() {
        let home = tempfile::tempdir().unwrap();
        let config = Some(home.path().to_owned());
        let settings = EngineSettings { config, ..EngineSettings::default() };
        for odd in
            ["", "\n", "null", "{}", r#"{"currentContext":null}"#, r#"{"currentContext":""} more"#]
        {
            fs::write(home.path().join("config.json"), odd).unwrap();
            assert_eq!(settings.find().unwrap().named_by, NamedBy::Nobody, "{odd}");
        }
    }

    #[test]
    fn what_is_not_spoken_to_is_named() {
        let home = tempfile::tempdir().unwrap();
        let settings = with_context(home.path(), "ssh://me@build.example.org");
        let said = shown(&settings);
        assert!(
            said.starts_with("docker's context `far` names docker's engine at `ssh://me@"),
            "{said}"
        );
        for host in ["ssh://somewhere", "npipe:////./pipe/docker", "unix://a", "tcp://a:b", "a"] {
            assert!(EngineAddress::of_host(host).is_err(), "{host}");
        }
        let host = Some("tcp://a:1".to_owned());
        let tls = TlsChoice::Unverified;
        let settings = EngineSettings { host, tls, ..EngineSettings::default() };
        assert!(shown(&settings).starts_with("`DOCKER_HOST` asks for TLS without"));
    }

    #[test]
    fn a_contexts_certificates_are_found_beside_it() {
        let home = tempfile::tempdir().unwrap();
        let settings = with_context(home.path(), "tcp://build.example.org");
        let dir = home.path().join("contexts/tls").join(Digest::of(b"far").hex()).join("docker");
        fs::create_dir_all(&dir).unwrap();
        for name in ["ca.pem", "cert.pem", "key.pem"] {
            fs::write(dir.join(name), "").unwrap();
        }
        let identity = Some((dir.join("cert.pem"), dir.join("key.pem")));
        let tls = Some(Tls { authority: Some(dir.join("ca.pem")), identity });
        let host = "build.example.org".to_owned();
        assert_eq!(settings.find().unwrap().place, EnginePlace::Net { host, port: 2376, tls });
    }

    #[test]
    fn an_engine_is_elsewhere_by_its_name() {
        let is = |host: &str| EngineAddress::of_host(host).unwrap().is_elsewhere();
        assert!(
            is("tcp://192.0.2.1:2375")
                && is("tcp://build.example.org")
                && is("tcp://[2001:db8::1]:1")
        );
        assert!(
            !is("tcp://127.0.0.1:2375")
                && !is("tcp://:1")
                && !is("tcp://[::1]:1")
                && !is("unix:///a")
        );
    }
}
