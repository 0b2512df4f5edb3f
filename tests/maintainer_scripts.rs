//! What maintainer scripts may rely on: each case settled twice, with all its packages in one debian
//! layer, and with some in a layer on top of the others.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::support::project::{Project, chroot};
use crate::support::repo::{BASE_EXTRA, Compression, Deb, Member, Repo};
use crate::support::tool;

/// Writes down how a postinst was called.
const NOTE: &str = r#"mkdir -p /var/lib/notes
echo "$@" >> "/var/lib/notes/$DPKG_MAINTSCRIPT_PACKAGE""#;

fn lower() -> Vec<Deb> {
    vec![
        Deb::new("menu", "1.0-1")
            .file("/usr/share/menus/own", "own\n")
            .control("triggers", "interest /usr/share/menus\n")
            .script("postinst", &format!("{NOTE}\ncat /usr/share/menus/* > /var/lib/notes/menus")),
        Deb::new("rebuilder", "1.0-1")
            .control("triggers", "interest-noawait rebuild-cache\n")
            .script("postinst", NOTE),
        Deb::new("settings", "1.0-1")
            .conffile("/etc/settings/untouched", "old\n")
            .conffile("/etc/settings/edited", "old\n"),
        Deb::new("old-owner", "1.0-1")
            .file("/usr/share/owned/file", "old\n")
            .file("/usr/share/owned/kept", "kept\n"),
        Deb::new("pager-a", "1.0-1")
            .program("/usr/bin/page-a", "#!/bin/sh\necho a\n")
            .file("/usr/share/man/page-a", "a\n")
            .script("postinst", "update-alternatives --install /usr/bin/page page /usr/bin/page-a 10 --slave /usr/share/man/page page-man /usr/share/man/page-a"),
        Deb::new("order-a", "1.0-1").script("postinst", "mkdir -p /var/lib/notes; echo a >> /var/lib/notes/order"),
        Deb::new("odd", "1.0-1")
            .program("/usr/bin/odd", "x")
            .owned(0, 8, 0o2755)
            .file("/usr/share/odd/file", "linked\n")
            .hardlink("/usr/share/odd/twin", "/usr/share/odd/file")
            .symlink("/usr/share/odd/link", "nowhere/at all")
            .file(&format!("/usr/share/odd/{}file", "long/".repeat(40)), "x")
            .file("/usr/share/odd/grüße", "x\n")
            .dir("/var/lib/odd", 0o3730)
            .owned(6, 8, 0o3730)
            .member(Member::fifo("./usr/share/odd/fifo")),
        // notes whatever ends in `.hook`, also what dpkg has yet to put in place
        Deb::new("hook-runner", "1.0-1").script("postinst", "mkdir -p /var/lib/notes; touch /etc/hooks/own.hook; ls /etc/hooks/*.hook > /var/lib/notes/hooks").dir("/etc/hooks", 0o755),
        Deb::new("hook", "1.0-1").depends("hook-runner").conffile("/etc/hooks/late.hook", "x\n"),
        Deb::new("circle-a", "1.0-1").depends("circle-b").script("postinst", NOTE),
        Deb::new("circle-b", "1.0-1").depends("circle-a").script("postinst", NOTE),
    ]
}

fn upper() -> Vec<Deb> {
    vec![
        Deb::new("entry", "1.0-1").file("/usr/share/menus/entry", "entry\n"),
        Deb::new("asker", "1.0-1").control("triggers", "activate-noawait rebuild-cache\n"),
        Deb::new("caller", "1.0-1").script("postinst", "dpkg-trigger --no-await rebuild-cache"),
        Deb::new("late", "1.0-1")
            .control("triggers", "interest-noawait /usr/share/owned\n")
            .script("postinst", NOTE),
        Deb::new("new-owner", "2.0-1")
            .depends("old-owner")
            .field("Replaces", "old-owner (<< 2)")
            .file("/usr/share/owned/file", "new\n"),
        Deb::new("pager-b", "1.0-1")
            .program("/usr/bin/page-b", "#!/bin/sh\necho b\n")
            .file("/usr/share/man/page-b", "b\n")
            .script("postinst", "update-alternatives --install /usr/bin/page page /usr/bin/page-b 20 --slave /usr/share/man/page page-man /usr/share/man/page-b"),
        Deb::new("order-b", "1.0-1").depends("order-a").script("postinst", "echo b >> /var/lib/notes/order"),
        Deb::new("service", "1.0-1")
            .depends("passwd")
            .dir("/var/lib/service", 0o755)
            .program("/usr/bin/service-ask", "x")
            .program("/etc/init.d/service-daemon", "#!/bin/sh\n### BEGIN INIT INFO\n# Provides: service-daemon\n# Required-Start:\n# Required-Stop:\n# Default-Start: 2 3 4 5\n# Default-Stop: 0 1 6\n### END INIT INFO\necho \"$1\" >> /var/lib/service/started\n")
            .script("preinst", "[ \"$1\" = install ]\nuseradd --system --no-create-home service-user")
            .script("postinst", "chown service-user /var/lib/service\ndpkg-statoverride --update --add root mail 2755 /usr/bin/service-ask\ninvoke-rc.d service-daemon start"),
        Deb::new("libsame", "1.0-1")
            .field("Multi-Arch", "same")
            .field("Pre-Depends", "libc6")
            .file("/usr/lib/x86_64-linux-gnu/libsame.so.1", "x")
            .script("postinst", NOTE),
        Deb::new("question", "1.0-1")
            .depends("debconf")
            .control("templates", "Template: question/colour\nType: string\nDefault: red\nDescription: which colour\n")
            .script("config", ". /usr/share/debconf/confmodule\ndb_input high question/colour || true\ndb_go || true")
            .script("postinst", ". /usr/share/debconf/confmodule\ndb_get question/colour\nmkdir -p /var/lib/notes\necho \"$RET\" > /var/lib/notes/colour\ndb_stop"),
        Deb::new("early", "1.0-1").script("postinst", "touch /var/lib/early-is-configured"),
        Deb::new("needs-early", "1.0-1")
            .field("Pre-Depends", "early")
            .file("/usr/share/needs-early", "x\n")
            .script("preinst", "test -e /var/lib/early-is-configured"),
        Deb::new("packed-xz", "1.0-1").file("/usr/share/packed/xz", "xz").compressed(Compression::Xz),
        Deb::new("packed-zst", "1.0-1").file("/usr/share/packed/zst", "zst").compressed(Compression::Zstd),
        Deb::new("packed-bz2", "1.0-1").file("/usr/share/packed/bz2", "bz2").compressed(Compression::Bzip2),
        Deb::new("packed-not", "1.0-1").file("/usr/share/packed/not", "not").compressed(Compression::None),
    ]
}

/// The root file systems: of one layer, and of two.
fn roots() -> &'static [PathBuf; 2] {
    static ROOTS: OnceLock<[PathBuf; 2]> = OnceLock::new();
    ROOTS.get_or_init(|| {
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("maintainer-scripts");
        drop(sbx::fsx::remove_tree(&home));
        fs::create_dir_all(&home).unwrap();
        let repo = Repo::with_base().add_all(lower()).add_all(upper());
        repo.publish();
        let names = |debs: Vec<Deb>| debs.into_iter().map(|deb| format!(" {:?}", deb.name)).collect();
        let (lower, upper): (String, String) = (names(lower()), names(upper()));
        let below = |packages: &str| {
            let extra = BASE_EXTRA.map(|name| format!(" {name:?}")).concat();
            format!("suites \"trixie\"; base \"essential\"; key \"key.asc\"; packages{extra}{packages}")
        };
        let answer = "debconf \"question\" \"question/colour\" \"string\" \"blue\"";
        let one = format!("layer \"l\" {{ debian \"trixie\" {{ {}{upper}; {answer}; }}; }}", below(&lower));
        let two = format!(
            "layer \"below\" {{ debian \"trixie\" {{ {}; }}; }}\nlayer \"l\" needs=\"below\" {{ debian {{ packages{upper}; {answer}; }}; }}",
            below(&lower)
        );
        [("one", one), ("two", two)].map(|(name, text)| {
            let text = format!("{text}\nsandbox \"s\" {{ layers \"l\"; }}\n");
            let project = Project::from_repo(&repo).file("sandboxes.kdl", &text);
            project.build();
            let bundle = home.join(name);
            let image = format!("{}:s", project.cache().display());
            tool("umoci", &["unpack", "--image", &image, bundle.to_str().unwrap()]);
            let root = bundle.join("rootfs");
            // before many tests at once want its devices
            chroot(&root, "true");
            root
        })
    })
}

fn note(root: &Path, name: &str) -> String {
    fs::read_to_string(root.join("var/lib/notes").join(name)).unwrap_or_default()
}

#[test]
fn nothing_is_left_half_done() {
    for root in roots() {
        assert_eq!(chroot(root, "dpkg --audit"), "");
        // another test edits the files of `settings`
        assert_eq!(chroot(root, "dpkg --verify | grep -v /etc/settings/ || true"), "");
        assert_eq!(chroot(root, "dpkg --configure --pending"), "");
        assert_eq!(chroot(root, "apt-get check >/dev/null"), "");
        let states = chroot(root, "dpkg-query -W -f '${db:Status-Status}\\n' | sort -u");
        assert_eq!(states, "installed\n");
    }
}

#[test]
fn a_trigger_of_a_path_runs_once_all_files_are_there() {
    for root in roots() {
        assert_eq!(note(root, "menus"), "entry\nown\n");
    }
    // with its file already below, only the trigger runs
    assert_eq!(note(&roots()[1], "menu"), "configure \ntriggered /usr/share/menus\n");
}

#[test]
fn a_named_trigger_runs_whether_control_file_or_script_activates_it() {
    let [one, two] = roots();
    // who is not configured yet is not told: its configuration does it all
    assert!(note(one, "rebuilder").starts_with("configure \n"));
    // a trigger runs once or twice, as the scripts happen to be called
    let calls = note(two, "rebuilder");
    assert!(calls.starts_with("configure \ntriggered rebuild-cache\n"), "{calls}");
}

#[test]
fn an_interest_that_comes_later_is_not_told_of_what_was_there() {
    assert_eq!(note(&roots()[1], "late").lines().next(), Some("configure "));
}

#[test]
fn configuration_files_upgrade_without_a_question() {
    let newer = Deb::new("settings", "2.0-1")
        .conffile("/etc/settings/untouched", "new\n")
        .conffile("/etc/settings/edited", "old\n");
    for root in roots() {
        let status = chroot(root, "dpkg-query -W -f '${Conffiles}' settings");
        assert!(!status.contains("newconffile") && status.lines().count() == 2, "{status}");
        fs::write(root.join("etc/settings/edited"), "mine\n").unwrap();
        fs::write(root.join("tmp/newer.deb"), newer.build()).unwrap();
        chroot(root, "dpkg -i /tmp/newer.deb </dev/null && rm /tmp/newer.deb");
        let read = |name: &str| fs::read_to_string(root.join("etc/settings").join(name)).unwrap();
        assert_eq!(read("untouched"), "new\n", "nobody had edited it");
        assert_eq!(read("edited"), "mine\n", "the package has nothing new for it");
    }
}

#[test]
fn hooks_of_packages_that_are_not_configured_are_not_in_place() {
    for root in roots() {
        assert_eq!(note(root, "hooks"), "/etc/hooks/own.hook\n");
        assert_eq!(fs::read_to_string(root.join("etc/hooks/late.hook")).unwrap(), "x\n");
        assert!(!root.join("etc/hooks/late.hook.dpkg-new").exists());
    }
}

#[test]
fn a_file_that_was_replaced_belongs_to_its_new_package_alone() {
    for root in roots() {
        assert_eq!(fs::read_to_string(root.join("usr/share/owned/file")).unwrap(), "new\n");
        assert_eq!(
            chroot(root, "dpkg -S /usr/share/owned/file"),
            "new-owner: /usr/share/owned/file\n"
        );
        let list = chroot(root, "dpkg -L old-owner");
        assert!(list.contains("/owned/kept") && !list.contains("/owned/file"), "{list}");
    }
}

#[test]
fn alternatives_follow_priority_with_their_slaves() {
    for root in roots() {
        assert_eq!(chroot(root, "page; cat /usr/share/man/page"), "b\nb\n");
        assert!(chroot(root, "update-alternatives --query page").contains("Status: auto"));
        chroot(
            root,
            "update-alternatives --set page /usr/bin/page-a && update-alternatives --auto page",
        );
    }
}

#[test]
fn packages_are_configured_after_what_they_depend_on() {
    for root in roots() {
        assert_eq!(note(root, "order"), "a\nb\n");
        assert_eq!(note(root, "circle-a") + &note(root, "circle-b"), "configure \nconfigure \n");
        assert_eq!(note(root, "libsame"), "configure \n");
    }
}

#[test]
fn a_preinst_finds_what_it_pre_depends_on_configured() {
    for root in roots() {
        assert_eq!(
            chroot(root, "dpkg -s needs-early | grep ^Status"),
            "Status: install ok installed\n"
        );
    }
}

#[test]
fn users_owners_and_modes_that_scripts_set_are_kept() {
    for root in roots() {
        let passwd = fs::read_to_string(root.join("etc/passwd")).unwrap();
        let user = passwd.lines().find(|line| line.starts_with("service-user:")).unwrap();
        let id: u32 = user.split(':').nth(2).unwrap().parse().unwrap();
        assert!((100..1000).contains(&id), "a system account: {user}");
        assert_eq!(fs::metadata(root.join("var/lib/service")).unwrap().uid(), id);
        let ask = fs::metadata(root.join("usr/bin/service-ask")).unwrap();
        assert_eq!((ask.gid(), ask.mode() & 0o7777), (8, 0o2755));
        assert_eq!(
            chroot(root, "dpkg-statoverride --list /usr/bin/service-ask"),
            "root mail 2755 /usr/bin/service-ask\n"
        );
    }
}

#[test]
fn no_service_is_started_and_no_policy_stays_behind() {
    for root in roots() {
        assert!(!root.join("var/lib/service/started").exists());
        assert!(!root.join("usr/sbin/policy-rc.d").exists());
    }
}

#[test]
fn questions_are_answered_by_the_declaration() {
    for root in roots() {
        assert_eq!(note(root, "colour"), "blue\n");
    }
}

#[test]
fn odd_files_arrive_as_they_were_packed() {
    for root in roots() {
        let at = |path: &str| fs::symlink_metadata(root.join(path)).unwrap();
        let program = at("usr/bin/odd");
        assert_eq!((program.gid(), program.mode() & 0o7777), (8, 0o2755));
        assert_eq!(at("usr/share/odd/file").ino(), at("usr/share/odd/twin").ino());
        let link = fs::read_link(root.join("usr/share/odd/link")).unwrap();
        assert_eq!(link, Path::new("nowhere/at all"));
        assert!(at("usr/share/odd/grüße").is_file());
        let dir = at("var/lib/odd");
        assert_eq!((dir.uid(), dir.gid(), dir.mode() & 0o7777), (6, 8, 0o3730));
        assert_eq!(at("usr/share/odd/fifo").mode() >> 12, 1);
        assert!(at(&format!("usr/share/odd/{}", "long/".repeat(40))).is_dir());
    }
}

#[test]
fn packages_may_be_compressed_in_any_way() {
    for root in roots() {
        assert_eq!(chroot(root, "cat /usr/share/packed/*"), "bz2notxzzst");
    }
}
