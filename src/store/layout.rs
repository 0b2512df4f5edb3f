//! The OCI side of a store: `oci-layout` and `index.json` (OCI image-spec, image layout).
//!
//! `index.json` names the newest image of each sandbox, as one nested index per sandbox. A store
//! may serve many projects: the plain name belongs to the project that took it first, a second
//! project with a sandbox of that name gets `PROJECT/NAME`, and a second checkout of the same
//! project gets a suffix made of its path.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Store, StoreError};
use crate::digest::Digest;
use crate::fsx::{self, IoAt, PathIo};
use crate::media;
use crate::name::{ProjectName, SandboxName};
use crate::platform::Platform;

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const OWNER: &str = "dev.sbx.project";
/// Whose an image is that was pulled; no project is called so.
const PULLED: &str = "#pulled";

pub(super) fn create(root: &Path) -> Result<(), PathIo> {
    let index = root.join("index.json");
    if !index.exists() {
        let empty = json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": []});
        fsx::write_atomic(&index, empty.to_string().as_bytes())?;
    }
    fsx::write_atomic(&root.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)
}

pub(super) fn check_version(root: &Path) -> Result<(), StoreError> {
    let path = root.join("oci-layout");
    let bytes = fs::read(&path).at("read", &path)?;
    let value: Value = serde_json::from_slice(&bytes)
        .map_err(|error| StoreError::Damaged { path: path.clone(), reason: error.to_string() })?;
    match value["imageLayoutVersion"].as_str() {
        Some("1.0.0") => Ok(()),
        found => Err(StoreError::Version { path, found: found.unwrap_or_default().to_owned() }),
    }
}

/// Whose name an entry of `index.json` is: a project at a place.
#[derive(Clone, Debug)]
pub struct Claimant<'a> {
    pub project: &'a ProjectName,
    /// The project's directory, absolute.
    pub root: &'a Path,
}

impl Claimant<'_> {
    fn owner(&self) -> String {
        owner(self.project.as_str(), self.root)
    }

    /// The first digits of the digest of where it is.
    pub(super) fn place(&self) -> String {
        place(self.root)
    }

    fn names(&self, sandbox: &SandboxName) -> [String; 3] {
        let project = self.project;
        [
            sandbox.to_string(),
            format!("{project}/{sandbox}"),
            format!("{project}-{}/{sandbox}", self.place()),
        ]
    }
}

/// What the entries of a project at a place have as their owner.
pub(super) fn owner(project: &str, root: &Path) -> String {
    format!("{project}#{}", place(root))
}

fn place(root: &Path) -> String {
    Digest::of(root.as_os_str().as_encoded_bytes()).hex()[..8].to_owned()
}

/// A manifest as an index lists it.
#[derive(Clone, Debug)]
pub struct PublishedImage {
    pub platform: Platform,
    pub manifest: Digest,
    /// Size of the manifest in bytes.
    pub size: u64,
}

/// What a sandbox is called in `index.json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRef(pub String);

impl Store {
    /// Lists `images`, one per platform, as the newest of `sandbox`, and answers the name that
    /// `oci:STORE:NAME` finds them by. Platforms that are not given keep what they had.
    pub fn publish(
        &self,
        claimant: &Claimant<'_>,
        sandbox: &SandboxName,
        images: &[PublishedImage],
    ) -> Result<ImageRef, StoreError> {
        let path = self.root.join("index.json");
        let before = fs::read(&path).at("read", &path)?;
        // the usual case, nothing new, needs no lock
        if let Some(known) = self.published(&before, claimant, sandbox, images) {
            return Ok(known);
        }
        let _lock = self.lock("index")?;
        let bytes = fs::read(&path).at("read", &path)?;
        let mut index = parse_index(&path, &bytes)?;
        let manifests = index["manifests"].as_array_mut().expect("parse_index made it an array");
        let name = choose_name(manifests, claimant, sandbox);
        self.list(manifests, &name, &claimant.owner(), images)?;
        fsx::write_atomic(&path, index.to_string().as_bytes())?;
        Ok(ImageRef(name))
    }

    /// Lists an image under the reference that it was pulled by.
    pub(super) fn publish_pulled(
        &self,
        reference: &str,
        image: &PublishedImage,
    ) -> Result<(), StoreError> {
        let path = self.root.join("index.json");
        let _lock = self.lock("index")?;
        let bytes = fs::read(&path).at("read", &path)?;
        let mut index = parse_index(&path, &bytes)?;
        let manifests = index["manifests"].as_array_mut().expect("parse_index made it an array");
        self.list(manifests, reference, PULLED, std::slice::from_ref(image))?;
        Ok(fsx::write_atomic(&path, index.to_string().as_bytes())?)
    }

    /// Takes those names out that `goes` says, and answers how many. The lock `index` must be held.
    pub(super) fn withdraw(&self, goes: impl Fn(&Entry) -> bool) -> Result<usize, StoreError> {
        let path = self.root.join("index.json");
        let bytes = fs::read(&path).at("read", &path)?;
        let mut index = parse_index(&path, &bytes)?;
        let manifests = index["manifests"].as_array_mut().expect("parse_index made it an array");
        let count = manifests.len();
        manifests.retain(|entry| !Entry::parse(entry).is_some_and(|entry| goes(&entry)));
        let gone = count - manifests.len();
        if gone > 0 {
            fsx::write_atomic(&path, index.to_string().as_bytes())?;
        }
        Ok(gone)
    }

    /// Puts images of one name into the list, in order.
    fn list(
        &self,
        manifests: &mut Vec<Value>,
        name: &str,
        owner: &str,
        images: &[PublishedImage],
    ) -> Result<(), StoreError> {
        let old = manifests.iter().position(|entry| ref_name(entry) == Some(name));
        let nested = self.nest(old.map(|at| &manifests[at]), images)?;
        let entry = json!({
            "mediaType": media::INDEX, "digest": nested.0, "size": nested.1,
            "annotations": {REF_NAME: name, OWNER: owner},
        });
        match old {
            Some(at) => manifests[at] = entry,
            None => manifests.push(entry),
        }
        manifests.sort_by(|a, b| ref_name(a).cmp(&ref_name(b)));
        Ok(())
    }

    fn published(
        &self,
        index: &[u8],
        claimant: &Claimant<'_>,
        sandbox: &SandboxName,
        images: &[PublishedImage],
    ) -> Option<ImageRef> {
        let index: Value = serde_json::from_slice(index).ok()?;
        let owner = claimant.owner();
        let names = claimant.names(sandbox);
        let entry = index["manifests"].as_array()?.iter().find(|entry| {
            entry["annotations"][OWNER].as_str() == Some(&owner)
                && ref_name(entry).is_some_and(|name| names.iter().any(|known| known == name))
        })?;
        let nested = self.read_nested(entry)?;
        let listed = images.iter().all(|image| {
            nested.iter().any(|old| old["digest"].as_str() == Some(&image.manifest.to_string()))
        });
        listed.then(|| ref_name(entry).map(|name| ImageRef(name.to_owned())))?
    }

    /// What a manifest calls itself; one of others' may be of Docker's form.
    pub fn media_type_of(&self, manifest: &Digest) -> String {
        let bytes = self.read_blob(manifest).unwrap_or_default();
        let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        value["mediaType"].as_str().unwrap_or(media::MANIFEST).to_owned()
    }

    fn read_nested(&self, entry: &Value) -> Option<Vec<Value>> {
        let digest: Digest = entry["digest"].as_str()?.parse().ok()?;
        let value: Value = serde_json::from_slice(&self.read_blob(&digest).ok()?).ok()?;
        value["manifests"].as_array().cloned()
    }

    fn nest(
        &self,
        old: Option<&Value>,
        images: &[PublishedImage],
    ) -> Result<(String, u64), StoreError> {
        let mut entries = old.and_then(|entry| self.read_nested(entry)).unwrap_or_default();
        entries.retain(|entry| {
            !images
                .iter()
                .any(|image| entry["platform"]["architecture"] == image.platform.architecture())
        });
        entries.extend(images.iter().map(|image| {
            json!({
                "mediaType": self.media_type_of(&image.manifest),
                "digest": image.manifest, "size": image.size,
                "platform": {"architecture": image.platform.architecture(), "os": "linux"},
            })
        }));
        entries.sort_by_key(|entry| entry["platform"]["architecture"].to_string());
        let index = json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": entries});
        let bytes = index.to_string().into_bytes();
        Ok((self.put_blob(&bytes)?.to_string(), bytes.len() as u64))
    }
}

/// What `index.json` lists under one name.
pub(super) struct Entry {
    pub(super) name: String,
    /// The project that it is of, and where that is; or that it was pulled.
    pub(super) owner: String,
    /// The nested index, as `ALGORITHM/HEX`.
    pub(super) nested: String,
}

impl Entry {
    fn parse(entry: &Value) -> Option<Self> {
        Some(Entry {
            name: ref_name(entry).unwrap_or_default().to_owned(),
            owner: entry["annotations"][OWNER].as_str().unwrap_or_default().to_owned(),
            nested: entry["digest"].as_str()?.replace(':', "/"),
        })
    }

    pub(super) fn is_pulled(&self) -> bool {
        self.owner == PULLED
    }
}

pub(super) fn listed(root: &Path) -> Result<Vec<Entry>, StoreError> {
    let path = root.join("index.json");
    let index = parse_index(&path, &fs::read(&path).at("read", &path)?)?;
    let entries = index["manifests"].as_array().into_iter().flatten();
    Ok(entries.filter_map(Entry::parse).collect())
}

fn ref_name(entry: &Value) -> Option<&str> {
    entry["annotations"][REF_NAME].as_str()
}

fn choose_name(manifests: &[Value], claimant: &Claimant<'_>, sandbox: &SandboxName) -> String {
    let owner = claimant.owner();
    let free_or_ours = |name: &String| {
        let entry = manifests.iter().find(|entry| ref_name(entry) == Some(name));
        entry.is_none_or(|entry| entry["annotations"][OWNER].as_str() == Some(&owner))
    };
    let [plain, project, place] = claimant.names(sandbox);
    [plain, project].into_iter().find(free_or_ours).unwrap_or(place)
}

fn parse_index(path: &Path, bytes: &[u8]) -> Result<Value, StoreError> {
    let damaged = |reason: String| StoreError::Damaged { path: path.to_owned(), reason };
    let mut index: Map<String, Value> =
        serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
    match index.entry("manifests").or_insert_with(|| json!([])) {
        Value::Array(_) => Ok(Value::Object(index)),
        _ => Err(damaged("`manifests` is no list".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_projects_share_a_store_without_collision() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        let (one, two) = ("one".parse().unwrap(), "two".parse().unwrap());
        let sandbox = "base".parse().unwrap();
        let image = |text: &str| PublishedImage {
            platform: Platform::Amd64,
            manifest: store.put_blob(text.as_bytes()).unwrap(),
            size: text.len() as u64,
        };
        let publish = |project, root: &str, text| {
            let claimant = Claimant { project, root: Path::new(root) };
            store.publish(&claimant, &sandbox, &[image(text)]).unwrap().0
        };
        assert_eq!(publish(&one, "/a", "1"), "base");
        assert_eq!(publish(&two, "/b", "2"), "two/base");
        assert_eq!(publish(&one, "/a", "3"), "base", "the name stays with its owner");
        assert_eq!(publish(&two, "/b", "2"), "two/base");
        let other = publish(&two, "/c", "4");
        assert!(other.starts_with("two-") && other.ends_with("/base"), "{other}");
    }
}
