//! Builds `.deb` files byte by byte: sound ones as `dpkg-deb` would, and such as it would refuse to.

use std::io::Write;

use md5::{Digest as _, Md5};

/// How members are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Xz,
    Zstd,
    Bzip2,
}

impl Compression {
    pub fn ending(self) -> &'static str {
        match self {
            Compression::None => "",
            Compression::Gzip => ".gz",
            Compression::Xz => ".xz",
            Compression::Zstd => ".zst",
            Compression::Bzip2 => ".bz2",
        }
    }

    pub fn apply(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Compression::None => bytes.to_vec(),
            Compression::Gzip => {
                let mut encoder =
                    flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            Compression::Xz => {
                let mut encoder = liblzma::write::XzEncoder::new(vec![], 1);
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            Compression::Zstd => zstd::encode_all(bytes, 1).unwrap(),
            Compression::Bzip2 => {
                let mut encoder = bzip2::write::BzEncoder::new(vec![], bzip2::Compression::fast());
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
        }
    }
}

/// What a member of a tar is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    File(Vec<u8>),
    Dir,
    Symlink(String),
    /// To the name of another member, as written.
    Hardlink(String),
    /// Character device of these numbers.
    Device(u32, u32),
    Fifo,
}

/// One member of a tar: its name is written as it stands, whatever it says.
#[derive(Clone, Debug)]
pub struct Member {
    name: String,
    what: What,
    mode: u32,
    owner: (u32, u32),
}

impl Member {
    fn new(name: &str, what: What, mode: u32) -> Self {
        Member { name: name.to_owned(), what, mode, owner: (0, 0) }
    }

    pub fn file(name: &str, bytes: impl Into<Vec<u8>>) -> Self {
        Self::new(name, What::File(bytes.into()), 0o644)
    }

    pub fn dir(name: &str) -> Self {
        Self::new(name, What::Dir, 0o755)
    }

    pub fn symlink(name: &str, target: &str) -> Self {
        Self::new(name, What::Symlink(target.to_owned()), 0o777)
    }

    pub fn hardlink(name: &str, target: &str) -> Self {
        Self::new(name, What::Hardlink(target.to_owned()), 0o644)
    }

    pub fn device(name: &str, major: u32, minor: u32) -> Self {
        Self::new(name, What::Device(major, minor), 0o600)
    }

    pub fn fifo(name: &str) -> Self {
        Self::new(name, What::Fifo, 0o600)
    }

    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        self.owner = (uid, gid);
        self
    }

    fn write(&self, out: &mut Vec<u8>) {
        if self.name.len() > 100 {
            let long = [self.name.as_bytes(), b"\0"].concat();
            header("././@LongLink", tar::EntryType::GNULongName, &long, 0o644, (0, 0), out);
            put_body(&long, out);
        }
        let empty: &[u8] = b"";
        let (kind, body, link) = match &self.what {
            What::File(bytes) => (tar::EntryType::Regular, &bytes[..], ""),
            What::Dir => (tar::EntryType::Directory, empty, ""),
            What::Symlink(target) => (tar::EntryType::Symlink, empty, &target[..]),
            What::Hardlink(target) => (tar::EntryType::Link, empty, &target[..]),
            What::Device(..) => (tar::EntryType::Char, empty, ""),
            What::Fifo => (tar::EntryType::Fifo, empty, ""),
        };
        let at = out.len();
        header(&self.name, kind, body, self.mode, self.owner, out);
        if let What::Device(major, minor) = self.what {
            patch(&mut out[at..], |header| {
                header.set_device_major(major).unwrap();
                header.set_device_minor(minor).unwrap();
            });
        }
        patch(&mut out[at..], |header| {
            let field = &mut header.as_old_mut().linkname;
            field[..link.len()].copy_from_slice(link.as_bytes());
        });
        put_body(body, out);
    }
}

fn header(
    name: &str,
    kind: tar::EntryType,
    body: &[u8],
    mode: u32,
    owner: (u32, u32),
    out: &mut Vec<u8>,
) {
    let mut header = tar::Header::new_gnu();
    let shown = &name.as_bytes()[..name.len().min(100)];
    header.as_old_mut().name[..shown.len()].copy_from_slice(shown);
    header.set_entry_type(kind);
    header.set_size(body.len() as u64);
    header.set_mode(mode);
    header.set_uid(owner.0.into());
    header.set_gid(owner.1.into());
    header.set_mtime(1_600_000_000);
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
}

fn patch(bytes: &mut [u8], change: impl FnOnce(&mut tar::Header)) {
    let mut header = tar::Header::from_byte_slice(&bytes[..512]).clone();
    change(&mut header);
    header.set_cksum();
    bytes[..512].copy_from_slice(header.as_bytes());
}

fn put_body(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(bytes);
    out.resize(out.len().next_multiple_of(512), 0);
}

/// A tar of these members, in their order.
pub fn tar_of<'a>(members: impl IntoIterator<Item = &'a Member>) -> Vec<u8> {
    let mut out = Vec::new();
    members.into_iter().for_each(|member| member.write(&mut out));
    out.extend_from_slice(&[0; 1024]);
    out
}

/// An ar archive of these members.
pub fn ar_of(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = ar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let mut header = ar::Header::new(name.as_bytes().to_vec(), bytes.len() as u64);
        header.set_mode(0o100_644);
        builder.append(&header, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A package in the making.
#[derive(Clone, Debug)]
pub struct Deb {
    pub name: String,
    pub version: String,
    pub arch: String,
    fields: Vec<(String, String)>,
    members: Vec<Member>,
    control: Vec<(String, Vec<u8>)>,
    compression: Compression,
}

impl Deb {
    pub fn new(name: &str, version: &str) -> Self {
        Deb {
            name: name.to_owned(),
            version: version.to_owned(),
            arch: "amd64".to_owned(),
            fields: vec![],
            members: vec![],
            control: vec![],
            compression: Compression::Gzip,
        }
    }

    pub fn arch(mut self, arch: &str) -> Self {
        self.arch = arch.to_owned();
        self
    }

    pub fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn depends(self, value: &str) -> Self {
        self.field("Depends", value)
    }

    pub fn file(self, path: &str, text: &str) -> Self {
        self.member(Member::file(&dotted(path), text))
    }

    pub fn program(self, path: &str, text: &str) -> Self {
        self.member(Member::file(&dotted(path), text).mode(0o755))
    }

    pub fn conffile(self, path: &str, text: &str) -> Self {
        let line = format!("{path}\n");
        self.file(path, text).control("conffiles", &line)
    }

    pub fn dir(self, path: &str, mode: u32) -> Self {
        self.member(Member::dir(&format!("{}/", dotted(path))).mode(mode))
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.member(Member::symlink(&dotted(path), target))
    }

    pub fn hardlink(self, path: &str, other: &str) -> Self {
        self.member(Member::hardlink(&dotted(path), &dotted(other)))
    }

    /// Gives the last member to somebody, with a mode.
    pub fn owned(mut self, uid: u32, gid: u32, mode: u32) -> Self {
        let last = self.members.pop().expect("`owned` follows a member");
        self.members.push(last.owner(uid, gid).mode(mode));
        self
    }

    /// A member as it stands, however hostile.
    pub fn member(mut self, member: Member) -> Self {
        self.members.push(member);
        self
    }

    /// `preinst`, `postinst`, `triggers`, …; what was there is continued.
    pub fn control(self, name: &str, text: &str) -> Self {
        self.control_bytes(name, text.as_bytes())
    }

    pub fn control_bytes(mut self, name: &str, bytes: &[u8]) -> Self {
        match self.control.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => old.extend_from_slice(bytes),
            None => self.control.push((name.to_owned(), bytes.to_vec())),
        }
        self
    }

    /// A maintainer script: `set -e` and this.
    pub fn script(self, name: &str, text: &str) -> Self {
        self.control(name, &format!("#!/bin/sh\nset -e\n{text}\n"))
    }

    pub fn compressed(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// The stanza, as it stands in `control`.
    pub fn stanza(&self) -> String {
        let fields: String =
            self.fields.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
        format!(
            "Package: {}\nVersion: {}\nArchitecture: {}\nMaintainer: Tests <tests@example.org>\n{fields}Description: made by a test\n",
            self.name, self.version, self.arch
        )
    }

    /// The name of its file in a pool: without the version's epoch.
    pub fn file_name(&self) -> String {
        let version = self.version.split_once(':').map_or(&*self.version, |(_, rest)| rest);
        format!("{}_{version}_{}.deb", self.name, self.arch)
    }

    /// The package's bytes.
    pub fn build(&self) -> Vec<u8> {
        self.assemble(&tar_of(&self.control_members()), &tar_of(&self.data_members()))
    }

    /// A package of these two tars, whatever they hold.
    pub fn assemble(&self, control: &[u8], data: &[u8]) -> Vec<u8> {
        let names =
            ["control.tar", "data.tar"].map(|name| format!("{name}{}", self.compression.ending()));
        let [control, data] = [control, data].map(|tar| self.compression.apply(tar));
        ar_of(&[("debian-binary", b"2.0\n"), (&names[0], &control), (&names[1], &data)])
    }

    /// `control`, `md5sums` and the rest.
    pub fn control_members(&self) -> Vec<Member> {
        let scripts = ["preinst", "postinst", "prerm", "postrm", "config"];
        let mut members = vec![Member::dir("./"), Member::file("./control", self.stanza())];
        let sums = self.md5sums();
        if !sums.is_empty() && self.control.iter().all(|(name, _)| name != "md5sums") {
            members.push(Member::file("./md5sums", sums));
        }
        for (name, bytes) in &self.control {
            let mode = if scripts.contains(&name.as_str()) { 0o755 } else { 0o644 };
            members.push(Member::file(&format!("./{name}"), &bytes[..]).mode(mode));
        }
        members
    }

    /// As debhelper writes it: without configuration files.
    fn md5sums(&self) -> String {
        let conffiles = self.control.iter().find(|(name, _)| name == "conffiles");
        let conffiles = conffiles.map(|(_, bytes)| String::from_utf8_lossy(bytes).into_owned());
        let is_conffile = |name: &str| {
            conffiles.iter().flat_map(|text| text.lines()).any(|line| line == &name[1..])
        };
        let line = |member: &Member| match &member.what {
            What::File(bytes) if member.name.starts_with("./") && !is_conffile(&member.name) => {
                let sum = Md5::digest(bytes);
                let hex: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
                Some(format!("{hex}  {}\n", &member.name[2..]))
            }
            _ => None,
        };
        self.members.iter().filter_map(line).collect()
    }

    /// The members, each sound one after the directories it lies in.
    pub fn data_members(&self) -> Vec<Member> {
        let mut all = vec![Member::dir("./")];
        for member in &self.members {
            let trimmed = member.name.trim_end_matches('/');
            let sound = trimmed.starts_with("./") && !trimmed.contains("..");
            let inner = trimmed.match_indices('/').map(|(at, _)| format!("{}/", &trimmed[..at]));
            for dir in inner.filter(|_| sound) {
                let declared = self.members.iter().any(|other| other.name == dir);
                let link = self.members.iter().any(|other| format!("{}/", other.name) == dir);
                if !declared && !link && all.iter().all(|known| known.name != dir) {
                    all.push(Member::dir(&dir));
                }
            }
            all.push(member.clone());
        }
        all
    }
}

/// `/usr/bin/x` → `./usr/bin/x`.
fn dotted(path: &str) -> String {
    format!("./{}", path.trim_start_matches('/'))
}
