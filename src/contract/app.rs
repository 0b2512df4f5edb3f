//! AgentScope's app, endpoint by endpoint.

use reqwest::Method;
use serde_json::{Value, json};

use super::caller::{Call, Caller, Shown};
use super::{Finding, Flaw, Trial, brief, hold};

/// What each of its parts is asked without the right token, and must refuse.
const GUARDED: [&str; 4] = [
    "/fastapi/healthz",
    "/fastapi/mcp/list_tools",
    "/fastapi/workspace/list",
    "/fastapi/watcher/git_logs",
];
const BOUNDARY: &str = "sbx-boundary-5f1c";

/// Whose instance it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manners {
    /// Started for the test alone.
    Own,
    /// Somebody works in it: nothing of theirs is touched.
    Guest,
}

/// `scratch` is a name that nothing in the workspace has.
pub fn check_app(trial: &mut Trial, caller: &Caller, scratch: &str, manners: Manners) {
    trial.check("auth", "refused without a token", || refused(caller, Shown::Nothing));
    trial.check("auth", "refused with a wrong token", || refused(caller, Shown::Wrong));
    trial.check("box", "healthz", || {
        caller.done(Call::get("/fastapi/healthz"))?;
        Ok("200".to_owned())
    });
    trial.check("box", "run_ipython_cell", || ipython(caller));
    trial.check("box", "run_shell_command", || shell(caller));
    check_workspace(trial, &Workspace { caller, dir: scratch });
    check_watcher(trial, &Workspace { caller, dir: scratch }, manners);
}

fn refused(caller: &Caller, shown: Shown) -> Finding {
    for path in GUARDED {
        let answer = caller.ask(Call::get(path).shown(shown))?;
        hold(answer.status == 403, || format!("GET {path} answers {}, not 403", answer.status))?;
    }
    let run = "/fastapi/tools/run_shell_command";
    let answer = caller.ask(Call::post(run, &json!({ "command": "true" })).shown(shown))?;
    hold(answer.status == 403, || format!("POST {run} answers {}, not 403", answer.status))?;
    Ok("403 everywhere".to_owned())
}

/// What a tool's result says on one of its streams.
pub(super) fn texts(result: &Value, part: &str) -> String {
    let items = result["content"].as_array().into_iter().flatten();
    let of = |item: &&Value| item["description"].as_str().is_none_or(|said| said == part);
    items.filter(of).filter_map(|item| item["text"].as_str()).collect()
}

fn ipython(caller: &Caller) -> Finding {
    let cell = |code: &str| {
        caller.json(Call::post("/fastapi/tools/run_ipython_cell", &json!({ "code": code })))
    };
    let first = cell("sbx_kept = 41")?;
    hold(first["isError"] == false, || format!("a cell fails: {}", brief(&first.to_string())))?;
    let second = cell("print(sbx_kept + 1)")?;
    let said = texts(&second, "stdout");
    hold(said.trim() == "42", || {
        format!("the next cell does not know the first's: {}", brief(&second.to_string()))
    })?;
    Ok("keeps its state".to_owned())
}

fn shell(caller: &Caller) -> Finding {
    let command = json!({ "command": "printf out; printf err >&2; exit 3" });
    let result = caller.json(Call::post("/fastapi/tools/run_shell_command", &command))?;
    let parts = ["stdout", "stderr", "returncode"].map(|part| texts(&result, part));
    let sound = parts == ["out", "err", "3"] && result["isError"] == true;
    hold(sound, || format!("streams or code are wrong: {}", brief(&result.to_string())))?;
    Ok("answers by stream, with the exit code".to_owned())
}

/// A directory of the workspace that is the test's own.
struct Workspace<'a> {
    caller: &'a Caller,
    dir: &'a str,
}

impl Workspace<'_> {
    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.dir)
    }

    fn write(&self, name: &str, text: &str) -> Result<(), Flaw> {
        let path = self.path(name);
        let body = Some(("text/plain; charset=utf-8", text.as_bytes().to_vec()));
        let call = Call { body, ..Call::new(Method::PUT, "/fastapi/workspace/file") };
        self.caller.done(call.query(&[("path", &path)]))?;
        Ok(())
    }

    fn read(&self, name: &str) -> Result<String, Flaw> {
        let path = self.path(name);
        let call = Call::get("/fastapi/workspace/file");
        Ok(self.caller.done(call.query(&[("path", &path), ("format", "text")]))?)
    }

    fn exists(&self, name: &str) -> Result<bool, Flaw> {
        let path = self.path(name);
        let call = Call::get("/fastapi/workspace/exists");
        Ok(self.caller.json(call.query(&[("path", &path)]))?["exists"] == true)
    }

    fn remove(&self, path: &str) -> Result<(), Flaw> {
        let call = Call::new(Method::DELETE, "/fastapi/workspace/entry");
        self.caller.done(call.query(&[("path", path)]))?;
        Ok(())
    }

    fn mkdir(&self) -> Finding {
        let path = json!({ "path": self.path("below") });
        self.caller.done(Call::post("/fastapi/workspace/mkdir", &path))?;
        hold(self.exists("below")?, || "what was made is not there".to_owned())?;
        Ok("a directory in a new one".to_owned())
    }

    fn file(&self) -> Finding {
        self.write("one.txt", "grüße\n")?;
        let read = self.read("one.txt")?;
        hold(read == "grüße\n", || format!("`{}` is read, not what was written", brief(&read)))?;
        Ok("written and read".to_owned())
    }

    /// Several files at once, as a form.
    fn batch(&self) -> Finding {
        let mut form = String::new();
        for name in ["two.txt", "three.txt"] {
            let path = self.path(name);
            form += &format!(
                "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"paths\"\r\n\r\n{path}\r\n"
            );
            form += &format!(
                "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"files\"; filename=\"{name}\"\r\nContent-Type: application/octet-stream\r\n\r\nof {name}\r\n"
            );
        }
        form += &format!("--{BOUNDARY}--\r\n");
        let kind = format!("multipart/form-data; boundary={BOUNDARY}");
        let body = Some((kind.as_str(), form.into_bytes()));
        let call = Call { body, ..Call::new(Method::POST, "/fastapi/workspace/files:batch") };
        self.caller.done(call)?;
        for name in ["two.txt", "three.txt"] {
            let read = self.read(name)?;
            hold(read == format!("of {name}"), || format!("{name} holds `{}`", brief(&read)))?;
        }
        Ok("two files".to_owned())
    }

    fn list(&self) -> Finding {
        let call = Call::get("/fastapi/workspace/list");
        let list = self.caller.json(call.query(&[("path", self.dir)]))?;
        let names: Vec<&str> =
            list.as_array().into_iter().flatten().filter_map(|one| one["name"].as_str()).collect();
        hold(names.contains(&"one.txt") && names.contains(&"below"), || {
            format!("what was made is not in {names:?}")
        })?;
        Ok(format!("{} entries", names.len()))
    }

    fn rename(&self) -> Finding {
        let [source, destination] = [self.path("one.txt"), self.path("below/moved.txt")];
        let body = json!({ "source": source, "destination": destination });
        self.caller.done(Call::post("/fastapi/workspace/move", &body))?;
        let moved = !self.exists("one.txt")? && self.exists("below/moved.txt")?;
        hold(moved, || "the file is where it was".to_owned())?;
        Ok("moved into a directory".to_owned())
    }

    fn clear(&self) -> Finding {
        self.remove(self.dir)?;
        hold(!self.exists("below")?, || "what was removed is still there".to_owned())?;
        Ok("a directory with what is in it".to_owned())
    }

    /// Two commits, and what lies between them.
    fn commits(&self) -> Result<[String; 2], Flaw> {
        let commit = |message: &str| -> Result<String, Flaw> {
            let body = json!({ "commit_message": message });
            let answer = self.caller.json(Call::post("/fastapi/watcher/commit_changes", &body))?;
            let id = answer["commit"].as_str().unwrap_or_default();
            hold(id.len() == 40, || format!("no commit in {}", brief(&answer.to_string())))?;
            Ok(id.to_owned())
        };
        self.write("watched.txt", "before\n")?;
        let first = commit("sbx test: first")?;
        self.write("watched.txt", "after\n")?;
        Ok([first, commit("sbx test: second")?])
    }

    fn diff(&self, commits: &[String; 2]) -> Finding {
        let body = json!({ "commit_a": commits[0], "commit_b": commits[1] });
        let diff = self.caller.done(Call::post("/fastapi/watcher/generate_diff", &body))?;
        let sound = diff.contains("-before") && diff.contains("+after");
        hold(sound, || format!("the change is not in {}", brief(&diff)))?;
        Ok("shows the change".to_owned())
    }

    fn logs(&self, commits: Option<&[String; 2]>) -> Finding {
        let answer = self.caller.json(Call::get("/fastapi/watcher/git_logs"))?;
        let logs = answer["logs"].as_array().ok_or_else(|| {
            Flaw::Failed(format!("no list of commits in {}", brief(&answer.to_string())))
        })?;
        let known = |id: &String| logs.iter().any(|log| log["commit"] == **id);
        hold(commits.into_iter().flatten().all(known), || "a commit is missing".to_owned())?;
        Ok(format!("{} commits", logs.len()))
    }
}

fn check_workspace(trial: &mut Trial, workspace: &Workspace<'_>) {
    trial.check("workspace", "mkdir", || workspace.mkdir());
    trial.check("workspace", "file", || workspace.file());
    trial.check("workspace", "files:batch", || workspace.batch());
    trial.check("workspace", "list", || workspace.list());
    trial.check("workspace", "exists", || {
        hold(workspace.exists("two.txt")?, || "a file that was written is not there".to_owned())?;
        hold(!workspace.exists("none")?, || "what nobody made is there".to_owned())?;
        Ok("says yes and no".to_owned())
    });
    trial.check("workspace", "move", || workspace.rename());
    trial.check("workspace", "entry", || workspace.clear());
}

fn check_watcher(trial: &mut Trial, workspace: &Workspace<'_>, manners: Manners) {
    if manners == Manners::Guest {
        let reason = "it would commit what somebody else works on";
        for name in ["commit_changes", "generate_diff"] {
            trial.note("watcher", name, Err(Flaw::LeftOut(reason.to_owned())), 0.0);
        }
        return trial.check("watcher", "git_logs", || workspace.logs(None));
    }
    let mut commits = None;
    trial.check("watcher", "commit_changes", || {
        commits = Some(workspace.commits()?);
        Ok("two commits".to_owned())
    });
    trial.check("watcher", "generate_diff", || match &commits {
        Some(commits) => workspace.diff(commits),
        None => Err(Flaw::Failed("there are no commits to compare".to_owned())),
    });
    trial.check("watcher", "git_logs", || workspace.logs(commits.as_ref()));
}
