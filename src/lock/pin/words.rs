//! Words of a lock's line: separated by one space each, so what is in a word is escaped.

use std::fmt::Display;
use std::str::FromStr;

/// Gathers words.
#[derive(Clone, Debug, Default)]
pub struct Words(String);

impl Words {
    /// Adds a word. An empty one is written `-`; spaces, controls and `%` are percent-encoded, and so
    /// is a lone `-`.
    pub fn push(&mut self, word: impl Display) -> &mut Self {
        let word = word.to_string();
        self.0.push(' ');
        match word.as_str() {
            "" => self.0.push('-'),
            "-" => self.0.push_str("%2d"),
            _ => word.chars().for_each(|c| match c {
                c if c <= ' ' || c == '%' || c == '\u{7f}' => {
                    self.0.push_str(&format!("%{:02x}", u32::from(c)));
                }
                c => self.0.push(c),
            }),
        }
        self
    }

    /// The words, each with a space in front.
    pub fn into_text(self) -> String {
        self.0
    }

    /// Reads the next word as it was pushed; `what` is for messages.
    pub fn next<'a>(
        words: &mut impl Iterator<Item = &'a str>,
        what: &str,
    ) -> Result<String, String> {
        let word = words.next().filter(|word| !word.is_empty());
        match word.ok_or_else(|| format!("the {what} is missing"))? {
            "-" => Ok(String::new()),
            word => unescape(word).ok_or_else(|| format!("the {what} is wrong: `{word}`")),
        }
    }

    /// Reads and parses the next word.
    pub fn parse<'a, T: FromStr<Err: Display>>(
        words: &mut impl Iterator<Item = &'a str>,
        what: &str,
    ) -> Result<T, String> {
        let word = Self::next(words, what)?;
        word.parse().map_err(|error| format!("the {what} is wrong: {error}"))
    }

    /// Reads the next word as a path below something: relative, without `..`.
    pub fn path<'a>(
        words: &mut impl Iterator<Item = &'a str>,
        what: &str,
    ) -> Result<String, String> {
        let path = Self::next(words, what)?;
        let leaves = path.starts_with('/') || path.split('/').any(|part| part == "..");
        if leaves { Err(format!("the {what} `{path}` leads out")) } else { Ok(path) }
    }
}

fn unescape(word: &str) -> Option<String> {
    let mut parts = word.split('%');
    let mut text = parts.next()?.to_owned();
    for part in parts {
        let code = u8::from_str_radix(part.get(..2)?, 16).ok().filter(u8::is_ascii)?;
        text.push(char::from(code));
        text.push_str(&part[2..]);
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_were_pushed() {
        let all = ["", "-", "a b", "100%", "@scope/name", "ü\n", "--"];
        let mut words = Words::default();
        for word in all {
            words.push(word);
        }
        let text = words.into_text();
        let mut read = text.split(' ').skip(1);
        for word in all {
            assert_eq!(Words::next(&mut read, "word").unwrap(), word);
        }
        assert!(read.next().is_none() && !text.contains('\n'));
    }

    #[test]
    fn what_leads_out_is_no_path() {
        for text in ["/etc", "a/../..", ".."] {
            assert!(Words::path(&mut [text].into_iter(), "path").is_err(), "{text}");
        }
        assert!(Words::next(&mut ["%zz"].into_iter(), "word").is_err());
    }
}
