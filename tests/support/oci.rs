//! Registries: Debian's own on loopback, and layouts of images made by hand.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sbx::digest::Digest;

use super::deb::{Compression, Member, tar_of};
use super::tool;

/// `docker-registry`, with a storage of its own; ended when dropped.
pub struct Registry {
    child: Child,
    pub host: String,
    _dir: tempfile::TempDir,
}

impl Registry {
    pub fn start() -> Self {
        Self::run("")
    }

    /// One that lets nobody in but this user.
    pub fn guarded(user: &str, password: &str) -> Self {
        let line = Command::new("htpasswd").args(["-Bbn", user, password]).output();
        let line = line.expect("`htpasswd` must be installed (tests/run does it)").stdout;
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), line).unwrap();
        let path = file.keep().unwrap().1;
        Self::run(&format!("auth:\n  htpasswd:\n    realm: tests\n    path: {}\n", path.display()))
    }

    /// One that speaks TLS, and lets in whose certificate this authority made.
    pub fn tls(own: &[PathBuf; 2], authority: &Path) -> Self {
        let [cert, key] = own.each_ref().map(|path| path.display().to_string());
        let clients = authority.display();
        // the file's `http` is open where this goes on
        Self::run(&format!(
            "  tls:\n    certificate: {cert}\n    key: {key}\n    clientcas:\n      - {clients}\n"
        ))
    }

    fn run(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        let root = dir.path().join("storage");
        let config = format!(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  \
             filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {host}\n{more}",
            root.display()
        );
        let file = dir.path().join("config.yml");
        fs::write(&file, config).unwrap();
        let child = Command::new("docker-registry")
            .args(["serve", file.to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("`docker-registry` must be installed (tests/run does it)");
        let registry = Registry { child, host, _dir: dir };
        let start = Instant::now();
        while TcpStream::connect(&registry.host).is_err() {
            assert!(start.elapsed() < Duration::from_secs(30), "the registry does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }

    /// Copies an image of a layout in; `arguments` are skopeo's.
    pub fn push(&self, layout: &str, name: &str, arguments: &[&str]) -> String {
        let reference = format!("{}/{name}", self.host);
        let to = format!("docker://{reference}");
        let plain = ["--insecure-policy", "copy", "--dest-tls-verify=false"];
        let from = format!("oci:{layout}");
        tool("skopeo", &[&plain[..], arguments, &[&from, &to]].concat());
        reference
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}

/// An image in the making.
#[derive(Clone)]
pub struct Image {
    pub layers: Vec<(Vec<u8>, &'static str)>,
    pub diff_ids: Vec<Digest>,
    pub config: String,
    pub architecture: &'static str,
}

pub const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

impl Image {
    pub fn new() -> Self {
        let config = r#"{"Env":["PATH=/opt/bin:/usr/bin","BASE=1"],"Cmd":["/bin/sh"],"WorkingDir":"/srv","Labels":{"a":"b"}}"#;
        Image { layers: vec![], diff_ids: vec![], config: config.to_owned(), architecture: "amd64" }
    }

    pub fn layer(self, members: &[Member]) -> Self {
        self.layer_as(members, Compression::Gzip, GZIP)
    }

    pub fn layer_as(
        mut self,
        members: &[Member],
        packed: Compression,
        media: &'static str,
    ) -> Self {
        let tar = tar_of(members);
        self.diff_ids.push(Digest::of(&tar));
        self.layers.push((packed.apply(&tar), media));
        self
    }

    pub fn config_bytes(&self) -> Vec<u8> {
        let ids: Vec<String> = self.diff_ids.iter().map(|id| format!("\"{id}\"")).collect();
        format!(
            r#"{{"architecture":"{}","os":"linux","config":{},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            self.architecture,
            self.config,
            ids.join(",")
        )
        .into_bytes()
    }

    pub fn manifest_bytes(&self) -> Vec<u8> {
        let config = self.config_bytes();
        let layers: Vec<String> =
            self.layers.iter().map(|(bytes, media)| descriptor(media, bytes)).collect();
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{},"layers":[{}]}}"#,
            descriptor(CONFIG, &config),
            layers.join(",")
        )
        .into_bytes()
    }

    /// Writes an image layout with this image under a tag.
    pub fn write(&self, dir: &Path, tag: &str) {
        fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let manifest = self.manifest_bytes();
        let blobs = self.layers.iter().map(|(bytes, _)| bytes.clone());
        for bytes in blobs.chain([self.config_bytes(), manifest.clone()]) {
            fs::write(dir.join("blobs/sha256").join(Digest::of(&bytes).hex()), bytes).unwrap();
        }
        let name = format!(r#","annotations":{{"org.opencontainers.image.ref.name":"{tag}"}}}}"#);
        let entry = descriptor(MANIFEST, &manifest).replace('}', &name);
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{entry}]}}"#);
        fs::write(dir.join("index.json"), index).unwrap();
    }
}

pub fn descriptor(media: &str, bytes: &[u8]) -> String {
    let (digest, size) = (Digest::of(bytes), bytes.len());
    format!(r#"{{"mediaType":"{media}","digest":"{digest}","size":{size}}}"#)
}

/// Holds a document against the image-spec's own schema, as Debian packages it.
#[track_caller]
pub fn check_schema(kind: &str, document: &str) {
    let dir = "/usr/share/gocode/src/github.com/opencontainers/image-spec/schema";
    assert!(
        Path::new(dir).is_dir(),
        "the image-spec's schemas must be installed (tests/run does it)"
    );
    let script = r#"
import json, pathlib, sys
from jsonschema import Draft4Validator, RefResolver
root, kind, document = sys.argv[1:]
schemas = {path.name: json.loads(path.read_text()) for path in pathlib.Path(root).glob("*.json")}
places = ["", "descriptor/", "image/", "image/descriptor/", "image/index/", "image/manifest/"]
store = {"https://opencontainers.org/schema/" + place + name: schema
         for place in places for name, schema in schemas.items()}
schema = schemas[kind + "-schema.json"]
resolver = RefResolver.from_schema(schema, store=store)
Draft4Validator(schema, resolver=resolver).validate(json.loads(document))
"#;
    tool("/usr/bin/python3", &["-c", script, dir, kind, document]);
}
