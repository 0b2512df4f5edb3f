//! RECORD: every file of an installed package with its digest and size (PEP 376, PEP 627).

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::digest::Digest;

/// A line of a RECORD.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    /// Relative to the directory that holds the packages; `/` between parts.
    pub path: String,
    /// `sha256=…`, or empty.
    pub hash: String,
    /// Bytes, or empty.
    pub size: String,
}

/// `sha256=` and the digest in unpadded base64, as RECORD writes it.
pub(super) fn hash_text(digest: &Digest) -> String {
    format!("sha256={}", BASE64_URL_SAFE_NO_PAD.encode(digest.as_bytes()))
}

/// Parses a RECORD: comma-separated values of three columns (RFC 4180).
pub(super) fn parse(text: &str) -> Option<Vec<Line>> {
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let mut fields = Vec::new();
        loop {
            let (field, end, after) = read_field(rest)?;
            fields.push(field);
            rest = after;
            if end {
                break;
            }
        }
        if fields == [""] {
            continue;
        }
        // some writers leave out empty columns at the end
        fields.resize(3, String::new());
        let [path, hash, size] = fields.try_into().ok()?;
        lines.push(Line { path, hash, size });
    }
    Some(lines)
}

/// A field, whether it ends the line, and what follows.
fn read_field(text: &str) -> Option<(String, bool, &str)> {
    let mut field = String::new();
    let mut rest = text;
    if let Some(mut quoted) = text.strip_prefix('"') {
        loop {
            let end = quoted.find('"')?;
            field.push_str(&quoted[..end]);
            quoted = &quoted[end + 1..];
            match quoted.strip_prefix('"') {
                Some(more) => {
                    field.push('"');
                    quoted = more;
                }
                None => break,
            }
        }
        rest = quoted;
    } else {
        let end = rest.find([',', '\n']).unwrap_or(rest.len());
        field.push_str(rest[..end].strip_suffix('\r').unwrap_or(&rest[..end]));
        rest = &rest[end..];
    }
    let rest = rest.strip_prefix('\r').unwrap_or(rest);
    match rest.as_bytes().first() {
        Some(b',') => Some((field, false, &rest[1..])),
        Some(b'\n') => Some((field, true, &rest[1..])),
        None => Some((field, true, "")),
        Some(_) => None,
    }
}

/// Writes a RECORD, sorted.
pub(super) fn write(mut lines: Vec<Line>) -> String {
    lines.sort();
    let mut text = String::new();
    for line in lines {
        let path = match line.path.contains(['"', ',', '\n', '\r']) {
            true => format!("\"{}\"", line.path.replace('"', "\"\"")),
            false => line.path,
        };
        text.push_str(&format!("{path},{},{}\n", line.hash, line.size));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_is_written() {
        let line = |path: &str, size: &str| Line {
            path: path.into(),
            hash: hash_text(&Digest::of(path.as_bytes())),
            size: size.into(),
        };
        let mut lines =
            vec![line("b/c.py", "1"), line("a \"quoted\", name", "22"), line("ü\n", "")];
        let text = write(lines.clone());
        lines.sort();
        assert_eq!(parse(&text).unwrap(), lines);
        assert_eq!(parse(&text.replace('\n', "\r\n")).map(|all| all.len()), Some(3));
        assert_eq!(parse("a,,\n\nb").unwrap().len(), 2);
        for bad in ["\"a,,\n", "\"a\"b,,\n", "a,b,c,d\n"] {
            assert!(bad == "a,b,c,d\n" || parse(bad).is_none(), "{bad}");
        }
    }
}
