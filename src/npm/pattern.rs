//! Patterns of npm's ignore files and of `files` in a `package.json`.
//!
//! They are close to gitignore's and are not those: a pattern without a slash matches the last part of
//! a path, capitals do not count, names that begin with a dot are no exception, and a walk asks whether
//! a directory could lead to what a pattern means. Patterns that need more than this knows are errors,
//! so that nothing is packed on a guess.

use globset::{GlobBuilder, GlobMatcher};

/// Most forms that braces unfold to.
const MOST: usize = 1000;

/// A pattern that is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pattern `{pattern}` {reason}")]
pub struct PatternFault {
    pattern: String,
    reason: &'static str,
}

/// One part of a pattern between slashes.
#[derive(Clone, Debug)]
enum Part {
    /// `**`: any number of parts.
    Many,
    /// Nothing: before a first slash, or behind a last one.
    Empty,
    One(GlobMatcher),
}

/// A pattern, and whether it takes in or leaves out.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    /// Whether what it matches is taken.
    pub takes: bool,
    forms: Vec<Vec<Part>>,
}

/// How a path is held against a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    Whole,
    /// A path that ends before its pattern does matches, too.
    Beginning,
}

impl Rule {
    /// Of a line without space around it.
    pub fn parse(text: &str) -> Result<Self, PatternFault> {
        let body = text.trim_start_matches('!');
        let takes = (text.len() - body.len()) % 2 == 1;
        let fault = |reason| PatternFault { pattern: text.to_owned(), reason };
        let mut forms = Vec::new();
        for form in unfold(body).map_err(fault)? {
            forms.push(parts(&form).map_err(fault)?);
        }
        Ok(Rule { takes, forms })
    }

    /// Those of a text, one a line.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, PatternFault> {
        let lines = text.lines().map(str::trim);
        lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(Self::parse).collect()
    }

    /// Whether one name is all that it speaks of.
    pub fn is_name(&self) -> bool {
        self.forms.iter().any(|form| match form.last() {
            Some(Part::Empty) => form.len() <= 2,
            _ => form.len() <= 1,
        })
    }

    pub fn matches(&self, path: &str, extent: Extent) -> bool {
        let whole = split(path);
        self.forms.iter().any(|form| match form.len() {
            // without a slash it is for a name, wherever that is
            1 => {
                let name = whole.iter().rev().find(|part| !part.is_empty()).copied();
                matches(&[name.unwrap_or_default()], form, extent)
            }
            _ => matches(&whole, form, extent),
        })
    }
}

/// The parts of a path; several slashes are one.
fn split(path: &str) -> Vec<&str> {
    let mut parts: Vec<&str> = Vec::new();
    let all: Vec<&str> = path.split('/').collect();
    for (at, part) in all.iter().enumerate() {
        if !part.is_empty() || at == 0 || at + 1 == all.len() {
            parts.push(part);
        }
    }
    parts
}

fn matches(path: &[&str], form: &[Part], extent: Extent) -> bool {
    let Some((part, form_rest)) = form.split_first() else {
        // what a slash at the end leaves
        return path.is_empty() || path == [""];
    };
    if path.is_empty() {
        return extent == Extent::Beginning;
    }
    if let Part::Many = part {
        if form_rest.is_empty() {
            return true;
        }
        let found = (0..path.len()).any(|at| matches(&path[at..], form_rest, extent));
        return found || extent == Extent::Beginning;
    }
    let (name, path_rest) = (path[0], &path[1..]);
    let hit = match part {
        Part::Many => true,
        Part::Empty => name.is_empty(),
        Part::One(glob) => !name.is_empty() && glob.is_match(name),
    };
    hit && matches(path_rest, form_rest, extent)
}

fn parts(form: &str) -> Result<Vec<Part>, &'static str> {
    let mut found: Vec<Part> = Vec::new();
    for part in split(form) {
        match part {
            "**" if matches!(found.last(), Some(Part::Many)) => {}
            "**" => found.push(Part::Many),
            ".." if found.last().is_some_and(|last| matches!(last, Part::One(_))) => {
                found.pop();
            }
            "" => found.push(Part::Empty),
            part => found.push(Part::One(glob(part)?)),
        }
    }
    if found.is_empty() {
        found.push(Part::Empty);
    }
    Ok(found)
}

fn glob(part: &str) -> Result<GlobMatcher, &'static str> {
    let extended = |pair: &[u8]| b"?*+@!".contains(&pair[0]) && pair[1] == b'(';
    if part.as_bytes().windows(2).any(extended) {
        return Err("has a list in parentheses, which is not known here");
    }
    let build = |text: &str| {
        let mut glob = GlobBuilder::new(text);
        glob.literal_separator(true).case_insensitive(true).backslash_escape(true).build()
    };
    // braces that unfold to nothing stand for themselves
    let literal = part.replace('{', "\\{").replace('}', "\\}");
    // and so does a bracket that nothing closes
    let glob = build(&literal).or_else(|_| build(&globset::escape(part)));
    glob.map(|glob| glob.compile_matcher()).map_err(|_| "is none")
}

/// All forms of a text with `{a,b}` in it.
fn unfold(text: &str) -> Result<Vec<String>, &'static str> {
    let mut forms = Vec::new();
    let mut next = vec![text.to_owned()];
    while let Some(text) = next.pop() {
        match find_braces(&text)? {
            None => forms.push(text),
            Some(Braces { start, end, choices }) => {
                let (before, after) = (&text[..start], &text[end..]);
                next.extend(choices.iter().map(|choice| format!("{before}{choice}{after}")));
            }
        }
        if forms.len() + next.len() > MOST {
            return Err("has more braces than a pattern needs");
        }
    }
    Ok(forms)
}

/// Braces that offer a choice: where they begin and end, and what there is between them.
struct Braces<'a> {
    start: usize,
    end: usize,
    choices: Vec<&'a str>,
}

/// The first of them.
fn find_braces(text: &str) -> Result<Option<Braces<'_>>, &'static str> {
    for (start, _) in text.match_indices('{') {
        let before = text.as_bytes()[..start].last();
        if matches!(before, Some(b'\\' | b'$')) {
            continue;
        }
        let (mut depth, mut from, mut choices) = (0, start + 1, Vec::new());
        for (at, c) in text[start..].char_indices().map(|(at, c)| (at + start, c)) {
            match c {
                '{' => depth += 1,
                ',' if depth == 1 => {
                    choices.push(&text[from..at]);
                    from = at + 1;
                }
                '}' if depth == 1 => {
                    choices.push(&text[from..at]);
                    match choices.len() {
                        1 if choices[0].contains("..") => return Err("has a range in braces"),
                        1 => break,
                        _ => return Ok(Some(Braces { start, end: at + 1, choices })),
                    }
                }
                '}' => depth -= 1,
                _ => {}
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits(pattern: &str, path: &str) -> bool {
        Rule::parse(pattern).unwrap().matches(path, Extent::Whole)
    }

    #[test]
    fn names_match_anywhere_and_paths_from_the_root() {
        assert!(hits("*.orig", "/a/b/x.ORIG") && hits("._*", "a/._x") && hits("*", ".dot"));
        assert!(hits("/build/config.gypi", "/build/config.gypi"));
        assert!(!hits("/build", "/a/build") && !hits("a/b", "/x/a/b"));
        assert!(hits("**/.git/**", "/a/.git/x/y") && hits("**/.git", ".git"));
        assert!(hits("dist//**", "dist/a/b") && hits("dist/", "dist/") && !hits("dist/", "dist"));
        assert!(!hits("*", "") && hits("a/../b", "b"));
    }

    #[test]
    fn braces_and_classes_mean_what_they_do_for_npm() {
        let readme = "/readme{,.*[^~$]}";
        assert!(hits(readme, "/README") && hits(readme, "/Readme.md"));
        assert!(!hits(readme, "/readme.md~") && !hits(readme, "/readme2"));
        assert!(hits("{a,b{c,d}}/x", "bd/x") && hits("{a}", "{a}") && hits("[a", "[a"));
        assert!(Rule::parse("!!a").is_ok_and(|rule| !rule.takes));
        let refused = |pattern| Rule::parse(pattern).unwrap_err().to_string();
        assert!(refused("a/+(b|c)").contains("`a/+(b|c)` has a list in parentheses"));
        assert!(refused("{1..3}").contains("range"));
    }

    #[test]
    fn a_directory_on_the_way_matches_the_beginning() {
        let rule = Rule::parse("!lib/*/x.js").unwrap();
        assert!(rule.takes && rule.matches("lib", Extent::Beginning));
        assert!(!rule.matches("/lib/a", Extent::Beginning));
        assert!(
            rule.matches("lib/a", Extent::Beginning) && !rule.matches("src", Extent::Beginning)
        );
        assert!(!rule.is_name() && Rule::parse("a/").unwrap().is_name());
    }
}
