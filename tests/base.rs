//! The project's own sandbox, from Debian's own archive: what the README's first command gives.

use std::path::Path;
use std::process::Command;

use crate::support::project::{Outcome, chroot};
use crate::support::tool;

#[test]
fn base_builds_from_debian_and_works() {
    if std::env::var_os("SBX_TEST_QUICK").is_some_and(|value| !value.is_empty()) {
        return eprintln!("not built: `tests/run --quick` leaves Debian's own archive alone");
    }
    let home = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cache = home.path().join("cache");
    let sbx = |arguments: &[&str]| {
        let cache = cache.to_str().unwrap();
        let all = [&["--project", root.to_str().unwrap(), "--cache", cache], arguments].concat();
        Outcome::new(Command::new(env!("CARGO_BIN_EXE_sbx")).args(all).output().unwrap())
    };
    let image = sbx(&["build", "base"]).success().stdout;
    assert_eq!(sbx(&["build", "base", "--offline", "--locked"]).success().stdout, image);
    let reference = format!("{}:base", cache.display());
    let inspected = tool("skopeo", &["inspect", &format!("oci:{reference}")]);
    assert!(inspected.contains("WORKSPACE_DIR=/workspace"), "{inspected}");
    let bundle = home.path().join("bundle");
    tool("umoci", &["unpack", "--image", &reference, bundle.to_str().unwrap()]);
    let rootfs = bundle.join("rootfs");
    let run = |script: &str| chroot(&rootfs, script);
    assert_eq!(run("dpkg --audit"), "");
    assert!(
        run("python3 -c 'import ssl, sqlite3, venv; print(ssl.OPENSSL_VERSION)'")
            .contains("OpenSSL 3")
    );
    assert!(run("git -C /workspace status").contains("No commits yet"));
    assert!(run("nginx -v 2>&1").contains("nginx/1."));
    assert_eq!(
        run("printf 'int main(void){return 0;}' | gcc -x c - -o /root/a && /root/a && echo ran"),
        "ran\n"
    );
    assert!(
        run("grep -c BEGIN /etc/ssl/certs/ca-certificates.crt").trim().parse::<u32>().unwrap()
            > 100
    );
    assert_eq!(run("cat /etc/machine-id /etc/hostname /etc/resolv.conf 2>/dev/null; ls /tmp"), "");
    assert_eq!(run("stat -c %a /root /tmp /run/lock /var/tmp"), "700\n1777\n1777\n1777\n");
}
