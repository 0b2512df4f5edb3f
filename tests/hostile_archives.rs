//! What packages and layers of strangers may try: each is refused with its name, and nothing lands
//! outside the tree.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;

use sbx::build::content::{Laying, Package, lay};
use sbx::build::unpack::unpack_tar;
use sbx::debian::archive::{Deb, DebError};
use sbx::debian::path_filter::PathFilter;
use sbx::digest::Digest;
use sbx::tarball::{Limits, Member};

/// A member of a tar, by raw name: the builder of the `tar` crate refuses what is needed here.
struct Raw<'a> {
    name: &'a str,
    kind: u8,
    link: &'a str,
    body: &'a [u8],
    device: (u32, u32),
}

fn raw(name: &str) -> Raw<'_> {
    Raw { name, kind: b'0', link: "", body: b"", device: (0, 0) }
}

fn archive(members: &[Raw<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for member in members {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..member.name.len()].copy_from_slice(member.name.as_bytes());
        header.as_mut_bytes()[157..157 + member.link.len()].copy_from_slice(member.link.as_bytes());
        header.set_entry_type(tar::EntryType::new(member.kind));
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_600_000_000);
        header.set_size(member.body.len() as u64);
        header.set_device_major(member.device.0).unwrap();
        header.set_device_minor(member.device.1).unwrap();
        header.set_cksum();
        builder.append(&header, member.body).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Unpacks into `HOME/tree`, beside which nothing may appear.
fn refusal_of_layer(tar: &[u8], limits: Limits) -> String {
    let home = tempfile::tempdir().unwrap();
    let tree = home.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let error = unpack_tar(tar, limits, &tree, false).unwrap_err().to_string();
    let beside: Vec<_> = fs::read_dir(home.path()).unwrap().collect();
    assert_eq!(beside.len(), 1, "something landed outside of the tree");
    error
}

fn refused(members: &[Raw<'_>]) -> String {
    refusal_of_layer(&archive(members), Limits::bytes(1 << 20))
}

#[test]
fn layers_cannot_leave_their_tree() {
    let dir = |name| Raw { kind: b'5', ..raw(name) };
    let symlink = |name, link| Raw { kind: b'2', link, ..raw(name) };
    let hardlink = |name, link| Raw { kind: b'1', link, ..raw(name) };
    let cases = [
        refused(&[raw("../beside")]),
        refused(&[raw("/etc/passwd")]),
        refused(&[raw("a/../../beside")]),
        refused(&[symlink("out", ".."), raw("out/beside")]),
        refused(&[symlink("out", "/"), Raw { kind: b'5', ..raw("out/x/") }]),
        refused(&[hardlink("x", "../beside")]),
        refused(&[hardlink("x", "/etc/shadow")]),
        refused(&[hardlink("x", "later"), raw("later")]),
        refused(&[symlink("l", "/etc/shadow"), hardlink("x", "l")]),
        refused(&[dir("d/"), hardlink("x", "d")]),
        refused(&[raw("f"), raw("f/x")]),
        refused(&[raw("x"), raw("./x")]),
        refused(&[symlink("x", "/etc"), dir("x/")]),
        refused(&[symlink("empty", "")]),
    ];
    insta::assert_snapshot!(cases.join("\n"), @r#"
    the layer's tar: `../beside` has a `..` component
    the layer's tar: `/etc/passwd` is absolute
    the layer's tar: `a/../../beside` has a `..` component
    /out/beside lies behind what is no directory
    /out/x lies behind what is no directory
    the layer's tar: `x` is a hard link to `../beside`, which has a `..` component
    the layer's tar: `x` is a hard link to `/etc/shadow`, which is absolute
    /x is a hard link to /later, which is no file before it
    /x is a hard link to /l, which is no file before it
    /x is a hard link to /d, which is no file before it
    /f/x lies behind what is no directory
    the layer's tar has /x twice
    the layer's tar has /x twice
    the layer's tar: `empty` is a link to nowhere
    "#);
}

#[test]
fn layers_cannot_forge_deletions() {
    let cases = [
        refused(&[Raw { kind: b'3', ..raw("gone") }]),
        refused(&[raw(".wh.")]),
        refused(&[raw(".wh..")]),
        refused(&[raw(".wh...")]),
        refused(&[raw(".wh..wh.plnk")]),
        refused(&[raw(".wh.d/x")]),
        refused(&[Raw { body: b"x", ..raw(".wh.x") }]),
        refused(&[Raw { kind: b'5', ..raw(".wh.x/") }]),
        refused(&[raw("x"), raw(".wh.x")]),
    ];
    insta::assert_snapshot!(cases.join("\n"), @r#"
    the layer's tar has /gone as device 0:0, which stands for a deletion
    the layer's tar has /.wh., a name that is kept for deletions
    the layer's tar has /.wh.., a name that is kept for deletions
    the layer's tar has /.wh..., a name that is kept for deletions
    the layer's tar has /.wh..wh.plnk, a name that is kept for deletions
    the layer's tar has /.wh.d/x, a name that is kept for deletions
    the layer's tar has /.wh.x, a name that is kept for deletions
    the layer's tar has /.wh.x, a name that is kept for deletions
    the layer's tar has /x twice
    "#);
}

#[test]
fn layers_cannot_grow_beyond_their_limits() {
    let many: Vec<String> = (0..100).map(|number| format!("f{number}")).collect();
    let many: Vec<Raw<'_>> = many.iter().map(|name| raw(name)).collect();
    let few = Limits { bytes: 1 << 20, members: 99 };
    let zeros = [Raw { body: &[0; 4096], ..raw("zeros") }];
    let whole = archive(&zeros);
    let mut lying = whole.clone();
    // 16 GiB, says the header
    lying[124..136].copy_from_slice(b"200000000000");
    let sum: u32 = lying[..512]
        .iter()
        .enumerate()
        .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) })
        .sum();
    lying[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let cases = [
        refusal_of_layer(&archive(&many), few),
        refusal_of_layer(&whole, Limits::bytes(4095)),
        refusal_of_layer(&lying, Limits::bytes(1 << 30)),
        refusal_of_layer(&lying, Limits::bytes(1 << 40)),
        refusal_of_layer(&whole[..2000], Limits::bytes(1 << 20)),
        refusal_of_layer(&whole[..whole.len() - 1024], Limits::bytes(1 << 20)),
    ];
    insta::assert_snapshot!(cases.join("\n"), @r#"
    the layer's tar: the archive holds more than 99 members
    the layer's tar: the archive unpacks to more than 4095 bytes
    the layer's tar: the archive unpacks to more than 1073741824 bytes
    /zeros cannot be read: the archive ends in the middle of `zeros`
    /zeros cannot be read: the archive ends in the middle of `zeros`
    the layer's tar: the archive ends in the middle of `zeros`
    "#);
}

const CONTROL: &str = "Package: p\nVersion: 1\nArchitecture: all\nDescription: x\n";

fn control() -> Vec<u8> {
    archive(&[Raw { body: CONTROL.as_bytes(), ..raw("./control") }])
}

/// A `.deb` of members as they are given.
fn deb(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = ar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let header = ar::Header::new(name.as_bytes().to_vec(), bytes.len() as u64);
        builder.append(&header, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

fn sound(data: &[u8]) -> Vec<u8> {
    deb(&[("debian-binary", b"2.0\n"), ("control.tar", &control()), ("data.tar", data)])
}

fn read(bytes: &[u8]) -> Result<(String, Vec<String>), DebError> {
    let deb = Deb::open(bytes)?;
    let mut names = Vec::new();
    let visit = |member: &Member, body: &mut dyn Read| -> Result<(), DebError> {
        let mut text = String::new();
        body.read_to_string(&mut text)?;
        names.push(format!("{} {text}", member.label()));
        Ok(())
    };
    let (control, digest) = deb.read_data(1 << 20, visit)?;
    assert_eq!(digest, Digest::of(bytes));
    Ok((control.text, names))
}

fn compress(bytes: &[u8], with: &str) -> Vec<u8> {
    let mut out = Vec::new();
    match with {
        ".gz" => {
            let mut encoder = flate2::write::GzEncoder::new(&mut out, flate2::Compression::new(6));
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap();
        }
        ".xz" => out = liblzma::encode_all(bytes, 6).unwrap(),
        ".zst" => out = zstd::encode_all(bytes, 3).unwrap(),
        ".bz2" => {
            let mut encoder = bzip2::write::BzEncoder::new(&mut out, bzip2::Compression::new(6));
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap();
        }
        _ => out.extend_from_slice(bytes),
    }
    out
}

#[test]
fn packages_are_read_however_they_are_compressed() {
    let data = archive(&[Raw { body: b"hello", ..raw("./usr/x") }]);
    for with in ["", ".gz", ".xz", ".zst", ".bz2"] {
        let bytes = deb(&[
            ("debian-binary", b"2.0\n"),
            ("_gpgorigin", b"odd"),
            (&format!("control.tar{with}"), &compress(&control(), with)),
            ("_more", b"odd"),
            (&format!("data.tar{with}"), &compress(&data, with)),
        ]);
        let (text, names) = read(&bytes).unwrap();
        assert_eq!((text.as_str(), names), (CONTROL, vec!["./usr/x hello".to_owned()]), "{with}");
    }
}

#[test]
fn packages_that_are_none_are_refused() {
    let data = archive(&[Raw { body: &[b'x'; 5000], ..raw("./usr/x") }]);
    let good = sound(&data);
    let xz = compress(&data, ".xz");
    let with_control = |control: &[u8]| {
        deb(&[("debian-binary", b"2.0\n"), ("control.tar", control), ("data.tar", &data)])
    };
    let with_data = |name: &str, data: &[u8]| {
        deb(&[("debian-binary", b"2.0\n"), ("control.tar", &control()), (name, data)])
    };
    let mut broken = xz.clone();
    let middle = broken.len() / 2;
    broken[middle] ^= 0xff;
    let huge = vec![0; 33 << 20];
    let cases = [
        Vec::new(),
        b"PK\x03\x04 something else".to_vec(),
        deb(&[("debian-binary", b"3.0\n"), ("control.tar", &control()), ("data.tar", &data)]),
        deb(&[("control.tar", &control()), ("debian-binary", b"2.0\n")]),
        deb(&[("debian-binary", b"2.0\n"), ("data.tar", &data)]),
        deb(&[("debian-binary", b"2.0\n"), ("control.tar", &control())]),
        with_control(&archive(&[raw("./md5sums")])),
        with_control(&archive(&[Raw { body: b"\xff", ..raw("./control") }])),
        with_control(&archive(&[Raw { body: b"x", ..raw("./control") }, raw("./control")])),
        with_control(&archive(&[raw("./../control")])),
        with_control(&archive(&[Raw { kind: b'2', link: "/etc/passwd", ..raw("./control") }])),
        with_control(&archive(&[Raw { body: &huge, ..raw("./templates") }])),
        with_data("data.tar.lz4", &data),
        with_data("data.tar.xz", &xz[..xz.len() - 20]),
        with_data("data.tar.xz", &xz[..xz.len() / 2]),
        with_data("data.tar.xz", &broken),
        with_data("data.tar", &data[..3000]),
        good[..good.len() - 2000].to_vec(),
        good[..good.len() - 600].to_vec(),
    ];
    let refusals: Vec<String> =
        cases.iter().map(|bytes| read(bytes).unwrap_err().to_string()).collect();
    insta::assert_snapshot!(refusals.join("\n"), @r#"
    it is no Debian package: it is too short
    it is no Debian package: it is no ar archive
    it is no Debian package: it does not begin with `debian-binary` 2
    it is no Debian package: it does not begin with `debian-binary` 2
    it is no Debian package: `data.tar` stands where the control archive should
    it is no Debian package: it ends too soon
    its control archive has no `control`
    its `control` is not UTF-8
    it is no Debian package: its control archive has two members `control`
    it is no Debian package: its control archive has a member `../control`
    it is no Debian package: its control archive has a member `control`
    its control archive: the archive unpacks to more than 33554432 bytes
    it is no Debian package: `data.tar.lz4` is compressed in an unknown way
    its data archive: the archive cannot be read: premature eof
    its data archive: the archive ends in the middle of `its beginning`
    its data archive: the archive cannot be read: lzma data error
    it cannot be read: the archive ends in the middle of `./usr/x`
    it cannot be read: the archive ends in the middle of `./usr/x`
    its data archive: the archive ends in the middle of `./usr/x`
    "#);
}

/// Lays a package whose data are these members.
fn lay_one(home: &Path, members: &[Raw<'_>]) -> Result<(), String> {
    let blob = home.join("blob");
    let bytes = sound(&archive(members));
    fs::write(&blob, &bytes).unwrap();
    let tree = home.join("tree");
    fs::create_dir(&tree).unwrap();
    let package = Package { label: "p 1".to_owned(), blob, digest: Digest::of(&bytes) };
    let laid = lay(
        &[package],
        Laying { fresh: false, filter: &PathFilter::default() },
        &tree,
        &mut std::io::sink(),
        &|_| {},
    );
    laid.map(drop).map_err(|error| error.to_string())
}

#[test]
fn packages_cannot_leave_their_layer() {
    let cases = [
        [raw("./ok"), raw("../beside")],
        [raw("./ok"), raw("/etc/beside")],
        [Raw { kind: b'2', link: "/", ..raw("./out") }, raw("./out/beside")],
        [raw("./ok"), Raw { kind: b'1', link: "../../etc/shadow", ..raw("./x") }],
        [raw("./ok"), Raw { kind: b'1', link: "./nowhere", ..raw("./x") }],
        [raw("./ok"), Raw { kind: b'3', device: (1, 3), ..raw("./null") }],
        [raw("./ok"), Raw { kind: b'4', device: (8, 0), ..raw("./sda") }],
        [raw("./ok"), raw("./.wh.ok")],
        [raw("./ok"), raw("./.sbx-spill/1")],
        [raw("./ok"), raw("./ok/below")],
    ];
    let mut refusals = Vec::new();
    for members in cases {
        let home = tempfile::tempdir().unwrap();
        refusals.push(lay_one(home.path(), &members).unwrap_err());
        assert!(!home.path().join("beside").exists());
    }
    insta::assert_snapshot!(refusals.join("\n"), @r#"
    package `p 1`: path `../beside` has a `..` component
    package `p 1`: path `/etc/beside` is absolute
    package `p 1`: /out is a directory in one place and none in another
    package `p 1`: `./x` is a hard link to `../../etc/shadow`, which has a `..` component
    package `p 1`: /x is a hard link to /nowhere, which is no file before it
    package `p 1`: /null is a device
    package `p 1`: /sda is a device
    package `p 1`: /.wh.ok has a name that stands for a deletion in a layer
    package `p 1`: /.sbx-spill/1 has a name that stands for a deletion in a layer
    package `p 1`: /ok is a directory in one place and none in another
    "#);
}

#[test]
fn a_package_that_changed_in_the_store_is_named_as_such() {
    let home = tempfile::tempdir().unwrap();
    let bytes = sound(&archive(&[Raw { body: &[b'x'; 5000], ..raw("./usr/x") }]));
    let digest = Digest::of(&bytes);
    for (number, at) in [3, 700, 3000, bytes.len() - 1].into_iter().enumerate() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x55;
        let blob = home.path().join(format!("blob{number}"));
        fs::write(&blob, &damaged).unwrap();
        let tree = home.path().join(number.to_string());
        fs::create_dir(&tree).unwrap();
        let package = Package { label: "p 1".to_owned(), blob, digest };
        let error = lay(
            &[package],
            Laying { fresh: false, filter: &PathFilter::default() },
            &tree,
            &mut std::io::sink(),
            &|_| {},
        )
        .unwrap_err();
        let wanted = format!("expected {digest}, found {}", Digest::of(&damaged));
        assert!(error.to_string().ends_with(&wanted), "{error}");
    }
}
