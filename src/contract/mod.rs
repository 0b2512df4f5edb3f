//! Holding an instance to what its callers rely on: AgentScope's contract endpoint by endpoint, a real
//! call to each declared MCP server, or for other sandboxes the ports and the readiness they declare.
//!
//! It is asked from outside, over the published port, as its callers do. Every check stands alone, so
//! that one flaw does not hide the next, and says what it saw. What cannot be tried is left out with the
//! reason, never counted as passed.

mod app;
mod caller;
mod junit;
mod ports;
mod servers;

pub use app::{Manners, check_app};
pub use caller::{CallError, Caller};
pub use junit::junit;
pub use ports::check_ports;
pub use servers::{Expected, check_servers};

use std::time::Instant;

use serde::Serialize;

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Passed,
    Failed,
    LeftOut,
}

/// One check, and what was seen.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    pub group: &'static str,
    pub name: String,
    pub verdict: Verdict,
    pub seen: String,
    pub seconds: f64,
}

/// Why a check did not pass.
#[derive(Debug, thiserror::Error)]
pub enum Flaw {
    #[error("{0}")]
    Failed(String),
    #[error("{0}")]
    LeftOut(String),
}

impl From<CallError> for Flaw {
    fn from(error: CallError) -> Self {
        Flaw::Failed(error.to_string())
    }
}

/// What was seen, in a few words.
pub type Finding = Result<String, Flaw>;

/// All checks so far.
#[derive(Debug, Default)]
pub struct Trial {
    checks: Vec<Check>,
}

impl Trial {
    pub fn check(
        &mut self,
        group: &'static str,
        name: impl Into<String>,
        check: impl FnOnce() -> Finding,
    ) {
        let begun = Instant::now();
        let finding = check();
        self.note(group, name, finding, begun.elapsed().as_secs_f64());
    }

    /// What was seen otherwise.
    pub fn note(
        &mut self,
        group: &'static str,
        name: impl Into<String>,
        finding: Finding,
        seconds: f64,
    ) {
        let (verdict, seen) = match finding {
            Ok(seen) => (Verdict::Passed, seen),
            Err(Flaw::Failed(seen)) => (Verdict::Failed, seen),
            Err(Flaw::LeftOut(seen)) => (Verdict::LeftOut, seen),
        };
        self.checks.push(Check { group, name: name.into(), verdict, seen, seconds });
    }

    pub fn checks(&self) -> &[Check] {
        &self.checks
    }

    pub fn count(&self, verdict: Verdict) -> usize {
        self.checks.iter().filter(|check| check.verdict == verdict).count()
    }
}

/// `Failed` unless something holds.
fn hold(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Flaw> {
    if holds { Ok(()) } else { Err(Flaw::Failed(otherwise())) }
}

/// So much of an answer as a line can show.
fn brief(text: &str) -> String {
    const LONGEST: usize = 200;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}
