//! A registry of npm's of the tests' own, over packages that they make.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha512};

use super::http::Server;

/// A registry at the root of a server.
pub struct Registry {
    pub server: Server,
    packages: BTreeMap<String, BTreeMap<String, (Value, String)>>,
}

/// A package at a version.
pub struct Package {
    name: String,
    version: String,
    manifest: Value,
    files: Vec<(String, String)>,
    /// Those of them that may be executed.
    programs: Vec<String>,
    published: String,
}

impl Package {
    pub fn new(name: &str, version: &str) -> Self {
        Package {
            name: name.to_owned(),
            version: version.to_owned(),
            manifest: json!({"name": name, "version": version}),
            files: Vec::new(),
            programs: Vec::new(),
            published: "2025-01-01".to_owned(),
        }
    }

    pub fn depends(mut self, name: &str, range: &str) -> Self {
        self.manifest["dependencies"][name] = range.into();
        self
    }

    pub fn bin(mut self, name: &str, file: &str) -> Self {
        self.manifest["bin"][name] = file.into();
        self
    }

    /// What it runs on: `node`, and which versions.
    pub fn engine(mut self, name: &str, range: &str) -> Self {
        self.manifest["engines"][name] = range.into();
        self
    }

    pub fn licence(mut self, text: &str) -> Self {
        self.manifest["license"] = text.into();
        self
    }

    pub fn script(mut self, event: &str, command: &str) -> Self {
        self.manifest["scripts"][event] = command.into();
        self
    }

    pub fn file(mut self, path: &str, text: &str) -> Self {
        self.files.push((path.to_owned(), text.to_owned()));
        self
    }

    pub fn program(mut self, path: &str, text: &str) -> Self {
        self.programs.push(path.to_owned());
        self.file(path, text)
    }

    /// `2025-07-01`.
    pub fn published(mut self, day: &str) -> Self {
        self.published = day.to_owned();
        self
    }

    fn tarball(&self) -> Vec<u8> {
        let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut tar = tar::Builder::new(gzip);
        let manifest = ("package.json".to_owned(), self.manifest.to_string());
        for (path, text) in self.files.iter().chain([&manifest]) {
            let mut header = tar::Header::new_gnu();
            header.set_mode(if self.programs.contains(path) { 0o755 } else { 0o644 });
            header.set_size(text.len() as u64);
            tar.append_data(&mut header, format!("package/{path}"), text.as_bytes()).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap()
    }
}

impl Registry {
    pub fn of(packages: impl IntoIterator<Item = Package>) -> Self {
        let mut registry = Registry { server: Server::start(), packages: BTreeMap::new() };
        packages.into_iter().for_each(|package| registry.add(package));
        registry
    }

    pub fn add(&mut self, package: Package) {
        let Package { name, version, published, .. } = &package;
        let bytes = package.tarball();
        let base = name.rsplit('/').next().unwrap();
        let path = format!("/{name}/-/{base}-{version}.tgz");
        let mut manifest = package.manifest.clone();
        manifest["dist"] = json!({
            "tarball": self.server.url(&path).as_str(),
            "integrity": format!("sha512-{}", BASE64_STANDARD.encode(Sha512::digest(&bytes))),
        });
        self.server.put(&path, bytes);
        let versions = self.packages.entry(name.clone()).or_default();
        versions.insert(version.clone(), (manifest, format!("{published}T00:00:00.000Z")));
        let latest = version.clone();
        let document = json!({
            "name": name,
            "dist-tags": {"latest": latest},
            "versions": versions.iter().map(|(version, (manifest, _))| (version.clone(), manifest.clone())).collect::<BTreeMap<_, _>>(),
            "time": versions.iter().map(|(version, (_, time))| (version.clone(), time.clone())).collect::<BTreeMap<_, _>>(),
        })
        .to_string();
        for path in [name.clone(), name.replace('/', "%2f"), name.replace('/', "%2F")] {
            self.server.put(&format!("/{path}"), document.clone());
        }
    }

    /// What a lock says of a package: its version and the digest of its tarball.
    pub fn locked(&self, name: &str, version: &str) -> Value {
        let (manifest, _) = &self.packages[name][version];
        json!({"version": version, "integrity": manifest["dist"]["integrity"]})
    }

    /// The digest that the registry gives of a version.
    pub fn integrity(&self, name: &str, version: &str) -> &str {
        self.packages[name][version].0["dist"]["integrity"].as_str().unwrap()
    }

    pub fn url(&self) -> String {
        self.server.url("/").to_string()
    }
}
