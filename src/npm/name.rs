//! Names of npm's packages, and where a registry has their files.

use std::fmt;
use std::str::FromStr;

/// The name of a package: `left-pad`, `@scope/name`. Registries keep names from before today's rules
/// (capitals, odd signs), so only what could be mistaken for a path or an option is refused.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackageName(Box<str>);

/// A text that names no package.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is no name of an npm package")]
pub struct PackageNameError(pub String);

/// Longest name that registries take (validate-npm-package-name).
const LONGEST: usize = 214;

impl PackageName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `@scope`, or nothing.
    pub fn scope(&self) -> Option<&str> {
        self.0.split_once('/').map(|(scope, _)| scope)
    }

    /// Without its scope.
    pub fn base(&self) -> &str {
        self.0.split_once('/').map_or(&self.0, |(_, base)| base)
    }

    /// Where a registry has the tarball of a version, below its address.
    pub fn tarball_path(&self, version: &str) -> String {
        format!("{}/-/{}-{version}.tgz", self.0, self.base())
    }
}

impl FromStr for PackageName {
    type Err = PackageNameError;

    fn from_str(text: &str) -> Result<Self, PackageNameError> {
        let part = |part: &str| {
            let sign = |c: u8| c.is_ascii_alphanumeric() || b"-_.~!'()*".contains(&c);
            !part.is_empty() && !part.starts_with(['.', '-', '_']) && part.bytes().all(sign)
        };
        let sound = match text.strip_prefix('@').map(|rest| rest.split_once('/')) {
            // scopes may begin with what packages may not
            Some(Some((scope, base))) => part(scope.trim_start_matches(['-', '_'])) && part(base),
            Some(None) => false,
            None => part(text) && text != "node_modules",
        };
        match sound && text.len() <= LONGEST {
            true => Ok(PackageName(text.into())),
            false => Err(PackageNameError(text.to_owned())),
        }
    }
}

impl fmt::Display for PackageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_where_a_registry_has_their_files() {
        let name: PackageName = "@scope/some.name".parse().unwrap();
        assert_eq!((name.scope(), name.base()), (Some("@scope"), "some.name"));
        assert_eq!(name.tarball_path("1.0.0-rc.1"), "@scope/some.name/-/some.name-1.0.0-rc.1.tgz");
        let name: PackageName = "JSONStream".parse().unwrap();
        assert_eq!(name.tarball_path("1.3.5"), "JSONStream/-/JSONStream-1.3.5.tgz");
    }

    #[test]
    fn paths_and_options_are_no_names() {
        for text in
            ["", ".", "..", "-x", ".bin", "a/b", "@a", "@a/", "@/b", "@a/b/c", "a b", "@../b"]
        {
            assert!(text.parse::<PackageName>().is_err(), "{text}");
        }
    }
}
