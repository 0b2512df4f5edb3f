//! Images into docker, over its socket.
//!
//! An engine with a graph driver knows layers by their chains and skips the tars of those it has, so the
//! archive of `docker load` leaves them out: measured faster than a pull, which asks, checks and stores
//! each layer by itself. An engine on containerd's store wants archives whole, and pulls what it lacks
//! from a registry that is served to it on loopback; one whose loopback is another (on another machine, or
//! without root in a network of its own) gets the archive.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::symlink;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE;
use serde_json::{Value, json};
use url::Url;

use super::ShipError;
use super::counter::{Counter, USER};
use super::load::{Loaded, Way};
use crate::digest::Digest;
use crate::engine::{EngineAddress, EnginePlace, Tls};
use crate::fetch::{
    Answer, Authorities, Client, ClientConfig, FetchError, Letter, Method, NoProgress, Refusal,
    authority,
};
use crate::fsx::IoAt;
use crate::image::save::{ArchiveKind, SaveError, Saved};
use crate::reference::Reference;
use crate::serve::serve;
use crate::store::{LayerRecord, Store, TreeDraft};

/// Largest answer that is read.
const LARGEST: u64 = 64 << 20;
/// How long docker may say nothing: it unpacks what it gets.
const PATIENCE: Duration = Duration::from_secs(900);
/// Likewise where it only says what it is.
const ANSWER: Duration = Duration::from_secs(10);
/// So many images are looked into for the layers that they have.
const LOOKED_INTO: usize = 256;

/// An engine that answers.
pub struct Docker {
    client: Client,
    base: Url,
    /// Whether it keeps layers in a graph driver of its own.
    has_graph_driver: bool,
    /// Whether it is another machine's.
    is_elsewhere: bool,
    /// For as long as it is spoken to.
    _certificates: Option<TreeDraft>,
}

impl Docker {
    /// Speaks to the engine at an address.
    pub fn find(address: &EngineAddress, store: &Store) -> Result<Self, ShipError> {
        let usual = ClientConfig { tries: 1, stall_timeout: PATIENCE, ..ClientConfig::default() };
        let (base, tls) = match &address.place {
            EnginePlace::Socket(_) => ("http://docker/".to_owned(), None),
            EnginePlace::Net { host, port, tls } => {
                let scheme = if tls.is_some() { "https" } else { "http" };
                (format!("{scheme}://{host}:{port}/"), tls.as_ref())
            }
        };
        let away = |reason: String| ShipError::EngineAway { address: address.clone(), reason };
        let base = Url::parse(&base).map_err(|error| away(error.to_string()))?;
        let certificates = tls.map(|tls| lay_certificates(store, tls, &base)).transpose()?;
        let config = match &address.place {
            EnginePlace::Socket(path) if !path.exists() => {
                return Err(away("nothing is there".to_owned()));
            }
            EnginePlace::Socket(path) => ClientConfig { socket: Some(path.clone()), ..usual },
            EnginePlace::Net { .. } => {
                let dirs = certificates.iter().map(|dir| dir.path().to_owned()).collect();
                ClientConfig { host_certificates: dirs, authorities: Authorities::Own, ..usual }
            }
        };
        let mut docker = Docker {
            // one that hangs is not waited for
            client: Client::new(ClientConfig { stall_timeout: ANSWER, ..config.clone() }),
            base,
            has_graph_driver: false,
            is_elsewhere: address.is_elsewhere(),
            _certificates: certificates,
        };
        let info = match docker.get(&["info"]) {
            Err(ShipError::Fetch(error @ FetchError::Unreachable { .. })) => {
                return Err(away(error.to_string()));
            }
            Err(ShipError::Fetch(FetchError::Broken { reason, .. })) => return Err(away(reason)),
            info => info?,
        };
        docker.client = Client::new(config);
        docker.has_graph_driver = !info["DriverStatus"].to_string().contains("io.containerd");
        Ok(docker)
    }

    /// Brings an image in under its reference. `whole` hears of it before all of the image goes, whatever
    /// the engine has of it.
    pub fn load(
        &self,
        saved: &Saved<'_>,
        token: &str,
        whole: impl FnOnce(),
    ) -> Result<Loaded, ShipError> {
        if self.has_image(saved)? {
            return Ok(Loaded { way: Way::There, layers: 0, bytes: 0 });
        }
        if self.has_graph_driver {
            return self.load_archive(saved);
        }
        if let Some(loaded) = self.pull(saved, token)? {
            return Ok(loaded);
        }
        whole();
        self.load_whole(saved)
    }

    /// Brings an image in by a registry on loopback, whatever suits the engine best.
    pub fn load_by_registry(&self, saved: &Saved<'_>, token: &str) -> Result<Loaded, ShipError> {
        let said = || "it does not reach this machine".to_owned();
        self.pull(saved, token)?.ok_or_else(|| ShipError::Engine { said: said() })
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
        self.send_archive(|out| saved.write_docker(&without, out))?;
        let layers = saved.record.layers.iter().filter(|layer| !without.contains(&layer.diff_id));
        self.loaded(saved, layers.map(|layer| layer.size).collect())
    }

    /// As a layout of OCI's, which containerd's store takes as it is: the manifest stays what it was.
    fn load_whole(&self, saved: &Saved<'_>) -> Result<Loaded, ShipError> {
        let (name, tag) = saved.split();
        // containerd knows no short names
        let reference = format!("{}:{tag}", full_name(name));
        let full = Saved { reference: &reference, ..*saved };
        self.send_archive(|out| full.write(ArchiveKind::Oci, out))?;
        let layers = saved.record.layers.iter();
        let size = |layer: &LayerRecord| layer.packed.as_ref().map_or(layer.size, |one| one.size);
        self.loaded(saved, layers.map(size).collect())
    }

    /// What came of an archive.
    fn loaded(&self, saved: &Saved<'_>, sent: Vec<u64>) -> Result<Loaded, ShipError> {
        if !self.has_image(saved)? {
            return Err(ShipError::Engine {
                said: "it took the image and does not have it".to_owned(),
            });
        }
        Ok(Loaded { way: Way::Archive, layers: sent.len(), bytes: sent.iter().sum() })
    }

    fn send_archive(
        &self,
        write: impl FnOnce(&mut dyn Write) -> Result<(), SaveError> + Send,
    ) -> Result<(), ShipError> {
        let (mut reader, writer) = io::pipe().map_err(ShipError::Pipe)?;
        let url = self.url(&["images", "load"], &[("quiet", "1")]);
        let letter = Letter {
            media_type: Some("application/x-tar"),
            ..Letter::new("image for docker", Method::POST, &url)
        };
        let (written, answer) = std::thread::scope(|scope| {
            let write = scope.spawn(|| write(&mut io::BufWriter::with_capacity(1 << 20, writer)));
            let answer = self.client.stream(&letter, &mut reader, None);
            // whoever writes into it hears of its end
            drop(reader);
            (write.join().expect("writing does not panic"), answer)
        });
        let answer = answer.map_err(refused)?;
        self.hear(&answer)?;
        Ok(written?)
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

    /// Has the engine pull from a registry on loopback, and names the image as it is called. `None` where
    /// it did not come: its loopback is not this machine's.
    fn pull(&self, saved: &Saved<'_>, token: &str) -> Result<Option<Loaded>, ShipError> {
        if self.is_elsewhere {
            return Ok(None);
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(ShipError::Pipe)?;
        let address = listener.local_addr().map_err(ShipError::Pipe)?.to_string();
        let counter = Counter::new(saved, token);
        let (name, tag) = saved.split();
        let lent = format!("{address}/{}", repository(name));
        let login = json!({"username": USER, "password": token, "serveraddress": address});
        let login = BASE64_URL_SAFE.encode(login.to_string());
        let pulled = std::thread::scope(|scope| {
            let _serving = serve(scope, listener, &counter).map_err(ShipError::Pipe)?;
            let platform = saved.platform.to_string();
            // left to itself it looks for what it runs
            let query = [("fromImage", &*lent), ("tag", tag), ("platform", &platform)];
            let url = self.url(&["images", "create"], &query);
            let letter = Letter {
                headers: vec![("x-registry-auth", login)],
                ..Letter::new("image for docker", Method::POST, &url)
            };
            self.hear(&self.send(&letter)?)
        });
        match pulled {
            Err(ShipError::Engine { .. } | ShipError::Fetch(_)) if !counter.was_asked() => {
                return Ok(None);
            }
            pulled => pulled?,
        }
        let lent = format!("{lent}:{tag}");
        let url = self.url(&["images", &lent, "tag"], &[("repo", name), ("tag", tag)]);
        let named = self.send(&Letter::new("name in docker", Method::POST, &url));
        // the name that it was lent under; the image goes with it where it got no other
        let url = self.url(&["images", &lent], &[]);
        let freed = self.send(&Letter::new("name in docker", Method::DELETE, &url));
        named.and(freed)?;
        Ok(Some(counter.loaded()))
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
    match name.parse::<Reference>() {
        Ok(reference) => reference.repository().to_owned(),
        Err(_) => "image".to_owned(),
    }
}

/// A name with its registry, where that is docker's own.
fn full_name(name: &str) -> String {
    match name.parse::<Reference>() {
        Ok(reference) if reference.registry().is_none() => match name.contains('/') {
            true => format!("docker.io/{name}"),
            false => format!("docker.io/library/{name}"),
        },
        _ => name.to_owned(),
    }
}

/// A context's certificates by the names that the client knows. They stay where they are.
fn lay_certificates(store: &Store, tls: &Tls, base: &Url) -> Result<TreeDraft, ShipError> {
    let draft = store.tree_draft()?;
    let dir = draft.path().join(authority(base));
    fs::create_dir(&dir).at("create", &dir)?;
    let identity =
        tls.identity.iter().flat_map(|(own, key)| [(own, "client.cert"), (key, "client.key")]);
    for (from, name) in tls.authority.iter().map(|path| (path, "ca.crt")).chain(identity) {
        let from = std::path::absolute(from).at("find", from)?;
        symlink(&from, dir.join(name)).at("link", &from)?;
    }
    Ok(draft)
}

fn refused(refusal: Refusal) -> ShipError {
    match refusal {
        Refusal::Again(error, _) | Refusal::Final(error) => ShipError::Fetch(error),
        Refusal::Source(error) => ShipError::Pipe(error),
    }
}
