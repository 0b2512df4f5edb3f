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
