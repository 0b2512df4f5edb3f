//! A shelf: what is locked, as a registry would show it, and nothing else.
//!
//! Tools that install (`npm`, `pnpm`, `pip`, `uv`) work unchanged against it: a package has the
//! versions that are locked, its document is what its own tarball says of itself, and its files are
//! the store's. What is asked for and not locked is remembered: that is what a step lacked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use flate2::read::MultiGzDecoder;
use serde_json::{Value, json};

use super::address;
use super::http::{Body, Request, Response};
use super::npm::{self, Ask};
use super::server::Site;
use crate::digest::Integrity;
use crate::tarball::{Limits, MemberKind, Reader};

/// Where the Python index is, below the server's address: no package of npm's has such a name.
const PYTHON: [&str; 2] = ["-", "simple"];
/// When all releases were made, for tools that ask.
const RELEASED: &str = "2025-01-01T00:00:00.000Z";
/// How far a tarball is looked into for its `package.json`.
const LOOKED_INTO: u64 = 1 << 30;
/// Largest `package.json`.
const MANIFEST: u64 = 8 << 20;

/// The ecosystem of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shelving {
    Npm,
    Wheel,
}

/// A locked file, as the store has it.
#[derive(Clone, Debug)]
pub struct Shelved {
    pub kind: Shelving,
    /// As its registry names it.
    pub name: String,
    pub version: String,
    pub integrity: Integrity,
    /// Of a wheel; a tarball's follows from its name and version.
    pub file_name: String,
    pub path: PathBuf,
}

/// Answers one step.
pub struct Shelf {
    npm: BTreeMap<String, Vec<Shelved>>,
    /// By normal name.
    wheels: BTreeMap<String, Vec<Shelved>>,
    /// What was asked for and is not there.
    missed: Mutex<BTreeSet<String>>,
}

/// The index of Python's that a step finds on its shelf.
pub fn python_index() -> String {
    format!("{}/{}/", address(), PYTHON.join("/"))
}

impl Shelf {
    pub fn new(files: impl IntoIterator<Item = Shelved>) -> Self {
        let mut shelf =
            Shelf { npm: BTreeMap::new(), wheels: BTreeMap::new(), missed: Mutex::default() };
        for file in files {
            let (place, name) = match file.kind {
                Shelving::Npm => (&mut shelf.npm, file.name.clone()),
                Shelving::Wheel => (&mut shelf.wheels, normal(&file.name)),
            };
            place.entry(name).or_default().push(file);
        }
        shelf
    }

    /// What was asked for and is not locked, as people say it.
    pub fn missed(&self) -> Vec<String> {
        let missed = self.missed.lock().unwrap_or_else(PoisonError::into_inner);
        missed.iter().cloned().collect()
    }

    fn miss(&self, what: String) -> Response {
        let response = Response::refusal(404, &format!("{what} is not locked"));
        self.missed.lock().unwrap_or_else(PoisonError::into_inner).insert(what);
        response
    }

    fn answer_npm(&self, request: &Request) -> Response {
        match npm::parse_path(&request.path) {
            None => self.miss(format!("`{}`", request.label())),
            Some(Ask::Document { name, version }) => {
                let Some(files) = self.npm.get(&name) else {
                    return self.miss(format!("npm package `{name}`"));
                };
                let document = match version {
                    None => document(&name, files),
                    Some(asked) => {
                        let latest = latest(files).filter(|_| asked == "latest");
                        let exact = files.iter().find(|file| file.version == asked);
                        match exact.or(latest) {
                            Some(file) => release(&name, file),
                            None => return self.miss(format!("npm package `{name}` {asked}")),
                        }
                    }
                };
                match document {
                    Ok(document) => {
                        let body = Body::Bytes(document.to_string().into_bytes());
                        Response::ok("application/json", body)
                    }
                    Err(reason) => Response::refusal(500, &reason),
                }
            }
            Some(Ask::File { name, file }) => {
                let files = self.npm.get(&name).into_iter().flatten();
                let mut found = files.filter(|known| file == [tarball(&name, &known.version)]);
                match found.next() {
                    Some(found) => shelved(found),
                    None => self.miss(format!("file `{}` of npm package `{name}`", file.join("/"))),
                }
            }
        }
    }

    fn answer_python(&self, rest: &[&str]) -> Response {
        match rest {
            [project] | [project, ""] if !project.is_empty() => {
                match self.wheels.get(&normal(project)) {
                    Some(files) => Response::ok("text/html", Body::Bytes(page(files).into_bytes())),
                    None => self.miss(format!("Python project `{project}`")),
                }
            }
            [digest, file] => {
                let all = self.wheels.values().flatten();
                let mut found = all
                    .filter(|known| known.file_name == *file && known.integrity.hex() == *digest);
                match found.next() {
                    Some(found) => shelved(found),
                    None => self.miss(format!("Python file `{file}`")),
                }
            }
            _ => self.miss("the list of all Python projects".to_owned()),
        }
    }
}

impl Site for Shelf {
    fn answer(&self, request: &Request) -> Response {
        let parts: Vec<&str> = request.path.iter().map(String::as_str).collect();
        match parts.strip_prefix(&PYTHON) {
            Some(rest) => self.answer_python(rest),
            None => self.answer_npm(request),
        }
    }
}

fn shelved(file: &Shelved) -> Response {
    Response::ok("application/octet-stream", Body::File(file.path.clone()))
}

/// `@a/b` at 1.0.0: `b-1.0.0.tgz`.
fn tarball(name: &str, version: &str) -> String {
    format!("{}-{version}.tgz", name.rsplit('/').next().unwrap_or(name))
}

/// A package with its locked versions.
fn document(name: &str, files: &[Shelved]) -> Result<Value, String> {
    let mut versions = serde_json::Map::new();
    let mut times = serde_json::Map::new();
    for file in files {
        versions.insert(file.version.clone(), release(name, file)?);
        times.insert(file.version.clone(), RELEASED.into());
    }
    let latest = latest(files).map(|file| file.version.as_str());
    Ok(json!({"name": name, "dist-tags": {"latest": latest}, "versions": versions, "time": times}))
}

/// What a tarball says of itself, and where it is.
fn release(name: &str, file: &Shelved) -> Result<Value, String> {
    let mut manifest = read_manifest(file)
        .ok_or_else(|| format!("the tarball of `{name}` {} has no package.json", file.version))?;
    manifest["name"] = name.into();
    manifest["version"] = file.version.clone().into();
    let url = format!("{}/{name}/-/{}", address(), tarball(name, &file.version));
    manifest["dist"] = json!({"tarball": url, "integrity": file.integrity.to_sri()});
    Ok(manifest)
}

fn read_manifest(file: &Shelved) -> Option<Value> {
    let tar = MultiGzDecoder::new(File::open(&file.path).ok()?);
    let mut reader = Reader::new(tar, Limits::bytes(LOOKED_INTO));
    while let Some(member) = reader.next_member().ok()? {
        let label = member.label();
        let mut parts = label.split('/').filter(|part| *part != ".");
        // whatever the first directory is called
        let is_manifest = parts.nth(1) == Some("package.json") && parts.next().is_none();
        if is_manifest && member.kind == MemberKind::File {
            let mut text = Vec::new();
            (&mut reader).take(MANIFEST).read_to_end(&mut text).ok()?;
            let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
            return serde_json::from_slice(text).ok().filter(Value::is_object);
        }
    }
    None
}

/// The highest version, releases before what comes before them.
fn latest(files: &[Shelved]) -> Option<&Shelved> {
    files.iter().max_by_key(|file| {
        let (version, pre) = match file.version.split_once('-') {
            Some((version, pre)) => (version, Some(pre)),
            None => (file.version.as_str(), None),
        };
        let numbers: Vec<u64> =
            version.split(['.', '+']).map(|part| part.parse().unwrap_or(0)).collect();
        (pre.is_none(), numbers, pre.map(str::to_owned))
    })
}

/// A project's page (PEP 503).
fn page(files: &[Shelved]) -> String {
    let link = |file: &Shelved| {
        let Shelved { file_name, integrity, .. } = file;
        let encoded = file_name.replace('+', "%2B");
        format!(
            "<a href=\"../{hex}/{encoded}#{algorithm}={hex}\">{file_name}</a><br>\n",
            hex = integrity.hex(),
            algorithm = integrity.algorithm(),
        )
    };
    let links: String = files.iter().map(link).collect();
    format!("<!DOCTYPE html>\n<html><body>\n{links}</body></html>\n")
}

/// The normal form of a project's name (PEP 503).
fn normal(name: &str) -> String {
    let parts = name.split(['-', '_', '.']).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("-").to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn file(kind: Shelving, name: &str, version: &str, path: PathBuf) -> Shelved {
        let file_name = format!("{name}-{version}-py3-none-any.whl");
        let integrity = Digest::of(b"x").into();
        Shelved { kind, name: name.into(), version: version.into(), integrity, file_name, path }
    }

    fn ask(shelf: &Shelf, path: &str) -> (u16, String) {
        let text = format!("GET {path} HTTP/1.1\r\n\r\n");
        let request = super::super::http::read_request(&mut text.as_bytes()).unwrap();
        let response = shelf.answer(&request);
        let body = match response.body {
            Body::Bytes(bytes) => String::from_utf8(bytes).unwrap(),
            Body::File(path) => path.display().to_string(),
        };
        (response.status, body)
    }

    /// A tarball with this `package.json`.
    fn tarball(dir: &std::path::Path, manifest: &str) -> PathBuf {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(manifest.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, "package/package.json", manifest.as_bytes()).unwrap();
        let path = dir.join("a.tgz");
        let mut gz =
            flate2::write::GzEncoder::new(File::create(&path).unwrap(), Default::default());
        std::io::Write::write_all(&mut gz, &tar.into_inner().unwrap()).unwrap();
        gz.finish().unwrap();
        path
    }

    #[test]
    fn npm_packages_have_the_versions_that_are_locked() {
        let home = tempfile::tempdir().unwrap();
        let path = tarball(home.path(), r#"{"name": "else", "bin": "x.js"}"#);
        let versions = ["1.9.0", "1.10.0", "2.0.0-rc.1"];
        let shelf =
            Shelf::new(versions.map(|version| file(Shelving::Npm, "@a/b", version, path.clone())));
        let (status, document) = ask(&shelf, "/@a%2fb");
        assert_eq!(status, 200);
        let document: Value = serde_json::from_str(&document).unwrap();
        assert_eq!(document["dist-tags"]["latest"], "1.10.0");
        let one = &document["versions"]["1.9.0"];
        assert_eq!((&one["name"], &one["bin"]), (&"@a/b".into(), &"x.js".into()));
        let url = one["dist"]["tarball"].as_str().unwrap();
        assert_eq!(url, format!("{}/@a/b/-/b-1.9.0.tgz", address()));
        assert_eq!(ask(&shelf, "/@a/b/-/b-1.9.0.tgz"), (200, path.display().to_string()));
        assert_eq!(ask(&shelf, "/@a/b/latest").0, 200);
        assert_eq!(shelf.missed(), [""; 0]);
        for missed in ["/c", "/@a/b/3.0.0", "/@a/b/-/b-3.0.0.tgz", "/-/ping"] {
            assert_eq!(ask(&shelf, missed).0, 404, "{missed}");
        }
        assert_eq!(
            shelf.missed(),
            [
                "`GET /-/ping`",
                "file `b-3.0.0.tgz` of npm package `@a/b`",
                "npm package `@a/b` 3.0.0",
                "npm package `c`"
            ]
        );
    }

    #[test]
    fn python_projects_have_the_files_that_are_locked() {
        let shelf = Shelf::new([file(Shelving::Wheel, "Foo_Bar", "1+x", "/w".into())]);
        let (status, page) = ask(&shelf, "/-/simple/foo-bar/");
        assert_eq!(status, 200);
        let hex = Digest::of(b"x").hex();
        assert!(
            page.contains(&format!(
                "<a href=\"../{hex}/Foo_Bar-1%2Bx-py3-none-any.whl#sha256={hex}\">"
            )),
            "{page}"
        );
        let file = format!("/-/simple/{hex}/Foo_Bar-1%2Bx-py3-none-any.whl");
        assert_eq!(ask(&shelf, &file), (200, "/w".to_owned()));
        assert_eq!(ask(&shelf, "/-/simple/baz/").0, 404);
        assert_eq!(shelf.missed(), ["Python project `baz`"]);
    }
}
