//! Programs that resolve: what they reach through the relay, and that they reach nothing else.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use sbx::build::toolroom::Toolbench;
use sbx::fetch::{Client, ClientConfig, Login};
use sbx::jail::Jail;
use sbx::lock::toolroom::{ToolError, ToolJob, ToolResult};
use sbx::platform::Platform;
use sbx::serve::{Registry, Upstream};
use tempfile::TempDir;

use crate::support::http;
use crate::support::http::Server;

/// A small root file system; `/usr` is the machine's.
fn base() -> TempDir {
    let home = tempfile::tempdir().unwrap();
    for dir in ["usr", "etc", "tmp"] {
        fs::create_dir(home.path().join(dir)).unwrap();
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{name}"), home.path().join(name)).unwrap();
    }
    home
}

/// A script in Python, as a job.
fn python(script: &str, registry: Option<Registry>) -> ToolJob {
    let prelude = "import json, os, socket, sys, urllib.request, urllib.error\n\
         def get(url, **headers):\n    \
             return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=9).read()\n\
         def refused(url):\n    \
             try: get(url)\n    \
             except urllib.error.HTTPError as error: return error.code\n    \
             except urllib.error.URLError as error: return type(error.reason).__name__\n\
         relay = os.environ['RELAY']\n";
    ToolJob {
        tool: "script".into(),
        layer: "l".parse().unwrap(),
        platform: Platform::host(),
        command: vec!["/usr/bin/python3".into(), "script.py".into()],
        env: vec![("RELAY".into(), "{relay}".into())],
        mounts: vec![("/usr".into(), "/usr".into())],
        files: BTreeMap::from([("script.py".into(), format!("{prelude}{script}").into_bytes())]),
        results: vec!["result".into()],
        registry,
        timeout: Duration::from_secs(60),
    }
}

fn run(job: &ToolJob) -> Result<ToolResult, ToolError> {
    let (lower, scratch) = (base(), tempfile::tempdir().unwrap());
    let config = ClientConfig { tries: 1, ..ClientConfig::default() };
    let bench = Toolbench {
        jail: &Jail { program: env!("CARGO_BIN_EXE_sbx").into(), emulator: None },
        client: &Client::new(config),
        lowers: &[lower.path().to_owned()],
        scratch: scratch.path(),
    };
    bench.run(job)
}

#[track_caller]
fn output(job: &ToolJob) -> String {
    run(job).unwrap_or_else(|error| panic!("{error}")).output
}

fn upstream(server: &Server, path: &str) -> Upstream {
    Upstream { url: server.url(path), login: Login::Header("Bearer s3cret".into()) }
}

fn npm(server: &Server) -> Option<Registry> {
    Some(Registry::Npm(BTreeMap::from([(String::new(), upstream(server, "/npm/"))])))
}

#[test]
fn npm_packages_come_through_the_relay_and_lead_back_to_it() {
    let (server, elsewhere) = (Server::start(), Server::start());
    let foreign = elsewhere.url("/download/a%2Bb.tgz");
    let document = serde_json::json!({"name": "@acme/a", "versions": {
        // as a mirror hands it on
        "1.0.0": {"dist": {"tarball": "https://registry.example.org/@acme/a/-/a-1.0.0.tgz"}},
        "2.0.0": {"dist": {"tarball": foreign.as_str()}},
    }});
    server.put("/npm/@acme%2Fa", document.to_string());
    server.put("/npm/@acme/a/-/a-1.0.0.tgz", "one");
    elsewhere.put("/download/a%2Bb.tgz", "two");
    let script = "document = json.loads(get(relay + '/@acme%2fa', Accept='application/x'))\n\
         urls = [v['dist']['tarball'] for v in document['versions'].values()]\n\
         assert urls[0] == relay + '/@acme/a/-/a-1.0.0.tgz', urls\n\
         assert urls[1].startswith(relay + '/@acme/a/-/'), urls\n\
         print([get(url) for url in urls])\n\
         open('result', 'w').write(urls[1])";
    let result = run(&python(script, npm(&server))).unwrap();
    assert_eq!(result.output, "[b'one', b'two']\n");
    let shown = String::from_utf8(result.files["result"].clone()).unwrap();
    assert_eq!(result.origins[&shown], foreign, "who reads the result can tell where it was");
    let credential = |server: &Server| {
        let requests = server.requests();
        assert!(!requests.is_empty());
        let carried =
            requests.iter().map(|request| request.header("authorization").map(str::to_owned));
        carried.collect::<Vec<_>>()
    };
    assert!(credential(&server).iter().all(|value| value.as_deref() == Some("Bearer s3cret")));
    assert_eq!(credential(&elsewhere), [None], "a credential stays with its origin");
    assert_eq!(server.requests()[0].header("accept"), Some("application/x"));
}

#[test]
fn pages_of_a_python_index_come_through_the_relay_and_lead_back_to_it() {
    let server = Server::start();
    let page = r#"{"files": [{"filename": "a-1-py3-none-any.whl", "url": "../../files/a-1-py3-none-any.whl"}]}"#;
    server.put("/simple/a/", page);
    server.put("/more/b/", "<a href='/files/b-1%2Bx.whl#sha256=00'>b</a>");
    server.put("/files/a-1-py3-none-any.whl", "wheel");
    server.put("/files/a-1-py3-none-any.whl.metadata", "Name: a");
    server.put("/files/b-1%2Bx.whl", "other");
    let registry =
        Registry::Python(vec![upstream(&server, "/simple"), upstream(&server, "/more/")]);
    let script = "import re\n\
         page = get(relay + '/0/a/').decode()\n\
         url = re.search('http://[^\"]*', page)[0]\n\
         print(get(url), get(url + '.metadata'))\n\
         url = re.search(\"http://[^']*\", get(relay + '/1/b/').decode())[0]\n\
         assert url.endswith('/b-1%2Bx.whl#sha256=00'), url\n\
         print(get(url.split('#')[0]), refused(relay + '/2/a/'))";
    let said = output(&python(script, Some(registry)));
    assert_eq!(said, "b'wheel' b'Name: a'\nb'other' 403\n");
}

#[test]
fn whatever_else_is_asked_for_is_refused() {
    let server = Server::start();
    server.put("/npm/a", r#"{"tarball": "/secret", "versions": {"1.0.0": {"dist": {"tarball": "file:///etc/passwd"}}}}"#);
    server.put("/secret", "secret");
    server.put("/npm/-/whoami", "me");
    let direct = server.url("/secret");
    let script = format!(
        "assert b'file:///etc/passwd' in get(relay + '/a')\n\
         for path in ['-/whoami', '../secret', '%2e%2e/secret', 'a/-/..%2f..%2fsecret', 'http://h/x', 'a/-/x/y.tgz', '']:\n    \
             assert refused(relay + '/' + path) == 403, path\n\
         post = urllib.request.Request(relay + '/a', data=b'x')\n\
         try: urllib.request.urlopen(post); assert False\n\
         except urllib.error.HTTPError as error: print(error.code)\n\
         print(refused(relay + '/absent'), refused('{direct}'), refused('http://192.0.2.1/'), refused('http://elsewhere.example.org/'))"
    );
    let said = output(&python(&script, npm(&server)));
    assert_eq!(said, "405\n404 ConnectionRefusedError OSError gaierror\n");
    assert_eq!(server.hits("/secret"), 0);
    assert_eq!(server.hits("/npm/-/whoami"), 0);
}

#[test]
fn nothing_of_the_machine_is_seen() {
    let script = "print(sorted(os.environ), os.getcwd(), os.environ['HOME'], socket.gethostname())\n\
         print(sorted(os.listdir('/')), os.listdir('/tmp'))\n\
         try: open('/usr/x', 'w')\n\
         except OSError as error: print(error.strerror)";
    assert_eq!(
        output(&python(script, None)),
        "['CI', 'HOME', 'LANG', 'LC_ALL', 'LOGNAME', 'PATH', 'PYTHONHASHSEED', 'RELAY', 'SHELL', 'SOURCE_DATE_EPOCH', 'TERM', 'TZ', 'USER'] /work /work/.home sbx\n\
         ['bin', 'dev', 'etc', 'lib', 'lib64', 'proc', 'sbin', 'sys', 'tmp', 'usr', 'work'] []\n\
         Read-only file system\n"
    );
}

#[test]
fn a_failure_says_what_the_program_may_not_have_said() {
    let server = Server::start();
    server.always("/npm/a", http::Fault::Status(401));
    let script =
        "refused(relay + '/a'); refused('http://telemetry.example.org/'); sys.exit('no luck')";
    let error = run(&python(script, npm(&server))).unwrap_err().to_string();
    assert!(error.starts_with("`script` ended with exit code 1:\n  no luck\n"), "{error}");
    assert!(error.contains("answers 401"), "{error}");
    assert!(error.contains("name `telemetry.example.org` was asked for"), "{error}");
    assert!(!error.contains("s3cret"), "{error}");
}

#[test]
fn results_are_files_and_nothing_that_leads_elsewhere() {
    for script in
        ["os.symlink('/etc/passwd', 'result')", "os.mkfifo('result')", "os.mkdir('result')"]
    {
        let error = run(&python(script, None)).unwrap_err();
        assert!(matches!(error, ToolError::Room { .. }), "{script}: {error}");
    }
    assert!(run(&python("pass", None)).unwrap().files.is_empty(), "what is not there is not there");
}

#[test]
fn a_program_that_never_ends_is_ended() {
    let mut job = python("import time; print('up', flush=True); time.sleep(61)", None);
    job.timeout = Duration::from_secs(1);
    let error = run(&job).unwrap_err().to_string();
    assert!(error.contains("a timeout") && error.contains("up"), "{error}");
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let mut job = python("", None);
    job.command = vec!["/opt/absent".into()];
    let error = run(&job).unwrap_err().to_string();
    assert!(error.contains("start `/opt/absent`: No such file or directory"), "{error}");
    job.mounts.push((PathBuf::from("/nowhere"), "/opt".into()));
    assert!(run(&job).unwrap_err().to_string().contains("bind `/nowhere`"));
}
