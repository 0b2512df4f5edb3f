//! Objects of Kubernetes: what is printed, held against the published schemas.

use std::fs;

use sbx::platform::Platform;

use crate::support::depot::Depot;
use crate::support::launch::Bench;
use crate::support::project::Project;
use crate::support::python::kept_environment;
use crate::support::tool;

/// The objects, held against the schemas that Kubernetes publishes.
#[test]
fn objects_of_kubernetes_are_valid() {
    let python = kept_environment("kubernetes", &["kubernetes-validate==1.37.0", "pyyaml==6.0.3"]);
    let bench = Bench::new(None);
    bench.project.write(
        "more.kdl",
        r#"sandbox "tight" extends="web" { security-level "high"; user "1000:1000"; workdir "/srv"; limits memory="64MiB" cpus=0.5; env-from-host "SBX_TEST_KEY"; env SHOWN="$(x) yes"; }
sandbox "open" extends="s" { egress "any"; port 53 protocol="udp"; }
"#,
    );
    let all = bench.project.read("sandboxes.kdl");
    bench.project.write("sandboxes.kdl", &format!("include \"more.kdl\"\n{all}"));
    let digest = format!("sha256:{}", "5".repeat(64));
    let image = format!("registry.example.org/team/web@{digest}");
    let cases: &[&[&str]] = &[
        &["web"],
        &["asks"],
        &["never", "--runtime", "gvisor", "--pull-secret", "puller", "--image", &image],
        &["tight", "--name", "Odd.Name_1"],
        &["tight", "--with-secrets", "-e", "SBX_TEST_KEY=told"],
        &["open"],
        &["limited", "--waive", "pids"],
    ];
    for case in cases {
        let printed = |more: &[&str]| {
            let words = ["run", "--launcher", "kubernetes", "--print"];
            bench.sbx(&[&words[..], more, &of(case, &image)].concat()).success().stdout
        };
        let (yaml, json) =
            (bench.project.dir.path().join("o.yaml"), bench.project.dir.path().join("o.json"));
        fs::write(&yaml, printed(&[])).unwrap();
        fs::write(&json, printed(&["--json"])).unwrap();
        let judge = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/launchers/validate.py");
        tool(python.to_str().unwrap(), &[judge, yaml.to_str().unwrap(), json.to_str().unwrap()]);
    }
    said_to_clusters(&bench, &image);
}

/// Nodes are those of the image's platform, whatever machine prints it.
#[test]
fn nodes_of_kubernetes_are_of_the_images_platform() {
    let declared = r#"project "p" { platforms "linux/amd64" "linux/arm64"; }
layer "l" { file "/own" content="own\n"; }
sandbox "s" { layers "l"; command "/own"; }
"#;
    let project = Project::new().file("sandboxes.kdl", declared);
    let image = format!("registry.example.org/s@sha256:{}", "5".repeat(64));
    let print = ["run", "--launcher", "kubernetes", "--print", "s", "--image", &image];
    for other in ["amd64", "arm64"] {
        let platform = format!("linux/{other}");
        let printed = project.sbx(&[&print[..], &["--platform", &platform]].concat()).success();
        let wanted = format!("kubernetes.io/arch: {other}");
        assert!(printed.stdout.contains(&wanted), "{}", printed.stdout);
    }
    let own = project.sbx(&print).success().stdout;
    assert!(own.contains(&format!("arch: {}", Platform::host().architecture())), "{own}");
}

/// Of an image that somebody else pushed, where no other is named.
pub(super) fn of<'a>(case: &[&'a str], image: &'a str) -> Vec<&'a str> {
    let named = case.contains(&"--image");
    case.iter().copied().chain(["--image", image].into_iter().filter(|_| !named)).collect()
}

fn said_to_clusters(bench: &Bench<'_>, image: &str) {
    let objects = |case: &[&str]| -> Vec<serde_json::Value> {
        let words = ["run", "--launcher", "kubernetes", "--print", "--json"];
        let printed = bench.sbx(&[&words[..], &of(case, image)].concat()).success();
        let list: serde_json::Value = serde_json::from_str(&printed.stdout).unwrap();
        list["items"].as_array().unwrap().clone()
    };
    let find = |objects: &[serde_json::Value], kind: &str| {
        objects.iter().find(|object| object["kind"] == kind).cloned().unwrap_or_default()
    };
    // no value of this machine is shown unless it is asked for
    let hidden = objects(&["tight", "-e", "SBX_TEST_KEY=told"]);
    assert!(!serde_json::to_string(&hidden).unwrap().contains("told"));
    let pod = find(&hidden, "Pod");
    let container = &pod["spec"]["containers"][0];
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(container["resources"]["limits"]["cpu"], "500m");
    assert_eq!(pod["spec"]["securityContext"]["runAsNonRoot"], true);
    let text = serde_json::to_string(container).unwrap();
    assert!(text.contains("$$(x) yes") && text.contains("secretKeyRef"), "{text}");
    let shown = objects(&["tight", "--with-secrets", "-e", "SBX_TEST_KEY=told"]);
    assert_eq!(find(&shown, "Secret")["stringData"]["SBX_TEST_KEY"], "told");
    assert_eq!(find(&objects(&["s"]), "NetworkPolicy")["spec"]["egress"], serde_json::json!([]));
    assert_eq!(
        find(&objects(&["open"]), "NetworkPolicy")["spec"]["egress"],
        serde_json::json!([{}])
    );
    let pinned = find(&objects(&["s"]), "Pod");
    assert_eq!(pinned["spec"]["containers"][0]["image"], image);
}

/// Without an image that is named, it is what was pushed last, by the digest that it has there.
#[test]
fn objects_of_kubernetes_have_the_image_that_was_pushed() {
    let bench = Bench::new(None);
    let print = || bench.sbx(&["run", "--launcher", "kubernetes", "--print", "s"]);
    print().fails(1, &["`s` was not pushed as it is built now", "sbx push s", "--image"]);
    let depot = Depot::start();
    for tag in ["1", "2"] {
        let reference = format!("{}/team/s:{tag}", depot.host);
        let pushed = bench.sbx(&["--json", "push", "s", &reference]).success();
        let pushed: serde_json::Value = serde_json::from_str(&pushed.stdout).unwrap();
        let image = format!("{reference}@{}", pushed["digest"].as_str().unwrap());
        let printed = print().success().stdout;
        assert!(printed.contains(&image), "{image}: {printed}");
    }
    bench.project.write("probe", "another\n");
    print().fails(1, &["`s` was not pushed as it is built now"]);
}
