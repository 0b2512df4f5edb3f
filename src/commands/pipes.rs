//! What a program in an instance reads and writes, joined to this process's own. The program never
//! holds the caller's descriptors: a terminal could be typed into, a file would be given to the
//! instance's root by crun, and a pipe of another owner could not be opened anew through
//! `/dev/stdout`.

use std::fs::File;
use std::io::PipeReader;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::Scope;

use sbx::jail::Held;

use crate::failure::{Failure, Outcome};
use crate::ui::{Stream, Ui};

/// The near ends, to be given away, and the far ends, to be carried.
pub struct Pipes {
    input: OwnedFd,
    output: OwnedFd,
    errors: OwnedFd,
    far: [PipeReader; 2],
    /// Somebody types, or there is a file: it goes here.
    typed: Option<(OwnedFd, std::io::PipeWriter)>,
}

/// The far ends.
pub struct Far {
    far: [PipeReader; 2],
    typed: Option<(OwnedFd, std::io::PipeWriter)>,
}

fn failed(error: std::io::Error) -> Failure {
    Failure::world(format!("a pipe cannot be opened: {error}"))
}

impl Pipes {
    pub fn open(ui: &Ui, interactive: bool) -> Outcome<Self> {
        let (out, output) = std::io::pipe().map_err(failed)?;
        let (err, errors) = std::io::pipe().map_err(failed)?;
        let mut typed = None;
        let input = match interactive {
            false => File::open("/dev/null").map_err(failed)?.into(),
            true => match ui.input().map_err(failed)? {
                (piped, true) => piped,
                (other, false) => {
                    let (near, far) = std::io::pipe().map_err(failed)?;
                    typed = Some((other, far));
                    near.into()
                }
            },
        };
        Ok(Pipes { input, output: output.into(), errors: errors.into(), far: [out, err], typed })
    }

    pub fn near(&self) -> [BorrowedFd<'_>; 3] {
        [self.input.as_fd(), self.output.as_fd(), self.errors.as_fd()]
    }

    /// To be called once they are given away: the far ends see the last writer go.
    pub fn give_away(self) -> Far {
        Far { far: self.far, typed: self.typed }
    }
}

impl Far {
    /// Carries all of it; the scope ends when the program's output does.
    pub fn carry<'s>(self, scope: &'s Scope<'s, '_>, ui: &'s Ui) {
        let [out, err] = self.far;
        scope.spawn(move || ui.carry(out, Stream::Output));
        scope.spawn(move || ui.carry(err, Stream::Errors));
        if let Some((terminal, mut far)) = self.typed {
            // nobody waits for what is never typed
            std::thread::spawn(move || std::io::copy(&mut File::from(terminal), &mut far));
        }
    }
}

/// Passes signals on to a process from now on; to be called before there are other threads.
pub fn hold_signals() -> Held {
    Held::asked()
}

/// Passes what is held on to a process, for good.
pub fn pass_signals(held: Held, pid: u32) {
    std::thread::spawn(move || {
        loop {
            let signal = held.next();
            if signal > 0 {
                Held::pass(signal, pid);
            }
        }
    });
}
