//! `sbx save`: an image in a file.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Serialize;

use sbx::digest::Digest;
use sbx::fsx::IoAt;
use sbx::image::save::{ArchiveKind, DiskKind, Mkfs, SaveError, Saved, copy_out};
use sbx::platform::Platform;
use sbx::reference::Reference;

use super::Global;
use super::clean::enter_namespace;
use super::image::{find_image, open_for};
use crate::failure::{Failure, Outcome};
use crate::ui::Ui;
use crate::workspace::search_path;

#[derive(Args)]
pub struct SaveArguments {
    /// Name of a sandbox that is built, or a reference that was pulled
    name: String,
    /// What to write
    #[arg(long, value_enum, default_value_t = Format::OciArchive)]
    format: Format,
    /// Where to: a file, or `-` for stdout
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// What the archive calls the image (default: the declared reference)
    #[arg(long, value_name = "NAME:TAG")]
    reference: Option<Reference>,
    /// Of this platform (default: this machine's)
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// An OCI layout in a tar, for skopeo, podman and containerd
    OciArchive,
    /// What `docker load` reads
    DockerArchive,
    /// The file system as one tar
    Tar,
    /// The file system as an ext4 image; needs `mke2fs`
    Ext4,
    /// The file system as an EROFS image; needs `mkfs.erofs`
    Erofs,
}

#[derive(Serialize)]
struct Answer {
    image: Digest,
    file: PathBuf,
    /// Bytes.
    size: u64,
}

pub fn run(global: &Global, arguments: &SaveArguments, ui: &Ui) -> Outcome {
    let workspace = open_for(global, &arguments.name)?;
    let found = find_image(&workspace, &arguments.name, arguments.platform)?;
    let reference = arguments.reference.as_ref().map(Reference::to_string);
    let saved = Saved {
        store: &workspace.store,
        record: &found.record,
        platform: found.platform,
        reference: reference.as_deref().unwrap_or(&found.reference),
    };
    let archive = match arguments.format {
        Format::OciArchive => ArchiveKind::Oci,
        Format::DockerArchive => ArchiveKind::Docker,
        Format::Tar => ArchiveKind::Tar,
        Format::Ext4 => return save_disk(&saved, DiskKind::Ext4, &arguments.output, ui),
        Format::Erofs => return save_disk(&saved, DiskKind::Erofs, &arguments.output, ui),
    };
    if arguments.output == Path::new("-") {
        return write_stdout(ui, |out| saved.write(archive, out));
    }
    write_file(&saved, &arguments.output, ui, |draft| {
        let file = File::create(draft).at("create", draft)?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        saved.write(archive, &mut out)
    })
}

/// Owners of an ordinary user's image are laid in the user namespace that it is built in.
fn save_disk(saved: &Saved<'_>, kind: DiskKind, output: &Path, ui: &Ui) -> Outcome {
    if !rustix::process::geteuid().is_root() {
        return enter_namespace();
    }
    let mkfs = Mkfs { path: search_path() };
    let made = |path: &Path| saved.store.within_cap(|| saved.write_disk(kind, &mkfs, path))?;
    if output != Path::new("-") {
        return write_file(saved, output, ui, made);
    }
    let scratch = saved.store.tree_draft().map_err(SaveError::from)?;
    let image = scratch.path().join("image");
    made(&image)?;
    write_stdout(ui, |out| copy_out(&image, out))
}

fn write_stdout(ui: &Ui, write: impl FnOnce(&mut dyn Write) -> Result<(), SaveError>) -> Outcome {
    let Some(out) = ui.take_stdout() else {
        let message = "an image is nothing to show on a terminal";
        return Err(Failure::input(message).with_help("name a file: `-o FILE`"));
    };
    Ok(write(&mut BufWriter::with_capacity(1 << 20, out))?)
}

/// Writes a draft beside the file and gives it its name when it is whole.
fn write_file(
    saved: &Saved<'_>,
    output: &Path,
    ui: &Ui,
    write: impl FnOnce(&Path) -> Result<(), SaveError>,
) -> Outcome {
    let name = output
        .file_name()
        .ok_or_else(|| Failure::input(format!("`{}` is no name of a file", output.display())))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.draft", std::process::id()));
    let draft = output.with_file_name(hidden);
    let written = write(&draft).map_err(Failure::from);
    let named = written.and_then(|()| Ok(fs::rename(&draft, output).at("rename", output)?));
    named.inspect_err(|_| fs::remove_file(&draft).unwrap_or_default())?;
    let size = fs::metadata(output).at("stat", output)?.len();
    let answer = Answer { image: saved.record.image, file: output.to_owned(), size };
    ui.answer(&answer, || format!("{}: {} bytes", answer.file.display(), answer.size));
    Ok(())
}
