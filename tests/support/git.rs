//! Repositories that the tests make, and ways to reach them.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};

/// A work tree with its repository.
pub struct Repository {
    pub dir: tempfile::TempDir,
}

/// git with a name, a clock that stands still, and no configuration of the machine's.
pub fn git(dir: &Path) -> Command {
    let mut command = Command::new("git");
    command.current_dir(dir).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", "/nonexistent");
    for who in ["AUTHOR", "COMMITTER"] {
        command
            .env(format!("GIT_{who}_NAME"), "Ada")
            .env(format!("GIT_{who}_EMAIL"), "a@b.example");
        command.env(format!("GIT_{who}_DATE"), "2024-05-06T07:08:09Z");
    }
    // the image's files belong to somebody else, and tests fetch from one another's directories
    command.args(["-c", "safe.directory=*", "-c", "protocol.file.allow=always"]);
    command
}

impl Repository {
    pub fn new() -> Self {
        let repository = Repository { dir: tempfile::tempdir().unwrap() };
        repository.git(&["init", "-q", "-b", "main"]);
        repository
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// `file://…`.
    pub fn url(&self) -> String {
        format!("file://{}", self.path().display())
    }

    /// Runs git, which must succeed, and answers what it says.
    #[track_caller]
    pub fn git(&self, arguments: &[&str]) -> String {
        let output = git(self.path()).args(arguments).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        assert!(output.status.success(), "git {arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Writes files and commits them; answers the commit.
    pub fn commit(&self, files: &[(&str, &str)]) -> String {
        for (path, text) in files {
            let full = self.path().join(path);
            fs::create_dir_all(full.parent().unwrap()).unwrap();
            fs::write(full, text).unwrap();
        }
        self.git(&["add", "--all"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", "words"]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// A commit of a tree that no git would add: entries as `git mktree` takes them, or with
    /// `literal`, the bytes of the object.
    pub fn hostile(&self, name: &str, mode: &str) -> String {
        let blob = self.dir.path().join("blob");
        fs::write(&blob, "x").unwrap();
        let id = self.git(&["hash-object", "-w", blob.to_str().unwrap()]);
        let mut bytes = format!("{mode} {name}\0").into_bytes();
        bytes.extend((0..20).map(|at| u8::from_str_radix(&id[2 * at..2 * at + 2], 16).unwrap()));
        let tree = self.dir.path().join("tree");
        fs::write(&tree, bytes).unwrap();
        let tree = tree.to_str().unwrap().to_owned();
        let tree = self.git(&["hash-object", "-w", "-t", "tree", "--literally", &tree]);
        let commit = self.git(&["commit-tree", "-m", "words", &tree]);
        self.git(&["branch", "-f", "hostile", &commit]);
        commit
    }
}

/// `git daemon` over directories below one, until it is dropped.
pub struct Daemon {
    child: Child,
    pub port: u16,
}

impl Daemon {
    pub fn serve(base: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = git(base);
        command.args(["daemon", "--reuseaddr", "--export-all", "--listen=127.0.0.1"]);
        command.arg(format!("--port={port}")).arg(format!("--base-path={}", base.display()));
        // it is a program of git's that serves, started by git
        command.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let daemon = Daemon { child: command.spawn().unwrap(), port };
        for _ in 0..200 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return daemon;
            }
            std::thread::sleep(std::time::Duration::from_millis(25));
        }
        panic!("`git daemon` does not listen");
    }

    pub fn url(&self, path: &str) -> String {
        format!("git://127.0.0.1:{}/{path}", self.port)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let group = Pid::from_child(&self.child);
        kill_process_group(group, Signal::KILL).unwrap();
        self.child.wait().unwrap();
    }
}

/// A bare copy, packed anew and otherwise than git would by itself.
pub fn repacked(of: &Repository) -> (tempfile::TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let bare = home.path().join("copy.git");
    let url = of.url();
    let clone = ["clone", "-q", "--bare", &url, bare.to_str().unwrap()];
    assert!(git(home.path()).args(clone).status().unwrap().success());
    let repack = ["repack", "-q", "-a", "-d", "-f", "--depth=2", "--window=3"];
    assert!(git(&bare).args(repack).status().unwrap().success());
    (home, bare)
}
