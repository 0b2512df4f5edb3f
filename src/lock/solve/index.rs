//! Pages of Python indexes (PEP 503, PEP 691), read for what a resolver does not say: where a file has
//! gone, and which versions there are.

use std::collections::BTreeMap;

use serde::Deserialize;
use url::Url;

use crate::digest::Digest;
use crate::fetch::{Client, FetchError, Headers, Index};
use crate::python::{ProjectName, Version, WheelName};

/// Largest page; the longest histories take a tenth of it.
const LARGEST: u64 = 64 << 20;
const ACCEPT: &str = "application/vnd.pypi.simple.v1+json, text/html;q=0.1";

/// A file that an index has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IndexFile {
    pub name: String,
    pub url: Url,
    pub digest: Option<Digest>,
    pub yanked: bool,
}

#[derive(Deserialize)]
struct Page {
    files: Vec<PageFile>,
}

#[derive(Deserialize)]
struct PageFile {
    filename: String,
    url: String,
    #[serde(default)]
    hashes: BTreeMap<String, String>,
    #[serde(default)]
    yanked: serde_json::Value,
}

/// The files of a project at an index; none where the index does not know it.
pub(super) fn read_page(
    client: &Client,
    index: &Index,
    project: &ProjectName,
) -> Result<Vec<IndexFile>, FetchError> {
    let url = index.url.join(&format!("{project}/")).unwrap_or_else(|_| index.url.clone());
    let headers = Headers {
        accept: Some(ACCEPT.to_owned()),
        login: index.authorization().into(),
        form: None,
    };
    let label = format!("project `{project}`");
    let page = match client.get_with(&label, &[url], &headers, LARGEST) {
        Err(error) if error.is_gone() => return Ok(Vec::new()),
        result => result?,
    };
    let base = Url::parse(&page.url).unwrap_or_else(|_| index.url.clone());
    let text = String::from_utf8_lossy(&page.bytes);
    Ok(parse_page(&text, &base))
}

fn parse_page(text: &str, base: &Url) -> Vec<IndexFile> {
    let Ok(page) = serde_json::from_str::<Page>(text) else { return parse_html(text, base) };
    let file = |file: PageFile| {
        let hex = file.hashes.get("sha256");
        Some(IndexFile {
            url: base.join(&file.url).ok()?,
            digest: hex.and_then(|hex| Digest::parse_hex(hex).ok()),
            yanked: !matches!(
                file.yanked,
                serde_json::Value::Null | serde_json::Value::Bool(false)
            ),
            name: file.filename,
        })
    };
    page.files.into_iter().filter_map(file).collect()
}

/// `<a href="URL#sha256=…" data-yanked="…">NAME</a>`.
fn parse_html(text: &str, base: &Url) -> Vec<IndexFile> {
    let anchor = |part: &str| {
        let (tag, rest) = part.split_once('>')?;
        let name = rest.split('<').next()?.trim();
        let href = tag.split_once("href=")?.1;
        let quote = href.chars().next().filter(|c| ['"', '\''].contains(c))?;
        let href = href[1..].split(quote).next()?.replace("&amp;", "&");
        let mut url = base.join(&href).ok()?;
        let digest = url.fragment().and_then(|text| text.strip_prefix("sha256="));
        let digest = digest.and_then(|hex| Digest::parse_hex(hex).ok());
        url.set_fragment(None);
        Some(IndexFile { name: name.to_owned(), url, digest, yanked: tag.contains("data-yanked") })
    };
    text.split("<a ").skip(1).filter_map(anchor).collect()
}

/// A version of a project, as far as an installer can use it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Release {
    pub wheel: bool,
    /// Whether every file of it is withdrawn.
    pub yanked: bool,
}

/// The versions that files are of, the newest last.
pub(super) fn releases(
    files: &[IndexFile],
    project: &ProjectName,
) -> BTreeMap<Version, (String, Release)> {
    let mut all: BTreeMap<Version, (String, Release)> = BTreeMap::new();
    for file in files {
        let wheel: Option<WheelName> = file.name.parse().ok();
        let version = match &wheel {
            Some(wheel) => Some(wheel.version.to_string()),
            None => sdist_version(&file.name, project),
        };
        let Some(text) = version else { continue };
        let Ok(version) = text.parse() else { continue };
        let entry = all.entry(version);
        let (_, release) = entry.or_insert_with(|| (text, Release { wheel: false, yanked: true }));
        release.wheel |= wheel.is_some();
        release.yanked &= file.yanked;
    }
    all
}

fn sdist_version(name: &str, project: &ProjectName) -> Option<String> {
    let stem =
        [".tar.gz", ".zip", ".tar.bz2", ".tgz"].iter().find_map(|end| name.strip_suffix(end))?;
    let dashes = stem.match_indices('-').map(|(at, _)| at);
    dashes
        .filter(|at| stem[..*at].parse().ok().as_ref() == Some(project))
        .map(|at| stem[at + 1..].to_owned())
        .next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_page_say_the_same() {
        let hex = Digest::of(b"x").hex();
        let json = format!(
            r#"{{"files":[{{"filename":"a_b-1.0-py3-none-any.whl","url":"../f/w.whl","hashes":{{"sha256":"{hex}"}},"yanked":"broken"}},
            {{"filename":"a-b-2.0.tar.gz","url":"https://h.example.org/s","hashes":{{}},"yanked":false}}]}}"#
        );
        let html = format!(
            "<html><a href='../f/w.whl#sha256={hex}' data-yanked='broken'>a_b-1.0-py3-none-any.whl</a>\
             <a href=\"https://h.example.org/s\">a-b-2.0.tar.gz</a></html>"
        );
        let base = Url::parse("https://i.example.org/simple/a-b/").unwrap();
        let files = parse_page(&json, &base);
        assert_eq!(parse_page(&html, &base), files);
        assert_eq!(files[0].url.as_str(), "https://i.example.org/simple/f/w.whl");
        let releases: Vec<_> = releases(&files, &"a-b".parse().unwrap()).into_values().collect();
        assert_eq!(releases[0], ("1.0".into(), Release { wheel: true, yanked: true }));
        assert_eq!(releases[1], ("2.0".into(), Release { wheel: false, yanked: false }));
    }
}
