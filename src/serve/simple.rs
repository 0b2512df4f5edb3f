//! Python's simple index (PEP 503, PEP 691): where its pages point.

use serde::Deserialize;
use serde_json::value::RawValue;

/// Media types of the two forms of a page.
pub(super) const JSON: &str = "application/vnd.pypi.simple.v1+json";
pub(super) const HTML: &str = "text/html";

/// A project's page as JSON, as far as it points anywhere.
#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow, default)]
    files: Vec<File<'a>>,
}

#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow)]
    url: &'a RawValue,
}

/// Replaces the address of every file; all other bytes stay.
pub(super) fn rewrite_json(
    page: &str,
    mut change: impl FnMut(&str) -> Option<String>,
) -> Result<String, serde_json::Error> {
    let parsed: Page<'_> = serde_json::from_str(page)?;
    super::splice(page, parsed.files.into_iter().map(|file| file.url), &mut change)
}

/// Replaces what every `<a href>` says; all other bytes stay.
pub(super) fn rewrite_html(page: &str, mut change: impl FnMut(&str) -> Option<String>) -> String {
    let mut rewritten = String::with_capacity(page.len());
    let mut rest = page;
    while let Some(start) = find_anchor(rest) {
        let end = rest[start..].find('>').map_or(rest.len(), |at| start + at);
        rewritten.push_str(&rest[..start]);
        rewritten.push_str(&rewrite_tag(&rest[start..end], &mut change));
        rest = &rest[end..];
    }
    rewritten.push_str(rest);
    rewritten
}

fn find_anchor(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    (0..bytes.len().saturating_sub(2)).find(|at| {
        bytes[*at] == b'<'
            && bytes[at + 1].eq_ignore_ascii_case(&b'a')
            && bytes[at + 2].is_ascii_whitespace()
    })
}

fn rewrite_tag(tag: &str, change: &mut impl FnMut(&str) -> Option<String>) -> String {
    let lower = tag.to_ascii_lowercase();
    let found = lower.match_indices("href").find_map(|(at, word)| {
        let before = lower[..at].chars().next_back().is_some_and(char::is_whitespace);
        let value = lower[at + word.len()..].trim_start().strip_prefix('=')?.trim_start();
        let quote = value.chars().next().filter(|c| before && ['"', '\''].contains(c))?;
        let start = tag.len() - value.len() + 1;
        Some((start, start + tag[start..].find(quote)?))
    });
    let Some((start, end)) = found else { return tag.to_owned() };
    match change(&tag[start..end].replace("&amp;", "&")) {
        Some(url) => format!("{}{}{}", &tag[..start], url.replace('&', "&amp;"), &tag[end..]),
        None => tag.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_move_and_nothing_else_does() {
        let page = r#"{"meta":{"api-version":"1.1"},"files":[{"filename":"a.whl","url":"../a.whl","size":1.0}]}"#;
        let changed = rewrite_json(page, |url| Some(format!("<{url}>"))).unwrap();
        assert_eq!(changed, page.replace("../a.whl", "<../a.whl>"));
        let page = "<!DOCTYPE html><abbr href='no'><A data-requires-python='&gt;=3' HREF = \"a.whl?x=1&amp;y#sha256=0\">a</A>\n<a href='b'>é</a><a>";
        let changed = rewrite_html(page, |url| Some(format!("[{url}]")));
        let expected = page.replace("a.whl?x=1&amp;y#sha256=0", "[a.whl?x=1&amp;y#sha256=0]");
        assert_eq!(changed, expected.replace("'b'", "'[b]'"));
    }
}
