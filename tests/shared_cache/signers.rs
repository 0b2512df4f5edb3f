//! Whose entries count, and whose words stand beside each other.

use super::*;

#[test]
fn entries_count_by_whoever_signed_them() {
    let (origin, depot) = (Origin::new(), Depot::start());
    let cache = format!("{}/cache", depot.host);
    let first = origin.machine();
    let (made, _) = build(&first, &["--cache-to", &cache]);
    assert_eq!(traffic(&made), (0, 2));
    let second = origin.second(&first);
    let try_with = |arguments: &[&str]| {
        drop(fs::remove_dir_all(second.cache()));
        let (answer, said) = build(&second, &[&["--cache-from", &cache][..], arguments].concat());
        assert_eq!(answer["image"], made["image"]);
        (traffic(&answer), said)
    };
    fs::create_dir_all(second.cache()).unwrap();
    let (counts, said) = try_with(&["--cache-trust", "key.pub"]);
    assert_eq!(counts, (0, 0));
    said.says("layer `app`, `tool`, not taken: nobody signed it (`--trust-cache`");
    assert_eq!(try_with(&["--trust-cache"]).0, (2, 0));
    // over what anybody may have written, nothing is signed
    let own = ["--cache-to", &cache, "--cache-key", "key.pem"];
    let signs = second.sbx(&[&["build", "s"], &own[..]].concat());
    signs.fails(1, &["layers that nobody vouched for", "`sbx clean --all`"]);
    second.sbx(&["build", "s", "--trust-cache", "--cache-key", "key.pem"]).fails(2, &["--trust-"]);
    second.sbx(&["clean", "--all"]).success();
    assert!(!second.cache().join("unvouched").exists());
    // whoever was refused makes room for who has the key
    let (counts, _) = try_with(&own);
    assert_eq!(counts, (0, 2));
    assert_eq!(try_with(&["--cache-trust", "key.pub"]).0, (2, 0));
    let (counts, said) = try_with(&["--cache-trust", "other.pub"]);
    assert_eq!(counts, (0, 0));
    said.says("not taken: who signed it is not trusted here (`--cache-trust KEY`");
    assert_eq!(try_with(&["--cache-trust", "other.pub", "--cache-trust", "key.pub"]).0, (2, 0));
    assert_eq!(try_with(&["--trust-cache"]).0, (2, 0));
}

/// What a machine with a new store takes of a cache.
fn takes(machine: &Project, cache: &str, trusted: &[&str]) -> (u64, Outcome) {
    drop(fs::remove_dir_all(machine.cache()));
    let mut arguments = vec!["--cache-from", cache];
    arguments.extend(trusted.iter().flat_map(|key| ["--cache-trust", key]));
    let (answer, said) = build(machine, &arguments);
    (traffic(&answer).0, said)
}

fn fill_as(machine: &Project, cache: &str, key: &str) -> u64 {
    traffic(&build(machine, &["--cache-to", cache, "--cache-key", key]).0).1
}

#[test]
fn who_do_not_trust_each_other_share_a_repository() {
    let (origin, depot) = (Origin::new(), Depot::start());
    let cache = format!("{}/c", depot.host);
    let one = origin.machine();
    assert_eq!(fill_as(&one, &cache, "key.pem"), 2);
    let (two, reader) = (origin.second(&one), origin.second(&one));
    assert_eq!(fill_as(&two, &cache, "other.pem"), 2);
    for trusted in ["key.pub", "other.pub"] {
        assert_eq!(takes(&reader, &cache, &[trusted]).0, 2, "{trusted}");
    }
    for tag in depot.tags("c") {
        let manifest = String::from_utf8(depot.manifest("c", &tag).unwrap()).unwrap();
        check_schema("image-manifest", &manifest);
    }
    depot.forget();
    assert_eq!(fill_as(&one, &cache, "key.pem") + fill_as(&two, &cache, "other.pem"), 0);
    assert_eq!((depot.count("PUT", ""), depot.count("POST", "")), (0, 0));

    // one who is trusted lies: the next one counts
    let tag = tag_of_tool(&depot, "c");
    let good = depot.manifest("c", &tag).unwrap();
    let lie = signed_anew(&good, |said| said["diffId"] = json!(Digest::of(b"other")));
    depot.put("c", &tag, lie.clone());
    assert_eq!(takes(&reader, &cache, &["key.pub", "other.pub"]).0, 2);
    takes(&reader, &cache, &["key.pub"]).1.says("its tar has other bytes than were promised");
    // and is mended by whoever may write, who leaves the other alone
    drop(fs::remove_dir_all(reader.cache()));
    let both = ["--cache-from", &cache, "--cache-to", &cache, "--cache-key", "key.pem"];
    assert_eq!(traffic(&build(&reader, &both).0), (1, 1));
    for trusted in ["key.pub", "other.pub"] {
        assert_eq!(takes(&reader, &cache, &[trusted]).0, 2, "{trusted}");
    }
    // what a stranger names may have gone
    let gone = signed_anew(&good, |said| said["layer"]["digest"] = json!(Digest::of(b"gone")));
    depot.put("c", &tag, gone);
    let fresh = origin.second(&one);
    assert_eq!(fill_as(&fresh, &cache, "other.pem"), 0, "his own is there");
    let third = p256::SecretKey::from_slice(&[9; 32]).unwrap();
    let third = p256::pkcs8::EncodePrivateKey::to_pkcs8_pem(&third, Default::default()).unwrap();
    fresh.write("third.pem", &third);
    reader.write("third.pub", &PrivateKey::parse(&third, None).unwrap().public().to_pem());
    assert_eq!(fill_as(&fresh, &cache, "third.pem"), 2);
    assert_eq!(takes(&reader, &cache, &["third.pub"]).0, 2);
}

#[test]
fn two_that_write_at_once_leave_whole_entries_and_the_next_build_the_rest() {
    let (origin, depot) = (Origin::new(), Depot::start());
    let cache = format!("{}/cache", depot.host);
    let one = origin.machine();
    one.sbx(&["lock"]).success();
    let (two, reader) = (origin.second(&one), origin.second(&one));
    std::thread::scope(|scope| {
        scope.spawn(|| fill_as(&one, &cache, "key.pem"));
        scope.spawn(|| fill_as(&two, &cache, "other.pem"));
    });
    assert_eq!(takes(&reader, &cache, &["key.pub", "other.pub"]).0, 2);
    fill_as(&one, &cache, "key.pem");
    fill_as(&two, &cache, "other.pem");
    for trusted in ["key.pub", "other.pub"] {
        assert_eq!(takes(&reader, &cache, &[trusted]).0, 2, "{trusted}");
    }
}

#[test]
fn who_signs_signs_what_was_made_here_or_by_whom_he_trusts() {
    let (origin, depot) = (Origin::new(), Depot::start());
    let [theirs, team, bare] =
        ["theirs", "team", "bare"].map(|name| format!("{}/{name}", depot.host));
    let over = "layer \"over\" needs=\"tool\" { files \"/opt/tool/noise\" from=\"layer:tool\" into=\"/srv/noise\"; }\n";
    let with_over = |machine: &Project| {
        let text =
            machine.read("sandboxes.kdl").replace("layers \"app\"", "layers \"app\" \"over\"");
        machine.write("sandboxes.kdl", &(text + over));
    };
    let first = origin.machine();
    assert_eq!(fill_as(&first, &theirs, "other.pem"), 2);
    let second = origin.second(&first);
    assert_eq!(takes(&second, &theirs, &["other.pub"]).0, 2);
    let giving = ["--cache-to", &team, "--cache-key", "key.pem"];
    let (answer, said) = build(&second, &giving);
    assert_eq!(traffic(&answer), (0, 0));
    let note = "is not put into cache";
    assert_eq!(said.stderr.matches(note).count(), 1, "{}", said.stderr);
    said.says(&format!("layer `app`, `tool` {note} `{team}`: who answers for it"))
        .says("`--cache-trust KEY`");
    assert!(depot.tags("team").is_empty());
    // what is made here is given, but for what was made over theirs
    second.write("app/run", "#!/bin/sh\necho 2\n");
    with_over(&second);
    let (answer, said) = build(&second, &giving);
    assert_eq!(traffic(&answer), (0, 1));
    said.says(&format!("layer `over`, `tool` {note} `{team}`"));
    // whom one trusts, one answers for; who signs nothing promises nothing
    let trusting = [&giving[..], &["--cache-trust", "other.pub"]].concat();
    let (answer, said) = build(&second, &trusting);
    assert_eq!(traffic(&answer), (0, 2));
    assert!(!said.stderr.contains(note), "{}", said.stderr);
    assert_eq!(traffic(&build(&second, &["--cache-to", &bare]).0), (0, 3));
    // and in the very build that takes it
    let third = origin.second(&first);
    let both = ["--cache-from", &theirs, "--cache-to", &theirs, "--cache-key", "key.pem"];
    let trusting = [&both[..], &["--cache-trust", "other.pub"]].concat();
    assert_eq!(traffic(&build(&third, &trusting).0), (2, 2));
    assert_eq!(traffic(&build(&third, &trusting).0), (0, 0));
}
