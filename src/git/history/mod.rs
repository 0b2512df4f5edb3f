//! A repository's own directory, `.git`, made of nothing but a commit and what it reaches.
//!
//! What git itself writes depends on its version, on its threads and on how a server packed what it
//! sent. So the pack, its index and the index of the work tree are written here, in one form: objects
//! are ordered by kind, path and age, and each version of a path is a delta against the next younger
//! one where that saves half of it. There is no remote, no log of references and no hook.

mod delta;
mod index;
mod pack;
mod walk;

use self::pack::Pack;
use super::error::GitError;
use super::objects::{ObjectId, Objects};
use super::tar::{Body, Gathering};
use super::tree::Mode;
use crate::decl::History;
use crate::path::LayerPath;

/// As `git init` has it (git-config(1)).
const CONFIG: &str = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n";
const DIRS: &[&str] =
    &["", "info", "objects", "objects/info", "objects/pack", "refs", "refs/heads", "refs/tags"];

impl Gathering<'_> {
    /// Adds the `.git` of the main repository.
    pub fn add_history(&mut self, commit: &ObjectId, wanted: &History) -> Result<(), GitError> {
        let main = &mut self.repositories[0];
        let url = main.remote.program.url.clone();
        let shallow = main.remote.shallow()?;
        let found = walk::walk(&mut main.objects, &url, commit, wanted.depth, &shallow)?;
        let tree = main.objects.commit(commit, &url)?.tree;
        let paths = main.objects.walk(&tree, &url)?;
        let pack = Pack::write(&mut main.objects, &found.objects, &self.scratch.join("pack"))?;
        let mut files = vec![
            ("config".to_owned(), Body::Bytes(CONFIG.into())),
            ("index".to_owned(), Body::Bytes(index::write(&paths))),
            (format!("objects/pack/pack-{}.idx", pack.name), Body::Bytes(pack.index)),
            (format!("objects/pack/pack-{}.pack", pack.name), Body::File(pack.path)),
        ];
        let text = |text: String| Body::Bytes(text.into_bytes());
        match &wanted.branch {
            Some(branch) => {
                files.push(("HEAD".to_owned(), text(format!("ref: refs/heads/{branch}\n"))));
                files.push((format!("refs/heads/{branch}"), text(format!("{commit}\n"))));
            }
            None => files.push(("HEAD".to_owned(), text(format!("{commit}\n")))),
        }
        if !found.cut.is_empty() {
            let lines = found.cut.iter().map(|id| format!("{id}\n")).collect();
            files.push(("shallow".to_owned(), text(lines)));
        }
        files.extend(DIRS.iter().map(|dir| ((*dir).to_owned(), Body::Dir)));
        for (name, body) in files {
            let path = LayerPath::root().join(format!(".git/{name}").as_bytes());
            let path = path.map_err(|source| GitError::Path { url: url.clone(), source })?;
            for dir in path.ancestors() {
                self.bodies.entry(dir).or_insert(Body::Dir);
            }
            self.bodies.insert(path, body);
        }
        Ok(())
    }
}
