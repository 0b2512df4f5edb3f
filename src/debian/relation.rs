//! Relationship fields: `Depends`, `Conflicts`, `Provides` and their kin (Debian Policy 7).

use super::version::Relation;

/// One package in a relationship field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Atom<'a> {
    pub name: &'a str,
    /// `any`, `native` or an architecture.
    pub arch: Option<&'a str>,
    pub version: Option<(Relation, &'a str)>,
}

impl Atom<'_> {
    /// Whether a version satisfies the atom.
    pub fn accepts(&self, version: &str) -> bool {
        self.version.is_none_or(|(relation, wanted)| relation.holds(version, wanted))
    }

    /// `libc6 (>= 2.38)`.
    pub fn label(&self) -> String {
        match self.version {
            Some((relation, version)) => format!("{} ({relation} {version})", self.name),
            None => self.name.to_owned(),
        }
    }
}

/// The alternatives of each group of a field, in order. A group that holds for no architecture of
/// interest is left out; what cannot be read stays as a name that nobody has.
pub fn parse_groups<'a>(field: &'a str, arch: &'a str) -> impl Iterator<Item = Vec<Atom<'a>>> {
    field
        .split(',')
        .map(move |group| {
            group.split('|').filter_map(|atom| parse_atom(atom, arch)).collect::<Vec<_>>()
        })
        .filter(|group| !group.is_empty())
}

/// All atoms of a field without alternatives (`Conflicts`, `Breaks`, `Replaces`, `Provides`).
pub fn parse_atoms<'a>(field: &'a str, arch: &'a str) -> impl Iterator<Item = Atom<'a>> {
    field.split(',').filter_map(move |atom| parse_atom(atom, arch))
}

/// `name:arch (>= 1) [amd64 arm64] <!profile>`: all but the name may be missing.
fn parse_atom<'a>(text: &'a str, arch: &str) -> Option<Atom<'a>> {
    let text = text.trim();
    let end = text.find(|c: char| c.is_ascii_whitespace() || "([<".contains(c));
    let (head, mut rest) = text.split_at(end.unwrap_or(text.len()));
    let (name, qualifier) = match head.split_once(':') {
        Some((name, qualifier)) => (name, Some(qualifier)),
        None => (head, None),
    };
    let mut atom = Atom { name, arch: qualifier, version: None };
    let unreadable = Atom { name: text, arch: None, version: None };
    loop {
        rest = rest.trim_start();
        let close = match rest.as_bytes().first() {
            None => break,
            Some(b'(') => ')',
            Some(b'[') => ']',
            Some(b'<') => '>',
            Some(_) => return Some(unreadable),
        };
        let Some((inner, tail)) = rest[1..].split_once(close) else { return Some(unreadable) };
        match close {
            ')' => match parse_version(inner) {
                Some(version) => atom.version = Some(version),
                None => return Some(unreadable),
            },
            ']' if !holds_for(inner, arch) => return None,
            // build profiles: a binary package was built with none
            '>' if !inner.trim_start().starts_with('!') => return None,
            _ => {}
        }
        rest = tail;
    }
    (!name.is_empty()).then_some(atom)
}

fn parse_version(text: &str) -> Option<(Relation, &str)> {
    let text = text.trim();
    let end = text.find(|c| !"<>=".contains(c))?;
    Some((Relation::parse(&text[..end])?, text[end..].trim()))
}

/// Whether a list of architectures, or of `!architectures`, includes this one.
fn holds_for(list: &str, arch: &str) -> bool {
    let negated = list.trim_start().starts_with('!');
    let listed = list.split_whitespace().any(|word| {
        let word = word.trim_start_matches('!');
        word == arch || word == "any" || word == "linux-any"
    });
    listed != negated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_groups_of_alternatives() {
        let groups: Vec<_> =
            parse_groups("libc6 (>= 2.38), a | b:any (<< 2~) ,python3:native", "amd64").collect();
        assert_eq!(groups.len(), 3);
        assert_eq!(groups[0][0].version, Some((Relation::LaterEqual, "2.38")));
        assert_eq!((groups[1][1].name, groups[1][1].arch), ("b", Some("any")));
        assert_eq!(groups[2][0].arch, Some("native"));
    }

    #[test]
    fn architecture_lists_restrict() {
        let names = |field| parse_atoms(field, "amd64").map(|atom| atom.name).collect::<Vec<_>>();
        assert_eq!(names("a [amd64 arm64], b [arm64], c [!amd64], d [!i386]"), ["a", "d"]);
    }

    #[test]
    fn build_profiles_hold_for_no_profile() {
        let names =
            |field| parse_atoms(field, "amd64").map(|atom| atom.label()).collect::<Vec<_>>();
        assert_eq!(names("a (<< 2) <!nocheck>, b <stage1>, c(>=1)"), ["a (<< 2)", "c (>= 1)"]);
    }

    #[test]
    fn what_cannot_be_read_is_satisfied_by_nothing() {
        let groups: Vec<_> = parse_groups("a (~ 2), b | c d", "amd64").collect();
        assert_eq!(groups[0][0].name, "a (~ 2)");
        assert_eq!(groups[1][1].name, "c d");
    }
}
