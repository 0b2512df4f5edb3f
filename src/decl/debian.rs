//! The `debian` recipe: which packages, from which suites.

use serde::Serialize;

use super::fault::{Fault, Location};
use super::mirror::refuse_password;
use super::node::Node;

/// Which packages stand below everything that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Base {
    /// Essential packages, those of priority `required`, and apt (mmdebstrap's `minbase`).
    Required,
    /// Essential packages only.
    Essential,
    /// Nothing but what is asked for.
    None,
}

/// Debian packages, resolved together over what the needed layers bring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Debian {
    /// Codename, `trixie`; `None` inherits the one of the needed layers.
    pub release: Option<String>,
    /// Empty: the release, its `-updates` and its `-security`.
    pub suites: Vec<String>,
    pub components: Vec<String>,
    pub base: Base,
    pub recommends: bool,
    pub packages: Vec<PackageRequest>,
    pub pins: Vec<PinRule>,
    pub exclude: Vec<String>,
    pub repositories: Vec<Repository>,
    pub debconf: Vec<Debconf>,
    /// Which paths of packages are laid, in the lowest debian layer. Not part of what is asked.
    #[serde(skip)]
    pub paths: PathRules,
    /// Key that signs the archive instead of Debian's own, a file of the project's.
    pub key: Option<String>,
    /// Where to fetch Debian's archive from. Not part of what is asked.
    #[serde(skip)]
    pub mirror: Option<String>,
    #[serde(skip)]
    pub at: Location,
}

/// What is left out of packages, and what of that is not (dpkg(1), `--path-exclude`): globs of
/// absolute paths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PathRules {
    pub exclude: Vec<String>,
    pub include: Vec<String>,
}

/// `nginx`, `nginx>=1.26`, `libc6:arm64`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PackageRequest {
    pub name: String,
    pub arch: Option<String>,
    pub version: Option<VersionRule>,
    #[serde(skip)]
    pub at: Location,
}

/// A relation to a version (Debian Policy 7.1): `<<`, `<=`, `=`, `>=` or `>>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VersionRule {
    pub relation: String,
    pub version: String,
}

/// `pin "chromium" version="140.*"` or `suite="trixie-backports"` (apt_preferences(5)).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PinRule {
    /// A package's name, or a glob of names.
    pub package: String,
    pub version: Option<String>,
    pub suite: Option<String>,
}

/// A signed archive of somebody else's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Repository {
    pub name: String,
    pub url: String,
    pub suite: String,
    pub components: Vec<String>,
    /// Key file, relative to the project's root.
    pub key: String,
}

/// One answer for debconf (debconf-set-selections(1)).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Debconf {
    pub package: String,
    pub question: String,
    pub kind: String,
    pub value: String,
}

const CHILDREN: &[&str] = &[
    "base",
    "components",
    "debconf",
    "exclude",
    "key",
    "mirror",
    "packages",
    "path-exclude",
    "path-include",
    "pin",
    "recommends",
    "repository",
    "suites",
];

impl Debian {
    pub(super) fn read(node: &Node<'_>) -> Self {
        let mut debian = Debian {
            release: node.find_text(),
            suites: Vec::new(),
            components: vec!["main".to_owned()],
            base: Base::Required,
            recommends: false,
            packages: Vec::new(),
            pins: Vec::new(),
            exclude: Vec::new(),
            repositories: Vec::new(),
            debconf: Vec::new(),
            paths: PathRules::default(),
            key: None,
            mirror: None,
            at: node.at(),
        };
        node.finish();
        for child in node.children() {
            debian.read_child(&child);
        }
        debian.packages.sort_by(|a, b| (&a.name, &a.arch).cmp(&(&b.name, &b.arch)));
        debian
            .packages
            .dedup_by(|a, b| a.name == b.name && a.arch == b.arch && a.version == b.version);
        debian
    }

    fn read_child(&mut self, child: &Node<'_>) {
        let names = |what| child.texts(what).into_iter().map(|(text, _)| text);
        match child.name() {
            "suites" => self.suites.extend(names("names of suites")),
            "components" => self.components = names("names of components").collect(),
            "base" => self.base = read_base(child).unwrap_or(self.base),
            "recommends" => self.recommends = child.flag().unwrap_or(self.recommends),
            "packages" => {
                let packages = child.texts("names of packages").into_iter();
                self.packages.extend(
                    packages.filter_map(|(text, at)| PackageRequest::read(child, &text, at)),
                );
            }
            "path-exclude" => self.paths.exclude.extend(read_paths(child)),
            "path-include" => self.paths.include.extend(read_paths(child)),
            "exclude" => self.exclude.extend(names("names of packages")),
            "pin" => self.pins.extend(PinRule::read(child)),
            "repository" => return self.repositories.extend(Repository::read(child)),
            "debconf" => self.debconf.extend(Debconf::read(child)),
            "key" => self.key = child.text("a key file"),
            "mirror" => self.mirror = address(child),
            _ => return child.unknown("`debian`", CHILDREN),
        }
        child.finish_leaf();
    }
}

fn read_base(node: &Node<'_>) -> Option<Base> {
    match node.text("`required`, `essential` or `none`")?.as_str() {
        "required" => Some(Base::Required),
        "essential" => Some(Base::Essential),
        "none" => Some(Base::None),
        other => {
            let known = ["required", "essential", "none"];
            let fault = Fault::new(
                &node.at(),
                format!("`{other}` is no base: known are {}", known.join(", ")),
            );
            node.sink.push(fault.nearest(other, known));
            None
        }
    }
}

/// Globs as both dpkg and this program understand them.
fn read_paths(node: &Node<'_>) -> Vec<String> {
    let sound = |(text, at): (String, Location)| {
        if !text.starts_with('/') || text.contains(['{', '}', '\n']) {
            let fault = Fault::new(&at, format!("`{text}` is no pattern of paths"));
            node.sink.push(fault.help("it begins with `/` and has no braces: `/usr/share/man/*`"));
            return None;
        }
        match globset::Glob::new(&text) {
            Ok(_) => Some(text),
            Err(error) => {
                node.sink.push(Fault::new(&at, error.to_string()));
                None
            }
        }
    };
    node.texts("patterns of paths").into_iter().filter_map(sound).collect()
}

/// Debian Policy 5.6.1: lower-case letters, digits, `+`, `-`, `.`; at least two.
fn is_package_name(name: &str) -> bool {
    let word = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() > 1
        && name.bytes().next().is_some_and(word)
        && name.bytes().all(|c| word(c) || b"+-.".contains(&c))
}

impl PackageRequest {
    fn read(node: &Node<'_>, text: &str, at: Location) -> Option<Self> {
        let fail = |message: String| {
            node.sink
                .push(Fault::new(&at, message).help("write `name`, `name>=1.2` or `name:arch`"));
            None
        };
        let split = text.find(['<', '>', '=']).unwrap_or(text.len());
        let (head, rule) = text.split_at(split);
        let head = head.trim();
        let (name, arch) = match head.split_once(':') {
            Some((name, arch)) => (name, Some(arch.to_owned())),
            None => (head, None),
        };
        if !is_package_name(name) {
            return fail(format!("`{name}` cannot be the name of a Debian package"));
        }
        let version = match rule {
            "" => None,
            rule => {
                let end = rule.find(|c| !"<>=".contains(c)).unwrap_or(rule.len());
                let (relation, version) = (&rule[..end], rule[end..].trim());
                if !["<<", "<=", "=", ">=", ">>"].contains(&relation) || version.is_empty() {
                    return fail(format!("`{rule}` is no version constraint"));
                }
                Some(VersionRule { relation: relation.to_owned(), version: version.to_owned() })
            }
        };
        Some(PackageRequest { name: name.to_owned(), arch, version, at })
    }
}

impl PinRule {
    fn read(node: &Node<'_>) -> Option<Self> {
        let package = node.text("the name of a package")?;
        let version = node.find_text_property("version");
        let suite = node.find_text_property("suite");
        if version.is_none() && suite.is_none() {
            node.fault("`pin` needs `version=…` or `suite=…`");
        }
        Some(PinRule { package, version, suite })
    }
}

impl Debconf {
    fn read(node: &Node<'_>) -> Option<Self> {
        Some(Debconf {
            package: node.text("a package")?,
            question: node.text("a question")?,
            kind: node.text("the question's type")?,
            value: node.text("an answer")?,
        })
    }
}

fn address(node: &Node<'_>) -> Option<String> {
    node.text("a URL").inspect(|text| refuse_password(node, text))
}

impl Repository {
    fn read(node: &Node<'_>) -> Option<Self> {
        const CHILDREN: &[&str] = &["components", "key", "suite", "url"];
        let name = node.parse::<crate::name::LayerName>("a name");
        node.finish();
        let (mut url, mut suite, mut key) = (None, None, None);
        let mut components = vec!["main".to_owned()];
        for child in node.children() {
            match child.name() {
                "url" => url = address(&child),
                "suite" => suite = child.text("the name of a suite"),
                "key" => key = child.text("a key file"),
                "components" => {
                    components = child
                        .texts("names of components")
                        .into_iter()
                        .map(|(text, _)| text)
                        .collect();
                }
                _ => {
                    child.unknown("`repository`", CHILDREN);
                    continue;
                }
            }
            child.finish_leaf();
        }
        for (missing, what) in
            [(url.is_none(), "url"), (suite.is_none(), "suite"), (key.is_none(), "key")]
        {
            if missing {
                node.fault(format!("`repository` needs `{what}`"));
            }
        }
        let name = name?.to_string();
        Some(Repository { name, url: url?, suite: suite?, components, key: key? })
    }
}
