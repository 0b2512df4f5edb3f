//! Who a program is, as the instance's files have it (passwd(5), group(5)).

use std::io::Read;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use serde::{Deserialize, Serialize};

use super::super::child::{Setup, Step, fault};

/// A user with what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: String,
}

impl Identity {
    /// Looks `name`, `uid`, either with `:group`, up in the files below a root; empty for root.
    pub fn find(user: &str, root: &Path) -> Setup<Self> {
        let read = |path: &str| read_below(root, path).unwrap_or_default();
        find_identity(user, &read("etc/passwd"), &read("etc/group")).ok_or_else(|| {
            fault(
                "find the user",
                &format!("the instance's /etc/passwd and /etc/group have no `{user}`"),
            )
        })
    }
}

/// A file's text, wherever its links lead below the root; an image need not have it.
fn read_below(root: &Path, path: &str) -> Setup<String> {
    let root = rustix::fs::open(root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .step("open the root")?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve)
        .step(format!("open {path}"))?;
    let mut text = String::new();
    let file = std::fs::File::from(file);
    file.take(LONGEST).read_to_string(&mut text).step(format!("read {path}"))?;
    Ok(text)
}

/// Longest table of users that is read.
const LONGEST: u64 = 4 << 20;

/// Numbers need no entry.
fn find_identity(user: &str, passwd: &str, group: &str) -> Option<Identity> {
    let (name, group_name) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (user, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let rows: Vec<Vec<&str>> = passwd.lines().map(|line| line.split(':').collect()).collect();
    let row = rows.iter().find(|row| row.len() >= 6 && (row[0] == name || row[2] == name));
    let uid = row.map_or(name, |row| row[2]).parse().ok()?;
    let groups: Vec<Vec<&str>> = group.lines().map(|line| line.split(':').collect()).collect();
    let gid = match group_name {
        Some(wanted) => groups
            .iter()
            .find(|row| row.len() >= 3 && row[0] == wanted)
            .map_or(wanted, |row| row[2])
            .parse()
            .ok()?,
        None => row.map_or(Some(0), |row| row[3].parse().ok())?,
    };
    let login = row.map_or("", |row| row[0]);
    let member = |row: &&Vec<&str>| row.len() >= 4 && row[3].split(',').any(|one| one == login);
    let more = match group_name {
        Some(_) => Vec::new(),
        None => groups.iter().filter(member).filter_map(|row| row[2].parse().ok()).collect(),
    };
    let home = row.map_or("/", |row| row[5]).to_owned();
    Some(Identity { uid, gid, groups: more, home })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_names_or_numbers_and_their_groups_come_along() {
        let passwd = "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n";
        let group = "root:x:0:\nann:x:1000:\nvideo:x:44:bob,ann\n";
        let find = |user| find_identity(user, passwd, group);
        let ann = find("ann").unwrap();
        assert_eq!(
            (ann.uid, ann.gid, &*ann.groups, &*ann.home),
            (1000, 1000, &[44][..], "/home/ann")
        );
        assert_eq!(find("").unwrap().home, "/root");
        assert_eq!(find("1000:video").unwrap().gid, 44);
        let unknown = find("7:8").unwrap();
        assert_eq!((unknown.uid, unknown.gid, &*unknown.home), (7, 8, "/"));
        assert_eq!(find("nobody"), None);
    }
}
