//! Subordinate ids: which of the machine's ids an ordinary user may give away (subuid(5)).

use std::fs;
use std::process::Command;

/// How many ids a sandbox needs beside root's: Debian's own end with 65534, `nobody`.
pub(super) const NEEDED: u32 = 65_535;

/// One of the two files, with the option that makes getsubids(1) answer for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub file: &'static str,
    option: Option<&'static str>,
}

pub(super) const USERS: Kind = Kind { file: "/etc/subuid", option: None };
pub(super) const GROUPS: Kind = Kind { file: "/etc/subgid", option: Some("-g") };

/// Consecutive ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub first: u32,
    pub count: u32,
}

/// The first range of a user that is large enough, or its largest.
pub(super) fn find_range(kind: Kind, uid: u32, name: &str) -> Option<Range> {
    let text = fs::read_to_string(kind.file).unwrap_or_default();
    let own: Vec<Range> = parse_ranges(&text)
        .filter(|(owner, _)| *owner == name || *owner == uid.to_string())
        .map(|(_, range)| range)
        .collect();
    let enough = own.iter().find(|range| range.count >= NEEDED).copied();
    enough.or_else(|| ask_name_service(kind, name)).or(own.into_iter().max_by_key(|own| own.count))
}

/// `NAME:FIRST:COUNT` a line.
fn parse_ranges(text: &str) -> impl Iterator<Item = (&str, Range)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':').map(str::trim);
        let owner = fields.next()?;
        let (first, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some((owner, Range { first, count }))
    })
}

/// Where a directory service gives out the ids, the files hold nothing of them.
fn ask_name_service(kind: Kind, name: &str) -> Option<Range> {
    let output = Command::new("getsubids").args(kind.option).arg(name).output().ok()?;
    parse_answer(&String::from_utf8_lossy(&output.stdout))
}

/// `INDEX: NAME FIRST COUNT` a line.
fn parse_answer(text: &str) -> Option<Range> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(2);
        let range =
            Range { first: words.next()?.parse().ok()?, count: words.next()?.parse().ok()? };
        (range.count >= NEEDED).then_some(range)
    })
}

/// The name of a user in `/etc/passwd`, or its number.
pub(super) fn user_name(uid: u32) -> String {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| uid.to_string())
}

/// The command that gives a user a range which nobody has.
pub(super) fn mend_range(user: &str) -> String {
    let texts = [USERS, GROUPS].map(|kind| fs::read_to_string(kind.file).unwrap_or_default());
    let first = first_free(&texts);
    let last = first.saturating_add(NEEDED);
    format!("run `sudo usermod --add-subuids {first}-{last} --add-subgids {first}-{last} {user}`")
}

fn first_free(texts: &[String]) -> u32 {
    let ends = texts.iter().flat_map(|text| parse_ranges(text));
    let last = ends.map(|(_, range)| range.first.saturating_add(range.count)).max();
    // where useradd(8) begins by default
    last.unwrap_or(0).max(100_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_range_begins_after_all_others() {
        assert_eq!(first_free(&[String::new()]), 100_000);
        let taken = "a:100000:65536\n1001:231072:65536\n\nbroken\n".to_owned();
        assert_eq!(first_free(&[taken, "a:100000:65536".to_owned()]), 296_608);
    }

    #[test]
    fn a_name_service_answers_in_a_form_of_its_own() {
        let answer = "0: ann 100000 1000\n1: ann 231072 65536\n";
        assert_eq!(parse_answer(answer), Some(Range { first: 231_072, count: 65_536 }));
        assert_eq!(parse_answer("Error fetching ranges\n"), None);
    }
}
