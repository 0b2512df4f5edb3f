//! What was refused, in the instance's log.

use std::fs::File;
use std::io::Write;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Lines that may wait for whoever reads the log; more are counted, not kept.
const WAITING: usize = 256;

/// Writes lines from a thread of its own, so that a log that nobody reads holds up nothing.
#[derive(Clone, Debug)]
pub struct Journal {
    lines: SyncSender<String>,
}

impl Journal {
    /// Whole lines, at most so many bytes if that is said.
    pub fn open(file: File, most: Option<usize>) -> Self {
        let (lines, queue) = sync_channel(WAITING);
        std::thread::spawn(move || write(file, most.unwrap_or(usize::MAX), &queue));
        Journal { lines }
    }

    pub(super) fn refused(&self, what: &str, reason: &str) {
        // who asks faster than the log is written loses lines, not the way out
        self.lines.try_send(format!("sbx: egress refused: {what}: {reason}\n")).unwrap_or_default();
    }
}

fn write(mut file: File, mut left: usize, queue: &Receiver<String>) {
    while let Ok(line) = queue.recv() {
        // one that is gone, or full, takes no more
        if line.len() > left || file.write_all(line.as_bytes()).is_err() {
            return;
        }
        left -= line.len();
    }
}
