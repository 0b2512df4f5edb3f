//! Its connections: requests and answers as they are, or as a fault makes them.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;
use std::thread;

use sbx::digest::Digest;

use super::answers::{Answer, answer};
use super::{Asked, Fault, State};

/// A request with its body, which may have been cut short.
pub(super) struct Request {
    pub(super) asked: Asked,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Vec<u8>,
}

pub(super) fn converse(stream: TcpStream, state: &Mutex<State>, host: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut out = stream;
    while let Some((line, headers)) = read_head(&mut reader)? {
        let (method, target) = line.split_once(' ').unwrap_or_default();
        let target = target.split(' ').next().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut asked = Asked {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            authorization: headers.get("authorization").cloned(),
            bytes: 0,
        };
        let (number, fault) = {
            let mut state = state.lock().unwrap();
            let number = state.asked.len();
            state.asked.push(asked.clone());
            if state.silent.as_deref() == Some(method) {
                return out.shutdown(Shutdown::Both);
            }
            let is_trapped = |(method, part, _): &mut (&str, &str, Fault)| {
                asked.method == *method && asked.path.contains(*part)
            };
            let trapped = state.trap.take_if(is_trapped).map(|(.., fault)| fault);
            let fault = state.fault.take_if(|(at, _)| *at == number).map(|(_, fault)| fault);
            (number, fault.or(trapped))
        };
        match &fault {
            Some(Fault::Stall) => {
                // until the client has had enough, or the test ends
                io::copy(&mut reader, &mut io::sink())?;
                return Ok(());
            }
            Some(Fault::Late(pause)) => thread::sleep(*pause),
            Some(Fault::Lost) => state.lock().unwrap().sessions.clear(),
            _ => {}
        }
        let half = fault == Some(Fault::Half);
        let has_body = headers.contains_key("transfer-encoding")
            || headers.get("content-length").is_some_and(|length| length != "0");
        let body = read_body(&mut reader, &headers, half && has_body)?;
        asked.bytes = body.len();
        if let Some(asked) = state.lock().unwrap().asked.get_mut(number) {
            asked.bytes = body.len();
        }
        let pause = state.lock().unwrap().pause_before(&asked);
        thread::sleep(pause.unwrap_or_default());
        let request = Request { asked, headers, body };
        if half && has_body {
            // what arrived is kept, as registries do
            answer(&mut state.lock().unwrap(), &request, host);
            return out.shutdown(Shutdown::Both);
        }
        let mut answer = match &fault {
            Some(Fault::Status(status)) => Answer::new(*status),
            Some(Fault::Denied(status)) => {
                answer(&mut state.lock().unwrap(), &request, host);
                Answer::new(*status)
            }
            Some(Fault::Busy) => Answer::new(429).with("Retry-After", "0"),
            Some(Fault::Later) => Answer::new(429).with("Retry-After", "1"),
            Some(Fault::Redirect(to)) => Answer::new(307).with("Location", format!("{to}{path}")),
            _ => answer(&mut state.lock().unwrap(), &request, host),
        };
        if fault == Some(Fault::OtherDigest) {
            answer.replace("Docker-Content-Digest", &Digest::of(b"other").to_string());
            if let Some(byte) = answer.body.first_mut() {
                *byte ^= 1;
            }
        }
        if fault == Some(Fault::OtherType) {
            answer.replace("Content-Type", "text/html");
        }
        let is_head = request.asked.method == "HEAD";
        write!(out, "HTTP/1.1 {} Answer\r\n", answer.status)?;
        for (name, value) in &answer.headers {
            write!(out, "{name}: {value}\r\n")?;
        }
        if !(is_head && answer.headers.iter().any(|(name, _)| name == "Content-Length")) {
            write!(out, "Content-Length: {}\r\n", answer.body.len())?;
        }
        write!(out, "\r\n")?;
        if half {
            out.write_all(&answer.body[..answer.body.len() / 2])?;
            out.flush()?;
            return out.shutdown(Shutdown::Both);
        }
        if let Some(Fault::Drip(pause)) = fault {
            for byte in &answer.body {
                thread::sleep(pause);
                out.write_all(&[*byte])?;
                out.flush()?;
            }
        } else if !is_head {
            out.write_all(&answer.body)?;
        }
        out.flush()?;
    }
    Ok(())
}

type Head = (String, BTreeMap<String, String>);

fn read_head(reader: &mut impl BufRead) -> io::Result<Option<Head>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut headers = BTreeMap::new();
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? <= 2 {
            return Ok(Some((line.trim().to_owned(), headers)));
        }
        if let Some((name, value)) = header.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
}

/// The body; half of it, or its first piece, where it is to be cut.
fn read_body(
    reader: &mut impl BufRead,
    headers: &BTreeMap<String, String>,
    cut: bool,
) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if headers.contains_key("transfer-encoding") {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let size = u64::from_str_radix(line.trim(), 16).unwrap_or(0);
            reader.take(size).read_to_end(&mut body)?;
            let mut end = String::new();
            reader.read_line(&mut end)?;
            if size == 0 || cut {
                return Ok(body);
            }
        }
    }
    let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    reader.take(if cut { length / 2 } else { length }).read_to_end(&mut body)?;
    Ok(body)
}
