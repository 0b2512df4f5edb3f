//! What launchers and other programs know of sandboxes outside of their projects: a durable list of
//! sandbox types, each with the image that was built of it and how that is launched.
//!
//! It is one file of JSON, with a version, written whole under a lock, so that many processes may
//! register at once and a reader never sees half of it. It holds no secret: of the host's variables
//! it knows the names. An entry says what was registered, and stays as it is when the project goes
//! on; registering again replaces it.

pub mod agentscope;
mod entry;
mod error;

pub use entry::{Caps, Entry, HostVariable};
pub use error::RegistryError;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::fsx::{self, IoAt};
use crate::name::SandboxName;

/// Of the file's format.
const VERSION: u32 = 1;

/// The list, in its file.
#[derive(Clone, Debug)]
pub struct Registry {
    path: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    #[serde(default)]
    sandboxes: Vec<Entry>,
}

/// The version alone, which every format has.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl Registry {
    /// The list in a file, which need not be there yet.
    pub fn at(path: &Path) -> Self {
        Registry { path: path.to_owned() }
    }

    /// All entries, by type.
    pub fn list(&self) -> Result<Vec<Entry>, RegistryError> {
        Ok(self.read()?.into_values().collect())
    }

    pub fn find(&self, name: &str) -> Result<Option<Entry>, RegistryError> {
        let known = name.parse::<SandboxName>().ok();
        Ok(match known {
            Some(name) => self.read()?.remove(&name),
            None => None,
        })
    }

    /// Adds entries, in place of those of the same types.
    pub fn put(&self, entries: &[Entry]) -> Result<(), RegistryError> {
        self.change(|list| {
            list.extend(entries.iter().map(|entry| (entry.name.clone(), entry.clone())));
            Ok(())
        })
    }

    /// Removes entries, all or none of them.
    pub fn remove(&self, names: &[String]) -> Result<(), RegistryError> {
        self.change(|list| {
            for name in names {
                let known = name.parse::<SandboxName>().ok();
                let gone = known.and_then(|name| list.remove(&name));
                gone.ok_or_else(|| RegistryError::Unknown(name.clone()))?;
            }
            Ok(())
        })
    }

    fn change(
        &self,
        change: impl FnOnce(&mut BTreeMap<SandboxName, Entry>) -> Result<(), RegistryError>,
    ) -> Result<(), RegistryError> {
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(dir).at("create", dir)?;
        let mut name = self.path.as_os_str().to_owned();
        name.push(".lock");
        let lock = PathBuf::from(name);
        let held = File::create(&lock).at("create", &lock)?;
        rustix::fs::flock(&held, FlockOperation::LockExclusive).at("lock", &lock)?;
        let mut list = self.read()?;
        change(&mut list)?;
        let document = Document { version: VERSION, sandboxes: list.into_values().collect() };
        let mut text = serde_json::to_vec_pretty(&document).expect("keys are texts");
        text.push(b'\n');
        Ok(fsx::write_atomic(&self.path, &text)?)
    }

    fn read(&self) -> Result<BTreeMap<SandboxName, Entry>, RegistryError> {
        let text = match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            result => result.at("read", &self.path)?,
        };
        let damaged = |error: serde_json::Error| RegistryError::Damaged {
            path: self.path.clone(),
            reason: error.to_string(),
        };
        let Versioned { version } = serde_json::from_slice(&text).map_err(damaged)?;
        if version != VERSION {
            return Err(RegistryError::Version { path: self.path.clone(), version });
        }
        let document: Document = serde_json::from_slice(&text).map_err(damaged)?;
        Ok(document.sandboxes.into_iter().map(|entry| (entry.name.clone(), entry)).collect())
    }
}
