//! Commands: the links of `node_modules/.bin`, and the files that they make executable.
//!
//! Of two packages that bring one command to one directory, the first has it: packages before links,
//! then by depth, then by path in the order in which npm sorts. A name is taken even where its file
//! turns out not to be there.

use std::cmp::Ordering;
use std::collections::BTreeSet;

/// A directory that brings commands.
#[derive(Clone, Copy, Debug)]
pub struct Bringer<'a> {
    /// Below the tree's root: `node_modules/@scope/name`.
    pub place: &'a str,
    /// Whether it is a link to somewhere else.
    pub is_link: bool,
    /// Name and file, as [`bins`](super::manifest::bins) gives them.
    pub bins: &'a [(Box<str>, Box<str>)],
}

/// A link to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The link, below the tree's root.
    pub link: String,
    /// What it says.
    pub target: String,
    /// The directory that brings it.
    pub place: String,
    /// Its file, below that.
    pub file: String,
}

/// The directory that a package at `place` is in: the last `node_modules` of its path.
fn node_modules(place: &str) -> &str {
    match place.rfind("node_modules/") {
        Some(at) => &place[..at + "node_modules".len()],
        None => place,
    }
}

/// How deep a package is in the tree.
fn depth(place: &str) -> usize {
    place.split('/').filter(|part| *part == "node_modules").count()
}

/// The order in which npm works through the places of a tree.
pub fn order(one: &str, two: &str) -> Ordering {
    depth(one).cmp(&depth(two)).then_with(|| collate(one, two))
}

/// All links, in the order in which names are taken.
pub fn commands(bringers: &[Bringer<'_>]) -> Vec<Command> {
    let mut order: Vec<&Bringer<'_>> = bringers.iter().collect();
    order.sort_by(|one, two| {
        one.is_link.cmp(&two.is_link).then_with(|| self::order(one.place, two.place))
    });
    let mut taken = BTreeSet::new();
    let mut commands = Vec::new();
    for bringer in order {
        let dir = node_modules(bringer.place);
        // a package of its own root has no directory to link into
        let Some(inside) = bringer.place.strip_prefix(dir).filter(|inside| !inside.is_empty())
        else {
            continue;
        };
        for (name, file) in bringer.bins {
            let link = format!("{dir}/.bin/{name}");
            if taken.insert(link.clone()) {
                let target = format!("..{inside}/{file}");
                let (place, file) = (bringer.place.to_owned(), file.to_string());
                commands.push(Command { link, target, place, file });
            }
        }
    }
    commands
}

/// Signs of ASCII in the order of the Unicode collation's root table (CLDR); digits and letters follow.
const SIGNS: &[u8] = b"\t\n\r _-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$";

/// The order of English: signs before digits before letters, and of the same letters the small ones
/// first.
fn collate(one: &str, two: &str) -> Ordering {
    let weight = |c: char| match u8::try_from(c) {
        Ok(byte) => match SIGNS.iter().position(|sign| *sign == byte) {
            Some(at) => u32::try_from(at).unwrap_or_default(),
            None => 1000 + u32::from(byte.to_ascii_lowercase()),
        },
        Err(_) => 2000 + u32::from(c),
    };
    let case = |text: &str| text.chars().map(|c| c.is_ascii_uppercase()).collect::<Vec<_>>();
    let first = one.chars().map(weight).cmp(two.chars().map(weight));
    first.then_with(|| case(one).cmp(&case(two)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bins(pairs: &[(&str, &str)]) -> Vec<(Box<str>, Box<str>)> {
        pairs.iter().map(|(name, file)| ((*name).into(), (*file).into())).collect()
    }

    #[test]
    fn the_first_to_bring_a_command_has_it() {
        let (a, b) = (bins(&[("x", "cli.js"), ("a", "a.js")]), bins(&[("x", "bin/x")]));
        let bringer = |place, is_link, bins| Bringer { place, is_link, bins };
        let all = [
            bringer("node_modules/b", false, &b[..]),
            bringer("node_modules/@s/a", false, &a),
            bringer("node_modules/aa", true, &b),
            bringer("node_modules/b/node_modules/c", false, &b),
            bringer("packages/w/node_modules/d", false, &b),
        ];
        let found: Vec<String> = commands(&all)
            .into_iter()
            .map(|command| format!("{} -> {}", command.link, command.target))
            .collect();
        assert_eq!(
            found,
            [
                "node_modules/.bin/x -> ../@s/a/cli.js",
                "node_modules/.bin/a -> ../@s/a/a.js",
                "packages/w/node_modules/.bin/x -> ../d/bin/x",
                "node_modules/b/node_modules/.bin/x -> ../c/bin/x",
            ]
        );
    }

    #[test]
    fn names_sort_as_english_does() {
        let mut names = ["b", "B", "a-b", "ab", "a_b", "@z/a", "1", "a/b", "A"];
        names.sort_by(|one, two| collate(one, two));
        assert_eq!(names, ["@z/a", "1", "A", "a_b", "a-b", "a/b", "ab", "b", "B"]);
    }
}
