use super::*;
use crate::debian::packages::Index;
use crate::debian::universe::Member;

fn member(stanzas: &[&str], suite: &str, priority: i32) -> Member {
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
    Member { index, archive: "debian".into(), suite: suite.into(), priority }
}

fn universe(stanzas: &[&str]) -> Universe {
    Universe::new(vec![member(stanzas, "trixie", 500)], "amd64")
}

fn refusal(universe: &Universe, request: &Request) -> String {
    resolve(universe, request).unwrap_err().to_string()
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

#[test]
fn pre_depends_are_depends() {
    let universe = universe(&["a\nVersion: 1\nPre-Depends: b", "b\nVersion: 1"]);
    assert_eq!(names(&universe, &request(&["a"])), ["!a=1", "b=1"]);
}

#[test]
fn providers_are_chosen_as_apt_chooses_them() {
    let universe = universe(&[
        "a\nVersion: 1\nDepends: mail",
        "b\nVersion: 1\nDepends: term",
        "c\nVersion: 1\nDepends: shell",
        "m1\nVersion: 1\nPriority: optional\nProvides: mail",
        "m2\nVersion: 1\nPriority: standard\nProvides: mail",
        "m3\nVersion: 1\nPriority: optional\nProvides: mail",
        "t1\nVersion: 1\nProvides: term",
        "t2\nVersion: 1\nProvides: term",
        "s1\nVersion: 1\nPriority: required\nProvides: shell",
        "s2\nVersion: 1\nEssential: yes\nPriority: optional\nProvides: shell",
    ]);
    // by priority; between equals the name that the index mentions last; essential before all
    assert_eq!(names(&universe, &request(&["a"])), ["!a=1", "m2=1"]);
    assert_eq!(names(&universe, &request(&["b"])), ["!b=1", "t2=1"]);
    assert_eq!(names(&universe, &request(&["c"])), ["!c=1", "s2=1"]);
}

#[test]
fn a_qualified_name_wants_a_package_that_allows_it() {
    let universe = universe(&[
        "a\nVersion: 1\nDepends: py:any",
        "b\nVersion: 1\nDepends: tool:any | tool:native",
        "c\nVersion: 1\nDepends: tool:amd64, tool:arm64 | py",
        "py\nVersion: 1\nMulti-Arch: allowed",
        "tool\nVersion: 1",
    ]);
    assert_eq!(names(&universe, &request(&["a"])), ["!a=1", "py=1"]);
    assert_eq!(names(&universe, &request(&["b"])), ["!b=1", "tool=1"]);
    assert_eq!(names(&universe, &request(&["c"])), ["!c=1", "py=1", "tool=1"]);
}

#[test]
fn where_the_walk_goes_astray_the_solver_finds_the_way() {
    // the newest `b` needs what conflicts with `a`; an older one does not
    let universe = universe(&[
        "a\nVersion: 1\nDepends: b",
        "b\nVersion: 2\nDepends: c",
        "b\nVersion: 1",
        "c\nVersion: 1\nConflicts: a",
    ]);
    assert_eq!(names(&universe, &request(&["a"])), ["!a=1", "b=1"]);
}

#[test]
fn a_recommendation_that_cannot_be_had_is_left_out_of_a_solved_set_too() {
    let universe = universe(&[
        "a\nVersion: 1\nDepends: b\nRecommends: bad | r, good",
        "b\nVersion: 2\nDepends: gone",
        "b\nVersion: 1",
        "bad\nVersion: 1\nConflicts: a",
        "r\nVersion: 1",
        "good\nVersion: 1",
    ]);
    let all = Request { recommends: true, ..request(&["a"]) };
    assert_eq!(names(&universe, &all), ["!a=1", "b=1", "good=1", "r=1"]);
}

#[test]
fn backports_are_taken_when_they_are_asked_for() {
    let universe = Universe::new(
        vec![
            member(&["a\nVersion: 1\nDepends: b", "b\nVersion: 1"], "trixie", 500),
            member(&["a\nVersion: 2\nDepends: b (>= 2)", "b\nVersion: 2"], "trixie-backports", 100),
        ],
        "amd64",
    );
    assert_eq!(names(&universe, &request(&["a"])), ["!a=1", "b=1"]);
    let rule = PinRule::new("a", None, Some("trixie-backports")).unwrap();
    let pinned = Request { rules: vec![rule], ..request(&["a"]) };
    assert_eq!(names(&universe, &pinned), ["!a=2", "b=2"]);
}

#[test]
fn a_negative_pin_forbids_a_version() {
    let universe = universe(&["a\nVersion: 1\nDepends: x | y", "x\nVersion: 1", "y\nVersion: 1"]);
    let mut rule = PinRule::new("x", None, None).unwrap();
    rule.priority = -1;
    let without = Request { rules: vec![rule], ..request(&["a"]) };
    assert_eq!(names(&universe, &without), ["!a=1", "y=1"]);
    let excluded = Request { exclude: BTreeSet::from(["x".to_owned()]), ..request(&["a"]) };
    assert_eq!(names(&universe, &excluded), ["!a=1", "y=1"]);
    let both = Request { exclude: BTreeSet::from(["a".to_owned()]), ..request(&["a"]) };
    insta::assert_snapshot!(refusal(&universe, &both), @"`a` is asked for and excluded");
}

#[test]
fn what_the_lock_had_is_kept_where_it_can_be() {
    let universe = universe(&[
        "a\nVersion: 1\nDepends: term",
        "t1\nVersion: 1\nProvides: term",
        "t1\nVersion: 2\nProvides: term",
        "t2\nVersion: 1\nProvides: term",
    ]);
    let keep = |name: &str, version: &str| Request {
        prefer: BTreeMap::from([(name.to_owned(), version.to_owned())]),
        ..request(&["a"])
    };
    assert_eq!(names(&universe, &keep("t1", "1")), ["!a=1", "t1=1"]);
    // a version that has left the archive cannot be kept
    assert_eq!(names(&universe, &keep("t1", "0")), ["!a=1", "t2=1"]);
}

#[test]
fn the_layers_below_satisfy_what_they_provide_and_forbid_what_they_break() {
    let universe = universe(&[
        "mta\nVersion: 1\nProvides: mail (= 1)\nBreaks: old (<< 2)",
        "a\nVersion: 1\nDepends: mail",
        "b\nVersion: 1\nDepends: old",
        "old\nVersion: 1",
        "other\nVersion: 9\nPriority: required\nProvides: mail",
    ]);
    let over = |version: &str, names: &[&str]| Request {
        installed: BTreeMap::from([("mta".to_owned(), version.to_owned())]),
        ..request(names)
    };
    assert_eq!(names(&universe, &over("1", &["a"])), ["!a=1"]);
    // the version below has left the archive: what is known of its successor holds
    assert_eq!(names(&universe, &over("0.9", &["a"])), ["!a=1"]);
    assert!(names(&universe, &over("1", &["mta"])).is_empty());
    insta::assert_snapshot!(refusal(&universe, &over("1", &["b"])), @r"
    no set of packages satisfies the request:
    `b` is asked for
    `b` 1 needs `old`
    `mta` of the layers below breaks `old (<< 2)`
    ");
    let mut newer = over("1", &["mta"]);
    newer.packages[0].version = Some((Relation::LaterEqual, "2".into()));
    insta::assert_snapshot!(refusal(&universe, &newer), @"`mta (>= 2)` is asked for, but the layers below bring mta 1");
}

#[test]
fn an_impossible_request_tells_its_chain() {
    let universe = universe(&[
        "web\nVersion: 1\nDepends: web-core (= 1)",
        "web-core\nVersion: 1\nDepends: libx (>= 2)",
        "libx\nVersion: 1",
        "one\nVersion: 1\nDepends: base-one",
        "base-one\nVersion: 1\nConflicts: base",
        "two\nVersion: 1\nDepends: base-two",
        "base-two\nVersion: 1\nProvides: base",
        "either\nVersion: 1\nDepends: web | gone",
    ]);
    insta::assert_snapshot!(refusal(&universe, &request(&["web"])), @r"
    no set of packages satisfies the request:
    `web` is asked for
    `web` 1 needs `web-core (= 1)`
    `web-core` 1 needs `libx (>= 2)`
    no package gives `libx (>= 2)`: there is `libx` 1
    ");
    insta::assert_snapshot!(refusal(&universe, &request(&["one", "two"])), @r"
    no set of packages satisfies the request:
    `two` 1 is asked for
    `two` 1 needs `base-two`
    `one` 1 is asked for
    `one` 1 needs `base-one`
    `base-one` 1 conflicts with `base`, which `base-two` provides
    ");
    insta::assert_snapshot!(refusal(&universe, &request(&["either"])), @r"
    no set of packages satisfies the request:
    `either` is asked for
    `either` 1 needs `web | gone`
    `web` 1 needs `web-core (= 1)`
    `web-core` 1 needs `libx (>= 2)`
    no package gives `libx (>= 2)`: there is `libx` 1
    ");
    let mut asked = request(&["libx"]);
    asked.packages[0].version = Some((Relation::LaterEqual, "2".into()));
    insta::assert_snapshot!(refusal(&universe, &asked), @"there is no `libx (>= 2)`: there is 1 of trixie");
}

#[test]
fn a_chain_of_dependencies_may_be_long() {
    let link = |at: usize| format!("p{at}\nVersion: 1\nDepends: p{}", at + 1);
    let stanzas: Vec<String> =
        (0..3000).map(link).chain(["p3000\nVersion: 1".to_owned()]).collect();
    let stanzas: Vec<&str> = stanzas.iter().map(String::as_str).collect();
    assert_eq!(names(&universe(&stanzas), &request(&["p0"])).len(), 3001);
    let broken = universe(&stanzas[..3000]);
    assert!(refusal(&broken, &request(&["p0"])).contains("p3000"));
}

#[test]
fn the_chain_is_told_where_packages_have_several_versions() {
    let universe = universe(&[
        "exim\nVersion: 1\nProvides: mta\nConflicts: mta",
        "exim\nVersion: 2\nProvides: mta\nConflicts: mta",
        "postfix\nVersion: 1\nProvides: mta\nConflicts: mta",
        "postfix\nVersion: 2\nProvides: mta\nConflicts: mta",
    ]);
    insta::assert_snapshot!(refusal(&universe, &request(&["exim", "postfix"])), @r"
    no set of packages satisfies the request:
    `postfix` is asked for
    `exim` 2 is asked for
    `postfix` 1 conflicts with `mta`, which `exim` provides
    `postfix` 2 conflicts with `mta`, which `exim` provides
    ");
}
