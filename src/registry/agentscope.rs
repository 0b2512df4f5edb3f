//! A Python module that makes registered types known to AgentScope Runtime, for `--extension` of its
//! server and builder, or for an import.
//!
//! The constructors of its releases differ in the order of their parameters: all calls are by keyword.
//! The module is loaded by its path, so all imports are absolute. AgentScope looks types up by the
//! lower-case value of what it upper-cases itself, and [`SandboxName`](crate::name::SandboxName) has no
//! other letters. Names of images are made as its own classes make theirs, `RUNTIME_SANDBOX_REGISTRY`,
//! `_IMAGE_NAMESPACE` and `_IMAGE_TAG` included; the tag is the image's, so that AgentScope sees when a
//! pool is outdated.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::{Entry, RegistryError};

/// Where AgentScope's manager reaches what it starts.
const PORT: u16 = 80;

const HEAD: &str = r#""""Sandbox types for AgentScope Runtime, as registered with sbx.

Written by `sbx register --agentscope`; run it again after a build, and this is written anew.
"""

import os

from agentscope_runtime.sandbox.box.base import base_sandbox as upstream
from agentscope_runtime.sandbox.enums import SandboxType
from agentscope_runtime.sandbox.registry import SandboxRegistry
from agentscope_runtime.sandbox.utils import build_image_uri


def _image(registry, namespace, name, tag):
    return build_image_uri(
        image_name=name,
        tag=os.getenv("RUNTIME_SANDBOX_IMAGE_TAG") or tag,
        registry=os.getenv("RUNTIME_SANDBOX_REGISTRY") or registry,
        namespace=os.getenv("RUNTIME_SANDBOX_IMAGE_NAMESPACE") or namespace,
    )


def _timeout(seconds):
    return int(os.getenv("RUNTIME_SANDBOX_TIMEOUT") or seconds)
"#;

/// An image's name in parts: registry, namespace, name.
struct Parts<'a> {
    registry: &'a str,
    namespace: &'a str,
    name: &'a str,
}

/// The module's text.
pub fn module(entries: &[Entry]) -> Result<String, RegistryError> {
    let mut text = HEAD.to_owned();
    let mut taken: BTreeMap<String, &Entry> = BTreeMap::new();
    for entry in entries {
        if !entry.ports.contains(&PORT) {
            return Err(RegistryError::NoPort(entry.name.to_string()));
        }
        let name = entry.name.to_string();
        let late = format!("{name}_async");
        let class = class(&name);
        for same in [name.clone(), late.clone(), class.clone(), format!("{class}Async")] {
            if let Some(first) = taken.insert(same.clone(), entry) {
                let (one, two) = (first.name.to_string(), name);
                return Err(RegistryError::Same { one, two, same });
            }
        }
        add(&mut text, entry, &name, (&class, "upstream.BaseSandbox"))?;
        add(&mut text, entry, &late, (&format!("{class}Async"), "upstream.BaseSandboxAsync"))?;
    }
    Ok(text)
}

/// What the engine must know the image as, under these variables of the host.
pub fn image_name(
    entry: &Entry,
    host: &dyn Fn(&str) -> Option<String>,
) -> Result<String, RegistryError> {
    let Parts { registry, namespace, name } = parts(entry)?;
    let variable = |name: &str, otherwise: String| {
        host(&format!("RUNTIME_SANDBOX_{name}"))
            .filter(|value| !value.is_empty())
            .unwrap_or(otherwise)
    };
    let registry = variable("REGISTRY", registry.to_owned());
    let namespace = variable("IMAGE_NAMESPACE", namespace.to_owned());
    let tag = variable("IMAGE_TAG", entry.tag());
    let registry = match registry.trim() {
        "" => String::new(),
        registry => format!("{registry}/"),
    };
    Ok(format!("{registry}{namespace}/{name}:{tag}"))
}

fn parts(entry: &Entry) -> Result<Parts<'_>, RegistryError> {
    let reference = match entry.reference.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => &entry.reference,
    };
    let (registry, rest) = match reference.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest),
        _ => ("", reference),
    };
    let (namespace, name) = rest.rsplit_once('/').ok_or_else(|| RegistryError::NoNamespace {
        sandbox: entry.name.to_string(),
        reference: entry.reference.clone(),
    })?;
    Ok(Parts { registry, namespace, name })
}

fn add(
    text: &mut String,
    entry: &Entry,
    kind: &str,
    (class, base): (&str, &str),
) -> Result<(), RegistryError> {
    let Parts { registry, namespace, name } = parts(entry)?;
    let [registry, namespace, name, tag, kind, level, description] =
        [registry, namespace, name, &entry.tag(), kind, &entry.security_level, &entry.description]
            .map(literal);
    let (resources, runtime) = (resources(entry), runtime(entry));
    let environment: String = entry.env_from_host.iter().map(variable).collect();
    let environment = match environment.as_str() {
        "" => "{}".to_owned(),
        lines => format!("{{\n{lines}    }}"),
    };
    let timeout = entry.timeout;
    write!(
        text,
        r#"

@SandboxRegistry.register(
    image_name=_image(
        registry={registry},
        namespace={namespace},
        name={name},
        tag={tag},
    ),
    sandbox_type={kind},
    resource_limits={resources},
    security_level={level},
    timeout=_timeout({timeout}),
    description={description},
    environment={environment},
    runtime_config={runtime},
)
class {class}({base}):
    def __init__(
        self,
        sandbox_id=None,
        base_url=None,
        bearer_token=None,
        sandbox_type={kind},
        workspace_dir=None,
    ):
        super().__init__(
            sandbox_id=sandbox_id,
            base_url=base_url,
            bearer_token=bearer_token,
            sandbox_type=SandboxType(sandbox_type),
            workspace_dir=workspace_dir,
        )
"#
    )
    .expect("a text takes everything");
    Ok(())
}

/// A required variable that is not set is `None`, with which AgentScope refuses to start the sandbox.
fn variable(variable: &super::HostVariable) -> String {
    let name = literal(&variable.name);
    let default = variable.default.as_deref().map(literal);
    let default = default.map(|default| format!(", {default}")).unwrap_or_default();
    format!("        {name}: os.getenv({name}{default}),\n")
}

fn resources(entry: &Entry) -> String {
    let memory = entry.limits.memory.map(|bytes| format!("\"memory\": {bytes}"));
    let cpus = entry.limits.cpus.map(|cpus| format!("\"cpu\": {cpus}"));
    let all: Vec<String> = memory.into_iter().chain(cpus).collect();
    format!("{{{}}}", all.join(", "))
}

/// What docker is told beside, and AgentScope has no name for.
fn runtime(entry: &Entry) -> String {
    let pids = entry.limits.pids.map(|pids| format!("\"pids_limit\": {pids}"));
    let privileges = "\"security_opt\": [\"no-new-privileges\"]".to_owned();
    let all: Vec<String> = pids.into_iter().chain([privileges]).collect();
    format!("{{{}}}", all.join(", "))
}

/// `custom_sandbox` → `CustomSandbox`, `base` → `BaseSandbox`.
fn class(name: &str) -> String {
    let mut class = String::new();
    for word in name.split(['-', '_', '.']) {
        let mut letters = word.chars();
        class.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        class.push_str(letters.as_str());
    }
    if class.starts_with(|first: char| first.is_ascii_digit()) {
        class.insert_str(0, "Type");
    }
    if class.ends_with("Sandbox") { class } else { class + "Sandbox" }
}

/// Python's texts are JSON's, but for what lies beyond 16 bits, which is written as it is.
fn literal(text: &str) -> String {
    serde_json::to_string(text).expect("a text is JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_named_as_agentscopes_own() {
        for (name, expected) in [
            ("custom_sandbox", "CustomSandbox"),
            ("base", "BaseSandbox"),
            ("task-1.a", "Task1ASandbox"),
            ("7z", "Type7zSandbox"),
        ] {
            assert_eq!(class(name), expected);
        }
    }
}
