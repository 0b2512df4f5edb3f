//! Where pnpm lays a package: the name of its directory in `node_modules/.pnpm`.

use md5::{Digest as _, Md5};

use crate::digest::Digest;

/// Longest name that stays as it is.
const LONGEST: usize = 120;

/// The directory of what a lock calls `key`, by a pnpm of this first number of its version.
pub fn pnpm_dir(key: &str, major: u64) -> String {
    let key = key.strip_prefix('/').unwrap_or(key);
    let odd: &[char] = match major {
        ..10 => &['\\', '/', ':', '*', '?', '"', '<', '>', '|'],
        _ => &['\\', '/', ':', '*', '?', '"', '<', '>', '|', '#'],
    };
    let mut name = key.replace(odd, "+");
    if name.contains('(') {
        name = name.strip_suffix(')').unwrap_or(&name).replace(")(", "_").replace(['(', ')'], "_");
    }
    let plain = name.to_lowercase() == name || name.starts_with("file+");
    if plain && name.len() <= LONGEST {
        return name;
    }
    let hash = match major {
        ..10 => base32(&Md5::digest(&name)),
        _ => Digest::of(name.as_bytes()).hex()[..32].to_owned(),
    };
    let kept: String = name.chars().take(LONGEST - hash.len() - 1).collect();
    format!("{kept}_{hash}")
}

/// Without padding, in lower case (RFC 4648).
fn base32(bytes: &[u8]) -> String {
    const SIGNS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut text = String::new();
    let (mut held, mut bits) = (0u32, 0);
    for byte in bytes {
        held = held << 8 | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(char::from(SIGNS[(held >> bits & 31) as usize]));
        }
    }
    if bits > 0 {
        text.push(char::from(SIGNS[(held << (5 - bits) & 31) as usize]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_called_as_pnpm_calls_them() {
        assert_eq!(pnpm_dir("/@babel/core@7.0.0", 8), "@babel+core@7.0.0");
        let peers = "a@1.0.0(b@2.0.0)(@c/d@3.0.0)";
        assert_eq!(pnpm_dir(peers, 10), "a@1.0.0_b@2.0.0_@c+d@3.0.0");
        // capitals, which some file systems do not tell apart
        assert_eq!(pnpm_dir("/JSONStream@1.3.5", 8), "JSONStream@1.3.5_r3os6ifnv5rfzwtsmjig3b325i");
        let hashed = "JSONStream@1.3.5_fb8f73c374dcf7070ffed90b688edabd";
        assert_eq!(pnpm_dir("JSONStream@1.3.5", 10), hashed);
        let long = format!("{}@1.0.0", "x".repeat(200));
        assert_eq!((pnpm_dir(&long, 9).len(), pnpm_dir(&long, 10).len()), (120, 120));
    }
}
