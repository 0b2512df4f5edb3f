//! `ready` as a probe.

use serde_json::{Value, json};

use super::Objects;
use crate::decl::Ready;

/// Asks as the kubelet would, and shows the token, which no probe may name: it is a Secret's.
const ASK: &str = "h=\"Authorization: Bearer $SECRET_TOKEN\"; u=\"http://127.0.0.1:$0\"; \
    if command -v curl >/dev/null; then exec curl -fsS -o /dev/null -H \"$h\" \"$u\"; fi; \
    exec wget -q -O /dev/null --header \"$h\" \"$u\"";

impl Objects<'_> {
    pub(super) fn probe(&self) -> Option<Value> {
        let mut probe = match self.spec.ready.as_ref()? {
            Ready::Tcp { port } => json!({"tcpSocket": {"port": port}}),
            Ready::Exec(argv) => json!({"exec": {"command": argv}}),
            Ready::Http { path, port } => {
                let port = port.or_else(|| self.spec.first_port()).unwrap_or(80);
                match &self.spec.token {
                    None => json!({"httpGet": {"path": path, "port": port}}),
                    Some(token) if self.cluster.with_secrets => json!({"httpGet": {
                        "path": path,
                        "port": port,
                        "httpHeaders": [
                            {"name": "Authorization", "value": format!("Bearer {token}")},
                        ],
                    }}),
                    Some(_) => {
                        let place = format!("{port}{path}");
                        json!({"exec": {"command": ["/bin/sh", "-c", ASK, place]}})
                    }
                }
            }
        };
        probe["timeoutSeconds"] = json!(2);
        Some(probe)
    }
}
