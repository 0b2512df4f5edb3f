//! Recipes that need nothing but what they say: accounts, directories, links, owners, repositories.

use serde::Serialize;

use super::fault::Location;
use super::layer::{Owner, as_text, mode, owner, path_argument};
use super::node::Node;
use crate::path::LayerPath;

/// An account with fixed ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub group: String,
    pub groups: Vec<String>,
    pub home: String,
    pub shell: String,
    #[serde(skip)]
    pub at: Location,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Dir {
    #[serde(serialize_with = "as_text")]
    pub path: LayerPath,
    pub mode: u32,
    pub owner: Option<Owner>,
    #[serde(skip)]
    pub at: Location,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Link {
    #[serde(serialize_with = "as_text")]
    pub path: LayerPath,
    pub to: String,
    pub replace: bool,
    #[serde(skip)]
    pub at: Location,
}

/// Gives paths of the layer's own to somebody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Own {
    #[serde(serialize_with = "as_text")]
    pub path: LayerPath,
    pub owner: Owner,
    /// Whether everything below the path is meant, too.
    pub recursive: bool,
    #[serde(skip)]
    pub at: Location,
}

/// An empty git repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GitInit {
    #[serde(serialize_with = "as_text")]
    pub path: LayerPath,
    pub branch: String,
    pub owner: Option<Owner>,
    #[serde(skip)]
    pub at: Location,
}

impl User {
    pub(super) fn read(node: &Node<'_>) -> Option<Self> {
        let id = |name| {
            node.integer_property(name, 0..=4_294_967_293).and_then(|id| u32::try_from(id).ok())
        };
        let name = node.text("a name")?;
        let uid = id("uid");
        let gid = node
            .find_integer_property("gid", 0..=4_294_967_293)
            .and_then(|id| u32::try_from(id).ok());
        let groups = node.find_text_property("groups").unwrap_or_default();
        let user = User {
            uid: uid?,
            gid: gid.or(uid)?,
            group: node.find_text_property("group").unwrap_or_else(|| name.clone()),
            groups: groups
                .split([' ', ','])
                .filter(|group| !group.is_empty())
                .map(str::to_owned)
                .collect(),
            home: node.find_text_property("home").unwrap_or_else(|| format!("/home/{name}")),
            shell: node.find_text_property("shell").unwrap_or_else(|| "/bin/bash".to_owned()),
            name,
            at: node.at(),
        };
        node.finish_leaf();
        let word = |text: &str| {
            text.len() <= 32
                && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"_-.".contains(&c))
                && text.bytes().next().is_some_and(|c| c.is_ascii_lowercase() || c == b'_')
        };
        if !word(&user.name) || !word(&user.group) || !user.groups.iter().all(|group| word(group)) {
            node.fault("names of users and groups are lower-case letters, digits, `_`, `-` and `.`, at most 32");
            return None;
        }
        if [&user.home, &user.shell]
            .iter()
            .any(|path| path.contains([':', '\n']) || !path.starts_with('/'))
        {
            node.fault("`home` and `shell` are absolute paths without `:`");
            return None;
        }
        Some(user)
    }
}

impl Dir {
    pub(super) fn read(node: &Node<'_>) -> Option<Self> {
        let dir = Dir {
            path: path_argument(node)?,
            mode: mode(node).unwrap_or(0o755),
            owner: owner(node),
            at: node.at(),
        };
        node.finish_leaf();
        Some(dir)
    }
}

impl Link {
    pub(super) fn read(node: &Node<'_>) -> Option<Self> {
        let link = Link {
            path: path_argument(node)?,
            to: node.text_property("to")?,
            replace: node.flag_property("replace").unwrap_or(false),
            at: node.at(),
        };
        node.finish_leaf();
        if link.to.is_empty() || link.to.contains('\0') {
            node.fault("a link needs a target");
            return None;
        }
        Some(link)
    }
}

impl Own {
    pub(super) fn read(node: &Node<'_>) -> Option<Self> {
        let path = path_argument(node)?;
        if node.find_value_property("owner").is_none() {
            node.fault("`own` needs `owner=…`");
        }
        let own = Own {
            path,
            owner: owner(node)?,
            recursive: node.flag_property("recursive").unwrap_or(true),
            at: node.at(),
        };
        node.finish_leaf();
        Some(own)
    }
}

impl GitInit {
    pub(super) fn read(node: &Node<'_>) -> Option<Self> {
        let git = GitInit {
            path: path_argument(node)?,
            branch: node.find_text_property("branch").unwrap_or_else(|| "main".to_owned()),
            owner: owner(node),
            at: node.at(),
        };
        node.finish_leaf();
        Some(git)
    }
}
