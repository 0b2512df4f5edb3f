//! What leads out of an instance: what is declared and nothing else, for programs that know of proxies and
//! for those that do not, as root and as an ordinary user, whatever starts it.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::docker::Engine;
use crate::support::launch::{Bench, exists, kill, soon};
use crate::support::project::Outcome;
use crate::support::user::User;

/// A server on this machine that counts who came, and shows what they said.
struct Upstream {
    port: u16,
    count: Arc<AtomicUsize>,
}

impl Upstream {
    fn new() -> Self {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let count = Arc::new(AtomicUsize::new(0));
        let shared = Arc::clone(&count);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                shared.fetch_add(1, Ordering::Relaxed);
                std::thread::spawn(move || {
                    let mut head = [0; 4096];
                    let n = stream.read(&mut head).unwrap_or(0);
                    let head = String::from_utf8_lossy(&head[..n]).replace('\r', "");
                    let body = format!("you said: {head}");
                    let answer =
                        format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                    stream.write_all(answer.as_bytes()).unwrap_or_default();
                });
            }
        });
        Upstream { port, count }
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

/// This machine's address on some network; there is one wherever these tests run.
fn own_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.200:9").expect("this machine has a way out");
    socket.local_addr().unwrap().ip()
}

struct Out<'a> {
    bench: Bench<'a>,
    upstream: Upstream,
}

impl<'a> Out<'a> {
    fn new(user: Option<&'a User>) -> Self {
        Self::by(user, &[])
    }

    /// With these options of every `run`.
    fn by(user: Option<&'a User>, options: &[&str]) -> Self {
        let upstream = Upstream::new();
        let port = upstream.port;
        let declared = format!(
            r#"
sandbox "named" extends="s" {{
    egress "one.test:{port}" "two.test:{port}" "inner.test:{port}" "meta.test:{port}" "own.test:{port}" "mapped.test:{port}" "169.254.169.254:{port}" "127.0.0.1:{port}"
}}
sandbox "starred" extends="s" {{ egress "*.example.test:{port}"; }}
sandbox "open" extends="s" {{ egress "any"; }}
sandbox "serving" extends="s" {{ egress "one.test:80"; port 80; }}
sandbox "shut" extends="s" {{ security-level "high"; egress "one.test:80"; }}
layer "tool" {{ files "ask" into="/srv/www/cgi-bin/ask" }}
sandbox "tools" extends="web" {{
    layers "tool"
    egress "one.test:{port}"
    env-from-host "SBX_TEST_KEY" default="123"
    limits pids=200
    security-level "medium"
    timeout 30
}}
"#
        );
        let bench = Bench::declaring(user, &declared).launcher(options);
        let own = own_address();
        let hosts = format!(
            "127.0.0.1 localhost one.test two.test a.example.test b.example.test example.test\n\
             10.99.99.99 inner.test\n169.254.169.254 meta.test\n{own} own.test\n\
             ::ffff:127.0.0.1 mapped.test\n"
        );
        fs::write(bench.project.dir.path().join("hosts"), hosts).unwrap();
        let ask = format!(
            "#!/bin/sh\n{CLIENTS}printf 'Content-Type: text/plain\\r\\n\\r\\n'\nget $QUERY_STRING {port} 2>&1\n"
        );
        fs::write(bench.project.dir.path().join("ask"), ask).unwrap();
        fs::set_permissions(bench.project.dir.path().join("ask"), PermissionsExt::from_mode(0o755))
            .unwrap();
        Out { bench, upstream }
    }

    /// With names of this test's own.
    fn sbx(&self, arguments: &[&str]) -> Outcome {
        self.bench.sbx_with_mounts("mount --bind hosts /etc/hosts", arguments)
    }

    fn script(&self, options: &[&str], sandbox: &str, script: &str) -> Outcome {
        let script = format!("{CLIENTS}{script}");
        let words = [&["run"], options, &[sandbox, "--", "sh", "-c", &script]].concat();
        self.sbx(&words)
    }

    fn get(&self, options: &[&str], sandbox: &str, host: &str) -> Outcome {
        self.script(options, sandbox, &format!("get {host} {}", self.upstream.port))
    }
}

/// Clients for a shell whose C library, static as it is, looks up no names: `get HOST PORT` asks without a
/// proxy, `by_proxy URL` with one, and both show what came back.
const CLIENTS: &str = r#"
look() { busybox nslookup -type=a "$1" | busybox awk '/^Address: / { a = $2 } END { print a }'; }
get() {
    case $1 in *[a-z]*) at=$(look "$1") ;; *) at=$1 ;; esac
    test -n "$at" || { echo "no such name: $1" >&2; return 1; }
    printf "GET /x HTTP/1.0\r\nHost: $1:$2\r\n\r\n" | busybox nc -w 5 "$at" "$2" | busybox grep .
}
by_proxy() {
    printf "GET $1 HTTP/1.1\r\nHost: other\r\n\r\n" | busybox nc -w 5 198.18.0.1 3128 | busybox grep .
}
"#;

type Test = fn(&Out<'_>);

const EVERYBODY: &[(&str, Test)] = &[
    ("declared", declared),
    ("refused", refused),
    ("stars", stars),
    ("proxy", proxy),
    ("tls", tls),
    ("anything", anything),
    ("ports", ports),
    ("relay", relay),
    ("at once", at_once),
    ("log", log),
    ("gone", gone),
    ("through a service", through_a_service),
    ("input", input),
    ("doctor", doctor),
];

/// Few enough for an engine that takes a second a start.
const SLOW: &[(&str, Test)] = &[
    ("declared", declared),
    ("at once", at_once),
    ("starred", starred),
    ("anything", anything),
    ("ports", ports),
    ("log", log),
    ("gone", gone),
];

fn try_all(out: &Out<'_>, tests: &[(&str, Test)]) {
    for (name, test) in tests {
        println!("{name}");
        test(out);
    }
}

#[test]
fn what_is_declared_leads_out_of_roots_instances() {
    try_all(&Out::new(None), EVERYBODY);
}

#[test]
fn what_is_declared_leads_out_of_an_ordinary_users_instances() {
    let user = User::new();
    try_all(&Out::new(Some(&user)), EVERYBODY);
}

#[test]
fn what_is_declared_leads_out_of_instances_of_runc() {
    try_all(&Out::by(None, &["--launcher", "oci", "--runtime", "runc"]), EVERYBODY);
}

#[test]
fn what_is_declared_leads_out_of_instances_of_crun() {
    try_all(&Out::by(None, &["--launcher", "oci", "--runtime", "crun"]), SLOW);
}

#[test]
fn what_is_declared_leads_out_of_instances_of_docker() {
    let home = tempfile::tempdir().unwrap();
    let engine = Engine::start(home.path());
    let mut out = Out::by(None, &["--launcher", "docker"]);
    out.bench.set("DOCKER_HOST", engine.host());
    try_all(&out, SLOW);
    soon("no container left", || engine.docker(&["ps", "--all", "--quiet"]).is_empty());
}

/// A name that may be private, said twice: in the declaration and on the command line.
fn declared(out: &Out<'_>) {
    let port = out.upstream.port;
    let allow = format!("--allow-private=one.test:{port}");
    let outcome = out.get(&[&allow], "named", "one.test").success();
    assert!(outcome.stdout.contains(&format!("Host: one.test:{port}\n")), "{}", outcome.stdout);
    outcome.says("warning: `named` may reach `one.test:");
    // another name of the same address was not named
    out.get(&[&allow], "named", "two.test").fails(1, &["two.test", "127.0.0.1: loopback"]);
    let env = out.script(&[], "named", "busybox env").success().stdout;
    assert!(!env.contains("PROXY"), "{env}");
}

fn refused(out: &Out<'_>) {
    let before = out.upstream.count();
    for (host, reason) in [
        ("one.test", "127.0.0.1: loopback"),
        ("inner.test", "10.99.99.99: private"),
        ("meta.test", "169.254.169.254: link-local"),
        ("mapped.test", "leads to"),
        ("169.254.169.254", "link-local"),
        ("10.0.0.1", "not declared"),
        ("192.0.2.99", "not declared"),
    ] {
        out.get(&[], "named", host).fails(1, &["egress refused", host, reason]);
    }
    let outcome = out.get(&[], "named", "own.test").fails(1, &["egress refused: own.test"]);
    // it may lie in a network that is private anyway
    let reasons = [": this machine's own", ": private"];
    assert!(reasons.iter().any(|reason| outcome.stderr.contains(reason)), "{}", outcome.stderr);
    // what is not declared is no name
    let outcome = out.get(&[], "named", "other.test").fails(1, &["refused: other.test"]);
    outcome.says("not declared");
    // a link-local address is out of reach whatever is allowed
    let allow = format!("--allow-private=meta.test:{}", out.upstream.port);
    out.get(&[&allow], "named", "meta.test").fails(1, &["169.254.169.254: link-local"]);
    // a port that nobody declared has nobody behind it
    let dead = out.script(&[], "named", "busybox nc -w 2 169.254.169.254 80 </dev/null");
    assert_ne!(dead.code, Some(0));
    assert_eq!(out.upstream.count(), before, "nobody came");
}

fn stars(out: &Out<'_>) {
    let port = out.upstream.port;
    let allow = format!("--allow-private=*.example.test:{port}");
    for host in ["a.example.test", "b.example.test"] {
        out.get(&[&allow], "starred", host).success().says("warning");
    }
    out.get(&[&allow], "starred", "example.test").fails(1, &["example.test", "not declared"]);
    // it is no name outside either
    out.get(&[&allow], "starred", "none.example.test").fails(1, &["no such name"]);
    starred(out);
    let own = out.script(&["-e", "https_proxy=x"], "starred", "busybox env").success().stdout;
    assert!(own.contains("https_proxy=x\n") && !own.contains("HTTPS_PROXY"), "{own}");
}

/// The proxy is named where names are allowed that nobody has written down.
fn starred(out: &Out<'_>) {
    let env = out.script(&[], "starred", "busybox env").success().stdout;
    for name in ["HTTP_PROXY", "https_proxy"] {
        assert!(env.contains(&format!("{name}=http://198.18.0.1:3128\n")), "{env}");
    }
}

/// A program finds the way out there, however early it looks.
fn at_once(out: &Out<'_>) {
    let words = ["run", "named", "--", "busybox", "ip", "route"];
    for _ in 0..3 {
        let route = out.sbx(&words).success().stdout;
        assert!(route.starts_with("default via 198.18.0.1 dev eth0"), "{route}");
    }
    let names = out.sbx(&["run", "named", "--", "busybox", "cat", "/etc/resolv.conf"]).success();
    let servers: Vec<&str> =
        names.stdout.lines().filter(|line| line.starts_with("nameserver")).collect();
    assert_eq!(servers, ["nameserver 198.18.0.1"], "{}", names.stdout);
    assert!(!names.stdout.contains("search"), "no domain of this machine's: {}", names.stdout);
}

/// A caller asks a service of the instance, as agents do, and that asks a declared host: a sandbox with all
/// that such a one has.
fn through_a_service(out: &Out<'_>) {
    let port = out.upstream.port;
    let allow = format!("--allow-private=one.test:{port}");
    let answer = out.sbx(&["run", "-d", "--json", "--name", "tools", &allow, "tools"]).success();
    let answer: serde_json::Value = serde_json::from_str(&answer.stdout).unwrap();
    let before = out.upstream.count();
    let ask = |host: &str| {
        let address =
            ("127.0.0.1", u16::try_from(answer["ports"]["80"].as_u64().unwrap()).unwrap());
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET /cgi-bin/ask?{host} HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    let text = ask("one.test");
    assert!(text.contains(&format!("you said: GET /x HTTP/1.0\nHost: one.test:{port}")), "{text}");
    assert_eq!(out.upstream.count(), before + 1);
    let text = ask("other.test");
    assert!(text.contains("no such name: other.test"), "{text}");
    out.sbx(&["rm", "-f", "tools"]).success();
}

/// Programs that know of proxies.
fn proxy(out: &Out<'_>) {
    let port = out.upstream.port;
    let allow = format!("--allow-private=*.example.test:{port}");
    let get =
        |host: &str| out.script(&[&allow], "starred", &format!("by_proxy http://{host}:{port}/y"));
    let outcome = get("a.example.test").success();
    assert!(
        outcome.stdout.contains("GET /y HTTP/1.1\nHost: a.example.test:"),
        "{}",
        outcome.stdout
    );
    for host in ["localhost.", "127.0.0.1", "example.test"] {
        let outcome = get(host);
        assert!(outcome.stdout.starts_with("HTTP/1.1 403 "), "{host}: {}", outcome.stdout);
        outcome.says("not declared");
    }
    let tunnel = |target: &str| {
        let script = format!(
            "printf 'CONNECT {target} HTTP/1.1\\r\\n\\r\\n'; busybox sleep 0.3; printf 'hello\\n'"
        );
        let script = format!("({script}) | busybox nc -w 3 198.18.0.1 3128");
        out.script(&[&allow], "starred", &script)
    };
    let through = tunnel(&format!("a.example.test:{port}"));
    assert!(through.stdout.contains("HTTP/1.1 200 "), "{}", through.stdout);
    assert!(through.stdout.contains("you said: hello"), "{}", through.stdout);
    for target in ["a.example.test:22", "127.0.0.1:80", "[::1]:80", "evil.test:443"] {
        let outcome = tunnel(target);
        assert!(outcome.stdout.starts_with("HTTP/1.1 403 "), "{target}: {}", outcome.stdout);
        outcome.says("egress refused");
    }
    let outcome = tunnel("not a target");
    assert!(outcome.stdout.starts_with("HTTP/1.1 400 "), "{}", outcome.stdout);
}

/// A client that shows another name than it connected to.
fn tls(out: &Out<'_>) {
    let port = out.upstream.port;
    let dir = out.bench.project.dir.path();
    fs::write(dir.join("hello"), client_hello("two.test")).unwrap();
    let allow = format!("--allow-private=one.test:{port}");
    let allow_two = format!("--allow-private=two.test:{port}");
    let volume = format!("{}:/hello:ro", dir.join("hello").display());
    let options = ["-v", &volume, &allow, &allow_two];
    let before = out.upstream.count();
    let outcome =
        out.script(&options, "named", &format!("busybox nc -w 3 $(look one.test) {port} </hello"));
    let outcome = outcome.says("TLS shows the name `two.test`");
    assert!(!outcome.stdout.contains("you said"), "{}", outcome.stdout);
    let outcome =
        out.script(&options, "named", &format!("busybox nc -w 3 $(look two.test) {port} </hello"));
    assert!(outcome.stdout.contains("you said"), "{}", outcome.stderr);
    assert_eq!(out.upstream.count(), before + 2);
}

fn client_hello(name: &'static str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let mut client =
        rustls::ClientConnection::new(Arc::new(config), name.try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// `egress "any"`: any name, on the usual ports at once and on others through the proxy; still nothing
/// that is private.
fn anything(out: &Out<'_>) {
    let port = out.upstream.port;
    let allow = format!("--allow-private=one.test:{port}");
    out.get(&[&allow], "open", "one.test").success();
    out.get(&[&allow], "open", "none.test").fails(1, &["no such name"]);
    let before = out.upstream.count();
    let outcome = out.script(&[], "open", &format!("by_proxy http://two.test:{port}/"));
    assert!(outcome.stdout.starts_with("HTTP/1.1 403 "), "{}", outcome.stdout);
    outcome.says("two.test").says("127.0.0.1: loopback");
    for address in ["169.254.169.254", "10.99.99.99"] {
        let outcome = out.script(&[], "open", &format!("get {address} 8080"));
        outcome.fails(1, &["egress refused", address]);
    }
    assert_ne!(out.script(&[], "open", "get 127.0.0.1 8080").code, Some(0), "its own loopback");
    assert_eq!(out.upstream.count(), before);
}

/// A port that the instance serves itself is no port of the relay's.
fn ports(out: &Out<'_>) {
    let script = "busybox httpd -p 0.0.0.0:80 -h /srv && get 127.0.0.1 80; get one.test 80";
    let outcome = out.script(&[], "serving", script).fails(1, &["refused: one.test:80"]);
    assert!(outcome.stdout.contains("404 Not Found"), "its own server answers: {}", outcome.stdout);
}

/// Nothing in the instance takes the relay's place, or changes the way to it.
fn relay(out: &Out<'_>) {
    for attempt in [
        "busybox ip address add 198.18.0.1/32 dev eth0",
        "busybox ip link set eth0 down",
        "busybox ip route del default",
        "busybox ip route add 10.0.0.0/8 via 198.18.0.1",
        "busybox nc -l -s 198.18.0.1 -p 4444 -w 1",
    ] {
        let outcome = out.script(&[], "named", attempt);
        assert_ne!(outcome.code, Some(0), "{attempt}");
    }
    // more than may be open at once are served one after the other
    let port = out.upstream.port;
    let script = format!(
        "at=$(look one.test); n=0; while [ $n -lt 300 ]; do busybox nc -w 20 $at {port} </dev/null >/dev/null & n=$((n+1)); done; wait; get one.test {port}"
    );
    let allow = format!("--allow-private=one.test:{port}");
    out.script(&[&allow], "named", &script).success();
}

fn log(out: &Out<'_>) {
    out.sbx(&["run", "-d", "--name", "logged", "named"]).success();
    let get = format!("{CLIENTS}get inner.test {}", out.upstream.port);
    assert_ne!(out.sbx(&["exec", "logged", "sh", "-c", &get]).code, Some(0));
    let line = format!(
        "sbx: egress refused: inner.test:{}: it leads to 10.99.99.99: private\n",
        out.upstream.port
    );
    // the keeper writes down what comes through a pipe
    soon("the line of the log", || out.sbx(&["logs", "logged"]).success().stdout.contains(&line));
    out.sbx(&["rm", "-f", "logged"]).success();
}

/// A kernel without cables is what `doctor` knows of beforehand.
fn doctor(out: &Out<'_>) {
    let told = |output: Output| {
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let obstacles = answer["obstacles"].as_array().unwrap().clone();
        obstacles.into_iter().find(|one| one["what"].as_str().unwrap().contains("`egress`"))
    };
    let mut command = out.bench.command(&["doctor", "--json"]);
    assert_eq!(told(command.output().unwrap()), None);
    let mut without = Command::new(out.bench.project.dir.path().join("probe"));
    without.arg("without-links").arg(env!("CARGO_BIN_EXE_sbx")).args(["doctor", "--json"]);
    let output = without.current_dir(out.bench.project.dir.path()).output().unwrap();
    let trouble = told(output).expect("it is told");
    assert!(trouble["mend"].as_str().unwrap().contains("modprobe veth"), "{trouble}");
}

/// When the keeper is killed, so is the relay, and the networks with it.
fn gone(out: &Out<'_>) {
    out.sbx(&["run", "-d", "--name", "gone", "named"]).success();
    let (keeper, first) = (out.bench.number("gone", "keeper"), out.bench.number("gone", "first"));
    // what others start is the instance's, and ends when somebody looks
    let relays: Vec<u32> = children(keeper).into_iter().filter(|child| *child != first).collect();
    assert!(!relays.is_empty());
    kill(keeper, "KILL");
    soon("the end of its relay", || !relays.iter().any(|relay| exists(*relay)));
    out.sbx(&["rm", "-f", "gone"]).success();
    soon("the end of the instance", || !exists(first));
}

fn children(pid: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    list.split_whitespace().map(|number| number.parse().unwrap()).collect()
}

fn input(out: &Out<'_>) {
    out.sbx(&["run", "shut"]).fails(1, &["egress", "security-level", "medium"]);
    let undeclared = ["run", "--allow-private", "evil.test:1", "named"];
    out.sbx(&undeclared).fails(1, &["`evil.test:1` is not among the `egress`"]);
    out.sbx(&["run", "--allow-private", "evil.test", "named"]).fails(2, &["no host with a port"]);
}
