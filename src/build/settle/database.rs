//! The database of a settle: what dpkg knew before, and the new packages as unpacked.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use md5::{Digest as _, Md5};

use super::conffiles::Waiting;
use super::script::ScriptPackage;
use super::{NewPackage, Settle, SettleError};
use crate::build::content::merged;
use crate::build::view::View;
use crate::debian::archive::Control;
use crate::debian::database::{
    Activations, Triggers, extended_states, find_field, info_name, parse_diversions, stanzas,
    unpacked_stanza,
};
use crate::debian::relation::parse_atoms;
use crate::fsx::{IoAt, PathIo};
use crate::path::LayerPath;
use crate::tarball::MemberKind;

const ADMIN: &str = "var/lib/dpkg";

/// A new package with what its control archive says.
pub(super) struct SettlePackage<'a> {
    package: &'a NewPackage,
    name: String,
    info_name: String,
}

impl<'a> SettlePackage<'a> {
    pub(super) fn new(package: &'a NewPackage) -> Self {
        let text = &package.control.text;
        let name = find_field(text, "Package").unwrap_or_default().to_owned();
        SettlePackage { package, name, info_name: info_name(text) }
    }

    pub(super) fn blob(&self) -> &Path {
        &self.package.blob
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn control(&self) -> &Control {
        &self.package.control
    }

    /// Whether its content lies in the topmost tree.
    pub(super) fn is_laid(&self) -> bool {
        !self.package.diverts
    }

    /// The name of its `.deb` among the files of the settle, where dpkg unpacks it.
    pub(super) fn unpack_name(&self) -> Option<String> {
        self.package.diverts.then(|| format!("{}.deb", self.name))
    }

    pub(super) fn for_script(&self) -> ScriptPackage {
        let field =
            |name| find_field(&self.package.control.text, name).unwrap_or_default().to_owned();
        let names = |name| {
            let text = joined_field(&self.package.control.text, name).replace('|', ",");
            parse_atoms(&text, &field("Architecture")).map(|atom| atom.name.to_owned()).collect()
        };
        ScriptPackage {
            name: self.name.clone(),
            info_name: self.info_name.clone(),
            arch: field("Architecture"),
            essential: field("Essential") == "yes",
            provides: names("Provides"),
            pre_depends: names("Pre-Depends"),
            depends: names("Depends"),
            preinst: self.package.control.files.contains_key("preinst"),
            unpack: self.unpack_name(),
        }
    }

    /// The paths of its `.list`, as dpkg writes them.
    fn list(&self, view: &View) -> Result<Vec<String>, PathIo> {
        let text = view.read_text(&format!("/{ADMIN}/info/{}.list", self.info_name))?;
        Ok(text.lines().map(str::to_owned).collect())
    }
}

/// Writes the database into the upper directory.
pub(super) fn write(
    job: &Settle<'_>,
    packages: &[SettlePackage<'_>],
    waiting: &Waiting,
    below: &View,
    upper: &Path,
) -> Result<(), SettleError> {
    let admin = upper.join(ADMIN);
    for dir in ["info", "triggers", "updates"] {
        let path = admin.join(dir);
        fs::create_dir_all(&path).at("create", &path)?;
    }
    let laid: Vec<&SettlePackage<'_>> =
        packages.iter().filter(|package| package.is_laid()).collect();
    resolve_paths(job, &laid, below, upper)?;
    restore_diverted(job, &laid, below, upper)?;
    let before = read_triggers(below)?;
    let status = new_status(&laid, waiting, below)?;
    let status = activations(&laid, &before, below)?.apply(&status);
    put(&admin.join("status"), &status)?;
    write_triggers(&laid, before, &admin)?;
    for name in ["diversions", "statoverride", "available"] {
        if below.read(&format!("/{ADMIN}/{name}"))?.is_none() {
            put(&admin.join(name), "")?;
        }
    }
    if below.read(&format!("/{ADMIN}/info/format"))?.is_none() {
        put(&admin.join("info/format"), "1\n")?;
    }
    write_extended_states(job, packages, below, upper)
}

fn put(path: &Path, text: &str) -> Result<(), SettleError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).at("create", parent)?;
    }
    Ok(fs::write(path, text).at("write", path)?)
}

fn new_status(
    laid: &[&SettlePackage<'_>],
    waiting: &Waiting,
    below: &View,
) -> Result<String, SettleError> {
    let mut status = below.read_text("/var/lib/dpkg/status")?;
    if !status.is_empty() && !status.ends_with("\n\n") {
        status.push('\n');
    }
    for package in laid {
        let control = &package.package.control;
        let mut conffiles = Vec::new();
        for (path, leaving) in control.named_conffiles() {
            if leaving {
                // as dpkg keeps it: there is nothing to ask about a file that is not shipped
                conffiles.push((path.to_owned(), "newconffile remove-on-upgrade".to_owned()));
                continue;
            }
            if waiting.contains(path) {
                conffiles.push((path.to_owned(), "newconffile".to_owned()));
                continue;
            }
            // what the package does not ship after all, dpkg forgets, too
            if let Some(bytes) = below.read(path)? {
                let md5: [u8; 16] = Md5::digest(&bytes).into();
                let hex: String = md5.iter().map(|byte| format!("{byte:02x}")).collect();
                conffiles.push((path.to_owned(), hex));
            }
        }
        status.push_str(&unpacked_stanza(&control.text, &conffiles));
        status.push('\n');
    }
    Ok(status)
}

fn read_triggers(below: &View) -> Result<Triggers, PathIo> {
    let mut triggers = Triggers::parse_file(&below.read_text("/var/lib/dpkg/triggers/File")?);
    for name in below.list("/var/lib/dpkg/triggers") {
        if !["File", "Unincorp", "Lock"].contains(&name.as_str()) {
            triggers
                .parse_named(&name, &below.read_text(&format!("/var/lib/dpkg/triggers/{name}"))?);
        }
    }
    Ok(triggers)
}

/// What the new content asks of packages that are configured already.
fn activations(
    laid: &[&SettlePackage<'_>],
    triggers: &Triggers,
    below: &View,
) -> Result<Activations, SettleError> {
    let mut activations = Activations::default();
    for package in laid {
        for path in package.list(below)? {
            activations.note_path(triggers, &package.info_name, &path);
        }
        let control = package.package.control.find_file("triggers").unwrap_or_default();
        for line in control.lines() {
            let mut words = line.split_whitespace();
            if let (Some("activate" | "activate-await" | "activate-noawait"), Some(name)) =
                (words.next(), words.next())
            {
                activations.note_name(triggers, &package.info_name, name);
            }
        }
    }
    Ok(activations)
}

fn write_triggers(
    laid: &[&SettlePackage<'_>],
    mut triggers: Triggers,
    admin: &Path,
) -> Result<(), SettleError> {
    for package in laid {
        let Some(control) = package.package.control.find_file("triggers") else { continue };
        triggers.add_interests(&package.info_name, control).map_err(|source| {
            SettleError::Trigger { package: package.package.label.clone(), source }
        })?;
    }
    put(&admin.join("triggers/File"), &triggers.file())?;
    for (name, text) in triggers.named() {
        put(&admin.join("triggers").join(name), &text)?;
    }
    put(&admin.join("triggers/Unincorp"), "")
}

/// Paths that packages below own and the new ones bring, too: with `Replaces`, they change hands;
/// without, dpkg would refuse, and so does this.
///
/// Paths are compared where they lie: an older package may name `/lib/x` what a newer one names
/// `/usr/lib/x`.
fn resolve_paths(
    job: &Settle<'_>,
    laid: &[&SettlePackage<'_>],
    below: &View,
    upper: &Path,
) -> Result<(), SettleError> {
    let new: BTreeMap<&str, &SettlePackage<'_>> =
        laid.iter().map(|package| (package.info_name.as_str(), *package)).collect();
    let Some(content) = job.content else { return Ok(()) };
    let mut owners: BTreeMap<LayerPath, &SettlePackage<'_>> = BTreeMap::new();
    for package in laid {
        for path in package.list(below)? {
            if let Some(place) = place(&path).filter(|place| is_laid_file(content, place)) {
                owners.insert(place, package);
            }
        }
    }
    let diverted: BTreeMap<String, String> =
        parse_diversions(&below.read_text("/var/lib/dpkg/diversions")?)
            .into_iter()
            .map(|diversion| (diversion.from, diversion.package))
            .collect();
    let status = below.read_text("/var/lib/dpkg/status")?;
    for stanza in stanzas(&status) {
        let old = info_name(stanza);
        if new.contains_key(old.as_str()) {
            continue;
        }
        let file = format!("{ADMIN}/info/{old}.list");
        let text = below.read_text(&format!("/{file}"))?;
        let mut kept = Vec::new();
        let mut changed = false;
        for path in text.lines() {
            let taker = place(path).and_then(|place| owners.get(&place));
            let Some(taker) = taker.filter(|_| !diverted.contains_key(path)) else {
                kept.push(path);
                continue;
            };
            if !replaces(&taker.package.control.text, stanza) {
                let (one, two) = (old.clone(), taker.info_name.clone());
                return Err(SettleError::Clash { one, two, path: path.to_owned() });
            }
            changed = true;
        }
        if changed {
            let text: String = kept.iter().map(|path| format!("{path}\n")).collect();
            put(&upper.join(file), &text)?;
        }
    }
    Ok(())
}

/// Where a file that a package names lies.
fn place(path: &str) -> Option<LayerPath> {
    let path = LayerPath::parse_absolute(path).ok()?;
    Some(merged(path, MemberKind::File))
}

/// Whether the new content itself has a file there: a directory of a package's may be a link below.
fn is_laid_file(content: &Path, place: &LayerPath) -> bool {
    fs::symlink_metadata(content.join(place.as_path())).is_ok_and(|meta| !meta.is_dir())
}

fn is_file(view: &View, path: &str) -> bool {
    let Ok(path) = LayerPath::parse_absolute(path) else { return false };
    let found = view.find(&path).and_then(|found| fs::symlink_metadata(found).ok());
    found.is_some_and(|meta| !meta.is_dir())
}

/// Whether `taker` replaces files of the package of `stanza` (Debian Policy 7.6.1).
pub(in crate::build) fn replaces(taker: &str, stanza: &str) -> bool {
    let field = |name| find_field(stanza, name).unwrap_or_default();
    let arch = field("Architecture");
    let relation = joined_field(taker, "Replaces");
    parse_atoms(&relation, arch)
        .any(|atom| atom.name == field("Package") && atom.accepts(field("Version")))
}

/// A field's value with its continuation lines.
fn joined_field(stanza: &str, name: &str) -> String {
    let mut lines = stanza.lines().skip_while(|line| {
        line.split_once(':').is_none_or(|(field, _)| !field.eq_ignore_ascii_case(name))
    });
    let first = lines.next().and_then(|line| line.split_once(':')).map_or("", |(_, value)| value);
    let rest = lines.take_while(|line| line.starts_with([' ', '\t']));
    std::iter::once(first).chain(rest).collect::<Vec<_>>().join(" ")
}

/// New content at a path that somebody below diverts: it belongs at the diversion's other end, and
/// what the diverting package has there shows again.
fn restore_diverted(
    job: &Settle<'_>,
    laid: &[&SettlePackage<'_>],
    below: &View,
    upper: &Path,
) -> Result<(), SettleError> {
    let Some((_, older)) = job.lowers.split_last().filter(|_| job.content.is_some()) else {
        return Ok(());
    };
    let older = View::new(older);
    for diversion in parse_diversions(&below.read_text("/var/lib/dpkg/diversions")?) {
        for package in laid.iter().filter(|package| package.name != diversion.package) {
            let ships =
                package.list(below)?.contains(&diversion.from) && is_file(below, &diversion.from);
            if !ships {
                continue;
            }
            let (Ok(from), Ok(to)) = (
                LayerPath::parse_absolute(&diversion.from),
                LayerPath::parse_absolute(&diversion.to),
            ) else {
                continue;
            };
            copy_node(below, &from, &upper.join(to.as_path()))?;
            match older.find(&from) {
                Some(_) => copy_node(&older, &from, &upper.join(from.as_path()))?,
                None => make_whiteout(&upper.join(from.as_path()))?,
            }
        }
    }
    Ok(())
}

fn copy_node(view: &View, path: &LayerPath, to: &Path) -> Result<(), SettleError> {
    let Some(from) = view.find(path) else { return Ok(()) };
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).at("create", parent)?;
    }
    let meta = fs::symlink_metadata(&from).at("stat", &from)?;
    if meta.is_symlink() {
        let target = fs::read_link(&from).at("read link", &from)?;
        std::os::unix::fs::symlink(target, to).at("link", to)?;
        return Ok(());
    }
    fs::copy(&from, to).at("copy", &from)?;
    let (uid, gid) =
        (std::os::unix::fs::MetadataExt::uid(&meta), std::os::unix::fs::MetadataExt::gid(&meta));
    std::os::unix::fs::chown(to, Some(uid), Some(gid)).at("set owner of", to)?;
    fs::set_permissions(to, meta.permissions()).at("set mode of", to)?;
    let time = crate::build::tree::times(std::os::unix::fs::MetadataExt::mtime(&meta));
    Ok(rustix::fs::utimensat(rustix::fs::CWD, to, &time, rustix::fs::AtFlags::empty())
        .at("set time of", to)?)
}

fn make_whiteout(path: &Path) -> Result<(), SettleError> {
    let kind = rustix::fs::FileType::CharacterDevice;
    Ok(rustix::fs::mknodat(rustix::fs::CWD, path, kind, rustix::fs::Mode::empty(), 0)
        .at("hide", path)?)
}

fn write_extended_states(
    job: &Settle<'_>,
    packages: &[SettlePackage<'_>],
    below: &View,
    upper: &Path,
) -> Result<(), SettleError> {
    let old = below.read_text("/var/lib/apt/extended_states")?;
    let old: Vec<(&str, &str)> = stanzas(&old)
        .filter_map(|stanza| {
            Some((find_field(stanza, "Package")?, find_field(stanza, "Architecture")?))
        })
        .collect();
    let new = packages
        .iter()
        .filter(|package| package.package.auto)
        .map(|package| (package.name.as_str(), job.arch));
    let text = extended_states(old.into_iter().chain(new));
    if text.is_empty() {
        return Ok(());
    }
    put(&upper.join("var/lib/apt/extended_states"), &text)
}

/// Whether there is nothing left to do for a package: a base may have some that are held, and some
/// that were removed.
fn is_finished(stanza: &str) -> bool {
    let status = find_field(stanza, "Status").unwrap_or_default();
    let state = status.rsplit(' ').next().unwrap_or_default();
    status.contains(" ok ") && ["installed", "config-files", "not-installed"].contains(&state)
}

/// After the scripts every package must be installed, with its configuration files in place.
pub(super) fn check_finished(upper: &Path) -> Result<(), SettleError> {
    let path = upper.join(ADMIN).join("status");
    let status = fs::read_to_string(&path).at("read", &path)?;
    let unfinished: Vec<String> = stanzas(&status)
        .filter(|stanza| {
            // a file that stayed aside would make the next upgrade ask
            let waits = |line: &str| line.ends_with(" newconffile");
            !is_finished(stanza) || stanza.lines().any(waits)
        })
        .map(|stanza| {
            let field = |name| find_field(stanza, name).unwrap_or_default();
            format!("`{}` ({})", field("Package"), field("Status"))
        })
        .collect();
    match unfinished.is_empty() {
        true => Ok(()),
        false => Err(SettleError::Unfinished(unfinished.join(", "))),
    }
}
