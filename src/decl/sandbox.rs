//! Sandboxes: an image's layers and how it is launched.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::fault::{Fault, Location, SourceFile};
use super::layer::{Layer, read_env};
use super::node::Node;
use super::units::{is_variable, parse_size};
use crate::name::{LayerName, SandboxName};
use crate::path::LayerPath;

/// A sandbox as declared, with what it extends merged in.
#[derive(Clone, Debug, PartialEq)]
pub struct Sandbox {
    pub name: SandboxName,
    pub description: Option<String>,
    /// In the order of declaration; what they need is added by the plan.
    pub layers: Vec<LayerName>,
    /// In the order of declaration, each name once.
    pub env: Vec<(String, String)>,
    pub env_from_host: Vec<HostVar>,
    pub workdir: Option<String>,
    pub user: Option<String>,
    pub command: Vec<String>,
    pub entrypoint: Vec<String>,
    pub ports: Vec<PortDecl>,
    pub labels: BTreeMap<String, String>,
    pub stop_signal: Option<String>,
    /// Seconds.
    pub timeout: Option<u32>,
    pub security_level: SecurityLevel,
    pub limits: Limits,
    pub ready: Option<Ready>,
    pub egress: Egress,
    /// Overrides the project's reference.
    pub reference: Option<String>,
    pub at: Location,
}

impl Sandbox {
    /// One that nobody declared: an image of others, with what its config says of ports.
    pub fn of_image(name: SandboxName, ports: Vec<PortDecl>) -> Self {
        let file = SourceFile { path: PathBuf::new(), text: String::new() };
        let at = Location { file: Arc::new(file), span: 0..0 };
        Sandbox { ports, ..Self::empty(name, at) }
    }

    /// One of which nothing is said.
    pub(super) fn empty(name: SandboxName, at: Location) -> Self {
        Sandbox {
            name,
            description: None,
            layers: Vec::new(),
            env: Vec::new(),
            env_from_host: Vec::new(),
            workdir: None,
            user: None,
            command: Vec::new(),
            entrypoint: Vec::new(),
            ports: Vec::new(),
            labels: BTreeMap::new(),
            stop_signal: None,
            timeout: None,
            security_level: SecurityLevel::default(),
            limits: Limits::default(),
            ready: None,
            egress: Egress::default(),
            reference: None,
            at,
        }
    }
}

/// A variable taken from the host at launch; its value never enters the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostVar {
    pub name: String,
    pub default: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortDecl {
    pub number: u16,
    pub udp: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SecurityLevel {
    Low,
    #[default]
    Medium,
    High,
}

/// What an instance may use; `None` for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes.
    pub memory: Option<u64>,
    /// Thousandths of a processor.
    pub milli_cpus: Option<u32>,
    /// Processes and threads.
    pub pids: Option<u32>,
    /// Bytes of what it writes to its own files.
    pub disk: Option<u64>,
}

/// When an instance counts as started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ready {
    /// A GET of this path answers 200.
    Http { path: String, port: Option<u16> },
    /// The port accepts a connection.
    Tcp { port: u16 },
    /// The command exits with 0.
    Exec(Vec<String>),
}

/// Where an instance may connect to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Egress {
    #[default]
    None,
    /// `host:port`; the host may begin with `*.`.
    Hosts(Vec<String>),
    Any,
}

/// A sandbox as written, before what it extends is merged in. `None` says nothing.
#[derive(Debug)]
pub(super) struct RawSandbox {
    pub name: SandboxName,
    pub extends: Option<(SandboxName, Location)>,
    pub description: Option<String>,
    pub layers: Vec<(LayerName, Location)>,
    pub without: Vec<(LayerName, Location)>,
    pub replace: Vec<(LayerName, LayerName, Location)>,
    pub inline: Vec<Layer>,
    pub env: Vec<(String, String)>,
    pub env_from_host: Vec<HostVar>,
    pub workdir: Option<String>,
    pub user: Option<String>,
    pub command: Option<Vec<String>>,
    pub entrypoint: Option<Vec<String>>,
    pub ports: Vec<PortDecl>,
    pub labels: BTreeMap<String, String>,
    pub stop_signal: Option<String>,
    pub timeout: Option<u32>,
    pub security_level: Option<SecurityLevel>,
    pub limits: Limits,
    pub ready: Option<Ready>,
    pub egress: Option<Egress>,
    pub reference: Option<String>,
    pub at: Location,
}

const CHILDREN: &[&str] = &[
    "command",
    "description",
    "egress",
    "entrypoint",
    "env",
    "env-from-host",
    "label",
    "layer",
    "layers",
    "limits",
    "port",
    "ready",
    "reference",
    "replace",
    "security-level",
    "stop-signal",
    "timeout",
    "user",
    "without",
    "workdir",
];

impl RawSandbox {
    pub(super) fn read(node: &Node<'_>, root: &Path) -> Option<Self> {
        let name = node.parse::<SandboxName>("a name");
        let extends = node.find_parsed_property::<SandboxName>("extends");
        let extends = extends.map(|name| (name, node.property_at("extends")));
        node.finish();
        let mut raw = RawSandbox {
            name: name.clone().or_else(|| "unnamed".parse().ok())?,
            extends,
            description: None,
            layers: Vec::new(),
            without: Vec::new(),
            replace: Vec::new(),
            inline: Vec::new(),
            env: Vec::new(),
            env_from_host: Vec::new(),
            workdir: None,
            user: None,
            command: None,
            entrypoint: None,
            ports: Vec::new(),
            labels: BTreeMap::new(),
            stop_signal: None,
            timeout: None,
            security_level: None,
            limits: Limits::default(),
            ready: None,
            egress: None,
            reference: None,
            at: node.at(),
        };
        for child in node.children() {
            raw.read_child(&child, root);
        }
        name.is_some().then_some(raw)
    }

    fn read_child(&mut self, child: &Node<'_>, root: &Path) {
        match child.name() {
            "description" => self.description = child.text("a text"),
            "layers" => self.layers.extend(child.parse_all("names of layers")),
            "without" => self.without.extend(child.parse_all("names of layers")),
            "replace" => self.replace.extend(read_replace(child)),
            "layer" => {
                if let Some(layer) = Layer::read(child, root) {
                    self.layers.push((layer.name.clone(), child.at()));
                    self.inline.push(layer);
                }
                return;
            }
            "env" => return self.env.extend(read_env(child)),
            "env-from-host" => self.env_from_host.extend(read_host_vars(child)),
            "workdir" => self.workdir = read_path(child),
            "user" => self.user = child.text("a user"),
            "command" => self.command = Some(words(child)),
            "entrypoint" => self.entrypoint = Some(words(child)),
            "port" => self.ports.extend(read_port(child)),
            "label" => {
                return self
                    .labels
                    .extend(child.map().into_iter().map(|(name, value, _)| (name, value)));
            }
            "stop-signal" => self.stop_signal = read_signal(child),
            "timeout" => {
                self.timeout =
                    child.integer("seconds", 1..=86_400).and_then(|n| u32::try_from(n).ok())
            }
            "security-level" => self.security_level = read_level(child),
            "limits" => self.limits = self.limits.over(read_limits(child)),
            "ready" => self.ready = read_ready(child),
            "egress" => self.egress = read_egress(child),
            "reference" => self.reference = child.text("a reference"),
            _ => return child.unknown("a sandbox", CHILDREN),
        }
        child.finish_leaf();
    }
}

impl Limits {
    /// `above` where it says something, `self` elsewhere.
    pub(super) fn over(self, above: Limits) -> Limits {
        Limits {
            memory: above.memory.or(self.memory),
            milli_cpus: above.milli_cpus.or(self.milli_cpus),
            pids: above.pids.or(self.pids),
            disk: above.disk.or(self.disk),
        }
    }
}

fn words(node: &Node<'_>) -> Vec<String> {
    node.texts("a program").into_iter().map(|(text, _)| text).collect()
}

fn read_replace(node: &Node<'_>) -> Option<(LayerName, LayerName, Location)> {
    let old = node.parse("the name of a layer")?;
    let new = node.text_property("with")?;
    match new.parse() {
        Ok(new) => Some((old, new, node.at())),
        Err(error) => {
            node.fault(format!("{error}"));
            None
        }
    }
}

fn read_path(node: &Node<'_>) -> Option<String> {
    let text = node.text("a path in the image")?;
    match LayerPath::parse_absolute(&text) {
        Ok(_) => Some(text),
        Err(error) => {
            node.fault(error.to_string());
            None
        }
    }
}

fn read_host_vars(node: &Node<'_>) -> Vec<HostVar> {
    let default = node.find_text_property("default");
    let texts = node.texts("names of variables");
    let sound = |(name, at): (String, Location)| {
        if !is_variable(&name) {
            node.sink.push(Fault::new(&at, format!("`{name}` cannot be an environment variable")));
            return None;
        }
        Some(HostVar { name, default: default.clone() })
    };
    texts.into_iter().filter_map(sound).collect()
}

fn read_port(node: &Node<'_>) -> Option<PortDecl> {
    let number = node.integer("a port", 1..=65_535).and_then(|number| u16::try_from(number).ok());
    let udp = match node.find_text_property("protocol").as_deref() {
        None | Some("tcp") => false,
        Some("udp") => true,
        Some(other) => {
            node.fault(format!("`{other}` is no protocol: `tcp` or `udp`"));
            return None;
        }
    };
    Some(PortDecl { number: number?, udp })
}

fn read_signal(node: &Node<'_>) -> Option<String> {
    const KNOWN: &[&str] = &[
        "SIGABRT", "SIGALRM", "SIGCONT", "SIGHUP", "SIGINT", "SIGKILL", "SIGPIPE", "SIGQUIT",
        "SIGSTOP", "SIGTERM", "SIGTSTP", "SIGUSR1", "SIGUSR2", "SIGWINCH",
    ];
    let text = node.text("a signal")?;
    let number = text.parse::<u8>().is_ok_and(|number| (1..=64).contains(&number));
    if number
        || KNOWN.contains(&text.as_str())
        || text.starts_with("SIGRTMIN")
        || text.starts_with("SIGRTMAX")
    {
        return Some(text);
    }
    let fault = Fault::new(&node.at(), format!("`{text}` is no signal"));
    node.sink.push(fault.nearest(&text, KNOWN.iter().copied()));
    None
}

fn read_level(node: &Node<'_>) -> Option<SecurityLevel> {
    let text = node.text("`low`, `medium` or `high`")?;
    match text.as_str() {
        "low" => Some(SecurityLevel::Low),
        "medium" => Some(SecurityLevel::Medium),
        "high" => Some(SecurityLevel::High),
        _ => {
            let fault = Fault::new(&node.at(), format!("`{text}` is no security level"));
            node.sink.push(fault.help("known are `low`, `medium` and `high`"));
            None
        }
    }
}

fn read_limits(node: &Node<'_>) -> Limits {
    let size = |name| {
        let text = node.find_text_property(name)?;
        let bytes = parse_size(&text).filter(|bytes| *bytes > 0);
        if bytes.is_none() {
            node.fault(format!("`{text}` is no size: write `512MiB` or `2GiB`"));
        }
        bytes
    };
    let milli_cpus = node.find_value_property("cpus").and_then(|value| {
        let cpus = value.as_float().or_else(|| value.as_integer().map(|number| number as f64));
        let cpus = cpus.filter(|cpus| (0.001..=4096.0).contains(cpus));
        if cpus.is_none() {
            node.fault("`cpus` takes a number of processors, such as `2` or `0.5`");
        }
        cpus.map(|cpus| (cpus * 1000.0).round() as u32)
    });
    let pids = node
        .find_integer_property("pids", 1..=4_194_304)
        .and_then(|number| u32::try_from(number).ok());
    Limits { memory: size("memory"), milli_cpus, pids, disk: size("disk") }
}

fn read_ready(node: &Node<'_>) -> Option<Ready> {
    let port = |name| {
        node.find_integer_property(name, 1..=65_535).and_then(|port| u16::try_from(port).ok())
    };
    let http = node.find_text_property("http");
    let exec = node.find_text_property("exec");
    let tcp = port("tcp");
    let number = port("port");
    match (http, tcp, exec) {
        (Some(path), None, None) if path.starts_with('/') => {
            Some(Ready::Http { path, port: number })
        }
        (None, Some(port), None) => Some(Ready::Tcp { port }),
        (None, None, Some(command)) => {
            Some(Ready::Exec(vec!["/bin/sh".into(), "-c".into(), command]))
        }
        _ => {
            node.fault("`ready` takes one of `http=\"/path\"`, `tcp=PORT` and `exec=\"command\"`");
            None
        }
    }
}

fn read_egress(node: &Node<'_>) -> Option<Egress> {
    let mut hosts = Vec::new();
    for (text, at) in node.texts("`any`, `none` or hosts with ports") {
        match text.as_str() {
            "any" => return Some(Egress::Any),
            "none" => return Some(Egress::None),
            _ => {}
        }
        let sound = text.rsplit_once(':').is_some_and(|(host, port)| {
            let name = host.strip_prefix("*.").unwrap_or(host);
            let word = |c: u8| c.is_ascii_alphanumeric() || b"-._".contains(&c);
            !name.is_empty()
                && name.bytes().all(word)
                && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
        match sound {
            true => hosts.push(text),
            false => node.sink.push(
                Fault::new(&at, format!("`{text}` is no host with a port"))
                    .help("write `api.example.org:443` or `*.example.org:443`"),
            ),
        }
    }
    Some(Egress::Hosts(hosts))
}
