//! What npm clients ask of their registry, and where its documents point.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

/// What is asked of a registry.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ask<'a> {
    /// A package with all its versions, or one of them, by version or tag.
    Document { name: String, version: Option<&'a str> },
    /// A file of a package: what stands behind `/-/`.
    File { name: String, file: Vec<&'a str> },
}

/// Reads a path; `None` for anything but packages and their files.
pub(super) fn parse_path(path: &[String]) -> Option<Ask<'_>> {
    let parts: Vec<&str> = path.iter().flat_map(|part| part.split('/')).collect();
    let (name, rest) = match parts.as_slice() {
        [scope, name, rest @ ..] if is_scope(scope) && is_name(name) => {
            (format!("{scope}/{name}"), rest)
        }
        [name, rest @ ..] if is_name(name) => ((*name).to_owned(), rest),
        _ => return None,
    };
    if rest.iter().any(|part| part.is_empty() || part.starts_with("..") || *part == ".") {
        return None;
    }
    match rest {
        [] => Some(Ask::Document { name, version: None }),
        ["-", file @ ..] if !file.is_empty() => Some(Ask::File { name, file: file.to_vec() }),
        [version] if *version != "-" => Some(Ask::Document { name, version: Some(version) }),
        _ => None,
    }
}

fn is_scope(text: &str) -> bool {
    text.strip_prefix('@').is_some_and(is_name)
}

/// Old packages have capitals and odd signs; a dot in front would be a path, a dash npm's own.
fn is_name(text: &str) -> bool {
    let sign = |c: u8| c.is_ascii_alphanumeric() || b"-_.~!'()*".contains(&c);
    !text.is_empty() && !text.starts_with(['.', '-', '_']) && text.bytes().all(sign)
}

/// The scope of a name, `""` where it has none.
pub(super) fn scope_of(name: &str) -> &str {
    name.split_once('/').map_or("", |(scope, _)| scope)
}

/// A package's document, as far as it points anywhere; also that of one version.
#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow, default)]
    versions: BTreeMap<Cow<'a, str>, Version<'a>>,
    #[serde(borrow)]
    dist: Option<Dist<'a>>,
}

#[derive(Deserialize)]
struct Version<'a> {
    #[serde(borrow)]
    dist: Option<Dist<'a>>,
}

#[derive(Deserialize)]
struct Dist<'a> {
    #[serde(borrow)]
    tarball: Option<&'a RawValue>,
}

/// Replaces the address of every tarball; all other bytes stay. Only where a registry itself puts
/// addresses is looked at: what a package says about itself moves nothing.
pub(super) fn rewrite(
    document: &str,
    mut change: impl FnMut(&str) -> Option<String>,
) -> Result<String, serde_json::Error> {
    let parsed: Document<'_> = serde_json::from_str(document)?;
    let versions = parsed.versions.into_values().filter_map(|version| version.dist);
    let raws = versions.chain(parsed.dist).filter_map(|dist| dist.tarball);
    super::splice(document, raws, &mut change)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(path: &str) -> Option<String> {
        let path: Vec<String> = path.split('/').map(|part| part.replace("%2f", "/")).collect();
        parse_path(&path).map(|ask| format!("{ask:?}"))
    }

    #[test]
    fn packages_and_their_files_are_all_that_is_asked() {
        let document = r#"Document { name: "@a/b", version: None }"#;
        assert_eq!(parse("@a%2fb").as_deref(), Some(document));
        assert_eq!(parse("@a/b").as_deref(), Some(document));
        assert_eq!(
            parse("b/1.2.3").as_deref(),
            Some(r#"Document { name: "b", version: Some("1.2.3") }"#)
        );
        assert_eq!(
            parse("@a/b/-/b-1.tgz").as_deref(),
            Some(r#"File { name: "@a/b", file: ["b-1.tgz"] }"#)
        );
        for other in
            ["", "-/npm/v1/security", "-/whoami", "a/-", "a/../b", "a/-/../x", "@a", "a/1/2", ".x"]
        {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn addresses_move_and_nothing_else_does() {
        let document = r#"{"readme":"\"tarball\":\"http://x/\"", "versions": {"1.0.0": {"tarball": "http://own/", "dist":
            {"shasum":"s", "tarball" : "http:\/\/h/a.tgz"}}, "2.0.0": {}}, "x": 1.50}"#;
        let changed = rewrite(document, |url| Some(format!("<{url}>"))).unwrap();
        assert_eq!(changed, document.replace(r#""http:\/\/h/a.tgz""#, r#""<http://h/a.tgz>""#));
        assert!(rewrite("[]", |_| None).is_err());
    }
}
