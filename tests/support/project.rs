//! A project in a directory of its own, built by the real program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::repo::{BASE_EXTRA, Repo};
use super::server::Server;
use super::user::User;

pub struct Project {
    pub dir: tempfile::TempDir,
    pub server: Option<Server>,
    variables: Vec<(String, String)>,
    /// Whether its store's files are those of another one.
    is_linked: bool,
}

/// The program, about to run under some circumstances.
pub struct Run<'a> {
    project: &'a Project,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    user: Option<&'a User>,
    /// Programs that start the program, outermost first.
    wrappers: Vec<String>,
}

/// How a run of the program ended.
pub struct Outcome {
    pub stdout: String,
    pub stderr: String,
    pub code: Option<i32>,
}

impl Project {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Project { dir, server: None, variables: Vec::new(), is_linked: false }
    }

    /// Fetches Debian's packages from a repository of the tests' own, signed by its key.
    pub fn from_repo(repo: &Repo) -> Self {
        let server = Server::serve(repo.dir.path());
        let url = server.url("");
        let mut project = Project::new().file("key.asc", &Repo::key());
        project.variables = vec![("SBX_MIRROR_DEBIAN".to_owned(), url)];
        project.server = Some(server);
        project
    }

    /// Keeps the store elsewhere, for several projects.
    pub fn store(mut self, path: &Path) -> Self {
        self.variables.push(("SBX_CACHE".to_owned(), path.to_str().unwrap().to_owned()));
        self
    }

    /// Begins with what this store holds. No store writes into a file that it has, so links do for
    /// whatever is large.
    pub fn stocked(mut self, store: &Path) -> Self {
        fs::create_dir(self.cache()).unwrap();
        for entry in fs::read_dir(store).unwrap() {
            let from = entry.unwrap().path();
            let is_large = ["blobs", "tools", "trees"].iter().any(|name| from.ends_with(name));
            let how = if is_large { "-al" } else { "-a" };
            super::tool("cp", &[how, from.to_str().unwrap(), self.cache().to_str().unwrap()]);
        }
        self.is_linked = true;
        self
    }

    /// Sets a variable for every run.
    pub fn var(mut self, name: &str, value: &str) -> Self {
        self.set(name, value);
        self
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    pub fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    pub fn file(self, path: &str, text: &str) -> Self {
        self.write(path, text);
        self
    }

    pub fn write(&self, path: &str, text: &str) {
        let full = self.dir.path().join(path);
        fs::create_dir_all(full.parent().unwrap()).unwrap();
        fs::write(full, text).unwrap();
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.dir.path().join(path)).unwrap()
    }

    /// Declares sandbox `s` of debian layers `l0`, `l1`, …, each with its packages, the later ones
    /// on top of the earlier.
    pub fn debian_layers(self, layers: &[&str]) -> Self {
        let extra = BASE_EXTRA.map(|name| format!(" \"{name}\"")).concat();
        let mut text = String::new();
        for (at, packages) in layers.iter().enumerate() {
            let names: String =
                packages.split_whitespace().map(|name| format!(" \"{name}\"")).collect();
            let names = if names.is_empty() { String::new() } else { format!("packages{names};") };
            text += &match at {
                0 => format!(
                    "layer \"l0\" {{ debian \"trixie\" {{ suites \"trixie\"; base \"essential\"; key \"key.asc\"; packages{extra}; {names} }}; }}\n"
                ),
                _ => format!("layer \"l{at}\" needs=\"l{}\" {{ debian {{ {names} }}; }}\n", at - 1),
            };
        }
        text += &format!("sandbox \"s\" {{ layers \"l{}\"; }}\n", layers.len() - 1);
        self.file("sandboxes.kdl", &text)
    }

    pub fn cache(&self) -> PathBuf {
        let elsewhere = self.variables.iter().find(|(name, _)| name == "SBX_CACHE");
        elsewhere.map_or_else(|| self.dir.path().join("cache"), |(_, path)| path.into())
    }

    /// What builds left half done.
    pub fn drafts(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.cache().join("tmp")) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    pub fn run<'a>(&'a self, arguments: &[&str]) -> Run<'a> {
        Run {
            project: self,
            arguments: arguments.iter().map(|word| word.to_string()).collect(),
            variables: Vec::new(),
            user: None,
            wrappers: Vec::new(),
        }
    }

    /// The program with this project, and an environment of its own.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sbx"));
        command.args(arguments).current_dir(self.dir.path()).env_clear();
        for name in ["PATH", "SSL_CERT_FILE", "SSL_CERT_DIR"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command
            .env("HOME", self.dir.path())
            // whoever runs the tests may have logged in somewhere (`/run/containers/0/auth.json`)
            .env("XDG_RUNTIME_DIR", self.dir.path().join("runtime"))
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    pub fn sbx(&self, arguments: &[&str]) -> Outcome {
        Outcome::new(self.command(arguments).output().unwrap())
    }

    /// Builds sandbox `s` and answers the image's id.
    pub fn build(&self) -> String {
        self.sbx(&["build", "s"]).success().stdout.trim().to_owned()
    }

    /// The finished file system of sandbox `s`, as `save` gives it: what umoci unpacks (tests/save.rs)
    /// in a third of the time.
    pub fn unpack(&self) -> tempfile::TempDir {
        self.unpack_below(&[])
    }

    /// Likewise, of these paths alone, which begin without a slash.
    pub fn unpack_below(&self, paths: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let tar = dir.path().join("s.tar");
        let root = root(&dir);
        fs::create_dir(&root).unwrap();
        let (tar, into) = (tar.to_str().unwrap(), root.to_str().unwrap());
        self.sbx(&["save", "s", "--format", "tar", "--output", tar]).success();
        let whole = ["--xattrs", "--xattrs-include=*", "--numeric-owner"];
        super::tool("tar", &[&["-xpf", tar, "-C", into][..], &whole, paths].concat());
        fs::remove_file(tar).unwrap();
        dir
    }
}

/// The root of what [`Project::unpack`] made.
pub fn root(dir: &tempfile::TempDir) -> PathBuf {
    dir.path().join("root")
}

/// Runs a shell in an unpacked image, which gets the one device that no program does without.
pub fn chroot(root: &Path, script: &str) -> String {
    let null = root.join("dev/null");
    if !null.exists() {
        super::tool("mknod", &["-m", "666", null.to_str().unwrap(), "c", "1", "3"]);
    }
    super::tool("chroot", &[root.to_str().unwrap(), "/bin/sh", "-c", script])
}

impl<'a> Run<'a> {
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    fn under(mut self, wrapper: &[&str]) -> Self {
        self.wrappers.extend(wrapper.iter().map(|word| word.to_string()));
        self
    }

    pub fn umask(self, mask: &str) -> Self {
        let script = format!("umask {mask}; exec \"$0\" \"$@\"");
        self.under(&["sh", "-c", &script])
    }

    pub fn host_name(self, name: &str) -> Self {
        let script = format!("hostname {name}; exec \"$0\" \"$@\"");
        self.under(&["unshare", "--uts", "sh", "-c", &script])
    }

    /// With a clock that is wrong by so much: `+400 days`.
    pub fn clock(self, offset: &str) -> Self {
        self.under(&["faketime", offset])
    }

    /// With a mount namespace of its own, in which this script has run.
    pub fn mounts(self, script: &str) -> Self {
        let script = format!("set -e; {script}; exec \"$0\" \"$@\"");
        self.under(&["unshare", "--mount", "sh", "-c", &script])
    }

    /// As an ordinary user, whose the project becomes.
    pub fn user(self, user: &'a User) -> Self {
        assert!(!self.project.is_linked, "the store's files would be theirs elsewhere, too");
        user.own(self.project.dir.path());
        self.by(user)
    }

    /// As an ordinary user, whose the project is.
    pub fn by(mut self, user: &'a User) -> Self {
        let id = user.id.to_string();
        self.user = Some(user);
        self.under(&["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"])
    }

    pub fn command(&self) -> Command {
        let plain = self.project.command(&[]);
        let program = self.user.map_or_else(|| plain.get_program().into(), User::program);
        let mut words = self.wrappers.iter().map(|word| word.into()).chain([program]);
        let mut command = Command::new(words.next().expect("there is the program at least"));
        command.args(words).args(&self.arguments).current_dir(self.project.dir.path()).env_clear();
        let inherited = plain.get_envs().filter_map(|(name, value)| Some((name, value?)));
        // podman wants an ordinary user's to be there
        let inherited =
            inherited.filter(|(name, _)| self.user.is_none() || *name != "XDG_RUNTIME_DIR");
        command.envs(inherited).envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    pub fn outcome(&self) -> Outcome {
        Outcome::new(self.command().output().unwrap())
    }
}

impl Outcome {
    pub fn new(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Outcome {
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
            code: output.status.code(),
        }
    }

    #[track_caller]
    pub fn success(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self
    }

    /// It ended with this code, and said all of this.
    #[track_caller]
    pub fn fails(self, code: i32, texts: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.stderr);
        texts.iter().fold(self, |outcome, text| outcome.says(text))
    }

    /// It said this on stderr.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "`{text}` is missing in:\n{}", self.stderr);
        self
    }

    /// Its answer, without the line's end.
    pub fn answer(&self) -> &str {
        self.stdout.trim()
    }
}
