//! What Debian's maintainer scripts leave behind that must not be in a layer: the traces of when,
//! where and in which order they ran. Works on the upper directory of a settle, where every path
//! named here was written by a script; what lower layers ship is never touched.
//!
//! Dates of `.pyc` files and modification times are the business of `capture`.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::accounts::AccountFiles;
use crate::fsx::{IoAt, PathIo, remove_tree};

/// Files that are deleted.
const DELETE: &[&str] = &[
    "etc/group-",
    "etc/gshadow-",
    "etc/passwd-",
    "etc/shadow-",
    "etc/subgid-",
    "etc/subuid-",
    "var/cache/ldconfig/aux-cache",
    "var/lib/dbus/machine-id",
    "var/lib/dpkg/available",
    "var/lib/dpkg/cmethopt",
    "var/lib/systemd/random-seed",
    "var/lib/urandom/random-seed",
    "var/log/alternatives.log",
    "var/log/bootstrap.log",
    "var/log/dpkg.log",
    // which caches it found made already depends on when it ran
    "var/log/fontconfig.log",
    "etc/ssl/certs/ssl-cert-snakeoil.pem",
    "etc/ssl/private/ssl-cert-snakeoil.key",
    "etc/apt/apt.conf.d/01autoremove-kernels",
];

/// Directories whose content is deleted, except the names given.
const EMPTY_DIRS: &[(&str, &[&str])] = &[
    ("dev", &[]),
    ("proc", &[]),
    ("run", &["lock"]),
    ("run/lock", &[]),
    ("sys", &[]),
    ("tmp", &[]),
    ("var/cache/apt", &["archives"]),
    ("var/cache/apt/archives", &["partial"]),
    ("var/lib/apt/lists", &["partial"]),
    ("var/log/apt", &[]),
    ("var/tmp", &[]),
];

/// Files that are emptied: they must exist, and hold nothing of the machine that built them.
const EMPTY_FILES: &[&str] = &["etc/hostname", "etc/machine-id", "etc/resolv.conf"];

/// Files whose lines have no order of their own.
const SORTED: &[&str] = &["var/lib/dpkg/triggers/File", "var/lib/dpkg/statoverride"];

/// Normalises the upper directory of a settle.
pub(in crate::build) fn scrub(upper: &Path) -> Result<(), PathIo> {
    for file in DELETE {
        remove_tree(&upper.join(file))?;
    }
    for (dir, keep) in EMPTY_DIRS {
        empty_dir(&upper.join(dir), keep)?;
    }
    for dir in ["var/lib/dpkg", "var/cache/debconf"] {
        remove_matching(&upper.join(dir), |name| name.ends_with("-old"))?;
    }
    remove_matching(&upper.join("etc/ssh"), |name| name.starts_with("ssh_host_"))?;
    for file in EMPTY_FILES {
        let path = upper.join(file);
        if path.is_file() && !path.is_symlink() {
            fs::write(&path, "").at("write", &path)?;
        }
    }
    for file in SORTED {
        rewrite(&upper.join(file), |text| sorted_records(text, 1))?;
    }
    rewrite(&upper.join("var/lib/dpkg/diversions"), |text| sorted_records(text, 3))?;
    rewrite(&upper.join("etc/shells"), sorted_shells)?;
    let mut accounts = read_accounts(upper)?;
    accounts.normalise();
    write_accounts(upper, &accounts)
}

/// Sorts records of `lines` lines each.
fn sorted_records(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    let mut records: Vec<&[&str]> = all.chunks(lines).collect();
    records.sort_unstable();
    records.concat().iter().map(|line| format!("{line}\n")).collect()
}

/// Comments stay on top, shells are sorted.
fn sorted_shells(text: &str) -> String {
    let (comments, mut shells): (Vec<&str>, Vec<&str>) =
        text.lines().partition(|line| line.starts_with('#'));
    shells.sort_unstable();
    comments.into_iter().chain(shells).map(|line| format!("{line}\n")).collect()
}

/// Rewrites a file in place, keeping owner and mode; one that is not there is left so.
fn rewrite(path: &Path, change: impl Fn(&str) -> String) -> Result<(), PathIo> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        // a whiteout or a file that is no text is not what a script of Debian's leaves here
        Err(_) => return Ok(()),
        Ok(text) => text,
    };
    let changed = change(&text);
    match changed == text {
        true => Ok(()),
        false => fs::write(path, changed).at("write", path),
    }
}

fn empty_dir(dir: &Path, keep: &[&str]) -> Result<(), PathIo> {
    remove_matching(dir, |name| !keep.contains(&name))
}

fn remove_matching(dir: &Path, drop: impl Fn(&str) -> bool) -> Result<(), PathIo> {
    if dir.is_symlink() || !dir.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(dir).at("list", dir)? {
        let entry = entry.at("list", dir)?;
        if drop(&entry.file_name().to_string_lossy()) {
            remove_tree(&entry.path())?;
        }
    }
    Ok(())
}

const ACCOUNT_FILES: [(&str, u32); 4] =
    [("etc/passwd", 0o644), ("etc/group", 0o644), ("etc/shadow", 0o640), ("etc/gshadow", 0o640)];

/// The account files of an upper directory; empty where a script has not written one.
pub(super) fn read_accounts(upper: &Path) -> Result<AccountFiles, PathIo> {
    let [passwd, group, shadow, gshadow] = ACCOUNT_FILES.map(|(name, _)| {
        let path = upper.join(name);
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            result => result.at("read", &path),
        }
    });
    Ok(AccountFiles { passwd: passwd?, group: group?, shadow: shadow?, gshadow: gshadow? })
}

/// Writes the account files that have content. A new one belongs to root, as base-passwd leaves it
/// (shadow files: group 42, `shadow`).
pub(super) fn write_accounts(upper: &Path, files: &AccountFiles) -> Result<(), PathIo> {
    let texts = [&files.passwd, &files.group, &files.shadow, &files.gshadow];
    for ((name, mode), text) in ACCOUNT_FILES.into_iter().zip(texts) {
        let path = upper.join(name);
        if text.is_empty() {
            continue;
        }
        let fresh = !path.exists();
        if let Some(dir) = path.parent().filter(|_| fresh) {
            fs::create_dir_all(dir).at("create", dir)?;
        }
        fs::write(&path, text).at("write", &path)?;
        if fresh {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))
                .at("set mode of", &path)?;
            let group = if mode == 0o640 { 42 } else { 0 };
            std::os::unix::fs::chown(&path, Some(0), Some(group)).at("set owner of", &path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_of_when_and_where_are_gone() {
        let home = tempfile::tempdir().unwrap();
        let upper = home.path();
        let put = |path: &str, text: &str| {
            fs::create_dir_all(upper.join(path).parent().unwrap()).unwrap();
            fs::write(upper.join(path), text).unwrap();
        };
        put("var/log/dpkg.log", "2026-11-23 startup");
        put("var/lib/dpkg/status-old", "x");
        put("var/lib/dpkg/status", "x");
        put("etc/machine-id", "0123");
        put("etc/ssh/ssh_host_rsa_key", "secret");
        put("etc/ssh/ssh_config", "kept");
        put("run/lock/x", "");
        put("run/some.pid", "1");
        put("var/lib/dpkg/diversions", "/b\n/b.x\np\n/a\n/a.x\n:\n");
        put("etc/shadow", "root:*:20777:0:99999:7:::\n");
        scrub(upper).unwrap();
        let exists = |path: &str| upper.join(path).exists();
        assert!(!exists("var/log/dpkg.log") && !exists("var/lib/dpkg/status-old"));
        assert!(
            !exists("etc/ssh/ssh_host_rsa_key") && !exists("run/some.pid") && !exists("run/lock/x")
        );
        assert!(
            exists("var/lib/dpkg/status") && exists("etc/ssh/ssh_config") && exists("run/lock")
        );
        let read = |path: &str| fs::read_to_string(upper.join(path)).unwrap();
        assert_eq!(read("etc/machine-id"), "");
        assert_eq!(read("var/lib/dpkg/diversions"), "/a\n/a.x\n:\n/b\n/b.x\np\n");
        assert_eq!(read("etc/shadow"), "root:*:20089:0:99999:7:::\n");
    }
}
