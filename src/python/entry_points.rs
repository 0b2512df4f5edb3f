//! Entry points: commands that a wheel promises, and the scripts that an installation makes of them.

use std::collections::BTreeMap;

/// A command: `NAME = MODULE:OBJECT [EXTRAS]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EntryPoint {
    pub name: String,
    pub module: String,
    pub object: String,
}

/// The commands of an `entry_points.txt`; `Err` has the line that cannot be understood. Other groups
/// than those of commands are for programs to read.
pub(super) fn parse(text: &str) -> Result<Vec<EntryPoint>, String> {
    let mut found = BTreeMap::new();
    let mut ours = false;
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(group) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            ours = ["console_scripts", "gui_scripts"].contains(&group.trim());
            continue;
        }
        if !ours {
            continue;
        }
        let point = parse_line(line).ok_or_else(|| line.to_owned())?;
        found.insert(point.name.clone(), point);
    }
    Ok(found.into_values().collect())
}

fn parse_line(line: &str) -> Option<EntryPoint> {
    let (name, target) = line.split_once('=')?;
    let target = target.split('[').next()?.trim();
    let (module, object) = target.split_once(':')?;
    let (name, module, object) = (name.trim(), module.trim(), object.trim());
    let file = |name: &str| {
        !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0'])
    };
    let dotted = |text: &str| text.split('.').all(is_identifier);
    let sound = file(name) && dotted(module) && dotted(object);
    sound.then(|| EntryPoint {
        name: name.to_owned(),
        module: module.to_owned(),
        object: object.to_owned(),
    })
}

fn is_identifier(text: &str) -> bool {
    let mut letters = text.chars();
    letters.next().is_some_and(|c| c.is_alphabetic() || c == '_')
        && letters.all(|c| c.is_alphanumeric() || c == '_')
}

impl EntryPoint {
    /// The script that calls it, as every installer writes one.
    pub(super) fn script(&self, python: &str) -> String {
        let import = self.object.split('.').next().unwrap_or_default();
        format!(
            "{shebang}\
             # -*- coding: utf-8 -*-\n\
             import sys\n\
             from {module} import {import}\n\
             if __name__ == \"__main__\":\n    \
             if sys.argv[0].endswith(\"-script.pyw\"):\n        \
             sys.argv[0] = sys.argv[0][:-11]\n    \
             elif sys.argv[0].endswith(\".exe\"):\n        \
             sys.argv[0] = sys.argv[0][:-4]\n    \
             sys.exit({object}())\n",
            shebang = shebang(python),
            module = self.module,
            object = self.object,
        )
    }
}

/// Longest line that the kernel reads (`BINPRM_BUF_SIZE` was 128 for long, less `#!` and the end).
const LONGEST: usize = 127;

/// The first line that starts a script with a Python. A path that the kernel would cut or split is
/// handed to the shell, for which the line after it means something else than for Python.
pub(super) fn shebang(python: &str) -> String {
    if python.len() + 2 <= LONGEST && !python.contains(' ') {
        return format!("#!{python}\n");
    }
    format!("#!/bin/sh\n'''exec' '{python}' \"$0\" \"$@\"\n' '''\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_of_both_groups_become_scripts() {
        let text = "# a comment\n[console_scripts]\nb = pkg.cli:App.run [extra]\n\n[other]\nx = y\n[gui_scripts]\na=pkg : main\n";
        let points = parse(text).unwrap();
        let names: Vec<&str> = points.iter().map(|point| point.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        let script = points[1].script("/opt/venv/bin/python");
        assert!(script.starts_with("#!/opt/venv/bin/python\n"), "{script}");
        assert!(script.contains("from pkg.cli import App\n"), "{script}");
        assert!(script.ends_with("    sys.exit(App.run())\n"), "{script}");
    }

    #[test]
    fn a_command_that_would_be_something_else_is_refused() {
        for bad in ["../x = a:b", "x = a", "x = a;import os:b", "x = a:b()", " = a:b", ".x = a:b"] {
            let text = format!("[console_scripts]\n{bad}\n");
            assert_eq!(parse(&text), Err(bad.trim().to_owned()));
        }
    }

    #[test]
    fn a_path_that_the_kernel_would_cut_goes_through_the_shell() {
        let long = format!("/{}", "x".repeat(130));
        assert!(shebang(&long).starts_with("#!/bin/sh\n'''exec' '/xxx"));
        assert!(shebang("/a b/python").starts_with("#!/bin/sh\n"));
    }
}
