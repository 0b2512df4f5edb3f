//! Where apt in the image looks for packages: always the public archives, whatever mirror the build
//! was fetched from (sources.list(5), deb822 style).

use std::fs;
use std::path::Path;

use crate::fsx::{IoAt, PathIo};

/// One archive as apt is to know it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct AptSource {
    /// File name below `/etc/apt/sources.list.d`, without `.sources`.
    pub name: String,
    pub stanzas: Vec<AptStanza>,
}

/// One stanza of a `.sources` file.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct AptStanza {
    pub uri: String,
    pub suites: Vec<String>,
    pub components: Vec<String>,
    /// Path of the keyring in the image.
    pub signed_by: String,
}

impl AptSource {
    pub fn text(&self) -> String {
        let stanza = |stanza: &AptStanza| {
            let AptStanza { uri, suites, components, signed_by } = stanza;
            let (suites, components) = (suites.join(" "), components.join(" "));
            // a flat repository names a directory, which ends in `/`, and has no components
            let components = match components.is_empty() {
                true => String::new(),
                false => format!("Components: {components}\n"),
            };
            format!(
                "Types: deb\nURIs: {uri}\nSuites: {suites}\n{components}Signed-By: {signed_by}\n"
            )
        };
        self.stanzas.iter().map(stanza).collect::<Vec<_>>().join("\n")
    }
}

/// Lays sources and keyrings into an upper directory.
pub(super) fn write(
    sources: &[AptSource],
    keyrings: &[(String, Vec<u8>)],
    upper: &Path,
) -> Result<(), PathIo> {
    let put = |name: &str, bytes: &[u8]| {
        let path = upper.join(name.trim_start_matches('/'));
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).at("create", parent)?;
        }
        fs::write(&path, bytes).at("write", &path)
    };
    for source in sources {
        put(&format!("etc/apt/sources.list.d/{}.sources", source.name), source.text().as_bytes())?;
    }
    keyrings.iter().try_for_each(|(path, bytes)| put(path, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_written_as_deb822() {
        let stanza = |suites: &[&str]| AptStanza {
            uri: "http://archive.example.org/debian".into(),
            suites: suites.iter().map(|suite| suite.to_string()).collect(),
            components: vec!["main".into()],
            signed_by: "/usr/share/keyrings/x.gpg".into(),
        };
        let source = AptSource {
            name: "debian".into(),
            stanzas: vec![stanza(&["a", "a-updates"]), stanza(&["b"])],
        };
        insta::assert_snapshot!(source.text(), @r"
        Types: deb
        URIs: http://archive.example.org/debian
        Suites: a a-updates
        Components: main
        Signed-By: /usr/share/keyrings/x.gpg

        Types: deb
        URIs: http://archive.example.org/debian
        Suites: b
        Components: main
        Signed-By: /usr/share/keyrings/x.gpg
        ");
    }
}
