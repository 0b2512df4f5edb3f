//! `settings.kdl`: what a person says once for all projects on a machine.
//!
//! ```kdl
//! mirror "debian" "https://mirror.example.org/debian"
//! mirror "files.example.com" "https://mirror.example.org/files"
//! proxy "http://proxy.example.org:3128" except="localhost,.example.org"
//! certificates "/etc/ssl/company.pem"
//! plain-http "registry.lan:5000"
//! downloads 4
//! jobs 2
//! store-cap "40GiB"        // or "30%" of the disk
//! ```
//!
//! The environment goes before this file, and a command's own options before both. Nothing in it may
//! change what is built, only how the bytes come here: it is no part of any Key.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kdl::{KdlDocument, KdlEntry, KdlNode, KdlValue};
use miette::SourceSpan;
use url::Url;

use super::mirror::MirrorMap;
use super::npmrc::Credentials;
use super::proxy::ProxyConfig;
use crate::decl::{Fault, Faults, Location, SourceFile, parse_size};
use crate::store::Cap;

const NODES: &[&str] =
    &["certificates", "downloads", "jobs", "mirror", "plain-http", "proxy", "store-cap"];

/// More than this many of anything at a time is a slip of the hand.
const MOST: i128 = 1024;

/// The settings of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    pub mirrors: MirrorMap,
    pub proxies: ProxyConfig,
    /// Files of certificates (PEM) to trust; relative ones stand beside the settings.
    pub certificates: Vec<PathBuf>,
    /// Registries (`HOST[:PORT]`) that are spoken to over plain http.
    pub plain_http: Vec<String>,
    /// How one is known at addresses; never of this file.
    pub credentials: Credentials,
    /// Transfers at a time.
    pub downloads: Option<usize>,
    /// Threads that build.
    pub jobs: Option<usize>,
    /// How much of the disk a store may take.
    pub store_cap: Option<Cap>,
}

/// Parses a cap: a size (`40GiB`) or a share of the disk (`30%`).
pub fn parse_cap(text: &str) -> Result<Cap, String> {
    let cap = match text.strip_suffix('%') {
        Some(share) => share.parse().ok().filter(|share| (1..=100).contains(share)).map(Cap::Share),
        None => parse_size(text).map(Cap::Bytes),
    };
    cap.ok_or_else(|| format!("`{text}` is no size (`40GiB`) and no share of the disk (`30%`)"))
}

impl Settings {
    /// Parses the text of the file at `path`; all its faults are reported together.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Faults> {
        let file = Arc::new(SourceFile { path: path.to_owned(), text: text.to_owned() });
        let mut reading = Reading {
            file,
            settings: Settings::default(),
            seen: BTreeSet::new(),
            faults: Vec::new(),
        };
        match KdlDocument::parse_v2(text) {
            Ok(document) => document.nodes().iter().for_each(|node| reading.read(node)),
            Err(error) => reading.push_syntax(&error),
        }
        Faults::check(reading.faults)?;
        Ok(reading.settings)
    }
}

struct Reading {
    file: Arc<SourceFile>,
    settings: Settings,
    /// Nodes that may stand once only.
    seen: BTreeSet<String>,
    faults: Vec<Fault>,
}

impl Reading {
    fn read(&mut self, node: &KdlNode) {
        match node.name().value() {
            "mirror" => self.read_mirror(node),
            "proxy" => self.read_proxy(node),
            "certificates" => self.read_certificates(node),
            "plain-http" => self.read_plain_http(node),
            "downloads" => self.settings.downloads = self.read_count(node),
            "jobs" => self.settings.jobs = self.read_count(node),
            "store-cap" => self.read_cap(node),
            other => {
                let message = format!("unknown node `{other}` in the settings");
                let known = format!("known are {}", NODES.join(", "));
                let fault = Fault::new(&self.at(node.name().span()), message).help(known);
                self.faults.push(fault.nearest(other, NODES.iter().copied()));
            }
        }
        if node.children().is_some() {
            let message = format!("`{}` takes no children", node.name().value());
            self.push(node.name().span(), message);
        }
    }

    fn read_mirror(&mut self, node: &KdlNode) {
        self.check_shape(node, 2, &[]);
        let texts = self.texts(node);
        let [name, value] = texts.as_slice() else {
            let message = "`mirror` needs an archive or a host, and an address";
            return self.push(node.name().span(), message);
        };
        match self.settings.mirrors.insert(name, value) {
            Ok(true) => {}
            Ok(false) => self.push(node.name().span(), format!("mirror `{name}` is named twice")),
            Err(error) => self.push(node.name().span(), error.to_string()),
        }
    }

    fn read_proxy(&mut self, node: &KdlNode) {
        self.check_once(node);
        self.check_shape(node, 1, &["except"]);
        let texts = self.texts(node);
        let [value] = texts.as_slice() else {
            return self.push(node.name().span(), "`proxy` needs an address");
        };
        match ProxyConfig::parse("settings", value) {
            Ok(url) => {
                let except =
                    node.entry("except").map(KdlEntry::value).and_then(KdlValue::as_string);
                self.settings.proxies = ProxyConfig {
                    http: Some(url.clone()),
                    https: Some(url),
                    except: except.unwrap_or_default().to_owned(),
                };
            }
            Err(error) => self.push(node.name().span(), error.to_string()),
        }
    }

    fn read_certificates(&mut self, node: &KdlNode) {
        self.check_shape(node, usize::MAX, &[]);
        let texts = self.texts(node);
        if node.entries().is_empty() {
            self.push(node.name().span(), "`certificates` needs the path of a file");
        }
        let beside = self.file.path.parent().unwrap_or(Path::new("")).to_owned();
        self.settings.certificates.extend(texts.iter().map(|path| beside.join(path)));
    }

    fn read_plain_http(&mut self, node: &KdlNode) {
        self.check_shape(node, usize::MAX, &[]);
        let texts = self.texts(node);
        if node.entries().is_empty() {
            self.push(node.name().span(), "`plain-http` needs the name of a registry");
        }
        for text in &texts {
            let is_name = Url::parse(&format!("http://{text}"))
                .is_ok_and(|url| url.path() == "/" && !text.contains(['/', '@', '?', '#']));
            if !is_name {
                self.push(
                    node.name().span(),
                    format!("`{text}` is no registry: `HOST` or `HOST:PORT`"),
                );
            }
        }
        self.settings.plain_http.extend(texts);
    }

    fn read_cap(&mut self, node: &KdlNode) {
        self.check_once(node);
        self.check_shape(node, 1, &[]);
        let texts = self.texts(node);
        let [text] = texts.as_slice() else {
            return self
                .push(node.name().span(), "`store-cap` needs a size or a share of the disk");
        };
        match parse_cap(text) {
            Ok(cap) => self.settings.store_cap = Some(cap),
            Err(message) => self.push(node.name().span(), message),
        }
    }

    fn read_count(&mut self, node: &KdlNode) -> Option<usize> {
        self.check_once(node);
        self.check_shape(node, 1, &[]);
        let count = node.get(0).and_then(KdlValue::as_integer);
        let count = count.filter(|count| (1..=MOST).contains(count));
        if count.is_none() {
            let message = format!("`{}` takes a number from 1 to {MOST}", node.name().value());
            self.push(node.name().span(), message);
        }
        count.and_then(|count| usize::try_from(count).ok())
    }

    /// The arguments of a node that takes strings only.
    fn texts(&mut self, node: &KdlNode) -> Vec<String> {
        let mut texts = Vec::new();
        for entry in node.entries().iter().filter(|entry| entry.name().is_none()) {
            match entry.value().as_string() {
                Some(text) => texts.push(text.to_owned()),
                None => self.push(entry.span(), format!("`{}` takes strings", node.name().value())),
            }
        }
        texts
    }

    fn check_once(&mut self, node: &KdlNode) {
        let name = node.name().value();
        if !self.seen.insert(name.to_owned()) {
            self.push(node.name().span(), format!("`{name}` is said twice"));
        }
    }

    /// Every entry beyond the arguments and properties that a node takes is a fault.
    fn check_shape(&mut self, node: &KdlNode, arguments: usize, properties: &[&str]) {
        let name = node.name().value();
        let mut count = 0;
        for entry in node.entries() {
            let property = entry.name().map(|property| property.value());
            count += usize::from(property.is_none());
            match property {
                None if count > arguments => {
                    self.push(entry.span(), format!("`{name}` takes no further argument"));
                }
                Some(property) if !properties.contains(&property) => {
                    let message = format!("`{name}` has no property `{property}`");
                    let fault = Fault::new(&self.at(entry.span()), message);
                    self.faults.push(fault.nearest(property, properties.iter().copied()));
                }
                Some(property) if !entry.value().is_string() => {
                    self.push(entry.span(), format!("`{property}` takes a string"));
                }
                _ => {}
            }
        }
    }

    fn push_syntax(&mut self, error: &kdl::KdlError) {
        for diagnostic in &error.diagnostics {
            let message = diagnostic.message.as_deref().unwrap_or("the text is not KDL");
            let mut chars = message.chars();
            let first = chars.next().map(|first| first.to_ascii_lowercase());
            let fault = Fault::new(
                &self.at(diagnostic.span),
                first.into_iter().chain(chars).collect::<String>(),
            );
            let help = diagnostic.help.as_deref();
            self.faults.push(help.into_iter().fold(fault, |fault, help| fault.help(help)));
        }
    }

    fn push(&mut self, span: SourceSpan, message: impl Into<String>) {
        let at = self.at(span);
        self.faults.push(Fault::new(&at, message));
    }

    fn at(&self, span: SourceSpan) -> Location {
        let end = self.file.text.len();
        let start = span.offset().min(end);
        Location { file: Arc::clone(&self.file), span: start..(start + span.len()).min(end) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> String {
        Settings::parse(Path::new("settings.kdl"), text).unwrap_err().to_string()
    }

    #[test]
    fn settings_say_mirrors_proxies_certificates_and_limits() {
        let text = r#"
            mirror "debian" "https://u:p@mirror.example.org/debian"
            proxy "proxy.example.org:3128" except="localhost,.internal"
            certificates "company.pem" "/etc/ssl/other.pem"
            downloads 4
            jobs 2
        "#;
        let settings =
            Settings::parse(Path::new("/home/me/.config/sbx/settings.kdl"), text).unwrap();
        let public = Url::parse("http://archive.example.org/debian").unwrap();
        let base = settings.mirrors.base("debian", &public);
        assert_eq!(base.as_str(), "https://u:p@mirror.example.org/debian/");
        assert_eq!(settings.proxies.https.unwrap().as_str(), "http://proxy.example.org:3128/");
        assert_eq!(settings.proxies.except, "localhost,.internal");
        let expected = ["/home/me/.config/sbx/company.pem", "/etc/ssl/other.pem"];
        assert_eq!(settings.certificates, expected.map(PathBuf::from));
        assert_eq!((settings.downloads, settings.jobs), (Some(4), Some(2)));
    }

    #[test]
    fn no_settings_are_settings() {
        assert_eq!(Settings::parse(Path::new("settings.kdl"), "").unwrap(), Settings::default());
    }

    #[test]
    fn all_faults_are_told_at_once_each_with_its_place() {
        let text = "mirrors \"debian\" \"http://m.example.org\"\n\
            mirror \"debian\"\n\
            mirror \"debian\" \"ftp://u:secret@m.example.org\"\n\
            mirror \"a\" \"http://m.example.org\"\nmirror \"a\" \"http://m.example.org\"\n\
            proxy \"socks5://p.example.org\" excpt=\"x\"\n\
            jobs 0\njobs 2\n\
            downloads 3 { x; }\n\
            certificates 7\n";
        insta::assert_snapshot!(faults(text), @r"
        settings.kdl:1: unknown node `mirrors` in the settings
        settings.kdl:2: `mirror` needs an archive or a host, and an address
        settings.kdl:3: mirror `debian`: `ftp://m.example.org/` is no http or https address of a directory
        settings.kdl:5: mirror `a` is named twice
        settings.kdl:6: proxy of `settings`: `socks5://p.example.org` is no http or https address
        settings.kdl:6: `proxy` has no property `excpt`
        settings.kdl:7: `jobs` takes a number from 1 to 1024
        settings.kdl:8: `jobs` is said twice
        settings.kdl:9: `downloads` takes no children
        settings.kdl:10: `certificates` takes strings
        ");
        let fault = Settings::parse(Path::new("s"), "mirrors \"a\" \"b\"").unwrap_err();
        assert_eq!(fault.iter().next().unwrap().help.as_deref(), Some("did you mean `mirror`?"));
    }

    #[test]
    fn what_is_not_kdl_is_a_fault_with_its_place() {
        insta::assert_snapshot!(faults("jobs 2\nmirror \"debian\n"), @"settings.kdl:2: unexpected newline in single-line quoted string");
    }
}
