//! The jobs of `docs/ci.md`, run as they are written: their steps, one after the other, in the shell that the
//! service has, each job on a machine of its own.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::depot::Depot;
use crate::support::project::{Outcome, Project};
use crate::support::repo::Repo;

/// As docker logs in: a name without a password is refused.
const DOCKER: &str = r#"#!/bin/sh
case "$1" in
login)
    read -r password
    [ -n "$password" ] || { echo "Error: Password Required" >&2; exit 1; }
    mkdir -p "$HOME/.docker"
    printf '{"auths":{"%s":{"auth":"Y2k6c2VjcmV0"}}}' "$2" >"$HOME/.docker/config.json" ;;
create) [ "$2 $3" = "--name sbx" ] && echo "$4" ;;
cp) cp "$PROGRAM" "$3" ;;
rm) ;;
*) exit 2 ;;
esac
"#;
const SUDO: &str = "#!/bin/sh\n[ \"$1\" = -E ] && shift\nexec \"$@\"\n";

/// The document, with another registry and another place for programs.
struct Guide {
    text: String,
    depot: Depot,
    bin: tempfile::TempDir,
    repo: Repo,
}

impl Guide {
    fn new() -> Self {
        let depot = Depot::start();
        let bin = tempfile::tempdir().unwrap();
        for (name, text) in [("docker", DOCKER), ("sudo", SUDO)] {
            let path = bin.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ci.md");
        let text = fs::read_to_string(text).unwrap();
        let text = text.replace("registry.example.org", &depot.host);
        let text = text.replace("/usr/local/bin", bin.path().to_str().unwrap());
        let repo = Repo::with_base();
        repo.publish();
        Guide { text, depot, bin, repo }
    }

    /// The block of a kind that follows a heading.
    fn block(&self, heading: &str, kind: &str) -> &str {
        let (_, part) = self.text.split_once(&format!("\n## {heading}\n")).unwrap();
        let (_, block) = part.split_once(&format!("```{kind}\n")).unwrap();
        block.split_once("\n```").unwrap().0
    }

    fn workflow(&self, heading: &str) -> Value {
        serde_saphyr::from_str(self.block(heading, "yaml")).unwrap()
    }

    /// A project, with what is to be committed made as it is said there: two images that are pushed, beside what
    /// else is declared.
    fn author(&self, author: Project) -> Project {
        let more = author.read("sandboxes.kdl");
        let own = "layer \"app\" { files \"app\" into=\"/srv/app\"; }\n\
                   sandbox \"base\" { layers \"app\"; }\n\
                   sandbox \"custom_sandbox\" { layers \"app\"; command \"/srv/app/run\"; }\n";
        let top = self.block("What to commit", "kdl");
        author.write("sandboxes.kdl", &format!("{top}\n{more}{own}"));
        author.write("app/run", "#!/bin/sh\n");
        author.write("ci/readme", "");
        fs::copy(env!("CARGO_BIN_EXE_sbx"), self.bin.path().join("sbx")).unwrap();
        let console = self.block("What to commit", "console");
        let commands: Vec<&str> =
            console.lines().map(|line| line.strip_prefix("$ ").unwrap()).collect();
        assert_eq!(commands.len(), 3);
        self.script(&author, &commands.join("\n"), &[], &["bash", "-e", "-c"]).success();
        fs::remove_file(self.bin.path().join("sbx")).unwrap();
        author
    }

    /// Another machine, with what was committed.
    fn checkout(&self, author: &Project) -> Project {
        let machine = Project::from_repo(&self.repo);
        for file in ["sandboxes.kdl", "sbx.lock", "key.asc", "ci/cache.pub", "app/run"] {
            machine.write(file, &author.read(file));
        }
        machine
    }

    fn script(
        &self,
        machine: &Project,
        script: &str,
        variables: &[(String, String)],
        shell: &[&str],
    ) -> Outcome {
        let plain = machine.command(&[]);
        let mut command = Command::new(shell[0]);
        command.args(&shell[1..]).arg(script).current_dir(machine.dir.path()).env_clear();
        command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let path = format!("{}:{}", self.bin.path().display(), std::env::var("PATH").unwrap());
        command.env("PATH", path).env("PROGRAM", env!("CARGO_BIN_EXE_sbx"));
        let variables = variables.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        Outcome::new(command.envs(variables).output().unwrap())
    }

    /// Runs a job of GitHub's for an event; a secret that is not given is empty there.
    fn github(&self, author: &Project, job: &Value, event: &str, secrets: &Value, share: u32) {
        if job["if"].as_str().is_some_and(|only| !only.ends_with(&format!("'{event}'"))) {
            return;
        }
        let machine = self.checkout(author);
        let temp = tempfile::tempdir().unwrap();
        let temp = temp.path().to_str().unwrap().to_owned();
        for step in job["steps"].as_array().unwrap() {
            let only = step["if"].as_str();
            assert!(only.is_none_or(|only| only == "github.event_name == 'push'"));
            let Some(script) = step["run"].as_str().filter(|_| only.is_none() || event == "push")
            else {
                continue;
            };
            let script = script.replace("${{ matrix.share }}", &share.to_string());
            let mut variables = vec![("RUNNER_TEMP".to_owned(), temp.clone())];
            for (name, value) in self.workflow("GitHub Actions")["env"].as_object().unwrap() {
                variables.push((name.clone(), value.as_str().unwrap().to_owned()));
            }
            for (name, value) in step["env"].as_object().into_iter().flatten() {
                let secret = value.as_str().unwrap().trim_start_matches("${{ secrets.");
                let secret = &secrets[secret.trim_end_matches(" }}")];
                variables.push((name.clone(), secret.as_str().unwrap_or_default().to_owned()));
            }
            self.script(&machine, &script, &variables, &["bash", "-e", "-c"]).success();
        }
    }

    /// Runs a job of GitLab's, in an unprivileged container or on a machine.
    fn gitlab(&self, author: &Project, name: &str, variables: &[(&str, &str)], confined: bool) {
        let workflow = self.workflow("GitLab");
        let (machine, bin) = (self.checkout(author), self.bin.path().join("sbx"));
        fs::copy(env!("CARGO_BIN_EXE_sbx"), bin).unwrap();
        machine.write("key.pem", &author.read("cache.pem"));
        let lines = [&workflow["default"]["before_script"], &workflow[name]["script"]];
        let lines = lines.into_iter().flat_map(|lines| lines.as_array().unwrap());
        let lines: Vec<&str> = lines.map(|line| line.as_str().unwrap()).collect();
        let own = [
            ("CI_REGISTRY", &*self.depot.host),
            ("CI_REGISTRY_USER", "gitlab-ci-token"),
            ("CI_REGISTRY_PASSWORD", "secret"),
            ("CACHE_KEY", "key.pem"),
        ];
        let own = own.iter().chain(variables);
        let variables: Vec<(String, String)> =
            own.map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let shell: &[&str] = match confined {
            false => &["sh", "-e", "-c"],
            true => &[
                "setpriv",
                "--bounding-set",
                "-sys_admin",
                "--inh-caps",
                "-sys_admin",
                "sh",
                "-e",
                "-c",
            ],
        };
        self.script(&machine, &lines.join("\n"), &variables, shell).success();
    }

    fn check_pushed(&self, author: &Project, name: &str) {
        let reference = format!("{}/team/agents/{name}", self.depot.host);
        let held = ["--verify", "ci/cache.pub", "--attested", "spdx", "--attested", "provenance"];
        author.sbx(&[&["pull", &reference], &held[..]].concat()).success();
    }
}

#[test]
fn the_jobs_of_github_run_as_they_are_written() {
    let guide = Guide::new();
    let author = guide.author(Project::new().file("sandboxes.kdl", "").file("key.asc", ""));
    let workflow = guide.workflow("GitHub Actions");
    let jobs = &workflow["jobs"];
    let secrets = serde_json::json!({
        "REGISTRY_TOKEN": "secret", "SBX_CACHE_KEY": author.read("cache.pem").trim_end(),
    });
    let shares = jobs["build"]["strategy"]["matrix"]["share"].as_array().unwrap().len();
    assert_eq!(shares, 4);
    // a fork's pull request, before anything is there and after
    let fork = |share| guide.github(&author, &jobs["build"], "pull_request", &Value::Null, share);
    fork(1);
    assert_eq!(guide.depot.count("PUT", ""), 0, "it writes nothing");
    for share in 1..=4 {
        guide.github(&author, &jobs["build"], "push", &secrets, share);
    }
    guide.github(&author, &jobs["push"], "push", &secrets, 0);
    for name in ["base", "custom_sandbox"] {
        guide.check_pushed(&author, name);
    }
    guide.depot.forget();
    for share in 1..=4 {
        fork(share);
    }
    guide.github(&author, &jobs["push"], "pull_request", &Value::Null, 0);
    assert_eq!((guide.depot.count("PUT", ""), guide.depot.count("POST", "")), (0, 0));
}

#[test]
fn the_jobs_of_gitlab_run_as_they_are_written() {
    let guide = Guide::new();
    // one of the images takes a build sandbox
    let author = guide.author(Project::from_repo(&guide.repo).debian_layers(&[""]));
    guide.gitlab(&author, "layers", &[], false);
    for share in ["1", "2", "3", "4"] {
        guide.gitlab(&author, "images", &[("CI_NODE_INDEX", share), ("CI_NODE_TOTAL", "4")], true);
    }
    guide.gitlab(&author, "push", &[], true);
    guide.check_pushed(&author, "custom_sandbox");
}
