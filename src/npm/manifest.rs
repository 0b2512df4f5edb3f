//! `package.json`: what installing looks at.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::blame::Blame;

/// Dependencies: name and what is asked of it.
pub type Specs = BTreeMap<String, String>;

/// Commands: name and file below the package's directory.
pub type Bins = Vec<(Box<str>, Box<str>)>;

/// A `package.json`, or a package's entry in a lock, which repeats much of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Manifest {
    pub name: Option<String>,
    pub version: Option<String>,
    #[serde(deserialize_with = "lenient")]
    pub dependencies: Specs,
    #[serde(deserialize_with = "lenient")]
    pub dev_dependencies: Specs,
    #[serde(deserialize_with = "lenient")]
    pub optional_dependencies: Specs,
    #[serde(deserialize_with = "lenient")]
    pub peer_dependencies: Specs,
    pub peer_dependencies_meta: Value,
    /// A text, a list or an object.
    pub bin: Value,
    #[serde(deserialize_with = "lenient")]
    pub scripts: Specs,
    /// `false` for a package that has a `binding.gyp` and does not want it built.
    pub gypfile: Value,
    /// A list, or an object with `packages`.
    pub workspaces: Value,
    /// A list of names, or `true`; either spelling.
    pub bundle_dependencies: Value,
    pub bundled_dependencies: Value,
    /// `pnpm@9.15.9`, maybe with a digest behind it.
    pub package_manager: Value,
    /// What pnpm is told.
    pub pnpm: Value,
}

/// A manifest that is none.
#[derive(Debug, thiserror::Error)]
#[error("is no `package.json`: {0}")]
pub struct ManifestError(#[from] serde_json::Error);

impl ManifestError {
    pub fn blame(&self) -> Blame {
        Blame::Input
    }
}

/// What is no text says nothing, as for npm.
fn lenient<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Specs, D::Error> {
    let Value::Object(map) = Value::deserialize(deserializer)? else { return Ok(Specs::new()) };
    let text = |(name, value): (String, Value)| Some((name, value.as_str()?.to_owned()));
    Ok(map.into_iter().filter_map(text).collect())
}

impl Manifest {
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        Ok(serde_json::from_slice(text)?)
    }

    /// Dependencies that are no optional ones.
    pub fn required(&self) -> Specs {
        let required = |(name, _): &(&String, &String)| {
            !self.optional_dependencies.contains_key(name.as_str())
        };
        let all = self.dependencies.iter().filter(required);
        all.map(|(name, spec)| (name.clone(), spec.clone())).collect()
    }

    /// Whether it has dependencies in its own tarball.
    pub fn bundles(&self) -> bool {
        let some = |list: &Value| match list {
            Value::Array(names) => !names.is_empty(),
            list => *list == Value::Bool(true) && !self.dependencies.is_empty(),
        };
        some(&self.bundle_dependencies) || some(&self.bundled_dependencies)
    }

    /// Whether a peer may be missing.
    pub fn is_optional_peer(&self, name: &str) -> bool {
        self.peer_dependencies_meta[name]["optional"] == Value::Bool(true)
    }

    /// Patterns of the directories that are workspaces.
    pub fn workspace_patterns(&self) -> Vec<&str> {
        let list = match &self.workspaces {
            Value::Object(object) => object.get("packages"),
            list => Some(list),
        };
        let list = list.and_then(Value::as_array).into_iter().flatten();
        list.filter_map(Value::as_str).collect()
    }

    /// What is run when the package is installed: event and command, in order. `gyp`: it has a
    /// `binding.gyp`, which is built unless it says something else.
    pub fn install_scripts(&self, gyp: bool) -> Vec<(&'static str, String)> {
        let script = |event: &'static str| {
            let command = self.scripts.get(event).filter(|command| !command.is_empty());
            command.map(|command| (event, command.clone()))
        };
        let (before, install) = (script("preinstall"), script("install"));
        let implied = gyp && self.gypfile != Value::Bool(false);
        let implied = implied && before.is_none() && install.is_none();
        let install =
            install.or_else(|| implied.then(|| ("install", "node-gyp rebuild".to_owned())));
        [before, install, script("postinstall")].into_iter().flatten().collect()
    }
}

/// Commands of a package: name and file below its directory, cleaned of everything that leads
/// elsewhere. `name` is the package's, for one that has a single command.
pub fn bins(name: &str, bin: &Value) -> Bins {
    let pairs: Vec<(&str, &str)> = match bin {
        Value::String(file) => vec![(name, file)],
        Value::Array(files) => {
            files.iter().filter_map(Value::as_str).map(|file| (last(file), file)).collect()
        }
        Value::Object(map) => {
            map.iter().filter_map(|(name, file)| Some((name.as_str(), file.as_str()?))).collect()
        }
        _ => Vec::new(),
    };
    let mut clean = BTreeMap::new();
    for (name, file) in pairs {
        let name = name.replace(['\\', ':'], "/");
        let name = last(&name);
        let file = normal(&file.replace('\\', "/"));
        if !matches!(name, "" | "." | "..") && !file.is_empty() && !file.contains('\0') {
            clean.insert(Box::from(name), file.into());
        }
    }
    clean.into_iter().collect()
}

/// The last part of a path.
fn last(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

/// A path as if its directory were the root: `..` leads nowhere.
fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(name: &str, bin: Value) -> Vec<String> {
        bins(name, &bin).iter().map(|(name, file)| format!("{name}={file}")).collect()
    }

    #[test]
    fn commands_stay_in_their_package() {
        assert_eq!(shown("@s/tool", json!("./cli.js")), ["tool=cli.js"]);
        assert_eq!(shown("x", json!(["bin/a", "b.js"])), ["a=bin/a", "b.js=b.js"]);
        let odd = json!({"../../up": "../../../etc/x", "a\\b": "c\\d.js", "no": 1, "dir": "./", "..": "x"});
        assert_eq!(shown("x", odd), ["b=c/d.js", "up=etc/x"]);
        assert!(shown("x", Value::Null).is_empty());
    }

    #[test]
    fn install_scripts_come_in_their_order() {
        let manifest = |text: &str| Manifest::parse(text.as_bytes()).unwrap();
        let both = manifest(r#"{"scripts": {"postinstall": "b", "preinstall": "a", "test": "c"}}"#);
        let expected = [("preinstall", "a".to_owned()), ("postinstall", "b".to_owned())];
        assert_eq!(both.install_scripts(true), expected);
        let built = [("install", "node-gyp rebuild".to_owned())];
        assert_eq!(manifest("{}").install_scripts(true), built);
        assert!(manifest(r#"{"gypfile": false}"#).install_scripts(true).is_empty());
        assert!(manifest(r#"{"scripts": []}"#).install_scripts(false).is_empty());
    }
}
