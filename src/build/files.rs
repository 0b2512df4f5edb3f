//! Local files, directories, links and repositories: a delta that needs nothing but itself.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::assembly::{Assembly, AssemblyError};
use super::listing::Listing;
use super::local::{self, LocalFile, LocalKind};
use crate::blame::Blame;
use crate::decl::{Layer, Recipe};
use crate::entry::{Claim, Entry, Kind, Meta};
use crate::fsx::{IoAt, PathIo};
use crate::path::LayerPath;
use crate::plan::{FileWork, Ids};

/// Why files cannot be laid.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error(transparent)]
    Io(#[from] PathIo),
    #[error(transparent)]
    Assembly(#[from] AssemblyError),
    #[error("layer `{layer}`: `own {path}` names nothing that the layer itself brings")]
    OwnsNothing { layer: String, path: LayerPath },
    #[error("layer `{layer}`: {path} is brought twice with different contents")]
    Twice { layer: String, path: LayerPath },
}

impl FilesError {
    pub fn blame(&self) -> Blame {
        match self {
            FilesError::Io(_) => Blame::World,
            _ => Blame::Input,
        }
    }
}

/// Where an entry's bytes are.
enum Body {
    None,
    Text(Vec<u8>),
    File(std::path::PathBuf),
}

struct Item {
    entry: Entry,
    body: Body,
}

/// Lays a layer's files into the empty directory `tree` and writes the tar.
pub fn lay(
    root: &Path,
    layer: &Layer,
    works: &[FileWork],
    tree: &Path,
    tar: &mut dyn Write,
) -> Result<Listing, FilesError> {
    let items = items(root, layer, works)?;
    let assembly = Assembly::new(tree)?;
    // every item is its own origin: of two at one path, neither may win without a word
    for (origin, item) in (0..).zip(items) {
        let path = item.entry.path.clone();
        if path.is_root() {
            continue;
        }
        match item.body {
            Body::None => assembly.put(origin, item.entry, &mut std::io::empty())?,
            Body::Text(bytes) => assembly.put(origin, item.entry, &mut &bytes[..])?,
            Body::File(full) => {
                let mut file = File::open(&full).at("open", &full)?;
                let Kind::File(size) = item.entry.kind else { continue };
                assembly.put(origin, item.entry, &mut (&mut file).take(size))?;
            }
        }
    }
    let twice = |path: &LayerPath, _, _| {
        Err(FilesError::Twice { layer: layer.name.to_string(), path: path.clone() })
    };
    assembly.finish(twice, tar)
}

/// What the works lay, in their order.
fn items(root: &Path, layer: &Layer, works: &[FileWork]) -> Result<Vec<Item>, FilesError> {
    let mut items: Vec<Item> = Vec::new();
    for work in works {
        match work {
            FileWork::Own { path, ids, recursive } => {
                own(layer, &mut items, path, *ids, *recursive)?
            }
            FileWork::Local { recipe, into, ids, mode, .. } => {
                if let Some(Recipe::Files(files)) = layer.recipes.get(*recipe) {
                    let found = local::list(root, files)?.unwrap_or_default();
                    for file in found {
                        items.push(local_item(&file, into, *ids, *mode)?);
                    }
                }
            }
            FileWork::Inline { path, content, mode, ids, .. } => {
                let meta = owned(*mode, *ids);
                let bytes = content.clone().into_bytes();
                let kind = Kind::File(bytes.len() as u64);
                items.push(Item {
                    entry: Entry { path: path.clone(), meta, kind },
                    body: Body::Text(bytes),
                });
            }
            FileWork::Dir { path, mode, ids } => items.push(dir(path.clone(), *mode, *ids)),
            FileWork::Link { path, to, .. } => {
                let kind = Kind::Symlink(to.as_bytes().into());
                let entry = Entry { path: path.clone(), meta: owned(0o777, Ids::default()), kind };
                items.push(Item { entry, body: Body::None });
            }
            FileWork::GitInit { path, branch, ids } => {
                items.extend(repository(path, branch, *ids)?)
            }
        }
    }
    Ok(items)
}

fn owned(mode: u32, ids: Ids) -> Meta {
    Meta { uid: ids.uid, gid: ids.gid, ..Meta::root(mode) }
}

fn dir(path: LayerPath, mode: u32, ids: Ids) -> Item {
    let kind = Kind::Dir(Claim::Set);
    Item { entry: Entry { path, meta: owned(mode, ids), kind }, body: Body::None }
}

fn local_item(
    file: &LocalFile,
    into: &LayerPath,
    ids: Ids,
    mode: Option<u32>,
) -> Result<Item, FilesError> {
    let path = into.join(file.path.as_os_str().as_bytes()).map_err(AssemblyError::from)?;
    Ok(match &file.kind {
        // a local tree's directories say nothing about directories that are there already
        LocalKind::Dir => {
            let claim = if ids == Ids::default() { Claim::Shipped } else { Claim::Set };
            let entry = Entry { path, meta: owned(0o755, ids), kind: Kind::Dir(claim) };
            Item { entry, body: Body::None }
        }
        LocalKind::Link(target) => {
            let kind = Kind::Symlink(target.as_os_str().as_bytes().into());
            Item { entry: Entry { path, meta: owned(0o777, ids), kind }, body: Body::None }
        }
        LocalKind::File { executable } => {
            let size = std::fs::metadata(&file.full).at("stat", &file.full)?.len();
            let mode = mode.unwrap_or(if *executable { 0o755 } else { 0o644 });
            let entry = Entry { path, meta: owned(mode, ids), kind: Kind::File(size) };
            Item { entry, body: Body::File(file.full.clone()) }
        }
    })
}

/// Changes the owner of what the layer has brought so far, and of nothing else.
fn own(
    layer: &Layer,
    items: &mut Vec<Item>,
    path: &LayerPath,
    ids: Ids,
    recursive: bool,
) -> Result<(), FilesError> {
    let meant = |at: &LayerPath| at == path || (recursive && at.starts_with(path));
    let mut hit = false;
    for item in items.iter_mut().filter(|item| meant(&item.entry.path)) {
        (item.entry.meta.uid, item.entry.meta.gid) = (ids.uid, ids.gid);
        if let Kind::Dir(claim) = &mut item.entry.kind {
            *claim = Claim::Set;
        }
        hit = true;
    }
    if !hit {
        return Err(FilesError::OwnsNothing { layer: layer.name.to_string(), path: path.clone() });
    }
    // directories that are only implied by the layer's files belong to what is meant, too
    let known: BTreeSet<LayerPath> = items.iter().map(|item| item.entry.path.clone()).collect();
    let implied: BTreeSet<LayerPath> = known
        .iter()
        .flat_map(LayerPath::ancestors)
        .filter(|ancestor| meant(ancestor) && !known.contains(ancestor))
        .collect();
    items.extend(implied.into_iter().map(|path| dir(path, 0o755, ids)));
    Ok(())
}

/// What `git init` leaves, less its samples (gitrepository-layout(5)).
fn repository(path: &LayerPath, branch: &str, ids: Ids) -> Result<Vec<Item>, FilesError> {
    let at = |name: &str| path.join(format!(".git{name}").as_bytes()).map_err(AssemblyError::from);
    let mut items = vec![dir(path.clone(), 0o755, ids)];
    for name in [
        "",
        "/branches",
        "/hooks",
        "/info",
        "/objects",
        "/objects/info",
        "/objects/pack",
        "/refs",
        "/refs/heads",
        "/refs/tags",
    ] {
        items.push(dir(at(name)?, 0o755, ids));
    }
    let config = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n";
    let head = format!("ref: refs/heads/{branch}\n");
    let description = "Unnamed repository; edit this file 'description' to name the repository.\n";
    for (name, text) in [
        ("/HEAD", head.as_str()),
        ("/config", config),
        ("/description", description),
        ("/info/exclude", ""),
    ] {
        let bytes = text.as_bytes().to_vec();
        let kind = Kind::File(bytes.len() as u64);
        items.push(Item {
            entry: Entry { path: at(name)?, meta: owned(0o644, ids), kind },
            body: Body::Text(bytes),
        });
    }
    Ok(items)
}
