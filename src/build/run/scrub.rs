//! What commands leave behind that is no part of what they make: caches, logs, times. Works on the
//! upper directory of a step, so that what layers below ship is never touched.

use std::fs;
use std::io;
use std::path::Path;

use crate::build::settle::scrub as settle;
use crate::fsx::{IoAt, PathIo, remove_tree};

/// Caches of people and of tools, and what is the room's own.
const DELETE: &[&str] = &[
    "dev",
    "etc/.pwd.lock",
    "proc",
    "root/.cache",
    "root/.config/configstore",
    "root/.config/pnpm",
    "root/.local/share/pnpm/store",
    "root/.local/state/pnpm",
    "root/.node-gyp",
    "root/.npm",
    "root/.python_history",
    "root/.wget-hsts",
    "sys",
    "var/cache/fontconfig",
    "var/cache/man",
];

/// Directories that go when nothing else is in them.
const HOLLOW: &[&str] = &[
    "root/.local/share/pnpm",
    "root/.local/share",
    "root/.local/state",
    "root/.local",
    "root/.config",
];

/// Times of the moment in files of pnpm's, by the key before them.
const PRUNED: &str = "prunedAt";
/// What stands there instead.
const EPOCH_DATE: &str = "Wed, 01 Jan 2025 00:00:00 GMT";
/// What uv remembers of a source that may change (a directory, a local archive): times.
const UV_NOTE: &str = "uv_cache.json";

/// Normalises the upper directory of a step.
pub(super) fn scrub(upper: &Path) -> Result<(), PathIo> {
    settle::scrub(upper)?;
    for name in DELETE {
        remove_tree(&upper.join(name))?;
    }
    for name in HOLLOW {
        // one that still holds something stays
        fs::remove_dir(upper.join(name)).unwrap_or_default();
    }
    remove_logs(&upper.join("var/log"))?;
    visit(upper)
}

/// New and changed files below; directories may be waited for.
fn remove_logs(dir: &Path) -> Result<(), PathIo> {
    for path in list(dir)? {
        if is_dir(&path) {
            remove_logs(&path)?;
        } else if path.is_file() {
            remove_tree(&path)?;
        }
    }
    Ok(())
}

/// Looks into every `node_modules` and every `*.dist-info`.
fn visit(dir: &Path) -> Result<(), PathIo> {
    for path in list(dir)?.into_iter().filter(|path| is_dir(path)) {
        if path.file_name().is_some_and(|name| name == "node_modules") {
            scrub_modules(&path)?;
        }
        if path.extension().is_some_and(|ending| ending == "dist-info") {
            scrub_info(&path)?;
        }
        visit(&path)?;
    }
    Ok(())
}

/// uv's note of when it saw a local source, and the line that lists it.
fn scrub_info(info: &Path) -> Result<(), PathIo> {
    let note = info.join(UV_NOTE);
    if !note.is_file() || note.is_symlink() {
        return Ok(());
    }
    remove_tree(&note)?;
    let record = info.join("RECORD");
    if !record.is_file() || record.is_symlink() {
        return Ok(());
    }
    let bytes = fs::read(&record).at("read", &record)?;
    let name = info.file_name().unwrap_or_default().to_string_lossy();
    let own = format!("{name}/{UV_NOTE},");
    let kept = bytes
        .split_inclusive(|byte| *byte == b'\n')
        .filter(|line| !line.starts_with(own.as_bytes()));
    let kept: Vec<u8> = kept.flatten().copied().collect();
    if kept != bytes { fs::write(&record, kept).at("write", &record) } else { Ok(()) }
}

fn scrub_modules(modules: &Path) -> Result<(), PathIo> {
    remove_tree(&modules.join(".cache"))?;
    for path in list(modules)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(".pnpm-workspace-state") {
            remove_tree(&path)?;
        }
    }
    let path = modules.join(".modules.yaml");
    if !path.is_file() || path.is_symlink() {
        return Ok(());
    }
    let text = fs::read_to_string(&path).at("read", &path)?;
    let fixed: String = text.split_inclusive('\n').map(fix_date).collect();
    if fixed != text { fs::write(&path, fixed).at("write", &path) } else { Ok(()) }
}

/// `prunedAt: DATE` or `"prunedAt": "DATE",` with another date.
fn fix_date(line: &str) -> String {
    let Some((before, after)) = line.split_once(PRUNED) else { return line.to_owned() };
    let quoted = before.trim() == "\"" && after.starts_with("\":");
    let plain = before.trim().is_empty() && after.starts_with(':');
    match (quoted, plain) {
        (true, _) => {
            let end = if after.trim_end().ends_with(',') { ",\n" } else { "\n" };
            format!("{before}{PRUNED}\": \"{EPOCH_DATE}\"{end}")
        }
        (_, true) => format!("{before}{PRUNED}: {EPOCH_DATE}\n"),
        _ => line.to_owned(),
    }
}

fn is_dir(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir())
}

/// What is in a directory; nothing where there is none, or a link.
fn list(dir: &Path) -> Result<Vec<std::path::PathBuf>, PathIo> {
    if !is_dir(dir) {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(dir).at("list", dir)?;
    let paths: io::Result<Vec<_>> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    paths.at("list", dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tools_leave_of_the_moment_is_gone() {
        let home = tempfile::tempdir().unwrap();
        let upper = home.path();
        let put = |path: &str, text: &str| {
            fs::create_dir_all(upper.join(path).parent().unwrap()).unwrap();
            fs::write(upper.join(path), text).unwrap();
        };
        put("root/.cache/x", "");
        put("root/.local/share/pnpm/store/x", "");
        put("root/.npmrc", "kept");
        put("tmp/x", "");
        put("var/log/app/x.log", "");
        put("app/node_modules/.cache/x", "");
        put("app/node_modules/.pnpm-workspace-state-v1.json", "");
        put("app/node_modules/a/index.js", "prunedAt: kept");
        put(
            "app/node_modules/.modules.yaml",
            "{\n  \"prunedAt\": \"Mon, 23 Nov 2026 21:00:00 GMT\",\n}\n",
        );
        put("b/node_modules/.modules.yaml", "prunedAt: Mon, 23 Nov 2026 21:00:00 GMT\nx: 1\n");
        put("v/a-1.dist-info/uv_cache.json", "{\"timestamp\":1}");
        put("v/a-1.dist-info/RECORD", "a.py,,\na-1.dist-info/uv_cache.json,sha256=x,9\nz,,\n");
        put("v/b-1.dist-info/RECORD", "b-1.dist-info/uv_cache.json,,\n");
        scrub(upper).unwrap();
        let gone =
            ["root/.cache", "root/.local", "tmp/x", "var/log/app/x.log", "app/node_modules/.cache"];
        assert!(gone.iter().all(|path| !upper.join(path).exists()));
        let read = |path: &str| fs::read_to_string(upper.join(path)).unwrap();
        assert_eq!(read("root/.npmrc"), "kept");
        assert_eq!(read("app/node_modules/a/index.js"), "prunedAt: kept");
        assert!(!upper.join("app/node_modules/.pnpm-workspace-state-v1.json").exists());
        assert!(!upper.join("v/a-1.dist-info/uv_cache.json").exists());
        assert_eq!(read("v/a-1.dist-info/RECORD"), "a.py,,\nz,,\n");
        assert_eq!(read("v/b-1.dist-info/RECORD"), "b-1.dist-info/uv_cache.json,,\n");
        assert_eq!(
            read("app/node_modules/.modules.yaml"),
            "{\n  \"prunedAt\": \"Wed, 01 Jan 2025 00:00:00 GMT\",\n}\n"
        );
        assert_eq!(
            read("b/node_modules/.modules.yaml"),
            "prunedAt: Wed, 01 Jan 2025 00:00:00 GMT\nx: 1\n"
        );
    }
}
