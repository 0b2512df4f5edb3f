//! Wheels that try something: each is refused with a reason that names the thing.

use std::io::Write;

use sbx::digest::Digest;
use sbx::python::{Wheel, WheelError};

/// Members by name, as Python's `zipfile` writes them; RECORD is made unless it is given.
fn wheel(file: &str, script: &str) -> Result<(), WheelError> {
    let home = tempfile::tempdir().unwrap();
    let program = format!(
        "import base64, hashlib, sys, warnings, zipfile\n\
         warnings.simplefilter('ignore')\n\
         info = 'a-1.dist-info/'\n\
         files = [('a/__init__.py', b'x = 1'), (info + 'METADATA', b'Metadata-Version: 2.1\\nName: a\\nVersion: 1\\n'),\n\
                  (info + 'WHEEL', b'Wheel-Version: 1.0\\nTag: py3-none-any\\n')]\n\
         record = None\n\
         links = []\n\
         def line(name, data):\n    \
             digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()\n    \
             return f'{{name}},sha256={{digest}},{{len(data)}}\\n'\n\
         {script}\n\
         if record is None: record = ''.join(line(*one) for one in files) + info + 'RECORD,,\\n'\n\
         with zipfile.ZipFile(sys.argv[1], 'w', zipfile.ZIP_DEFLATED) as z:\n    \
             for name, data in files: z.writestr(name, data)\n    \
             for name in links:\n        \
                 one = zipfile.ZipInfo(name); one.external_attr = 0o120777 << 16; z.writestr(one, '/etc')\n    \
             z.writestr(info + 'RECORD', record)\n"
    );
    let path = home.path().join(file);
    let mut child = std::process::Command::new("python3")
        .args(["-", path.to_str().unwrap()])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(program.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    let digest = Digest::of(&std::fs::read(&path).unwrap());
    Wheel::open(&path, file, digest).map(drop)
}

#[track_caller]
fn refused(script: &str) -> String {
    wheel("a-1-py3-none-any.whl", script).unwrap_err().to_string()
}

#[test]
fn a_sound_wheel_is_opened() {
    wheel("a-1-py3-none-any.whl", "pass").unwrap();
}

#[test]
fn names_that_lead_out_and_links_are_refused() {
    insta::assert_snapshot!(refused("files.append(('../x', b''))"), @"member `../x` leads out of its directory");
    insta::assert_snapshot!(refused("files.append(('/x', b''))"), @"member `/x` has an absolute name");
    insta::assert_snapshot!(refused("links.append('a/l')"), @"member `a/l` is a link");
    insta::assert_snapshot!(refused("files.append(('a/__init__.py', b'y'))"), @"two of its members have the same name");
    insta::assert_snapshot!(refused("files.append(('A/b.py', b'y'))"), @"`a` and `A` differ in case only");
}

#[test]
fn a_record_that_lies_is_refused() {
    insta::assert_snapshot!(refused("record = ''"), @"its RECORD does not list `a-1.dist-info/METADATA`");
    insta::assert_snapshot!(refused("record = ''.join(line(*one) for one in files) + 'b.py,,\\n'"), @"its RECORD lists `b.py`, which is not there");
    let lies = refused("record = ''.join(line(n, d[:-1] + b'!') for n, d in files)");
    assert!(
        lies.starts_with("its RECORD says sha256=") && lies.contains(", whose digest is sha256="),
        "{lies}"
    );
    insta::assert_snapshot!(refused("record = ''.join(line(n, d + b'!') for n, d in files)"), @"its RECORD says 42 bytes of `a-1.dist-info/METADATA`, which has 41");
}

#[test]
fn a_wheel_of_another_name_is_refused_and_so_is_a_bomb() {
    let error = wheel("b-1-py3-none-any.whl", "pass").unwrap_err().to_string();
    insta::assert_snapshot!(error, @"its file name says `b`, its metadata `a-1.dist-info`");
    let bomb = refused("files.append(('a/zeros', bytes(600 << 20)))");
    assert!(bomb.starts_with("it would unpack to 629145"), "{bomb}");
}
