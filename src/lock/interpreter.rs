//! Which Python an image has: what the lock's Debian packages say, without looking into any of them.

use super::{DebPin, Lock};
use crate::blame::Blame;
use crate::decl::{Layer, Project};
use crate::digest::Digest;
use crate::name::LayerName;
use crate::path::LayerPath;
use crate::platform::Platform;
use crate::python::Interpreter;

/// Why there is no interpreter for a layer.
#[derive(Debug, thiserror::Error)]
pub enum InterpreterError {
    #[error("layer `{layer}` needs a Python, and no layer below it has one")]
    None { layer: LayerName },
    #[error("layer `{layer}` asks for Python {wanted}, and the layers below it have {}", found.join(", "))]
    Other { layer: LayerName, wanted: String, found: Vec<String> },
    #[error("layer `{layer}`: several Pythons lie below it: {}", found.join(", "))]
    Several { layer: LayerName, found: Vec<String> },
}

impl InterpreterError {
    pub fn blame(&self) -> Blame {
        Blame::Input
    }

    /// The next step.
    pub fn help(&self) -> &'static str {
        match self {
            InterpreterError::None { .. } => {
                "let it need a `debian` layer that has the package `python3`"
            }
            InterpreterError::Other { .. } => {
                "leave `python=…` out, or take the release of Debian that has it"
            }
            InterpreterError::Several { .. } => "say which one with `python=…`",
        }
    }
}

/// A Debian package that a layer sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenDeb<'l> {
    pub name: &'l str,
    pub version: &'l str,
    /// Of its archive; a base does not say.
    pub digest: Option<Digest>,
}

/// The Debian packages that a layer sees.
pub fn debs_below<'l>(
    project: &Project,
    layer: &Layer,
    platform: Platform,
    lock: &'l Lock,
) -> impl Iterator<Item = SeenDeb<'l>> + use<'l> {
    let base = lock.base_below(project, layer, platform).and_then(|base| base.packages);
    let base = base.into_iter().flat_map(|base| base.debs);
    let base = base.map(|(name, version)| SeenDeb { name, version, digest: None });
    let below = project.closure_on(layer, platform).into_iter().chain([layer]);
    let names: Vec<LayerName> = below.map(|layer| layer.name.clone()).collect();
    let locked =
        lock.layers.iter().filter(move |((name, of), _)| *of == platform && names.contains(name));
    let seen = |pin: &'l DebPin| SeenDeb {
        name: &pin.name,
        version: &pin.version,
        digest: Some(pin.digest),
    };
    base.chain(locked.flat_map(|(_, locked)| &locked.debs).map(seen))
}

/// The Python that a layer's environments are for.
pub fn interpreter_of(
    project: &Project,
    layer: &Layer,
    platform: Platform,
    lock: &Lock,
    wanted: Option<&str>,
) -> Result<Interpreter, InterpreterError> {
    let debs: Vec<SeenDeb<'_>> = debs_below(project, layer, platform, lock).collect();
    let find = |name: &str| debs.iter().find(|pin| pin.name == name).copied();
    // `python3.13-minimal` has the interpreter's program
    let minimal = debs.iter().filter_map(|pin| {
        let version = pin.name.strip_prefix("python")?.strip_suffix("-minimal")?;
        Some((version, pair(version)?, *pin))
    });
    let found: Vec<_> = minimal.collect();
    let names = || found.iter().map(|(name, ..)| (*name).to_owned()).collect();
    let default = find("python3-minimal").and_then(|pin| pair(upstream(pin.version)));
    let layer = layer.name.clone();
    let meant = match (wanted, found.as_slice(), default) {
        (_, [], _) => return Err(InterpreterError::None { layer }),
        (Some(wanted), found, _) => {
            found.iter().find(|(name, ..)| *name == wanted).ok_or_else(|| {
                InterpreterError::Other {
                    layer: layer.clone(),
                    wanted: wanted.to_owned(),
                    found: names(),
                }
            })?
        }
        (None, [one], _) => one,
        (None, found, default) => found
            .iter()
            .find(|(_, version, _)| Some(*version) == default)
            .ok_or_else(|| InterpreterError::Several { layer, found: names() })?,
    };
    let (name, version, pin) = *meant;
    let program = LayerPath::parse_absolute(&format!("/usr/bin/python{name}"));
    Ok(Interpreter {
        version,
        full_version: upstream(pin.version).into(),
        program: program.expect("digits and a dot are no path of their own"),
        platform,
        glibc: find("libc6").and_then(|pin| pair(upstream(pin.version))).unwrap_or((2, 17)),
    })
}

/// `1:3.13.5-2+deb13u1` → `3.13.5`.
fn upstream(version: &str) -> &str {
    let version = version.split_once(':').map_or(version, |(_, rest)| rest);
    version.split(['-', '+', '~']).next().unwrap_or_default()
}

/// `3.13.5` → 3, 13.
fn pair(text: &str) -> Option<(u16, u16)> {
    let mut parts = text.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_packages_say_versions_of_programs() {
        assert_eq!(upstream("3.13.5-2+deb13u1"), "3.13.5");
        assert_eq!(upstream("1:2.41~rc1-1"), "2.41");
        assert_eq!(pair("2.41"), Some((2, 41)));
        assert_eq!(pair("3"), None);
    }
}
