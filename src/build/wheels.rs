//! Virtual environments: many wheels, one delta; and their bytecode, another.
//!
//! Pure: what comes out depends on the wheels' bytes, the environment's place and the Python below.
//! Every file's digest is checked against its wheel's RECORD while it is written. Of two wheels that
//! bring one path, the one whose name comes last has it, as when pip installs them in that order; it
//! is said unless the two are the same.
//!
//! Bytecode is made by the image's own Python in the build sandbox, on all processors: its time stamps
//! are those of the sources, which every layer fixes, so an agent's edit of a source is seen at once
//! and nothing is compiled at a start.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::assembly::{Assembly, AssemblyError};
use super::capture::{CaptureError, capture};
use super::listing::Listing;
use super::room::{Room, Visit, VisitError};
use super::view::View;
use crate::blame::Blame;
use crate::decl::{PatternError, Picks};
use crate::digest::Digest;
use crate::entry::{Claim, Entry, Kind, Meta};
use crate::fsx::PathIo;
use crate::jail::Jail;
use crate::path::{LayerPath, PathError};
use crate::plan::{BytecodeWork, WheelsWork};
use crate::python::{
    Body, Installed, ItemKind, Place, ProjectName, Wheel, WheelError, WheelName, install_editable,
    venv,
};
use crate::serve::Closed;

/// Files of a wheel that one thread takes at a time.
const CHUNK: usize = 48;

/// A wheel in the store.
#[derive(Clone, Debug)]
pub struct WheelFile {
    pub blob: PathBuf,
    pub file_name: String,
    pub digest: Digest,
}

/// Why an environment cannot be laid.
#[derive(Debug, thiserror::Error)]
pub enum WheelsError {
    #[error(transparent)]
    Io(#[from] PathIo),
    #[error("wheel `{file}`: {source}")]
    Wheel { file: String, source: WheelError },
    #[error("`editable` of `{name}`: {source}")]
    Editable { name: String, source: WheelError },
    #[error("wheel `{file}`: {source}")]
    Layout { file: String, source: AssemblyError },
    #[error("the environment at {prefix} has no program `{program}`: {}", there(found))]
    Program { prefix: LayerPath, program: String, found: Vec<String> },
    #[error(transparent)]
    Pattern(#[from] PatternError),
    #[error(transparent)]
    Path(#[from] PathError),
    #[error(transparent)]
    Assembly(#[from] AssemblyError),
    #[error(transparent)]
    Visit(#[from] VisitError),
    #[error(transparent)]
    Capture(#[from] CaptureError),
    #[error(
        "the image's Python cannot compile the environment at {prefix}: it ended with {reason}:\n{tail}"
    )]
    Compile { prefix: LayerPath, reason: String, tail: String },
}

fn there(found: &[String]) -> String {
    if found.is_empty() {
        return "it has none".to_owned();
    }
    let names: Vec<String> = found.iter().map(|name| format!("`{name}`")).collect();
    format!("it has {}", names.join(", "))
}

impl WheelsError {
    /// The next step.
    pub fn help(&self) -> Option<String> {
        match self {
            WheelsError::Program { found, .. } => {
                found.first().map(|name| format!("say `program=\"{name}\"`"))
            }
            _ => None,
        }
    }

    pub fn blame(&self) -> Blame {
        match self {
            WheelsError::Program { .. }
            | WheelsError::Editable { .. }
            | WheelsError::Pattern(_) => Blame::Input,
            WheelsError::Wheel { source: WheelError::Corrupt { .. }, .. } => Blame::World,
            WheelsError::Wheel { .. } | WheelsError::Layout { .. } => Blame::Input,
            WheelsError::Compile { .. } => Blame::Input,
            _ => Blame::World,
        }
    }
}

/// Raised while a file is written.
enum Raised {
    Wheel(WheelError),
    Layout(AssemblyError),
}

impl From<WheelError> for Raised {
    fn from(error: WheelError) -> Self {
        Raised::Wheel(error)
    }
}

impl Raised {
    fn of(self, file: &str) -> WheelsError {
        let file = file.to_owned();
        match self {
            Raised::Wheel(source) => WheelsError::Wheel { file, source },
            Raised::Layout(source) => WheelsError::Layout { file, source },
        }
    }
}

/// Lays an environment into the empty directory `tree` and writes the tar; `note` hears of paths that
/// several wheels bring.
pub fn lay(
    work: &WheelsWork,
    wheels: &[WheelFile],
    tree: &Path,
    tar: &mut dyn Write,
    note: &mut dyn FnMut(&str),
) -> Result<Listing, WheelsError> {
    let assembly = Assembly::new(tree)?;
    put_layout(work, &assembly)?;
    let place = Place::new(&work.prefix, &work.interpreter);
    let picks = Picks::new(0, "", &[], &work.exclude)?;
    let mut order: Vec<&WheelFile> = wheels.iter().collect();
    order.sort_by(|a, b| a.file_name.cmp(&b.file_name));
    let opened: Vec<(Wheel, Vec<Installed>)> = order
        .par_iter()
        .with_max_len(1)
        .map(|wheel| {
            let open = || -> Result<_, WheelError> {
                let mut open = Wheel::open(&wheel.blob, &wheel.file_name, wheel.digest)?;
                let files = open.install(&place, &|path| picks.has(path, false))?;
                Ok((open, files))
            };
            open().map_err(|source| WheelsError::Wheel { file: wheel.file_name.clone(), source })
        })
        .collect::<Result<_, _>>()?;
    let editables = install_editables(work, &place)?;
    check_programs(work, &order, &opened, &editables)?;
    let chunks: Vec<(u32, &Wheel, &[Installed])> = (1..)
        .zip(&opened)
        .flat_map(|(origin, (wheel, files))| {
            files.chunks(CHUNK).map(move |chunk| (origin, wheel, chunk))
        })
        .collect();
    chunks.into_par_iter().with_max_len(1).try_for_each(|(origin, wheel, files)| {
        let mut wheel = wheel.clone();
        files.iter().try_for_each(|file| {
            put_file(origin, &mut wheel, file, &assembly)
                .map_err(|error| error.of(&order[origin as usize - 1].file_name))
        })
    })?;
    for (origin, files) in (order.len() as u32 + 1..).zip(&editables) {
        for file in files {
            let Body::Text(bytes) = &file.body else { continue };
            assembly.put(origin, entry_of(file), &mut &bytes[..])?;
        }
    }
    for (path, origins) in assembly.contested() {
        let names: Vec<&str> = origins
            .iter()
            .filter_map(|origin| order.get((*origin as usize).checked_sub(1)?))
            .map(|wheel| wheel.file_name.as_str())
            .collect();
        if !is_same(&path, &origins, &opened) {
            note(&format!("{path} is brought by {}: the last one's is kept", names.join(" and ")));
        }
    }
    assembly.finish(|_, one, two| Ok(one.max(two)), tar)
}

fn install_editables(work: &WheelsWork, place: &Place) -> Result<Vec<Vec<Installed>>, WheelsError> {
    let install = |editable| {
        install_editable(editable, place)
            .map_err(|source| WheelsError::Editable { name: editable.name.clone(), source })
    };
    work.editables.iter().map(install).collect()
}

/// Of what is there instead, the programs of the package that is called like the missing one come
/// first.
fn check_programs(
    work: &WheelsWork,
    order: &[&WheelFile],
    opened: &[(Wheel, Vec<Installed>)],
    editables: &[Vec<Installed>],
) -> Result<(), WheelsError> {
    let bin = work.prefix.join(b"bin")?;
    let name = |file: &Installed| {
        let program = file.path.parent().as_ref() == Some(&bin);
        program.then(|| String::from_utf8_lossy(file.path.file_name()).into_owned())
    };
    for program in &work.programs {
        let wanted = program.parse::<ProjectName>().ok();
        let mut found: Vec<(bool, String)> = Vec::new();
        for (wheel, (_, files)) in order.iter().zip(opened) {
            let project = wheel.file_name.parse::<WheelName>().ok().map(|name| name.project);
            let other = project.is_none() || project != wanted;
            found.extend(files.iter().filter_map(name).map(|name| (other, name)));
        }
        let own = editables.iter().flatten().filter_map(name);
        found.extend(own.map(|name| (false, name)));
        if !found.iter().any(|(_, name)| name == program) {
            found.sort();
            let found = found.into_iter().map(|(_, name)| name).take(12).collect();
            let (prefix, program) = (work.prefix.clone(), program.clone());
            return Err(WheelsError::Program { prefix, program, found });
        }
    }
    Ok(())
}

/// Whether wheels that share a path bring the same there, as parts of one namespace do.
fn is_same(path: &LayerPath, origins: &[u32], opened: &[(Wheel, Vec<Installed>)]) -> bool {
    let digest = |origin: &u32| {
        let (wheel, files) = opened.get((*origin as usize).checked_sub(1)?)?;
        let file = files.iter().find(|file| file.path == *path)?;
        let mut wheel = wheel.clone();
        let read = wheel.read_body::<_, WheelError>(&file.body, |body| {
            let mut bytes = Vec::new();
            Ok(body.read_to_end(&mut bytes).map(|_| Digest::of(&bytes)))
        });
        read.ok()?.ok()
    };
    let digests: Vec<Option<Digest>> = origins.iter().map(digest).collect();
    digests.windows(2).all(|pair| pair[0].is_some() && pair[0] == pair[1])
}

fn put_layout(work: &WheelsWork, assembly: &Assembly) -> Result<(), WheelsError> {
    for item in venv(&work.prefix, &work.interpreter)? {
        let (kind, mode, text) = match item.kind {
            ItemKind::Dir => (Kind::Dir(Claim::Shipped), 0o755, String::new()),
            ItemKind::Link(target) => {
                (Kind::Symlink(target.into_bytes().into()), 0o777, String::new())
            }
            ItemKind::File(text, mode) => (Kind::File(text.len() as u64), mode, text),
        };
        let entry = Entry { path: item.path, meta: Meta::root(mode), kind };
        assembly.put(0, entry, &mut text.as_bytes())?;
    }
    Ok(())
}

fn entry_of(file: &Installed) -> Entry {
    let meta = Meta::root(file.mode);
    Entry { path: file.path.clone(), meta, kind: Kind::File(file.size) }
}

fn put_file(
    origin: u32,
    wheel: &mut Wheel,
    file: &Installed,
    assembly: &Assembly,
) -> Result<(), Raised> {
    let entry = entry_of(file);
    wheel.read_body(&file.body, |body: &mut dyn Read| {
        assembly.put(origin, entry, body).map_err(Raised::Layout)
    })
}

/// What compiles: a share of the files for each processor, in processes of their own. Sources that are
/// no Python of this version (templates, other versions' code) are left as they are, as are packages'
/// tests, which nobody runs from there: a tenth of all bytecode.
const COMPILE: &str = "\
import os, py_compile, sys
from py_compile import PycInvalidationMode
top, sources = sys.argv[1], []
for place, dirs, names in os.walk(top):
    dirs[:] = sorted(d for d in dirs if d not in ('__pycache__', 'tests'))
    sources += [os.path.join(place, n) for n in names if n.endswith('.py')]
sources.sort(key=lambda path: (-os.path.getsize(path), path))
count = max(1, min(os.cpu_count() or 1, len(sources) // 16))
if hasattr(os, 'sched_getaffinity'):
    count = max(1, min(count, len(os.sched_getaffinity(0))))
def work(share):
    sys.stderr = open(os.devnull, 'w')
    for path in sources[share::count]:
        if os.path.islink(path) or not os.path.isfile(path):
            continue
        try:
            py_compile.compile(path, doraise=True, invalidation_mode=PycInvalidationMode.TIMESTAMP)
        except (py_compile.PyCompileError, ValueError, RecursionError):
            pass
pids = []
for share in range(count):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work(share)
            code = 0
        except BaseException as error:
            print(repr(error), flush=True)
        finally:
            os._exit(code)
    pids.append(pid)
sys.exit(any([os.waitpid(pid, 0)[1] for pid in pids]))
";

/// Compiles an environment over the trees below it, which it is the last of.
pub fn compile(
    work: &BytecodeWork,
    lowers: &[PathBuf],
    jail: &Jail,
    scratch: &Path,
    tar: &mut dyn Write,
) -> Result<Listing, WheelsError> {
    let room = Room { jail, lowers, scratch };
    room.prepare()?;
    let below = View::new(lowers);
    let argv = [
        work.program.to_string(),
        "-I".to_owned(),
        "-S".to_owned(),
        "-B".to_owned(),
        "-c".to_owned(),
        COMPILE.to_owned(),
        work.prefix.to_string(),
    ];
    let visit = Visit {
        argv: argv.to_vec(),
        env: Vec::new(),
        cwd: "/".to_owned(),
        binds: Vec::new(),
        timeout: None,
        secrets: Vec::new(),
    };
    let stay = room.visit(&visit, &Closed, &mut |_| {})?;
    if !stay.outcome.success() {
        return Err(WheelsError::Compile {
            prefix: work.prefix.clone(),
            reason: stay.outcome.reason(),
            tail: stay
                .outcome
                .tail
                .iter()
                .map(|line| format!("  {line}"))
                .collect::<Vec<_>>()
                .join("\n"),
        });
    }
    Ok(capture(&room.upper(), &below, tar)?)
}
