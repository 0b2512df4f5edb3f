//! Caches of layers that a build takes from and puts into: what the command line and the project say.

use std::path::PathBuf;

use clap::Args;

use sbx::fetch::Client;
use sbx::reference::Repository;
use sbx::report::sign::{PrivateKey, PublicKey};
use sbx::ship::{Reach, SharedCache, Tally, Trust};

use super::documents::read_key;
use super::pull::read_public_key;
use crate::failure::{Failure, Outcome};
use crate::ui::{Outgoing, Ui};
use crate::workspace::Workspace;

#[derive(Args)]
pub struct CacheArguments {
    /// Take layers from this repository of a registry, before those of the project's `cache-from`
    #[arg(long, value_name = "REF")]
    cache_from: Vec<Repository>,
    /// Put layers into this repository (default: the project's `cache-to`, with `--cache-key`)
    #[arg(long, value_name = "REF")]
    cache_to: Option<Repository>,
    /// Sign what is put there with this key (PKCS #8 or cosign's, ECDSA P-256)
    #[arg(long, value_name = "FILE")]
    cache_key: Option<PathBuf>,
    /// Take what this key signed, too (public key of ECDSA P-256 in PEM form)
    #[arg(long, value_name = "FILE")]
    cache_trust: Vec<PathBuf>,
    /// Take layers whoever wrote them, unsigned ones included
    #[arg(long, conflicts_with = "cache_key")]
    trust_cache: bool,
}

/// What caches are reached with, and their keys.
pub struct CacheSetup<'a> {
    workspace: &'a Workspace,
    client: Client,
    outgoing: Outgoing<'a>,
    key: Option<PrivateKey>,
    from: Vec<(&'a Repository, Trust)>,
    to: Option<&'a Repository>,
}

impl CacheArguments {
    /// Reads the keys, and makes nothing of it where the network is refused.
    pub fn set_up<'a>(&'a self, workspace: &'a Workspace, ui: &'a Ui) -> Outcome<CacheSetup<'a>> {
        let project = &workspace.project;
        let own = self.cache_key.as_deref().map(read_key).transpose()?;
        let keys = self.cache_trust.iter().map(|path| read_public_key(path));
        let mut keys = keys.collect::<Outcome<Vec<PublicKey>>>()?;
        keys.extend(own.as_ref().map(PrivateKey::public));
        let trust = |key: Option<PublicKey>| {
            let keys = keys.iter().cloned().chain(key).collect();
            Trust { keys, everybody: self.trust_cache }
        };
        let mut from: Vec<(&Repository, Trust)> =
            self.cache_from.iter().map(|one| (one, trust(None))).collect();
        for source in &project.cache_from {
            let path = source.key.as_ref().map(|key| project.root.join(key));
            let key = path.as_deref().map(read_public_key).transpose()?;
            match from.iter_mut().find(|(known, _)| **known == source.repository) {
                Some((_, trusted)) => trusted.keys.extend(key),
                None => from.push((&source.repository, trust(key))),
            }
        }
        // who has no key does not fill the project's cache
        let default = project.cache_to.as_ref().filter(|_| own.is_some());
        let to = self.cache_to.as_ref().or(default);
        if own.is_some() && to.is_none() {
            let failure =
                Failure::input("`--cache-key` signs what is put into a cache, and none is named");
            return Err(failure.with_help("name one with `--cache-to`, or `cache-to` in `project`"));
        }
        if own.is_some() && !workspace.store.is_vouched() {
            let failure = Failure::input(
                "the store took layers that nobody vouched for, and what it has is not signed",
            );
            return Err(failure
                .with_help("build in another store (`--cache DIR`), or run `sbx clean --all`"));
        }
        let offline = workspace.client.is_offline();
        if offline && (!self.cache_from.is_empty() || self.cache_to.is_some()) {
            ui.say("note: no cache is asked: `--offline` refuses the network");
        }
        let (from, to) = if offline { (Vec::new(), None) } else { (from, to) };
        let (client, outgoing) = (workspace.client.hasty(), ui.outgoing());
        Ok(CacheSetup { workspace, client, outgoing, key: own, from, to })
    }
}

impl CacheSetup<'_> {
    /// `None` where there is no cache.
    pub fn open(&self) -> Outcome<Option<SharedCache<'_>>> {
        let Workspace { store, keychain, mirrors, .. } = self.workspace;
        let mut cache = SharedCache::new(Reach { store, client: &self.client, keychain, mirrors });
        for (repository, trust) in &self.from {
            cache.take_from(repository, trust.clone())?;
        }
        if let Some(repository) = self.to {
            cache.give_to(repository, self.key.clone(), &self.outgoing)?;
        }
        Ok(Some(cache).filter(|cache| !cache.is_idle()))
    }
}

/// What came of it, for people.
pub fn tell(tally: Option<Tally>, ui: &Ui) {
    let layers = |count: usize| format!("{count} {}", if count == 1 { "layer" } else { "layers" });
    match tally {
        None | Some(Tally { taken: 0, given: 0 }) => {}
        Some(Tally { taken, given: 0 }) => ui.say(&format!("{} from the cache", layers(taken))),
        Some(Tally { taken: 0, given }) => ui.say(&format!("{} into the cache", layers(given))),
        Some(Tally { taken, given }) => {
            ui.say(&format!("{} from the cache, {given} into it", layers(taken)));
        }
    }
}
