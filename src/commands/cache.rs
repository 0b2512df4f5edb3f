//! Caches of layers that a build takes from and puts into: what the command line and the project say.

use std::path::PathBuf;

use clap::Args;

use sbx::decl::{CacheSource, Project};
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
    /// Of all that is taken, whose.
    trusted: Vec<PublicKey>,
    from: Vec<(&'a Repository, Trust)>,
    to: Option<&'a Repository>,
}

impl CacheArguments {
    /// Reads the keys. Where the network is refused there is no cache, and none is needed.
    pub fn set_up<'a>(&'a self, workspace: &'a Workspace, ui: &'a Ui) -> Outcome<CacheSetup<'a>> {
        let project = &workspace.project;
        // who has no key does not fill the project's cache
        let default = project.cache_to.as_ref().filter(|_| self.cache_key.is_some());
        let to = self.cache_to.as_ref().or(default);
        self.check(project, to.is_some())?;
        let (client, outgoing) = (workspace.client.hasty(), ui.outgoing());
        let mut setup = CacheSetup {
            workspace,
            client,
            outgoing,
            key: None,
            trusted: Vec::new(),
            from: Vec::new(),
            to: None,
        };
        if workspace.client.is_offline() {
            if !self.cache_from.is_empty() || self.cache_to.is_some() {
                ui.say("note: no cache is asked: `--offline` refuses the network");
            }
            return Ok(setup);
        }
        setup.key = self.cache_key.as_deref().map(read_key).transpose()?;
        if setup.key.is_some() && !workspace.store.is_vouched() {
            let failure = Failure::input(
                "the store took layers that nobody vouched for, and what it has is not signed",
            );
            return Err(failure
                .with_help("build in another store (`--cache DIR`), or run `sbx clean --all`"));
        }
        setup.to = to;
        self.find_shelves(&mut setup)?;
        Ok(setup)
    }

    /// What nothing would come of is a mistake.
    fn check(&self, project: &Project, gives: bool) -> Outcome {
        if self.cache_key.is_some() && !gives {
            let failure =
                Failure::input("`--cache-key` signs what is put into a cache, and none is named");
            return Err(failure.with_help("name one with `--cache-to`, or `cache-to` in `project`"));
        }
        let takes = !self.cache_from.is_empty() || !project.cache_from.is_empty();
        // what a key signed that is trusted is signed anew, too
        let signs = self.cache_key.is_some() && gives;
        let option = if self.trust_cache {
            "--trust-cache"
        } else if !self.cache_trust.is_empty() && !signs {
            "--cache-trust"
        } else {
            return Ok(());
        };
        if takes {
            return Ok(());
        }
        let message =
            format!("`{option}` says whose layers are taken out of a cache, and none is named");
        let help = "name one with `--cache-from`, or `cache-from` in `project`";
        Err(Failure::input(message).with_help(help))
    }

    /// Where layers are taken from, and whose.
    fn find_shelves<'a>(&'a self, setup: &mut CacheSetup<'a>) -> Outcome {
        let project = &setup.workspace.project;
        let keys = self.cache_trust.iter().map(|path| read_public_key(path));
        let mut keys = keys.collect::<Outcome<Vec<PublicKey>>>()?;
        keys.extend(setup.key.as_ref().map(PrivateKey::public));
        let trust = |key: Option<PublicKey>| {
            let keys = keys.iter().cloned().chain(key).collect();
            Trust { keys, everybody: self.trust_cache }
        };
        setup.from = self.cache_from.iter().map(|one| (one, trust(None))).collect();
        for source in &project.cache_from {
            let key = read_source_key(project, source)?;
            match setup.from.iter_mut().find(|(known, _)| **known == source.repository) {
                Some((_, trusted)) => trusted.keys.extend(key),
                None => setup.from.push((&source.repository, trust(key))),
            }
        }
        let all = setup.from.iter().flat_map(|(_, trust)| &trust.keys);
        setup.trusted = all.chain(&keys).cloned().collect();
        Ok(())
    }
}

fn read_source_key(project: &Project, source: &CacheSource) -> Outcome<Option<PublicKey>> {
    let path = source.key.as_ref().map(|key| project.root.join(key));
    path.as_deref().map(read_public_key).transpose()
}

/// Whether all keys can be read that a project names.
pub fn check_keys(project: &Project) -> Outcome {
    project.cache_from.iter().try_for_each(|source| read_source_key(project, source).map(drop))
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
            cache.give_to(repository, self.key.clone(), &self.trusted, &self.outgoing)?;
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
