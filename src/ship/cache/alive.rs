//! Whether whoever claims a layer is still making it.
//!
//! No two clocks are compared. A claim says after how long it is said anew, and counts while its beats rise
//! within that time twice over. A beat that was seen, and each before it, is nothing new, whoever shows it again.
//! The longer a claim stands, the rarer it is said anew: each time leaves a manifest in the repository, and who
//! died late is waited for no longer than half the time that his work took. A process of this machine is looked
//! for, so who was ended here is not waited for here.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use crate::digest::Digest;

/// A claim is said anew after so long, and at most so long.
const SHORTEST: Duration = Duration::from_secs(3);
const LONGEST: Duration = Duration::from_secs(60);
/// What a request may take beside that.
const ODD: Duration = Duration::from_secs(4);

/// After how long a claim is said anew that has stood for so long.
pub(super) fn pause(stood: Duration) -> Duration {
    Duration::from_secs((stood / 4).as_secs()).clamp(SHORTEST, LONGEST)
}

/// What others said of a layer so far, by their names.
#[derive(Debug, Default)]
pub(super) struct Watched(BTreeMap<String, Seen>);

#[derive(Debug)]
struct Seen {
    beat: u64,
    /// When that was new.
    at: Instant,
    ended: bool,
}

impl Watched {
    /// Whether somebody makes a layer who said so for this time, and says so again after a pause.
    pub(super) fn is_alive(&mut self, who: &str, beat: u64, pause: Duration, now: Instant) -> bool {
        match self.0.get_mut(who) {
            Some(seen) if seen.ended => false,
            Some(seen) if beat <= seen.beat => {
                now.duration_since(seen.at) <= pause.min(LONGEST) * 2 + ODD
            }
            _ => {
                self.0.insert(who.to_owned(), Seen { beat, at: now, ended: false });
                true
            }
        }
    }

    /// Somebody is done.
    pub(super) fn end(&mut self, who: &str, now: Instant) {
        self.0.insert(who.to_owned(), Seen { beat: u64::MAX, at: now, ended: true });
    }
}

/// A name that one build gives itself: machine, process, when that began, and chance.
pub(super) fn own_name() -> String {
    let pid = std::process::id();
    let (machine, began) = (machine().unwrap_or_default(), began(pid).unwrap_or_default());
    format!("{machine}-{pid}-{began}-{:016x}", RandomState::new().hash_one(pid))
}

/// Whether a build ended that ran on this machine.
pub(super) fn is_gone(who: &str) -> bool {
    let parts: Vec<&str> = who.split('-').collect();
    let [theirs, pid, since, _] = parts[..] else { return false };
    if machine().is_none_or(|own| own != theirs) {
        return false;
    }
    let Some((number, pid)) = pid.parse().ok().and_then(|pid| Some((pid, Pid::from_raw(pid)?)))
    else {
        return false;
    };
    // one that may not be looked at is there all the same
    let is_other = || began(number.cast_unsigned()).is_some_and(|began| began != since);
    test_kill_process(pid) == Err(Errno::SRCH) || is_other()
}

/// A machine since its start, as far as its processes see each other.
fn machine() -> Option<String> {
    let start = fs::read("/proc/sys/kernel/random/boot_id").ok()?;
    let processes = fs::read_link("/proc/self/ns/pid").ok()?;
    let all = [&start, processes.as_os_str().as_encoded_bytes()].concat();
    Some(Digest::of(&all).hex()[..16].to_owned())
}

/// When a process began, in the kernel's ticks.
fn began(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // the program's name, in brackets, may hold anything
    stat.rsplit_once(')')?.1.split_whitespace().nth(19).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_claim_counts_while_its_beats_rise_and_no_beat_counts_twice() {
        let (mut watched, begun) = (Watched::default(), Instant::now());
        let mut is_alive = |beat: u64, second: u32| {
            watched.is_alive("a", beat, 3 * SECOND, begun + second * SECOND)
        };
        assert!(is_alive(4, 0) && is_alive(4, 10) && !is_alive(4, 11));
        assert!(is_alive(5, 20), "it was slow, and lives");
        // whoever kept what was said shows it again
        for second in (20..60).step_by(2) {
            let was_shown = is_alive(u64::from(second / 2 % 2) + 4, second);
            assert_eq!(was_shown, second <= 30, "{second}");
        }
        watched.end("a", begun);
        assert!(!watched.is_alive("a", 6, SECOND, begun));
        assert!(watched.is_alive("b", 0, 1000 * SECOND, begun));
        assert!(!watched.is_alive("b", 0, 1000 * SECOND, begun + 125 * SECOND));
    }

    #[test]
    fn what_takes_long_is_said_less_often() {
        let (mut stood, mut count) = (Duration::ZERO, 0);
        while stood < 30 * 60 * SECOND {
            stood += pause(stood);
            count += 1;
        }
        assert_eq!((pause(Duration::ZERO), count), (3 * SECOND, 45));
        assert!(pause(stood) * 2 < stood / 2);
    }

    #[test]
    fn a_build_of_this_machine_that_ended_is_known() {
        let own = own_name();
        assert!(!is_gone(&own) && own != own_name());
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let parts: Vec<&str> = own.split('-').collect();
        let named = |machine: &str, pid: u32, since: &str| format!("{machine}-{pid}-{since}-0");
        child.wait().unwrap();
        assert!(is_gone(&named(parts[0], child.id(), parts[2])));
        // its number may be another's by now
        assert!(is_gone(&named(parts[0], std::process::id(), "1")));
        assert!(!is_gone(&named("0123456789abcdef", child.id(), "1")), "another machine's");
        assert!(!is_gone("") && !is_gone("a-b-c-d") && !is_gone(&named(parts[0], 0, "1")));
    }
}
