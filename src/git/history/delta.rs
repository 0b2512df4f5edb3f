//! Deltas: a version of a file as pieces of another one and bytes of its own (gitformat-pack(5),
//! deltified representation). Plain and greedy: what counts is that it is always the same.

/// Bytes that are compared at a time.
const WINDOW: usize = 16;
/// Most bytes of one copy, and of one insertion.
const COPY: usize = 0xff_ffff;
const INSERT: usize = 0x7f;

/// Where the base has which window.
struct Windows {
    /// Offsets plus one, by a hash of the bytes there; the first of several counts.
    table: Vec<u32>,
    shift: u32,
}

impl Windows {
    fn of(base: &[u8]) -> Self {
        let slots = (base.len() / WINDOW * 2).next_power_of_two().max(16);
        let shift = 64 - slots.trailing_zeros();
        let mut windows = Windows { table: vec![0; slots], shift };
        for (at, window) in base.chunks_exact(WINDOW).enumerate() {
            let slot = windows.slot(window);
            if windows.table[slot] == 0 {
                windows.table[slot] = u32::try_from(at * WINDOW + 1).unwrap_or(0);
            }
        }
        windows
    }

    fn slot(&self, window: &[u8]) -> usize {
        let half =
            |bytes: &[u8]| bytes.iter().rev().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
        let (one, two) = (half(&window[..8]), half(&window[8..WINDOW]));
        let mixed = (one ^ two.rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93) >> self.shift) as usize
    }

    fn find(&self, base: &[u8], window: &[u8]) -> Option<usize> {
        let at = self.table[self.slot(window)].checked_sub(1)? as usize;
        (base[at..at + WINDOW] == *window).then_some(at)
    }
}

/// `target` in terms of `base`; `None` where that takes `most` bytes or more.
pub(super) fn delta(base: &[u8], target: &[u8], most: usize) -> Option<Vec<u8>> {
    let mut delta = Vec::new();
    push_size(&mut delta, base.len());
    push_size(&mut delta, target.len());
    let windows = Windows::of(base);
    // the next byte to be said, and the next one to be looked at
    let (mut said, mut at) = (0, 0);
    while at + WINDOW <= target.len() {
        let Some(mut from) = windows.find(base, &target[at..at + WINDOW]) else {
            at += 1;
            if delta.len() + (at - said) >= most {
                return None;
            }
            continue;
        };
        let mut start = at;
        while start > said && from > 0 && target[start - 1] == base[from - 1] {
            (start, from) = (start - 1, from - 1);
        }
        let same = target[start..].iter().zip(&base[from..]).take_while(|(one, two)| one == two);
        let length = same.count();
        push_insertions(&mut delta, &target[said..start]);
        push_copies(&mut delta, from, length);
        (said, at) = (start + length, start + length);
    }
    push_insertions(&mut delta, &target[said..]);
    (delta.len() < most).then_some(delta)
}

fn push_size(delta: &mut Vec<u8>, mut size: usize) {
    while size >= 0x80 {
        delta.push(size as u8 & 0x7f | 0x80);
        size >>= 7;
    }
    delta.push(size as u8);
}

fn push_insertions(delta: &mut Vec<u8>, bytes: &[u8]) {
    for piece in bytes.chunks(INSERT) {
        delta.push(piece.len() as u8);
        delta.extend_from_slice(piece);
    }
}

fn push_copies(delta: &mut Vec<u8>, mut from: usize, mut length: usize) {
    while length > 0 {
        let size = length.min(COPY);
        let at = delta.len();
        delta.push(0x80);
        for byte in 0..4 {
            push_part(delta, at, from, byte, byte);
        }
        // a size of 64 KiB is written as none
        if size != 0x1_0000 {
            for byte in 0..3 {
                push_part(delta, at, size, byte, byte + 4);
            }
        }
        (from, length) = (from + size, length - size);
    }
}

/// Writes a byte of a number, unless it is zero, and says so in the instruction.
fn push_part(delta: &mut Vec<u8>, instruction: usize, number: usize, byte: u32, bit: u32) {
    let part = (number >> (8 * byte)) as u8;
    if part != 0 {
        delta.push(part);
        delta[instruction] |= 1 << bit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Puts a version together again, as git does.
    fn apply(base: &[u8], delta: &[u8]) -> Vec<u8> {
        let mut bytes = delta.iter().copied();
        let mut size = || {
            let (mut size, mut shift) = (0usize, 0);
            loop {
                let byte = bytes.next().unwrap();
                size |= usize::from(byte & 0x7f) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    return size;
                }
            }
        };
        assert_eq!(size(), base.len());
        let whole = size();
        let mut target = Vec::new();
        while let Some(instruction) = bytes.next() {
            if instruction & 0x80 == 0 {
                target.extend(bytes.by_ref().take(usize::from(instruction)));
                continue;
            }
            let mut part = |bits: std::ops::Range<u32>| {
                let first = bits.start;
                bits.filter(|bit| instruction & 1 << bit != 0)
                    .map(|bit| usize::from(bytes.next().unwrap()) << (8 * (bit - first)))
                    .sum::<usize>()
            };
            let from = part(0..4);
            let size = match part(4..7) {
                0 => 0x1_0000,
                size => size,
            };
            target.extend_from_slice(&base[from..from + size]);
        }
        assert_eq!(target.len(), whole);
        target
    }

    #[test]
    fn a_version_comes_back_from_its_delta() {
        let mut state = 1u32;
        let mut random = |count: usize| -> Vec<u8> {
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            };
            (0..count).map(|_| next()).collect()
        };
        let base = random(200_000);
        let mut edited = base.clone();
        edited.splice(100..100, b"new words".iter().copied());
        edited.drain(150_000..150_300);
        edited.extend(random(300));
        let short = delta(&base, &edited, usize::MAX).unwrap();
        assert_eq!(apply(&base, &short), edited);
        assert!(short.len() < 600, "{}", short.len());
        for (base, target) in [
            (vec![], vec![]),
            (vec![7; 40], vec![7; 0x1_0000 + 40]),
            (base.clone(), base[3..0x1_0003].to_vec()),
            (random(50), random(5000)),
        ] {
            assert_eq!(apply(&base, &delta(&base, &target, usize::MAX).unwrap()), target);
        }
    }

    #[test]
    fn what_saves_nothing_is_no_delta() {
        assert_eq!(delta(&[1; 100], &[2; 100], 50), None);
    }
}
