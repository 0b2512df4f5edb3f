//! What this system's apt knows.

use std::process::Command;

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
