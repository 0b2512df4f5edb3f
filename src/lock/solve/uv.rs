//! The pinned `uv`: a program that resolves, fetched and checked like any other source.
//!
//! It is a static program, so it runs over any image; which Python and which platform it resolves for
//! it is told. A change of its version is a change of this file.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::{SolveError, Solver};
use crate::digest::Digest;
use crate::fsx::IoAt;
use crate::lock::{Source, WheelPin};
use crate::platform::Platform;
use crate::python::{Body, Place, Wheel, WheelError};
use crate::store::Held;

const VERSION: &str = "0.13.9";

/// The wheel for the machine that resolves.
fn pin(host: Platform) -> WheelPin {
    let (file_name, size, hex, path) = match host {
        Platform::Amd64 => (
            "uv-0.13.9-py3-none-musllinux_1_1_x86_64.whl",
            19_295_638,
            "2c45530751517d6c3bbc69a19473f6effe47cce047bede01ffd8af7ea7b36b25",
            "packages/fe/fe/794884de0efd3ac77a427cab21aa72c0483e100c55a42cd5cbb02c141b84/",
        ),
        Platform::Arm64 => (
            "uv-0.13.9-py3-none-manylinux_2_17_aarch64.manylinux2014_aarch64.musllinux_1_1_aarch64.whl",
            18_026_789,
            "5435c5ce14a56431208ca0996416d310f1598e8c2c8ba707688985a16bb82dbe",
            "packages/57/15/94b6cd62ac3ff6550288328e8035288875197cbc183f51554b266a69877b/",
        ),
    };
    WheelPin {
        name: "uv".into(),
        version: VERSION.into(),
        file_name: file_name.into(),
        size: Some(size),
        digest: Digest::parse_hex(hex).expect("64 hex digits"),
        path: format!("{path}{file_name}").into(),
    }
}

impl Solver<'_> {
    /// The directory that has `uv`, unpacked if it is not there yet.
    pub(super) fn uv(&self) -> Result<PathBuf, SolveError> {
        let pin = pin(Platform::host());
        let name = format!("uv-{}", pin.digest.short());
        self.store.hold([Held::Tool(&name)])?;
        let dir = self.store.root().join("tools").join(name);
        if dir.join("uv").is_file() {
            return Ok(dir);
        }
        let places = self.places();
        places.fetch_tools(self.client, &[Source::Wheel(&pin)], self.progress)?;
        let failed = |source| SolveError::Uv { version: VERSION, source };
        let blob = self.store.blob_path(&pin.digest);
        let mut wheel = Wheel::open(&blob, &pin.file_name, pin.digest).map_err(failed)?;
        let body = find_program(&mut wheel).map_err(failed)?;
        let tools = self.store.root().join("tools");
        fs::create_dir_all(&tools).at("create", &tools)?;
        let draft = self.store.tree_draft()?;
        let program = draft.path().join("uv");
        let mut file = fs::File::create(&program).at("create", &program)?;
        let copied =
            wheel.read_body::<_, WheelError>(&body, |bytes| Ok(std::io::copy(bytes, &mut file)));
        copied.map_err(failed)?.at("write", &program)?;
        drop(file);
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
            .at("set mode of", &program)?;
        match fs::rename(draft.path(), &dir) {
            // somebody else was faster
            Err(_) if dir.join("uv").is_file() => Ok(dir),
            result => result.at("rename", &dir).map(|()| dir).map_err(SolveError::from),
        }
    }
}

fn find_program(wheel: &mut Wheel) -> Result<Body, WheelError> {
    let prefix = crate::path::LayerPath::parse_absolute("/x").map_err(WheelError::Path)?;
    let place = Place {
        python: format!("{prefix}/bin/python"),
        packages: "packages".to_owned(),
        include: "include".to_owned(),
        prefix,
    };
    let files = wheel.install(&place, &|_| true)?;
    let program = files.into_iter().find(|file| file.path.as_bytes() == b"x/bin/uv");
    program.map(|file| file.body).ok_or_else(|| WheelError::Layout("no program `uv`".to_owned()))
}
