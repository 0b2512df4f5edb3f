//! CycloneDX 1.6 in JSON.
//!
//! Layers are properties of components and no components of their own: that is how scanners write and
//! read them. A Debian package's source, by which vulnerabilities are known, the package URL says; who does
//! not read it there finds it in properties of his own.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::inventory::{Component, Inventory, ShippedLayer};
use super::{Licence, TOOL, TOOL_VERSION, created, document, uuid};
use crate::digest::Integrity;

/// What the image is called within the document.
const IMAGE: &str = "image";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Bom {
    #[serde(rename = "$schema")]
    schema: &'static str,
    bom_format: &'static str,
    spec_version: &'static str,
    serial_number: String,
    version: u32,
    metadata: Metadata,
    components: Vec<Item>,
    dependencies: Vec<Dependency>,
}

#[derive(Serialize)]
struct Metadata {
    timestamp: String,
    tools: Tools,
    component: Item,
}

#[derive(Serialize)]
struct Tools {
    components: Vec<Item>,
}

/// A component, as the format calls it.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    r#type: &'static str,
    #[serde(rename = "bom-ref", skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    version: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hashes: Vec<Hash>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    licenses: Vec<Choice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpe: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    purl: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    properties: Vec<Property>,
}

#[derive(Serialize)]
struct Hash {
    alg: &'static str,
    content: String,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Choice {
    License(Named),
    Expression(String),
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Named {
    Id(String),
    Name(String),
}

#[derive(Serialize)]
struct Property {
    name: &'static str,
    value: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Dependency {
    r#ref: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    depends_on: Vec<String>,
}

/// The bill of materials of an image.
pub fn cyclonedx(inventory: &Inventory) -> Vec<u8> {
    let mut components: Vec<Item> = inventory.system.iter().map(system).collect();
    components.extend(inventory.components.iter().map(|one| item(one, &inventory.layers)));
    let mut bill = Bom {
        schema: "http://cyclonedx.org/schema/bom-1.6.schema.json",
        bom_format: "CycloneDX",
        spec_version: "1.6",
        serial_number: String::new(),
        version: 1,
        metadata: Metadata {
            timestamp: created(),
            tools: Tools {
                components: vec![Item {
                    r#type: "application",
                    name: TOOL.to_owned(),
                    version: TOOL_VERSION.to_owned(),
                    ..Item::default()
                }],
            },
            component: image(inventory),
        },
        components,
        dependencies: dependencies(inventory),
    };
    bill.serial_number = format!("urn:uuid:{}", uuid("cyclonedx", &document(&bill)));
    document(&bill)
}

fn image(inventory: &Inventory) -> Item {
    let subject = &inventory.subject;
    let layers = inventory.layers.iter().map(|layer| Property {
        name: "dev.sbx:layer",
        value: format!("{} {}", layer.diff_id, layer.name),
    });
    let platform = Property { name: "dev.sbx:platform", value: subject.platform.to_string() };
    Item {
        r#type: "container",
        id: Some(IMAGE.to_owned()),
        name: subject.reference.clone(),
        version: subject.image.to_string(),
        hashes: vec![hash(&subject.image.into())],
        properties: [platform].into_iter().chain(layers).collect(),
        ..Item::default()
    }
}

fn system((name, version): &(String, String)) -> Item {
    Item {
        r#type: "operating-system",
        id: Some("operating-system".to_owned()),
        name: name.clone(),
        version: version.clone(),
        ..Item::default()
    }
}

fn item(component: &Component, layers: &[ShippedLayer]) -> Item {
    let (group, name) = match component.name.split_once('/') {
        Some((scope, name)) if scope.starts_with('@') => (Some(scope.to_owned()), name),
        _ => (None, component.name.as_str()),
    };
    let brought = component.layers.iter().filter_map(|at| layers.get(*at));
    let brought = brought.map(|layer| Property {
        name: "dev.sbx:layer",
        value: format!("{} {}", layer.diff_id, layer.name),
    });
    let source = component.source().into_iter().flat_map(|(name, version)| {
        [("aquasecurity:trivy:SrcName", name), ("aquasecurity:trivy:SrcVersion", version)]
    });
    let source = source.map(|(name, value)| Property { name, value: value.to_owned() });
    Item {
        r#type: "library",
        id: Some(component.id()),
        group,
        name: name.to_owned(),
        version: component.version.clone(),
        hashes: component.digest.iter().map(hash).collect(),
        licenses: component.licence.iter().map(choice).collect(),
        cpe: component.cpe.clone(),
        purl: Some(component.purl.clone()),
        properties: brought.chain(source).collect(),
    }
}

fn hash(digest: &Integrity) -> Hash {
    let alg = match digest {
        Integrity::Sha1(_) => "SHA-1",
        Integrity::Sha256(_) => "SHA-256",
        Integrity::Sha512(_) => "SHA-512",
    };
    Hash { alg, content: digest.hex() }
}

fn choice(licence: &Licence) -> Choice {
    match licence.references.get(&licence.expression) {
        Some(text) => Choice::License(Named::Name(text.clone())),
        None if spdx::license_id(&licence.expression).is_some() => {
            Choice::License(Named::Id(licence.expression.clone()))
        }
        None => Choice::Expression(licence.expression.clone()),
    }
}

/// The image depends on what its layers bring, and a package on what it bundles.
fn dependencies(inventory: &Inventory) -> Vec<Dependency> {
    let mut all: BTreeMap<&str, BTreeSet<String>> = BTreeMap::from([(IMAGE, BTreeSet::new())]);
    for component in &inventory.components {
        let parents = component.bundled_in.iter().map(String::as_str);
        let direct = component.bundled_in.is_empty().then_some(IMAGE);
        for parent in parents.chain(direct) {
            all.entry(parent).or_default().insert(component.id());
        }
    }
    let one = |(parent, on): (&str, BTreeSet<String>)| Dependency {
        r#ref: parent.to_owned(),
        depends_on: on.into_iter().collect(),
    };
    all.into_iter().map(one).collect()
}
