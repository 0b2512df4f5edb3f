//! The Pod (core/v1).

use serde_json::{Value, json};

use super::super::spec::Spec;
use super::Objects;
use crate::jail::instance::{Tightness, capability_names};

/// Seconds from the stop signal to the end.
const GRACE: u32 = 10;
/// What is copied to where the root stays writable.
const FURNISH: &str = "for d in \"$@\"; do [ ! -d \"/$d\" ] || cp -a \"/$d/.\" \"/sbx/$d/\"; done";

impl Objects<'_> {
    pub(super) fn pod(&self) -> Value {
        let cluster = self.cluster;
        let mut spec = json!({
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            // its root is nobody on the node
            "hostUsers": false,
            "terminationGracePeriodSeconds": GRACE,
            "nodeSelector": {
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": cluster.platform.architecture(),
            },
            "securityContext": pod_security(self.spec),
            "containers": [self.container()],
            "volumes": self.volumes(),
        });
        if let Some(class) = &cluster.runtime_class {
            spec["runtimeClassName"] = json!(class);
        }
        if !cluster.pull_secrets.is_empty() {
            spec["imagePullSecrets"] =
                cluster.pull_secrets.iter().map(|name| json!({"name": name})).collect();
        }
        if self.is_tight() {
            spec["initContainers"] = json!([self.furnisher()]);
        }
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": self.metadata(), "spec": spec})
    }

    fn is_tight(&self) -> bool {
        self.spec.tightness() == Tightness::High
    }

    fn container(&self) -> Value {
        let spec = self.spec;
        let mut container = json!({
            "name": "sandbox",
            "image": self.cluster.image,
            "imagePullPolicy": "IfNotPresent",
            "command": spec.argv.iter().map(|word| plain(word)).collect::<Vec<_>>(),
            "workingDir": spec.workdir,
            "env": self.env(),
            "ports": self.container_ports(),
            "resources": resources(spec),
            "securityContext": self.security(),
            "volumeMounts": self.mounts(),
        });
        if spec.terminal {
            container["stdin"] = json!(true);
            container["tty"] = json!(true);
        }
        if let Some(probe) = self.probe() {
            let mut startup = probe.clone();
            startup["periodSeconds"] = json!(1);
            startup["failureThreshold"] = json!(spec.timeout.as_secs().max(1));
            container["startupProbe"] = startup;
            container["readinessProbe"] = probe;
        }
        container
    }

    /// What came from this machine is a Secret's.
    fn env(&self) -> Value {
        let variable = |(name, value): &(String, String)| match self.spec.secrets.contains(name) {
            true => json!({
                "name": name,
                "valueFrom": {"secretKeyRef": {"name": self.name, "key": name}},
            }),
            false => json!({"name": name, "value": plain(value)}),
        };
        self.spec.env.iter().map(variable).collect()
    }

    fn security(&self) -> Value {
        let names = capability_names(self.spec.tightness());
        let names = names.iter().map(|name| name.trim_start_matches("CAP_"));
        json!({
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": self.is_tight(),
            "capabilities": {"drop": ["ALL"], "add": names.collect::<Vec<_>>()},
        })
    }

    fn volumes(&self) -> Value {
        let memory = |name: &str, size: Option<u64>| {
            let mut volume = json!({"name": name, "emptyDir": {"medium": "Memory"}});
            if let Some(bytes) = size {
                volume["emptyDir"]["sizeLimit"] = json!(bytes.to_string());
            }
            volume
        };
        let mut volumes = vec![memory("shared-memory", Some(self.spec.shared_memory))];
        if self.is_tight() {
            volumes.extend([memory("tmp", None), memory("run", None)]);
            let numbers = 0..self.spec.writable().len();
            volumes.extend(numbers.map(|at| json!({"name": format!("kept-{at}"), "emptyDir": {}})));
        }
        volumes.into()
    }

    fn mounts(&self) -> Value {
        let mount = |name: &str, path: &str| json!({"name": name, "mountPath": path});
        let mut mounts = vec![mount("shared-memory", "/dev/shm")];
        if self.is_tight() {
            mounts.extend([mount("tmp", "/tmp"), mount("run", "/run")]);
            let kept = self.spec.writable();
            let kept = kept.iter().enumerate();
            mounts.extend(kept.map(|(at, path)| mount(&format!("kept-{at}"), path)));
        }
        mounts.into()
    }

    /// Where a read-only root stays writable, the image's own files are there, too.
    fn furnisher(&self) -> Value {
        let kept = self.spec.writable();
        let names: Vec<&str> = kept.iter().map(|path| path.trim_start_matches('/')).collect();
        let words = ["/bin/sh", "-ec", FURNISH, "furnish"];
        let mounts = names.iter().enumerate().map(
            |(at, name)| json!({"name": format!("kept-{at}"), "mountPath": format!("/sbx/{name}")}),
        );
        json!({
            "name": "furnish",
            "image": self.cluster.image,
            "imagePullPolicy": "IfNotPresent",
            "command": words.into_iter().chain(names.iter().copied()).collect::<Vec<_>>(),
            "resources": resources(self.spec),
            "securityContext": self.security(),
            "volumeMounts": mounts.collect::<Vec<_>>(),
        })
    }
}

/// A user that is a number can be held to: a name only the image knows.
fn pod_security(spec: &Spec) -> Value {
    let mut context = json!({"seccompProfile": {"type": "RuntimeDefault"}});
    let (user, group) = spec.user.split_once(':').unwrap_or((&spec.user, ""));
    if let Ok(user) = user.parse::<u32>() {
        context["runAsUser"] = json!(user);
        if user != 0 {
            context["runAsNonRoot"] = json!(true);
        }
    }
    if let Ok(group) = group.parse::<u32>() {
        context["runAsGroup"] = json!(group);
    }
    context
}

fn resources(spec: &Spec) -> Value {
    let mut limits = serde_json::Map::new();
    if let Some(bytes) = spec.limits.memory {
        limits.insert("memory".to_owned(), json!(bytes.to_string()));
    }
    if let Some(milli) = spec.limits.milli_cpus {
        limits.insert("cpu".to_owned(), json!(format!("{milli}m")));
    }
    if limits.is_empty() { json!({}) } else { json!({"limits": limits}) }
}

/// References to variables in words and values are the program's business, not the cluster's.
fn plain(text: &str) -> String {
    text.replace("$(", "$$(")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_left_to_the_program() {
        assert_eq!(plain("echo $(id) $HOME"), "echo $$(id) $HOME");
    }
}
