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

/// The alternatives of each group of a field, in order. Groups that cannot be read are left out:
/// the archive's own tools have judged them before.
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

fn parse_atom<'a>(text: &'a str, arch: &str) -> Option<Atom<'a>> {
    let text = text.trim();
    // build profiles do not occur in binary packages; an architecture list may
    let (text, restriction) = match text.split_once('[') {
        Some((text, list)) => (text.trim(), Some(list.trim_end_matches(']'))),
        None => (text, None),
    };
    if let Some(list) = restriction {
        let mut words = list.split_whitespace();
        let negated = list.trim_start().starts_with('!');
        let listed = words.any(|word| word.trim_start_matches('!') == arch);
        if listed == negated {
            return None;
        }
    }
    let (head, version) = match text.split_once('(') {
        Some((head, rest)) => {
            let rest = rest.split(')').next()?.trim();
            let end = rest.find(|c| !"<>=".contains(c))?;
            (head.trim(), Some((Relation::parse(&rest[..end])?, rest[end..].trim())))
        }
        None => (text, None),
    };
    let (name, arch) = match head.split_once(':') {
        Some((name, arch)) => (name, Some(arch)),
        None => (head, None),
    };
    (!name.is_empty()).then_some(Atom { name, arch, version })
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
}
