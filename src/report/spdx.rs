//! SPDX 2.3 in JSON.
//!
//! Version 3.0 says more, but scanners, registries and the validators that people have read 2.3 today,
//! and nothing of what is said here needs 3.0. Structs of our own, because the bytes are what digests
//! and signatures are taken of.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::inventory::{Component, Inventory, ShippedLayer};
use super::{TOOL, TOOL_VERSION, created, document, uuid};
use crate::digest::Integrity;

const UNSAID: &str = "NOASSERTION";
const SYSTEM: &str = "SPDXRef-OperatingSystem";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    spdx_version: &'static str,
    data_license: &'static str,
    #[serde(rename = "SPDXID")]
    id: &'static str,
    name: String,
    document_namespace: String,
    creation_info: CreationInfo,
    packages: Vec<Package>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    has_extracted_licensing_infos: Vec<Extracted>,
    relationships: Vec<Relationship>,
}

#[derive(Serialize)]
struct CreationInfo {
    created: String,
    creators: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Package {
    #[serde(rename = "SPDXID")]
    id: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    version_info: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_info: Option<String>,
    primary_package_purpose: &'static str,
    download_location: &'static str,
    files_analyzed: bool,
    license_concluded: &'static str,
    license_declared: String,
    copyright_text: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    checksums: Vec<Checksum>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    external_refs: Vec<ExternalRef>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Checksum {
    algorithm: String,
    checksum_value: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExternalRef {
    reference_category: &'static str,
    reference_type: &'static str,
    reference_locator: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Extracted {
    license_id: String,
    extracted_text: String,
    name: String,
}

#[derive(PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
struct Relationship {
    spdx_element_id: String,
    relationship_type: &'static str,
    related_spdx_element: String,
}

/// The bill of materials of an image: the image contains its layers, and each of them its packages.
pub fn spdx(inventory: &Inventory) -> Vec<u8> {
    let subject = &inventory.subject;
    let mut packages = vec![image(inventory)];
    packages
        .extend(inventory.layers.iter().enumerate().map(|(at, layer)| layer_package(at, layer)));
    packages.extend(inventory.system.iter().map(system));
    packages.extend(inventory.components.iter().map(package));
    let mut bill = Document {
        spdx_version: "SPDX-2.3",
        data_license: "CC0-1.0",
        id: "SPDXRef-DOCUMENT",
        name: format!("{} for {}", subject.sandbox, subject.platform),
        document_namespace: String::new(),
        creation_info: CreationInfo {
            created: created(),
            creators: vec![format!("Tool: {TOOL}-{TOOL_VERSION}")],
        },
        packages,
        has_extracted_licensing_infos: extracted(inventory),
        relationships: relationships(inventory).into_iter().collect(),
    };
    // two documents never have one name (SPDX 2.3, 6.5)
    bill.document_namespace = format!("urn:uuid:{}", uuid("spdx", &document(&bill)));
    document(&bill)
}

fn bare(id: String, name: String, purpose: &'static str) -> Package {
    Package {
        id,
        name,
        version_info: None,
        summary: None,
        source_info: None,
        primary_package_purpose: purpose,
        download_location: UNSAID,
        files_analyzed: false,
        license_concluded: UNSAID,
        license_declared: UNSAID.to_owned(),
        copyright_text: UNSAID,
        checksums: Vec::new(),
        external_refs: Vec::new(),
    }
}

fn image(inventory: &Inventory) -> Package {
    let subject = &inventory.subject;
    Package {
        version_info: Some(subject.image.to_string()),
        summary: Some(format!("sandbox {} for {}", subject.sandbox, subject.platform)),
        checksums: vec![checksum(&subject.image.into())],
        ..bare("SPDXRef-image".to_owned(), subject.reference.clone(), "CONTAINER")
    }
}

fn layer_id(at: usize) -> String {
    format!("SPDXRef-layer-{at}")
}

fn layer_package(at: usize, layer: &ShippedLayer) -> Package {
    Package {
        version_info: Some(layer.diff_id.to_string()),
        summary: Some(layer.title.clone()),
        checksums: vec![checksum(&layer.diff_id.into())],
        ..bare(layer_id(at), format!("layer {}", layer.name), "ARCHIVE")
    }
}

/// What the packages are of. Scanners know it by the beginning of its identifier, and look at no Debian
/// package where there is none.
fn system((name, version): &(String, String)) -> Package {
    Package {
        version_info: Some(version.clone()),
        ..bare(SYSTEM.to_owned(), name.clone(), "OPERATING-SYSTEM")
    }
}

fn component_id(component: &Component) -> String {
    format!("SPDXRef-{}", component.id())
}

fn package(component: &Component) -> Package {
    let licence = component.licence.as_ref();
    let purl = ExternalRef {
        reference_category: "PACKAGE-MANAGER",
        reference_type: "purl",
        reference_locator: component.purl.clone(),
    };
    let cpe = component.cpe.as_ref().map(|cpe| ExternalRef {
        reference_category: "SECURITY",
        reference_type: "cpe23Type",
        reference_locator: cpe.clone(),
    });
    // in the words that scanners read
    let built = |(name, version)| format!("built package from: {name} {version}");
    Package {
        source_info: component.source().map(built),
        version_info: (!component.version.is_empty()).then(|| component.version.clone()),
        license_declared: licence
            .map_or_else(|| UNSAID.to_owned(), |licence| licence.expression.clone()),
        checksums: component.digest.iter().map(checksum).collect(),
        external_refs: [purl].into_iter().chain(cpe).collect(),
        ..bare(component_id(component), component.name.clone(), "LIBRARY")
    }
}

fn checksum(digest: &Integrity) -> Checksum {
    Checksum { algorithm: digest.algorithm().to_uppercase(), checksum_value: digest.hex() }
}

/// What the document's own licence names stand for.
fn extracted(inventory: &Inventory) -> Vec<Extracted> {
    let licences = inventory.components.iter().filter_map(|component| component.licence.as_ref());
    let references: BTreeMap<&String, &String> =
        licences.flat_map(|licence| &licence.references).collect();
    let one = |(id, text): (&String, &String)| Extracted {
        license_id: id.clone(),
        extracted_text: text.clone(),
        name: text.clone(),
    };
    references.into_iter().map(one).collect()
}

fn relationships(inventory: &Inventory) -> BTreeSet<Relationship> {
    let mut all = BTreeSet::new();
    let mut relate = |one: String, kind: &'static str, other: String| {
        all.insert(Relationship {
            spdx_element_id: one,
            relationship_type: kind,
            related_spdx_element: other,
        });
    };
    relate("SPDXRef-DOCUMENT".to_owned(), "DESCRIBES", "SPDXRef-image".to_owned());
    for (at, layer) in inventory.layers.iter().enumerate() {
        relate("SPDXRef-image".to_owned(), "CONTAINS", layer_id(at));
        for need in &layer.needs {
            relate(layer_id(at), "DEPENDS_ON", layer_id(*need));
        }
    }
    if inventory.system.is_some() {
        relate("SPDXRef-image".to_owned(), "CONTAINS", SYSTEM.to_owned());
    }
    for component in &inventory.components {
        if component.layers.is_empty() {
            relate("SPDXRef-image".to_owned(), "CONTAINS", component_id(component));
        }
        for at in &component.layers {
            relate(layer_id(*at), "CONTAINS", component_id(component));
        }
        for parent in &component.bundled_in {
            relate(format!("SPDXRef-{parent}"), "CONTAINS", component_id(component));
        }
    }
    all
}
