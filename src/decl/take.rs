//! What is taken out of a source that holds many files, and how it is laid: `archive` and `files
//! from=`.

use super::fault::{Fault, Location};
use super::layer::{Owner, checked, mode, owner};
use super::mirror::refuse_password;
use super::node::Node;
use crate::digest::Digest;
use crate::path::LayerPath;

/// Which files of a source come where. Not part of what is asked of the world: the bytes of the
/// source are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Take {
    pub into: LayerPath,
    /// Directory or file of the source that is meant, after `strip`; empty for all of it.
    pub subdirectory: String,
    /// How many leading directories of each name are left out.
    pub strip: u32,
    /// Patterns (gitignore(5)) of what is taken; none for everything.
    pub include: Vec<String>,
    pub exclude: Vec<String>,
    pub owner: Option<Owner>,
    /// Mode of every file; `None` for 0755 where anybody may execute it and 0644 elsewhere.
    pub mode: Option<u32>,
    /// Whether it may replace paths of the layers below.
    pub replace: bool,
}

impl Take {
    /// Reads what is left of a node.
    pub(super) fn read(node: &Node<'_>, subdirectory: Option<String>) -> Option<Self> {
        let into = node.text_property("into");
        let mut take = Take {
            into: LayerPath::root(),
            subdirectory: String::new(),
            strip: node
                .find_integer_property("strip", 0..=64)
                .and_then(|count| u32::try_from(count).ok())
                .unwrap_or_default(),
            include: Vec::new(),
            exclude: Vec::new(),
            owner: owner(node),
            mode: mode(node),
            replace: node.flag_property("replace").unwrap_or(false),
        };
        node.finish();
        for child in node.children() {
            let list = match child.name() {
                "include" => &mut take.include,
                "exclude" => &mut take.exclude,
                _ => {
                    child.unknown(&format!("`{}`", node.name()), &["exclude", "include"]);
                    continue;
                }
            };
            list.extend(child.texts("patterns").into_iter().map(|(text, _)| text));
            child.finish_leaf();
        }
        if let Some(text) = subdirectory {
            let inner = text.trim_matches('/');
            if inner.split('/').any(|part| part == "..") || text.starts_with('/') {
                node.fault(format!("`{text}` leads out of the source"));
            }
            if inner != "." {
                take.subdirectory = inner.to_owned();
            }
        }
        take.into = checked(node, &into?)?;
        Some(take)
    }

    /// Whether nothing is left out, and no name changes.
    pub fn is_whole(&self) -> bool {
        let lists = self.include.is_empty() && self.exclude.is_empty();
        lists && self.strip == 0 && self.subdirectory.is_empty()
    }
}

/// Files of an archive.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Archive {
    /// An address, or a path below the project.
    pub source: String,
    pub digest: Digest,
    #[serde(skip)]
    pub take: Take,
    #[serde(skip)]
    pub at: Location,
}

impl Archive {
    pub(super) fn read(node: &Node<'_>) -> Option<Self> {
        let source = node.text("an address, or a path below the project");
        let digest = node.find_text_property("digest");
        let digest = match digest.as_deref().map(str::parse::<Digest>) {
            Some(Ok(digest)) => Some(digest),
            Some(Err(error)) => {
                let at = node.property_at("digest");
                node.sink.push(Fault::new(&at, error.to_string()));
                None
            }
            None => {
                let fault = Fault::new(&node.at(), "`archive` needs a digest");
                let help = "write `digest=\"sha256:…\"`, as its publisher or `sha256sum` says it";
                node.sink.push(fault.help(help));
                None
            }
        };
        let subdirectory = node.find_text_property("subdirectory");
        let take = Take::read(node, subdirectory);
        let archive = Archive { source: source?, digest: digest?, take: take?, at: node.at() };
        refuse_password(node, &archive.source);
        match url::Url::parse(&archive.source) {
            Ok(url) if !["http", "https"].contains(&url.scheme()) => {
                node.fault(format!("`{}` is no address that can be fetched", archive.source));
                None
            }
            Err(_) if leaves(&archive.source) => {
                node.fault(format!("`{}` leaves the project", archive.source));
                None
            }
            _ => Some(archive),
        }
    }

    /// Its path below the project, where it is not fetched.
    pub fn local(&self) -> Option<&str> {
        url::Url::parse(&self.source).is_err().then_some(&*self.source)
    }

    /// The last part of its address.
    pub fn name(&self) -> &str {
        let path = self.source.split(['?', '#']).next().unwrap_or_default();
        path.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
    }
}

fn leaves(path: &str) -> bool {
    path.starts_with('/') || path.split('/').any(|part| part == "..")
}

/// Where a package that is not installed comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PackageIndex {
    Pypi,
    Npm,
}

impl PackageIndex {
    fn is_pypi(&self) -> bool {
        *self == PackageIndex::Pypi
    }
}

/// Files out of a package that is not installed.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PackageFiles {
    #[serde(skip_serializing_if = "PackageIndex::is_pypi")]
    pub index: PackageIndex,
    /// The package's name there.
    pub package: String,
    pub version: String,
    #[serde(skip)]
    pub take: Take,
    #[serde(skip)]
    pub at: Location,
}

impl PackageFiles {
    /// Whether a `files` node is meant so.
    pub(super) fn is_meant(node: &Node<'_>) -> bool {
        node.find_text_property("from").is_some()
    }

    pub(super) fn read(node: &Node<'_>) -> Option<Self> {
        let inner = node.text("a path in the package");
        let from = node.text_property("from")?;
        let take = Take::read(node, inner);
        let Some((index, package, version)) = parse_from(&from) else {
            let at = node.property_at("from");
            let fault = Fault::new(&at, format!("`{from}` names no package and version"));
            let help = "write `from=\"pypi:NAME==VERSION\"` or `from=\"npm:NAME@VERSION\"`; files of a git tree or an archive are `git`'s and `archive`'s to take";
            node.sink.push(fault.help(help));
            return None;
        };
        let mut take = take?;
        // a tarball of npm's has one directory, whatever it is called
        take.strip += u32::from(index == PackageIndex::Npm);
        let (package, version) = (package.to_owned(), version.to_owned());
        Some(PackageFiles { index, package, version, take, at: node.at() })
    }
}

/// `pypi:NAME==VERSION` or `npm:NAME@VERSION`.
fn parse_from(from: &str) -> Option<(PackageIndex, &str, &str)> {
    let (index, rest) = from.split_once(':')?;
    let (index, (package, version), extra) = match index {
        "pypi" => (PackageIndex::Pypi, rest.split_once("==")?, "!"),
        "npm" => (PackageIndex::Npm, rest.rsplit_once('@')?, "@/"),
        _ => return None,
    };
    let sound = |text: &str| {
        let known = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c) || extra.contains(c);
        !text.is_empty() && text.chars().all(known)
    };
    (sound(package) && sound(version)).then_some((index, package, version))
}
