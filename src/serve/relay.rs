//! A relay: one registry, asked through this program's own client on behalf of a program that has no
//! other network.
//!
//! The program sees addresses of the relay only, so it learns neither where the registry is nor how
//! one is known there. It can ask for packages and for the files that their documents named; a
//! credential goes to the origin that it is for, and nowhere else.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use url::Url;

use super::http::{Body, Request, Response, decode};
use super::npm::{self, Ask};
use super::server::Site;
use super::{address, simple};
use crate::digest::Digest;
use crate::fetch::{Client, Document, FetchError, Headers, Login};

/// Largest document of a registry; the whole history of the largest packages takes a quarter of it.
const DOCUMENT: u64 = 256 << 20;
/// Largest file that a resolver may look into.
const FILE: u64 = 1 << 30;

/// A registry's address, and how one is known there.
#[derive(Clone)]
pub struct Upstream {
    pub url: Url,
    pub login: Login,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").field("host", &self.url.host_str()).finish_non_exhaustive()
    }
}

/// What a relay stands for.
#[derive(Clone, Debug)]
pub enum Registry {
    /// By the scope (`@acme`) that they serve, `""` for all other packages. All of them are at the
    /// relay's own address.
    Npm(BTreeMap<String, Upstream>),
    /// Simple indexes, the first at `/0/` of the relay, the second at `/1/`.
    Python(Vec<Upstream>),
}

/// Answers one program.
pub struct Relay<'a> {
    client: &'a Client,
    registry: Registry,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Where files are that documents named, by their path at the relay, decoded.
    named: BTreeMap<String, Named>,
    log: Vec<Answered>,
}

/// A request that was answered.
struct Answered {
    /// What was asked, and what it came to.
    line: String,
    /// Whether it says what went wrong, rather than that something is not there.
    fault: bool,
}

/// A file that a document named.
#[derive(Clone)]
struct Named {
    /// Its address at the relay.
    shown: String,
    url: Url,
    login: Login,
}

impl<'a> Relay<'a> {
    pub fn new(client: &'a Client, registry: Registry) -> Self {
        Relay { client, registry, state: Mutex::default() }
    }

    /// What was asked, a line each: for the program's log.
    pub fn log(&self) -> Vec<String> {
        self.state().log.iter().map(|answered| answered.line.clone()).collect()
    }

    /// What could not be answered, for a reason that the program may not have told.
    pub fn failures(&self) -> Vec<String> {
        let state = self.state();
        let faults = state.log.iter().filter(|answered| answered.fault);
        faults.map(|answered| answered.line.clone()).collect()
    }

    /// Where the files really are that had addresses of the relay's.
    pub fn origins(&self) -> BTreeMap<String, Url> {
        let origin = |named: &Named| (named.shown.clone(), named.url.clone());
        self.state().named.values().map(origin).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn relay(&self, request: &Request) -> Result<Response, Refusal> {
        match &self.registry {
            Registry::Npm(upstreams) => self.relay_npm(upstreams, request),
            Registry::Python(indexes) => self.relay_python(indexes, request),
        }
    }

    fn relay_npm(
        &self,
        upstreams: &BTreeMap<String, Upstream>,
        request: &Request,
    ) -> Result<Response, Refusal> {
        let ask = npm::parse_path(&request.path).ok_or(Refusal::Strange)?;
        let (Ask::Document { name, .. } | Ask::File { name, .. }) = &ask;
        let upstream = upstreams.get(npm::scope_of(name)).or_else(|| upstreams.get(""));
        let upstream = upstream.ok_or(Refusal::Strange)?;
        match ask {
            Ask::Document { name, version } => {
                let segments: Vec<&str> = std::iter::once(&*name).chain(version).collect();
                let document = self.get(
                    &format!("package `{name}`"),
                    &[below(&upstream.url, &segments)?],
                    &Headers {
                        accept: request.accept.clone(),
                        login: upstream.login.clone(),
                        form: None,
                    },
                    DOCUMENT,
                )?;
                let text = String::from_utf8(document.bytes).map_err(|_| Refusal::Damaged)?;
                let rewritten = npm::rewrite(&text, |url| self.name_tarball(upstream, &name, url));
                let body = rewritten.map_err(|_| Refusal::Damaged)?.into_bytes();
                let media_type = document.media_type.unwrap_or("application/json".to_owned());
                Ok(Response::ok(media_type, Body::Bytes(body)))
            }
            Ask::File { name, file } => {
                let path = format!("{name}/-/{}", file.join("/"));
                let mut urls = Vec::new();
                if file.len() == 1 {
                    let segments: Vec<&str> =
                        name.split('/').chain(["-"]).chain(file.iter().copied()).collect();
                    urls.push(below(&upstream.url, &segments)?);
                }
                self.relay_file(&path, urls, upstream)
            }
        }
    }

    /// The relay's address for a tarball. One that lies as in every registry keeps its path, though
    /// its document may name another host: a mirror hands on documents of the registry it mirrors.
    fn name_tarball(&self, upstream: &Upstream, name: &str, url: &str) -> Option<String> {
        let url = Url::parse(url).ok().filter(is_http)?;
        let file = url.path_segments()?.next_back()?.to_owned();
        let path = match url.path().ends_with(&format!("/{name}/-/{file}")) {
            true => format!("{name}/-/{file}"),
            false => format!("{name}/-/{}/{file}", token(&url)),
        };
        Some(self.name(path, url, upstream))
    }

    fn name(&self, path: String, url: Url, upstream: &Upstream) -> String {
        let same = url.origin() == upstream.url.origin();
        // requests are compared by what they mean
        let key = decode(&path).unwrap_or_else(|| path.clone());
        let login = match &upstream.login {
            // npm's settings say it of each address
            login if same || *login == Login::Npm => login.clone(),
            _ => Login::Nobody,
        };
        let shown = format!("{}/{path}", address());
        self.state().named.insert(key, Named { shown: shown.clone(), url, login });
        shown
    }

    /// `home`: where a registry has the file, if its document does not know better.
    fn relay_file(
        &self,
        path: &str,
        home: Vec<Url>,
        upstream: &Upstream,
    ) -> Result<Response, Refusal> {
        let named = self.state().named.get(path).cloned();
        if named.is_none() && home.is_empty() {
            return Err(Refusal::Strange);
        }
        let label = format!("file `{path}`");
        let headers = |login| Headers { login, ..Headers::default() };
        let mut result = Err(Refusal::Strange);
        if !home.is_empty() {
            result = self.get(&label, &home, &headers(upstream.login.clone()), FILE);
        }
        if let (Err(_), Some(named)) = (&result, named) {
            result = self.get(&label, &[named.url], &headers(named.login), FILE);
        }
        Ok(Response::ok("application/octet-stream", Body::Bytes(result?.bytes)))
    }

    fn relay_python(&self, indexes: &[Upstream], request: &Request) -> Result<Response, Refusal> {
        let parts: Vec<&str> = request.path.iter().map(String::as_str).collect();
        match parts.as_slice() {
            ["file", token, name] => self.relay_wheel(token, name),
            [index, project] | [index, project, ""] if is_project(project) => {
                let index = index.parse().ok().and_then(|at: usize| indexes.get(at));
                self.relay_page(index.ok_or(Refusal::Strange)?, project, request)
            }
            _ => Err(Refusal::Strange),
        }
    }

    fn relay_page(
        &self,
        index: &Upstream,
        project: &str,
        request: &Request,
    ) -> Result<Response, Refusal> {
        let url = below(&index.url, &[project, ""])?;
        let headers =
            Headers { accept: request.accept.clone(), login: index.login.clone(), form: None };
        let page = self.get(&format!("project `{project}`"), &[url], &headers, DOCUMENT)?;
        let base = Url::parse(&page.url).map_err(|_| Refusal::Damaged)?;
        let text = String::from_utf8(page.bytes).map_err(|_| Refusal::Damaged)?;
        let change = |url: &str| self.name_wheel(index, &base, url);
        // a static server may not know what it serves
        let json = text.trim_start().starts_with('{');
        let (usual, body) = match json {
            true => {
                (simple::JSON, simple::rewrite_json(&text, change).map_err(|_| Refusal::Damaged)?)
            }
            false => (simple::HTML, simple::rewrite_html(&text, change)),
        };
        let told = page.media_type.filter(|told| told.contains("json") == json);
        let media_type = told.unwrap_or(usual.to_owned());
        Ok(Response::ok(media_type, Body::Bytes(body.into_bytes())))
    }

    /// The relay's address for a file; its fragment, where an older page has the digest, stays.
    fn name_wheel(&self, index: &Upstream, base: &Url, url: &str) -> Option<String> {
        let mut url = base.join(url).ok().filter(is_http)?;
        let fragment = url.fragment().map(|fragment| format!("#{fragment}")).unwrap_or_default();
        url.set_fragment(None);
        let file = url.path_segments()?.next_back()?.to_owned();
        let path = format!("file/{}/{file}", token(&url));
        Some(self.name(path, url, index) + &fragment)
    }

    /// A file, or its metadata beside it (PEP 658).
    fn relay_wheel(&self, token: &str, name: &str) -> Result<Response, Refusal> {
        let find = |name: &str| self.state().named.get(&format!("file/{token}/{name}")).cloned();
        let mut named = find(name);
        if let (None, Some(wheel)) = (&named, name.strip_suffix(".metadata")) {
            named = find(wheel);
            if let Some(named) = &mut named {
                let path = format!("{}.metadata", named.url.path());
                named.url.set_path(&path);
            }
        }
        let named = named.ok_or(Refusal::Strange)?;
        let headers = Headers { login: named.login, ..Headers::default() };
        let document = self.get(&format!("file `{name}`"), &[named.url], &headers, FILE)?;
        Ok(Response::ok("application/octet-stream", Body::Bytes(document.bytes)))
    }

    fn get(
        &self,
        label: &str,
        urls: &[Url],
        headers: &Headers,
        limit: u64,
    ) -> Result<Document, Refusal> {
        self.client.get_with(label, urls, headers, limit).map_err(Refusal::Fetch)
    }
}

impl Site for Relay<'_> {
    fn answer(&self, request: &Request) -> Response {
        let (response, said, fault) = match self.relay(request) {
            Ok(response) => (response, "relayed".to_owned(), false),
            Err(refusal) => {
                let said = refusal.to_string();
                (Response::refusal(refusal.status(), &said), said, refusal.status() != 404)
            }
        };
        self.state().log.push(Answered { line: format!("{}: {said}", request.label()), fault });
        response
    }
}

/// Why something is not relayed.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("refused: no package of the registry, and no file that one of them named")]
    Strange,
    #[error("the registry's answer is damaged")]
    Damaged,
    #[error(transparent)]
    Fetch(FetchError),
}

impl Refusal {
    fn status(&self) -> u16 {
        match self {
            Refusal::Strange => 403,
            Refusal::Fetch(
                FetchError::Status { status, .. } | FetchError::Elsewhere { status, .. },
            ) => *status,
            Refusal::Fetch(FetchError::Unauthorized { .. }) => 401,
            Refusal::Damaged | Refusal::Fetch(_) => 502,
        }
    }
}

fn is_http(url: &Url) -> bool {
    ["http", "https"].contains(&url.scheme()) && url.has_host()
}

/// Normalised or not, a project's name is letters, digits and three signs (PEP 508).
fn is_project(name: &str) -> bool {
    let sign = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
    !name.is_empty() && !name.starts_with('.') && name.bytes().all(sign)
}

/// A file's name at the relay; addresses may have tokens in them.
fn token(url: &Url) -> String {
    Digest::of(url.as_str().as_bytes()).hex()[..32].to_owned()
}

/// An address below a registry's.
fn below(base: &Url, segments: &[&str]) -> Result<Url, Refusal> {
    let mut url = base.clone();
    url.path_segments_mut().map_err(|()| Refusal::Strange)?.pop_if_empty().extend(segments);
    Ok(url)
}
