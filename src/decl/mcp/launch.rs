//! Command lines that fetch what they start: `npx`, `uvx` and the like, read for what they mean.
//!
//! They ask a registry at every start and take what it has that day. What they name becomes a locked
//! package on the image's own disk; an option that would change what is fetched in a way that a lock
//! has no word for is a fault, never dropped.

use crate::decl::npm_tools::parse_spec;

/// What a command line starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Launch {
    /// A program of npm packages; the first has the program unless it is named.
    Npm { packages: Vec<String>, program: Option<String>, args: Vec<String> },
    /// Likewise of Python's.
    Pypi(Pypi),
    /// A program of the image's.
    Program,
}

/// What `uvx` is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pypi {
    pub(super) packages: Vec<String>,
    pub(super) program: String,
    pub(super) python: Option<String>,
    pub(super) as_of: Option<String>,
    pub(super) args: Vec<String>,
}

/// Reads a command line; an error says why it cannot be locked.
pub(super) fn parse_launch(command: &str, args: &[String]) -> Result<Launch, String> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match (file_name(command), words.as_slice()) {
        ("cmd", ["/c" | "/C", inner, ..]) => parse_launch(inner, &args[2..]),
        ("env", [inner, ..]) if !inner.contains('=') && !inner.starts_with('-') => {
            parse_launch(inner, &args[1..])
        }
        ("npx" | "bunx" | "pnpx", words) => npx(words),
        ("npm", ["exec" | "x", words @ ..]) => npx(words),
        ("pnpm" | "yarn", ["dlx", words @ ..]) => npx(words),
        ("bun", ["x", words @ ..]) => npx(words),
        ("uvx", words) => uvx(words),
        ("uv", ["tool", "run", words @ ..]) => uvx(words),
        ("uv", ["run", words @ ..]) => uv_run(words),
        ("pipx", ["run", words @ ..]) => pipx(words),
        ("sh" | "bash", words) => {
            let fetches = |word: &str| ["npx", "uvx", "pipx"].contains(&file_name(word));
            let found = words.iter().flat_map(|word| word.split_whitespace()).find(|w| fetches(w));
            found.map_or(Ok(Launch::Program), |word| Err(format!("starts `{word}` in a shell")))
        }
        _ => Ok(Launch::Program),
    }
}

/// `/usr/bin/npx` → `npx`; Windows's endings are no part of a name.
fn file_name(command: &str) -> &str {
    let name = command.rsplit(['/', '\\']).next().unwrap_or(command);
    [".cmd", ".exe"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name)
}

/// Options and what follows them.
struct Words<'a> {
    tool: &'static str,
    rest: &'a [&'a str],
}

impl<'a> Words<'a> {
    /// The next option with the value that is part of its word.
    fn option(&mut self) -> Option<(&'a str, Option<&'a str>)> {
        let (first, rest) = self.rest.split_first()?;
        if !first.starts_with('-') || *first == "-" {
            return None;
        }
        self.rest = rest;
        match first.split_once('=') {
            Some((name, value)) if first.starts_with("--") => Some((name, Some(value))),
            _ => Some((first, None)),
        }
    }

    fn value(&mut self, name: &str, inner: Option<&str>) -> Result<String, String> {
        if let Some(value) = inner {
            return Ok(value.to_owned());
        }
        let none = || format!("`{}` has option `{name}` without a value", self.tool);
        let (value, rest) = self.rest.split_first().ok_or_else(none)?;
        self.rest = rest;
        Ok((*value).to_owned())
    }

    fn unknown(&self, name: &str) -> String {
        format!("`{}` has option `{name}`, which a locked server cannot have", self.tool)
    }

    fn args(&self) -> Vec<String> {
        self.rest.iter().map(|word| (*word).to_owned()).collect()
    }

    /// The word that names what to start; the rest is its own.
    fn subject(&mut self) -> Result<&'a str, String> {
        let none = || format!("`{}` names nothing to start", self.tool);
        let (first, rest) = self.rest.split_first().ok_or_else(none)?;
        self.rest = rest;
        Ok(first)
    }
}

fn npx(words: &[&str]) -> Result<Launch, String> {
    let mut words = Words { tool: "npx", rest: words };
    let mut packages = Vec::new();
    while let Some((name, inner)) = words.option() {
        match name {
            "--" => break,
            "-y" | "--yes" | "-q" | "--quiet" | "-s" | "--silent" | "--prefer-offline"
            | "--prefer-online" | "--ignore-existing" | "--bun" => {}
            "-p" | "--package" => packages.push(npm_spec(&words.value(name, inner)?)?),
            "--loglevel" | "--cache" => drop(words.value(name, inner)?),
            _ => return Err(words.unknown(name)),
        }
    }
    let subject = words.subject()?;
    let program = match packages.is_empty() {
        true => {
            packages.push(npm_spec(subject)?);
            None
        }
        false => Some(subject.to_owned()),
    };
    if words.rest.first() == Some(&"--") {
        words.rest = &words.rest[1..];
    }
    Ok(Launch::Npm { packages, program, args: words.args() })
}

/// A package of a registry.
pub(super) fn npm_spec(spec: &str) -> Result<String, String> {
    parse_spec(spec).map(|_| spec.to_owned())
}

fn uvx(words: &[&str]) -> Result<Launch, String> {
    let mut words = Words { tool: "uvx", rest: words };
    let mut asked = Pypi::default();
    let mut with = Vec::new();
    let mut from = None;
    while let Some((name, inner)) = words.option() {
        match name {
            "--" => break,
            "--from" => from = Some(words.value(name, inner)?),
            _ => common(&mut words, name, inner, &mut asked, &mut with)?,
        }
    }
    let subject = words.subject()?;
    let (package, program) = match from {
        Some(from) => (requirement(&from)?, subject.to_owned()),
        None => {
            let package = requirement(subject)?;
            (package.clone(), requirement_name(&package).to_owned())
        }
    };
    asked.packages.push(package);
    asked.packages.extend(with);
    asked.program = program;
    asked.args = words.args();
    Ok(Launch::Pypi(asked))
}

/// `uv run --with PACKAGE PROGRAM`; without a package it runs somebody's project.
fn uv_run(words: &[&str]) -> Result<Launch, String> {
    let mut words = Words { tool: "uv run", rest: words };
    let mut asked = Pypi::default();
    let mut with = Vec::new();
    while let Some((name, inner)) = words.option() {
        match name {
            "--" => break,
            "--no-project" => {}
            _ => common(&mut words, name, inner, &mut asked, &mut with)?,
        }
    }
    if with.is_empty() {
        return Err("`uv run` runs a project, which is no package of an index".to_owned());
    }
    asked.program = words.subject()?.to_owned();
    asked.packages = with;
    asked.args = words.args();
    Ok(Launch::Pypi(asked))
}

fn pipx(words: &[&str]) -> Result<Launch, String> {
    let mut words = Words { tool: "pipx", rest: words };
    let mut spec = None;
    while let Some((name, inner)) = words.option() {
        match name {
            "--" => break,
            "--spec" => spec = Some(words.value(name, inner)?),
            "--no-cache" | "-q" | "--quiet" => {}
            _ => return Err(words.unknown(name)),
        }
    }
    let subject = words.subject()?;
    let package = requirement(spec.as_deref().unwrap_or(subject))?;
    let program = if spec.is_some() { subject } else { requirement_name(&package) }.to_owned();
    let args = words.args();
    Ok(Launch::Pypi(Pypi { packages: vec![package], program, args, ..Pypi::default() }))
}

/// Options that all of uv's have.
fn common(
    words: &mut Words<'_>,
    name: &str,
    inner: Option<&str>,
    asked: &mut Pypi,
    with: &mut Vec<String>,
) -> Result<(), String> {
    match name {
        "--with" | "-w" => {
            for one in words.value(name, inner)?.split(',') {
                with.push(requirement(one.trim())?);
            }
        }
        "--python" | "-p" => asked.python = Some(words.value(name, inner)?),
        "--exclude-newer" => {
            let moment = words.value(name, inner)?;
            asked.as_of = Some(moment.split('T').next().unwrap_or_default().to_owned());
        }
        "--isolated" | "--refresh" | "--no-cache" | "-n" | "-q" | "--quiet" | "--no-progress"
        | "--offline" | "-U" | "--upgrade" => {}
        _ => return Err(words.unknown(name)),
    }
    Ok(())
}

/// A requirement of an index: `name`, `name[extra]==1.2`; uv's `name@1.2` and `name@latest` are
/// written as pip would.
pub(super) fn requirement(text: &str) -> Result<String, String> {
    let name = requirement_name(text);
    let rest = &text[name.len()..];
    let elsewhere = rest.contains(['/', ':']) || name.is_empty() || text.ends_with(".whl");
    if elsewhere {
        return Err(format!("`{text}` is no package of an index"));
    }
    let Some((extras, version)) = rest.split_once('@') else { return Ok(text.to_owned()) };
    Ok(match version.trim() {
        "latest" => format!("{name}{extras}"),
        version => format!("{name}{}=={version}", extras.trim_end()),
    })
}

/// The project's name, as it is written.
pub(super) fn requirement_name(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && !"-_.".contains(c));
    &text[..end.unwrap_or(text.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Launch, String> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        parse_launch(&words[0], &words[1..])
    }

    fn npm(packages: &[&str], program: Option<&str>, args: &[&str]) -> Result<Launch, String> {
        let owned = |list: &[&str]| list.iter().map(|text| text.to_string()).collect();
        let program = program.map(str::to_owned);
        Ok(Launch::Npm { packages: owned(packages), program, args: owned(args) })
    }

    fn pypi(packages: &[&str], program: &str, args: &[&str]) -> Pypi {
        let owned = |list: &[&str]| list.iter().map(|text| text.to_string()).collect();
        let program = program.to_owned();
        Pypi { packages: owned(packages), program, args: owned(args), ..Pypi::default() }
    }

    #[test]
    fn npx_names_a_package_or_a_program_of_one() {
        assert_eq!(parse("npx -y tavily-mcp@0.1.4"), npm(&["tavily-mcp@0.1.4"], None, &[]));
        let scoped = npm(&["@a/b@1.2"], None, &["/workspace", "-y"]);
        assert_eq!(parse("/usr/bin/npx @a/b@1.2 /workspace -y"), scoped);
        assert_eq!(parse("cmd /c npx.cmd --yes @a/b@1.2 -- /workspace -y"), scoped);
        let program = npm(&["a@1", "b"], Some("run"), &["x"]);
        assert_eq!(parse("npx --package=a@1 -p b -- run x"), program);
        assert_eq!(parse("pnpm dlx a"), npm(&["a"], None, &[]));
    }

    #[test]
    fn uvx_names_a_package_or_a_program_of_one() {
        let word = pypi(&["word==1"], "word", &["-v"]);
        assert_eq!(parse("uvx word@1 -v"), Ok(Launch::Pypi(word.clone())));
        assert_eq!(parse("uv tool run word==1 -v"), Ok(Launch::Pypi(word.clone())));
        assert_eq!(parse("pipx run word==1 -v"), Ok(Launch::Pypi(word)));
        let more = Pypi {
            python: Some("3.13".into()),
            as_of: Some("2025-07-01".into()),
            ..pypi(&["a[cli]", "b", "c==1"], "run", &["--from"])
        };
        let line = "uvx --from a[cli] --with b,c==1 --python 3.13 --exclude-newer=2025-07-01T00:00:00Z run --from";
        assert_eq!(parse(line), Ok(Launch::Pypi(more)));
        let run = pypi(&["mcp[cli]"], "mcp", &["run", "x.py"]);
        assert_eq!(parse("uv run --with mcp[cli] mcp run x.py"), Ok(Launch::Pypi(run)));
        assert_eq!(parse("uvx a@latest"), Ok(Launch::Pypi(pypi(&["a"], "a", &[]))));
    }

    #[test]
    fn programs_of_the_image_stay() {
        for line in
            ["python -m server", "node /opt/server.js", "/opt/run.sh", "sh -c run", "npm start"]
        {
            assert_eq!(parse(line), Ok(Launch::Program), "{line}");
        }
    }

    #[test]
    fn what_cannot_be_locked_says_why() {
        let refused = |line| parse(line).unwrap_err();
        insta::assert_snapshot!(refused("npx -y github:a/b"), @"`github:a/b` is no package of a registry");
        insta::assert_snapshot!(refused("npx ./local"), @"`./local` is no package of a registry");
        insta::assert_snapshot!(refused("npx --registry x a"), @"`npx` has option `--registry`, which a locked server cannot have");
        insta::assert_snapshot!(refused("npx -p"), @"`npx` has option `-p` without a value");
        insta::assert_snapshot!(refused("npx -y"), @"`npx` names nothing to start");
        insta::assert_snapshot!(refused("uvx --from git+https://h.example.org/x y"), @"`git+https://h.example.org/x` is no package of an index");
        insta::assert_snapshot!(refused("uv run server.py"), @"`uv run` runs a project, which is no package of an index");
        insta::assert_snapshot!(refused("sh -c exec npx a"), @"starts `npx` in a shell");
    }
}
