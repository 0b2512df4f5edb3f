//! The keeper of an instance: a process with one thread that starts it and ends with it.
//!
//! It holds the instance's lock, writes its log, passes signals on, and cleans up. It is started
//! anew from this program's file, in a session of its own, so that it outlives the terminal. An
//! instance that is not detached ends when its caller does.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{Pid, Signal, WaitOptions};

use super::egress::{Sink, guard};
use super::launcher::Launcher;
use super::log::{self, Log};
use super::order::{Message, Order, kill_signal, stop_signal};
use super::probe;
use super::relay::{self, Door};
use super::state::{discard, hide, write_ended};
use crate::jail::cgroup::Cgroup;
use crate::jail::instance::{Ids, Started, Visitor, Wires, prepare};
use crate::jail::{Ended, Held, Report, SetupFault, forget_parent, fork, receive};
use crate::store::StoreError;

/// What refusals may take of the log of an instance that has a terminal.
const LOG_OF_REFUSALS: usize = 1 << 20;

pub(super) fn intercept() {
    if std::env::args_os().nth(1).is_some_and(|first| first == super::KEEPER_ARGUMENT) {
        main();
    }
}

fn main() -> ! {
    // what goes wrong before there is anybody to tell shows as a keeper that is gone
    let code = i32::from(keep().is_none());
    std::process::exit(code)
}

struct Keeper {
    order: Order,
    control: UnixStream,
    /// Held as long as this process lives.
    _lock: OwnedFd,
}

fn keep() -> Option<()> {
    forget_parent().ok()?;
    rustix::process::setsid().ok();
    rustix::process::chdir("/").ok()?;
    let signals = Held::all().descriptor().ok()?;
    let control = UnixStream::from(rustix::io::dup(std::io::stdin()).ok()?);
    rustix::io::fcntl_setfd(&control, rustix::io::FdFlags::CLOEXEC).ok()?;
    // whoever started this is not ready yet
    prepare();
    let [lock, input, output, errors, seat]: [OwnedFd; 5] =
        receive(control.as_fd()).ok()?.try_into().ok()?;
    let mut text = Vec::new();
    (&control).read_to_end(&mut text).ok()?;
    let order: Order = serde_json::from_slice(&text).ok()?;
    let mut keeper = Keeper { order, control, _lock: lock };
    let ended = keeper.run(Ends { stdio: [input, output, errors], seat }, &signals);
    keeper.clean_up(ended);
    Some(())
}

/// What the caller handed over for the program.
struct Ends {
    stdio: [OwnedFd; 3],
    seat: OwnedFd,
}

/// What a keeper waits for.
struct Watch {
    started: Started,
    /// Of a first process of our own; relays say nothing, and their end is seen.
    report: Option<BufReader<std::io::PipeReader>>,
    log: Option<Log>,
    /// Between its network and this machine's.
    relays: Vec<Pid>,
    /// Asks whether the instance is ready, until then.
    prober: Option<(Pid, Instant)>,
    /// The signal that the program was killed in place of.
    spared: Option<i32>,
}

impl Keeper {
    fn say(&self, message: &Message) {
        let mut line = serde_json::to_vec(message).expect("a message has string keys only");
        line.push(b'\n');
        // one who went away does not listen
        (&self.control).write_all(&line).unwrap_or_default();
    }

    /// Starts the instance and stays until its end; `None` where it did not come to be.
    fn run(&mut self, ends: Ends, signals: &OwnedFd) -> Option<Ended> {
        let doors = match self.open_doors() {
            Ok(doors) => doors,
            Err(message) => {
                self.say(&message);
                return None;
            }
        };
        if let Err(error) = self.order.cell.cgroup.create() {
            self.say(&Message::Limits { reason: error.to_string() });
            return None;
        }
        // a store that cannot be written to is no obstacle: nobody collects there either
        let held = match self.order.image.hold() {
            Err(StoreError::ReadOnly { .. }) => None,
            Err(error) => {
                let reason = error.to_string();
                let step = "hold the image".to_owned();
                self.say(&Message::Fault(SetupFault { step, reason, errno: None }));
                return None;
            }
            Ok(lease) => Some(lease),
        };
        let ended = self.begin_and_watch(ends, doors, signals);
        drop(held);
        ended
    }

    fn begin_and_watch(
        &mut self,
        ends: Ends,
        doors: Vec<Door>,
        signals: &OwnedFd,
    ) -> Option<Ended> {
        match self.begin(ends, doors) {
            Ok(watch) => Some(self.watch(watch, signals)),
            Err(fault) => {
                self.say(&Message::Fault(fault));
                None
            }
        }
    }

    fn open_doors(&mut self) -> Result<Vec<Door>, Message> {
        let mut doors = Vec::new();
        for (outside, inside) in &mut self.order.record.ports {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, *outside)).map_err(|error| {
                Message::PortTaken { port: *outside, reason: error.to_string() }
            })?;
            *outside = listener.local_addr().map_or(0, |address| address.port());
            doors.push(Door { listener, inside: *inside });
        }
        Ok(doors)
    }

    fn begin(&mut self, ends: Ends, doors: Vec<Door>) -> Result<Watch, SetupFault> {
        let (stdio, log) =
            self.connect(ends.stdio).map_err(|error| fault("open the log", &error))?;
        let sink = self.open_sink(&stdio).map_err(|error| fault("open the log", &error))?;
        let (report, tell) = std::io::pipe().map_err(|error| fault("open a pipe", &error))?;
        let (near, far) =
            UnixStream::pair().map_err(|error| fault("open a pair of sockets", &error))?;
        let gate = self.order.cell.gate.as_ref().map(|_| far.into());
        let wires = Wires { stdio, report: tell.into(), seat: ends.seat, gate };
        let launcher = &self.order.record.launcher;
        let started = launcher.start(&self.order, &wires)?;
        drop(wires);
        let own = *launcher == Launcher::Embedded;
        let mut report = own.then(|| BufReader::new(report));
        match report.as_mut().map(next_report) {
            None | Some(Some(Report::Running)) => {}
            Some(Some(Report::Fault(fault))) => return Err(fault),
            _ => return Err(fault("start the instance", &std::io::ErrorKind::BrokenPipe.into())),
        }
        self.order.record.keeper = Some(std::process::id());
        self.order.record.first = Some(started.first.as_raw_nonzero().get().cast_unsigned());
        let written = self.order.record.write(&self.order.dir);
        written.map_err(|error| fault("write the record", &error))?;
        let mut relays = Vec::new();
        if !doors.is_empty() {
            relays.push(spawn(|| relay::serve(doors, started.handle.as_fd()))?);
        }
        if let Some(sink) = sink {
            relays.push(self.send_guard(&near, sink)?);
        }
        self.say(&Message::Started { ports: self.order.record.ports.clone() });
        let prober = self.send_prober(&started)?;
        Ok(Watch { started, report, log, relays, prober, spared: None })
    }

    /// Where refusals to connect are written down: among what the program says, unless somebody sits
    /// before that.
    fn open_sink(&self, [_, _, errors]: &[OwnedFd; 3]) -> std::io::Result<Option<Sink>> {
        Ok(match (&self.order.egress, self.order.cell.program.terminal) {
            (None, _) => None,
            (Some(_), false) => Some(Sink { file: errors.try_clone()?.into(), most: None }),
            (Some(_), true) => {
                let file = log::append(&self.order.dir.join("log"))?;
                Some(Sink { file, most: Some(LOG_OF_REFUSALS) })
            }
        })
    }

    fn send_guard(&self, gate: &UnixStream, sink: Sink) -> Result<Pid, SetupFault> {
        let Order { cell, egress, .. } = &self.order;
        let (Some(policy), Some(sockets)) = (egress, &cell.gate) else {
            return Err(fault("serve the way out", &std::io::ErrorKind::NotFound.into()));
        };
        let sockets = sockets.receive(gate.as_fd())?;
        let own = std::process::id();
        spawn(|| guard(policy.clone(), sockets, sink, own))
    }

    fn send_prober(&self, started: &Started) -> Result<Option<(Pid, Instant)>, SetupFault> {
        let Some(ready) = &self.order.ready else {
            self.say(&Message::Ready);
            return Ok(None);
        };
        let groups = match self.order.record.groups() {
            // it has ended already, which is seen next
            Err(error) if is_gone(&error) => Cgroup::default(),
            groups => groups.map_err(|error| fault("find the instance's groups", &error))?,
        };
        let visitor = Visitor {
            program: self.order.record.program.clone(),
            tightness: self.order.cell.tightness,
            cgroup: groups,
        };
        let pid = spawn(|| probe::ask(ready, &visitor, started.handle.as_fd()))?;
        Ok(Some((pid, Instant::now() + self.order.timeout)))
    }

    /// The program's ends; what it says goes to the log where nobody else listens. An instance's
    /// root may open `/dev/stdout` anew: the pipe is its own.
    fn connect(&self, stdio: [OwnedFd; 3]) -> std::io::Result<([OwnedFd; 3], Option<Log>)> {
        let own = |fd: &OwnedFd| -> std::io::Result<()> {
            if let Ids::Own { first } = self.order.cell.ids {
                let (user, group) =
                    (rustix::process::Uid::from_raw(first), rustix::process::Gid::from_raw(first));
                rustix::fs::fchown(fd, Some(user), Some(group))?;
            }
            Ok(())
        };
        let [input, output, errors] = stdio;
        if !self.order.detached {
            own(&output)?;
            own(&errors)?;
            return Ok(([input, output, errors], None));
        }
        let (log, output) = Log::open(&self.order.dir)?;
        own(&output)?;
        let errors = rustix::io::fcntl_dupfd_cloexec(&output, 3)?;
        Ok(([input, output, errors], Some(log)))
    }

    fn watch(&mut self, mut watch: Watch, signals: &OwnedFd) -> Ended {
        loop {
            let [heard, reported, logged, left] = self.wait(&watch, signals);
            if logged && watch.log.as_mut().is_some_and(|log| !log.copy()) {
                // nobody can write to it any more
                watch.log = None;
            }
            if left {
                self.signal(&mut watch, libc::SIGKILL);
            }
            if heard && let Some(ended) = self.hear(&mut watch, signals) {
                return ended;
            }
            if reported && let Some(how) = self.hear_end(&mut watch) {
                return self.see_off(&mut watch, how);
            }
            self.look_at_clock(&mut watch);
        }
    }

    /// Whether there is a signal, a report, something for the log, a caller that left.
    fn wait(&self, watch: &Watch, signals: &OwnedFd) -> [bool; 4] {
        let report = match &watch.report {
            Some(report) => report.get_ref().as_fd(),
            None => watch.started.handle.as_fd(),
        };
        let mut polled = vec![
            PollFd::new(signals, PollFlags::IN),
            PollFd::from_borrowed_fd(report, PollFlags::IN),
        ];
        // a caller who left is told of without being asked for, again and again: so it is looked for only
        // where that matters; that it says no more was told long ago
        match &watch.log {
            Some(log) => polled.push(PollFd::new(log.reader(), PollFlags::IN)),
            None if self.order.detached => {}
            None => polled.push(PollFd::new(&self.control, PollFlags::empty())),
        }
        let until = watch.prober.map(|(_, end)| {
            let left = end.saturating_duration_since(Instant::now());
            Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() }
        });
        // a wait that was cut short is a wait that found nothing
        poll(&mut polled, until.as_ref()).unwrap_or_default();
        let some = |at: usize| polled.get(at).is_some_and(|fd| !fd.revents().is_empty());
        [some(0), some(1), some(2) && watch.log.is_some(), some(2) && !self.order.detached]
    }

    /// To the instance's first process, if it has not just ended.
    fn signal(&self, watch: &mut Watch, mut signal: i32) {
        let (first, record) = (watch.started.first, &self.order.record);
        if record.launcher.spares(first, signal) {
            watch.spared = Some(signal);
            signal = libc::SIGKILL;
        }
        if kill(first, signal) == Err(Errno::PERM) {
            record.launcher.pass(record, signal);
        }
    }

    /// Signals: children that ended, and what is to be passed on.
    fn hear(&self, watch: &mut Watch, signals: &OwnedFd) -> Option<Ended> {
        while let Some(signal) = Held::read(signals) {
            match signal {
                libc::SIGCHLD => {}
                signal if signal == kill_signal() => self.signal(watch, libc::SIGKILL),
                signal if signal == stop_signal() => self.signal(watch, self.order.stop_signal),
                signal => self.signal(watch, signal),
            }
        }
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if pid == watch.started.first {
                let how = match watch.report.as_mut().map(next_report) {
                    Some(Some(Report::Ended { how, .. })) => how,
                    Some(_) => Ended::Signal(status.terminating_signal().unwrap_or(libc::SIGKILL)),
                    None => self.order.record.launcher.ended(&self.order.record, Some(status)),
                };
                return Some(self.see_off(watch, how));
            }
            if watch.prober.is_some_and(|(prober, _)| prober == pid) {
                watch.prober = None;
                let ready = status.exit_status() == Some(0);
                self.say(if ready { &Message::Ready } else { &Message::NotReady });
            }
        }
        None
    }

    /// A report, or an end that was seen.
    fn hear_end(&self, watch: &mut Watch) -> Option<Ended> {
        match watch.report.as_mut().map(next_report) {
            Some(Some(Report::Ended { how, .. })) => Some(how),
            Some(_) => None,
            None => {
                // one that is a child leaves its status
                let reaped =
                    rustix::process::waitpid(Some(watch.started.first), WaitOptions::NOHANG);
                let status = reaped.ok().flatten().map(|(_, status)| status);
                Some(self.order.record.launcher.ended(&self.order.record, status))
            }
        }
    }

    /// The first process ended, or is about to: so does all else.
    fn see_off(&self, watch: &mut Watch, how: Ended) -> Ended {
        let how = match (how, watch.spared) {
            (Ended::Signal(libc::SIGKILL), Some(signal)) => Ended::Signal(signal),
            (how, _) => how,
        };
        let prober = watch.prober.take().map(|(pid, _)| pid);
        let own: Vec<Pid> = watch.relays.drain(..).chain(prober).collect();
        for pid in &own {
            // a child that has just ended needs no signal
            kill(*pid, libc::SIGKILL).unwrap_or_default();
        }
        if let Some(log) = watch.log.as_mut() {
            while log.copy() {}
        }
        // with them the ports are free
        for pid in own {
            let waited =
                retry_on_intr(|| rustix::process::waitpid(Some(pid), WaitOptions::empty()));
            // one that was reaped is gone as well
            waited.map(drop).unwrap_or_default();
        }
        how
    }

    fn look_at_clock(&self, watch: &mut Watch) {
        if let Some((pid, end)) = watch.prober
            && Instant::now() >= end
        {
            watch.prober = None;
            kill(pid, libc::SIGKILL).unwrap_or_default();
            self.say(&Message::NotReady);
        }
    }

    /// What is to be seen of the instance from now on is its end, or nothing.
    fn clean_up(self, ended: Option<Ended>) {
        let Order { record, dir, .. } = &self.order;
        let is_own = record.launcher == Launcher::Embedded;
        if !is_own {
            // while the record is to be seen yet: where this is cut short, the next look goes on by that
            reap_all();
            record.launcher.clean_up(record);
        }
        let keep = !record.fleeting && ended.is_some();
        if let Some(how) = ended.filter(|_| keep) {
            write_ended(dir, how).unwrap_or_default();
        }
        let gone = if keep { dir.clone() } else { hide(dir) };
        if let Some(how) = ended {
            self.say(&Message::Ended(how));
        }
        self.control.shutdown(std::net::Shutdown::Both).unwrap_or_default();
        if is_own {
            // what the kernel takes down with the last process of the instance, nobody waits for
            reap_all();
        }
        record.cgroup.remove();
        if !keep {
            discard(&gone, record.ids);
        }
    }
}

fn reap_all() {
    while rustix::process::wait(WaitOptions::empty()).is_ok() {}
}

fn next_report(report: &mut BufReader<std::io::PipeReader>) -> Option<Report> {
    let mut line = String::new();
    report.read_line(&mut line).ok()?;
    serde_json::from_str(&line).ok()
}

pub(super) fn fault(step: &str, error: &std::io::Error) -> SetupFault {
    SetupFault { step: step.to_owned(), reason: error.to_string(), errno: error.raw_os_error() }
}

/// Whether a process was looked at that is there no more.
fn is_gone(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

/// A child that does one thing.
pub(super) fn spawn(work: impl FnOnce() -> Result<(), SetupFault>) -> Result<Pid, SetupFault> {
    match fork()? {
        Some(pid) => Ok(pid),
        None => {
            let code = i32::from(work().is_err());
            // SAFETY: nothing of the keeper's is to be flushed or run by its copy
            unsafe { libc::_exit(code) }
        }
    }
}

fn kill(pid: Pid, signal: i32) -> rustix::io::Result<()> {
    let named = Signal::from_named_raw(signal);
    named.map_or(Ok(()), |named| rustix::process::kill_process(pid, named))
}
