//! `sbx init`: a project that builds.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use sbx::decl::init_files;
use sbx::fsx::IoAt;
use sbx::name::ProjectName;

use super::Global;
use crate::failure::{Failure, Outcome};
use crate::ui::Ui;

#[derive(Args)]
pub struct InitArguments {
    /// Directory to write to (default: this one)
    #[arg(value_name = "DIR", default_value = ".")]
    dir: PathBuf,
}

#[derive(Serialize)]
struct Answer {
    files: Vec<PathBuf>,
}

pub fn run(_: &Global, arguments: &InitArguments, ui: &Ui) -> Outcome {
    let dir = std::path::absolute(&arguments.dir).at("find", &arguments.dir)?;
    let name =
        dir.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let name =
        name.parse::<ProjectName>().map_or_else(|_| "project".to_owned(), |name| name.to_string());
    let files = init_files(&name);
    let taken = files.iter().map(|file| dir.join(&file.path)).find(|path| path.exists());
    if let Some(path) = taken {
        return Err(Failure::input(format!(
            "{} exists already: nothing was written",
            path.display()
        )));
    }
    for file in &files {
        let path = dir.join(&file.path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).at("create", parent)?;
        }
        fs::write(&path, &file.content).at("write", &path)?;
        if file.executable {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
                .at("set mode of", &path)?;
        }
    }
    let answer = Answer { files: files.into_iter().map(|file| file.path).collect() };
    ui.answer(&answer, || {
        let lines: String =
            answer.files.iter().map(|path| format!("wrote {}\n", path.display())).collect();
        format!("{lines}next: `sbx build base`")
    });
    Ok(())
}
