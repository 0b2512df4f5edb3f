//! What this system's apt knows, and systems made from there.

use std::path::Path;
use std::process::Command;

use super::tool;

/// Where this system's apt finds Debian's archive and its security archive.
pub fn mirrors() -> (String, String) {
    let format = "$(REPO_URI) $(RELEASE) $(COMPONENT)";
    let output =
        Command::new("apt-get").args(["indextargets", "--format", format]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let find = |security: bool| {
        text.lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .filter(|words| words.get(2) == Some(&"main") && words[0].contains("debian"))
            .find(|words| words[1].ends_with("-security") == security)
            .map(|words| words[0].to_owned())
    };
    let archive = find(false).expect("this system's apt knows Debian's archive");
    let security =
        find(true).unwrap_or_else(|| format!("{}-security", archive.trim_end_matches('/')));
    (archive, security)
}

/// Makes a system of these packages, separated by spaces, on top of Debian's `minbase`.
pub fn mmdebstrap(codename: &str, packages: &str, recommends: bool, into: &Path) {
    let include =
        format!("--include={}", packages.split_whitespace().collect::<Vec<_>>().join(","));
    let recommends = format!("--aptopt=APT::Install-Recommends \"{recommends}\"");
    let (archive, security) = mirrors();
    let sources = [
        format!("deb {archive} {codename} main"),
        format!("deb {archive} {codename}-updates main"),
        format!("deb {security} {codename}-security main"),
    ];
    let keyring = format!(
        "--keyring={}/src/debian/keyrings/debian-archive-keyring.pgp",
        env!("CARGO_MANIFEST_DIR")
    );
    let mut arguments = vec![
        "--quiet",
        "--mode=root",
        "--variant=minbase",
        "--architectures=amd64",
        "--format=directory",
        &keyring,
        &include,
        &recommends,
        codename,
        into.to_str().unwrap(),
    ];
    arguments.extend(sources.iter().map(String::as_str));
    tool("mmdebstrap", &arguments);
}
