//! Units that people write: sizes, durations, variable names.

/// Parses a size in bytes: `512MiB`, `2GiB`, `1.5GB`, `1048576`.
pub fn parse_size(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor);
    }
    let (whole, fraction) = number.split_once('.')?;
    let digits = u32::try_from(fraction.len()).ok().filter(|digits| (1..=6).contains(digits))?;
    let scale = 10u64.pow(digits);
    let scaled =
        whole.parse::<u64>().ok()?.checked_mul(scale)?.checked_add(fraction.parse().ok()?)?;
    u64::try_from(u128::from(scaled) * u128::from(factor) / u128::from(scale)).ok()
}

/// Whether a text can be the name of an environment variable (POSIX, environment variables).
pub(super) fn is_variable(name: &str) -> bool {
    name.bytes().next().is_some_and(|first| !first.is_ascii_digit())
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_bytes() {
        assert_eq!(parse_size("2GiB"), Some(2 << 30));
        assert_eq!(parse_size("1.5GB"), Some(1_500_000_000));
        assert_eq!(parse_size("64"), Some(64));
        for bad in ["", "GiB", "2gib", "-1", "1.GiB", "99999999999999GiB"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }
}
