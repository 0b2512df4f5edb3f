//! Names that people give: of sandboxes, layers and projects. They become file names, OCI
//! reference components and AgentScope type names, so one narrow alphabet serves all three.

use std::fmt;
use std::str::FromStr;

/// A name that is not one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{0}` is not a name: use lower-case letters, digits, `-`, `_` and `.`, beginning with a letter or digit, at most 100"
)]
pub struct NameError(pub String);

fn check(text: &str) -> Result<(), NameError> {
    let word = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let rest = |c: &u8| word(*c) || matches!(c, b'-' | b'_' | b'.');
    let sound = text.len() <= 100
        && text.bytes().next().is_some_and(word)
        && text.bytes().next_back().is_some_and(word)
        && text.as_bytes().iter().all(rest)
        && !text.contains("..");
    if sound { Ok(()) } else { Err(NameError(text.to_owned())) }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
        #[serde(transparent)]
        pub struct $type(Box<str>);

        impl $type {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                check(text)?;
                Ok($type(text.into()))
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// Name of a sandbox: `[a-z0-9][a-z0-9._-]*[a-z0-9]`, without `..`, at most 100 bytes.
    SandboxName
);
name!(
    /// Name of a layer, in the alphabet of [`SandboxName`].
    LayerName
);
name!(
    /// Name of a project, in the alphabet of [`SandboxName`].
    ProjectName
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_fit_for_files_and_references() {
        for good in ["base", "custom_sandbox", "node-22", "a", "x.y"] {
            assert_eq!(good.parse::<LayerName>().unwrap().as_str(), good);
        }
        for bad in ["", "Base", "-a", "a-", "a/b", "a..b", ".", "ä", &"a".repeat(101)] {
            assert!(bad.parse::<LayerName>().is_err(), "{bad}");
        }
    }
}
