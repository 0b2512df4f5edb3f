//! Kubernetes: a spec as a Pod, a Service and a NetworkPolicy, for `kubectl apply`.
//!
//! Nothing is started here. Documents are written from values of our own: the crate of all of
//! Kubernetes' types takes longer to compile than this program, and the tests hold what is written
//! against the published schemas. A value that came from this machine's environment is referred to as
//! a key of a Secret, and written only when asked for.

mod network;
mod pod;
mod probe;

use serde_json::{Value, json};

use super::error::LaunchError;
use super::spec::Spec;
use crate::decl::Egress;
use crate::platform::Platform;

/// What a cluster is told beside the spec.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Of all objects: a DNS label is made of it.
    pub name: String,
    /// Pinned: `REPOSITORY@sha256:…`.
    pub image: String,
    pub platform: Platform,
    pub runtime_class: Option<String>,
    pub pull_secrets: Vec<String>,
    /// Whether values of secrets are written, in a Secret of their own.
    pub with_secrets: bool,
    pub pids: Pids,
}

/// Who limits the number of processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pids {
    /// Who declared it, which no object can say.
    Declared,
    OfTheNodes,
}

/// Longest name of a Service.
const LONGEST: usize = 63;

/// The objects, in the order in which they are to be made.
pub fn render(spec: &Spec, cluster: &Cluster) -> Result<Vec<Value>, LaunchError> {
    refuse(spec, cluster.pids)?;
    let objects = Objects { spec, cluster, name: label(&cluster.name) };
    let mut documents = Vec::new();
    if cluster.with_secrets && !spec.secrets.is_empty() {
        documents.push(objects.secret());
    }
    documents.push(objects.policy());
    if !spec.ports.is_empty() || !spec.udp_ports.is_empty() {
        documents.push(objects.service());
    }
    documents.push(objects.pod());
    Ok(documents)
}

/// All objects as documents of one text.
pub fn to_yaml(documents: &[Value]) -> String {
    let text = |document: &Value| {
        serde_saphyr::to_string(document).expect("a document has string keys only")
    };
    documents.iter().map(|document| format!("---\n{}\n", text(document).trim_end())).collect()
}

/// What no object can say.
pub fn refuse(spec: &Spec, pids: Pids) -> Result<(), LaunchError> {
    let refused = |what: String| {
        Err(LaunchError::Refused { launcher: "kubernetes", what, sandbox: spec.sandbox.clone() })
    };
    if let Egress::Hosts(_) = spec.egress {
        return refused("`egress` by name (a NetworkPolicy knows addresses only)".to_owned());
    }
    if let Some(volume) = spec.volumes.first() {
        let path = volume.from.display();
        return refused(format!("mount `{path}`, which a node of the cluster does not have,"));
    }
    if let Some(port) = spec.ports.iter().find(|port| port.outside != 0) {
        return refused(format!("port {} of this machine", port.outside));
    }
    if spec.limits.disk.is_some() {
        return refused("`limits disk=`".to_owned());
    }
    match spec.limits.pids {
        Some(count) if pids == Pids::Declared => Err(LaunchError::Pids { count }),
        _ => Ok(()),
    }
}

/// What documents are made of.
struct Objects<'a> {
    spec: &'a Spec,
    cluster: &'a Cluster,
    name: String,
}

impl Objects<'_> {
    fn metadata(&self) -> Value {
        json!({"name": self.name, "labels": self.labels()})
    }

    fn labels(&self) -> Value {
        json!({
            "app.kubernetes.io/name": self.spec.sandbox,
            "app.kubernetes.io/instance": self.name,
            "app.kubernetes.io/managed-by": "sbx",
        })
    }

    /// What finds the Pod.
    fn selector(&self) -> Value {
        json!({"app.kubernetes.io/instance": self.name, "app.kubernetes.io/managed-by": "sbx"})
    }

    fn secret(&self) -> Value {
        let values = self.spec.env.iter().filter(|(name, _)| self.spec.secrets.contains(name));
        let values: serde_json::Map<String, Value> =
            values.map(|(name, value)| (name.clone(), json!(value))).collect();
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": self.metadata(),
            "type": "Opaque",
            "stringData": values,
        })
    }
}

/// A name that all kinds of objects may have (RFC 1035).
fn label(name: &str) -> String {
    let sign = |c: char| match c.to_ascii_lowercase() {
        c @ ('a'..='z' | '0'..='9') => c,
        _ => '-',
    };
    let mut label: String = name.chars().map(sign).collect();
    if !label.starts_with(|c: char| c.is_ascii_lowercase()) {
        label.insert_str(0, "sbx-");
    }
    label.truncate(LONGEST);
    label.trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        assert_eq!(label("custom_sandbox"), "custom-sandbox");
        assert_eq!(label("3d.Model"), "sbx-3d-model");
        assert_eq!(label(&format!("{}-x", "a".repeat(62))), "a".repeat(62));
    }

    #[test]
    fn texts_that_look_like_something_else_stay_texts() {
        let words = [
            "yes", "null", "0x10", "1e3", "80", "a: b", "# no", "- x", "\"", "~", "", " x", "*",
            "a\nb\n",
        ];
        let document =
            json!({"words": words, "deep": {"empty": {}, "list": [[1, 2], {"a": true}]}});
        let text = to_yaml(std::slice::from_ref(&document));
        let back: Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(back, document, "{text}");
    }
}
