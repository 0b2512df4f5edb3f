//! The documents of images: indexes, manifests and configs, of OCI and of Docker's schema 2.
//!
//! What a document is, its own words and the server's must agree on, and its content must be that of
//! its kind: a registry that calls an index a manifest gets an error, not the benefit of the doubt.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::packing::Packing;
use crate::digest::Digest;
use crate::media;
use crate::plain::plain;
use crate::platform::Platform;

const INDEXES: [&str; 2] =
    [media::INDEX, "application/vnd.docker.distribution.manifest.list.v2+json"];
const MANIFESTS: [&str; 2] =
    [media::MANIFEST, "application/vnd.docker.distribution.manifest.v2+json"];
const SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1";
const CONFIGS: [&str; 2] = [media::CONFIG, "application/vnd.docker.container.image.v1+json"];
/// Layers that registries may not hand on.
const FOREIGN: [&str; 2] = [
    "application/vnd.docker.image.rootfs.foreign.diff.",
    "application/vnd.oci.image.layer.nondistributable.",
];

/// What a registry is asked for.
pub fn accepted() -> String {
    [INDEXES, MANIFESTS].concat().join(", ")
}

/// A document that is no image that can be stood on. What others wrote is shown plainly.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DocumentError {
    #[error("its {what} is no document that can be read: {reason}")]
    Json { what: &'static str, reason: String },
    #[error("its manifest is served as `{served}` and calls itself `{own}`")]
    Disagree { served: String, own: String },
    #[error("it is served as `{0}`, which is neither an index nor a manifest of an image")]
    Type(String),
    #[error("its manifest says `{said}` and is none")]
    Lies { said: String },
    #[error("its manifest is of schema 1, which names no layer by what it holds")]
    Schema1,
    #[error("it is not for {platform}; {}", listed(found))]
    NoPlatform {
        platform: Platform,
        /// What there is; nothing where none of it says what it is for.
        found: Vec<String>,
    },
    #[error("it is for {found}, not for {platform}")]
    OtherPlatform { platform: Platform, found: String },
    #[error("it is an artifact of type `{0}`, not an image")]
    Artifact(String),
    #[error("layer {digest} may not be distributed (`{media_type}`)")]
    Foreign { digest: String, media_type: String },
    #[error("layer {digest} is of the unknown form `{media_type}`")]
    Form { digest: String, media_type: String },
    #[error("its manifest has {layers} layers and its config {diff_ids}")]
    Count { layers: usize, diff_ids: usize },
    #[error("`{0}` of its config cannot stand in an image")]
    Config(String),
}

fn listed(found: &[String]) -> String {
    match found {
        [] => "what it lists does not say what it is for".to_owned(),
        found => format!("there are: {}", found.join(", ")),
    }
}

/// A manifest or an index, by what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    Index(Vec<Entry>),
    Image(Manifest),
}

/// Where a document or a layer is (OCI image-spec, descriptor).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

/// One image of an index.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Entry {
    #[serde(flatten)]
    pub descriptor: Descriptor,
    #[serde(default)]
    platform: Option<EntryPlatform>,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct EntryPlatform {
    os: String,
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
}

impl EntryPlatform {
    fn label(&self) -> String {
        let variant = self.variant.as_ref().map(|variant| format!("/{variant}"));
        plain(&format!("{}/{}{}", self.os, self.architecture, variant.unwrap_or_default()))
    }
}

/// A config and layers, bottom first.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Manifest {
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

fn json<'a, T: Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<T, DocumentError> {
    serde_json::from_slice(bytes)
        .map_err(|error| DocumentError::Json { what, reason: plain(&error.to_string()) })
}

impl Document {
    /// Reads what a server calls `served`.
    pub fn parse(bytes: &[u8], served: Option<&str>) -> Result<Self, DocumentError> {
        let served = served.map(|text| text.split(';').next().unwrap_or_default().trim());
        if served.is_some_and(|served| served.starts_with(SCHEMA1)) {
            return Err(DocumentError::Schema1);
        }
        let value: Value = json("manifest", bytes)?;
        if value.get("schemaVersion").and_then(Value::as_u64) == Some(1) {
            return Err(DocumentError::Schema1);
        }
        let own = value.get("mediaType").and_then(Value::as_str);
        // a server without a word for it says that it is some JSON
        let served = served.filter(|served| !["", "application/json"].contains(served));
        let said = match (served, own) {
            (Some(served), Some(own)) if served != own => {
                let (served, own) = (plain(served), plain(own));
                return Err(DocumentError::Disagree { served, own });
            }
            (served, own) => served.or(own),
        };
        let is_index = match said {
            Some(said) if INDEXES.contains(&said) => true,
            Some(said) if MANIFESTS.contains(&said) => false,
            Some(said) => return Err(DocumentError::Type(plain(said))),
            None => value.get("manifests").is_some(),
        };
        let (must, must_not) =
            if is_index { ("manifests", "layers") } else { ("layers", "manifests") };
        if value.get(must).is_none() || value.get(must_not).is_some() {
            return Err(DocumentError::Lies { said: plain(said.unwrap_or("nothing")) });
        }
        if !is_index {
            return json("manifest", bytes).map(Document::Image);
        }
        #[derive(Deserialize)]
        struct Index {
            manifests: Vec<Entry>,
        }
        json::<Index>("index", bytes).map(|index| Document::Index(index.manifests))
    }
}

/// The image of an index that is for a platform.
pub fn pick(entries: &[Entry], platform: Platform) -> Result<&Descriptor, DocumentError> {
    let fits = |entry: &&Entry| {
        entry.platform.as_ref().is_some_and(|known| {
            known.os == "linux" && known.architecture == platform.architecture()
        })
    };
    if let Some(entry) = entries.iter().find(fits) {
        return Ok(&entry.descriptor);
    }
    let known = entries.iter().filter_map(|entry| entry.platform.as_ref());
    // what is for nothing is a note beside an image
    let mut found: Vec<String> =
        known.filter(|known| known.os != "unknown").map(EntryPlatform::label).collect();
    found.sort();
    found.dedup();
    Err(DocumentError::NoPlatform { platform, found })
}

impl Manifest {
    /// How each layer is packed; refuses what is no image.
    pub fn packings(&self) -> Result<Vec<Packing>, DocumentError> {
        if !CONFIGS.contains(&self.config.media_type.as_str()) {
            return Err(DocumentError::Artifact(plain(&self.config.media_type)));
        }
        let packing = |layer: &Descriptor| {
            let (digest, media_type) = (layer.digest.to_string(), plain(&layer.media_type));
            match layer.media_type.parse() {
                Ok(packing) => Ok(packing),
                Err(_) if FOREIGN.iter().any(|prefix| media_type.starts_with(prefix)) => {
                    Err(DocumentError::Foreign { digest, media_type })
                }
                Err(_) => Err(DocumentError::Form { digest, media_type }),
            }
        };
        self.layers.iter().map(packing).collect()
    }
}

/// The config of an image, as far as it matters to what stands on it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Config {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    rootfs: RootFs,
    #[serde(default)]
    config: Option<Process>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct RootFs {
    diff_ids: Vec<Digest>,
}

/// OCI image-spec, config, `config`. Lists may be null.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Process {
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    exposed_ports: Option<BTreeMap<String, Value>>,
    volumes: Option<BTreeMap<String, Value>>,
    stop_signal: Option<String>,
}

/// A setting of an image: its name and its words.
pub type Setting = (&'static str, Vec<String>);

impl Config {
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        json("config", bytes)
    }

    /// Holds it against a manifest; answers the digests of the uncompressed layers.
    pub fn diff_ids(
        &self,
        manifest: &Manifest,
        platform: Platform,
    ) -> Result<&[Digest], DocumentError> {
        if self.os != "linux" || self.architecture != platform.architecture() {
            let found = plain(&format!("{}/{}", self.os, self.architecture));
            return Err(DocumentError::OtherPlatform { platform, found });
        }
        let (layers, diff_ids) = (manifest.layers.len(), self.rootfs.diff_ids.len());
        match layers == diff_ids {
            true => Ok(&self.rootfs.diff_ids),
            false => Err(DocumentError::Count { layers, diff_ids }),
        }
    }

    /// All that images which stand on it inherit.
    pub fn settings(&self) -> Result<Vec<Setting>, DocumentError> {
        let Some(process) = &self.config else { return Ok(Vec::new()) };
        let mut settings: Vec<Setting> = Vec::new();
        for variable in process.env.iter().flatten() {
            let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
            settings.push(("env", vec![name.to_owned(), value.to_owned()]));
        }
        for (name, words) in [("entrypoint", &process.entrypoint), ("cmd", &process.cmd)] {
            settings.extend(words.clone().filter(|words| !words.is_empty()).map(|all| (name, all)));
        }
        let texts = [
            ("workdir", &process.working_dir),
            ("user", &process.user),
            ("stop-signal", &process.stop_signal),
        ];
        for (name, text) in texts {
            let text = text.clone().filter(|text| !text.is_empty());
            settings.extend(text.map(|text| (name, vec![text])));
        }
        for (name, value) in process.labels.iter().flatten() {
            settings.push(("label", vec![name.clone(), value.clone()]));
        }
        for (name, keys) in [("port", &process.exposed_ports), ("volume", &process.volumes)] {
            settings.extend(keys.iter().flatten().map(|(key, _)| (name, vec![key.clone()])));
        }
        let odd = |(name, words): &&Setting| {
            let nul = words.iter().any(|word| word.contains('\0'));
            nul || *name == "env" && words[0].is_empty()
                || *name == "port" && port(&words[0]).is_none()
        };
        match settings.iter().find(odd) {
            Some((name, words)) => {
                Err(DocumentError::Config(plain(&format!("{name} {}", words.join(" ")))))
            }
            None => Ok(settings),
        }
    }
}

/// `80/tcp`, `80`.
pub fn port(text: &str) -> Option<(u16, &'static str)> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = ["tcp", "udp", "sctp"].into_iter().find(|known| *known == protocol)?;
    Some((number.parse().ok()?, protocol))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, served: &str) -> Result<Document, DocumentError> {
        Document::parse(text.as_bytes(), Some(served))
    }

    fn refused(text: &str, served: &str) -> String {
        parse(text, served).unwrap_err().to_string()
    }

    #[test]
    fn a_document_is_what_all_say_it_is() {
        let config = format!("{{\"digest\":\"{}\",\"size\":2}}", Digest::of(b"{}"));
        let image = format!("{{\"schemaVersion\":2,\"config\":{config},\"layers\":[]}}");
        assert!(matches!(parse(&image, MANIFESTS[0]), Ok(Document::Image(_))));
        assert!(matches!(parse(&image, "application/json"), Ok(Document::Image(_))));
        assert!(matches!(parse("{\"manifests\":[]}", INDEXES[1]), Ok(Document::Index(_))));
        insta::assert_snapshot!(refused(&image, INDEXES[0]), @"its manifest says `application/vnd.oci.image.index.v1+json` and is none");
        insta::assert_snapshot!(refused("{\"mediaType\":\"a\"}", MANIFESTS[0]), @"its manifest is served as `application/vnd.oci.image.manifest.v1+json` and calls itself `a`");
        insta::assert_snapshot!(refused("{}", "text/html"), @"it is served as `text/html`, which is neither an index nor a manifest of an image");
        insta::assert_snapshot!(refused("{\"schemaVersion\":1}", "application/json"), @"its manifest is of schema 1, which names no layer by what it holds");
        insta::assert_snapshot!(refused("<", MANIFESTS[0]), @"its manifest is no document that can be read: expected value at line 1 column 1");
    }

    #[test]
    fn what_others_wrote_moves_no_cursor_and_makes_no_lines() {
        let odd = r"x\u001b[2J\nerror: fine";
        let digest = Digest::of(b"{}");
        let image = |config: &str, layer: &str| {
            let text = format!(
                r#"{{"config":{{"mediaType":"{config}","digest":"{digest}","size":2}},
                     "layers":[{{"mediaType":"{layer}","digest":"{digest}","size":2}}]}}"#
            );
            match parse(&text, MANIFESTS[0]) {
                Ok(Document::Image(manifest)) => manifest,
                other => panic!("{other:?}"),
            }
        };
        let index = format!(
            r#"{{"manifests":[{{"digest":"{digest}","size":2,"platform":{{"os":"{odd}","architecture":"y"}}}}]}}"#
        );
        let Ok(Document::Index(entries)) = parse(&index, INDEXES[0]) else { panic!("an index") };
        let config = |text: &str| Config::parse(text.as_bytes());
        let os = format!(r#"{{"os":"{odd}","rootfs":{{"diff_ids":[]}}}}"#);
        let port = format!(
            r#"{{"rootfs":{{"diff_ids":[]}},"config":{{"ExposedPorts":{{"{odd}":{{}}}}}}}}"#
        );
        let diff_ids = format!(r#"{{"rootfs":{{"diff_ids":["{odd}"]}}}}"#);
        let sound = image(CONFIGS[0], "x");
        let told = [
            refused(&format!(r#"{{"mediaType":"{odd}"}}"#), "application/json"),
            refused(&format!(r#"{{"mediaType":"{odd}"}}"#), MANIFESTS[0]),
            image(CONFIGS[0], odd).packings().unwrap_err().to_string(),
            image(odd, "x").packings().unwrap_err().to_string(),
            pick(&entries, Platform::Amd64).unwrap_err().to_string(),
            config(&os).unwrap().diff_ids(&sound, Platform::Amd64).unwrap_err().to_string(),
            config(&port).unwrap().settings().unwrap_err().to_string(),
            config(&diff_ids).unwrap_err().to_string(),
        ];
        for text in told {
            assert!(text.contains("[2J error: fine"), "{text}");
            assert!(!text.contains(char::is_control), "{text:?}");
        }
    }

    #[test]
    fn an_index_that_says_no_platforms_says_so() {
        let digest = Digest::of(b"{}");
        let index = format!(r#"{{"manifests":[{{"digest":"{digest}","size":2}}]}}"#);
        let Ok(Document::Index(entries)) = parse(&index, INDEXES[0]) else { panic!("an index") };
        let told = pick(&entries, Platform::Amd64).unwrap_err().to_string();
        assert_eq!(told, "it is not for linux/amd64; what it lists does not say what it is for");
    }

    #[test]
    fn settings_are_named_and_null_is_none() {
        let config = Config::parse(
            br#"{"rootfs":{"diff_ids":[]},"config":{"Env":["PATH=/bin","A"],"Cmd":["sh"],"Entrypoint":null,
               "Labels":null,"ExposedPorts":{"80/tcp":{}},"Volumes":{"/v":{}},"User":"1:2","WorkingDir":""}}"#,
        );
        let settings = config.unwrap().settings().unwrap();
        let lines: Vec<String> =
            settings.iter().map(|(name, words)| format!("{name} {}", words.join(" "))).collect();
        assert_eq!(
            lines,
            ["env PATH /bin", "env A ", "cmd sh", "user 1:2", "port 80/tcp", "volume /v"]
        );
    }
}
