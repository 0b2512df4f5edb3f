//! Requirements files, as far as they must be understood before `uv` is: which files they include,
//! which indexes they name, and which digests they ask for.
//!
//! The resolver sees a copy in which files lie beside each other and indexes are the relay's; whatever
//! would reach for this machine or another server (`-e`, `--find-links`, `file:`, `git+https:`) is
//! named as a fault instead.

use std::collections::{BTreeMap, BTreeSet};

use super::name::ProjectName;
use crate::blame::Blame;
use crate::digest::Digest;

/// A line of a requirements file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// `-r FILE`.
    Include(String),
    /// `-c FILE`.
    Constrain(String),
    /// `-i URL`.
    Index(String),
    /// `--extra-index-url URL`.
    ExtraIndex(String),
    /// `--require-hashes`.
    RequireHashes,
    /// `--pre` and the like, handed on as they are.
    Other(String),
    /// A requirement without its digests.
    Requirement { text: String, project: ProjectName, hashes: Vec<Digest> },
}

/// A requirements file, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirements {
    pub lines: Vec<Line>,
}

/// A line that cannot be part of a locked environment.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line}: `{text}` {reason}")]
pub struct RequirementsError {
    pub line: usize,
    pub text: String,
    pub reason: String,
}

impl RequirementsError {
    pub fn blame(&self) -> Blame {
        Blame::Input
    }

    pub fn help(&self) -> Option<&'static str> {
        if self.reason.contains("wheel of an index") {
            Some("take it from an index, or build it in a `run` and install its files")
        } else if self.reason.contains("variable") {
            Some(
                "name the index by `UV_INDEX` or `PIP_EXTRA_INDEX_URL`, its user there or in a netrc file",
            )
        } else {
            None
        }
    }
}

impl Requirements {
    pub fn parse(text: &str) -> Result<Self, RequirementsError> {
        let mut lines = Vec::new();
        for (line, text) in logical_lines(text) {
            let fail = |reason: &str| RequirementsError {
                line,
                text: redacted(&text),
                reason: reason.to_owned(),
            };
            lines.push(parse_line(&text).map_err(|reason| fail(&reason))?);
        }
        Ok(Requirements { lines })
    }

    /// Files that it includes.
    pub fn includes(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().filter_map(|line| match line {
            Line::Include(path) | Line::Constrain(path) => Some(path.as_str()),
            _ => None,
        })
    }

    /// The copy for the resolver; `rename` says what an included file is called there.
    pub fn for_resolver(&self, rename: impl Fn(&str) -> String) -> String {
        let mut text = String::new();
        for line in &self.lines {
            let line = match line {
                Line::Include(path) => format!("-r {}", rename(path)),
                Line::Constrain(path) => format!("-c {}", rename(path)),
                Line::Index(_) | Line::ExtraIndex(_) | Line::RequireHashes => continue,
                Line::Other(text) => text.clone(),
                Line::Requirement { text, .. } => text.clone(),
            };
            text.push_str(&line);
            text.push('\n');
        }
        text
    }

    /// The digests that projects must have.
    pub fn hashes(&self) -> BTreeMap<&ProjectName, BTreeSet<Digest>> {
        let mut all: BTreeMap<&ProjectName, BTreeSet<Digest>> = BTreeMap::new();
        for line in &self.lines {
            if let Line::Requirement { project, hashes, .. } = line
                && !hashes.is_empty()
            {
                all.entry(project).or_default().extend(hashes);
            }
        }
        all
    }
}

/// `../limits.txt` beside `layers/app/requirements.txt`; `None` where that leaves the project.
pub fn beside(path: &str, include: &str) -> Option<String> {
    if include.starts_with('/') || include.contains("://") {
        return None;
    }
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in include.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Lines joined where a backslash ends them, without comments, with their numbers.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut whole = String::new();
    let mut start = 1;
    for (at, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        if whole.is_empty() {
            start = at + 1;
        }
        // a `#` is a comment where it begins a word
        let comment =
            line.find('#').filter(|at| *at == 0 || line[..*at].ends_with(char::is_whitespace));
        let bare = comment.map_or(line, |at| &line[..at]).trim_end();
        match bare.strip_suffix('\\') {
            Some(more) => {
                whole.push_str(more);
                whole.push(' ');
                continue;
            }
            None => whole.push_str(bare),
        }
        let finished = std::mem::take(&mut whole);
        if !finished.trim().is_empty() {
            lines.push((start, finished.trim().to_owned()));
        }
    }
    if !whole.trim().is_empty() {
        lines.push((start, whole.trim().to_owned()));
    }
    lines
}

fn parse_line(text: &str) -> Result<Line, String> {
    if text.contains("${") {
        return Err("names a variable of the environment".to_owned());
    }
    if text.starts_with('-') {
        return parse_option(text);
    }
    let mut words = text.split_whitespace();
    let mut kept = Vec::new();
    let mut hashes = Vec::new();
    while let Some(word) = words.next() {
        let value = match word.strip_prefix("--hash") {
            Some("") => words.next(),
            Some(rest) => rest.strip_prefix('='),
            None => {
                kept.push(word);
                continue;
            }
        };
        let value = value.unwrap_or_default();
        match value.split_once(':') {
            Some(("sha256", hex)) => {
                let digest = Digest::parse_hex(&hex.to_ascii_lowercase());
                hashes.push(digest.map_err(|_| format!("has a digest that is none: `{value}`"))?);
            }
            _ => return Err(format!("has a digest that is no sha256: `{value}`")),
        }
    }
    let text = kept.join(" ");
    if text.contains("://") || text.contains('@') || text.starts_with(['.', '/', '~']) {
        return Err("is not the wheel of an index".to_owned());
    }
    let name: String =
        text.chars().take_while(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).collect();
    let project = name.parse().map_err(|_| "is no requirement".to_owned())?;
    Ok(Line::Requirement { text, project, hashes })
}

fn parse_option(text: &str) -> Result<Line, String> {
    let (name, value) = match text.find([' ', '=', '\t']) {
        Some(at) => (&text[..at], text[at + 1..].trim()),
        None if text.len() > 2 && !text.starts_with("--") => (&text[..2], &text[2..]),
        None => (text, ""),
    };
    let value = value.trim_matches(['"', '\'']).to_owned();
    let needs = |make: fn(String) -> Line| match value.is_empty() {
        true => Err("needs a value".to_owned()),
        false => Ok(make(value.clone())),
    };
    match name {
        "-r" | "--requirement" => needs(Line::Include),
        "-c" | "--constraint" => needs(Line::Constrain),
        "-i" | "--index-url" | "--pypi-url" => needs(Line::Index),
        "--extra-index-url" => needs(Line::ExtraIndex),
        "--require-hashes" => Ok(Line::RequireHashes),
        // wheels are all that is installed
        "--only-binary" | "--prefer-binary" | "--pre" => Ok(Line::Other(text.to_owned())),
        "-e" | "--editable" => {
            Err("is not the wheel of an index (`editable` declares one)".to_owned())
        }
        _ => Err("is an option that a locked environment cannot have".to_owned()),
    }
}

/// A line as it may be shown: without user and password of an address.
fn redacted(text: &str) -> String {
    let word = |word: &str| match (word.find("://"), word.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => {
            format!("{}{}", &word[..scheme + 3], &word[at + 1..])
        }
        _ => word.to_owned(),
    };
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_file_is_read_as_pip_reads_it() {
        let text = format!(
            "# tools\n-r base.txt\n--constraint=limits.txt\n--index-url https://u:p@i.example.org/simple\n\
             Requests[socks] >=2 ; python_version > '3' \\\n    --hash=sha256:{HEX} \\\n    --hash sha256:{HEX}  # why\n\n--pre\n"
        );
        let read = Requirements::parse(&text).unwrap();
        assert_eq!(read.includes().collect::<Vec<_>>(), ["base.txt", "limits.txt"]);
        assert_eq!(read.hashes().into_values().next().unwrap().len(), 1);
        assert_eq!(
            read.for_resolver(|path| format!("0-{path}")),
            "-r 0-base.txt\n-c 0-limits.txt\nRequests[socks] >=2 ; python_version > '3'\n--pre\n"
        );
    }

    #[test]
    fn what_no_index_has_is_refused_with_its_line() {
        let refused = |text: &str| Requirements::parse(text).unwrap_err().to_string();
        insta::assert_snapshot!(refused("a\n-e ."), @"line 2: `-e .` is not the wheel of an index (`editable` declares one)");
        insta::assert_snapshot!(refused("x @ git+https://u:p@h.example.org/x"), @"line 1: `x @ git+https://h.example.org/x` is not the wheel of an index");
        insta::assert_snapshot!(refused("./local"), @"line 1: `./local` is not the wheel of an index");
        insta::assert_snapshot!(refused("--find-links /opt"), @"line 1: `--find-links /opt` is an option that a locked environment cannot have");
        insta::assert_snapshot!(refused("a --hash=md5:00"), @"line 1: `a --hash=md5:00` has a digest that is no sha256: `md5:00`");
        insta::assert_snapshot!(refused("-i https://${U}:${P}@h.example.org/"), @"line 1: `-i https://h.example.org/` names a variable of the environment");
        insta::assert_snapshot!(refused("$x"), @"line 1: `$x` is no requirement");
    }

    #[test]
    fn included_files_lie_beside_their_file() {
        let at = |include| beside("layers/app/requirements.txt", include);
        assert_eq!(at("base.txt").as_deref(), Some("layers/app/base.txt"));
        assert_eq!(at("../../x.txt").as_deref(), Some("x.txt"));
        assert_eq!(at("../../../x.txt"), None);
        assert_eq!(at("/etc/x"), None);
    }
}
