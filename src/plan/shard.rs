//! Dealing images to machines that build beside each other.
//!
//! Every machine deals by itself, from plans alone, and comes to the same: a plan follows from declaration,
//! lock and local files. Images that share most of what they are made of are to meet on one machine, lest
//! two make the same layers at the same time; and no machine is to have much more to do than its fair share.
//! So images are dealt heaviest first, each to where it adds least, as long as that stays within a fair share
//! and a quarter, and else to where it ends first. A share may be empty: then sharing was worth more.
//!
//! A step weighs what it reads, and something for itself. That is known without having built anything;
//! how long a machine takes is not, and need not be known alike on two of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;

use super::{Plan, Step};
use crate::store::Key;

/// What a source weighs whose size no lock knows (npm's).
const PACKAGE: u64 = 256 << 10;
/// What any step weighs.
const STEP: u64 = 1 << 20;
/// What a step weighs that runs programs.
const PROGRAM: u64 = 32 << 20;
/// The most machines that anything is dealt to.
const MOST: usize = 1000;

/// One of several shares: `2/4`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// From 1 on.
    number: usize,
    count: NonZeroUsize,
}

/// A text that names no share.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is no share: write `I/N`, with I from 1 to N and N at most {MOST}")]
pub struct ShardError(String);

impl FromStr for Shard {
    type Err = ShardError;

    fn from_str(text: &str) -> Result<Self, ShardError> {
        let parsed = || {
            // a sign would be read as a part of a number
            let plain = text.bytes().all(|c| c.is_ascii_digit() || c == b'/');
            let (number, count) = text.split_once('/').filter(|_| plain)?;
            let (number, count): (usize, NonZeroUsize) =
                (number.parse().ok()?, count.parse().ok()?);
            let sound = (1..=count.get()).contains(&number) && count.get() <= MOST;
            sound.then_some(Shard { number, count })
        };
        parsed().ok_or_else(|| ShardError(text.to_owned()))
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.count)
    }
}

impl Shard {
    /// Which of some plans fall to this share.
    pub fn select(&self, plans: &[Plan]) -> Vec<bool> {
        let images: Vec<Weights> = plans.iter().map(weigh).collect();
        deal(&images, self.count).into_iter().map(|share| share + 1 == self.number).collect()
    }
}

/// What an image is made of, and what that weighs.
type Weights = BTreeMap<Key, u64>;

fn weigh(plan: &Plan) -> Weights {
    let steps = plan.aside.iter().chain(&plan.steps);
    steps.map(|step| (step.key, weight(step))).collect()
}

fn weight(step: &Step) -> u64 {
    let sources = step.work.sources();
    let bytes: u64 = sources.iter().map(|source| source.size().unwrap_or(PACKAGE)).sum();
    bytes + if step.work.is_free() { STEP } else { PROGRAM }
}

/// A machine's part.
#[derive(Default)]
struct Share {
    keys: BTreeSet<Key>,
    load: u64,
}

impl Share {
    /// What an image would add.
    fn growth(&self, image: &Weights) -> u64 {
        image.iter().filter(|(key, _)| !self.keys.contains(key)).map(|(_, weight)| weight).sum()
    }
}

/// Which share each image falls to, from 0 on.
fn deal(images: &[Weights], count: NonZeroUsize) -> Vec<usize> {
    let weight = |image: &Weights| image.values().sum::<u64>();
    let whole: Weights = images.iter().flatten().map(|(key, weight)| (*key, *weight)).collect();
    let heaviest = images.iter().map(weight).max().unwrap_or_default();
    let fair = heaviest.max(weight(&whole).div_ceil(count.get() as u64));
    let most = fair + fair / 4;
    let mut order: Vec<usize> = (0..images.len()).collect();
    // equal weights by what they are made of: the order in which images are named is no reason
    order.sort_by_key(|at| {
        (std::cmp::Reverse(weight(&images[*at])), images[*at].keys().collect::<Vec<_>>())
    });
    let mut shares: Vec<Share> = (0..count.get()).map(|_| Share::default()).collect();
    let mut dealt = vec![0; images.len()];
    for at in order {
        let image = &images[at];
        let cost = |share: &Share| {
            let growth = share.growth(image);
            match share.load + growth {
                load if load <= most => (false, growth, load),
                load => (true, load, growth),
            }
        };
        let best = (0..shares.len()).min_by_key(|share| cost(&shares[*share])).unwrap_or_default();
        shares[best].load += shares[best].growth(image);
        shares[best].keys.extend(image.keys());
        dealt[at] = best;
    }
    dealt
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn image(steps: &[(&str, u64)]) -> Weights {
        steps.iter().map(|(name, weight)| (Key(Digest::of(name.as_bytes())), *weight)).collect()
    }

    fn dealt(images: &[Weights], count: usize) -> Vec<usize> {
        deal(images, NonZeroUsize::new(count).unwrap())
    }

    #[test]
    fn a_share_is_one_of_several() {
        let shown = |text: &str| match text.parse::<Shard>() {
            Ok(shard) => shard.to_string(),
            Err(error) => error.to_string(),
        };
        assert_eq!(shown("1/1"), "1/1");
        assert_eq!(shown("3/4"), "3/4");
        for bad in [
            "", "1", "0/2", "3/2", "1/0", "-1/2", "+1/2", "1/2/3", "a/b", "1/1001", "/", "1/",
            " 1/2",
        ] {
            assert!(shown(bad).contains("is no share"), "{bad}");
        }
    }

    #[test]
    fn images_that_share_stay_together_and_machines_have_alike_to_do() {
        let family = |base: &'static str| {
            ["x", "y"].map(|own| image(&[(base, 100), (&format!("{base}{own}"), 10)]))
        };
        let images: Vec<Weights> = ["a", "b", "c"].into_iter().flat_map(family).collect();
        let shares = dealt(&images, 3);
        assert!(shares.chunks(2).all(|pair| pair[0] == pair[1]), "{shares:?}");
        let used: BTreeSet<usize> = shares.into_iter().collect();
        assert_eq!(used.len(), 3);
    }

    #[test]
    fn what_little_is_left_beside_a_common_base_is_not_worth_a_second_one() {
        let images: Vec<Weights> =
            (1..=4).map(|own| image(&[("base", 100), (&own.to_string(), own)])).collect();
        assert_eq!(dealt(&images, 3), [0; 4]);
    }

    #[test]
    fn where_most_is_not_common_a_common_base_keeps_no_machine_idle() {
        let images: Vec<Weights> =
            (1..=6).map(|own| image(&[("base", 50), (&own.to_string(), 100)])).collect();
        let shares = dealt(&images, 3);
        for share in 0..3 {
            assert_eq!(shares.iter().filter(|of| **of == share).count(), 2, "{shares:?}");
        }
    }

    #[test]
    fn the_order_in_which_images_are_named_does_not_count() {
        let mut images: Vec<Weights> =
            (0..9).map(|own| image(&[("base", 30), (&own.to_string(), 20 + own % 3)])).collect();
        let shares = dealt(&images, 4);
        images.reverse();
        let mut again = dealt(&images, 4);
        again.reverse();
        assert_eq!(shares, again);
    }

    #[test]
    fn nothing_falls_to_nobody() {
        assert_eq!(dealt(&[], 3), [0; 0]);
        assert_eq!(dealt(&[image(&[("a", 1)]), image(&[("a", 1)])], 1), [0, 0]);
    }
}
