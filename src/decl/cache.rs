//! `cache-from`, `cache-to`: repositories of registries where layers are shared.
//!
//! Where layers come from changes no image: same Key, same layer. So a project may say it for everybody
//! who builds it, with the key that whoever fills the cache signs with. What is private, the key that
//! signs, is no part of a declaration.

use super::fault::{Fault, Location};
use super::node::Node;
use crate::reference::Repository;

/// A repository that layers are taken from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheSource {
    pub repository: Repository,
    /// File of the public key whose entries are taken, relative to the project's directory.
    pub key: Option<String>,
}

/// What a project says of caches.
#[derive(Clone, Debug, Default)]
pub(super) struct Caches {
    pub(super) from: Vec<CacheSource>,
    to: Option<(Repository, Location)>,
}

impl Caches {
    /// `cache-from REF… key=FILE`.
    pub(super) fn read_from(&mut self, node: &Node<'_>) {
        let key = node.find_text_property("key");
        for (repository, at) in node.parse_all::<Repository>("repositories of registries") {
            if self.from.iter().any(|known| known.repository == repository) {
                node.sink.push(Fault::new(&at, format!("cache `{repository}` is declared twice")));
                continue;
            }
            self.from.push(CacheSource { repository, key: key.clone() });
        }
    }

    /// `cache-to REF`.
    pub(super) fn read_to(&mut self, node: &Node<'_>) {
        let Some(repository) = node.parse::<Repository>("a repository of a registry") else {
            return;
        };
        match &self.to {
            Some((_, first)) => {
                let fault = Fault::new(&node.at(), "`cache-to` is declared twice");
                node.sink.push(fault.label("again").also(first, "first here"));
            }
            None => self.to = Some((repository, node.at())),
        }
    }

    pub(super) fn to(self) -> Option<Repository> {
        self.to.map(|(repository, _)| repository)
    }
}
