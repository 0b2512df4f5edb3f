//! What npm packs of a directory: `files` of its `package.json`, ignore files, what is always in and
//! what never is.
//!
//! A repository is no package: npm packs it as if it were to be published, and unpacks the result. The
//! walk is npm's own, with its odd corners, since what it leaves out is missing when the package is
//! used: rules of a directory are asked behind those of all directories above it, and what these leave
//! out the rules below bring back only where the directory itself was meant.

use std::collections::BTreeMap;

use serde_json::Value;

use super::manifest::{Manifest, bins};
use super::pattern::{Extent, PatternFault, Rule};

/// Left out of every directory, unless something takes it in.
const USUAL: &str = "
.npmignore
.gitignore
**/.git
**/.svn
**/.hg
**/CVS
**/.git/**
**/.svn/**
**/.hg/**
**/CVS/**
/.lock-wscript
/.wafpickle-*
/build/config.gypi
npm-debug.log
**/.npmrc
.*.swp
.DS_Store
**/.DS_Store/**
._*
**/._*/**
*.orig
/archived-packages/**
";
/// Always in, and never: the last word on a package's own directory.
const STRICT: &str = "
/.git
!/package.json
!/readme{,.*[^~$]}
!/copying{,.*[^~$]}
!/license{,.*[^~$]}
!/licence{,.*[^~$]}
/.git
/node_modules
.npmrc
/package-lock.json
/yarn.lock
/pnpm-lock.yaml
";

/// What a directory has.
#[derive(Debug, Default)]
pub(super) struct Dir {
    entries: BTreeMap<String, Found>,
}

#[derive(Debug)]
enum Found {
    Dir(Dir),
    File,
    /// A link, which is never packed.
    Other,
}

impl Default for Found {
    fn default() -> Self {
        Found::Dir(Dir::default())
    }
}

/// A directory to be packed.
#[derive(Debug, Default)]
pub(super) struct Listing {
    root: Found,
    /// Texts of ignore files, by their path.
    ignores: BTreeMap<String, String>,
}

/// A directory that the walk is in, with its rules in their order.
struct Level {
    name: String,
    rules: Vec<Rule>,
    /// Whether it was meant itself, and not only what is in it.
    exact: bool,
    /// Files of it that are in, whatever rules say.
    required: Vec<String>,
}

/// A walk through a directory.
struct Walk<'a> {
    listing: &'a Listing,
    has_workspaces: bool,
    levels: Vec<Level>,
    packed: Vec<String>,
}

impl Listing {
    /// Whether a file's text has to be known.
    pub fn wants(path: &str) -> bool {
        matches!(path.rsplit('/').next(), Some(".npmignore" | ".gitignore"))
    }

    pub fn add_file(&mut self, path: &str, text: Option<String>) {
        self.add(path, Found::File);
        self.ignores.extend(text.map(|text| (path.to_owned(), text)));
    }

    pub fn add_link(&mut self, path: &str) {
        self.add(path, Found::Other);
    }

    fn add(&mut self, path: &str, found: Found) {
        let Found::Dir(dir) = &mut self.root else { return };
        let mut dir = dir;
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        for part in above.split('/').filter(|part| !part.is_empty()) {
            let inner = dir.entries.entry(part.to_owned());
            let inner = inner.or_insert_with(|| Found::Dir(Dir::default()));
            // a tree has one thing at a path
            let Found::Dir(inner) = inner else { return };
            dir = inner;
        }
        dir.entries.insert(name.to_owned(), found);
    }

    fn find(&self, path: &str) -> Option<&Found> {
        let mut found = &self.root;
        let parts = path.split('/').filter(|part| !matches!(*part, "" | "."));
        for part in parts {
            let Found::Dir(dir) = found else { return None };
            found = dir.entries.get(part)?;
        }
        Some(found)
    }

    /// Paths of the files that are packed.
    pub fn packed(&self, manifest: &Manifest, whole: &Value) -> Result<Vec<String>, PatternFault> {
        let root = self.root_level(manifest, whole)?;
        let has_workspaces = !manifest.workspace_patterns().is_empty();
        let mut walk =
            Walk { listing: self, has_workspaces, levels: vec![root], packed: Vec::new() };
        if let Found::Dir(dir) = &self.root {
            walk.enter(dir, "")?;
        }
        Ok(walk.packed)
    }

    fn root_level(&self, manifest: &Manifest, whole: &Value) -> Result<Level, PatternFault> {
        let (mut strict, mut required) = (Rule::parse_all(STRICT)?, Vec::new());
        let files = whole["files"].as_array().map(|files| files.iter().filter_map(Value::as_str));
        let mut rules = Rule::parse_all(USUAL)?;
        if let Some(files) = files {
            rules.push(Rule::parse("*")?);
            for file in files {
                let mut file = file
                    .strip_prefix('.')
                    .filter(|rest| rest.starts_with('/'))
                    .unwrap_or(file)
                    .to_owned();
                if file.ends_with("/*") {
                    file.push('*');
                }
                let rule = Rule::parse(format!("!{file}").trim())?;
                match self.find(file.trim_start_matches('!')) {
                    Some(Found::File) => {
                        strict.insert(0, rule);
                        required.push(file.strip_prefix('/').unwrap_or(&file).to_owned());
                    }
                    Some(Found::Dir(_)) => {
                        rules.push(rule);
                        rules.push(Rule::parse(&format!("!{file}/**"))?);
                    }
                    Some(Found::Other) => {}
                    None => rules.push(rule),
                }
            }
        } else {
            rules.extend(self.ignore_rules("", false)?);
        }
        let always = ["browser", "main"].map(|field| whole[field].as_str().unwrap_or_default());
        for path in always.iter().filter(|path| !path.is_empty()) {
            strict.push(Rule::parse(format!("!/{path}").trim())?);
        }
        for (_, file) in bins(manifest.name.as_deref().unwrap_or_default(), &manifest.bin) {
            strict.push(Rule::parse(&format!("!/{file}"))?);
        }
        rules.extend(strict);
        Ok(Level { name: String::new(), rules, exact: false, required })
    }

    /// Rules of the ignore file that counts in a directory.
    fn ignore_rules(&self, dir: &str, has_package: bool) -> Result<Vec<Rule>, PatternFault> {
        if has_package {
            return Ok(Vec::new());
        }
        let text = [".npmignore", ".gitignore"].iter();
        let mut text = text.filter_map(|name| self.ignores.get(&format!("{dir}{name}")));
        text.next().map_or_else(|| Ok(Vec::new()), |text| Rule::parse_all(text))
    }
}

impl Walk<'_> {
    /// Walks the directory at `path`, which ends in a slash, below the last level.
    fn enter(&mut self, dir: &Dir, path: &str) -> Result<(), PatternFault> {
        let level = self.levels.len() - 1;
        for (name, found) in &dir.entries {
            let as_file = self.passes(level, name, false, None);
            let as_dir = self.passes(level, name, true, None);
            // no archive of npm's has such a name
            if name.contains('*') {
                continue;
            }
            match found {
                Found::File if as_file => self.packed.push(format!("{path}{name}")),
                Found::Dir(inner) if as_dir => {
                    let exact = as_file || self.passes(level, &format!("{name}/"), false, None);
                    let path = format!("{path}{name}/");
                    let inner_level = self.level(inner, name, &path, exact)?;
                    self.levels.push(inner_level);
                    self.enter(inner, &path)?;
                    self.levels.pop();
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn level(&self, dir: &Dir, name: &str, path: &str, exact: bool) -> Result<Level, PatternFault> {
        let above = self.levels.last().map(|level| level.required.as_slice()).unwrap_or_default();
        // only those right in it
        let inner = |file: &String| {
            let (dir, file) = file.rsplit_once('/')?;
            (dir == name).then(|| file.to_owned())
        };
        let required: Vec<String> = above.iter().filter_map(inner).collect();
        let mut rules = Rule::parse_all(USUAL)?;
        // for a project with workspaces, a `package.json` puts ignore files out of force
        let has_package = self.has_workspaces && dir.entries.contains_key("package.json");
        rules.extend(self.listing.ignore_rules(path, has_package)?);
        rules.push(Rule::parse("/.git")?);
        for file in &required {
            rules.push(Rule::parse(&format!("!{file}"))?);
        }
        Ok(Level { name: name.to_owned(), rules, exact, required })
    }

    /// Whether rules of a level, and of all above it, let a path below it through. `name` is the last
    /// part of it, for a level that is not its own.
    fn passes(&self, level: usize, path: &str, as_dir: bool, name: Option<&str>) -> bool {
        let own = &self.levels[level];
        let mut passes = true;
        if let Some(above) = level.checked_sub(1) {
            let longer = format!("{}/{path}", own.name);
            passes = self.passes(above, &longer, as_dir, Some(name.unwrap_or(path)));
            if !passes && !own.exact {
                return false;
            }
        }
        for rule in &own.rules {
            if rule.takes != passes && hits(rule, path, as_dir, name) {
                passes = rule.takes;
            }
        }
        passes
    }
}

fn hits(rule: &Rule, path: &str, as_dir: bool, name: Option<&str>) -> bool {
    let whole = |path: &str| {
        rule.matches(&format!("/{path}"), Extent::Whole) || rule.matches(path, Extent::Whole)
    };
    let leads = |path: &str| {
        let beginning = |path: &str| rule.matches(path, Extent::Beginning);
        whole(&format!("{path}/"))
            || rule.takes && (beginning(&format!("/{path}")) || beginning(path))
    };
    whole(path) || as_dir && (leads(path) || name.is_some_and(|name| rule.is_name() && leads(name)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn packed(manifest: Value, files: &[(&str, &str)]) -> Vec<String> {
        let mut listing = Listing::default();
        listing.add_file("package.json", None);
        for (path, text) in files {
            listing.add_file(path, Listing::wants(path).then(|| (*text).to_owned()));
        }
        listing.add_link("link");
        let parsed = Manifest::parse(manifest.to_string().as_bytes()).unwrap();
        let mut packed = listing.packed(&parsed, &manifest).unwrap();
        packed.retain(|path| path != "package.json");
        packed
    }

    #[test]
    fn files_of_a_manifest_are_in_and_all_else_is_out() {
        let manifest = json!({"name": "x", "files": ["dist/", "lib/*.js", "one.txt", "!dist/no.js"],
            "main": "index.js", "bin": "./cli.js"});
        let files = [
            "dist/a.js",
            "dist/sub/b.js",
            "dist/no.js",
            "lib/c.js",
            "lib/c.ts",
            "one.txt",
            "two.txt",
            "index.js",
            "cli.js",
            "README.md",
            "License",
            "src/x.ts",
            "dist/.npmrc",
            "package-lock.json",
            "node_modules/y/index.js",
        ];
        let expected = [
            "License",
            "README.md",
            "cli.js",
            "dist/a.js",
            "dist/sub/b.js",
            "index.js",
            "lib/c.js",
            "one.txt",
        ];
        assert_eq!(packed(manifest, &files.map(|path| (path, ""))), expected);
    }

    #[test]
    fn ignore_files_count_where_there_is_no_list() {
        let files = [
            (".gitignore", "dist\n*.log\n"),
            ("dist/a.js", ""),
            ("x.log", ""),
            ("test/.npmignore", "*.tmp\n"),
            ("test/a.tmp", ""),
            ("test/a.js", ""),
            ("test/.gitignore", "*.js\n"),
            (".github/x.yml", ""),
            ("a/.DS_Store", ""),
        ];
        assert_eq!(packed(json!({}), &files), [".github/x.yml", "test/a.js"]);
        let files = [
            (".npmignore", "/src/\n!src/keep.js\n"),
            (".gitignore", "dist\n"),
            ("dist/a.js", ""),
            ("src/a.js", ""),
            ("src/keep.js", ""),
        ];
        // a directory that leads to what is taken in comes whole: npm has it so
        assert_eq!(packed(json!({}), &files), ["dist/a.js", "src/a.js", "src/keep.js"]);
    }
}
