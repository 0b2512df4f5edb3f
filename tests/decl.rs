//! Declarations: what is read, how it is merged, and every mistake pointed at.

use crate::support::project::Project;
use sbx::decl::{Egress, Faults, Project as Declared, Ready, read_project};
use sbx::platform::Platform;

const LAYERS: &str = "layer \"debian\" { debian \"trixie\"; }\nlayer \"app\" needs=\"debian\" { dir \"/app\"; }\nlayer \"tools\" needs=\"debian\" { dir \"/tools\"; }\n";

fn read(text: &str) -> Result<Declared, Faults> {
    let project = Project::new().file("sandboxes.kdl", text);
    read_project(project.dir.path())
}

/// The faults of a text, each as `line: message | text it points at | help`.
#[track_caller]
fn faults(text: &str) -> String {
    let faults = read(text).expect_err("the text must have faults");
    let lines = faults.iter().map(|fault| {
        let (place, pointed) = match &fault.at {
            Some(at) => (at.line(), at.file.text[at.span.clone()].to_owned()),
            None => (String::new(), String::new()),
        };
        let help = fault.help.clone().unwrap_or_default();
        format!(
            "{}: {} | {pointed} | {help}",
            place.trim_start_matches("sandboxes.kdl:"),
            fault.message
        )
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn with_layers(text: &str) -> String {
    format!("{LAYERS}{text}")
}

#[test]
fn a_sandbox_takes_over_what_it_extends() {
    let text = with_layers(
        r#"
sandbox "base" {
    layers "debian" "app"
    env A="1" B="2"
    port 80
    command "/boot" "now"
    limits memory="2GiB" cpus=1.5
    egress "a.example.org:443"
    description "base"
}
sandbox "more" extends="base" {
    replace "app" with="tools"
    env B="3" C="4"
    port 53 protocol="udp"
    limits pids=10
    egress "any"
    ready http="/healthz"
}
"#,
    );
    let project = read(&text).unwrap();
    let more = &project.sandboxes[&"more".parse().unwrap()];
    let layers: Vec<_> = more.layers.iter().map(|layer| layer.as_str()).collect();
    assert_eq!(layers, ["debian", "tools"]);
    let env: Vec<_> = more.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(env, ["A=1", "B=3", "C=4"]);
    assert_eq!(more.ports.len(), 2);
    assert_eq!(more.command, ["/boot", "now"]);
    assert_eq!(
        (more.limits.memory, more.limits.milli_cpus, more.limits.pids),
        (Some(2 << 30), Some(1500), Some(10))
    );
    assert_eq!(more.egress, Egress::Any);
    assert_eq!(more.ready, Some(Ready::Http { path: "/healthz".into(), port: None }));
    assert_eq!(more.description, None, "a description is one sandbox's own");
}

#[test]
fn needs_come_by_themselves_and_only_limits_platforms() {
    let text = with_layers(
        "layer \"chrome\" needs=\"debian\" only=\"linux/amd64\" { dir \"/c\"; }\nsandbox \"s\" { layers \"app\" \"chrome\"; }\n",
    );
    let project = read(&text).unwrap();
    let sandbox = project.sandboxes.values().next().unwrap();
    let names = |platform| -> Vec<&str> {
        project.layers_of(sandbox, platform).iter().map(|layer| layer.name.as_str()).collect()
    };
    assert_eq!(names(Platform::Amd64), ["debian", "app", "chrome"]);
    assert_eq!(names(Platform::Arm64), ["debian", "app"]);
}

#[test]
fn all_faults_are_shown_at_once_with_the_nearest_name() {
    let text = with_layers(
        r#"sandbox "s" {
    layers "debian" "ap"
    comand "x"
    port 99999
    limits memory="2gb"
    workdir "relative"
    stop-signal "SIGTREM"
    egress "no-port"
    env "1A"="x"
}
"#,
    );
    insta::assert_snapshot!(faults(&text), @r###"
    5: sandbox `s` has layer `ap`, which does not exist | "ap" | did you mean `app`?
    6: unknown node `comand` in a sandbox | comand | did you mean `command`?
    7: `port` takes a port (1 to 65535) | 99999 | 
    8: `2gb` is no size: write `512MiB` or `2GiB` | limits | 
    9: path `relative` is not absolute | workdir | 
    10: `SIGTREM` is no signal | stop-signal | did you mean `SIGTERM`?
    11: `no-port` is no host with a port | "no-port" | write `api.example.org:443` or `*.example.org:443`
    12: `1A` cannot be an environment variable | "1A"="x" |
    "###);
}

#[test]
fn names_that_lead_nowhere_or_in_circles_are_faults() {
    insta::assert_snapshot!(faults("sandbox \"a\" extends=\"b\"\nsandbox \"b\" extends=\"a\"\nsandbox \"c\" extends=\"bb\"\n"), @r###"
    2: `extends` goes in a circle: a → b → a | extends="a" | 
    3: sandbox `c` extends `bb`, which does not exist | extends="bb" | did you mean `b`?
    "###);
    insta::assert_snapshot!(faults("layer \"x\" needs=\"y\" { dir \"/x\"; }\nlayer \"y\" needs=\"x\" { dir \"/y\"; }\nlayer \"z\" needs=\"yy\" { dir \"/z\"; }\n"), @r###"
    1: `needs` goes in a circle: x → y → x | layer | 
    3: layer `z` needs `yy`, which does not exist | needs="yy" | did you mean `y`?
    "###);
    insta::assert_snapshot!(faults(&with_layers("layer \"app\" { dir \"/b\"; }\nsandbox \"s\" { layers \"app\"; without \"tools\"; }\n")), @r###"
    4: layer `app` is declared twice | layer | 
    5: sandbox `s` inherits no layer `tools` | "tools" |
    "###);
}

#[test]
fn mistakes_in_recipes_are_pointed_at() {
    let text = r#"layer "l" {
    debian { packages "Git" "nginx>1"; bse "none"; }
    files "../up" into="/x"
    user "agent"
    own "/x"
    dir "x"
    link "/l"
    run "make"
    fles "a" into="/b"
}
"#;
    insta::assert_snapshot!(faults(text), @r###"
    2: `debian` in layer `l` names no release, and no layer it needs does | debian | write `debian "trixie" { … }`, or add what it `needs`
    2: `Git` cannot be the name of a Debian package | "Git" | write `name`, `name>=1.2` or `name:arch`
    2: `>1` is no version constraint | "nginx>1" | write `name`, `name>=1.2` or `name:arch`
    2: unknown node `bse` in `debian` | bse | did you mean `base`?
    3: `../up` leaves the project | files | 
    4: `user` needs `uid=…` | user | 
    5: `own` needs `owner=…` | own | 
    6: path `x` is not absolute | dir | 
    7: `link` needs `to=…` | link | 
    9: unknown node `fles` in a layer | fles | did you mean `files`?
    "###);
}

#[test]
fn no_address_carries_a_password_into_an_image_or_its_bill() {
    let text = r#"layer "l" {
    debian "trixie" {
        mirror "https://me:secret@debian.example.org/debian"
        repository "tools" { url "http://me@deb.example.org"; suite "stable"; key "k.asc"; }
    }
    archive "https://me:secret@example.org/x.tar.gz" into="/x" digest="sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
}
"#;
    let faults = faults(text);
    let lines: Vec<_> = faults.lines().filter(|line| line.contains("password")).collect();
    let at = lines.iter().map(|line| line.split_once(':').unwrap().0).collect::<Vec<_>>();
    assert_eq!(at, ["3", "4", "6"], "{faults}");
    assert!(!faults.contains("secret@") && faults.contains("settings.kdl"), "{faults}");
}

#[test]
fn a_file_of_kdl_version_1_gets_a_hint() {
    let text =
        faults("layer \"l\" {\n    debian \"trixie\" {\n        recommends true\n    }\n}\n");
    assert!(text.contains("this is KDL v1"), "{text}");
}

#[test]
fn a_directory_without_a_project_says_what_makes_one() {
    let project = Project::new();
    project.sbx(&["build", "s"]).fails(1, &["there is no `sandboxes.kdl`", "sbx init"]);
}

#[test]
fn what_init_writes_can_be_planned() {
    let project = Project::new();
    project.sbx(&["init", "demo"]).success();
    let declared = read_project(&project.dir.path().join("demo")).unwrap();
    assert_eq!(declared.name.as_str(), "demo");
    project.sbx(&["init", "demo"]).fails(1, &["exists already"]);
}

#[test]
fn faults_are_rendered_with_their_text_and_exit_with_1() {
    let project = Project::new().file("sandboxes.kdl", "sandbox \"s\" { layers \"gone\"; }\n");
    project.sbx(&["check"]).fails(1, &["sandboxes.kdl:1", "`gone`", "layers \"gone\"", "1 fault"]);
    project.sbx(&["check", "--no-such-flag"]).fails(2, &["--no-such-flag"]);
}

#[test]
fn a_thousand_sandboxes_are_read_quickly() {
    let mut text = with_layers("sandbox \"base\" { layers \"app\"; env A=\"1\"; }\n");
    for n in 0..1000 {
        text += &format!("sandbox \"s{n}\" extends=\"base\" {{ env N=\"{n}\"; }}\n");
    }
    let project = Project::new().file("sandboxes.kdl", &text);
    let start = std::time::Instant::now();
    assert_eq!(read_project(project.dir.path()).unwrap().sandboxes.len(), 1001);
    // the aim is a tenth of it; a loaded machine gets more
    assert!(start.elapsed().as_secs_f64() < 2.0, "{:?}", start.elapsed());
}

#[test]
fn commands_and_stages_are_checked() {
    let text = with_layers(
        r#"layer "stage" needs="debian" ship=#false { debian { packages "gcc"; }; run "make"; }
layer "late" needs="stage" { debian { packages "git"; }; }
layer "bad" needs="debian" {
    run
    run " " cwd="relative"
    run "x" allow="root" { allow "sockets"; secret "a/b"; secret "t" env="T" file="t"; deny "x"; retry 3; }
}
sandbox "s" { layers "stage"; }
"#,
    );
    insta::assert_snapshot!(faults(&text), @r#"
    5: `debian` in layer `late` stands on packages of layer `stage`, which is `ship=#false` | debian | need a layer of Debian's that is shipped
    7: `run` needs a command | run | 
    8: `run` needs a command that is not empty | run | 
    8: path `relative` is not absolute | run | 
    9: `root` cannot be allowed: known are `setuid` and `socket` | allow="root" | 
    9: `sockets` cannot be allowed: known are `setuid` and `socket` | "sockets" | 
    9: `a/b` is no name for a file of a secret | secret | 
    9: a secret has `env=…` or `file=…`, not both | secret | 
    9: path `x` is not absolute | "x" | 
    9: unknown node `retry` in `run` | retry | known are allow, deny, env, secret
    11: sandbox `s` has layer `stage`, which is `ship=#false` | "stage" | let a layer of the sandbox need it, or ship it
    "#);
}
