//! SLSA provenance, version 1, in an in-toto statement: `docs/provenance.md` describes every field.
//!
//! It says what can be checked: given the lock and the project, anybody builds the image again and
//! compares. It does not say when and by whom, because the image does not depend on either; who signs it
//! answers for it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use super::inventory::{Given, Subject};
use super::{ReportError, TOOL, TOOL_VERSION, document, purl};
use crate::decl::ImageSource;
use crate::digest::{Digest, Integrity};
use crate::fetch::defaults;
use crate::lock::{Pin, Source};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::store::Key;

/// What kind of build it was: a name, described in `docs/provenance.md`.
pub const BUILD_TYPE: &str = "https://sbx.dev/build/v1";

/// Who built, where nobody says so.
pub const LOCAL_BUILDER: &str = "https://sbx.dev/builder/local";

/// The type of what an envelope holds (DSSE).
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

/// What a bill of materials is as the predicate of a statement.
pub const SPDX_PREDICATE: &str = "https://spdx.dev/Document";
/// What provenance is.
pub const PROVENANCE_PREDICATE: &str = "https://slsa.dev/provenance/v1";
pub const CYCLONEDX_PREDICATE: &str = "https://cyclonedx.org/bom";

const STATEMENT: &str = "https://in-toto.io/Statement/v1";

type Digests = BTreeMap<&'static str, String>;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Statement<P> {
    #[serde(rename = "_type")]
    kind: &'static str,
    subject: Vec<Resource>,
    predicate_type: &'static str,
    predicate: P,
}

#[derive(PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Resource {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uri: Option<String>,
    digest: Digests,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Predicate {
    build_definition: Definition,
    run_details: Details,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Definition {
    build_type: &'static str,
    external_parameters: External,
    internal_parameters: Internal,
    resolved_dependencies: Vec<Resource>,
}

#[derive(Serialize)]
struct External {
    project: String,
    sandbox: String,
    platform: Platform,
    lock: Digests,
}

#[derive(Serialize)]
struct Internal {
    /// The image's own Key.
    key: Key,
    steps: Vec<StepKey>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StepKey {
    layer: String,
    key: Key,
    /// Of the layer that it gave; none for a step that only others saw.
    #[serde(skip_serializing_if = "Option::is_none")]
    diff_id: Option<Digest>,
}

#[derive(Serialize)]
struct Details {
    builder: Builder,
}

#[derive(Serialize)]
struct Builder {
    id: String,
    version: BTreeMap<&'static str, &'static str>,
}

fn digests(digest: &Integrity) -> Digests {
    BTreeMap::from([(digest.algorithm(), digest.hex())])
}

/// What is known of how an image was made. Nothing more has to be read to say it, whoever has the image.
pub struct Provenance {
    subject: Subject,
    predicate: Predicate,
}

impl Provenance {
    /// `builder` is a URI of whoever built.
    pub fn new(given: Given<'_>, builder: Option<&str>) -> Result<Self, ReportError> {
        let (subject, record) = given.subject()?;
        let plan = given.plan;
        let shipped = plan.steps.iter().zip(&record.layers);
        let shipped = shipped.map(|(step, layer)| StepKey {
            layer: step.layer.to_string(),
            key: step.key,
            diff_id: Some(layer.diff_id),
        });
        let aside = plan.aside.iter().map(|step| StepKey {
            layer: step.layer.to_string(),
            key: step.key,
            diff_id: None,
        });
        let predicate = Predicate {
            build_definition: Definition {
                build_type: BUILD_TYPE,
                external_parameters: External {
                    project: given.project.name.to_string(),
                    sandbox: subject.sandbox.clone(),
                    platform: subject.platform,
                    lock: digests(&Digest::of(given.lock.to_text().as_bytes()).into()),
                },
                internal_parameters: Internal {
                    key: plan.key,
                    steps: aside.chain(shipped).collect(),
                },
                resolved_dependencies: dependencies(given)?,
            },
            run_details: Details {
                builder: Builder {
                    id: builder.unwrap_or(LOCAL_BUILDER).to_owned(),
                    version: BTreeMap::from([(TOOL, TOOL_VERSION)]),
                },
            },
        };
        Ok(Provenance { subject, predicate })
    }

    /// The statement. `manifests` are digests that the image is known by beside its own two, as the one that
    /// a registry has.
    pub fn to_bytes(&self, manifests: &[Digest]) -> Vec<u8> {
        document(&Statement {
            kind: STATEMENT,
            subject: subjects(&self.subject, manifests),
            predicate_type: PROVENANCE_PREDICATE,
            predicate: &self.predicate,
        })
    }
}

/// A document about an image as a statement that can be signed.
pub fn attest(
    subject: &Subject,
    manifests: &[Digest],
    predicate_type: &'static str,
    document: &[u8],
) -> Vec<u8> {
    let predicate: Value = serde_json::from_slice(document).expect("a report is JSON");
    let subject = subjects(subject, manifests);
    super::document(&Statement { kind: STATEMENT, subject, predicate_type, predicate })
}

/// Whether a statement is one that this program makes, in any of its versions: others make bills, too.
pub fn is_own(predicate_type: &str, predicate: &Value) -> bool {
    let own = |value: &Value| value["name"].as_str() == Some(TOOL);
    let some = |list: &Value, own: &dyn Fn(&Value) -> bool| {
        list.as_array().is_some_and(|list| list.iter().any(own))
    };
    match predicate_type {
        PROVENANCE_PREDICATE => {
            predicate["buildDefinition"]["buildType"].as_str() == Some(BUILD_TYPE)
        }
        SPDX_PREDICATE => some(&predicate["creationInfo"]["creators"], &|creator| {
            creator.as_str().is_some_and(|text| text.starts_with(&format!("Tool: {TOOL}-")))
        }),
        CYCLONEDX_PREDICATE => some(&predicate["metadata"]["tools"]["components"], &own),
        _ => false,
    }
}

/// The names that an image is known by.
fn subjects(subject: &Subject, manifests: &[Digest]) -> Vec<Resource> {
    let named = |name: String, digest: Digest| Resource {
        name: Some(name),
        uri: None,
        digest: digests(&digest.into()),
    };
    let reference = &subject.reference;
    let own = [
        named(reference.clone(), subject.manifest),
        named(format!("{reference}#config"), subject.image),
    ];
    let others = manifests.iter().map(|digest| named(reference.clone(), *digest));
    own.into_iter().chain(others).collect()
}

/// Every source that a step of the plan could see, shipped or not, and the image that a base is.
fn dependencies(given: Given<'_>) -> Result<Vec<Resource>, ReportError> {
    let mut all = BTreeSet::new();
    all.extend(base_image(given)?);
    for step in given.plan.aside.iter().chain(&given.plan.steps) {
        for source in step.work.sources() {
            let uri = purl::purl(&source, &given.origin(&source))?;
            let mut digest = digests(&source.integrity());
            if let Source::Git(pin) = source {
                digest.insert("gitCommit", pin.commit.to_string());
            }
            all.insert(Resource { name: Some(source.label()), uri: Some(uri), digest });
        }
    }
    Ok(all.into_iter().collect())
}

fn base_image(given: Given<'_>) -> Result<Option<Resource>, ReportError> {
    let Some((declared, pins)) = given.base() else { return Ok(None) };
    let pin = pins.iter().find_map(|pin| match pin {
        Pin::Base(pin) => Some(pin),
        _ => None,
    });
    let Some(pin) = pin else { return Ok(None) };
    let repository = match &declared.source {
        ImageSource::Registry(reference) => Some(repository(reference)),
        ImageSource::Layout { .. } => None,
    };
    let arch = given.plan.platform.architecture();
    let uri = purl::base_image(pin, arch, repository.as_deref());
    Ok(Some(Resource {
        name: Some(pin.label()),
        uri: Some(uri.map_err(|_| ReportError::Name(pin.label()))?),
        digest: digests(&pin.manifest.into()),
    }))
}

/// `HOST/REPOSITORY`, as package URLs have it.
fn repository(reference: &Reference) -> String {
    let docker = defaults::DOCKER_NAMES;
    let host = reference.registry().filter(|host| !docker.contains(host)).unwrap_or(docker[0]);
    let name = reference.repository();
    let library = if host == docker[0] && !name.contains('/') { "library/" } else { "" };
    format!("{host}/{library}{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_has_its_registry_s_name() {
        let of = |text: &str| repository(&text.parse().unwrap());
        assert_eq!(of("r.example.org:5000/a/b:1"), "r.example.org:5000/a/b");
        let docker = defaults::DOCKER_NAMES[0];
        assert_eq!(of("debian:13"), format!("{docker}/library/debian"));
        assert_eq!(of(&format!("{docker}/debian")), format!("{docker}/library/debian"));
        assert_eq!(of("team/app"), format!("{docker}/team/app"));
    }
}
