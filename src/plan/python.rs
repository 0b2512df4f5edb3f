//! Environments: a step for the wheels, which sees nothing, and one for their bytecode, which sees the
//! Python that compiles it. That is laid content, not settled: no maintainer script says how Python
//! compiles, so the bytecode need not wait for them.

use serde::{Serialize, Serializer};

use super::step::{Step, Work};
use super::{PlanError, Planner, key_of};
use crate::decl::{Editable, Layer, Venv};
use crate::lock::interpreter::{debs_below, interpreter_of};
use crate::lock::question::recipe_request;
use crate::lock::{Pin, WheelPin};
use crate::path::LayerPath;
use crate::python::Interpreter;
use crate::store::Key;

/// An environment and its wheels.
#[derive(Clone, Debug)]
pub struct WheelsWork {
    pub prefix: LayerPath,
    pub interpreter: Interpreter,
    pub wheels: Vec<WheelPin>,
    /// What it must have in its `bin`.
    pub programs: Vec<String>,
    /// Projects that stay where their layer laid them.
    pub editables: Vec<Editable>,
    /// What is left out, in gitignore's patterns of paths below it.
    pub exclude: Vec<String>,
}

/// An environment to compile.
#[derive(Clone, Debug, Serialize)]
pub struct BytecodeWork {
    #[serde(serialize_with = "shown")]
    pub prefix: LayerPath,
    #[serde(serialize_with = "shown")]
    pub program: LayerPath,
}

/// All that an editable project says, and where it is.
fn identity_of(editable: &Editable) -> impl Serialize + '_ {
    let places = (editable.dir.to_string(), editable.root.to_string());
    (editable, &editable.version, &editable.entry_points, places)
}

fn shown<S: Serializer>(path: &LayerPath, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(path)
}

impl<'a> Planner<'a> {
    pub(super) fn add_venv(
        &mut self,
        layer: &'a Layer,
        at: usize,
        venv: &Venv,
    ) -> Result<(), PlanError> {
        let super::Given { project, platform, lock, local, .. } = self.given;
        let not_locked = || PlanError::NotLocked { layer: layer.name.clone(), platform };
        let request = recipe_request(project, layer, at, platform, local).ok_or_else(not_locked)?;
        let pins = lock.answer(&request).ok_or_else(not_locked)?;
        let interpreter = interpreter_of(project, layer, platform, lock, venv.python.as_deref())?;
        let wheels = pins.iter().filter_map(|pin| match pin {
            Pin::Wheel(pin) => Some(pin.clone()),
            _ => None,
        });
        let wheels: Vec<WheelPin> = wheels.collect();
        let identity: Vec<_> = wheels.iter().map(|pin| (&pin.file_name, &pin.digest)).collect();
        let prefix = venv.prefix.to_string();
        let program = interpreter.program.to_string();
        let facts = (&prefix, &*interpreter.full_version, &program, &identity);
        let editables: Vec<_> = venv.editables.iter().map(identity_of).collect();
        let key = match (venv.programs.as_slice(), editables.as_slice()) {
            ([], []) => key_of("wheels", &facts),
            (programs, []) => key_of("wheels", &(facts, programs)),
            (programs, editables) => key_of("wheels", &(facts, programs, editables)),
        };
        let key = match venv.exclude.as_slice() {
            [] => key,
            exclude => key_of("wheels less", &(key, exclude)),
        };
        let count = wheels.len();
        self.rest.push(Step {
            layer: layer.name.clone(),
            key,
            title: format!("venv {prefix}: {count} wheels"),
            below: Vec::new(),
            work: Work::Wheels(WheelsWork {
                prefix: venv.prefix.clone(),
                interpreter: interpreter.clone(),
                wheels,
                programs: venv.programs.clone(),
                editables: venv.editables.clone(),
                exclude: venv.exclude.clone(),
            }),
        });
        if !venv.bytecode {
            return Ok(());
        }
        let work =
            BytecodeWork { prefix: venv.prefix.clone(), program: interpreter.program.clone() };
        self.add_bytecode(layer, key, work)
    }

    /// Compiles the environment that the step of this Key lays, over Debian's content alone.
    fn add_bytecode(
        &mut self,
        layer: &'a Layer,
        wheels: Key,
        work: BytecodeWork,
    ) -> Result<(), PlanError> {
        let super::Given { project, platform, lock, .. } = self.given;
        let view = self.view(layer, 0)?;
        let is_below = |step: &&Step| matches!(step.work, Work::Base(_) | Work::Content(_));
        let content = view.steps.iter().filter(is_below);
        let content: Vec<Step> = content.cloned().collect();
        // what else lies below cannot change what Python makes of a source
        let pythons: Vec<_> = debs_below(project, layer, platform, lock)
            .filter(|pin| pin.name.contains("python"))
            .map(|pin| {
                let other = || pin.version.to_owned();
                (pin.name, pin.digest.map_or_else(other, |digest| digest.to_string()))
            })
            .collect();
        let bytecode = key_of("bytecode", &(wheels, &work, pythons));
        let below = content.iter().map(|step| step.key).chain([wheels]).collect();
        for step in content {
            if !self.aside.iter().any(|known| known.key == step.key) {
                self.aside.push(step);
            }
        }
        self.rest.push(Step {
            layer: layer.name.clone(),
            key: bytecode,
            title: format!("bytecode of {}", work.prefix),
            below,
            work: Work::Bytecode(work),
        });
        Ok(())
    }
}
