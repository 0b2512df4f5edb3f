//! Those who write to one place at once.
//!
//! A registry changes no manifest on a condition: who reads one, adds to it and writes it may overwrite what
//! somebody else wrote in between. So each looks again after a pause. It is no shorter than the time that it took
//! itself between reading and writing, for others take about as long; and beyond that as long as chance has
//! it, more from round to round, so that those who met do not meet again.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// What is taken for the time between reading and writing, at least and at most.
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);
/// From this round on pauses grow no more.
const LAST: u32 = 4;

/// Waits before the next look, given how long it took to read and to write, and how often it was tried.
pub fn pause(took: Duration, round: u32) {
    std::thread::sleep(length(took, round, RandomState::new().hash_one(round) as u8));
}

fn length(took: Duration, round: u32, chance: u8) -> Duration {
    let took = took.clamp(SHORTEST, LONGEST);
    took + took * (u32::from(chance) << round.min(LAST)) / 256
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_at_least_as_long_as_what_may_be_overlooked() {
        let second = Duration::from_secs(1);
        assert_eq!(length(second, 0, 0), second);
        assert_eq!(length(second, 0, 128), second * 3 / 2);
        assert_eq!(length(second, 3, 128), second * 5);
        assert_eq!(length(second, 40, 128), second * 9);
        assert_eq!(length(Duration::ZERO, 0, 0), SHORTEST);
        assert!(length(second * 100, 9, 255) < LONGEST * 17);
    }
}
