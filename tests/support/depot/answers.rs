//! What it answers, as the specification has it.

use sbx::digest::Digest;
use serde_json::{Value, json};

use super::State;
use super::wire::Request;

pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn new(status: u16) -> Self {
        Answer { status, headers: Vec::new(), body: Vec::new() }
    }

    pub(super) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(super) fn replace(&mut self, name: &str, value: &str) {
        for (_, old) in self.headers.iter_mut().filter(|(known, _)| known == name) {
            *old = value.to_owned();
        }
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

pub(super) fn answer(state: &mut State, request: &Request, host: &str) -> Answer {
    let asked = &request.asked;
    if asked.path == "/token" {
        if let Some((whole, left)) = &mut state.life {
            *left = *whole;
            state.serial += 1;
            state.token = Some(state.serial.to_string());
        }
        let body = json!({"token": state.token}).to_string().into_bytes();
        return Answer { body, ..Answer::new(200) };
    }
    let is_spent = state.life.is_some_and(|(_, left)| left == 0);
    if let Some(token) = &state.token
        && (is_spent || asked.authorization.as_deref() != Some(&format!("Bearer {token}")))
    {
        let realm = format!("Bearer realm=\"http://{host}/token\",service=\"depot\"");
        return Answer::new(401).with("WWW-Authenticate", realm);
    }
    if let Some((_, left)) = &mut state.life {
        *left -= 1;
    }
    let Some(rest) = asked.path.strip_prefix("/v2/") else { return Answer::new(404) };
    for kind in ["/blobs/uploads/", "/blobs/", "/manifests/", "/referrers/"] {
        let Some((repository, name)) = rest.split_once(kind) else { continue };
        return match kind {
            "/blobs/uploads/" => upload(state, request, repository, name),
            "/blobs/" => blob(state, repository, name),
            "/manifests/" => manifest(state, request, repository, name),
            _ => referrers(state, request, repository, name),
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

fn parameter(query: &str, name: &str) -> Option<String> {
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

fn upload(state: &mut State, request: &Request, repository: &str, name: &str) -> Answer {
    let query = &request.asked.query;
    let at = state.uploads.clone();
    let place = |id: &str| format!("{at}/v2/{repository}/blobs/uploads/{id}");
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
    if state.largest.is_some_and(|largest| request.body.len() > largest) {
        return Answer::new(413);
    }
    if let Some(status) = state.refuses_ends.filter(|_| request.asked.method == "PUT") {
        return Answer::new(status);
    }
    let Some(session) = state.sessions.get_mut(name) else { return Answer::new(404) };
    let boasts = state.boasts;
    let range =
        |bytes: &Vec<u8>| format!("0-{}", boasts.unwrap_or(bytes.len().saturating_sub(1) as u64));
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
        return Answer { body: state.words.clone().into_bytes(), ..Answer::new(status) };
    }
    if state.loses_manifests {
        return Answer::new(202);
    }
    if state.refuses_tag.as_ref().is_some_and(|end| name.ends_with(end)) {
        return Answer::new(403);
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

fn referrers(state: &State, request: &Request, repository: &str, name: &str) -> Answer {
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
    let mut entries: Vec<Value> = state.manifests.iter().filter_map(of).collect();
    let mut link = None;
    if let Some(page) = state.page {
        let from: usize =
            parameter(&request.asked.query, "from").map_or(0, |from| from.parse().unwrap());
        entries.drain(..from.min(entries.len()));
        if entries.len() > page {
            entries.truncate(page);
            // as one behind a proxy writes it
            let to = format!("https://inside.example/v2/{repository}/referrers/{name}");
            link = Some(format!("<{to}?from={}>; rel=\"next\"", from + page));
        }
    }
    let media = "application/vnd.oci.image.index.v1+json";
    let index = json!({"schemaVersion": 2, "mediaType": media, "manifests": entries});
    let answer = Answer { body: index.to_string().into_bytes(), ..Answer::new(200) };
    let answer = answer.with("Content-Type", media);
    let answer = answer.with("Link", "</v2/>; rel=\"first\"");
    link.into_iter().fold(answer, |answer, link| answer.with("Link", link))
}
