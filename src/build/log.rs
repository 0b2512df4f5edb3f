//! What a step says, kept in a file: its beginning and its end, however much there is between.
//!
//! A command that never stops talking fills no disk and no memory: what begins an output and what ends
//! it is what anybody looks for, and what is left out in the middle is said to be.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use crate::fsx::{IoAt, PathIo};

/// Bytes that are kept of a beginning, and as many of an end.
const KEPT: usize = 4 << 20;

/// A log that is being written. Dropping it writes its end.
pub(super) struct Log {
    file: File,
    /// Bytes that the beginning may still get.
    left: usize,
    end: VecDeque<String>,
    /// Bytes of the end.
    held: usize,
    /// Lines and bytes that are in neither.
    dropped: (u64, u64),
}

impl Log {
    pub fn create(path: &Path) -> Result<Self, PathIo> {
        let file = File::create(path).at("create", path)?;
        Ok(Log { file, left: KEPT, end: VecDeque::new(), held: 0, dropped: (0, 0) })
    }

    /// Adds a line. A log that cannot be written stops no command.
    pub fn add(&mut self, line: &str) {
        let size = line.len() + 1;
        if size <= self.left && self.end.is_empty() {
            self.left -= size;
            return writeln!(self.file, "{line}").unwrap_or_default();
        }
        self.held += size;
        self.end.push_back(line.to_owned());
        while self.held > KEPT {
            let Some(first) = self.end.pop_front() else { break };
            self.held -= first.len() + 1;
            self.dropped.0 += 1;
            self.dropped.1 += first.len() as u64 + 1;
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let (lines, bytes) = self.dropped;
        if lines > 0 {
            let said = format!("sbx: {lines} lines ({bytes} bytes) are left out here");
            writeln!(self.file, "{said}").unwrap_or_default();
        }
        for line in &self.end {
            writeln!(self.file, "{line}").unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(lines: usize) -> String {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("x.log");
        let mut log = Log::create(&path).unwrap();
        (0..lines).for_each(|at| log.add(&format!("{at:09}")));
        drop(log);
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn what_is_small_is_kept_whole() {
        assert_eq!(written(3), "000000000\n000000001\n000000002\n");
        let lines = KEPT / 10 + 5;
        let text = written(lines);
        assert_eq!(text.lines().count(), lines);
        assert!(!text.contains("left out"));
    }

    #[test]
    fn of_what_is_large_the_middle_goes() {
        let lines = 1_000_000;
        let text = written(lines);
        assert!(text.len() < 2 * KEPT + 100, "{}", text.len());
        assert!(text.starts_with("000000000\n") && text.ends_with("000999999\n"));
        let dropped = lines - 2 * (KEPT / 10);
        let said = format!("sbx: {dropped} lines ({} bytes) are left out here", dropped * 10);
        let all: Vec<&str> = text.lines().collect();
        let at = all.iter().position(|line| *line == said).unwrap();
        let number = |at: usize| all[at].parse::<usize>().unwrap();
        assert_eq!(number(at + 1) - number(at - 1), dropped + 1);
    }
}
