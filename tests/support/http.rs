//! An HTTP/1.1 server on loopback that counts its requests and misbehaves by script.
//!
//! It serves bytes put into it, or a directory, with `ETag`, ranges and kept connections; it stands
//! in for a proxy as well (absolute targets, `CONNECT`). A path's faults are used up one a request,
//! then it behaves; standing faults stay. Written on threads and the standard library alone, so that
//! what the client under test gets is what was written here and nothing smarter.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use sbx::digest::Digest;
use url::Url;

/// A way to misbehave.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This status and no content.
    Status(u16),
    /// This status and a `Retry-After`.
    Busy(u16, &'static str),
    /// All that was asked for is promised, so many bytes are sent, then the connection ends.
    Cut(usize),
    /// Likewise, then nothing more happens.
    Stall(usize),
    /// So many bytes at a time, each time after this pause.
    Drip(usize, Duration),
    /// The connection ends without an answer.
    Drop,
    /// The whole, whatever range was asked for.
    IgnoreRange,
    /// A range that begins at the beginning, whatever range was asked for.
    WrongRange,
    /// Other bytes, in good order; ranges are honoured.
    Bytes(Vec<u8>),
    /// Other bytes without a promised length: the end of the connection is theirs.
    Unannounced(Vec<u8>),
    /// 401, and what would be liked instead.
    Challenge(String),
    /// To another address.
    Redirect(String),
    /// This status with these headers.
    Answer(u16, Vec<(&'static str, String)>),
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// As sent: absolute where a proxy is asked, `host:port` for `CONNECT`.
    pub target: String,
    /// By lower-case name.
    pub headers: BTreeMap<String, String>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The target's path, without a query.
    pub fn path(&self) -> String {
        match Url::parse(&self.target) {
            Ok(url) if url.has_host() => url.path().to_owned(),
            _ => self.target.split('?').next().unwrap_or_default().to_owned(),
        }
    }
}

/// A running server; ends when dropped.
pub struct Server {
    address: SocketAddr,
    state: Arc<State>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    root: Option<PathBuf>,
    tls: Option<Arc<ServerConfig>>,
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    scripts: Mutex<BTreeMap<String, VecDeque<Fault>>>,
    standing: Mutex<BTreeMap<String, Fault>>,
    requests: Mutex<Vec<Request>>,
    streams: Mutex<Vec<TcpStream>>,
    delay: Mutex<Duration>,
    tunnel: Mutex<Option<SocketAddr>>,
    closed: AtomicBool,
    running: AtomicUsize,
    peak: AtomicUsize,
}

impl Server {
    /// Serves what will be [`put`](Self::put).
    pub fn start() -> Self {
        Self::run(State::default())
    }

    /// Serves a directory as it is at each request.
    pub fn serve_dir(root: &Path) -> Self {
        Self::run(State { root: Some(root.to_owned()), ..State::default() })
    }

    /// Serves over TLS, with a certificate of `authority` for `localhost`, `127.0.0.1` and `secure.example.org`.
    pub fn start_tls(authority: &Authority) -> Self {
        Self::run(State { tls: Some(Arc::clone(&authority.config)), ..State::default() })
    }

    fn run(state: State) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(state);
        let shared = Arc::clone(&state);
        let accepting = thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.closed.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                shared.streams.lock().unwrap().extend(stream.try_clone());
                let state = Arc::clone(&shared);
                // a connection that fails is the client's concern
                thread::spawn(move || state.serve(stream).unwrap_or_default());
            }
        });
        Server { address, state, accepting: Some(accepting) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// An address on this server; `path` begins with `/`.
    pub fn url(&self, path: &str) -> Url {
        self.url_at("127.0.0.1", path)
    }

    /// Likewise, by another name of this machine.
    pub fn url_at(&self, host: &str, path: &str) -> Url {
        let scheme = if self.state.tls.is_some() { "https" } else { "http" };
        Url::parse(&format!("{scheme}://{host}:{}{path}", self.address.port())).unwrap()
    }

    pub fn put(&self, path: &str, bytes: impl Into<Vec<u8>>) {
        self.state.files.lock().unwrap().insert(path.to_owned(), bytes.into());
    }

    /// What was put at a path.
    pub fn body(&self, path: &str) -> Vec<u8> {
        self.state.files.lock().unwrap()[path].clone()
    }

    /// The next requests for `path` meet these faults, one each.
    pub fn script(&self, path: &str, faults: impl IntoIterator<Item = Fault>) {
        let mut scripts = self.state.scripts.lock().unwrap();
        scripts.entry(path.to_owned()).or_default().extend(faults);
    }

    /// Every request for `path` meets this fault.
    pub fn always(&self, path: &str, fault: Fault) {
        self.state.standing.lock().unwrap().insert(path.to_owned(), fault);
    }

    /// Every answer comes so late.
    pub fn delay(&self, delay: Duration) {
        *self.state.delay.lock().unwrap() = delay;
    }

    /// Where `CONNECT` leads to, whatever host it names.
    pub fn tunnel_to(&self, address: SocketAddr) {
        *self.state.tunnel.lock().unwrap() = Some(address);
    }

    pub fn requests(&self) -> Vec<Request> {
        self.state.requests.lock().unwrap().clone()
    }

    /// Number of requests for one path.
    pub fn hits(&self, path: &str) -> usize {
        self.requests().iter().filter(|request| request.path() == path).count()
    }

    /// Number of requests for anything.
    pub fn total_hits(&self) -> usize {
        self.state.requests.lock().unwrap().len()
    }

    pub fn forget_requests(&self) {
        self.state.requests.lock().unwrap().clear();
    }

    /// Number of connections that were ever made.
    pub fn connections(&self) -> usize {
        self.state.streams.lock().unwrap().len()
    }

    /// Largest number of requests that were waiting for their answers at a time.
    pub fn peak(&self) -> usize {
        self.state.peak.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.closed.store(true, Ordering::SeqCst);
        for stream in self.state.streams.lock().unwrap().iter() {
            stream.shutdown(Shutdown::Both).unwrap_or_default();
        }
        // wakes the acceptor, which then sees that it is over
        drop(TcpStream::connect(self.address));
        if let Some(accepting) = self.accepting.take() {
            accepting.join().unwrap_or_default();
        }
    }
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// What a request leaves its connection in.
#[derive(PartialEq)]
enum After {
    Keep,
    Close,
}

impl State {
    fn serve(&self, tcp: TcpStream) -> io::Result<()> {
        tcp.set_nodelay(true)?;
        let socket = tcp.try_clone()?;
        let mut stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(tcp),
            Some(config) => {
                let session =
                    ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
                Box::new(StreamOwned::new(session, tcp))
            }
        };
        let mut buffer = Vec::new();
        while let Some(request) = read_request(&mut stream, &mut buffer)? {
            self.requests.lock().unwrap().push(request.clone());
            if request.method == "CONNECT" {
                return self.tunnel(&socket);
            }
            let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
            self.peak.fetch_max(running, Ordering::SeqCst);
            thread::sleep(*self.delay.lock().unwrap());
            // once the client has an answer it may ask for more before this thread goes on
            self.running.fetch_sub(1, Ordering::SeqCst);
            if self.answer(&mut stream, &request)? == After::Close {
                break;
            }
        }
        socket.shutdown(Shutdown::Both)
    }

    fn answer(&self, stream: &mut dyn Stream, request: &Request) -> io::Result<After> {
        let path = request.path();
        let scripted = self.scripts.lock().unwrap().get_mut(&path).and_then(VecDeque::pop_front);
        let fault = scripted.or_else(|| self.standing.lock().unwrap().get(&path).cloned());
        let found = self.find(&path);
        let whole = found.as_deref().unwrap_or_default();
        match fault {
            Some(Fault::Status(status)) => Reply::empty(status).send(stream),
            Some(Fault::Busy(status, wait)) => {
                Reply::empty(status).with("Retry-After", wait).send(stream)
            }
            Some(Fault::Challenge(text)) => {
                Reply::empty(401).with("WWW-Authenticate", &text).send(stream)
            }
            Some(Fault::Redirect(to)) => Reply::empty(302).with("Location", &to).send(stream),
            Some(Fault::Answer(status, headers)) => {
                Reply { headers, ..Reply::empty(status) }.send(stream)
            }
            Some(Fault::Drop) => Ok(After::Close),
            Some(Fault::Cut(count)) => {
                let reply = Reply::of(whole, request);
                reply.head(stream)?;
                stream.write_all(&reply.body[..count.min(reply.body.len())])?;
                stream.flush()?;
                Ok(After::Close)
            }
            Some(Fault::Stall(count)) => {
                Reply::of(whole, request).head(stream)?;
                stream.write_all(&whole[..count])?;
                stream.flush()?;
                // until the client has had enough, or the server ends
                stream.read_exact(&mut [0]).unwrap_or_default();
                Ok(After::Close)
            }
            Some(Fault::Drip(count, pause)) => {
                Reply::of(whole, request).head(stream)?;
                for piece in whole.chunks(count) {
                    thread::sleep(pause);
                    stream.write_all(piece)?;
                    stream.flush()?;
                }
                Ok(After::Close)
            }
            Some(Fault::IgnoreRange) => Reply::whole(whole).send(stream),
            Some(Fault::WrongRange) => {
                let range = format!("bytes 0-{}/{}", whole.len() - 1, whole.len());
                let reply = Reply { status: 206, ..Reply::whole(whole) };
                reply.with("Content-Range", &range).send(stream)
            }
            Some(Fault::Bytes(bytes)) => Reply::of(&bytes, request).send(stream),
            Some(Fault::Unannounced(bytes)) => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
                stream.write_all(&bytes)?;
                stream.flush()?;
                Ok(After::Close)
            }
            None if found.is_none() => Reply::empty(404).send(stream),
            None => Reply::of(whole, request).send(stream),
        }
    }

    fn find(&self, path: &str) -> Option<Vec<u8>> {
        if let Some(bytes) = self.files.lock().unwrap().get(path) {
            return Some(bytes.clone());
        }
        let below: PathBuf = decode(path).trim_start_matches('/').into();
        if below.components().any(|part| !matches!(part, Component::Normal(_))) {
            return None;
        }
        std::fs::read(self.root.as_ref()?.join(below)).ok()
    }

    fn tunnel(&self, client: &TcpStream) -> io::Result<()> {
        let Some(address) = *self.tunnel.lock().unwrap() else {
            let mut client = client;
            return client.write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n");
        };
        let server = TcpStream::connect(address)?;
        self.streams.lock().unwrap().extend(server.try_clone());
        (&mut &*client).write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
        let forth = thread::spawn(move || {
            let end = io::copy(&mut from, &mut to);
            to.shutdown(Shutdown::Write).and(end)
        });
        io::copy(&mut &server, &mut &*client)?;
        client.shutdown(Shutdown::Both)?;
        forth.join().unwrap().map(drop)
    }
}

/// `%41` → `A`.
fn decode(path: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let code = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| *first == b'%');
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn read_request(stream: &mut dyn Stream, buffer: &mut Vec<u8>) -> io::Result<Option<Request>> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if !fill(stream, buffer)? {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.drain(..end);
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    while buffer.len() < length && fill(stream, buffer)? {}
    buffer.drain(..length.min(buffer.len()));
    let (method, target) = (method.to_owned(), target.to_owned());
    Ok(Some(Request { method, target, headers }))
}

fn fill(stream: &mut dyn Stream, buffer: &mut Vec<u8>) -> io::Result<bool> {
    let mut piece = [0; 4096];
    let count = stream.read(&mut piece)?;
    buffer.extend_from_slice(&piece[..count]);
    Ok(count > 0)
}

/// An answer in good order.
struct Reply<'a> {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: &'a [u8],
    send_body: bool,
}

impl<'a> Reply<'a> {
    fn empty(status: u16) -> Self {
        Reply { status, headers: Vec::new(), body: &[], send_body: true }
    }

    fn whole(body: &'a [u8]) -> Self {
        Reply { body, ..Reply::empty(200) }
    }

    /// What was asked for: the whole, a range of it, or that it did not change.
    fn of(whole: &'a [u8], request: &Request) -> Self {
        let etag = format!("\"{}\"", Digest::of(whole).short());
        let send_body = request.method != "HEAD";
        let reply = Reply { send_body, ..Reply::whole(whole) };
        let reply = reply.with("ETag", &etag).with("Accept-Ranges", "bytes");
        if request.header("if-none-match") == Some(&etag) {
            return Reply { status: 304, body: &[], ..reply };
        }
        let fresh = request.header("if-range").is_none_or(|known| known == etag);
        let Some(range) = request.header("range").filter(|_| fresh) else { return reply };
        let (first, last) = range.trim_start_matches("bytes=").split_once('-').unwrap_or_default();
        let first = first.parse().unwrap_or(0);
        let end = last.parse().map_or(whole.len(), |last: usize| last + 1).min(whole.len());
        if first >= end {
            let range = format!("bytes */{}", whole.len());
            return Reply { status: 416, body: &[], ..reply }.with("Content-Range", &range);
        }
        let range = format!("bytes {first}-{}/{}", end - 1, whole.len());
        Reply { status: 206, body: &whole[first..end], ..reply }.with("Content-Range", &range)
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    fn head(&self, stream: &mut dyn Stream) -> io::Result<()> {
        let mut head = format!("HTTP/1.1 {} Scripted\r\n", self.status);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("Content-Length: {}\r\n\r\n", self.body.len());
        stream.write_all(head.as_bytes())
    }

    fn send(self, stream: &mut dyn Stream) -> io::Result<After> {
        self.head(stream)?;
        if self.send_body {
            stream.write_all(self.body)?;
        }
        stream.flush()?;
        Ok(After::Keep)
    }
}

/// A certificate authority of a test's own.
pub struct Authority {
    /// Its certificate.
    pub pem: String,
    config: Arc<ServerConfig>,
}

impl Authority {
    pub fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "a test's authority");
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = rcgen::Issuer::new(params, key);

        let key = rcgen::KeyPair::generate().unwrap();
        let names = ["localhost", "127.0.0.1", "secure.example.org"].map(str::to_owned).to_vec();
        let params = rcgen::CertificateParams::new(names).unwrap();
        let leaf = params.signed_by(&key, &issuer).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key.into())
            .unwrap();
        Authority { pem, config: Arc::new(config) }
    }
}
