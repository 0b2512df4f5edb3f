//! Where an image or a document is written to: stdout, a file, or what is no file.
//!
//! A file gets its name when it is whole, and a link is followed to the file that it names: that one is
//! replaced. What is no regular file (a device, a FIFO) is somebody else's, and is written to as it is.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, ErrorKind, IsTerminal, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use futures::future::select_all;
use tokio::signal::unix::{SignalKind, signal};

use sbx::fsx::{self, IoAt, Presence};
use sbx::image::save::SaveError;

use crate::failure::{Failure, Outcome};
use crate::ui::Ui;

/// So many links are followed, as the kernel does.
const LINKS: usize = 40;
/// Bytes that are written at a time.
const PIECE: usize = 1 << 20;

/// What is to take an image.
pub enum Output {
    Stdout,
    /// A regular file, which need not be there yet.
    File(PathBuf),
    Special(PathBuf),
}

/// What writes an image.
pub trait Saving {
    /// One byte after the other.
    fn stream(&self, out: &mut dyn Write) -> Result<(), SaveError>;

    /// Into a file of its own.
    fn draft(&self, path: &Path) -> Result<(), SaveError>;
}

impl Output {
    /// By the name that was given; `-` is stdout.
    pub fn find(path: &Path, ui: &Ui) -> Outcome<Self> {
        if path == Path::new("-") {
            return Ok(Output::Stdout);
        }
        let found = match fs::metadata(path) {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let path = follow(path)?;
                let dir = parent(&path);
                if !dir.exists() {
                    let message = format!("the directory `{}` is not there", dir.display());
                    return Err(Failure::input(message));
                }
                return Ok(Output::File(path));
            }
            error => error.at("stat", path)?,
        };
        Ok(match found.file_type() {
            kind if kind.is_dir() => {
                return Err(Failure::input(format!("`{}` is a directory", path.display())));
            }
            kind if kind.is_file() => Output::File(fs::canonicalize(path).at("find", path)?),
            // `/dev/stdout`: nothing else may go there
            _ if ui.is_stdout(&found) => Output::Stdout,
            _ => Output::Special(path.to_owned()),
        })
    }

    /// Writes an image; answers its size where it has a name.
    pub fn write(&self, saving: &dyn Saving, ui: &Ui) -> Outcome<Option<u64>> {
        match self {
            Output::Stdout => {
                let out = ui.take_stdout().ok_or_else(refuse_terminal)?;
                saving.stream(&mut BufWriter::with_capacity(PIECE, out))?;
                Ok(None)
            }
            Output::File(path) => write_file(path, saving).map(Some),
            Output::Special(path) => write_through(path, saving).map(Some),
        }
    }
}

/// Writes a document to where it was asked for.
pub fn put(path: &Path, document: &[u8], ui: &Ui) -> Outcome {
    match Output::find(path, ui)? {
        Output::Stdout => ui.raw(document),
        Output::File(path) => fsx::write_atomic(&path, document)?,
        Output::Special(path) => fs::write(&path, document).at("write", &path)?,
    }
    Ok(())
}

/// Where a link leads whose end is not there.
fn follow(path: &Path) -> Outcome<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        let Ok(target) = fs::read_link(&path) else { return Ok(path) };
        path = path.parent().unwrap_or(Path::new("")).join(target);
    }
    Err(Failure::input(format!("`{}` is a link to itself", path.display())))
}

/// The directory that holds a file.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn refuse_terminal() -> Failure {
    Failure::input("an image is nothing to show on a terminal").with_help("name a file: `-o FILE`")
}

/// Writes a draft beside the file and gives it its name when it is whole. Whoever is asked to end takes
/// its draft along; what one left that was killed, the next sweeps.
fn write_file(path: &Path, saving: &dyn Saving) -> Outcome<u64> {
    let name = path
        .file_name()
        .ok_or_else(|| Failure::input(format!("`{}` is no name of a file", path.display())))?;
    let drafts = format!(".{}.", name.to_string_lossy());
    let is_draft = |other: &str| {
        let process = other.strip_prefix(&drafts).and_then(|rest| rest.strip_suffix(".draft"));
        process.is_some_and(|process| process.parse::<u32>().is_ok())
    };
    let mut presence = Presence::enter(parent(path));
    presence.sweep(parent(path), is_draft);
    presence.share();
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.draft", std::process::id()));
    let draft = path.with_file_name(hidden);
    remove_when_asked_to_end(draft.clone())
        .map_err(|error| Failure::world(format!("signals cannot be awaited: {error}")))?;
    let written = saving.draft(&draft).map_err(Failure::from);
    let named = written.and_then(|()| Ok(fs::rename(&draft, path).at("rename", path)?));
    named.inspect_err(|_| fs::remove_file(&draft).unwrap_or_default())?;
    Ok(fs::metadata(path).at("stat", path)?.len())
}

/// Awaits what would end this process: then the draft goes before it does. What is ignored, as `nohup` has
/// it, stays so.
fn remove_when_asked_to_end(draft: PathBuf) -> std::io::Result<()> {
    let ignored = ignored_signals();
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let counts = |kind: &SignalKind| ignored >> (kind.as_raw_value() - 1) & 1 == 0;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let mut asks = {
        let _entered = runtime.enter();
        let kinds = kinds.into_iter().filter(counts);
        kinds.map(|kind| Ok((kind, signal(kind)?))).collect::<std::io::Result<Vec<_>>>()?
    };
    if asks.is_empty() {
        return Ok(());
    }
    std::thread::spawn(move || {
        let one = asks.iter_mut().map(|(kind, asks)| {
            Box::pin(async move {
                asks.recv().await;
                kind.as_raw_value()
            })
        });
        let (number, ..) = runtime.block_on(select_all(one));
        fs::remove_file(&draft).unwrap_or_default();
        std::process::exit(128 + number);
    });
    Ok(())
}

/// One bit each (proc(5), `SigIgn`).
fn ignored_signals() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}

/// Writes to what is no regular file; nothing of that is replaced.
fn write_through(path: &Path, saving: &dyn Saving) -> Outcome<u64> {
    let file = OpenOptions::new().write(true).open(path).at("open", path)?;
    if file.is_terminal() {
        return Err(refuse_terminal());
    }
    let mut counted = Counted { out: BufWriter::with_capacity(PIECE, &file), bytes: 0 };
    saving.stream(&mut counted)?;
    counted.flush().at("write", path)?;
    let bytes = counted.bytes;
    drop(counted);
    if file.metadata().at("stat", path)?.file_type().is_block_device() {
        file.sync_all().at("write", path)?;
    }
    Ok(bytes)
}

struct Counted<'a> {
    out: BufWriter<&'a File>,
    bytes: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}
