//! The `google-chrome` layer of this project's own declarations, over a signed archive of the tests':
//! a browser of somebody else's in the place of Debian's.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use crate::support::project::{Project, chroot, root};
use crate::support::repo::{BASE_EXTRA, Deb, Repo, Signer};
use crate::support::server::Server;
use crate::support::tool;

/// Debian, with a browser of its own and what the other one needs of it.
fn debian() -> &'static Repo {
    static REPO: OnceLock<Repo> = OnceLock::new();
    REPO.get_or_init(|| {
        let repo = Repo::with_base().add_all([
            Deb::new("chromium", "1-1").program("/usr/bin/chromium", "#!/bin/sh\necho Debian\n"),
            Deb::new("fonts-liberation", "2-1").arch("all").file("/usr/share/fonts/x.ttf", "x"),
            Deb::new("libnss3", "3-1").file("/usr/lib/libnss3.so", "x"),
        ]);
        repo.publish();
        repo
    })
}

fn google(signer: Signer) -> Repo {
    let chrome = Deb::new("google-chrome-stable", "140.0.1-1")
        .depends("fonts-liberation, libnss3 (>= 2)")
        .program("/opt/google/chrome/google-chrome", "#!/bin/sh\necho Chrome \"$@\"\n")
        .symlink("/usr/bin/google-chrome-stable", "/opt/google/chrome/google-chrome");
    let mut repo = Repo::new();
    repo.add_to("stable", "main", chrome);
    repo.publish_as(signer);
    repo
}

/// The layer as it stands in this project, with whatever key.
fn project(google: &Repo, key: &str) -> (Project, Server) {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("layers/google-chrome");
    let server = Server::serve(google.dir.path());
    let extra = BASE_EXTRA.map(|name| format!(" \"{name}\"")).concat();
    let declared = format!(
        r#"layer "debian" {{ debian "trixie" {{ suites "trixie"; base "essential"; key "key.asc"; packages{extra}; }}; }}
        layer "chromium" needs="debian" {{ debian {{ packages "chromium"; }}; }}
        sandbox "browser" {{ layers "chromium"; }}
        sandbox "s" extends="browser" {{ replace "chromium" with="google-chrome"; }}
        "#
    );
    let layer = fs::read_to_string(own.with_extension("kdl")).unwrap();
    let project = Project::from_repo(debian())
        .file("sandboxes.kdl", &declared)
        .file("layers/google-chrome.kdl", &layer)
        .var("SBX_MIRROR_GOOGLE_CHROME", &server.url(""));
    tool("cp", &["-r", own.to_str().unwrap(), project.dir.path().join("layers").to_str().unwrap()]);
    if !key.is_empty() {
        project.write("layers/google-chrome/archive-key.asc", key);
    }
    (project, server)
}

#[test]
fn it_takes_the_place_of_debians_browser() {
    let google = google(Signer::Archive);
    let (project, server) = project(&google, &Signer::Archive.public());
    project.build();
    assert_eq!(server.count("google-chrome-stable_140.0.1-1_amd64.deb"), 1);
    let lock = project.read("sbx.lock");
    assert!(
        lock.contains("google-chrome-stable 140.0.1-1") && !lock.contains("127.0.0.1"),
        "{lock}"
    );
    let dir = project.unpack();
    let root = root(&dir);
    let said =
        chroot(&root, "chromium --version; dpkg-query -W -f '${Status}' google-chrome-stable");
    let flags = "--no-sandbox --disable-dev-shm-usage --no-first-run --version";
    assert_eq!(said, format!("Chrome {flags}\ninstall ok installed"));
    assert!(chroot(&root, "dpkg -l chromium 2>&1 || true").contains("no packages found"));
    // apt inside asks where the declaration says, and trusts that archive's key for it alone
    let sources = root.join("etc/apt/sources.list.d/google-chrome.sources");
    let sources = fs::read_to_string(sources).unwrap();
    let keyring = sources.lines().find_map(|line| line.strip_prefix("Signed-By: ")).unwrap();
    assert_eq!(
        sources,
        format!(
            "Types: deb\nURIs: https://dl.google.com/linux/chrome/deb\nSuites: stable\nComponents: main\nSigned-By: {keyring}\n"
        )
    );
    assert!(root.join(keyring.trim_start_matches('/')).is_file());
    let debians = fs::read_to_string(root.join("etc/apt/sources.list.d/debian.sources")).unwrap();
    assert!(!debians.contains(keyring), "{debians}");
}

#[test]
fn an_archive_of_another_signature_is_refused() {
    let stranger = google(Signer::Stranger);
    let (other, _server) = project(&stranger, &Signer::Archive.public());
    let texts = ["`google-chrome` `stable`", "which the keyring does not hold"];
    other.sbx(&["lock"]).fails(3, &texts);
    // the key that stands in this project is read, and is not the tests'
    let sound = google(Signer::Archive);
    let (own, _server) = project(&sound, "");
    own.sbx(&["lock"]).fails(3, &texts);
}
