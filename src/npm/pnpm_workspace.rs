//! `pnpm-workspace.yaml`: what pnpm is told of a project beside its `.npmrc`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::pnpm_lock::{PnpmFault, yaml};

/// Settings of a project.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PnpmWorkspace {
    pub supported_architectures: Value,
    pub only_built_dependencies: Value,
    all: BTreeMap<String, Value>,
}

impl PnpmWorkspace {
    pub fn parse(text: &str) -> Result<Self, PnpmFault> {
        let all: Option<BTreeMap<String, Value>> = yaml(text)?;
        let mut all = all.unwrap_or_default();
        let mut take = |name: &str| all.remove(name).unwrap_or_default();
        Ok(PnpmWorkspace {
            supported_architectures: take("supportedArchitectures"),
            only_built_dependencies: take("onlyBuiltDependencies"),
            all,
        })
    }

    /// Whether it has a setting, which `.npmrc` calls so: `node-linker`.
    pub fn sets(&self, setting: &str) -> bool {
        let mut parts = setting.split('-');
        let mut name = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (first, rest) = part.split_at(part.len().min(1));
            name += &(first.to_ascii_uppercase() + rest);
        }
        self.all.contains_key(&name)
    }
}
