//! What people see: the answer on stdout, the story on stderr. The only place that writes to either.

use std::collections::HashMap;
use std::fs::Metadata;
use std::io::{ErrorKind, IsTerminal, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use miette::GraphicalReportHandler;
use serde::Serialize;

use sbx::build::builder::Events;
use sbx::build::run::Seat;
use sbx::decl::Faults;
use sbx::fetch::{Hearer, Progress};
use sbx::jail::Terminal;
use sbx::plain::{plain, tame};
use sbx::store::Key;

use crate::failure::{Failure, Outcome};

/// Talks to one terminal, or to a file.
pub struct Ui {
    json: bool,
    colors: bool,
    voice: Voice,
    fetch: Mutex<Fetching>,
    /// What goes out beside it.
    outgoing: Mutex<Fetching>,
    steps: Mutex<HashMap<Key, ProgressBar>>,
    /// Why an answer was not written, if one was not.
    unwritten: Mutex<Option<std::io::Error>>,
}

/// Bytes of a program's output at a time.
const CARRIED: usize = 64 << 10;

/// Columns of what is shown of a fault: so many, and on a narrow terminal no fewer than so many.
const WIDTH: usize = 110;
const NARROW: usize = 40;

/// Where a program's output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Output,
    Errors,
}

impl Seat for Ui {
    fn take(&self) -> Option<Terminal> {
        let both = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
        if !both {
            self.say("note: there is no terminal to open a shell at");
            return None;
        }
        self.voice.bars.set_draw_target(ProgressDrawTarget::hidden());
        self.write_line("the step failed: this shell is where it did; leave it to end the build");
        let input = std::io::stdin().as_fd().try_clone_to_owned().ok()?;
        let output = std::io::stdout().as_fd().try_clone_to_owned().ok()?;
        Some(Terminal { input, output })
    }
}

/// What writes the story, a line at a time, beside bars.
#[derive(Clone)]
struct Voice {
    quiet: bool,
    bars: MultiProgress,
    terminal: bool,
}

impl Voice {
    fn say(&self, text: &str) {
        if !self.quiet {
            self.write_line(&tame(text));
        }
    }

    fn write_line(&self, text: &str) {
        let write = || writeln!(std::io::stderr().lock(), "{text}").unwrap_or_default();
        if self.terminal { self.bars.suspend(write) } else { write() }
    }
}

impl Progress for Voice {
    fn started(&self, _: &str, _: Option<u64>) {}
    fn advanced(&self, _: u64) {}
    fn finished(&self, _: &str) {}

    fn noted(&self, text: &str) {
        self.say(&format!("note: {text}"));
    }

    fn retried(&self, label: &str, reason: &str) {
        self.say(&format!("again: {label}: {reason}"));
    }
}

/// All transfers share one bar.
#[derive(Default)]
struct Fetching {
    /// They go out, not in.
    sends: bool,
    bar: Option<ProgressBar>,
    files: u64,
    total: u64,
    running: u64,
}

impl Ui {
    /// `colors`: whether whoever sits there wants and has them.
    pub fn new(json: bool, quiet: bool, colors: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal && !quiet {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        Ui {
            json,
            colors,
            voice: Voice { quiet, bars: MultiProgress::with_draw_target(target), terminal },
            fetch: Mutex::default(),
            outgoing: Mutex::new(Fetching { sends: true, ..Fetching::default() }),
            steps: Mutex::default(),
            unwritten: Mutex::default(),
        }
    }

    /// The answer: `value` with `--json`, `text` otherwise.
    pub fn answer(&self, value: &impl Serialize, text: impl FnOnce() -> String) {
        let line = match self.json {
            true => serde_json::to_string(value).unwrap_or_default(),
            false => tame(&text()),
        };
        if !line.is_empty() {
            self.print(&line);
        }
    }

    fn print(&self, text: &str) {
        let mut stdout = std::io::stdout().lock();
        self.heed(writeln!(stdout, "{}", text.trim_end()).and_then(|()| stdout.flush()));
    }

    /// Writes bytes to stdout as they are.
    pub fn raw(&self, bytes: &[u8]) {
        let mut stdout = std::io::stdout().lock();
        self.heed(stdout.write_all(bytes).and_then(|()| stdout.flush()));
    }

    /// Remembers why an answer was not written.
    fn heed(&self, written: std::io::Result<()>) {
        if let Err(error) = written {
            lock(&self.unwritten).get_or_insert(error);
        }
    }

    /// Whether all answers were written. A reader that went away, as `head` does, is no failure.
    pub fn written(&self) -> Outcome {
        match lock(&self.unwritten).take() {
            Some(error) if error.kind() != ErrorKind::BrokenPipe => {
                Err(Failure::world(format!("the answer cannot be written: {error}")))
            }
            _ => Ok(()),
        }
    }

    /// Carries a program's output to stdout or stderr, as it is, until its end. Both may be one file,
    /// whose offset only write(2) looks up and moves in one go: splice(2), which `std::io::copy` takes
    /// where it can, would have two threads write to the same place.
    pub fn carry(&self, mut from: impl Read, to: Stream) {
        let fd = match to {
            Stream::Output => std::io::stdout().as_fd().try_clone_to_owned(),
            Stream::Errors => std::io::stderr().as_fd().try_clone_to_owned(),
        };
        // a reader that went away, as `head` does, is no failure; the program hears of it itself
        let Ok(mut file) = fd.map(std::fs::File::from) else { return };
        let mut bytes = vec![0; CARRIED];
        loop {
            match from.read(&mut bytes) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(n @ 1..) if file.write_all(&bytes[..n]).is_ok() => {}
                _ => return,
            }
        }
    }

    /// What is typed or piped in, and whether it is a pipe.
    pub fn input(&self) -> std::io::Result<(OwnedFd, bool)> {
        let stdin = std::io::stdin().as_fd().try_clone_to_owned()?;
        let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&stdin)?.st_mode);
        Ok((stdin, kind == rustix::fs::FileType::Fifo))
    }

    /// Where somebody sits, if somebody does.
    pub fn seat(&self) -> Option<Terminal> {
        let both = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
        let input = std::io::stdin().as_fd().try_clone_to_owned().ok()?;
        let output = std::io::stdout().as_fd().try_clone_to_owned().ok()?;
        both.then_some(Terminal { input, output })
    }

    /// Stdout, for an answer that is no text; `None` where a terminal would show it.
    pub fn take_stdout(&self) -> Option<impl Write> {
        let stdout = std::io::stdout();
        (!stdout.is_terminal()).then(|| stdout.lock())
    }

    /// Whether something is stdout by another name.
    pub fn is_stdout(&self, found: &Metadata) -> bool {
        let own = rustix::fs::fstat(std::io::stdout());
        own.is_ok_and(|own| (own.st_dev, own.st_ino) == (found.dev(), found.ino()))
    }

    /// What goes out while other things come in.
    pub fn outgoing(&self) -> Outgoing<'_> {
        Outgoing(self)
    }

    /// From now on, what is transferred goes out.
    pub fn sends(&self) {
        lock(&self.fetch).sends = true;
    }

    /// A line of the story.
    pub fn say(&self, text: &str) {
        self.voice.say(text);
    }

    /// For whoever lives longer than a reference.
    pub fn hearer(&self) -> Hearer {
        Hearer::new(Arc::new(self.voice.clone()))
    }

    fn write_line(&self, text: &str) {
        self.voice.write_line(text);
    }

    /// Why the command ended.
    pub fn fail(&self, failure: &Failure) {
        match failure {
            Failure::Faults(faults) => self.show_faults(faults),
            Failure::Other { message, help, .. } => {
                self.write_line(&tame(&format!("error: {message}")));
                if let Some(help) = help {
                    self.write_line(&tame(&format!("help: {help}")));
                }
            }
            Failure::Silent(_) => {}
        }
    }

    fn show_faults(&self, faults: &Faults) {
        let theme = match self.voice.terminal && self.colors {
            true => miette::GraphicalTheme::unicode(),
            false => miette::GraphicalTheme::unicode_nocolor(),
        };
        let handler = GraphicalReportHandler::new_themed(theme).with_width(width());
        for fault in faults.iter() {
            let mut text = String::new();
            let shown = handler.render_report(&mut text, fault);
            self.write_line(if shown.is_ok() { text.trim_end() } else { &fault.message });
        }
        let count = faults.len();
        self.write_line(&format!("error: {count} {}", if count == 1 { "fault" } else { "faults" }));
    }
}

/// Columns of a line, on a terminal at most what it has.
fn width() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stderr());
    let columns = size.map_or(0, |size| usize::from(size.ws_col));
    if columns == 0 { WIDTH } else { columns.clamp(NARROW, WIDTH) }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fetching {
    fn start(&mut self, size: Option<u64>, bars: &MultiProgress) {
        self.files += 1;
        self.running += 1;
        self.total += size.unwrap_or(0);
        if self.bar.is_none() {
            let style = ProgressStyle::with_template(
                "{spinner} {prefix} {msg:30} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}",
            )
            .unwrap_or_else(|_| ProgressStyle::default_bar());
            let what = if self.sends { "pushing" } else { "fetching" };
            let bar = bars.add(ProgressBar::new(0).with_style(style).with_prefix(what));
            bar.enable_steady_tick(Duration::from_millis(120));
            self.bar = Some(bar);
        }
        if let Some(bar) = &self.bar {
            bar.set_length(self.total);
        }
    }

    fn advance(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }

    fn finish(&mut self, label: &str) {
        self.running = self.running.saturating_sub(1);
        if let Some(bar) = &self.bar {
            bar.set_message(label.to_owned());
        }
        if self.running > 0 {
            return;
        }
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// What goes out while other things come in, with a bar of its own.
pub struct Outgoing<'a>(&'a Ui);

impl Progress for Outgoing<'_> {
    fn started(&self, _: &str, size: Option<u64>) {
        lock(&self.0.outgoing).start(size, &self.0.voice.bars);
    }

    fn advanced(&self, bytes: u64) {
        lock(&self.0.outgoing).advance(bytes);
    }

    fn finished(&self, label: &str) {
        lock(&self.0.outgoing).finish(label);
    }

    fn retried(&self, label: &str, reason: &str) {
        self.0.retried(label, reason);
    }
}

impl Progress for Ui {
    fn started(&self, _: &str, size: Option<u64>) {
        lock(&self.fetch).start(size, &self.voice.bars);
    }

    fn advanced(&self, bytes: u64) {
        lock(&self.fetch).advance(bytes);
    }

    fn finished(&self, label: &str) {
        lock(&self.fetch).finish(label);
    }

    fn noted(&self, text: &str) {
        self.voice.noted(text);
    }

    fn retried(&self, label: &str, reason: &str) {
        self.voice.retried(label, reason);
    }
}

impl Events for Ui {
    fn step_started(&self, key: &Key, title: &str, units: u64) {
        let short: String = title.chars().take(60).collect();
        if !self.voice.terminal {
            return self.say(&format!("building {short}"));
        }
        let style =
            ProgressStyle::with_template("{spinner} {prefix:40!} {bar:20} {pos}/{len} {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = self.voice.bars.add(ProgressBar::new(units).with_style(style).with_prefix(short));
        bar.enable_steady_tick(Duration::from_millis(120));
        lock(&self.steps).insert(*key, bar);
    }

    fn step_advanced(&self, key: &Key, what: &str) {
        if let Some(bar) = lock(&self.steps).get(key) {
            bar.inc(1);
            bar.set_message(what.to_owned());
        }
    }

    fn step_said(&self, key: &Key, line: &str) {
        if let Some(bar) = lock(&self.steps).get(key) {
            bar.set_message(plain(line));
        }
    }

    fn step_finished(&self, key: &Key) {
        if let Some(bar) = lock(&self.steps).remove(key) {
            bar.finish_and_clear();
        }
    }

    fn note(&self, text: &str) {
        self.say(&format!("note: {text}"));
    }
}
