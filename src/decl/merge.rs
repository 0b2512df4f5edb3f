//! `extends`: a sandbox on top of another.
//!
//! Scalars and lists that are given replace what was inherited; maps are merged by key; layers and
//! ports are appended, after `without` has dropped and `replace` has swapped inherited ones.

use std::collections::BTreeMap;

use super::fault::Fault;
use super::node::Sink;
use super::sandbox::{RawSandbox, Sandbox};
use crate::name::SandboxName;

/// Merges every sandbox; cycles and unknown names are faults.
pub(super) fn merge(
    raws: &BTreeMap<SandboxName, RawSandbox>,
    sink: &Sink,
) -> BTreeMap<SandboxName, Sandbox> {
    let mut done = BTreeMap::new();
    for name in raws.keys() {
        let mut path = Vec::new();
        resolve(name, raws, &mut done, &mut path, sink);
    }
    done
}

fn resolve<'a>(
    name: &'a SandboxName,
    raws: &'a BTreeMap<SandboxName, RawSandbox>,
    done: &mut BTreeMap<SandboxName, Sandbox>,
    path: &mut Vec<&'a SandboxName>,
    sink: &Sink,
) -> Option<Sandbox> {
    if let Some(sandbox) = done.get(name) {
        return Some(sandbox.clone());
    }
    let raw = raws.get(name)?;
    let below = match &raw.extends {
        None => None,
        Some((base, at)) => {
            path.push(name);
            // a circle is found from each of its sandboxes, and said of the first
            if path.contains(&base) && path.iter().any(|name| *name < path[0]) {
                path.pop();
                return None;
            }
            if path.contains(&base) {
                let cycle: Vec<_> =
                    path.iter().map(|name| name.as_str()).chain([base.as_str()]).collect();
                let fault = format!("`extends` goes in a circle: {}", cycle.join(" → "));
                sink.push(Fault::new(at, fault));
                path.pop();
                return None;
            }
            if !raws.contains_key(base) {
                let known = raws.keys().map(SandboxName::as_str);
                let fault = Fault::new(
                    at,
                    format!("sandbox `{name}` extends `{base}`, which does not exist"),
                );
                sink.push(fault.nearest(base.as_str(), known));
            }
            let below = resolve(base, raws, done, path, sink);
            path.pop();
            Some(below?)
        }
    };
    let sandbox = over(below, raw, sink);
    done.insert(name.clone(), sandbox.clone());
    Some(sandbox)
}

fn over(below: Option<Sandbox>, raw: &RawSandbox, sink: &Sink) -> Sandbox {
    // a reference names one image: it is not inherited, and neither is the description
    let below = below.map(|below| Sandbox { description: None, reference: None, ..below });
    let mut sandbox = below.unwrap_or_else(|| Sandbox::empty(raw.name.clone(), raw.at.clone()));
    sandbox.name = raw.name.clone();
    sandbox.at = raw.at.clone();
    merge_layers(&mut sandbox, raw, sink);
    for (name, value) in &raw.env {
        upsert(&mut sandbox.env, |entry| entry.0 == *name, (name.clone(), value.clone()));
    }
    for variable in &raw.env_from_host {
        upsert(&mut sandbox.env_from_host, |entry| entry.name == variable.name, variable.clone());
    }
    for port in &raw.ports {
        upsert(&mut sandbox.ports, |entry| entry == port, *port);
    }
    sandbox.labels.extend(raw.labels.clone());
    sandbox.limits = sandbox.limits.over(raw.limits);
    let replace = |slot: &mut Option<String>, value: &Option<String>| {
        if value.is_some() {
            slot.clone_from(value);
        }
    };
    replace(&mut sandbox.description, &raw.description);
    replace(&mut sandbox.workdir, &raw.workdir);
    replace(&mut sandbox.user, &raw.user);
    replace(&mut sandbox.stop_signal, &raw.stop_signal);
    replace(&mut sandbox.reference, &raw.reference);
    sandbox.command = raw.command.clone().unwrap_or(sandbox.command);
    sandbox.entrypoint = raw.entrypoint.clone().unwrap_or(sandbox.entrypoint);
    sandbox.timeout = raw.timeout.or(sandbox.timeout);
    sandbox.security_level = raw.security_level.unwrap_or(sandbox.security_level);
    sandbox.ready = raw.ready.clone().or(sandbox.ready);
    sandbox.egress = raw.egress.clone().unwrap_or(sandbox.egress);
    sandbox
}

fn upsert<T>(list: &mut Vec<T>, same: impl Fn(&T) -> bool, value: T) {
    match list.iter_mut().find(|entry| same(entry)) {
        Some(slot) => *slot = value,
        None => list.push(value),
    }
}

fn merge_layers(sandbox: &mut Sandbox, raw: &RawSandbox, sink: &Sink) {
    let name = &raw.name;
    for (layer, at) in &raw.without {
        let before = sandbox.layers.len();
        sandbox.layers.retain(|inherited| inherited != layer);
        if sandbox.layers.len() == before {
            let known = sandbox.layers.iter().map(|layer| layer.as_str());
            let fault = Fault::new(at, format!("sandbox `{name}` inherits no layer `{layer}`"));
            sink.push(fault.nearest(layer.as_str(), known));
        }
    }
    for (old, new, at) in &raw.replace {
        match sandbox.layers.iter_mut().find(|inherited| *inherited == old) {
            Some(slot) => *slot = new.clone(),
            None => {
                let known = sandbox.layers.iter().map(|layer| layer.as_str());
                let fault = Fault::new(at, format!("sandbox `{name}` inherits no layer `{old}`"));
                sink.push(fault.nearest(old.as_str(), known));
            }
        }
    }
    for (layer, at) in &raw.layers {
        if sandbox.layers.contains(layer) {
            sink.push(Fault::new(at, format!("sandbox `{name}` has layer `{layer}` already")));
            continue;
        }
        sandbox.layers.push(layer.clone());
    }
}
