//! Wheels: what one holds, and where each file of it goes (the binary distribution format).
//!
//! A wheel is unpacked into one place, the directory of packages, but for what lies below its
//! `.data`: scripts, headers and data have places of their own. Its RECORD lists every file with its
//! digest; each digest is checked while the file is written, and a file that the RECORD does not have,
//! or one that is not there, ends the installation. Case twins are refused: on other file systems they
//! are one file.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;

use super::entry_points::{self, shebang};
use super::interpreter::Interpreter;
use super::name::WheelName;
use super::record::{self, Line, hash_text};
use crate::digest::{Digest, Hasher};
use crate::path::{LayerPath, PathError};
use crate::zipfile::{Member, ZipFile, ZipFileError};

/// Who installed it, as pip and others ask.
pub(super) const INSTALLER: &str = "sbx";

/// Why a wheel cannot be installed.
#[derive(Debug, thiserror::Error)]
pub enum WheelError {
    #[error(transparent)]
    Archive(#[from] ZipFileError),
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("its bytes are damaged: expected {expected}, found {found}")]
    Corrupt { expected: Digest, found: Digest },
    #[error("it has {0}")]
    Layout(String),
    #[error("its file name says `{said}`, its metadata `{found}`")]
    Name { said: String, found: String },
    #[error("its format is {0}, expected 1.x")]
    Format(String),
    #[error("its RECORD {0}")]
    Record(String),
    #[error("its RECORD says {expected} of `{path}`, whose digest is {found}")]
    Digest { path: String, expected: String, found: String },
    #[error("`{0}` is no command of an entry_points.txt")]
    EntryPoint(String),
    #[error("`{one}` and `{two}` differ in case only")]
    CaseTwins { one: String, two: String },
    #[error("`{0}` would lie outside of what a wheel may bring")]
    Place(String),
}

/// Where an environment has things, and what starts its programs.
#[derive(Clone, Debug)]
pub struct Place {
    /// The directory of the environment.
    pub prefix: LayerPath,
    /// `lib/python3.13/site-packages`, below it.
    pub packages: String,
    /// `include/site/python3.13`, below it.
    pub include: String,
    /// Absolute path of its Python.
    pub python: String,
}

impl Place {
    /// A virtual environment.
    pub fn new(prefix: &LayerPath, interpreter: &Interpreter) -> Self {
        let called = interpreter.called();
        Place {
            prefix: prefix.clone(),
            packages: format!("lib/{called}/site-packages"),
            include: format!("include/site/{called}"),
            python: format!("{prefix}/bin/python"),
        }
    }

    /// A path below the environment as RECORD writes it: relative to the packages.
    pub(super) fn recorded(&self, below: &str) -> String {
        match below.strip_prefix(&self.packages).and_then(|rest| rest.strip_prefix('/')) {
            Some(inside) => inside.to_owned(),
            None => format!("{}{below}", "../".repeat(self.packages.split('/').count())),
        }
    }
}

/// An open wheel.
#[derive(Clone, Debug)]
pub struct Wheel {
    archive: ZipFile,
    members: Vec<Member>,
    /// `NAME-VERSION.dist-info`, as the wheel spells it.
    info: String,
    data: String,
    name: WheelName,
    /// Whether the packages are pure Python, for `.data` directories without a name.
    record: BTreeMap<String, Line>,
}

/// The bytes of an installed file.
#[derive(Clone, Debug)]
pub enum Body {
    /// A member of the wheel, by its number; its bytes are checked while they are read.
    Member(usize),
    /// Made while installing.
    Text(Vec<u8>),
}

/// A file of an installation.
#[derive(Clone, Debug)]
pub struct Installed {
    pub path: LayerPath,
    pub mode: u32,
    pub size: u64,
    pub body: Body,
}

impl Wheel {
    /// Opens a wheel and checks what can be checked without unpacking it.
    pub fn open(path: &Path, file_name: &str, expected: Digest) -> Result<Self, WheelError> {
        let mut hasher = Hasher::new();
        let opened = ZipFile::open(path, |bytes| hasher.update(bytes));
        let found = hasher.finish();
        // the store's fault before the wheel's
        if found != expected {
            match opened {
                Err(ZipFileError::Io(error)) => return Err(ZipFileError::Io(error).into()),
                _ => return Err(WheelError::Corrupt { expected, found }),
            }
        }
        let mut archive = opened?;
        let members = archive.members()?;
        check_twins(&members)?;
        let name: WheelName = file_name
            .parse()
            .map_err(|_| WheelError::Layout(format!("no wheel's name, `{file_name}`")))?;
        let info = find_info(&members, &name)?;
        let data = format!("{}.data", info.trim_end_matches(".dist-info"));
        let record = read_record(&mut archive, &members, &info)?;
        let mut wheel = Wheel { archive, members, info, data, name, record };
        wheel.check_metadata()?;
        Ok(wheel)
    }

    pub fn name(&self) -> &WheelName {
        &self.name
    }

    fn read_info(&mut self, file: &str) -> Result<Option<String>, WheelError> {
        let path = format!("{}/{file}", self.info);
        let Some(at) = self.members.iter().position(|member| member.name == path) else {
            return Ok(None);
        };
        match self.read_text(at)? {
            Some(text) => Ok(Some(text)),
            None => Err(WheelError::Layout(format!("a `{file}` that is not UTF-8"))),
        }
    }

    /// A member that is text, through the check of its digest.
    fn read_text(&mut self, at: usize) -> Result<Option<String>, WheelError> {
        let mut text = None;
        self.read_body(&Body::Member(at), |body| {
            let mut bytes = Vec::new();
            let read = body.read_to_end(&mut bytes);
            text = String::from_utf8(bytes).ok().filter(|_| read.is_ok());
            Ok::<_, WheelError>(())
        })?;
        Ok(text)
    }

    /// Its core metadata, as it is.
    pub fn metadata(&mut self) -> Result<String, WheelError> {
        let metadata = self.read_info("METADATA")?;
        metadata.ok_or_else(|| WheelError::Layout("no METADATA file".to_owned()))
    }

    fn check_metadata(&mut self) -> Result<(), WheelError> {
        let wheel = self.read_info("WHEEL")?;
        let wheel = wheel.ok_or_else(|| WheelError::Layout("no WHEEL file".to_owned()))?;
        let format = find_field(&wheel, "Wheel-Version").unwrap_or_default();
        if format.split('.').next() != Some("1") {
            return Err(WheelError::Format(format.to_owned()));
        }
        let metadata = self.metadata()?;
        let found = find_field(&metadata, "Name").unwrap_or_default();
        if found.parse().ok().as_ref() != Some(&self.name.project) {
            let said = self.name.project.to_string();
            return Err(WheelError::Name { said, found: found.to_owned() });
        }
        Ok(())
    }

    /// Everything that an installation has, RECORD last. What is not meant, by its path below the
    /// environment, is neither there nor in RECORD; what tells of the package itself always is.
    pub fn install(
        &mut self,
        place: &Place,
        is_meant: &dyn Fn(&Path) -> bool,
    ) -> Result<Vec<Installed>, WheelError> {
        let mut files = BTreeMap::new();
        let mut lines = Vec::new();
        let entry_points = self.read_info("entry_points.txt")?.unwrap_or_default();
        let points = entry_points::parse(&entry_points).map_err(WheelError::EntryPoint)?;
        for (at, member) in self.members.clone().iter().enumerate() {
            if member.name == format!("{}/RECORD", self.info) || self.is_signature(&member.name) {
                continue;
            }
            let Some((below, script)) = self.place_of(&member.name, place)? else { continue };
            if !member.name.starts_with(&format!("{}/", self.info)) && !is_meant(Path::new(&below))
            {
                continue;
            }
            let recorded = place.recorded(&below);
            let path = place.prefix.join(below.as_bytes())?;
            let rewritten = if script { self.rewritten(at, place)? } else { None };
            let (file, line) = match rewritten {
                Some(text) => made(path, recorded, text.into_bytes(), 0o755),
                None => {
                    let executable = script || member.executable;
                    let mode = if executable { 0o755 } else { 0o644 };
                    let known = self.record.get(&member.name);
                    let line = Line {
                        path: recorded,
                        hash: known.map(|line| line.hash.clone()).unwrap_or_default(),
                        size: member.size.to_string(),
                    };
                    (Installed { path, mode, size: member.size, body: Body::Member(at) }, line)
                }
            };
            files.insert(file.path.clone(), file);
            lines.push(line);
        }
        let mut put = |below: String, text: String, mode| -> Result<(), WheelError> {
            let path = place.prefix.join(below.as_bytes())?;
            let (file, line) = made(path, place.recorded(&below), text.into_bytes(), mode);
            // a command goes before a script of its name
            lines.retain(|other| other.path != line.path);
            files.insert(file.path.clone(), file);
            lines.push(line);
            Ok(())
        };
        for point in points.iter().filter(|point| is_meant(&Path::new("bin").join(&point.name))) {
            put(format!("bin/{}", point.name), point.script(&place.python), 0o755)?;
        }
        let info = format!("{}/{}", place.packages, self.info);
        put(format!("{info}/INSTALLER"), INSTALLER.to_owned(), 0o644)?;
        put(format!("{info}/REQUESTED"), String::new(), 0o644)?;
        let record = format!("{info}/RECORD");
        let own = Line { path: place.recorded(&record), hash: String::new(), size: String::new() };
        lines.retain(|line| line.path != own.path);
        lines.push(own);
        let path = place.prefix.join(record.as_bytes())?;
        let text = record::write(lines).into_bytes();
        let size = text.len() as u64;
        files.insert(path.clone(), Installed { path, mode: 0o644, size, body: Body::Text(text) });
        Ok(files.into_values().collect())
    }

    /// Signatures of a RECORD that is about to be another (PEP 427).
    fn is_signature(&self, name: &str) -> bool {
        ["RECORD.jws", "RECORD.p7s"].iter().any(|file| name == format!("{}/{file}", self.info))
    }

    /// Where a member goes below the environment, and whether it is a script.
    fn place_of(&self, name: &str, place: &Place) -> Result<Option<(String, bool)>, WheelError> {
        let refused = || WheelError::Place(name.to_owned());
        let inside = name.strip_prefix(&self.data).and_then(|rest| rest.strip_prefix('/'));
        let Some(inside) = inside else {
            return Ok(Some((format!("{}/{name}", place.packages), false)));
        };
        let (scheme, rest) = inside.split_once('/').ok_or_else(refused)?;
        Ok(Some(match scheme {
            "purelib" | "platlib" => (format!("{}/{rest}", place.packages), false),
            "scripts" if rest.contains('/') => return Err(refused()),
            "scripts" => (format!("bin/{rest}"), true),
            "headers" => (format!("{}/{}/{rest}", place.include, self.name.project), false),
            "data" if is_own(rest) => return Err(refused()),
            "data" => (rest.to_owned(), false),
            _ => return Err(refused()),
        }))
    }

    /// A script that is to be started by the environment's Python, with its first line.
    fn rewritten(&mut self, at: usize, place: &Place) -> Result<Option<String>, WheelError> {
        const MARK: &[u8] = b"#!python";
        let begins = self.archive.read::<_, ZipFileError>(&self.members[at], |stream, whole| {
            let mut bytes = Vec::new();
            let read = match whole {
                Some(whole) => return Ok(whole.starts_with(MARK)),
                None => stream.take(MARK.len() as u64).read_to_end(&mut bytes),
            };
            Ok(read.is_ok() && bytes == MARK)
        })?;
        if !begins {
            return Ok(None);
        }
        let text = self.read_text(at)?;
        let rewrite = |text: String| {
            let rest = text.split_once('\n').map_or("", |(_, rest)| rest);
            // what Python says of its own stays (`#!python -u`)
            format!("{}{rest}", shebang(&place.python))
        };
        Ok(text.map(rewrite))
    }

    /// Reads an installed file's bytes, which end in an error where they are not what RECORD says.
    pub fn read_body<T, E: From<WheelError>>(
        &mut self,
        body: &Body,
        take: impl FnOnce(&mut dyn Read) -> Result<T, E>,
    ) -> Result<T, E> {
        let at = match body {
            Body::Text(bytes) => return take(&mut &bytes[..]),
            Body::Member(at) => *at,
        };
        let member = &self.members[at];
        let expected = self.record.get(&member.name);
        let expected = expected.map(|line| line.hash.clone()).filter(|hash| !hash.is_empty());
        let check = |found: Digest| -> Result<(), WheelError> {
            let found = hash_text(&found);
            match &expected {
                Some(expected) if *expected != found => Err(WheelError::Digest {
                    path: member.name.clone(),
                    expected: expected.clone(),
                    found,
                }),
                _ => Ok(()),
            }
        };
        self.archive
            .read::<T, Raised<E>>(member, |stream, whole| {
                if let Some(bytes) = whole {
                    check(Digest::of(bytes)).map_err(|error| Raised(error.into()))?;
                    return take(&mut &bytes[..]).map_err(Raised);
                }
                let mut hashing = Hashing { inner: stream, hasher: Hasher::new() };
                let taken = take(&mut hashing).map_err(Raised)?;
                check(hashing.hasher.finish()).map_err(|error| Raised(error.into()))?;
                Ok(taken)
            })
            .map_err(|Raised(error)| error)
    }
}

/// An error of whoever takes the bytes, or of the archive.
struct Raised<E>(E);

impl<E: From<WheelError>> From<ZipFileError> for Raised<E> {
    fn from(error: ZipFileError) -> Self {
        Raised(WheelError::from(error).into())
    }
}

/// Hashes what is read through it.
struct Hashing<'a> {
    inner: &'a mut dyn Read,
    hasher: Hasher,
}

impl Read for Hashing<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        Ok(n)
    }
}

pub(super) fn made(
    path: LayerPath,
    recorded: String,
    bytes: Vec<u8>,
    mode: u32,
) -> (Installed, Line) {
    let line = Line {
        path: recorded,
        hash: hash_text(&Digest::of(&bytes)),
        size: bytes.len().to_string(),
    };
    (Installed { path, mode, size: bytes.len() as u64, body: Body::Text(bytes) }, line)
}

/// Whether data would take the place of what makes the environment one.
fn is_own(path: &str) -> bool {
    let python = |name: &str| {
        name.strip_prefix("python")
            .is_some_and(|rest| rest.bytes().all(|c| c == b'.' || c.is_ascii_digit()))
    };
    path == "pyvenv.cfg"
        || path == "lib64"
        || path.starts_with("lib64/")
        || path.strip_prefix("bin/").is_some_and(python)
}

/// The value of a field of a METADATA or WHEEL file.
fn find_field<'t>(text: &'t str, field: &str) -> Option<&'t str> {
    let head = text.split("\n\n").next().unwrap_or_default();
    head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case(field).then(|| value.trim())
    })
}

/// Two names that a file system without case takes for one, in any of their parts.
fn check_twins(members: &[Member]) -> Result<(), WheelError> {
    let mut spelled: BTreeMap<String, &str> = BTreeMap::new();
    for member in members {
        let ends = member.name.match_indices('/').map(|(at, _)| at).chain([member.name.len()]);
        for end in ends {
            let name = &member.name[..end];
            match spelled.insert(name.to_lowercase(), name) {
                Some(other) if other != name => {
                    let (one, two) = (other.to_owned(), name.to_owned());
                    return Err(WheelError::CaseTwins { one, two });
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// The wheel's one `.dist-info` directory, whatever its writer thinks of dots and case.
fn find_info(members: &[Member], name: &WheelName) -> Result<String, WheelError> {
    let first = |member: &Member| member.name.split_once('/').map(|(first, _)| first.to_owned());
    let found: BTreeSet<String> =
        members.iter().filter_map(first).filter(|dir| dir.ends_with(".dist-info")).collect();
    let mut found = found.into_iter();
    let (info, None) = (found.next(), found.next()) else {
        return Err(WheelError::Layout("more than one .dist-info directory".to_owned()));
    };
    let info = info.ok_or_else(|| WheelError::Layout("no .dist-info directory".to_owned()))?;
    let project = info.trim_end_matches(".dist-info").rsplit_once('-').map(|(project, _)| project);
    match project.and_then(|project| project.parse().ok()) {
        Some(project) if name.project == project => Ok(info),
        _ => Err(WheelError::Name { said: name.project.to_string(), found: info }),
    }
}

/// RECORD by path, once it is sure that it lists every file and no other.
fn read_record(
    archive: &mut ZipFile,
    members: &[Member],
    info: &str,
) -> Result<BTreeMap<String, Line>, WheelError> {
    let path = format!("{info}/RECORD");
    let member = members.iter().find(|member| member.name == path);
    let member = member.ok_or_else(|| WheelError::Layout("no RECORD".to_owned()))?;
    let lines = record::parse(&archive.text(member)?)
        .ok_or_else(|| WheelError::Record("is damaged".to_owned()))?;
    let mut record: BTreeMap<String, Line> = BTreeMap::new();
    for line in lines {
        let known = record.insert(line.path.clone(), line.clone());
        if known.is_some_and(|known| known != line) {
            return Err(WheelError::Record(format!("lists `{}` twice", line.path)));
        }
    }
    let unhashed = [path.clone(), format!("{path}.jws"), format!("{path}.p7s")];
    let sizes: BTreeMap<&str, u64> =
        members.iter().map(|member| (&*member.name, member.size)).collect();
    for (name, size) in &sizes {
        let Some(line) = record.get(*name) else {
            if unhashed.iter().any(|known| known == name) {
                continue;
            }
            return Err(WheelError::Record(format!("does not list `{name}`")));
        };
        if !unhashed.contains(&line.path) && !line.hash.starts_with("sha256=") {
            let reason = match line.hash.split_once('=') {
                None => format!("has no digest of `{name}`"),
                Some((kind, _)) => format!("has a digest of `{name}` that is no sha256 but {kind}"),
            };
            return Err(WheelError::Record(reason));
        }
        if !line.size.is_empty() && line.size.parse() != Ok(*size) {
            let said = &line.size;
            return Err(WheelError::Record(format!(
                "says {said} bytes of `{name}`, which has {size}"
            )));
        }
    }
    // directories are listed by some, and are nothing
    let absent = record.keys().find(|path| {
        !path.ends_with('/') && !sizes.contains_key(path.as_str()) && !unhashed.contains(path)
    });
    match absent {
        Some(path) => Err(WheelError::Record(format!("lists `{path}`, which is not there"))),
        None => Ok(record),
    }
}
