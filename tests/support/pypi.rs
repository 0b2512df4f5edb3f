//! A Python index of the tests' own (PEP 503, 691 and 700), over wheels that they make.

use std::collections::BTreeMap;
use std::io::Write;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sbx::digest::Digest;

use super::http::Server;

/// How an index writes its pages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Json,
    Html,
}

/// A file at an index.
struct File {
    name: String,
    digest: Digest,
    size: usize,
    uploaded: String,
    yanked: Option<String>,
    metadata: String,
}

/// An index below `/simple/`, whose files lie below `/files/`.
pub struct Index {
    pub server: Server,
    form: Form,
    projects: BTreeMap<String, Vec<File>>,
}

/// A wheel for every Python, or a source archive where there is none.
#[derive(Clone)]
pub struct Package {
    name: String,
    version: String,
    requires: Vec<String>,
    scripts: Vec<(String, String)>,
    files: Vec<(String, String)>,
    /// Further lines of its metadata.
    fields: Vec<String>,
    uploaded: String,
    yanked: Option<String>,
    sdist: bool,
    tag: String,
}

impl Package {
    pub fn new(name: &str, version: &str) -> Self {
        Package {
            name: name.to_owned(),
            version: version.to_owned(),
            requires: Vec::new(),
            scripts: Vec::new(),
            files: vec![(
                format!("{}/__init__.py", in_files(name)),
                format!("version = {version:?}\n"),
            )],
            fields: Vec::new(),
            uploaded: "2025-01-01T00:00:00Z".to_owned(),
            yanked: None,
            sdist: false,
            tag: "py3-none-any".to_owned(),
        }
    }

    pub fn requires(mut self, requirement: &str) -> Self {
        self.requires.push(requirement.to_owned());
        self
    }

    /// A line of its metadata.
    pub fn field(mut self, line: &str) -> Self {
        self.fields.push(line.to_owned());
        self
    }

    pub fn script(mut self, name: &str, function: &str) -> Self {
        self.scripts.push((name.to_owned(), function.to_owned()));
        self
    }

    pub fn file(mut self, path: &str, text: &str) -> Self {
        self.files.push((path.to_owned(), text.to_owned()));
        self
    }

    /// `2025-07-01`.
    pub fn uploaded(mut self, day: &str) -> Self {
        self.uploaded = format!("{day}T00:00:00Z");
        self
    }

    pub fn yanked(mut self, why: &str) -> Self {
        self.yanked = Some(why.to_owned());
        self
    }

    pub fn source_only(mut self) -> Self {
        self.sdist = true;
        self
    }

    /// For this Python and platform alone: `cp312-cp312-win_amd64`.
    pub fn tag(mut self, tag: &str) -> Self {
        self.tag = tag.to_owned();
        self
    }

    fn metadata(&self) -> String {
        let mut text =
            format!("Metadata-Version: 2.1\nName: {}\nVersion: {}\n", self.name, self.version);
        for line in &self.fields {
            text += &format!("{line}\n");
        }
        for requirement in &self.requires {
            text += &format!("Requires-Dist: {requirement}\n");
        }
        text
    }

    fn bytes(&self) -> Vec<u8> {
        let stem = format!("{}-{}", in_files(&self.name), self.version);
        let info = format!("{stem}.dist-info");
        let mut members = self.files.clone();
        members.push((format!("{info}/METADATA"), self.metadata()));
        let wheel = format!(
            "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {}\n",
            self.tag
        );
        members.push((format!("{info}/WHEEL"), wheel));
        if !self.scripts.is_empty() {
            let lines =
                self.scripts.iter().map(|(name, function)| format!("{name} = {function}\n"));
            let text = format!("[console_scripts]\n{}", lines.collect::<String>());
            members.push((format!("{info}/entry_points.txt"), text));
        }
        let mut record = String::new();
        for (path, text) in &members {
            let digest = BASE64_URL_SAFE_NO_PAD.encode(Digest::of(text.as_bytes()).as_bytes());
            record += &format!("{path},sha256={digest},{}\n", text.len());
        }
        record += &format!("{info}/RECORD,,\n");
        members.push((format!("{info}/RECORD"), record));
        let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        let options = zip::write::SimpleFileOptions::default();
        for (path, text) in &members {
            zip.start_file(path, options).unwrap();
            zip.write_all(text.as_bytes()).unwrap();
        }
        zip.finish().unwrap().into_inner()
    }

    fn file_name(&self) -> String {
        let stem = format!("{}-{}", in_files(&self.name), self.version);
        if self.sdist { format!("{stem}.tar.gz") } else { format!("{stem}-{}.whl", self.tag) }
    }
}

fn in_files(name: &str) -> String {
    name.to_lowercase().replace(['-', '.'], "_")
}

fn normal(name: &str) -> String {
    name.to_lowercase().replace(['_', '.'], "-")
}

impl Index {
    pub fn start(form: Form) -> Self {
        Index { server: Server::start(), form, projects: BTreeMap::new() }
    }

    /// With these packages.
    pub fn of(packages: impl IntoIterator<Item = Package>) -> Self {
        let mut index = Index::start(Form::Json);
        packages.into_iter().for_each(|package| index.add(package));
        index
    }

    pub fn add(&mut self, package: Package) {
        let (name, bytes) = (package.file_name(), package.bytes());
        let file = File {
            digest: Digest::of(&bytes),
            size: bytes.len(),
            uploaded: package.uploaded.clone(),
            yanked: package.yanked.clone(),
            metadata: package.metadata(),
            name: name.clone(),
        };
        self.server.put(&format!("/files/{name}"), bytes);
        self.server.put(&format!("/files/{name}.metadata"), file.metadata.clone());
        let project = normal(&package.name);
        self.projects.entry(project.clone()).or_default().push(file);
        self.server.put(&format!("/simple/{project}/"), self.page(&project));
    }

    /// What it answers for a project.
    pub fn page(&self, project: &str) -> String {
        match self.form {
            Form::Json => json(project, &self.projects[project]),
            Form::Html => html(&self.projects[project]),
        }
    }

    /// Its address, for a variable of pip's or uv's.
    pub fn url(&self) -> String {
        self.server.url("/simple/").to_string()
    }

    /// Likewise, with a user.
    pub fn url_as(&self, user: &str, password: &str) -> String {
        let mut url = self.server.url("/simple/");
        url.set_username(user).unwrap();
        url.set_password(Some(password)).unwrap();
        url.to_string()
    }

    /// Downloads of the files of a project, not counting their metadata.
    pub fn downloads(&self, name: &str) -> usize {
        let start = format!("/files/{}-", in_files(name));
        let paths = self.server.requests().into_iter().map(|request| request.path());
        paths.filter(|path| path.starts_with(&start) && !path.ends_with(".metadata")).count()
    }
}

fn json(project: &str, files: &[File]) -> String {
    let file = |file: &File| {
        let yanked =
            file.yanked.as_ref().map_or(serde_json::Value::Bool(false), |why| why.as_str().into());
        serde_json::json!({
            "filename": file.name, "url": format!("../../files/{}", file.name), "size": file.size,
            "hashes": {"sha256": file.digest.hex()}, "upload-time": file.uploaded, "yanked": yanked,
            "core-metadata": {"sha256": Digest::of(file.metadata.as_bytes()).hex()},
        })
    };
    serde_json::json!({
        "meta": {"api-version": "1.1"}, "name": project,
        "files": files.iter().map(file).collect::<Vec<_>>(),
    })
    .to_string()
}

fn html(files: &[File]) -> String {
    let anchor = |file: &File| {
        let yanked =
            file.yanked.as_ref().map(|why| format!(" data-yanked=\"{why}\"")).unwrap_or_default();
        let (name, hex) = (&file.name, file.digest.hex());
        format!("<a href=\"../../files/{name}#sha256={hex}\"{yanked}>{name}</a><br>\n")
    };
    format!(
        "<!DOCTYPE html><html><body>{}</body></html>",
        files.iter().map(anchor).collect::<String>()
    )
}
