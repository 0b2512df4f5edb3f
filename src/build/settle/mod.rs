//! Settling: Debian's maintainer scripts, run once and for real over content that was laid without
//! them, as a delta of its own.
//!
//! The database is written first, as dpkg would have left it after unpacking; then the scripts run in
//! the build sandbox, dpkg itself leading; then what they left behind of time, place and order is
//! removed, and the upper directory becomes the layer. One settle covers one debian layer over all
//! that lies below it, so sandboxes share their settles as far as they share their layers.

pub mod accounts;
mod conffiles;
mod database;
mod later;
mod order;
mod script;
pub(in crate::build) mod scrub;
pub mod sources;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use self::accounts::{Account, AccountError};
use self::database::SettlePackage;
pub(in crate::build) use self::database::replaces;
use self::script::ScriptPackage;
use self::sources::AptSource;
use super::capture::{CaptureError, capture};
use super::listing::Listing;
use super::log::Log;
use super::view::View;
use crate::blame::Blame;
use crate::debian::archive::{Control, DebError};
use crate::debian::database::TriggerError;
use crate::entry::EPOCH;
use crate::fsx::{IoAt, PathIo};
use crate::jail::{Bind, Jail, JailError, Outcome, Spec};

/// Why a settle failed.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    #[error(transparent)]
    Io(#[from] PathIo),
    #[error(transparent)]
    Jail(#[from] JailError),
    #[error(transparent)]
    Capture(#[from] CaptureError),
    #[error(transparent)]
    Account(#[from] AccountError),
    #[error("package `{package}`: {source}")]
    Deb { package: String, source: DebError },
    #[error("package `{package}`: {source}")]
    Trigger { package: String, source: TriggerError },
    #[error("packages `{one}` and `{two}` both ship {path}, and neither replaces the other")]
    Clash { one: String, two: String, path: String },
    #[error("the maintainer scripts failed with {reason}:\n{tail}\nthe output is in {}", log.display())]
    Script { reason: String, tail: String, log: PathBuf },
    #[error("packages are left unfinished: {0}")]
    Unfinished(String),
}

impl SettleError {
    pub fn blame(&self) -> Blame {
        match self {
            SettleError::Account(_) | SettleError::Clash { .. } | SettleError::Script { .. } => {
                Blame::Input
            }
            SettleError::Unfinished(_) => Blame::Input,
            _ => Blame::World,
        }
    }
}

impl SettleError {
    /// The next command.
    pub fn help(&self) -> Option<&str> {
        match self {
            SettleError::Jail(error) => error.help(),
            _ => None,
        }
    }
}

/// A package whose content lies in the topmost tree.
#[derive(Clone, Debug)]
pub struct NewPackage {
    pub label: String,
    /// The `.deb`.
    pub blob: PathBuf,
    /// Whether it only came along (apt's `Auto-Installed`).
    pub auto: bool,
    /// Its control archive.
    pub control: Control,
    /// Whether dpkg is to unpack it itself: its content is in no tree.
    pub diverts: bool,
}

/// What is to be settled.
#[derive(Debug)]
pub struct Settle<'a> {
    /// Trees of everything below, the new content on top; bottom first.
    pub lowers: &'a [PathBuf],
    /// The tree of the new content, which is the last of `lowers`; `None` where there is none.
    pub content: Option<&'a Path>,
    pub packages: &'a [NewPackage],
    pub accounts: &'a [Account],
    pub sources: &'a [AptSource],
    /// Keyrings to lay beside the sources: path in the image, bytes.
    pub keyrings: &'a [(String, Vec<u8>)],
    /// Lines for debconf-set-selections(1).
    pub debconf: &'a str,
    pub arch: &'a str,
    pub jail: &'a Jail,
    /// An empty directory to work in.
    pub scratch: &'a Path,
    /// Where the scripts' output is kept.
    pub log: &'a Path,
}

/// Runs a settle; `progress` hears of each package that is being configured. The finished tree is
/// `scratch/upper`.
pub fn settle(
    job: &Settle<'_>,
    tar: &mut dyn Write,
    progress: &mut dyn FnMut(&str),
) -> Result<Listing, SettleError> {
    let upper = job.scratch.join("upper");
    for dir in ["upper", "work", "root", "mount"] {
        let path = job.scratch.join(dir);
        fs::create_dir(&path).at("create", &path)?;
    }
    let below = View::new(job.lowers);
    let mut packages = Vec::with_capacity(job.packages.len());
    for package in job.packages {
        packages.push(SettlePackage::new(package));
    }
    let fresh = below.read_text("/var/lib/dpkg/status")?.is_empty();
    let scripts: Vec<ScriptPackage> = packages.iter().map(SettlePackage::for_script).collect();
    let essential = if fresh { script::essential(&scripts) } else { BTreeSet::new() };
    let waiting = conffiles::find_waiting(job.content, &packages, &essential, &below)?;
    database::write(job, &packages, &waiting, &below, &upper)?;
    sources::write(job.sources, job.keyrings, &upper)?;
    let guard = lay_guards(&below, &upper)?;
    let order = Order { packages: &packages, scripts, essential, fresh };
    run_scripts(job, &order, conffiles::moves(&waiting), &below, progress)?;
    guard.remove(&upper)?;
    database::check_finished(&upper)?;
    scrub::scrub(&upper)?;
    Ok(capture(&upper, &below, tar)?)
}

/// Whose scripts run, and who comes first.
struct Order<'a> {
    packages: &'a [SettlePackage<'a>],
    scripts: Vec<ScriptPackage>,
    /// Empty unless `fresh`.
    essential: BTreeSet<String>,
    /// Nothing lies below.
    fresh: bool,
}

fn run_scripts(
    job: &Settle<'_>,
    order: &Order<'_>,
    mut moves: Vec<(String, String)>,
    below: &View,
    progress: &mut dyn FnMut(&str),
) -> Result<(), SettleError> {
    let mut log = Log::create(job.log)?;
    let mut run = |text: String| -> Result<(), SettleError> {
        let mount = job.scratch.join("mount");
        write_mount(&mount, &text, job)?;
        let mut line = |line: &str| {
            log.add(line);
            if let Some(package) = line.strip_prefix("Setting up ") {
                progress(package.trim_end_matches(" ..."));
            }
        };
        // once: before the first script
        let spec = spec(job, order.packages, std::mem::take(&mut moves));
        let outcome = job.jail.run(&spec, &mut line)?;
        judge(&outcome, job.log)
    };
    if order.fresh {
        run(script::bootstrap(&order.scripts))?;
    }
    add_accounts(job, below)?;
    later::lay(below, &job.scratch.join("mount"))?;
    run(script::configure(&order.scripts, order.fresh, &order.essential))
}

fn judge(outcome: &Outcome, log: &Path) -> Result<(), SettleError> {
    match outcome.success() {
        true => Ok(()),
        false => Err(SettleError::Script {
            reason: outcome.reason(),
            tail: outcome.tail.iter().map(|line| format!("  {line}\n")).collect(),
            log: log.to_owned(),
        }),
    }
}

/// The directory that the scripts find at [`script::MOUNT`].
fn write_mount(mount: &Path, script: &str, job: &Settle<'_>) -> Result<(), PathIo> {
    let put = |name: &str, text: &str| {
        let path = mount.join(name);
        fs::write(&path, text).at("write", &path)
    };
    put("script", script)?;
    put("debconf", job.debconf)
}

fn spec(job: &Settle<'_>, packages: &[SettlePackage<'_>], renames: Vec<(String, String)>) -> Spec {
    let bind = |from: PathBuf, to: String| Bind { from, to, read_only: true };
    let debs = packages
        .iter()
        .filter_map(|package| package.unpack_name().map(|name| (package.blob(), name)))
        .map(|(blob, name)| bind(blob.to_owned(), format!("{}/{name}", script::MOUNT)));
    let mount =
        Bind { from: job.scratch.join("mount"), to: script::MOUNT.to_owned(), read_only: false };
    let env = [
        // stand-ins first: see `later`
        ("PATH", "/run/sbx/later/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", "/root"),
        ("LC_ALL", "C.UTF-8"),
        ("TZ", "UTC"),
        ("DEBIAN_FRONTEND", "noninteractive"),
        ("DEBCONF_NONINTERACTIVE_SEEN", "true"),
        // a start in the middle would find nobody to answer (needrestart, apt-listchanges, ucf)
        ("UCF_FORCE_CONFFOLD", "1"),
    ];
    let mut env: Vec<(String, String)> =
        env.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    env.push(("SOURCE_DATE_EPOCH".to_owned(), EPOCH.to_string()));
    Spec {
        lowers: job.lowers.to_vec(),
        upper: job.scratch.join("upper"),
        work: job.scratch.join("work"),
        root: job.scratch.join("root"),
        binds: std::iter::once(mount).chain(debs).collect(),
        renames,
        argv: vec!["/bin/sh".to_owned(), format!("{}/script", script::MOUNT)],
        env,
        cwd: "/".to_owned(),
        timeout: None,
        sockets: Vec::new(),
        secrets: Vec::new(),
        terminal: false,
    }
}

/// Accounts with fixed ids are made before any other script can take an id.
fn add_accounts(job: &Settle<'_>, below: &View) -> Result<(), SettleError> {
    if job.accounts.is_empty() {
        return Ok(());
    }
    add_to(&job.scratch.join("upper"), below, job.accounts)
}

/// Adds accounts to an upper directory over a view.
pub(in crate::build) fn add_to(
    upper: &Path,
    below: &View,
    accounts: &[Account],
) -> Result<(), SettleError> {
    for name in ["etc/passwd", "etc/group", "etc/shadow", "etc/gshadow"] {
        copy_up(upper, below, name)?;
    }
    let mut files = scrub::read_accounts(upper)?;
    for account in accounts {
        files.add(account)?;
    }
    scrub::write_accounts(upper, &files)?;
    for account in accounts {
        make_home(upper, below, account)?;
    }
    Ok(())
}

/// An empty home, closed to others, as Debian's adduser makes it.
fn make_home(upper: &Path, below: &View, account: &Account) -> Result<(), SettleError> {
    let Ok(home) = crate::path::LayerPath::parse_absolute(&account.home) else { return Ok(()) };
    let path = upper.join(home.as_path());
    if home.is_root() || below.find(&home).is_some() || path.exists() {
        return Ok(());
    }
    fs::create_dir_all(&path).at("create", &path)?;
    std::os::unix::fs::chown(&path, Some(account.uid), Some(account.gid))
        .at("set owner of", &path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).at("set mode of", &path)?;
    Ok(())
}

/// Copies a file of the view into the upper directory with its owner and mode, if it is not there.
fn copy_up(upper: &Path, below: &View, name: &str) -> Result<(), PathIo> {
    let to = upper.join(name);
    let Ok(path) = crate::path::LayerPath::parse_member(name.as_bytes()) else { return Ok(()) };
    let Some(from) = below.find(&path).filter(|_| !to.exists()) else { return Ok(()) };
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).at("create", parent)?;
    }
    let meta = fs::metadata(&from).at("stat", &from)?;
    fs::copy(&from, &to).at("copy", &from)?;
    let owner = |id: u32| Some(id);
    std::os::unix::fs::chown(
        &to,
        owner(std::os::unix::fs::MetadataExt::uid(&meta)),
        owner(std::os::unix::fs::MetadataExt::gid(&meta)),
    )
    .at("set owner of", &to)?;
    fs::set_permissions(&to, meta.permissions()).at("set mode of", &to)
}

/// Files that keep the scripts from doing what makes no sense in a build; gone afterwards.
struct Guards(Vec<&'static str>);

fn lay_guards(below: &View, upper: &Path) -> Result<Guards, PathIo> {
    let mut laid = Vec::new();
    let refuse = "#!/bin/sh\nexit 101\n";
    for (name, text) in [("usr/sbin/policy-rc.d", refuse)] {
        let Ok(path) = crate::path::LayerPath::parse_member(name.as_bytes()) else { continue };
        if below.find(&path).is_some() {
            continue;
        }
        let full = upper.join(name);
        if let Some(parent) = full.parent() {
            fs::create_dir_all(parent).at("create", parent)?;
        }
        fs::write(&full, text).at("write", &full)?;
        fs::set_permissions(&full, fs::Permissions::from_mode(0o755)).at("set mode of", &full)?;
        laid.push(name);
    }
    Ok(Guards(laid))
}

impl Guards {
    fn remove(&self, upper: &Path) -> Result<(), PathIo> {
        self.0.iter().try_for_each(|name| crate::fsx::remove_tree(&upper.join(name)))
    }
}
