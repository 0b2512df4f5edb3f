//! Environment markers (PEP 508, with the sets of PEP 751): whether something is meant for an image's
//! Python.

use std::collections::BTreeSet;

use super::version::Version;

/// What markers are asked of. The rest of their variables is the same in every image: CPython on
/// Linux, whose kernel is nobody's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    /// `3.13`.
    pub python_version: String,
    /// `3.13.5`.
    pub python_full_version: String,
    /// `x86_64`.
    pub machine: String,
}

/// A marker that cannot be understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not an environment marker")]
pub struct MarkerError(pub String);

/// Extras and groups that were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    pub extras: BTreeSet<String>,
    pub groups: BTreeSet<String>,
}

impl Environment {
    /// Whether a marker holds here.
    pub fn meets(&self, marker: &str, selection: &Selection) -> Result<bool, MarkerError> {
        let fail = || MarkerError(marker.to_owned());
        let tokens = tokens(marker).ok_or_else(fail)?;
        let mut reading = Reading { tokens: &tokens, at: 0, environment: self, selection };
        let holds = reading.any().ok_or_else(fail)?;
        if reading.at == tokens.len() { Ok(holds) } else { Err(fail()) }
    }

    fn variable(&self, name: &str) -> Option<&str> {
        Some(match name {
            "python_version" => &self.python_version,
            "python_full_version" | "implementation_version" => &self.python_full_version,
            "platform_machine" => &self.machine,
            "os_name" => "posix",
            "sys_platform" => "linux",
            "platform_system" => "Linux",
            "platform_python_implementation" => "CPython",
            "implementation_name" => "cpython",
            "platform_release" | "platform_version" | "extra" => "",
            _ => return None,
        })
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Text(&'a str),
    Operator(&'a str),
    Open,
    Close,
}

fn tokens(marker: &str) -> Option<Vec<Token<'_>>> {
    let mut tokens = Vec::new();
    let mut rest = marker.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            '\'' | '"' => {
                let end = rest[1..].find(first)?;
                (Token::Text(&rest[1..=end]), end + 2)
            }
            '<' | '>' | '=' | '!' | '~' => {
                let end = rest.find(|c| !"<>=!~".contains(c)).unwrap_or(rest.len());
                (Token::Operator(&rest[..end]), end)
            }
            _ => {
                let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
                let end = rest.find(|c| !word(c)).unwrap_or(rest.len());
                (Token::Word(&rest[..end]), end)
            }
        };
        if length == 0 {
            return None;
        }
        tokens.push(token);
        rest = rest[length..].trim_start();
    }
    Some(tokens)
}

/// A side of a comparison.
enum Side<'a> {
    Text(&'a str),
    Variable(&'a str, &'a str),
    Set(&'a BTreeSet<String>),
    /// `extra`, which stands for every extra that was asked for.
    Extra,
}

struct Reading<'a> {
    tokens: &'a [Token<'a>],
    at: usize,
    environment: &'a Environment,
    selection: &'a Selection,
}

impl<'a> Reading<'a> {
    fn next(&mut self) -> Option<&'a Token<'a>> {
        self.at += 1;
        self.tokens.get(self.at - 1)
    }

    fn skip_word(&mut self, word: &str) -> bool {
        let found = self.tokens.get(self.at) == Some(&Token::Word(word));
        self.at += usize::from(found);
        found
    }

    fn any(&mut self) -> Option<bool> {
        let mut holds = self.all()?;
        while self.skip_word("or") {
            holds |= self.all()?;
        }
        Some(holds)
    }

    fn all(&mut self) -> Option<bool> {
        let mut holds = self.one()?;
        while self.skip_word("and") {
            holds &= self.one()?;
        }
        Some(holds)
    }

    fn one(&mut self) -> Option<bool> {
        if self.tokens.get(self.at) == Some(&Token::Open) {
            self.at += 1;
            let holds = self.any()?;
            return (self.next()? == &Token::Close).then_some(holds);
        }
        let left = self.side()?;
        let operator = match self.next()? {
            Token::Operator(operator) => *operator,
            Token::Word("in") => "in",
            Token::Word("not") if self.skip_word("in") => "not in",
            _ => return None,
        };
        compare(&left, operator, &self.side()?)
    }

    fn side(&mut self) -> Option<Side<'a>> {
        match self.next()? {
            Token::Text(text) => Some(Side::Text(text)),
            Token::Word("extra") => Some(Side::Extra),
            Token::Word("extras") => Some(Side::Set(&self.selection.extras)),
            Token::Word("dependency_groups") => Some(Side::Set(&self.selection.groups)),
            Token::Word(name) => {
                // names of before PEP 508
                let name = match *name {
                    "os.name" => "os_name",
                    "sys.platform" => "sys_platform",
                    "platform.machine" => "platform_machine",
                    "python_implementation" | "platform.python_implementation" => {
                        "platform_python_implementation"
                    }
                    name => name,
                };
                Some(Side::Variable(name, self.environment.variable(name)?))
            }
            _ => None,
        }
    }
}

fn compare(left: &Side<'_>, operator: &str, right: &Side<'_>) -> Option<bool> {
    match (left, right) {
        (Side::Text(text), Side::Set(set)) => match operator {
            "in" => Some(set.contains(*text)),
            "not in" => Some(!set.contains(*text)),
            _ => None,
        },
        // what a requirement asks of an extra has been decided before it came here
        (Side::Extra, Side::Text(_)) | (Side::Text(_), Side::Extra) => match operator {
            "==" => Some(false),
            "!=" => Some(true),
            _ => None,
        },
        (Side::Variable(name, value), Side::Text(text)) => {
            compare_texts(name, value, operator, text)
        }
        (Side::Text(text), Side::Variable(name, value)) => match operator {
            "in" | "not in" => contains(value, operator, text),
            operator => compare_texts(name, value, mirrored(operator), text),
        },
        _ => None,
    }
}

fn mirrored(operator: &str) -> &str {
    match operator {
        "<" => ">",
        "<=" => ">=",
        ">" => "<",
        ">=" => "<=",
        other => other,
    }
}

fn contains(whole: &str, operator: &str, part: &str) -> Option<bool> {
    Some(whole.contains(part) == (operator == "in"))
}

fn compare_texts(name: &str, value: &str, operator: &str, text: &str) -> Option<bool> {
    if operator == "in" || operator == "not in" {
        return contains(text, operator, value);
    }
    let is_version = ["python_version", "python_full_version", "implementation_version"];
    if is_version.contains(&name) {
        return value.parse::<Version>().ok()?.meets_one(operator, text);
    }
    Some(match operator {
        "==" | "===" => value == text,
        "!=" => value != text,
        "<" => value < text,
        "<=" => value <= text,
        ">" => value > text,
        ">=" => value >= text,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meets(marker: &str) -> Result<bool, MarkerError> {
        let environment = Environment {
            python_version: "3.13".into(),
            python_full_version: "3.13.5".into(),
            machine: "x86_64".into(),
        };
        let extras = BTreeSet::from(["cli".to_owned()]);
        environment.meets(marker, &Selection { extras, groups: BTreeSet::new() })
    }

    #[test]
    fn markers_hold_for_linux_and_its_python() {
        for yes in [
            "python_version >= '3.9'",
            "'3.9' < python_version and sys_platform != \"win32\"",
            "python_full_version == '3.13.*' or os_name == 'nt'",
            "(platform_system == 'Linux' and (platform_machine in 'x86_64 aarch64'))",
            "platform_machine not in 'arm64'",
            "'linux' in sys_platform",
            "'cli' in extras and 'dev' not in dependency_groups",
            "python_version<'4'and implementation_name=='cpython'",
        ] {
            assert_eq!(meets(yes), Ok(true), "{yes}");
        }
        for no in [
            "python_version < '3.10'",
            "sys_platform == 'win32' and python_version >= '3' or extra == 'x'",
            "'dev' in dependency_groups",
            "platform_python_implementation == 'PyPy'",
        ] {
            assert_eq!(meets(no), Ok(false), "{no}");
        }
    }

    #[test]
    fn what_is_no_marker_is_named() {
        for bad in [
            "",
            "python_version",
            "nonsense == '1'",
            "python_version == '3",
            "(os_name == 'a'",
            "os_name == 'a' os_name",
            "'a' == 'b'",
            "python_version ?? '3'",
        ] {
            assert_eq!(meets(bad), Err(MarkerError(bad.to_owned())), "{bad}");
        }
    }
}
