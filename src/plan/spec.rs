//! What an image says of itself, beside its layers.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::decl::{Layer, Sandbox};
use crate::platform::Platform;

/// The configuration of an image (OCI image-spec, config).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImageSpec {
    pub platform: Platform,
    /// In the order in which they were declared; `NAME`, value.
    pub env: Vec<(String, String)>,
    pub entrypoint: Vec<String>,
    pub command: Vec<String>,
    /// Empty for the root.
    pub workdir: String,
    /// `name`, `uid` or `uid:gid`; empty for root.
    pub user: String,
    pub ports: Vec<Port>,
    pub labels: BTreeMap<String, String>,
    pub stop_signal: Option<String>,
    /// Manifest annotations.
    pub annotations: BTreeMap<String, String>,
}

/// A port, as `80/tcp`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Port {
    pub number: u16,
    pub protocol: &'static str,
}

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl ImageSpec {
    /// Of what is no image.
    pub(super) fn bare(platform: Platform) -> Self {
        ImageSpec {
            platform,
            env: Vec::new(),
            entrypoint: Vec::new(),
            command: Vec::new(),
            workdir: String::new(),
            user: String::new(),
            ports: Vec::new(),
            labels: BTreeMap::new(),
            stop_signal: None,
            annotations: BTreeMap::new(),
        }
    }

    /// The configuration of a sandbox with these layers.
    pub fn new(sandbox: &Sandbox, layers: &[&Layer], platform: Platform) -> Self {
        let ports = sandbox.ports.iter().map(|port| Port {
            number: port.number,
            protocol: if port.udp { "udp" } else { "tcp" },
        });
        let mut annotations = BTreeMap::from([(
            "org.opencontainers.image.title".to_owned(),
            sandbox.name.to_string(),
        )]);
        if let Some(description) = &sandbox.description {
            annotations
                .insert("org.opencontainers.image.description".to_owned(), description.clone());
        }
        ImageSpec {
            platform,
            env: environment(&sandbox.env, layers),
            entrypoint: sandbox.entrypoint.clone(),
            command: sandbox.command.clone(),
            workdir: sandbox.workdir.clone().unwrap_or_default(),
            user: sandbox.user.clone().unwrap_or_default(),
            ports: ports.collect(),
            labels: sandbox.labels.clone(),
            stop_signal: sandbox.stop_signal.clone(),
            annotations,
        }
    }
}

/// `PATH` with what layers put in front (a layer before those it needs), then what layers export,
/// then what the sandbox or the command sets.
pub(super) fn environment(own: &[(String, String)], layers: &[&Layer]) -> Vec<(String, String)> {
    let prepended =
        layers.iter().rev().flat_map(|layer| layer.path_prepend.iter().map(String::as_str));
    let path: Vec<&str> = prepended.chain([PATH]).collect();
    let mut env = vec![("PATH".to_owned(), path.join(":"))];
    for (name, value) in layers.iter().flat_map(|layer| &layer.env).chain(own) {
        match env.iter_mut().find(|(known, _)| known == name) {
            Some(slot) => slot.1.clone_from(value),
            None => env.push((name.clone(), value.clone())),
        }
    }
    env
}
