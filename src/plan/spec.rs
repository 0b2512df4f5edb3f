//! What an image says of itself, beside its layers.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::decl::{Layer, Sandbox};
use crate::lock::base::LockedBase;
use crate::oci::document::{Setting, port};
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
    /// Directories that a base wants kept apart.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
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
            volumes: Vec::new(),
            labels: BTreeMap::new(),
            stop_signal: None,
            annotations: BTreeMap::new(),
        }
    }

    /// Of an image of others, which stands for itself.
    pub fn of_image(platform: Platform, settings: &[Setting]) -> Self {
        let all = |name: &str| {
            let named = settings.iter().filter(move |(known, _)| *known == name);
            named.map(|(_, words)| words.clone()).collect::<Vec<Vec<String>>>()
        };
        let words = |name: &str| all(name).into_iter().next().unwrap_or_default();
        let first = |name: &str| words(name).into_iter().next().unwrap_or_default();
        let pairs = |name: &str| {
            let pair = |words: Vec<String>| {
                let mut words = words.into_iter();
                Some((words.next()?, words.next().unwrap_or_default()))
            };
            all(name).into_iter().filter_map(pair).collect::<Vec<_>>()
        };
        let mut env = pairs("env");
        if !env.iter().any(|(name, _)| name == "PATH") {
            env.insert(0, ("PATH".to_owned(), PATH.to_owned()));
        }
        let ports = all("port").into_iter().flatten();
        let ports = ports
            .filter_map(|text| port(&text).map(|(number, protocol)| Port { number, protocol }));
        ImageSpec {
            env,
            entrypoint: words("entrypoint"),
            command: words("cmd"),
            workdir: first("workdir"),
            user: first("user"),
            ports: ports.collect(),
            volumes: all("volume").into_iter().flatten().collect(),
            labels: pairs("label").into_iter().collect(),
            stop_signal: Some(first("stop-signal")).filter(|signal| !signal.is_empty()),
            ..ImageSpec::bare(platform)
        }
    }

    /// The configuration of a sandbox with these layers: what it declares, and below that what its
    /// base says.
    pub fn new(
        sandbox: &Sandbox,
        layers: &[&Layer],
        platform: Platform,
        base: Option<&LockedBase<'_>>,
    ) -> Self {
        let inherited = Inherited(base);
        let mut ports: Vec<Port> = inherited.ports();
        for port in &sandbox.ports {
            let protocol = if port.udp { "udp" } else { "tcp" };
            let port = Port { number: port.number, protocol };
            if !ports.contains(&port) {
                ports.push(port);
            }
        }
        let mut labels = inherited.labels();
        labels.extend(sandbox.labels.clone());
        let own = !sandbox.entrypoint.is_empty();
        let command = match (&sandbox.command, own) {
            // a base's command is made for the base's entrypoint
            (command, _) if !command.is_empty() => command.clone(),
            (_, true) => Vec::new(),
            (_, false) => inherited.words("cmd"),
        };
        let entrypoint =
            if own { sandbox.entrypoint.clone() } else { inherited.words("entrypoint") };
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
            env: environment(&sandbox.env, layers, base),
            entrypoint,
            command,
            workdir: sandbox.workdir.clone().or(inherited.text("workdir")).unwrap_or_default(),
            user: sandbox.user.clone().or(inherited.text("user")).unwrap_or_default(),
            ports,
            volumes: inherited.all("volume"),
            labels,
            stop_signal: sandbox.stop_signal.clone().or(inherited.text("stop-signal")),
            annotations,
        }
    }
}

/// What a base says of itself.
struct Inherited<'a>(Option<&'a LockedBase<'a>>);

impl Inherited<'_> {
    fn lists(&self, name: &str) -> Vec<Vec<String>> {
        let words = |words: &[Box<str>]| words.iter().map(|word| word.to_string()).collect();
        self.0.iter().flat_map(|base| base.settings(name).map(words)).collect()
    }

    /// The words of a setting that stands once.
    fn words(&self, name: &str) -> Vec<String> {
        self.lists(name).into_iter().next().unwrap_or_default()
    }

    fn text(&self, name: &str) -> Option<String> {
        self.words(name).into_iter().next()
    }

    /// The first words of a setting that stands several times.
    fn all(&self, name: &str) -> Vec<String> {
        self.lists(name).into_iter().filter_map(|words| words.into_iter().next()).collect()
    }

    fn pairs(&self, name: &str) -> Vec<(String, String)> {
        let pair = |words: Vec<String>| {
            let mut words = words.into_iter();
            Some((words.next()?, words.next().unwrap_or_default()))
        };
        self.lists(name).into_iter().filter_map(pair).collect()
    }

    fn labels(&self) -> BTreeMap<String, String> {
        self.pairs("label").into_iter().collect()
    }

    fn ports(&self) -> Vec<Port> {
        let texts = self.all("port");
        let ports = texts.iter().filter_map(|text| port(text));
        ports.map(|(number, protocol)| Port { number, protocol }).collect()
    }
}

/// `PATH` of the base, or the usual one, with what layers put in front (a layer before those it needs), then what layers export,
/// then what the sandbox or the command sets; below all that, what the base sets.
pub(super) fn environment(
    own: &[(String, String)],
    layers: &[&Layer],
    base: Option<&LockedBase<'_>>,
) -> Vec<(String, String)> {
    let inherited = Inherited(base).pairs("env");
    let base_path = inherited.iter().find(|(name, value)| name == "PATH" && !value.is_empty());
    let usual = base_path.map_or(PATH, |(_, path)| path.as_str());
    let prepended =
        layers.iter().rev().flat_map(|layer| layer.path_prepend.iter().map(String::as_str));
    let path: Vec<&str> = prepended.chain([usual]).collect();
    let mut env = vec![("PATH".to_owned(), path.join(":"))];
    let inherited = inherited.iter().filter(|(name, _)| name != "PATH");
    let layers = layers.iter().flat_map(|layer| &layer.env);
    for (name, value) in inherited.chain(layers).chain(own) {
        match env.iter_mut().find(|(known, _)| known == name) {
            Some(slot) => slot.1.clone_from(value),
            None => env.push((name.clone(), value.clone())),
        }
    }
    env
}
