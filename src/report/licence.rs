//! Licences, as packages declare them: SPDX expressions (SPDX 2.3, annex D).
//!
//! A declaration that is an expression already is kept; Debian's short names (DEP-5) and Python's
//! classifiers are translated where the SPDX list has the same licence. All else becomes a
//! `LicenseRef-…` with the words of the declaration: what a package says is reported, never what it
//! might have meant.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use spdx::identifiers::LICENSES;
use spdx::{Expression, License, ParseMode};

use crate::debian::control::stanzas;
use crate::digest::Digest;

/// Longest declaration that is taken for a name and not for a text.
const LONGEST: usize = 120;

/// What a package declares.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Licence {
    /// Valid SPDX; may have references.
    pub expression: String,
    /// What each `LicenseRef-…` of it stands for, as it is written in the package.
    pub references: BTreeMap<String, String>,
}

/// What is valid in a document: the list's identifiers, old ones included.
const VALID: ParseMode = ParseMode { allow_deprecated: true, ..ParseMode::STRICT };

/// A valid expression that means `text`, if it is meant as one. `MIT License` is meant as `MIT`; which
/// version of its licence `BSD` means, nobody knows.
fn canonical(text: &str) -> Option<String> {
    let is_valid = |text: &str| {
        // a reference to another document's licence says nothing in this one
        Expression::parse_mode(text, VALID).is_ok() && !text.contains("Ref-")
    };
    if is_valid(text) {
        return Some(text.to_owned());
    }
    let either = text.replace('/', " OR ");
    let either = (!text.contains("//") && is_valid(&either)).then_some(either);
    either.or_else(|| named(text).map(str::to_owned))
}

/// What a name of one licence stands for: an identifier in other capitals, or a usual name.
fn named(text: &str) -> Option<&'static str> {
    const NAMES: [(&str, &str); 14] = [
        ("the mit license", "MIT"),
        ("mit license", "MIT"),
        ("isc license", "ISC"),
        ("apache 2.0", "Apache-2.0"),
        ("apache license 2.0", "Apache-2.0"),
        ("apache license, version 2.0", "Apache-2.0"),
        ("apache license version 2.0", "Apache-2.0"),
        ("apache software license 2.0", "Apache-2.0"),
        ("bsd 3-clause", "BSD-3-Clause"),
        ("bsd 3-clause license", "BSD-3-Clause"),
        ("3-clause bsd license", "BSD-3-Clause"),
        ("bsd 2-clause license", "BSD-2-Clause"),
        ("mpl 2.0", "MPL-2.0"),
        ("mozilla public license 2.0", "MPL-2.0"),
    ];
    let usual = NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, id)| *id);
    let ids = || spdx::identifiers::LICENSES.iter().map(|licence| licence.name);
    usual.or_else(|| ids().find(|id| id.eq_ignore_ascii_case(text)))
}

/// Whether one pair of parentheses is around the whole of an expression.
fn is_enclosed(text: &str) -> bool {
    let mut depth = 0;
    let closes_early = text.char_indices().any(|(at, c)| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        depth == 0 && at + 1 < text.len()
    });
    text.starts_with('(') && !closes_early
}

/// What must all be met: the parts of an expression that are joined by `AND` at its top.
fn conjuncts(text: &str) -> Vec<String> {
    let (mut depth, mut parts, mut part) = (0, Vec::new(), Vec::new());
    for word in text.split(' ') {
        if depth == 0 && word == "OR" {
            return vec![text.to_owned()];
        }
        if depth == 0 && word == "AND" {
            parts.push(std::mem::take(&mut part).join(" "));
            continue;
        }
        depth += word.matches('(').count();
        depth = depth.saturating_sub(word.matches(')').count());
        part.push(word);
    }
    parts.push(part.join(" "));
    parts
}

impl Licence {
    /// Whether somebody else's word for it is one that this program could have written.
    pub(super) fn is_sound(&self) -> bool {
        let named = self.references.keys().all(|name| name.starts_with("LicenseRef-"));
        named && Expression::parse_mode(&self.expression, VALID).is_ok()
    }

    /// A declaration that is an expression, or should be one. A whole text is none.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let unsaid = ["", "unknown", "none", "noassertion", "unlicensed", "undefined"];
        if text.len() > LONGEST
            || text.contains('\n')
            || unsaid.contains(&text.to_ascii_lowercase().as_str())
        {
            return None;
        }
        Some(match canonical(text) {
            Some(expression) => Licence { expression, references: BTreeMap::new() },
            None => Licence::reference(text),
        })
    }

    fn reference(text: &str) -> Self {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
        let mut slug: String = text.chars().map(|c| if plain(c) { c } else { '-' }).collect();
        slug.truncate(40);
        if slug != text {
            slug = format!("{}-{}", slug.trim_matches('-'), Digest::of(text.as_bytes()).short());
        }
        let name = format!("LicenseRef-{slug}");
        Licence { expression: name.clone(), references: BTreeMap::from([(name, text.to_owned())]) }
    }

    /// All of several at once, or any of them.
    fn join(parts: Vec<Licence>, operator: &str) -> Option<Self> {
        let mut references = BTreeMap::new();
        let mut texts = BTreeSet::new();
        for part in parts {
            references.extend(part.references);
            match operator {
                " AND " => texts.extend(conjuncts(&part.expression)),
                _ => drop(texts.insert(part.expression)),
            }
        }
        let bare = |text: &String| text.contains(' ') && !is_enclosed(text);
        let alone = texts.len() == 1;
        let shown = texts.into_iter().map(|text| match bare(&text) && !alone {
            true => format!("({text})"),
            false => text,
        });
        let shown: Vec<String> = shown.collect();
        (!shown.is_empty()).then(|| Licence { expression: shown.join(operator), references })
    }

    /// What a `debian/copyright` in machine-readable form (DEP-5) names; `None` for free text.
    pub fn of_copyright(text: &str) -> Option<Self> {
        let mut all = stanzas(text);
        let header = all.next()?;
        header.find("Format").filter(|format| format.contains("copyright-format"))?;
        let files = all.filter(|stanza| stanza.find("Files").is_some());
        let names: BTreeSet<&str> = files
            .chain([header])
            .filter_map(|stanza| stanza.find("License"))
            .filter_map(|value| value.lines().next())
            .map(str::trim)
            .filter(|name| !name.is_empty() && name.len() <= LONGEST)
            .collect();
        Licence::join(names.into_iter().filter_map(short_names).collect(), " AND ")
    }

    /// What Python's core metadata says: an expression, else a name, else its classifiers.
    pub fn of_metadata(text: &str) -> Option<Self> {
        let head = text.replace("\r\n", "\n");
        let head = head.split("\n\n").next().unwrap_or_default();
        let fields = |name: &str| -> Vec<&str> {
            let lines = head.lines().filter_map(|line| line.split_once(':'));
            lines
                .filter(|(field, _)| field.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.trim())
                .collect()
        };
        // a text of several lines goes on, indented
        let goes_on = |value: &str| head.contains(&format!("License: {value}\n "));
        let expression = fields("License-Expression").first().and_then(|text| Licence::parse(text));
        let classifiers = || {
            let named = fields("Classifier");
            let named = named.iter().filter_map(|line| line.strip_prefix("License :: "));
            let named = named.filter(|name| *name != "OSI Approved");
            let all = named.filter_map(|name| classifier(name).or_else(|| Licence::parse(name)));
            Licence::join(all.collect(), " AND ")
        };
        let name = fields("License").first().copied().filter(|value| !goes_on(value));
        let name = name.and_then(Licence::parse);
        let sure = name.clone().filter(|licence| licence.references.is_empty());
        expression.or(sure).or_else(classifiers).or(name)
    }

    /// What a `package.json` says: a text, or an object or a list of objects as in its early days.
    pub fn of_manifest(manifest: &serde_json::Value) -> Option<Self> {
        let one = |value: &serde_json::Value| {
            let text = value.as_str().or_else(|| value["type"].as_str())?;
            Licence::parse(text)
        };
        match (&manifest["license"], &manifest["licenses"]) {
            (serde_json::Value::Null, serde_json::Value::Array(list)) => {
                Licence::join(list.iter().filter_map(one).collect(), " OR ")
            }
            (serde_json::Value::Array(list), _) => {
                Licence::join(list.iter().filter_map(one).collect(), " OR ")
            }
            (serde_json::Value::Null, other) => one(other),
            (value, _) => one(value),
        }
    }
}

/// Short names joined as DEP-5 has it: `or`, `and` (which binds more tightly), and a comma before
/// either, which binds less than both.
fn short_names(text: &str) -> Option<Licence> {
    for (between, operator) in
        [(", and ", " AND "), (", or ", " OR "), (" or ", " OR "), (" and ", " AND ")]
    {
        if text.contains(between) {
            return Licence::join(text.split(between).filter_map(short_names).collect(), operator);
        }
    }
    let text = text.trim();
    (!text.is_empty()).then(|| match short_name(text) {
        Some(expression) => Licence { expression, references: BTreeMap::new() },
        None => Licence::reference(text),
    })
}

/// A short name of DEP-5's in SPDX's words.
fn short_name(name: &str) -> Option<String> {
    let fixed = match name.to_ascii_lowercase().as_str() {
        "expat" => "MIT",
        "artistic" | "artistic-1" => "Artistic-1.0",
        "bsd-2-clause" => "BSD-2-Clause",
        "bsd-3-clause" => "BSD-3-Clause",
        "bsd-4-clause" => "BSD-4-Clause",
        "cc0" => "CC0-1.0",
        "zlib/libpng" => "Zlib",
        "openldap-2.8" => "OLDAP-2.8",
        "apache-2" => "Apache-2.0",
        "boost" => "BSL-1.0",
        _ => "",
    };
    if !fixed.is_empty() {
        return Some(fixed.to_owned());
    }
    // identifiers match whatever their case (SPDX 2.3, annex D.2)
    let is = |licence: &&License| licence.name.eq_ignore_ascii_case(name);
    gnu(name).or_else(|| LICENSES.iter().find(is).map(|licence| licence.name.to_owned()))
}

/// `GPL-2+` → `GPL-2.0-or-later`.
fn gnu(name: &str) -> Option<String> {
    let (family, rest) = name.split_once('-')?;
    let (version, suffix) = match rest.strip_suffix('+') {
        Some(version) => (version, "or-later"),
        None => (rest, "only"),
    };
    let version = match version.contains('.') {
        true => version.to_owned(),
        false => format!("{version}.0"),
    };
    let id = format!("{family}-{version}-{suffix}");
    let gnu = ["GPL", "LGPL", "AGPL", "GFDL"].contains(&family);
    (gnu && spdx::license_id(&id).is_some()).then_some(id)
}

/// Python's classifiers that mean one licence of the SPDX list.
fn classifier(name: &str) -> Option<Licence> {
    let id = match name.trim_start_matches("OSI Approved :: ") {
        "MIT License" => "MIT",
        "MIT No Attribution License (MIT-0)" => "MIT-0",
        "Apache Software License" => "Apache-2.0",
        "ISC License (ISCL)" => "ISC",
        "Mozilla Public License 2.0 (MPL 2.0)" => "MPL-2.0",
        "Python Software Foundation License" => "PSF-2.0",
        "The Unlicense (Unlicense)" => "Unlicense",
        "zlib/libpng License" => "Zlib",
        "Boost Software License 1.0 (BSL-1.0)" => "BSL-1.0",
        "GNU General Public License v2 (GPLv2)" => "GPL-2.0-only",
        "GNU General Public License v2 or later (GPLv2+)" => "GPL-2.0-or-later",
        "GNU General Public License v3 (GPLv3)" => "GPL-3.0-only",
        "GNU General Public License v3 or later (GPLv3+)" => "GPL-3.0-or-later",
        "GNU Lesser General Public License v3 (LGPLv3)" => "LGPL-3.0-only",
        "GNU Lesser General Public License v3 or later (LGPLv3+)" => "LGPL-3.0-or-later",
        _ => return None,
    };
    Some(Licence { expression: id.to_owned(), references: BTreeMap::new() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(licence: Option<Licence>) -> String {
        licence.map(|licence| licence.expression).unwrap_or_else(|| "none".to_owned())
    }

    #[test]
    fn expressions_are_kept_and_slips_of_the_hand_mended() {
        let parse = |text: &str| shown(Licence::parse(text));
        assert_eq!(parse("MIT OR Apache-2.0"), "MIT OR Apache-2.0");
        assert_eq!(parse("MIT/Apache-2.0"), "MIT OR Apache-2.0");
        assert_eq!(parse("(MIT AND Zlib)"), "(MIT AND Zlib)");
        assert_eq!(parse("GPL-2.0"), "GPL-2.0");
        assert_eq!(parse("MIT License"), "MIT");
        assert_eq!(parse("Apache License 2.0"), "Apache-2.0");
        assert_eq!(parse("BSD"), "LicenseRef-BSD", "there are several");
        assert_eq!(parse("Apache"), "LicenseRef-Apache");
        assert_eq!((parse("UNLICENSED"), parse("NOASSERTION")), ("none".into(), "none".into()));
        assert!(parse("SEE LICENSE IN LICENSE.md").starts_with("LicenseRef-SEE-LICENSE-IN"));
        let licence = Licence::parse("BSD-like").unwrap();
        assert_eq!(licence.expression, "LicenseRef-BSD-like");
        assert_eq!(licence.references["LicenseRef-BSD-like"], "BSD-like");
    }

    #[test]
    fn debian_s_short_names_are_translated() {
        let text = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\
            Upstream-Name: x\n\nFiles: *\nCopyright: me\nLicense: GPL-2+\n text\n\n\
            Files: a\nCopyright: me\nLicense: Expat or Artistic, and BSD-3-clause\n\n\
            Files: b\nCopyright: me\nLicense: public-domain\n\nLicense: GPL-2+\n long text\n";
        let licence = Licence::of_copyright(text).unwrap();
        assert_eq!(
            licence.expression,
            "(Artistic-1.0 OR MIT) AND BSD-3-Clause AND GPL-2.0-or-later AND LicenseRef-public-domain"
        );
        assert!(Expression::parse(&licence.expression).is_ok());
        assert_eq!(licence.references.len(), 1);
        let names = ["zlib", "MS-PL", "BSD-4-clause-UC", "none"].map(short_name);
        assert_eq!(names.map(Option::unwrap_or_default), ["Zlib", "MS-PL", "BSD-4-Clause-UC", ""]);
        assert_eq!(Licence::of_copyright("This is free software.\n"), None);
    }

    #[test]
    fn python_s_metadata_is_asked_from_its_newest_field_to_its_oldest() {
        let of = |fields: &str| shown(Licence::of_metadata(&format!("Name: a\n{fields}\n\nText")));
        assert_eq!(of("License-Expression: MIT\nLicense: BSD"), "MIT");
        assert_eq!(of("License: Apache-2.0"), "Apache-2.0");
        assert_eq!(
            of("License: BSD\nClassifier: License :: OSI Approved :: MIT License"),
            "MIT",
            "what is precise goes before what is not"
        );
        assert_eq!(of("License: The licence\n        of many lines"), "none");
        assert!(of("License: Dual License").starts_with("LicenseRef-Dual-License"));
        assert_eq!(of("Summary: x"), "none");
    }

    #[test]
    fn npm_s_manifests_of_all_times_are_read() {
        let of = |manifest| shown(Licence::of_manifest(&manifest));
        assert_eq!(of(json!({"license": "ISC"})), "ISC");
        assert_eq!(of(json!({"license": {"type": "MIT", "url": "x"}})), "MIT");
        assert_eq!(of(json!({"licenses": [{"type": "MIT"}, {"type": "Zlib"}]})), "MIT OR Zlib");
        assert_eq!(of(json!({"name": "x"})), "none");
    }
}
