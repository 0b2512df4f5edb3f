//! What was refused, in the instance's log.

use std::fs::File;
use std::io::Write;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use tokio::sync::oneshot;

/// Lines that may wait for whoever reads the log; there are no more than that.
const WAITING: usize = 256;
/// How long a refusal waits for its line.
const PATIENCE: Duration = Duration::from_secs(1);

/// A line, and who waits for it to be written.
type Line = (String, oneshot::Sender<()>);

/// Writes lines from a thread of its own, so that a log that nobody reads holds up nothing.
#[derive(Clone, Debug)]
pub struct Journal {
    lines: SyncSender<Line>,
}

impl Journal {
    /// Whole lines, at most so many bytes if that is said.
    pub fn open(file: File, most: Option<usize>) -> Self {
        let (lines, queue) = sync_channel(WAITING);
        std::thread::spawn(move || write(file, most.unwrap_or(usize::MAX), &queue));
        Journal { lines }
    }

    /// To be called before whoever is refused hears of it: the instance may end at that.
    pub(super) async fn refused(&self, what: &str, reason: &str) {
        let (done, written) = oneshot::channel();
        let line = format!("sbx: egress refused: {what}: {reason}\n");
        // who asks faster than the log is written loses lines, not the way out
        if self.lines.try_send((line, done)).is_ok() {
            drop(tokio::time::timeout(PATIENCE, written).await);
        }
    }
}

fn write(mut file: File, mut left: usize, queue: &Receiver<Line>) {
    while let Ok((line, done)) = queue.recv() {
        // one that is gone, or full, takes no more
        if line.len() > left || file.write_all(line.as_bytes()).is_err() {
            return;
        }
        left -= line.len();
        // who does not wait any more need not know
        done.send(()).unwrap_or_default();
    }
}
