//! The Service (core/v1) and the NetworkPolicy (networking.k8s.io/v1).

use serde_json::{Value, json};

use super::Objects;
use crate::decl::Egress;

impl Objects<'_> {
    /// Number and protocol.
    fn numbers(&self) -> impl Iterator<Item = (u16, &'static str)> {
        let tcp = self.spec.ports.iter().map(|port| (port.inside, "TCP"));
        tcp.chain(self.spec.udp_ports.iter().map(|port| (*port, "UDP")))
    }

    pub(super) fn container_ports(&self) -> Value {
        let port = |(number, protocol): (u16, &str)| {
            json!({
                "name": name(number, protocol),
                "containerPort": number,
                "protocol": protocol,
            })
        };
        self.numbers().map(port).collect()
    }

    pub(super) fn service(&self) -> Value {
        let port = |(number, protocol): (u16, &str)| {
            let name = name(number, protocol);
            json!({"name": name, "port": number, "targetPort": name, "protocol": protocol})
        };
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": self.metadata(),
            "spec": {
                "type": "ClusterIP",
                "selector": self.selector(),
                "ports": self.numbers().map(port).collect::<Vec<_>>(),
            },
        })
    }

    /// In by the declared ports only; out by nothing or anything.
    pub(super) fn policy(&self) -> Value {
        let port = |(number, protocol)| json!({"port": number, "protocol": protocol});
        let ports: Vec<Value> = self.numbers().map(port).collect();
        let ingress = if ports.is_empty() { json!([]) } else { json!([{"ports": ports}]) };
        let egress = if self.spec.egress == Egress::Any { json!([{}]) } else { json!([]) };
        json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": self.metadata(),
            "spec": {
                "podSelector": {"matchLabels": self.selector()},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": ingress,
                "egress": egress,
            },
        })
    }
}

/// At most 15 signs.
fn name(number: u16, protocol: &str) -> String {
    format!("{}-{number}", protocol.to_ascii_lowercase())
}
