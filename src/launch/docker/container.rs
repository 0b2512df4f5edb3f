//! A spec as a container (Docker Engine API, `POST /containers/create`).

use bollard::models::ContainerCreateBody;
use bollard::query_parameters::CreateContainerOptionsBuilder;
use serde_json::{Value, json};

use super::super::error::LaunchError;
use super::super::order::Order;
use super::super::spec::Spec;
use super::super::state::Record;
use super::Engine;
use crate::jail::instance::{
    Tightness, Volume, capability_names, masked_paths, open_files, profile_document,
    read_only_paths,
};

impl Engine {
    /// Makes the container of an instance, which is not started yet, and the one that holds its network
    /// where something leads out of that.
    pub(in super::super) fn create(
        &self,
        spec: &Spec,
        order: &Order,
        image: &str,
    ) -> Result<(), LaunchError> {
        let Order { record, cell, .. } = order;
        let mut document = document(spec, image);
        document["Env"] = env(&cell.program.env);
        document["HostConfig"]["Binds"] = cell.volumes.iter().map(bind).collect();
        match cell.gate {
            // its name is the holder's, as its network is
            Some(_) => {
                let holder = self.create_holder(order, document["Labels"].clone(), image)?;
                document["HostConfig"]["NetworkMode"] = json!(format!("container:{holder}"));
            }
            None => document["Hostname"] = json!(record.name),
        }
        self.create_container(&Self::container(record), document, record)
    }

    /// With an instance's labels.
    pub(super) fn create_container(
        &self,
        name: &str,
        mut document: Value,
        record: &Record,
    ) -> Result<(), LaunchError> {
        document["Labels"]["sbx.instance"] = json!(record.name);
        document["Labels"]["sbx.id"] = json!(record.id);
        let body: ContainerCreateBody =
            serde_json::from_value(document).expect("the document is a container's");
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        self.ask(async |docker| docker.create_container(Some(options), body).await).map(drop)
    }
}

fn env(pairs: &[(String, String)]) -> Value {
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn bind(volume: &Volume) -> Value {
    let mode = if volume.read_only { "ro" } else { "rw" };
    json!(format!("{}:{}:{mode}", volume.from.display(), volume.to))
}

/// What the engine is told, but for what an instance's name and number decide. Nobody would serve its
/// way out.
pub fn print(spec: &Spec, image: &str) -> Result<Value, LaunchError> {
    spec.refuse_egress("docker")?;
    Ok(document(spec, image))
}

fn document(spec: &Spec, image: &str) -> Value {
    let mut document = json!({
        "Image": image,
        "Entrypoint": spec.argv,
        "Cmd": [],
        "Env": env(&spec.env),
        "WorkingDir": spec.workdir,
        "User": spec.user,
        "Labels": {"sbx.sandbox": spec.sandbox, "sbx.image": spec.image},
        "Tty": spec.terminal,
        "OpenStdin": true,
        "StdinOnce": true,
        "HostConfig": host(spec),
    });
    if let Some(signal) = &spec.stop_signal {
        document["StopSignal"] = json!(signal);
    }
    if spec.tightness() == Tightness::High {
        // kept apart from the root, which is read-only; removed with the container
        let writable = spec.writable().into_iter().map(|path| (path, json!({})));
        document["Volumes"] = writable.collect::<serde_json::Map<_, _>>().into();
    }
    document
}

fn host(spec: &Spec) -> Value {
    let tightness = spec.tightness();
    let profile = profile_document(tightness);
    let (soft, hard) = open_files();
    let mut host = json!({
        "NetworkMode": "none",
        "CapDrop": ["ALL"],
        "CapAdd": capability_names(tightness),
        "SecurityOpt": ["no-new-privileges", format!("seccomp={profile}")],
        "MaskedPaths": masked_paths(),
        "ReadonlyPaths": read_only_paths(),
        "ShmSize": spec.shared_memory,
        "IpcMode": "private",
        "CgroupnsMode": "private",
        "Init": true,
        "Ulimits": [
            {"Name": "nofile", "Soft": soft, "Hard": hard},
            {"Name": "core", "Soft": 0, "Hard": 0},
        ],
        // the keeper writes the log
        "LogConfig": {"Type": "none", "Config": {}},
    });
    if let Some(bytes) = spec.limits.memory {
        host["Memory"] = json!(bytes);
        // no swap beyond it
        host["MemorySwap"] = json!(bytes);
    }
    if let Some(milli) = spec.limits.milli_cpus {
        host["NanoCpus"] = json!(u64::from(milli) * 1_000_000);
    }
    if let Some(count) = spec.pids {
        host["PidsLimit"] = json!(count);
    }
    if tightness == Tightness::High {
        host["ReadonlyRootfs"] = json!(true);
        let options = |mode: &str| json!(format!("rw,exec,nosuid,nodev,mode={mode}"));
        let places = IN_MEMORY.into_iter().map(|(path, mode)| (path.to_owned(), options(mode)));
        host["Tmpfs"] = places.collect::<serde_json::Map<_, _>>().into();
    }
    host
}

/// What is in memory where the root is read-only, and its modes.
const IN_MEMORY: [(&str, &str); 2] = [("/tmp", "1777"), ("/run", "0755")];

/// What is mounted in a container beside its root and its volumes.
pub(super) fn mounted(tightness: Tightness) -> Vec<&'static str> {
    let in_memory = IN_MEMORY.iter().filter(|_| tightness == Tightness::High);
    ["/dev", "/proc", "/sys"].into_iter().chain(in_memory.map(|(path, _)| *path)).collect()
}
