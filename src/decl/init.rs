//! What `sbx init` writes.

use std::path::PathBuf;

/// A file of a new project.
#[derive(Clone, Debug)]
pub struct InitFile {
    pub path: PathBuf,
    pub content: String,
    pub executable: bool,
}

/// The files of a new project called `name`: one sandbox, a Debian layer, a layer of local files.
pub fn init_files(name: &str) -> Vec<InitFile> {
    let file =
        |path: &str, content: String| InitFile { path: path.into(), content, executable: false };
    vec![
        file("sandboxes.kdl", SANDBOXES.replace("NAME", name)),
        file("layers/debian.kdl", DEBIAN.to_owned()),
        file("layers/app.kdl", APP.to_owned()),
        InitFile { executable: true, ..file("layers/app/hello.sh", HELLO.to_owned()) },
        file(".gitignore", "/cache/\n".to_owned()),
    ]
}

const SANDBOXES: &str = r#"// What this project builds. `sbx build base` builds it, `sbx check` reads it without building.
project "NAME" {
    platforms "linux/amd64"
}

sandbox "base" {
    description "a shell, Python and git"
    layers "debian" "app"
    workdir "/workspace"
    env LANG="C.UTF-8"
    command "/app/hello.sh"
}
"#;

const DEBIAN: &str = r#"// The operating system: Debian's own packages, pinned by sbx.lock.
layer "debian" {
    debian "trixie" {
        packages "ca-certificates" "curl" "git" "python3"
    }
}
"#;

const APP: &str = r#"// Files of your own. What git ignores stays out.
layer "app" needs="debian" {
    files "layers/app" into="/app"
    git-init "/workspace"
}
"#;

const HELLO: &str = r#"#!/bin/sh
echo "hello from $(. /etc/os-release; echo "$PRETTY_NAME"), $(python3 --version)"
"#;
