//! Control data (deb822(5)): the stanzas that `Packages`, `Release`, `control` and dpkg's status
//! are written in.
//!
//! A [`Stanza`] is a slice of the text it came from. Nothing is copied, fields keep their order and
//! their spelling, so a stanza can be written again as it was read. Indexes of 60 MB are not read
//! through this module but by `packages`, which looks for a fixed set of fields in one pass.

/// One paragraph of fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stanza<'a>(&'a str);

/// One field of a stanza.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    pub name: &'a str,
    /// All of its lines, without the blanks around it; continuation lines keep their indentation.
    pub value: &'a str,
    /// The field as it stands in the text, with its last newline where it has one.
    pub raw: &'a str,
}

impl<'a> Stanza<'a> {
    /// The first stanza of a text.
    pub fn first(text: &'a str) -> Option<Self> {
        stanzas(text).next()
    }

    pub fn as_str(&self) -> &'a str {
        self.0
    }

    /// The fields in the order they are written. Comments and lines that are no field are left out.
    pub fn fields(&self) -> impl Iterator<Item = Field<'a>> + use<'a> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            loop {
                let raw = take_field(&mut rest)?;
                if let Some((name, value)) = raw.split_once(':')
                    && !raw.starts_with(['#', ' ', '\t'])
                {
                    return Some(Field { name: name.trim_end(), value: value.trim(), raw });
                }
            }
        })
    }

    /// The value of a field, whatever the case of its name.
    pub fn find(&self, name: &str) -> Option<&'a str> {
        self.fields().find(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
    }
}

/// What a `Source` field names, as package URLs write it: `NAME`, or `NAME@VERSION` where it has a version of
/// its own.
pub fn upstream(source: &str) -> String {
    match source.split_once(" (") {
        Some((name, version)) => format!("{name}@{}", version.trim_end_matches(')')),
        None => source.to_owned(),
    }
}

/// A line and the continuation lines after it.
fn take_field<'a>(rest: &mut &'a str) -> Option<&'a str> {
    if rest.is_empty() {
        return None;
    }
    let mut end = 0;
    for line in rest.split_inclusive('\n') {
        if end > 0 && !line.starts_with([' ', '\t']) {
            break;
        }
        end += line.len();
    }
    let (field, tail) = rest.split_at(end);
    *rest = tail;
    Some(field)
}

/// The stanzas of a text, which empty lines part.
pub fn stanzas(text: &str) -> impl Iterator<Item = Stanza<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        while is_blank(rest) {
            rest = rest.split_once('\n')?.1;
        }
        let end = ends_of_lines(rest).find(|at| is_blank(&rest[*at..])).unwrap_or(rest.len());
        let (stanza, tail) = rest.split_at(end);
        rest = tail;
        Some(Stanza(stanza))
    })
}

fn ends_of_lines(text: &str) -> impl Iterator<Item = usize> {
    text.match_indices('\n').map(|(at, _)| at + 1)
}

/// Whether the first line is empty but for blanks.
fn is_blank(text: &str) -> bool {
    text.split('\n').next().is_some_and(|line| line.bytes().all(|c| c.is_ascii_whitespace()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\nPackage: a\nDescription: short\n long\n .\n more\nDepends: x,\n y\n\n\n\
                        package: b\n# comment\nVersion:1\n \n";

    #[test]
    fn stanzas_are_parted_by_empty_lines() {
        let names: Vec<_> = stanzas(TEXT).map(|stanza| stanza.find("Package").unwrap()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(stanzas("\n\n").count(), 0);
    }

    #[test]
    fn a_field_has_all_its_lines() {
        let stanza = Stanza::first(TEXT).unwrap();
        assert_eq!(stanza.find("depends"), Some("x,\n y"));
        assert_eq!(stanza.find("Description"), Some("short\n long\n .\n more"));
        assert_eq!(stanza.find("Version"), None);
        assert_eq!(stanzas(TEXT).nth(1).unwrap().find("Version"), Some("1"));
    }

    #[test]
    fn a_stanza_can_be_written_as_it_was_read() {
        let stanza = Stanza::first(TEXT).unwrap();
        let again: String = stanza.fields().map(|field| field.raw).collect();
        assert_eq!(again, stanza.as_str());
    }
}
