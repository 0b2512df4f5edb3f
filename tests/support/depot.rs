//! A registry of the tests' own (OCI distribution-spec 1.1): counts what it is asked, and misbehaves at
//! the request that it is told to.
//!
//! Written on threads and the standard library alone, in memory. It is strict where registries are: a
//! blob gets its name only with the right digest, a manifest only when all that it names is there.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use sbx::digest::Digest;
use serde_json::{Value, json};

/// A way to misbehave, once.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    Status(u16),
    /// What was asked is done, and refused all the same.
    Denied(u16),
    /// 429 with `Retry-After`.
    Busy,
    /// The connection ends in the middle of the request's body, or of the answer's.
    Half,
    /// Another digest in the answer's header, other bytes in its body.
    OtherDigest,
    OtherType,
    /// To another host.
    Redirect(String),
    /// Nothing happens any more.
    Stall,
    /// All sessions are forgotten.
    Lost,
}

impl Fault {
    /// Whether it is this status.
    pub fn says(&self, status: u16) -> bool {
        matches!(self, Fault::Status(said) | Fault::Denied(said) if *said == status)
    }
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub query: String,
    pub authorization: Option<String>,
    /// Bytes of its body.
    pub bytes: usize,
}

#[derive(Default)]
struct State {
    /// Repository and digest.
    blobs: BTreeMap<(String, String), Vec<u8>>,
    /// Repository and tag or digest.
    manifests: BTreeMap<(String, String), (String, Vec<u8>)>,
    sessions: BTreeMap<String, Vec<u8>>,
    asked: Vec<Asked>,
    fault: Option<(usize, Fault)>,
    lists_referrers: bool,
    refuses_mounts: Option<u16>,
    /// Answers to the ends of uploads, and to manifests.
    refuses_ends: Option<u16>,
    refuses_manifests: Option<u16>,
    token: Option<String>,
    serial: usize,
    streams: Vec<TcpStream>,
    closed: bool,
}

/// A running registry; ends when dropped.
pub struct Depot {
    pub host: String,
    state: Arc<Mutex<State>>,
}

impl Depot {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let name = host.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut state = shared.lock().unwrap();
                if state.closed {
                    return;
                }
                state.streams.extend(stream.try_clone());
                let (shared, host) = (Arc::clone(&shared), name.clone());
                thread::spawn(move || drop(converse(stream, &shared, &host)));
            }
        });
        Depot { host, state }
    }

    /// The request of this number (from 0, counted from now on) meets a fault.
    pub fn fail(&self, number: usize, fault: Fault) {
        let mut state = self.state.lock().unwrap();
        state.asked.clear();
        state.fault = Some((number, fault));
    }

    pub fn list_referrers(&self) {
        self.state.lock().unwrap().lists_referrers = true;
    }

    pub fn refuse_mounts(&self, status: u16) {
        self.state.lock().unwrap().refuses_mounts = Some(status);
    }

    /// Refuses each blob when it is whole.
    pub fn refuse_ends(&self, status: Option<u16>) {
        self.state.lock().unwrap().refuses_ends = status;
    }

    pub fn refuse_manifests(&self, status: Option<u16>) {
        self.state.lock().unwrap().refuses_manifests = status;
    }

    /// Lets in who shows this token, which it gives to whoever asks.
    pub fn guard(&self, token: &str) {
        self.state.lock().unwrap().token = Some(token.to_owned());
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.state.lock().unwrap().asked.clone()
    }

    pub fn count(&self, method: &str, part: &str) -> usize {
        self.asked().iter().filter(|one| one.method == method && one.path.contains(part)).count()
    }

    pub fn forget(&self) {
        self.state.lock().unwrap().asked.clear();
    }

    pub fn clear(&self) {
        let mut state = self.state.lock().unwrap();
        state.blobs.clear();
        state.manifests.clear();
        state.sessions.clear();
        state.asked.clear();
        state.fault = None;
    }

    pub fn manifest(&self, repository: &str, version: &str) -> Option<Vec<u8>> {
        let state = self.state.lock().unwrap();
        let found = state.manifests.get(&(repository.to_owned(), version.to_owned()));
        found.map(|(_, bytes)| bytes.clone())
    }

    pub fn blob(&self, repository: &str, digest: &str) -> Option<Vec<u8>> {
        let state = self.state.lock().unwrap();
        state.blobs.get(&(repository.to_owned(), digest.to_owned())).cloned()
    }

    /// Puts a manifest under a tag, whatever it says.
    pub fn put(&self, repository: &str, tag: &str, bytes: Vec<u8>) {
        let media = "application/vnd.oci.image.manifest.v1+json".to_owned();
        let mut state = self.state.lock().unwrap();
        state.manifests.insert((repository.to_owned(), tag.to_owned()), (media, bytes));
    }

    /// Changes the bytes of a blob, and none of its names.
    pub fn spoil(&self, repository: &str, digest: &str) {
        let mut state = self.state.lock().unwrap();
        let bytes = state.blobs.get_mut(&(repository.to_owned(), digest.to_owned())).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    }

    pub fn drop_blob(&self, repository: &str, digest: &str) {
        self.state.lock().unwrap().blobs.remove(&(repository.to_owned(), digest.to_owned()));
    }

    /// Has other bytes under a digest than those that it is of.
    pub fn put_blob(&self, repository: &str, digest: &str, bytes: &[u8]) {
        let place = (repository.to_owned(), digest.to_owned());
        self.state.lock().unwrap().blobs.insert(place, bytes.to_vec());
    }

    /// Puts a manifest under another tag.
    pub fn tag(&self, repository: &str, from: &str, to: &str) {
        let mut state = self.state.lock().unwrap();
        let found = state.manifests[&(repository.to_owned(), from.to_owned())].clone();
        state.manifests.insert((repository.to_owned(), to.to_owned()), found);
    }

    pub fn tags(&self, repository: &str) -> BTreeSet<String> {
        let state = self.state.lock().unwrap();
        let own = state.manifests.keys().filter(|(name, _)| name == repository);
        own.map(|(_, version)| version.clone()).filter(|one| !one.starts_with("sha256:")).collect()
    }
}

impl Drop for Depot {
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap();
        state.closed = true;
        for stream in &state.streams {
            stream.shutdown(Shutdown::Both).unwrap_or_default();
        }
        drop(state);
        // wakes the acceptor, which then sees that it is over
        drop(TcpStream::connect(&self.host));
    }
}

struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn new(status: u16) -> Self {
        Answer { status, headers: Vec::new(), body: Vec::new() }
    }

    fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    fn replace(&mut self, name: &str, value: &str) {
        for (_, old) in self.headers.iter_mut().filter(|(known, _)| known == name) {
            *old = value.to_owned();
        }
    }
}

/// A request with its body, which may have been cut short.
struct Request {
    asked: Asked,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

fn converse(stream: TcpStream, state: &Mutex<State>, host: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut out = stream;
    while let Some((line, headers)) = read_head(&mut reader)? {
        let (method, target) = line.split_once(' ').unwrap_or_default();
        let target = target.split(' ').next().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut asked = Asked {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            authorization: headers.get("authorization").cloned(),
            bytes: 0,
        };
        let (number, fault) = {
            let mut state = state.lock().unwrap();
            let number = state.asked.len();
            state.asked.push(asked.clone());
            (number, state.fault.take_if(|(at, _)| *at == number).map(|(_, fault)| fault))
        };
        match &fault {
            Some(Fault::Stall) => {
                // until the client has had enough, or the test ends
                io::copy(&mut reader, &mut io::sink())?;
                return Ok(());
            }
            Some(Fault::Lost) => state.lock().unwrap().sessions.clear(),
            _ => {}
        }
        let half = fault == Some(Fault::Half);
        let has_body = headers.contains_key("transfer-encoding")
            || headers.get("content-length").is_some_and(|length| length != "0");
        let body = read_body(&mut reader, &headers, half && has_body)?;
        asked.bytes = body.len();
        if let Some(asked) = state.lock().unwrap().asked.get_mut(number) {
            asked.bytes = body.len();
        }
        let request = Request { asked, headers, body };
        if half && has_body {
            // what arrived is kept, as registries do
            answer(&mut state.lock().unwrap(), &request, host);
            return out.shutdown(Shutdown::Both);
        }
        let mut answer = match &fault {
            Some(Fault::Status(status)) => Answer::new(*status),
            Some(Fault::Denied(status)) => {
                answer(&mut state.lock().unwrap(), &request, host);
                Answer::new(*status)
            }
            Some(Fault::Busy) => Answer::new(429).with("Retry-After", "0"),
            Some(Fault::Redirect(to)) => Answer::new(307).with("Location", format!("{to}{path}")),
            _ => answer(&mut state.lock().unwrap(), &request, host),
        };
        if fault == Some(Fault::OtherDigest) {
            answer.replace("Docker-Content-Digest", &Digest::of(b"other").to_string());
            if let Some(byte) = answer.body.first_mut() {
                *byte ^= 1;
            }
        }
        if fault == Some(Fault::OtherType) {
            answer.replace("Content-Type", "text/html");
        }
        let is_head = request.asked.method == "HEAD";
        write!(out, "HTTP/1.1 {} Answer\r\n", answer.status)?;
        for (name, value) in &answer.headers {
            write!(out, "{name}: {value}\r\n")?;
        }
        if !(is_head && answer.headers.iter().any(|(name, _)| name == "Content-Length")) {
            write!(out, "Content-Length: {}\r\n", answer.body.len())?;
        }
        write!(out, "\r\n")?;
        if half {
            out.write_all(&answer.body[..answer.body.len() / 2])?;
            out.flush()?;
            return out.shutdown(Shutdown::Both);
        }
        if !is_head {
            out.write_all(&answer.body)?;
        }
        out.flush()?;
    }
    Ok(())
}

type Head = (String, BTreeMap<String, String>);

fn read_head(reader: &mut impl BufRead) -> io::Result<Option<Head>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? <= 2 {
            return Ok(Some((line.trim().to_owned(), headers)));
        }
        if let Some((name, value)) = header.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
}

/// The body; half of it, or its first piece, where it is to be cut.
fn read_body(
    reader: &mut impl BufRead,
    headers: &BTreeMap<String, String>,
    cut: bool,
) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if headers.contains_key("transfer-encoding") {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let size = u64::from_str_radix(line.trim(), 16).unwrap_or(0);
            reader.take(size).read_to_end(&mut body)?;
            let mut end = String::new();
            reader.read_line(&mut end)?;
            if size == 0 || cut {
                return Ok(body);
            }
        }
    }
    let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    reader.take(if cut { length / 2 } else { length }).read_to_end(&mut body)?;
    Ok(body)
}

fn answer(state: &mut State, request: &Request, host: &str) -> Answer {
    let asked = &request.asked;
    if asked.path == "/token" {
        let body = json!({"token": state.token}).to_string().into_bytes();
        return Answer { body, ..Answer::new(200) };
    }
    if let Some(token) = &state.token
        && asked.authorization.as_deref() != Some(&format!("Bearer {token}"))
    {
        let realm = format!("Bearer realm=\"http://{host}/token\",service=\"depot\"");
        return Answer::new(401).with("WWW-Authenticate", realm);
    }
    let Some(rest) = asked.path.strip_prefix("/v2/") else { return Answer::new(404) };
    for kind in ["/blobs/uploads/", "/blobs/", "/manifests/", "/referrers/"] {
        let Some((repository, name)) = rest.split_once(kind) else { continue };
        return match kind {
            "/blobs/uploads/" => upload(state, request, repository, name),
            "/blobs/" => blob(state, repository, name),
            "/manifests/" => manifest(state, request, repository, name),
            _ => referrers(state, repository, name),
        };
    }
    Answer::new(404)
}

fn blob(state: &State, repository: &str, name: &str) -> Answer {
    match state.blobs.get(&(repository.to_owned(), name.to_owned())) {
        None => Answer::new(404),
        Some(bytes) => Answer { body: bytes.clone(), ..Answer::new(200) }
            .with("Docker-Content-Digest", name)
            .with("Content-Type", "application/octet-stream")
            .with("Content-Length", bytes.len().to_string())
            .once(),
    }
}

impl Answer {
    /// The length is written with the body.
    fn once(mut self) -> Self {
        if let Some(at) = self.headers.iter().position(|(name, _)| name == "Content-Length") {
            self.headers.remove(at);
        }
        self
    }
}

fn parameter(query: &str, name: &str) -> Option<String> {
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

fn upload(state: &mut State, request: &Request, repository: &str, name: &str) -> Answer {
    let query = &request.asked.query;
    let place = |id: &str| format!("/v2/{repository}/blobs/uploads/{id}");
    if request.asked.method == "POST" {
        if let (Some(digest), Some(from)) = (parameter(query, "mount"), parameter(query, "from")) {
            if let Some(status) = state.refuses_mounts {
                return Answer::new(status);
            }
            if let Some(bytes) = state.blobs.get(&(from, digest.clone())).cloned() {
                state.blobs.insert((repository.to_owned(), digest.clone()), bytes);
                return Answer::new(201).with("Docker-Content-Digest", digest);
            }
        }
        state.serial += 1;
        let id = format!("s{}", state.serial);
        state.sessions.insert(id.clone(), Vec::new());
        return Answer::new(202).with("Location", place(&id)).with("Range", "0-0");
    }
    if let Some(status) = state.refuses_ends.filter(|_| request.asked.method == "PUT") {
        return Answer::new(status);
    }
    let Some(session) = state.sessions.get_mut(name) else { return Answer::new(404) };
    let range = |bytes: &Vec<u8>| format!("0-{}", bytes.len().saturating_sub(1));
    match request.asked.method.as_str() {
        "GET" => Answer::new(204).with("Location", place(name)).with("Range", range(session)),
        "DELETE" => {
            state.sessions.remove(name);
            Answer::new(204)
        }
        "PATCH" => {
            let first = request.headers.get("content-range");
            let first = first.and_then(|text| text.split('-').next()?.parse::<usize>().ok());
            if first.is_some_and(|first| first != session.len()) {
                return Answer::new(416).with("Range", range(session));
            }
            session.extend_from_slice(&request.body);
            Answer::new(202).with("Location", place(name)).with("Range", range(session))
        }
        "PUT" => {
            let mut bytes = session.clone();
            bytes.extend_from_slice(&request.body);
            let digest = parameter(query, "digest").unwrap_or_default();
            if Digest::of(&bytes).to_string() != digest {
                return Answer::new(400);
            }
            state.sessions.remove(name);
            state.blobs.insert((repository.to_owned(), digest.clone()), bytes);
            Answer::new(201).with("Docker-Content-Digest", digest)
        }
        _ => Answer::new(405),
    }
}

fn manifest(state: &mut State, request: &Request, repository: &str, name: &str) -> Answer {
    if request.asked.method == "PUT" {
        return put_manifest(state, request, repository, name);
    }
    match state.manifests.get(&(repository.to_owned(), name.to_owned())) {
        None => Answer::new(404),
        Some((media, bytes)) => Answer { body: bytes.clone(), ..Answer::new(200) }
            .with("Docker-Content-Digest", Digest::of(bytes).to_string())
            .with("Content-Type", media),
    }
}

fn put_manifest(state: &mut State, request: &Request, repository: &str, name: &str) -> Answer {
    let bytes = &request.body;
    let digest = Digest::of(bytes).to_string();
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else { return Answer::new(400) };
    let parts = value["layers"].as_array().into_iter().flatten().chain([&value["config"]]);
    let blobs = parts.filter_map(|part| part["digest"].as_str());
    let own = |part: &str| (repository.to_owned(), part.to_owned());
    let manifests = value["manifests"].as_array().into_iter().flatten();
    let manifests = manifests.filter_map(|part| part["digest"].as_str());
    let whole = blobs.into_iter().all(|part| state.blobs.contains_key(&own(part)))
        && manifests.into_iter().all(|part| state.manifests.contains_key(&own(part)));
    if let Some(status) = state.refuses_manifests {
        return Answer::new(status);
    }
    if !whole || name.starts_with("sha256:") && name != digest {
        return Answer::new(400);
    }
    let media = request.headers.get("content-type").cloned().unwrap_or_default();
    for version in [name, &digest] {
        state.manifests.insert(own(version), (media.clone(), bytes.clone()));
    }
    let answer = Answer::new(201).with("Docker-Content-Digest", digest);
    match value["subject"]["digest"].as_str() {
        Some(subject) if state.lists_referrers => answer.with("OCI-Subject", subject),
        _ => answer,
    }
}

fn referrers(state: &State, repository: &str, name: &str) -> Answer {
    if !state.lists_referrers {
        return Answer::new(404);
    }
    let of = |((home, version), (media, bytes)): (&(String, String), &(String, Vec<u8>))| {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        let ours = home == repository
            && version.starts_with("sha256:")
            && value["subject"]["digest"].as_str() == Some(name);
        ours.then(|| {
            json!({
                "mediaType": media, "digest": version, "size": bytes.len(),
                "artifactType": value["artifactType"],
            })
        })
    };
    let entries: Vec<Value> = state.manifests.iter().filter_map(of).collect();
    let media = "application/vnd.oci.image.index.v1+json";
    let index = json!({"schemaVersion": 2, "mediaType": media, "manifests": entries});
    Answer { body: index.to_string().into_bytes(), ..Answer::new(200) }.with("Content-Type", media)
}
