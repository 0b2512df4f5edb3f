//! dpkg's database, as dpkg itself would have written it after unpacking.
//!
//! Content is laid down without dpkg; its maintainer scripts still run through dpkg. Between the two
//! the database must say `unpacked` exactly as if dpkg had unpacked: conffiles with the digest of
//! what was laid (`newconffile` would make the next upgrade ask a question that nobody answers),
//! triggers with their interests, and the path triggers that the new content activates in packages
//! installed before. Everything here maps text to text; formats are dpkg's own (deb-triggers(5),
//! dpkg-divert(1), and the status file of dpkg(1)).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// The value of a field's first line, by the field's name in any case.
pub fn find_field<'a>(stanza: &'a str, name: &str) -> Option<&'a str> {
    stanza.lines().find_map(|line| {
        let (field, value) = line.split_once(':')?;
        field.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// The stanzas of a status file.
pub fn stanzas(text: &str) -> impl Iterator<Item = &str> {
    text.split("\n\n").map(|stanza| stanza.trim_matches('\n')).filter(|stanza| !stanza.is_empty())
}

/// How info files, `.list` files and triggers call a package: `NAME:ARCH` for `Multi-Arch: same`.
pub fn info_name(control: &str) -> String {
    let name = find_field(control, "Package").unwrap_or_default();
    match find_field(control, "Multi-Arch") {
        Some("same") => {
            format!("{name}:{}", find_field(control, "Architecture").unwrap_or_default())
        }
        _ => name.to_owned(),
    }
}

/// The status stanza of a package whose content has been laid down and whose scripts have not run.
/// `conffiles` are absolute paths with the hexadecimal MD5 of what was laid there, or with dpkg's words
/// for one that is not.
pub fn unpacked_stanza(control: &str, conffiles: &[(String, String)]) -> String {
    let mut stanza = String::with_capacity(control.len() + 64);
    for line in control.trim_matches('\n').lines() {
        stanza.push_str(line);
        stanza.push('\n');
        if line.get(..8).is_some_and(|head| head.eq_ignore_ascii_case("Package:")) {
            stanza.push_str("Status: install ok unpacked\n");
        }
    }
    if !conffiles.is_empty() {
        stanza.push_str("Conffiles:\n");
        for (path, md5) in conffiles {
            // writing to a string cannot fail
            writeln!(stanza, " {path} {md5}").unwrap_or_default();
        }
    }
    stanza
}

/// Who wants to hear of what: `triggers/File` and the files beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Triggers {
    /// By path, then by package as [`info_name`] writes it.
    paths: BTreeMap<String, BTreeMap<String, Await>>,
    /// By trigger name, likewise.
    names: BTreeMap<String, BTreeMap<String, Await>>,
}

/// Whether an activating package stays unfinished until its trigger has run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Await {
    Yes,
    No,
}

/// A line of a `triggers` control file that is no directive.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a trigger directive")]
pub struct TriggerError(pub String);

impl Triggers {
    /// Parses `triggers/File`.
    pub fn parse_file(text: &str) -> Self {
        let mut triggers = Triggers::default();
        for (path, package) in text.lines().filter_map(|line| line.rsplit_once(' ')) {
            triggers.insert(path, package);
        }
        triggers
    }

    /// Adds a file of `triggers/` that is named after a trigger.
    pub fn parse_named(&mut self, name: &str, text: &str) {
        for package in text.lines().filter(|line| !line.is_empty()) {
            self.insert(name, package);
        }
    }

    fn insert(&mut self, trigger: &str, package: &str) {
        let (package, wait) = match package.strip_suffix("/noawait") {
            Some(package) => (package, Await::No),
            None => (package, Await::Yes),
        };
        let map = if trigger.starts_with('/') { &mut self.paths } else { &mut self.names };
        map.entry(trigger.to_owned()).or_default().insert(package.to_owned(), wait);
    }

    /// Adds the interests of a `triggers` control file (deb-triggers(5)). Activations in it concern
    /// dpkg's later runs and are left to dpkg, which reads the file itself.
    pub fn add_interests(&mut self, package: &str, control: &str) -> Result<(), TriggerError> {
        for line in control.lines() {
            let line = line.split('#').next().unwrap_or_default().trim();
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                [] | ["activate" | "activate-await" | "activate-noawait", _] => {}
                ["interest" | "interest-await", trigger] => self.insert(trigger, package),
                ["interest-noawait", trigger] => {
                    self.insert(trigger, &format!("{package}/noawait"));
                }
                _ => return Err(TriggerError(line.to_owned())),
            }
        }
        Ok(())
    }

    /// `triggers/File`, sorted.
    pub fn file(&self) -> String {
        let mut text = String::new();
        for (path, packages) in &self.paths {
            for (package, wait) in packages {
                writeln!(text, "{path} {package}{}", suffix(*wait)).unwrap_or_default();
            }
        }
        text
    }

    /// The files beside it: trigger name and content.
    pub fn named(&self) -> impl Iterator<Item = (&str, String)> {
        self.names.iter().map(|(name, packages)| {
            let line = |(package, wait): (&String, &Await)| format!("{package}{}\n", suffix(*wait));
            (name.as_str(), packages.iter().map(line).collect())
        })
    }

    /// Who is to be told that `path` (absolute) was laid down: the trigger and the package.
    pub fn activated_by<'a>(
        &'a self,
        path: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a str, Await)> {
        let ends = path.match_indices('/').map(|(at, _)| at).skip(1).chain([path.len()]);
        ends.filter_map(|end| self.paths.get_key_value(&path[..end])).flat_map(
            |(trigger, packages)| {
                packages.iter().map(|(package, wait)| (trigger.as_str(), package.as_str(), *wait))
            },
        )
    }

    /// Who is to be told of a trigger activated by name.
    pub fn activated_named<'a>(&'a self, name: &str) -> impl Iterator<Item = (&'a str, Await)> {
        self.names.get(name).into_iter().flatten().map(|(package, wait)| (package.as_str(), *wait))
    }
}

fn suffix(wait: Await) -> &'static str {
    match wait {
        Await::Yes => "",
        Await::No => "/noawait",
    }
}

/// What new content asks of packages that were installed before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activations {
    /// By interested package: the triggers pending for it.
    pub pending: BTreeMap<String, BTreeSet<String>>,
    /// By activating package: the packages it waits for.
    pub awaited: BTreeMap<String, BTreeSet<String>>,
}

impl Activations {
    /// Notes that `package` laid down `path`, or activates what is interested in it.
    pub fn note_path(&mut self, triggers: &Triggers, package: &str, path: &str) {
        for (trigger, interested, wait) in triggers.activated_by(path) {
            self.note(package, trigger, interested, wait);
        }
    }

    /// Notes that `package` activates `name` by its being unpacked (`activate` in its `triggers`).
    pub fn note_name(&mut self, triggers: &Triggers, package: &str, name: &str) {
        for (interested, wait) in triggers.activated_named(name) {
            self.note(package, name, interested, wait);
        }
    }

    fn note(&mut self, package: &str, trigger: &str, interested: &str, wait: Await) {
        self.pending.entry(interested.to_owned()).or_default().insert(trigger.to_owned());
        if wait == Await::Yes && package != interested {
            self.awaited.entry(package.to_owned()).or_default().insert(interested.to_owned());
        }
    }

    /// Writes the activations into a status text: installed packages become `triggers-pending`,
    /// activating ones get what they wait for.
    pub fn apply(&self, status: &str) -> String {
        let mut text = String::with_capacity(status.len() + 256);
        for stanza in stanzas(status) {
            let name = info_name(stanza);
            let pending = self.pending.get(&name).filter(|_| is_configured(stanza));
            match pending {
                Some(_) => {
                    let (head, tail) = stanza
                        .split_once("\nStatus: install ok installed\n")
                        .unwrap_or((stanza, ""));
                    text.push_str(head);
                    text.push_str("\nStatus: install ok triggers-pending\n");
                    text.push_str(tail);
                }
                None => text.push_str(stanza),
            }
            text.push('\n');
            if let Some(awaited) = self.awaited.get(&name) {
                writeln!(text, "Triggers-Awaited: {}", join(awaited)).unwrap_or_default();
            }
            if let Some(triggers) = pending {
                writeln!(text, "Triggers-Pending: {}", join(triggers)).unwrap_or_default();
            }
            text.push('\n');
        }
        text
    }
}

fn join(words: &BTreeSet<String>) -> String {
    words.iter().map(String::as_str).collect::<Vec<_>>().join(" ")
}

/// Whether a status stanza says `installed`.
pub fn is_configured(stanza: &str) -> bool {
    find_field(stanza, "Status") == Some("install ok installed")
}

/// `/var/lib/apt/extended_states`: which packages only came along (apt's `Auto-Installed`). Takes
/// (name, architecture) pairs; an `all` package counts under the image's own architecture.
pub fn extended_states<'a>(auto: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let sorted: BTreeSet<_> = auto.collect();
    sorted
        .into_iter()
        .map(|(name, arch)| format!("Package: {name}\nArchitecture: {arch}\nAuto-Installed: 1\n\n"))
        .collect()
}

/// One diversion: files of other packages at `from` are to be found at `to`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diversion {
    pub from: String,
    pub to: String,
    /// The package whose own files stay at `from`; `:` for a local diversion.
    pub package: String,
}

/// Parses `/var/lib/dpkg/diversions`: three lines each.
pub fn parse_diversions(text: &str) -> Vec<Diversion> {
    let lines: Vec<&str> = text.lines().collect();
    let triples = lines.as_chunks::<3>().0;
    triples
        .iter()
        .map(|[from, to, package]| Diversion {
            from: (*from).to_owned(),
            to: (*to).to_owned(),
            package: (*package).to_owned(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unpacked_package_has_its_conffiles_with_their_digests() {
        let conffiles = [("/etc/a.conf".to_owned(), "0cc175b9c0f1b6a831c399e269772661".to_owned())];
        insta::assert_snapshot!(
            unpacked_stanza("Package: a\nVersion: 1\nDescription: x\n y\n", &conffiles),
            @r"
        Package: a
        Status: install ok unpacked
        Version: 1
        Description: x
         y
        Conffiles:
         /etc/a.conf 0cc175b9c0f1b6a831c399e269772661
        "
        );
    }

    #[test]
    fn packages_that_can_be_installed_twice_are_named_with_their_architecture() {
        assert_eq!(
            info_name("Package: libc6\nArchitecture: amd64\nMulti-Arch: same"),
            "libc6:amd64"
        );
        assert_eq!(info_name("Package: bash\nArchitecture: amd64\nMulti-Arch: foreign"), "bash");
    }

    #[test]
    fn interests_survive_being_written() {
        let mut triggers = Triggers::default();
        let control =
            "# comment\ninterest-noawait /usr/share/fonts\ninterest ldconfig\nactivate x\n";
        triggers.add_interests("fontconfig", control).unwrap();
        assert_eq!(triggers.file(), "/usr/share/fonts fontconfig/noawait\n");
        assert_eq!(triggers.named().collect::<Vec<_>>(), [("ldconfig", "fontconfig\n".to_owned())]);
        let mut again = Triggers::parse_file(&triggers.file());
        for (name, text) in triggers.named() {
            again.parse_named(name, &text);
        }
        assert_eq!(again, triggers);
        assert!(triggers.add_interests("a", "interested in all").is_err());
    }

    #[test]
    fn new_content_activates_what_is_interested_in_its_directory() {
        let triggers =
            Triggers::parse_file("/usr/share/fonts fontconfig/noawait\n/usr/lib/gio gio\n");
        let mut activations = Activations::default();
        activations.note_path(&triggers, "fonts-x", "/usr/share/fonts/x.ttf");
        activations.note_path(&triggers, "mod", "/usr/lib/gio");
        activations.note_path(&triggers, "mod", "/usr/lib/giox/y");
        let status = "Package: fontconfig\nStatus: install ok installed\nVersion: 1\n\n\
                      Package: gio\nStatus: install ok unpacked\n\nPackage: mod\nStatus: install ok unpacked\n";
        insta::assert_snapshot!(activations.apply(status), @r"
        Package: fontconfig
        Status: install ok triggers-pending
        Version: 1
        Triggers-Pending: /usr/share/fonts

        Package: gio
        Status: install ok unpacked

        Package: mod
        Status: install ok unpacked
        Triggers-Awaited: gio
        ");
    }

    #[test]
    fn diversions_are_three_lines_each() {
        let found = parse_diversions("/a\n/a.real\nvim\n/b\n/b.x\n:\n");
        assert_eq!(found.len(), 2);
        assert_eq!((found[1].from.as_str(), found[1].package.as_str()), ("/b", ":"));
    }
}
