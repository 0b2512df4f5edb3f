//! An HTTP server on loopback that serves a directory, counts requests, and misbehaves on demand.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// How to answer a request that is not simply answered.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This status, so many times.
    Status(u16, usize),
    /// Half of the body, then the connection ends, once.
    Half,
    /// These bytes instead.
    Body(Vec<u8>),
}

#[derive(Default)]
struct State {
    counts: BTreeMap<String, usize>,
    ranges: usize,
    faults: BTreeMap<String, Fault>,
}

pub struct Server {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl Server {
    /// Serves until the test's process ends.
    pub fn serve(dir: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State::default()));
        let (shared, dir) = (Arc::clone(&state), dir.to_owned());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (shared, dir) = (Arc::clone(&shared), dir.clone());
                std::thread::spawn(move || drop(answer_all(stream, &dir, &shared)));
            }
        });
        Server { port, state }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    /// Requests whose path contains `part`.
    pub fn count(&self, part: &str) -> usize {
        let state = self.state.lock().unwrap();
        state.counts.iter().filter(|(path, _)| path.contains(part)).map(|(_, count)| count).sum()
    }

    /// Requests for a range.
    pub fn ranges(&self) -> usize {
        self.state.lock().unwrap().ranges
    }

    pub fn forget(&self) {
        *self.state.lock().unwrap() = State::default();
    }

    /// The next requests whose path ends in `part` are answered like this.
    pub fn fail(&self, part: &str, fault: Fault) {
        self.state.lock().unwrap().faults.insert(part.to_owned(), fault);
    }
}

fn answer_all(stream: TcpStream, dir: &Path, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let path = decode(line.split(' ').nth(1).unwrap_or("/").trim_start_matches('/'));
        let mut start = None;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            if header.trim().is_empty() {
                break;
            }
            if let Some(range) = header.to_ascii_lowercase().strip_prefix("range: bytes=") {
                start = range.split('-').next().and_then(|number| number.trim().parse().ok());
            }
        }
        if !answer(&mut stream, dir, &path, start, state)? {
            return Ok(());
        }
    }
}

/// `%41` → `A`.
fn decode(path: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail.get(..2).filter(|_| *first == b'%');
        let byte = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn head(status: u16, length: usize, extra: &str) -> String {
    format!("HTTP/1.1 {status} x\r\nContent-Length: {length}\r\n{extra}\r\n")
}

/// Whether the connection goes on.
fn answer(
    stream: &mut TcpStream,
    dir: &Path,
    path: &str,
    start: Option<usize>,
    state: &Mutex<State>,
) -> std::io::Result<bool> {
    let fault = {
        let mut state = state.lock().unwrap();
        *state.counts.entry(path.to_owned()).or_default() += 1;
        state.ranges += usize::from(start.is_some());
        let part = state.faults.keys().find(|part| path.ends_with(*part)).cloned();
        let fault = part.as_ref().map(|part| state.faults[part].clone());
        if let Some(part) = part {
            match state.faults.get_mut(&part) {
                Some(Fault::Status(_, times)) if *times > 1 => *times -= 1,
                Some(Fault::Body(_)) => {}
                _ => drop(state.faults.remove(&part)),
            }
        }
        fault
    };
    let full: PathBuf = dir.join(path);
    let body = match &fault {
        Some(Fault::Status(status, _)) => {
            stream.write_all(head(*status, 0, "Retry-After: 0\r\n").as_bytes())?;
            return Ok(true);
        }
        Some(Fault::Body(bytes)) => bytes.clone(),
        _ => match std::fs::read(&full) {
            Ok(bytes) => bytes,
            Err(_) => {
                stream.write_all(head(404, 0, "").as_bytes())?;
                return Ok(true);
            }
        },
    };
    if matches!(fault, Some(Fault::Half)) {
        stream.write_all(head(200, body.len(), "").as_bytes())?;
        stream.write_all(&body[..body.len() / 2])?;
        return Ok(false);
    }
    match start.filter(|start| *start < body.len()) {
        Some(start) => {
            let extra =
                format!("Content-Range: bytes {start}-{}/{}\r\n", body.len() - 1, body.len());
            stream.write_all(head(206, body.len() - start, &extra).as_bytes())?;
            stream.write_all(&body[start..])?;
        }
        None => {
            stream.write_all(head(200, body.len(), "").as_bytes())?;
            stream.write_all(&body)?;
        }
    }
    Ok(true)
}
