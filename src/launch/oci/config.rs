//! `config.json` of a bundle (OCI runtime-spec 1.0, which every runtime reads).

use serde_json::{Value, json};

use super::super::spec::Spec;
use crate::jail::cgroup::Quota;
use crate::jail::instance::{
    Cell, Identity, Ids, Laid, Program, Row, Tightness, capability_names, masked_paths, open_files,
    profile_document, read_only_paths,
};

/// Half of a hundred thousand microseconds is half a processor.
const PERIOD: u64 = 100_000;

/// What a document is made of.
struct Parts<'a> {
    root: &'a str,
    host_name: &'a str,
    program: &'a Program,
    identity: &'a Identity,
    /// Of its user namespace, if it has one.
    map: Vec<Row>,
    tightness: Tightness,
    shared_memory: u64,
    /// Below those of whoever starts it; without one the runtime chooses, or does without.
    group: Option<String>,
    quota: Quota,
    /// Beside what every instance has.
    mounts: Vec<Value>,
}

/// The document of an instance whose root was laid.
pub(super) fn document(cell: &Cell, quota: Quota, id: &str, laid: &Laid) -> Vec<u8> {
    let document = Parts {
        root: &laid.root.to_string_lossy(),
        host_name: &cell.host_name,
        program: &cell.program,
        identity: &laid.identity,
        map: cell.ids.rows(),
        tightness: cell.tightness,
        shared_memory: cell.shared_memory,
        // an ordinary user's are the keeper's to make, which may
        group: matches!(cell.ids, Ids::Own { .. }).then(|| id.to_owned()),
        quota,
        mounts: Vec::new(),
    };
    serde_json::to_vec(&document.render()).expect("the document has string keys only")
}

/// The document for a bundle that somebody else completes with a directory `rootfs`, whose owners
/// stay what they are there. A named user is looked up nowhere, and must be a number.
pub fn print(spec: &Spec) -> Result<Value, super::super::LaunchError> {
    spec.refuse_egress("oci")?;
    let tightness = spec.tightness();
    let volumes = spec.volumes.iter().map(|volume| {
        let mode = if volume.read_only { "ro" } else { "rw" };
        let options = ["rbind", "nosuid", "nodev", mode];
        json!({"destination": volume.to, "type": "bind", "source": volume.from, "options": options})
    });
    let gaps = match tightness {
        Tightness::High => spec.gaps(),
        Tightness::Low | Tightness::Medium => Vec::new(),
    };
    let in_memory = gaps.iter().map(|path| {
        json!({"destination": path, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777"]})
    });
    Ok(Parts {
        root: "rootfs",
        host_name: &spec.sandbox,
        program: &spec.program(),
        identity: &numeric(spec)?,
        map: Vec::new(),
        tightness,
        shared_memory: spec.shared_memory,
        group: None,
        quota: spec.quota(),
        mounts: in_memory.chain(volumes).collect(),
    }
    .render())
}

fn numeric(spec: &Spec) -> Result<Identity, super::super::LaunchError> {
    let (user, group) = spec.user.split_once(':').unwrap_or((&spec.user, ""));
    let number = |text: &str| match text {
        "" | "root" => Some(0),
        text => text.parse().ok(),
    };
    let ids = number(user).zip(number(group));
    let (uid, gid) = ids.ok_or_else(|| super::super::LaunchError::Refused {
        launcher: "oci",
        what: format!("user `{}`, which only the image can tell the number of,", spec.user),
        sandbox: spec.sandbox.clone(),
    })?;
    Ok(Identity { uid, gid, groups: Vec::new(), home: "/".to_owned() })
}

impl Parts<'_> {
    fn render(&self) -> Value {
        json!({
            "ociVersion": "1.0.2",
            "process": self.process(),
            "root": {"path": self.root, "readonly": self.tightness == Tightness::High},
            "hostname": self.host_name,
            "mounts": self.mounts(),
            "linux": self.linux(),
        })
    }

    fn process(&self) -> Value {
        let Parts { program, identity, .. } = self;
        let mut env: Vec<String> =
            program.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if !program.env.iter().any(|(name, _)| name == "HOME") {
            env.push(format!("HOME={}", identity.home));
        }
        let bounding = capability_names(self.tightness);
        let has = if identity.uid == 0 { bounding.clone() } else { Vec::new() };
        let (soft, hard) = open_files();
        json!({
            "terminal": program.terminal,
            "user": {
                "uid": identity.uid,
                "gid": identity.gid,
                "additionalGids": identity.groups,
            },
            "args": program.argv,
            "env": env,
            "cwd": program.cwd,
            "capabilities": {"bounding": bounding, "effective": has, "permitted": has},
            "rlimits": [
                {"type": "RLIMIT_NOFILE", "soft": soft, "hard": hard},
                {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
            ],
            "noNewPrivileges": true,
        })
    }

    fn mounts(&self) -> Vec<Value> {
        let mount = |to: &str, kind: &str, options: &[&str]| json!({"destination": to, "type": kind, "source": kind, "options": options});
        let shared = format!("size={}", self.shared_memory);
        let mut mounts = vec![
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "noexec", "strictatime", "mode=0755", "size=64k"]),
            mount(
                "/dev/pts",
                "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            ),
            mount("/dev/shm", "tmpfs", &["nosuid", "nodev", "mode=1777", &shared]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        ];
        mounts.extend(self.mounts.iter().cloned());
        mounts
    }

    fn linux(&self) -> Value {
        let mut kinds = vec!["pid", "network", "ipc", "uts", "mount", "cgroup"];
        let mut linux = json!({
            "resources": self.resources(),
            "seccomp": profile_document(self.tightness),
            "maskedPaths": masked_paths(),
            "readonlyPaths": read_only_paths(),
        });
        if !self.map.is_empty() {
            kinds.push("user");
            let row = |(inside, outside, count): &Row| json!({"containerID": inside, "hostID": outside, "size": count});
            let map: Value = self.map.iter().map(row).collect();
            linux["uidMappings"] = map.clone();
            linux["gidMappings"] = map;
        }
        if let Some(group) = &self.group {
            linux["cgroupsPath"] = json!(group);
        }
        let kinds = kinds.iter().map(|kind| json!({"type": kind}));
        linux["namespaces"] = kinds.collect();
        linux
    }

    fn resources(&self) -> Value {
        let Quota { memory, milli_cpus, pids } = self.quota;
        let mut resources = json!({"devices": [{"allow": false, "access": "rwm"}]});
        if let Some(bytes) = memory {
            // no swap beyond it
            resources["memory"] = json!({"limit": bytes, "swap": bytes});
        }
        if let Some(milli) = milli_cpus {
            let quota = u64::from(milli) * PERIOD / 1000;
            resources["cpu"] = json!({"period": PERIOD, "quota": quota});
        }
        if let Some(count) = pids {
            resources["pids"] = json!({"limit": count});
        }
        resources
    }
}
