//! A registered sandbox type.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

use crate::decl::{Project, Sandbox, SecurityLevel};
use crate::digest::Digest;
use crate::name::SandboxName;
use crate::platform::Platform;

/// How long a call may take where nothing is declared.
const TIMEOUT: u32 = 60;
/// So much of an image's id tells it apart from all others.
const TAG: usize = 16;

/// A sandbox type, with the image that it means.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    #[serde(rename = "type", deserialize_with = "read_name")]
    pub name: SandboxName,
    pub image: Digest,
    pub platform: Platform,
    #[serde(default)]
    pub description: String,
    /// Where it was declared and built.
    pub project: PathBuf,
    pub store: PathBuf,
    /// The image's name, without the tag that its contents give it.
    pub reference: String,
    pub env: BTreeMap<String, String>,
    pub env_from_host: Vec<HostVariable>,
    pub ports: Vec<u16>,
    pub limits: Caps,
    /// `low`, `medium` or `high`.
    pub security_level: String,
    /// Seconds.
    pub timeout: u32,
    /// Seconds since 1970.
    pub registered: u64,
}

/// A variable that is taken from the host at a start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostVariable {
    pub name: String,
    /// `None` where a start without it is refused.
    pub default: Option<String>,
}

/// Limits; `None` for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Caps {
    /// Bytes.
    pub memory: Option<u64>,
    pub cpus: Option<f64>,
    pub pids: Option<u32>,
}

fn read_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SandboxName, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

impl Entry {
    /// What a declaration says, of the image that was built of it.
    pub fn new(
        project: &Project,
        sandbox: &Sandbox,
        (platform, image): (Platform, Digest),
        store: &Path,
        now: u64,
    ) -> Self {
        let own = &sandbox.env_from_host;
        let variable = |var: crate::decl::HostVar| {
            let servers = !own.iter().any(|known| known.name == var.name);
            // a server of the image's knows what it does without its key
            let default = if servers { Some(String::new()) } else { var.default };
            HostVariable { name: var.name, default }
        };
        let limits = sandbox.limits;
        Entry {
            name: sandbox.name.clone(),
            image,
            platform,
            description: sandbox.description.clone().unwrap_or_default(),
            project: project.root.clone(),
            store: store.to_owned(),
            reference: project.reference_of(sandbox),
            env: sandbox.env.iter().cloned().collect(),
            env_from_host: project.host_vars(sandbox, platform).into_iter().map(variable).collect(),
            ports: sandbox.ports.iter().filter(|port| !port.udp).map(|port| port.number).collect(),
            limits: Caps {
                memory: limits.memory,
                cpus: limits.milli_cpus.map(|milli| f64::from(milli) / 1000.0),
                pids: limits.pids,
            },
            security_level: match sandbox.security_level {
                SecurityLevel::Low => "low",
                SecurityLevel::Medium => "medium",
                SecurityLevel::High => "high",
            }
            .to_owned(),
            timeout: sandbox.timeout.unwrap_or(TIMEOUT),
            registered: now,
        }
    }

    /// The tag that means this image and no other: a pool that was filled from another one is seen to
    /// be outdated.
    pub fn tag(&self) -> String {
        self.image.hex()[..TAG].to_owned()
    }
}
