//! `sbx save`: an image in a file.

use std::fs::File;
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
use super::image::{find_image, open_for, parse_name};
use super::output::{Output, Saving};
use crate::failure::Outcome;
use crate::ui::Ui;
use crate::workspace::search_path;

#[derive(Args)]
pub struct SaveArguments {
    /// Name of a sandbox that is built, or a reference that was pulled
    name: String,
    /// What to write
    #[arg(long, value_enum, default_value_t = Format::OciArchive)]
    format: Format,
    /// Where to: a file, a device, a FIFO, or `-` for stdout
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// What the archive calls the image (default: the declared reference)
    #[arg(long, value_name = "NAME:TAG", value_parser = parse_name)]
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

/// An image on its way into a file.
struct Save<'a> {
    saved: Saved<'a>,
    form: Form,
    mkfs: Mkfs,
}

enum Form {
    Archive(ArchiveKind),
    Disk(DiskKind),
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
    let form = match arguments.format {
        Format::OciArchive => Form::Archive(ArchiveKind::Oci),
        Format::DockerArchive => Form::Archive(ArchiveKind::Docker),
        Format::Tar => Form::Archive(ArchiveKind::Tar),
        Format::Ext4 => Form::Disk(DiskKind::Ext4),
        Format::Erofs => Form::Disk(DiskKind::Erofs),
    };
    // owners of an ordinary user's image are laid in the user namespace that it is built in
    if matches!(form, Form::Disk(_)) && !rustix::process::geteuid().is_root() {
        return enter_namespace();
    }
    let save = Save { saved, form, mkfs: Mkfs { path: search_path() } };
    let Some(size) = Output::find(&arguments.output, ui)?.write(&save, ui)? else { return Ok(()) };
    let answer = Answer { image: found.record.image, file: arguments.output.clone(), size };
    ui.answer(&answer, || format!("{}: {} bytes", answer.file.display(), answer.size));
    Ok(())
}

impl Saving for Save<'_> {
    fn stream(&self, out: &mut dyn Write) -> Result<(), SaveError> {
        match self.form {
            Form::Archive(kind) => self.saved.write(kind, out),
            Form::Disk(_) => {
                // the programs that make it go back and forth
                let scratch = self.saved.store.tree_draft()?;
                let image = scratch.path().join("image");
                self.draft(&image)?;
                copy_out(&image, out)
            }
        }
    }

    fn draft(&self, path: &Path) -> Result<(), SaveError> {
        let saved = &self.saved;
        match self.form {
            Form::Archive(kind) => {
                let file = File::create(path).at("create", path)?;
                saved.write(kind, &mut BufWriter::with_capacity(1 << 20, file))
            }
            Form::Disk(kind) => {
                saved.store.within_cap(|| saved.write_disk(kind, &self.mkfs, path))?
            }
        }
    }
}
