//! A place to run build sandboxes in: a small root file system over the host's `/usr`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use sbx::jail::{Bind, Jail, JailError, Outcome, Spec};

/// Lays a root file system out below `home` and describes a sandbox over it.
pub fn spec(home: &Path, argv: &[&str]) -> Spec {
    let base = home.join("base");
    for dir in ["usr", "etc", "srv/deep", "tmp", "dev", "proc", "sys", "run"] {
        fs::create_dir_all(base.join(dir)).unwrap();
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{name}"), base.join(name)).unwrap();
    }
    fs::write(base.join("srv/below"), "below\n").unwrap();
    fs::write(base.join("srv/doomed"), "doomed\n").unwrap();
    for dir in ["upper", "work", "root"] {
        fs::create_dir(home.join(dir)).unwrap();
    }
    Spec {
        lowers: vec![base],
        upper: home.join("upper"),
        work: home.join("work"),
        root: home.join("root"),
        binds: vec![Bind { from: "/usr".into(), to: "/usr".into(), read_only: true }],
        renames: Vec::new(),
        argv: argv.iter().map(|word| word.to_string()).collect(),
        env: vec![("PATH".into(), "/usr/bin:/usr/sbin".into()), ("GREETING".into(), "hi".into())],
        cwd: "/".into(),
        timeout: None,
        sockets: Vec::new(),
        secrets: Vec::new(),
        terminal: false,
    }
}

/// Runs to the end: how, and all that was said.
pub fn run(program: &Path, spec: &Spec) -> (Result<Outcome, JailError>, String) {
    let jail = Jail { program: program.to_owned(), emulator: None };
    let mut said = String::new();
    let outcome = jail.run(spec, &mut |line| {
        said.push_str(line);
        said.push('\n');
    });
    (outcome, said)
}

/// A directory that other users can look into.
pub fn open_dir(path: PathBuf) -> PathBuf {
    fs::create_dir_all(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}
