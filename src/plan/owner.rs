//! Owners by name become ids: of declared users, or of the accounts that every Debian has.

use crate::decl::{Fault, Layer, Location, Owner, Project, Recipe};
use crate::digest::Digest;

use super::step::{FileWork, Ids};

/// Accounts with fixed ids in Debian's base-passwd: name, uid, gid.
const STATIC: &[(&str, u32, u32)] = &[
    ("root", 0, 0),
    ("daemon", 1, 1),
    ("bin", 2, 2),
    ("sys", 3, 3),
    ("games", 5, 60),
    ("man", 6, 12),
    ("lp", 7, 7),
    ("mail", 8, 8),
    ("news", 9, 9),
    ("uucp", 10, 10),
    ("proxy", 13, 13),
    ("www-data", 33, 33),
    ("backup", 34, 34),
    ("list", 38, 38),
    ("irc", 39, 39),
    ("nobody", 65534, 65534),
];

/// Groups of base-passwd that are not the primary group of an account of their name.
const STATIC_GROUPS: &[(&str, u32)] = &[
    ("adm", 4),
    ("tty", 5),
    ("disk", 6),
    ("audio", 29),
    ("sudo", 27),
    ("src", 40),
    ("shadow", 42),
    ("utmp", 43),
    ("video", 44),
    ("plugdev", 46),
    ("staff", 50),
    ("games", 60),
    ("users", 100),
    ("nogroup", 65534),
];

/// Who can own files of a layer.
pub(super) struct Owners {
    users: Vec<(String, u32, u32)>,
    groups: Vec<(String, u32)>,
}

pub(super) enum OwnerError {
    Fault(Box<Fault>),
    NotScanned,
}

impl Owners {
    pub(super) fn new(project: &Project, layer: &Layer) -> Self {
        let mut owners = Owners { users: Vec::new(), groups: Vec::new() };
        for layer in project.closure(layer).into_iter().chain([layer]) {
            for recipe in &layer.recipes {
                if let Recipe::User(user) = recipe {
                    owners.users.push((user.name.clone(), user.uid, user.gid));
                    owners.groups.push((user.group.clone(), user.gid));
                }
            }
        }
        owners
    }

    pub(super) fn ids(&self, owner: Option<&Owner>, at: &Location) -> Result<Ids, OwnerError> {
        let Some(owner) = owner else { return Ok(Ids::default()) };
        let declared = self.users.iter().map(|(name, uid, gid)| (name.as_str(), *uid, *gid));
        let users = declared.chain(STATIC.iter().copied());
        let known: Vec<_> = users.collect();
        let user = match owner.user.parse::<u32>() {
            Ok(uid) => Some((uid, uid)),
            Err(_) => known
                .iter()
                .find(|(name, ..)| *name == owner.user)
                .map(|(_, uid, gid)| (*uid, *gid)),
        };
        let Some((uid, primary)) = user else {
            let fault = Fault::new(at, format!("user `{}` is not declared", owner.user));
            let fault =
                fault.help("declare `user` in this layer or one it needs, or write a number");
            return Err(OwnerError::Fault(Box::new(fault)));
        };
        let Some(name) = &owner.group else { return Ok(Ids { uid, gid: primary }) };
        let groups = self.groups.iter().map(|(name, gid)| (name.as_str(), *gid));
        let fixed =
            STATIC_GROUPS.iter().copied().chain(STATIC.iter().map(|(name, _, gid)| (*name, *gid)));
        let gid = match name.parse::<u32>() {
            Ok(gid) => Some(gid),
            Err(_) => groups.chain(fixed).find(|(known, _)| known == name).map(|(_, gid)| gid),
        };
        gid.map(|gid| Ids { uid, gid }).ok_or_else(|| {
            let fault = Fault::new(at, format!("group `{name}` is not declared"));
            OwnerError::Fault(Box::new(fault.help("it is a declared user's group, or a number")))
        })
    }

    /// The work of a recipe that needs nothing but itself, and how to call it.
    pub(super) fn work(
        &self,
        recipe: &Recipe,
        at: usize,
        content: impl Fn() -> Option<Digest>,
    ) -> Result<Option<(FileWork, String)>, OwnerError> {
        Ok(Some(match recipe {
            Recipe::Files(files) => {
                let work = FileWork::Local {
                    recipe: at,
                    content: content().ok_or(OwnerError::NotScanned)?,
                    into: files.into.clone(),
                    ids: self.ids(files.owner.as_ref(), &files.at)?,
                    mode: files.mode,
                    replace: files.replace,
                };
                (work, format!("files {} {}", files.from.display(), files.into))
            }
            Recipe::File(file) => {
                let work = FileWork::Inline {
                    path: file.path.clone(),
                    content: file.content.clone(),
                    mode: file.mode,
                    ids: self.ids(file.owner.as_ref(), &file.at)?,
                    replace: file.replace,
                };
                (work, format!("file {}", file.path))
            }
            Recipe::Dir(dir) => {
                let ids = self.ids(dir.owner.as_ref(), &dir.at)?;
                let work = FileWork::Dir { path: dir.path.clone(), mode: dir.mode, ids };
                (work, format!("dir {}", dir.path))
            }
            Recipe::Link(link) => {
                let work = FileWork::Link {
                    path: link.path.clone(),
                    to: link.to.clone(),
                    replace: link.replace,
                };
                (work, format!("link {}", link.path))
            }
            Recipe::Own(own) => {
                let ids = self.ids(Some(&own.owner), &own.at)?;
                let work = FileWork::Own { path: own.path.clone(), ids, recursive: own.recursive };
                (work, format!("own {}", own.path))
            }
            Recipe::GitInit(git) => {
                let ids = self.ids(git.owner.as_ref(), &git.at)?;
                let work =
                    FileWork::GitInit { path: git.path.clone(), branch: git.branch.clone(), ids };
                (work, format!("git-init {}", git.path))
            }
            // users belong to a settle or a step, the rest lays no files of its own
            _ => return Ok(None),
        }))
    }
}
