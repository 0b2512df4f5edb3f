//! Bytes between an engine's stream and descriptors of this machine.

use std::fs::File;
use std::io::{PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::errors::Error;
use futures::{Stream, StreamExt};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::termios::{OptionalActions, Winsize};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc::{Receiver, channel};

/// How often to look whether a window has another size.
const GLANCE: Duration = Duration::from_millis(250);
/// Bytes that are carried at a time.
const PIECE: usize = 64 << 10;

/// What an engine attached.
pub(super) struct Streams {
    pub output: Pin<Box<dyn Stream<Item = Result<LogOutput, Error>> + Send>>,
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
}

/// Ends on this machine.
pub(super) struct Ends {
    input: OwnedFd,
    output: File,
    errors: File,
    /// The near end of a terminal, where they are one.
    terminal: Option<OwnedFd>,
}

impl Ends {
    pub fn of([input, output, errors]: [OwnedFd; 3]) -> Self {
        Ends { input, output: output.into(), errors: errors.into(), terminal: None }
    }

    /// A terminal's near end, which changes nothing of what goes through it.
    pub fn of_terminal(near: OwnedFd) -> std::io::Result<Self> {
        let mut modes = rustix::termios::tcgetattr(&near)?;
        modes.make_raw();
        rustix::termios::tcsetattr(&near, OptionalActions::Now, &modes)?;
        let mut ends = Ends::of([near.try_clone()?, near.try_clone()?, near.try_clone()?]);
        ends.terminal = Some(near);
        Ok(ends)
    }

    fn size(&self) -> Option<Winsize> {
        rustix::termios::tcgetwinsize(self.terminal.as_ref()?).ok()
    }
}

/// Carries both ways until the engine's stream ends. `resize` is told a terminal's rows and columns, until
/// it says that they were taken: what has not started yet, or has just ended, has no window.
pub(super) async fn pump(
    mut streams: Streams,
    mut ends: Ends,
    resize: impl AsyncFn(u16, u16) -> bool,
) -> Result<(), Error> {
    let (typed, _going) = read(&ends.input)?;
    let mut typed = Some(typed);
    let mut glance = tokio::time::interval(GLANCE);
    let mut known = None;
    loop {
        tokio::select! {
            message = streams.output.next() => match message {
                Some(message) => write(&mut ends, message?),
                None => return Ok(()),
            },
            bytes = next(&mut typed) => {
                // a program that does not read any more is none that is to be told so
                match bytes {
                    Some(bytes) => streams.input.write_all(&bytes).await.unwrap_or_default(),
                    None => {
                        typed = None;
                        streams.input.shutdown().await.unwrap_or_default();
                    }
                }
            }
            _ = glance.tick(), if ends.terminal.is_some() => {
                let size = ends.size();
                if let Some(size) = size.filter(|size| Some((size.ws_row, size.ws_col)) != known) {
                    let taken = resize(size.ws_row, size.ws_col).await;
                    known = taken.then_some((size.ws_row, size.ws_col)).or(known);
                }
            }
        }
    }
}

/// What is typed next; never, once there is nothing more.
async fn next(typed: &mut Option<Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    match typed {
        Some(typed) => typed.recv().await,
        None => std::future::pending().await,
    }
}

/// Reads a descriptor in a thread that ends with the answer's second part.
fn read(from: &OwnedFd) -> std::io::Result<(Receiver<Vec<u8>>, PipeWriter)> {
    let (sender, receiver) = channel(4);
    let (stop, going) = std::io::pipe()?;
    let mut from = File::from(from.try_clone()?);
    std::thread::spawn(move || {
        let mut bytes = vec![0; PIECE];
        loop {
            let mut polled =
                [PollFd::new(&from, PollFlags::IN), PollFd::new(&stop, PollFlags::empty())];
            // a wait that was cut short is a wait that found nothing
            poll(&mut polled, None).unwrap_or_default();
            let [has, stopped] = polled.map(|fd| !fd.revents().is_empty());
            if stopped {
                return;
            }
            if has {
                let Ok(n @ 1..) = from.read(&mut bytes) else { return };
                if sender.blocking_send(bytes[..n].to_vec()).is_err() {
                    return;
                }
            }
        }
    });
    Ok((receiver, going))
}

/// A reader that went away, as `head` does, is no failure.
fn write(ends: &mut Ends, message: LogOutput) {
    let (to, bytes) = match message {
        LogOutput::StdErr { message } => (&mut ends.errors, message),
        LogOutput::StdOut { message } | LogOutput::Console { message } => {
            (&mut ends.output, message)
        }
        LogOutput::StdIn { .. } => return,
    };
    to.write_all(&bytes).unwrap_or_default();
}
