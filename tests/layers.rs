//! Layers are functions of what went in: not of order, threads, or the road they took.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use rayon::prelude::*;
use sbx::build::assembly::{Assembly, AssemblyError};
use sbx::build::capture::capture;
use sbx::build::listing::Listing;
use sbx::build::unpack::{unpack, unpack_tar};
use sbx::build::view::View;
use sbx::digest::Digest;
use sbx::entry::{Claim, EPOCH, Entry, Kind, Meta};
use sbx::path::LayerPath;
use sbx::tarball::Limits;

fn path(text: &str) -> LayerPath {
    LayerPath::parse_absolute(text).unwrap()
}

/// One archive: entries with their bodies, in its order.
type Archive = Vec<(Entry, Vec<u8>)>;

fn file(at: &str, body: &str) -> (Entry, Vec<u8>) {
    let kind = Kind::File(body.len() as u64);
    (Entry { path: path(at), meta: Meta::root(0o644), kind }, body.as_bytes().to_vec())
}

fn other(at: &str, mode: u32, kind: Kind) -> (Entry, Vec<u8>) {
    (Entry { path: path(at), meta: Meta::root(mode), kind }, Vec::new())
}

/// Archives that share directories, contest paths, and link to what they may lose.
fn archives() -> Vec<Archive> {
    let mut archives = vec![
        vec![
            other("/shared", 0o2775, Kind::Dir(Claim::Shipped)),
            file("/shared/contested", "of the first"),
            other("/shared/also", 0o644, Kind::Hardlink(path("/shared/contested"))),
            other("/link", 0o777, Kind::Symlink(b"shared"[..].into())),
        ],
        vec![
            other("/shared", 0o700, Kind::Dir(Claim::Shipped)),
            file("/shared/contested", "of the second"),
            other("/a-link", 0o644, Kind::Hardlink(path("/shared/contested"))),
            file("/shared/twice", "earlier"),
            file("/shared/twice", "later"),
        ],
        vec![file("/shared/contested", "of the third"), other("/pipe", 0o600, Kind::Fifo)],
    ];
    for number in 0..40 {
        let name = format!("/many/{}/{number}-{}", number % 7, "x".repeat(number * 5 % 140));
        let body = name.repeat(number * number);
        let mut archive = vec![file(&name, &body)];
        archive[0].0.meta.mode = 0o600 + number as u32;
        archives.push(archive);
    }
    archives
}

/// Puts archives together, in the order given, by so many threads.
fn assemble(order: &[(u32, Archive)], threads: usize, tree: &Path) -> (Vec<u8>, Listing) {
    let assembly = Assembly::new(tree).unwrap();
    let put = |(origin, archive): &(u32, Archive)| {
        for (entry, body) in archive {
            assembly.put(*origin, entry.clone(), &mut &body[..]).unwrap();
        }
    };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| order.par_iter().with_max_len(1).for_each(put));
    let mut tar = Vec::new();
    // the second archive replaces both others
    let second = |_: &LayerPath, one: u32, two: u32| {
        Ok::<_, AssemblyError>(if one == 1 { one } else { two })
    };
    let listing = assembly.finish(second, &mut tar).unwrap();
    (tar, listing)
}

/// What a tree holds, as far as a layer can say it.
fn survey(tree: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut inodes = BTreeMap::new();
    let mut pending = vec![tree.to_owned()];
    while let Some(dir) = pending.pop() {
        let mut names: Vec<_> =
            fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        for at in names.into_iter().rev() {
            let meta = fs::symlink_metadata(&at).unwrap();
            let name = at.strip_prefix(tree).unwrap().display().to_string();
            let first: &String = inodes.entry(meta.ino()).or_insert_with(|| name.clone());
            let content = match meta.file_type() {
                kind if kind.is_file() => Digest::of(&fs::read(&at).unwrap()).short(),
                kind if kind.is_symlink() => fs::read_link(&at).unwrap().display().to_string(),
                _ => format!("{}", meta.rdev()),
            };
            let owner = (meta.uid(), meta.gid());
            let line = format!("{:o} {owner:?} {} {content} {first}", meta.mode(), meta.mtime());
            if meta.is_dir() {
                pending.push(at);
            }
            // nobody looks at the metadata of what is not there
            let is_whiteout = meta.file_type().is_char_device() && meta.rdev() == 0;
            found.insert(name, if is_whiteout { "whiteout".to_owned() } else { line });
        }
    }
    found
}

#[test]
fn the_order_in_which_archives_arrive_does_not_show() {
    let mut order: Vec<(u32, Archive)> = (0..).zip(archives()).collect();
    let home = tempfile::tempdir().unwrap();
    let mut made = Vec::new();
    let mut state = 7usize;
    for round in 0..12 {
        let tree = home.path().join(round.to_string());
        fs::create_dir(&tree).unwrap();
        let (tar, listing) = assemble(&order, round % 4 + 1, &tree);
        made.push((Digest::of(&tar), listing, survey(&tree)));
        // another order for the next round
        for at in (1..order.len()).rev() {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            order.swap(at, (state >> 33) % (at + 1));
        }
    }
    for other in &made[1..] {
        assert_eq!(other.0, made[0].0);
        assert_eq!(other.1, made[0].1);
    }
    // inode numbers aside, which are not looked at, the trees are equal too
    assert!(made.iter().all(|one| one.2 == made[0].2));
    assert!(!home.path().join("0/.sbx-spill").exists());
}

#[test]
fn a_small_layer_has_the_bytes_it_always_had() {
    let home = tempfile::tempdir().unwrap();
    let (tar, listing) = assemble(&[(0, archives().swap_remove(0))], 1, home.path());
    let names: Vec<String> = listing.entries.iter().map(|entry| entry.path.to_string()).collect();
    assert_eq!(names, ["/link", "/shared", "/shared/also", "/shared/contested"]);
    insta::assert_snapshot!(Digest::of(&tar), @"sha256:633ee6b1f8b0dc8565a4f8f50a209f0bb4b1732050f9b9c1d4ebbf03d0790f91");
}

#[test]
fn a_lost_path_does_not_take_its_links_along() {
    let home = tempfile::tempdir().unwrap();
    let order: Vec<(u32, Archive)> = (0..).zip(archives()).collect();
    let (_, listing) = assemble(&order, 2, home.path());
    let kind = |at: &str| {
        listing.entries.iter().find(|entry| entry.path == path(at)).unwrap().kind.clone()
    };
    assert_eq!(kind("/a-link"), Kind::File(13));
    assert_eq!(kind("/shared/contested"), Kind::Hardlink(path("/a-link")));
    assert_eq!(kind("/shared/also"), Kind::File(12));
    let read = |name: &str| fs::read_to_string(home.path().join(name)).unwrap();
    assert_eq!(read("shared/contested"), "of the second");
    assert_eq!(read("shared/also"), "of the first");
    assert_eq!(read("shared/twice"), "later");
    let shared = fs::metadata(home.path().join("shared")).unwrap();
    assert_eq!((shared.permissions().mode() & 0o7777, shared.mtime()), (0o2775, EPOCH));
}

#[test]
fn a_path_that_is_a_directory_here_and_a_link_there_is_refused_in_either_order() {
    let link = other("/srv/x", 0o777, Kind::Symlink(b"/etc"[..].into()));
    let below = file("/srv/x/passwd", "evil");
    let dir = other("/srv/x", 0o755, Kind::Dir(Claim::Shipped));
    for pair in [[&link, &below], [&below, &link], [&link, &dir], [&dir, &link]] {
        let home = tempfile::tempdir().unwrap();
        let assembly = Assembly::new(home.path()).unwrap();
        assembly.put(0, pair[0].0.clone(), &mut &pair[0].1[..]).unwrap();
        let error = assembly.put(1, pair[1].0.clone(), &mut &pair[1].1[..]).unwrap_err();
        assert_eq!(error.to_string(), "/srv/x is a directory in one place and none in another");
    }
}

#[test]
fn a_layer_unpacks_to_the_tree_it_was_made_with() {
    let home = tempfile::tempdir().unwrap();
    let dir = |name: &str| {
        let dir = home.path().join(name);
        fs::create_dir(&dir).unwrap();
        dir
    };
    let (made, again, system) = (dir("made"), dir("again"), dir("system"));
    let order: Vec<(u32, Archive)> = (0..).zip(archives()).collect();
    let (tar, listing) = assemble(&order, 3, &made);
    let blob = home.path().join("tar");
    fs::write(&blob, &tar).unwrap();
    unpack(&blob, &listing, &again, false).unwrap();
    assert_eq!(survey(&again), survey(&made));
    // an independent eye
    let status = std::process::Command::new("tar")
        .args(["--numeric-owner", "-xpf"])
        .arg(&blob)
        .arg("-C")
        .arg(&system)
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(survey(&system), survey(&made));
}

#[test]
fn a_layer_that_says_other_than_its_listing_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let made = home.path().join("made");
    fs::create_dir(&made).unwrap();
    let (tar, listing) = assemble(&[(0, archives().swap_remove(0))], 1, &made);
    let blob = home.path().join("tar");
    fs::write(&blob, &tar).unwrap();
    let mut changed = [listing.clone(), listing.clone(), listing.clone()];
    changed[0].entries.pop();
    changed[1].entries.push(file("/zzz", "").0);
    changed[2].entries[3].meta.mode = 0o600;
    for (number, listing) in changed.iter().enumerate() {
        let tree = home.path().join(number.to_string());
        fs::create_dir(&tree).unwrap();
        let error = unpack(&blob, listing, &tree, false).unwrap_err().to_string();
        assert!(error.contains("disagree at"), "{error}");
    }
}

/// Runs a command over an overlay of `lower` and answers its upper directory; `None` where mounting
/// is forbidden.
fn step(home: &Path, lower: &Path, script: &str) -> Option<std::path::PathBuf> {
    for dir in ["upper", "work", "merged"] {
        fs::create_dir(home.join(dir)).unwrap();
    }
    let mount = format!(
        "mount -t overlay overlay -o lowerdir={},upperdir=upper,workdir=work merged || exit 77\ncd merged\n{script}",
        lower.display()
    );
    let status = std::process::Command::new("unshare")
        .args(["--mount", "sh", "-ec", &mount])
        .current_dir(home)
        .status()
        .unwrap();
    if !status.success() {
        assert_ne!(rustix::process::geteuid().as_raw(), 0, "the step failed");
        return None;
    }
    Some(home.join("upper"))
}

#[test]
fn a_step_leaves_what_it_changed_and_the_same_again_as_a_tar() {
    let home = tempfile::tempdir().unwrap();
    let lower = home.path().join("lower");
    let files =
        ["kept/a", "kept/touched", "gone", "old/inner/x", "remade/same", "remade/other", "mode"];
    for name in files {
        let at = lower.join(name);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(at, name).unwrap();
    }
    let script = "
        touch kept/touched; rm gone; rm -r old; chmod 600 mode
        rm -r remade; mkdir remade; printf remade/same > remade/same
        mkdir -p new/deep; echo one > new/deep/file; ln new/deep/file new/again; ln -s deep new/link
        touch -d @2000000000 new/deep/file";
    let Some(upper) = step(home.path(), &lower, script) else { return };
    let below = View::new(std::slice::from_ref(&lower));
    let mut tar = Vec::new();
    let listing = capture(&upper, &below, &mut tar).unwrap();
    let shown: Vec<String> =
        listing.entries.iter().map(|entry| format!("{} {:?}", entry.path, entry.kind)).collect();
    insta::assert_snapshot!(shown.join("\n"), @r#"
    /gone Whiteout
    /mode File(4)
    /new Dir(Set)
    /new/again File(4)
    /new/deep Dir(Set)
    /new/deep/file Hardlink(/new/again)
    /new/link Symlink([100, 101, 101, 112])
    /old Whiteout
    /remade Dir(Set)
    /remade/.wh..wh..opq Opaque
    /remade/same File(11)
    "#);
    // unpacked elsewhere, the delta gives the same tree, marks included
    let again = home.path().join("again");
    fs::create_dir(&again).unwrap();
    unpack_tar(&tar[..], Limits::bytes(1 << 20), &again, false).unwrap();
    assert_eq!(survey(&again), survey(&upper));
    let view = |tree: &Path| {
        let view = below.with(tree);
        let seen = |name: &&str| view.read_text(&format!("/{name}")).unwrap();
        files.iter().map(seen).collect::<Vec<_>>()
    };
    assert_eq!(view(&again), view(&upper));
    assert_eq!(view(&again), ["kept/a", "kept/touched", "", "", "remade/same", "", "mode"]);
    // and the kernel shows what was captured
    assert_eq!(listing.entries.iter().filter(|entry| entry.meta.mtime > EPOCH).count(), 0);
}
