//! Images into docker, over its socket.
//!
//! An engine with a graph driver knows layers by their chains and skips the tars of those it has, so the
//! archive of `docker load` leaves them out: measured faster than a pull, which asks, checks and stores
//! each layer by itself. An engine on containerd's store wants archives whole, and pulls what it lacks
//! from a registry that is served to it on loopback.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE;
use serde_json::{Value, json};
use url::Url;

use super::ShipError;
use super::counter::{Counter, USER};
use super::load::{Loaded, Way};
use crate::digest::Digest;
use crate::fetch::{Answer, Client, ClientConfig, FetchError, Letter, Method, NoProgress, Refusal};
use crate::image::save::Saved;
use crate::serve::serve;

/// Largest answer that is read.
const LARGEST: u64 = 64 << 20;
/// How long docker may say nothing: it unpacks what it gets.
const PATIENCE: Duration = Duration::from_secs(900);
/// So many images are looked into for the layers that they have.
const LOOKED_INTO: usize = 256;

/// An engine that answers.
pub struct Docker {
    client: Client,
    base: Url,
    /// Whether it keeps layers in a graph driver of its own.
    has_graph_driver: bool,
}

impl Docker {
    /// Finds the engine at an address as `DOCKER_HOST` has it; `None` where nobody answers.
    pub fn find(host: &str) -> Result<Option<Self>, ShipError> {
        let odd = || ShipError::EngineAddress { host: host.to_owned() };
        let (socket, base) = match host.split_once("://") {
            Some(("unix", path)) => (Some(PathBuf::from(path)), "http://docker/".to_owned()),
            Some(("tcp" | "http", place)) => (None, format!("http://{place}/")),
            _ => return Err(odd()),
        };
        if socket.as_ref().is_some_and(|path| !path.exists()) {
            return Ok(None);
        }
        let usual = ClientConfig::default();
        let config = ClientConfig { socket, tries: 1, stall_timeout: PATIENCE, ..usual };
        let base = Url::parse(&base).map_err(|_| odd())?;
        let mut docker = Docker { client: Client::new(config), base, has_graph_driver: false };
        let info = match docker.get(&["info"]) {
            Err(ShipError::Fetch(FetchError::Unreachable { .. })) => return Ok(None),
            info => info?,
        };
        docker.has_graph_driver = !info["DriverStatus"].to_string().contains("io.containerd");
        Ok(Some(docker))
    }

    /// Brings an image in under its reference.
    pub fn load(&self, saved: &Saved<'_>, token: &str) -> Result<Loaded, ShipError> {
        if self.has_image(saved)? {
            return Ok(Loaded { way: Way::There, layers: 0, bytes: 0 });
        }
        let way = if self.has_graph_driver { Way::Archive } else { Way::Registry };
        self.load_by(saved, token, way)
    }

    /// Brings an image in by one of the two ways.
    pub fn load_by(&self, saved: &Saved<'_>, token: &str, way: Way) -> Result<Loaded, ShipError> {
        match way {
            Way::Registry => self.pull(saved, token),
            Way::Archive | Way::There => self.load_archive(saved),
        }
    }

    /// A graph driver knows an image by its config, containerd's store by the manifest that it was given.
    fn has_image(&self, saved: &Saved<'_>) -> Result<bool, ShipError> {
        let ids = [saved.record.image, saved.record.manifest].map(|digest| digest.to_string());
        match self.get(&["images", saved.reference, "json"]) {
            Ok(known) => Ok(known["Id"].as_str().is_some_and(|id| ids.iter().any(|own| own == id))),
            Err(ShipError::Fetch(error)) if error.is_gone() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn load_archive(&self, saved: &Saved<'_>) -> Result<Loaded, ShipError> {
        let without = self.find_layers(saved)?;
        let (reader, writer) = io::pipe().map_err(ShipError::Pipe)?;
        let url = self.url(&["images", "load"], &[("quiet", "1")]);
        let letter = Letter {
            media_type: Some("application/x-tar"),
            ..Letter::new("image for docker", Method::POST, &url)
        };
        let (written, answer) = std::thread::scope(|scope| {
            let write = move || {
                let mut out = io::BufWriter::with_capacity(1 << 20, writer);
                saved.write_docker(&without, &mut out).map(|()| without)
            };
            let write = scope.spawn(write);
            let mut reader = reader;
            let answer = self.client.stream(&letter, &mut reader, None);
            // whoever writes into it hears of its end
            drop(reader);
            (write.join().expect("writing does not panic"), answer)
        });
        let answer = answer.map_err(refused)?;
        self.hear(&answer)?;
        let without = written?;
        let sent: Vec<u64> = saved
            .record
            .layers
            .iter()
            .filter(|layer| !without.contains(&layer.diff_id))
            .map(|layer| layer.size)
            .collect();
        if !self.has_image(saved)? {
            return Err(ShipError::Engine {
                said: "it took the image and does not have it".to_owned(),
            });
        }
        Ok(Loaded { way: Way::Archive, layers: sent.len(), bytes: sent.iter().sum() })
    }

    /// Layers that the engine has in the place where this image needs them.
    fn find_layers(&self, saved: &Saved<'_>) -> Result<BTreeSet<Digest>, ShipError> {
        let wanted: Vec<String> =
            saved.record.layers.iter().map(|layer| layer.diff_id.to_string()).collect();
        let images = self.get(&["images", "json"])?;
        let ids = images.as_array().into_iter().flatten().filter_map(|image| image["Id"].as_str());
        let mut common = 0;
        for id in ids.take(LOOKED_INTO) {
            // one may have been removed just now
            let Ok(image) = self.get(&["images", id, "json"]) else { continue };
            let layers = image["RootFS"]["Layers"].as_array().into_iter().flatten();
            let same = layers.zip(&wanted).take_while(|(have, want)| have.as_str() == Some(want));
            common = common.max(same.count());
            if common == wanted.len() {
                break;
            }
        }
        let layers = saved.record.layers.iter().map(|layer| layer.diff_id);
        let missing: BTreeSet<Digest> = layers.clone().skip(common).collect();
        Ok(layers.filter(|layer| !missing.contains(layer)).collect())
    }

    /// Has the engine pull from a registry on loopback, and names the image as it is called.
    fn pull(&self, saved: &Saved<'_>, token: &str) -> Result<Loaded, ShipError> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(ShipError::Pipe)?;
        let address = listener.local_addr().map_err(ShipError::Pipe)?.to_string();
        let counter = Counter::new(saved, token);
        let (name, tag) = saved.split();
        let lent = format!("{address}/{}", repository(name));
        let login = json!({"username": USER, "password": token, "serveraddress": address});
        let login = BASE64_URL_SAFE.encode(login.to_string());
        std::thread::scope(|scope| {
            let _serving = serve(scope, listener, &counter).map_err(ShipError::Pipe)?;
            let url = self.url(&["images", "create"], &[("fromImage", &lent), ("tag", tag)]);
            let letter = Letter {
                headers: vec![("x-registry-auth", login)],
                ..Letter::new("image for docker", Method::POST, &url)
            };
            self.hear(&self.send(&letter)?)
        })?;
        let lent = format!("{lent}:{tag}");
        let url = self.url(&["images", &lent, "tag"], &[("repo", name), ("tag", tag)]);
        self.send(&Letter::new("name in docker", Method::POST, &url))?;
        let url = self.url(&["images", &lent], &[]);
        self.send(&Letter::new("name in docker", Method::DELETE, &url))?;
        Ok(counter.loaded())
    }

    /// Docker answers line by line, and the last may be an error.
    fn hear(&self, answer: &Answer) -> Result<(), ShipError> {
        let text = String::from_utf8_lossy(&answer.bytes);
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let said = lines.filter_map(|line| line["error"].as_str().map(str::to_owned)).next();
        said.map_or(Ok(()), |said| Err(ShipError::Engine { said }))
    }

    fn get(&self, path: &[&str]) -> Result<Value, ShipError> {
        let url = self.url(path, &[]);
        let answer = self.send(&Letter::new("docker", Method::GET, &url))?;
        serde_json::from_slice(&answer.bytes)
            .map_err(|error| ShipError::Engine { said: format!("what is no JSON: {error}") })
    }

    fn send(&self, letter: &Letter<'_>) -> Result<Answer, ShipError> {
        self.client.send(letter, b"", LARGEST, &NoProgress).map_err(ShipError::Fetch)
    }

    fn url(&self, path: &[&str], query: &[(&str, &str)]) -> Url {
        let mut url = self.base.clone();
        // an address over http has a path
        if let Ok(mut segments) = url.path_segments_mut() {
            // names of images keep their slashes
            segments.clear().extend(path.iter().flat_map(|part| part.split('/')));
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }
}

/// The repository of a name, without a registry: that is where it is lent from.
pub(super) fn repository(name: &str) -> String {
    match name.parse::<crate::reference::Reference>() {
        Ok(reference) => reference.repository().to_owned(),
        Err(_) => "image".to_owned(),
    }
}

fn refused(refusal: Refusal) -> ShipError {
    match refusal {
        Refusal::Again(error, _) | Refusal::Final(error) => ShipError::Fetch(error),
        Refusal::Source(error) => ShipError::Pipe(error),
    }
}
