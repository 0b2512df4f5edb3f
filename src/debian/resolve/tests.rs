use super::*;
use crate::debian::packages::Index;
use crate::debian::universe::Member;

fn universe(stanzas: &[&str]) -> Universe {
    let hex = "0".repeat(64);
    let text: String = stanzas
        .iter()
        .map(|stanza| {
            let stanza = stanza.trim().lines().map(str::trim).collect::<Vec<_>>().join("\n");
            format!(
                "Package: {stanza}\nArchitecture: amd64\nFilename: x\nSize: 1\nSHA256: {hex}\n\n"
            )
        })
        .collect();
    let index = Index::parse(text.into_bytes()).unwrap();
    let member = Member { index, archive: "debian".into(), suite: "trixie".into(), priority: 500 };
    Universe::new(vec![member], "amd64")
}

fn request(names: &[&str]) -> Request {
    let packages = names.iter().map(|name| Wanted::named(name)).collect();
    Request { base: BaseSet::None, packages, ..Request::default() }
}

fn names(universe: &Universe, request: &Request) -> Vec<String> {
    resolve(universe, request)
        .unwrap()
        .iter()
        .map(|chosen| {
            let package = universe.get(chosen.id);
            let mark = if chosen.auto { "" } else { "!" };
            format!("{mark}{}={}", package.name(), package.version())
        })
        .collect()
}

#[test]
fn the_newest_version_comes_with_what_it_depends_on() {
    let universe =
        universe(&["a\nVersion: 1", "a\nVersion: 2\nDepends: b (>= 1)", "b\nVersion: 1"]);
    assert_eq!(names(&universe, &request(&["a"])), ["!a=2", "b=1"]);
}

#[test]
fn the_first_alternative_is_taken_unless_a_later_one_is_there_anyway() {
    let universe = universe(&["a\nVersion: 1\nDepends: x | y", "x\nVersion: 1", "y\nVersion: 1"]);
    assert_eq!(names(&universe, &request(&["a"])), ["!a=1", "x=1"]);
    assert_eq!(names(&universe, &request(&["a", "y"])), ["!a=1", "!y=1"]);
}

#[test]
fn a_versioned_relation_wants_a_versioned_provides() {
    let universe = universe(&[
        "a\nVersion: 1\nDepends: api (>= 2)",
        "one\nVersion: 9\nProvides: api",
        "two\nVersion: 1\nProvides: api (= 2.1)",
    ]);
    assert_eq!(names(&universe, &request(&["a"])), ["!a=1", "two=1"]);
}

#[test]
fn what_conflicts_is_avoided_by_another_alternative() {
    let universe = universe(&[
        "a\nVersion: 1\nDepends: x | y",
        "x\nVersion: 1",
        "y\nVersion: 1",
        "b\nVersion: 1\nConflicts: x",
        "c\nVersion: 1\nBreaks: y (<< 2)",
    ]);
    assert_eq!(names(&universe, &request(&["a", "b"])), ["!a=1", "!b=1", "y=1"]);
    let error = resolve(&universe, &request(&["a", "b", "c"])).unwrap_err().to_string();
    assert!(error.contains("a 1") || error.contains('a'), "{error}");
}

#[test]
fn recommendations_come_only_when_asked_for_and_possible() {
    let universe = universe(&[
        "a\nVersion: 1\nRecommends: r, gone, s",
        "r\nVersion: 1\nDepends: q",
        "q\nVersion: 1",
        "s\nVersion: 1\nConflicts: a",
    ]);
    assert_eq!(names(&universe, &request(&["a"])), ["!a=1"]);
    let all = Request { recommends: true, ..request(&["a"]) };
    assert_eq!(names(&universe, &all), ["!a=1", "q=1", "r=1"]);
}

#[test]
fn constraints_and_pins_choose_the_version() {
    let universe = universe(&["a\nVersion: 1", "a\nVersion: 2", "a\nVersion: 3"]);
    let mut limited = request(&["a"]);
    limited.packages[0].version = Some((Relation::Earlier, "3".into()));
    assert_eq!(names(&universe, &limited), ["!a=2"]);
    let rule = PinRule::new("a", Some("1*"), None).unwrap();
    assert_eq!(names(&universe, &Request { rules: vec![rule], ..request(&["a"]) }), ["!a=1"]);
    let prefer = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
    assert_eq!(names(&universe, &Request { prefer, ..request(&["a"]) }), ["!a=1"]);
}

#[test]
fn what_lies_below_stays_as_it_is() {
    let universe = universe(&[
        "libc\nVersion: 1",
        "libc\nVersion: 2",
        "a\nVersion: 1\nDepends: libc",
        "new\nVersion: 1\nDepends: libc (>= 2)",
        "foe\nVersion: 1\nConflicts: libc",
    ]);
    let installed = BTreeMap::from([("libc".to_owned(), "1".to_owned())]);
    let over = |names: &[&str]| Request { installed: installed.clone(), ..request(names) };
    assert_eq!(names(&universe, &over(&["a"])), ["!a=1"]);
    for name in ["new", "foe"] {
        let error = resolve(&universe, &over(&[name])).unwrap_err().to_string();
        assert!(error.contains("libc"), "{error}");
    }
}

#[test]
fn an_unknown_package_gets_the_nearest_name() {
    let universe = universe(&["python3\nVersion: 1"]);
    let error = resolve(&universe, &request(&["pyhton3"])).unwrap_err().to_string();
    assert_eq!(error, "there is no package `pyhton3` (did you mean `python3`?)");
}

#[test]
fn essential_packages_come_unasked() {
    let universe = universe(&[
        "e\nVersion: 1\nEssential: yes",
        "r\nVersion: 1\nPriority: required",
        "apt\nVersion: 1",
        "o\nVersion: 1",
    ]);
    let with = |base| Request { base, ..request(&[]) };
    assert_eq!(names(&universe, &with(BaseSet::Essential)), ["!e=1"]);
    assert_eq!(names(&universe, &with(BaseSet::Required)), ["!apt=1", "!e=1", "!r=1"]);
}
