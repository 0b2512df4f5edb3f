//! The images that sbx makes of itself (`release/`): declared, locked, and built with this program in the place
//! of the static ones, which `release/build` compiles.

use std::fs;
use std::path::Path;

use crate::support::project::Project;
use crate::support::tool;
use crate::support::trixie::patiently;

#[test]
fn the_image_of_the_program_is_built_from_its_lock() {
    if std::env::var_os("SBX_TEST_QUICK").is_some_and(|value| !value.is_empty()) {
        eprintln!("not built: `tests/run --quick` leaves the public registries alone");
        return;
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("release");
    let project = Project::new();
    for name in ["sandboxes.kdl", "sbx.lock"] {
        project.write(name, &fs::read_to_string(here.join(name)).unwrap());
    }
    for platform in ["amd64", "arm64"] {
        let out = project.dir.path().join(format!("out/linux-{platform}"));
        fs::create_dir_all(&out).unwrap();
        fs::copy(env!("CARGO_BIN_EXE_sbx"), out.join("sbx")).unwrap();
    }
    let both = ["--platform", "linux/amd64", "--platform", "linux/arm64"];
    project.sbx(&["check", "sbx", "ci"]).success();
    patiently(|| project.sbx(&[&["build", "sbx", "--locked"], &both[..]].concat())).success();
    for platform in both.into_iter().filter(|word| word.starts_with("linux")) {
        has_program(&project, platform);
    }
}

fn has_program(project: &Project, platform: &str) {
    let tar = project.dir.path().join("image.tar");
    let tar = tar.to_str().unwrap();
    let save = ["save", "sbx", "--platform", platform, "--format", "tar", "-o", tar];
    project.sbx(&save).success();
    let listed = tool("tar", &["--list", "--verbose", "--file", tar]);
    let mode = |path: &str| {
        let line = listed.lines().find(|line| line.ends_with(&format!(" {path}")));
        line.and_then(|line| line.split(' ').next()).unwrap_or_else(|| panic!("{path}: {listed}"))
    };
    assert_eq!(mode("usr/bin/sbx"), "-rwxr-xr-x");
    assert_eq!(mode("etc/ssl/certs/ca-certificates.crt"), "-rw-r--r--");
    assert_eq!(mode("tmp/"), "drwxrwxrwt");
}
