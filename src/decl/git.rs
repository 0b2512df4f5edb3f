//! `git`: the tree of a commit, and its history where that is asked for.

use serde::Serialize;

use super::fault::{Fault, Location};
use super::git_url::GitUrl;
use super::node::Node;
use super::take::Take;

/// Version of the form that a tree takes in the store: a change of it is a new question.
const FORM: u32 = 1;

/// Files of a repository at a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Git {
    pub url: GitUrl,
    /// A commit, a tag or a branch.
    pub rev: String,
    /// Whether submodules are laid, too.
    pub submodules: bool,
    pub history: Option<History>,
    form: u32,
    /// What is taken, where that is not all: nothing else is fetched.
    #[serde(skip_serializing_if = "Option::is_none")]
    part: Option<Part>,
    #[serde(skip)]
    pub take: Take,
    #[serde(skip)]
    pub at: Location,
}

/// What is taken of a tree: `strip`, `subdirectory`, `include`, `exclude`.
type Part = (u32, String, Vec<String>, Vec<String>);

/// What of a repository's history comes along.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct History {
    /// The branch that is checked out; `None` for a detached commit.
    pub branch: Option<String>,
    /// How many commits deep; `None` for all.
    pub depth: Option<u32>,
}

impl Git {
    pub(super) fn read(node: &Node<'_>) -> Option<Self> {
        let url = node.parse::<GitUrl>("the address of a repository");
        let rev = node.text_property("rev");
        let submodules = node.flag_property("submodules").unwrap_or(false);
        let history = read_history(node);
        let subdirectory = node.find_text_property("subdirectory");
        let parts = history.is_some() && (subdirectory.is_some() || has_property(node, "mode"));
        let take = Take::read(node, subdirectory)?;
        if parts || history.is_some() && !take.is_whole() {
            let fault = Fault::new(&node.at(), "`history` is that of a whole tree");
            let help = "leave out `subdirectory`, `strip`, `include`, `exclude` and `mode`";
            node.sink.push(fault.help(help));
            return None;
        }
        let rev = rev?;
        if !is_revision(&rev) {
            let at = node.property_at("rev");
            let fault = Fault::new(&at, format!("`{rev}` is no commit, tag or branch"));
            node.sink.push(fault.help("write the 40 hex digits of a commit, or a tag"));
            return None;
        }
        let lists = (take.include.clone(), take.exclude.clone());
        let part = (take.strip, take.subdirectory.clone(), lists.0, lists.1);
        let part = (!take.is_whole()).then_some(part);
        Some(Git { url: url?, rev, submodules, history, form: FORM, part, take, at: node.at() })
    }
}

fn has_property(node: &Node<'_>, name: &'static str) -> bool {
    node.find_value_property(name).is_some()
}

fn read_history(node: &Node<'_>) -> Option<History> {
    let wanted = node.flag_property("history").unwrap_or(false);
    let branch = node.find_text_property("branch");
    let depth = node.find_integer_property("depth", 1..=1_000_000);
    if !wanted {
        for name in ["branch", "depth"].into_iter().filter(|name| has_property(node, name)) {
            let fault = Fault::new(&node.property_at(name), format!("`{name}` is of a history"));
            node.sink.push(fault.help("say `history=#true`"));
        }
        return None;
    }
    let sound = |name: &String| is_revision(name) && !name.starts_with("refs/");
    if let Some(name) = branch.as_ref().filter(|name| !sound(name)) {
        node.sink.push(Fault::new(&node.property_at("branch"), format!("`{name}` is no branch")));
    }
    let depth = depth.and_then(|depth| u32::try_from(depth).ok());
    Some(History { branch: branch.filter(sound), depth })
}

/// Whether git could have it as a name (git-check-ref-format(1)).
fn is_revision(text: &str) -> bool {
    let odd = |c: char| c <= ' ' || c == '\u{7f}' || "~^:?*[\\".contains(c);
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    !text.contains(odd)
        && !text.contains("..")
        && !text.contains("@{")
        && !text.starts_with('-')
        && !text.ends_with('.')
        && text != "@"
        && text.split('/').all(part)
}
