//! The content of a debian layer: many `.deb`s, one delta.
//!
//! Pure: what comes out depends on the packages' bytes alone. Paths below the merged directories
//! (`/bin`, `/lib` …) and below `/var/run` are laid where the links lead; who gets a path that two
//! packages ship is decided by `Replaces`. Packages whose preinst diverts with `--rename` are left to
//! the settle, where dpkg unpacks them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Mutex;

use md5::{Digest as _, Md5};
use rayon::prelude::*;

use super::assembly::{Assembly, AssemblyError, member_entry};
use super::listing::Listing;
use super::settle::replaces;
use crate::blame::Blame;
use crate::debian::archive::{Control, Deb, DebError};
use crate::debian::database::{find_field, info_name};
use crate::debian::path_filter::{CONFIGURATION, PathFilter};
use crate::digest::{Digest, Hasher};
use crate::entry::{Claim, Entry, Kind, Meta};
use crate::fsx::{IoAt, PathIo};
use crate::path::LayerPath;
use crate::tarball::{Member, MemberKind};

/// Most bytes that one package may unpack to.
const LARGEST_PACKAGE: u64 = 16 << 30;

/// A package to lay.
#[derive(Clone, Debug)]
pub struct Package {
    /// `bash 5.2.37-2`, for messages.
    pub label: String,
    pub blob: PathBuf,
    pub digest: Digest,
}

/// Why content cannot be laid.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    #[error(transparent)]
    Io(#[from] PathIo),
    #[error("package `{package}`: {source}")]
    Deb { package: String, source: DebError },
    #[error("package `{package}`: {source}")]
    Layout { package: String, source: AssemblyError },
    #[error(transparent)]
    Assembly(#[from] AssemblyError),
    #[error(
        "package `{package}`: the store's bytes are damaged: expected {expected}, found {found}"
    )]
    Corrupt { package: String, expected: Digest, found: Digest },
    #[error("packages `{one}` and `{two}` both ship {path}, and neither replaces the other")]
    Clash { one: String, two: String, path: LayerPath },
}

impl ContentError {
    pub fn blame(&self) -> Blame {
        match self {
            ContentError::Clash { .. } => Blame::Input,
            _ => Blame::World,
        }
    }
}

/// Raised while a package streams; gets the package's name outside.
enum Streaming {
    Deb(DebError),
    Layout(AssemblyError),
}

impl From<DebError> for Streaming {
    fn from(error: DebError) -> Self {
        Streaming::Deb(error)
    }
}

/// Whether a package's preinst renames other packages' files away: with its own content laid
/// beforehand, it would rename that.
pub fn diverts(control: &Control) -> bool {
    let script = control.find_file("preinst").unwrap_or_default();
    let renames = |line: &str| line.replace("--no-rename", "").contains("--rename");
    script.contains("dpkg-divert") && script.contains("--add") && script.lines().any(renames)
}

/// Where a path of a package lies in an image with merged directories.
pub fn merged(path: LayerPath, kind: MemberKind) -> LayerPath {
    const MERGED: &[(&[u8], &[u8])] = &[
        (b"bin", b"usr/bin"),
        (b"sbin", b"usr/sbin"),
        (b"lib", b"usr/lib"),
        (b"lib32", b"usr/lib32"),
        (b"lib64", b"usr/lib64"),
        (b"libo32", b"usr/libo32"),
        (b"libx32", b"usr/libx32"),
        (b"var/run", b"run"),
        (b"var/lock", b"run/lock"),
    ];
    for (link, target) in MERGED {
        let Some(rest) = path.as_bytes().strip_prefix(*link) else { continue };
        let below = rest.first() == Some(&b'/');
        let itself = rest.is_empty() && kind == MemberKind::Dir;
        if below || itself {
            let full = [*target, rest].concat();
            return LayerPath::parse_member(&full).unwrap_or(path);
        }
    }
    path
}

/// What one package brought.
struct Laid {
    control: Control,
    /// Absolute paths as the package names them, in its order.
    list: Vec<String>,
    /// MD5 of its files by path, for a package that brings no `md5sums`.
    md5sums: String,
    diverts: bool,
}

/// Takes the MD5 of what is read through it.
struct Md5Reader<'a> {
    inner: &'a mut dyn std::io::Read,
    state: Md5,
}

impl std::io::Read for Md5Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.state.update(&buffer[..n]);
        Ok(n)
    }
}

/// Blames the store for an error where the package's bytes are not those that were locked.
fn or_corrupt(error: ContentError, package: &Package) -> ContentError {
    let found = File::open(&package.blob).and_then(|mut file| {
        let mut hasher = Hasher::new();
        std::io::copy(&mut file, &mut hasher)?;
        Ok(hasher.finish())
    });
    match found {
        Ok(found) if found != package.digest => {
            let (package, expected) = (package.label.clone(), package.digest);
            ContentError::Corrupt { package, expected, found }
        }
        _ => error,
    }
}

/// How packages are laid.
#[derive(Clone, Copy, Debug)]
pub struct Laying<'a> {
    /// Nothing lies below, so the merged directories' links are made, and dpkg is told the filter.
    pub fresh: bool,
    pub filter: &'a PathFilter,
}

/// Lays packages into the empty directory `tree` and writes the tar.
pub fn lay(
    packages: &[Package],
    laying: Laying<'_>,
    tree: &std::path::Path,
    tar: &mut dyn Write,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Listing, ContentError> {
    let assembly = Assembly::new(tree)?;
    // who comes first matters for nothing but the metadata of shared directories
    let mut order: Vec<&Package> = packages.iter().collect();
    order.sort_by_key(|package| (!package.label.starts_with("base-files "), package.label.clone()));
    // the largest first, so that no core waits for the last one
    let mut queue: Vec<(u32, &Package)> = (0..).zip(order.iter().copied()).collect();
    queue.sort_by_key(|(_, package)| {
        std::cmp::Reverse(std::fs::metadata(&package.blob).map(|meta| meta.len()).unwrap_or(0))
    });
    let laid: Mutex<BTreeMap<u32, Laid>> = Mutex::default();
    queue.into_par_iter().with_max_len(1).try_for_each(
        |(origin, package)| -> Result<(), ContentError> {
            let one = lay_package(origin, package, laying.filter, &assembly)
                .map_err(|error| or_corrupt(error, package))?;
            progress(&package.label);
            laid.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(origin, one);
            Ok(())
        },
    )?;
    let laid = laid.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let losers = judge_contests(&assembly, &laid, &order)?;
    for (origin, one) in laid.iter().filter(|(_, one)| !one.diverts) {
        put_info(*origin, one, losers.get(origin), &assembly)?;
    }
    if laying.fresh {
        put_links(&assembly)?;
        put_configuration(laying.filter, &assembly)?;
    }
    assembly.finish(|_, one, two| Ok(if losers_has(&laid, two, one) { one } else { two }), tar)
}

/// Whether `winner` replaces `loser`.
fn losers_has(laid: &BTreeMap<u32, Laid>, loser: u32, winner: u32) -> bool {
    match (laid.get(&winner), laid.get(&loser)) {
        (Some(winner), Some(loser)) => replaces(&winner.control.text, &loser.control.text),
        _ => false,
    }
}

fn lay_package(
    origin: u32,
    package: &Package,
    filter: &PathFilter,
    assembly: &Assembly,
) -> Result<Laid, ContentError> {
    let deb_error = |source| ContentError::Deb { package: package.label.clone(), source };
    let file = File::open(&package.blob).at("open", &package.blob)?;
    let deb = Deb::open(file).map_err(deb_error)?;
    let diverts = diverts(&deb.control);
    let mut list = Vec::new();
    // dpkg makes a missing one while it unpacks, and its audit complains of a package without
    let unsummed = !deb.control.files.contains_key("md5sums");
    let conffiles: BTreeSet<String> = deb.control.conffiles().map(str::to_owned).collect();
    let mut md5sums = String::new();
    let visit = |member: &Member, body: &mut dyn std::io::Read| -> Result<(), Streaming> {
        let path = LayerPath::parse_member(&member.path)
            .map_err(|error| Streaming::Layout(error.into()))?;
        list.push(if path.is_root() { "/.".to_owned() } else { path.to_string() });
        let kind = member.kind;
        let may_lead = matches!(kind, MemberKind::Dir | MemberKind::Symlink);
        if diverts || path.is_root() || !filter.keeps(&path.to_string(), may_lead) {
            return Ok(());
        }
        // base-files ships `/var/run` and `/var/lock` as directories, for its postinst to replace
        let is_var = path.as_bytes().starts_with(b"var/");
        let keep = package.label.starts_with("base-files ") && kind == MemberKind::Dir && is_var;
        let entry = member_entry(member, |path| if keep { path } else { merged(path, kind) });
        let entry = entry.map_err(Streaming::Layout)?;
        if !(unsummed && kind == MemberKind::File) {
            return assembly.put(origin, entry, body).map_err(Streaming::Layout);
        }
        let mut summing = Md5Reader { inner: body, state: Md5::new() };
        assembly.put(origin, entry, &mut summing).map_err(Streaming::Layout)?;
        let named = list.last().map(String::as_str).unwrap_or_default();
        if !conffiles.contains(named) {
            let sum: [u8; 16] = summing.state.finalize().into();
            let hex: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
            md5sums.push_str(&format!("{hex}  {}\n", named.trim_start_matches('/')));
        }
        Ok(())
    };
    let (control, found) = deb.read_data(LARGEST_PACKAGE, visit).map_err(|error| match error {
        Streaming::Deb(source) => deb_error(source),
        Streaming::Layout(source) => {
            ContentError::Layout { package: package.label.clone(), source }
        }
    })?;
    if found != package.digest {
        let (package, expected) = (package.label.clone(), package.digest);
        return Err(ContentError::Corrupt { package, expected, found });
    }
    Ok(Laid { control, list, md5sums, diverts })
}

/// Paths that each package loses to another of the same layer.
fn judge_contests(
    assembly: &Assembly,
    laid: &BTreeMap<u32, Laid>,
    order: &[&Package],
) -> Result<BTreeMap<u32, Vec<LayerPath>>, ContentError> {
    let mut losers: BTreeMap<u32, Vec<LayerPath>> = BTreeMap::new();
    for (path, origins) in assembly.contested() {
        for (at, one) in origins.iter().enumerate() {
            for two in &origins[at + 1..] {
                let loser = if losers_has(laid, *two, *one) {
                    two
                } else if losers_has(laid, *one, *two) {
                    one
                } else {
                    let name = |origin: u32| {
                        order.get(origin as usize).map(|p| p.label.clone()).unwrap_or_default()
                    };
                    return Err(ContentError::Clash { one: name(*one), two: name(*two), path });
                };
                losers.entry(*loser).or_default().push(path.clone());
            }
        }
    }
    Ok(losers)
}

/// The package's files in dpkg's info directory.
fn put_info(
    origin: u32,
    laid: &Laid,
    lost: Option<&Vec<LayerPath>>,
    assembly: &Assembly,
) -> Result<(), ContentError> {
    let name = info_name(&laid.control.text);
    let put = |suffix: &str, bytes: &[u8], mode: u32| -> Result<(), ContentError> {
        let path = LayerPath::parse_member(format!("var/lib/dpkg/info/{name}.{suffix}").as_bytes());
        let path = path.map_err(AssemblyError::from)?;
        let entry = Entry { path, meta: Meta::root(mode), kind: Kind::File(bytes.len() as u64) };
        Ok(assembly.put(origin, entry, &mut &bytes[..])?)
    };
    let is_lost = |path: &str| {
        let path = LayerPath::parse_absolute(path).ok();
        lost.is_some_and(|lost| path.is_some_and(|path| lost.contains(&path)))
    };
    let list: String =
        laid.list.iter().filter(|path| !is_lost(path)).map(|path| format!("{path}\n")).collect();
    put("list", list.as_bytes(), 0o644)?;
    if !laid.control.files.contains_key("md5sums") {
        put("md5sums", laid.md5sums.as_bytes(), 0o644)?;
    }
    for (suffix, (bytes, mode)) in &laid.control.files {
        put(suffix, bytes, *mode)?;
    }
    Ok(())
}

/// Links of the merged directories, where no package ships them (bookworm's do not).
fn put_links(assembly: &Assembly) -> Result<(), ContentError> {
    for name in ["bin", "lib", "lib64", "sbin"] {
        let path =
            |text: &str| LayerPath::parse_member(text.as_bytes()).map_err(AssemblyError::from);
        let (link, target) = (path(name)?, path(&format!("usr/{name}"))?);
        if assembly.has(&link) || !assembly.has_below(&target) {
            continue;
        }
        let kind = Kind::Symlink(target.as_bytes().into());
        let entry = Entry { path: link, meta: Meta::root(0o777), kind };
        assembly.put(u32::MAX, entry, &mut std::io::empty())?;
        if !assembly.has(&target) {
            let kind = Kind::Dir(Claim::Shipped);
            let entry = Entry { path: target, meta: Meta::root(0o755), kind };
            assembly.put(u32::MAX, entry, &mut std::io::empty())?;
        }
    }
    Ok(())
}

/// What dpkg is told of paths that are left out, where any are.
fn put_configuration(filter: &PathFilter, assembly: &Assembly) -> Result<(), ContentError> {
    if filter.is_empty() {
        return Ok(());
    }
    let path = LayerPath::parse_absolute(CONFIGURATION).map_err(AssemblyError::from)?;
    let bytes = filter.configuration().as_bytes();
    let entry = Entry { path, meta: Meta::root(0o644), kind: Kind::File(bytes.len() as u64) };
    Ok(assembly.put(u32::MAX, entry, &mut &bytes[..])?)
}

/// Reads the control archives of packages, for a settle.
pub fn read_controls(packages: &[Package]) -> Result<Vec<Control>, ContentError> {
    let read = |package: &Package| {
        let file = File::open(&package.blob).at("open", &package.blob)?;
        let deb = Deb::open(file)
            .map_err(|source| ContentError::Deb { package: package.label.clone(), source })?;
        let wanted = package.label.split(' ').next().unwrap_or_default();
        if find_field(&deb.control.text, "Package") != Some(wanted) {
            let message = "its control archive names another package".to_owned();
            return Err(ContentError::Deb {
                package: package.label.clone(),
                source: DebError::Format(message),
            });
        }
        Ok(deb.control)
    };
    packages.par_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(preinst: &str) -> Control {
        let files = BTreeMap::from([("preinst".to_owned(), (preinst.as_bytes().to_vec(), 0o755))]);
        Control { text: String::new(), files }
    }

    #[test]
    fn only_renaming_diversions_are_left_to_dpkg() {
        assert!(diverts(&control("dpkg-divert --package vim --add --rename --divert $1.x $1")));
        assert!(diverts(&control(
            "dpkg-divert --package vim --add \\\n --rename --divert $1.x $1"
        )));
        assert!(!diverts(&control("dpkg-divert --add --no-rename --divert /a.x /a")));
        assert!(!diverts(&control("dpkg-divert --remove --rename /a")));
        assert!(!diverts(&control("exit 0")));
    }

    #[test]
    fn paths_behind_merged_directories_are_laid_where_the_links_lead() {
        let at =
            |text: &str, kind| merged(LayerPath::parse_absolute(text).unwrap(), kind).to_string();
        assert_eq!(at("/bin/sh", MemberKind::File), "/usr/bin/sh");
        assert_eq!(at("/lib64", MemberKind::Dir), "/usr/lib64");
        assert_eq!(at("/bin", MemberKind::Symlink), "/bin");
        assert_eq!(at("/binary", MemberKind::File), "/binary");
        assert_eq!(at("/var/run/x", MemberKind::Dir), "/run/x");
    }
}
