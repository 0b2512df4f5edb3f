//! What a launcher cannot honour, or not for everybody, and how that is said.

use std::os::unix::fs::symlink;

use super::kubernetes::of;
use crate::support::launch::Bench;
use crate::support::user::User;

#[test]
fn what_a_launcher_cannot_honour_is_refused() {
    let bench = Bench::new(None);
    bench.project.write(
        "more.kdl",
        r#"sandbox "udp" extends="s" { port 53 protocol="udp"; }
sandbox "any" extends="s" { egress "any"; }
sandbox "out" extends="s" { egress "example.org:443"; }
"#,
    );
    let all = bench.project.read("sandboxes.kdl");
    bench.project.write("sandboxes.kdl", &format!("include \"more.kdl\"\n{all}"));
    for launcher in ["embedded", "oci", "docker"] {
        let run = |rest: &[&str]| bench.sbx(&[&["run", "--launcher", launcher], rest].concat());
        if launcher != "docker" {
            let named = format!("launcher `{launcher}` cannot honour");
            run(&["udp"]).fails(1, &[&named, "port 53/udp"]);
        }
        run(&["--waive", "pids", "s"]).fails(1, &["for launcher `kubernetes`"]);
    }
    // nobody would serve the way out of what others start
    for (launcher, sandbox) in
        [("oci", "out"), ("oci", "any"), ("docker", "out"), ("docker", "any")]
    {
        let refused = format!("`{launcher}` cannot honour `egress` in what it prints");
        bench.sbx(&["run", "--launcher", launcher, "--print", sandbox]).fails(1, &[&refused]);
    }
    let missing = bench.sbx(&["run", "--launcher", "oci", "--runtime", "runsc", "s"]);
    missing.fails(1, &["no runtime `runsc`", "apt-get install runsc"]);
    bench.sbx(&["run", "--runtime", "runc", "s"]).fails(1, &["`--runtime` is for"]);
    bench.sbx(&["run", "--print", "s"]).fails(1, &["nothing to print", "--launcher"]);
    let image = format!("example.org/s@sha256:{}", "5".repeat(64));
    let cluster = |rest: &[&str]| {
        let words = ["run", "--launcher", "kubernetes", "--print"];
        bench.sbx(&[&words[..], &of(rest, &image)].concat())
    };
    bench.sbx(&["run", "--launcher", "kubernetes", "s"]).fails(1, &["--print", "kubectl apply"]);
    cluster(&["out"]).fails(1, &["`kubernetes` cannot honour", "addresses only"]);
    cluster(&["limited"]).fails(1, &["limits pids=20", "--waive pids"]);
    cluster(&["-v", "/etc:/given", "s"]).fails(1, &["mount `/etc`"]);
    cluster(&["-p", "8080:80", "s"]).fails(1, &["port 8080 of this machine"]);
    cluster(&["--image", "example.org/a:1", "s"]).fails(2, &["no digest", "@sha256:"]);
    let mut away = bench;
    away.set("DOCKER_HOST", "tcp://192.0.2.1:2375");
    let run = ["run", "--launcher", "docker", "s"];
    away.sbx(&run).fails(1, &["not on this machine", "DOCKER_HOST=unix://"]);
    away.set("DOCKER_HOST", "unix:///none.sock");
    away.sbx(&run).fails(3, &["does not answer at /none.sock", "systemctl start docker"]);
}

/// What is refused needs no image: this one cannot be built.
#[test]
fn what_is_refused_when_printed_is_refused_before_its_image_is_made() {
    let more = r#"layer "broken" needs="box" { run "exit 1"; }
sandbox "broken" { layers "broken"; command "/bin/true"; }
sandbox "out" extends="broken" { egress "example.org:443"; }
sandbox "few-there" extends="broken" { limits pids=40; }
"#;
    let bench = Bench::declaring(None, more);
    let print = |launcher: &str, rest: &[&str]| {
        bench.sbx(&[&["run", "--launcher", launcher, "--print"], rest].concat())
    };
    for launcher in ["oci", "docker", "kubernetes"] {
        print(launcher, &["out"]).fails(1, &[launcher, "cannot honour `egress`"]);
    }
    print("kubernetes", &["few-there"]).fails(1, &["limits pids=40", "--waive pids"]);
    print("kubernetes", &["-p", "8080:80", "broken"]).fails(1, &["port 8080 of this machine"]);
    print("kubernetes", &["broken"]).fails(1, &["exit 1"]);
}

#[test]
fn an_ordinary_user_is_told_who_needs_root() {
    let user = User::new();
    let bench = Bench::new(Some(&user));
    let other = user.program().with_file_name("other");
    symlink("/usr/sbin/runc", &other).unwrap();
    let other = other.to_str().unwrap();
    let outcome = bench.sbx(&["run", "--launcher", "oci", "--runtime", other, "s"]);
    outcome.fails(1, &["launcher `oci` takes root", "leave `--launcher` out"]);
    let image = format!("example.org/s@sha256:{}", "5".repeat(64));
    let print = ["run", "--launcher", "kubernetes", "--print", "--image", &image, "s"];
    bench.sbx(&print).success();
}
