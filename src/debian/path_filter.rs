//! Which paths of packages are laid (dpkg(1), `--path-exclude` and `--path-include`).
//!
//! As dpkg has it: a pattern is a glob over the whole path whose `*` and `?` match slashes, too; what
//! is included again goes before what is excluded; a directory or link that is excluded stays where
//! something below may be included. The same rules are laid as a configuration of dpkg's, so that what is
//! installed into an image later is treated alike. dpkg's database lists what is left out.

use globset::{Glob, GlobSet, GlobSetBuilder};

/// Where dpkg finds the rules in an image.
pub const CONFIGURATION: &str = "/etc/dpkg/dpkg.cfg.d/paths";

/// Rules, ready to be asked; by default all is laid.
#[derive(Clone, Debug, Default)]
pub struct PathFilter {
    exclude: GlobSet,
    include: GlobSet,
    /// What stands before the first wildcard of each included pattern, without slashes at its end.
    beginnings: Vec<String>,
    configuration: String,
}

impl PathFilter {
    /// Reads patterns.
    pub fn new(exclude: &[String], include: &[String]) -> Result<Self, globset::Error> {
        let lines = |option: &str, patterns: &[String]| -> String {
            patterns.iter().map(|pattern| format!("{option}={pattern}\n")).collect()
        };
        let beginning = |pattern: &String| {
            let end = pattern.find(['*', '?', '[', '\\']).unwrap_or(pattern.len());
            pattern[..end].trim_end_matches('/').to_owned()
        };
        Ok(PathFilter {
            exclude: set(exclude)?,
            include: set(include)?,
            beginnings: include.iter().map(beginning).collect(),
            configuration: lines("path-exclude", exclude) + &lines("path-include", include),
        })
    }

    /// Whether it leaves nothing out.
    pub fn is_empty(&self) -> bool {
        self.exclude.is_empty()
    }

    /// The text of [`CONFIGURATION`].
    pub fn configuration(&self) -> &str {
        &self.configuration
    }

    /// Whether an absolute path is laid. `may_lead`: it is a directory or a link.
    pub fn keeps(&self, path: &str, may_lead: bool) -> bool {
        !self.exclude.is_match(path)
            || self.include.is_match(path)
            || may_lead && self.beginnings.iter().any(|start| path.starts_with(start))
    }
}

fn set(patterns: &[String]) -> Result<GlobSet, globset::Error> {
    let mut builder = GlobSetBuilder::new();
    for pattern in patterns {
        builder.add(Glob::new(pattern)?);
    }
    builder.build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(exclude: &[&str], include: &[&str]) -> PathFilter {
        let owned =
            |patterns: &[&str]| patterns.iter().map(|text| text.to_string()).collect::<Vec<_>>();
        PathFilter::new(&owned(exclude), &owned(include)).unwrap()
    }

    #[test]
    fn what_is_included_goes_before_what_is_excluded() {
        let filter =
            filter(&["/usr/share/doc/*", "/usr/share/man/*"], &["/usr/share/doc/*/copyright"]);
        assert!(filter.keeps("/usr/share/doc/bash/copyright", false));
        assert!(!filter.keeps("/usr/share/doc/bash/README", false));
        assert!(!filter.keeps("/usr/share/man/man1/bash.1.gz", false));
        assert!(filter.keeps("/usr/share/misc/magic", false));
        assert!(filter.keeps("/usr/share/man", true), "the directory itself does not match");
    }

    #[test]
    fn directories_stay_where_something_below_may_be_included() {
        let filter =
            filter(&["/usr/share/doc/*", "/usr/share/man/*"], &["/usr/share/doc/*/copyright"]);
        assert!(filter.keeps("/usr/share/doc/bash", true));
        assert!(!filter.keeps("/usr/share/man/man1", true));
    }

    #[test]
    fn dpkg_is_told_the_same() {
        let filter = filter(&["/usr/share/man/*"], &["/usr/share/man/man1/*"]);
        let text = "path-exclude=/usr/share/man/*\npath-include=/usr/share/man/man1/*\n";
        assert_eq!(filter.configuration(), text);
        assert!(self::filter(&[], &[]).is_empty());
    }
}
