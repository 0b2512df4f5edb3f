//! As much of HTTP/1.1 as clients of registries speak: GET and HEAD without bodies.

use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::path::PathBuf;

/// Longest request, line and headers together.
const LONGEST: u64 = 32 << 10;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `HEAD`, or what will be refused.
    pub method: String,
    /// Components of the path, decoded; a last empty one stands for a slash at the end.
    pub path: Vec<String>,
    pub accept: Option<String>,
    pub authorization: Option<String>,
    /// Whether the connection ends with the answer.
    pub(super) last: bool,
}

/// An answer's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    Bytes(Vec<u8>),
    File(PathBuf),
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub media_type: String,
    pub body: Body,
    /// Further headers.
    pub headers: Vec<(&'static str, String)>,
}

impl Response {
    pub fn ok(media_type: impl Into<String>, body: Body) -> Self {
        Response { status: 200, media_type: media_type.into(), body, headers: Vec::new() }
    }

    /// A refusal, with its reason for whoever reads the program's own log.
    pub fn refusal(status: u16, reason: &str) -> Self {
        let body = Body::Bytes(format!("{reason}\n").into_bytes());
        let media_type = "text/plain; charset=utf-8".to_owned();
        Response { status, media_type, body, headers: Vec::new() }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

impl Request {
    /// As people say it.
    pub fn label(&self) -> String {
        format!("{} /{}", self.method, self.path.join("/"))
    }
}

/// Why a connection cannot go on.
#[derive(Debug)]
pub(super) enum Unreadable {
    /// It ended, or broke.
    Gone,
    /// What came is no request that can be answered.
    Wrong(&'static str),
}

impl From<io::Error> for Unreadable {
    fn from(_: io::Error) -> Self {
        Unreadable::Gone
    }
}

/// Reads the next request of a connection.
pub(super) fn read_request(stream: &mut impl BufRead) -> Result<Request, Unreadable> {
    let mut head = stream.take(LONGEST);
    let mut next = || -> Result<String, Unreadable> {
        let mut line = Vec::new();
        if head.read_until(b'\n', &mut line)? == 0 {
            return Err(Unreadable::Gone);
        }
        match line.pop() {
            Some(b'\n') => Ok(String::from_utf8_lossy(&line).trim_end().to_owned()),
            _ => Err(Unreadable::Wrong("the request is too long")),
        }
    };
    let first = next()?;
    let words: Vec<&str> = first.split(' ').collect();
    let &[method, target, version] = words.as_slice() else {
        return Err(Unreadable::Wrong("the request line is damaged"));
    };
    let target = target.strip_prefix('/').ok_or(Unreadable::Wrong("the target is no path"))?;
    let path = target.split(['?', '#']).next().unwrap_or_default();
    let path: Option<Vec<String>> = path.split('/').map(decode).collect();
    let mut request = Request {
        method: method.to_owned(),
        path: path.ok_or(Unreadable::Wrong("the path is no text"))?,
        accept: None,
        authorization: None,
        last: version != "HTTP/1.1",
    };
    loop {
        let header = next()?;
        if header.is_empty() {
            return Ok(request);
        }
        let Some((name, value)) = header.split_once(':') else { continue };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "accept" => request.accept = Some(value.to_owned()),
            "authorization" => request.authorization = Some(value.to_owned()),
            "connection" if value.eq_ignore_ascii_case("close") => request.last = true,
            // a body is never read: what follows it cannot be told from it
            "content-length" if value != "0" => request.last = true,
            "transfer-encoding" => request.last = true,
            _ => {}
        }
    }
}

/// `%41` → `A`; `None` for what is no text, or hides a control character.
pub(super) fn decode(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first != b'%' {
            bytes.push(*first);
            rest = tail;
            continue;
        }
        let hex = std::str::from_utf8(tail.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(hex, 16).ok()?);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control))
}

/// Writes an answer, and answers whether all of it went out.
pub(super) fn write_response(
    stream: &mut impl Write,
    request: Option<&Request>,
    response: &Response,
) -> io::Result<()> {
    let (mut body, length): (Box<dyn Read>, u64) = match &response.body {
        Body::Bytes(bytes) => (Box::new(bytes.as_slice()), bytes.len() as u64),
        Body::File(path) => {
            let file = File::open(path)?;
            let length = file.metadata()?.len();
            (Box::new(file.take(length)), length)
        }
    };
    let reason = match response.status {
        200 => "OK",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        _ => "Answer",
    };
    let connection =
        if request.is_none_or(|request| request.last) { "close" } else { "keep-alive" };
    write!(
        stream,
        "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {length}\r\nConnection: {connection}\r\n",
        response.status, response.media_type,
    )?;
    for (name, value) in &response.headers {
        write!(stream, "{name}: {value}\r\n")?;
    }
    write!(stream, "\r\n")?;
    if request.is_none_or(|request| request.method != "HEAD") {
        io::copy(&mut body, stream)?;
    }
    stream.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Request, Unreadable> {
        read_request(&mut text.as_bytes())
    }

    #[test]
    fn a_request_is_its_method_its_path_and_what_it_accepts() {
        let request =
            read("GET /@a%2fb/-/c/?x=1 HTTP/1.1\r\nACCEPT: a/b\r\nHost: h\r\n\r\n").unwrap();
        assert_eq!(request.path, ["@a/b", "-", "c", ""]);
        assert_eq!(request.accept.as_deref(), Some("a/b"));
        assert!(!request.last);
        assert!(read("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc").unwrap().last);
        assert!(read("GET / HTTP/1.0\r\n\r\n").unwrap().last);
    }

    #[test]
    fn what_is_no_request_is_told_from_an_end() {
        assert!(matches!(read(""), Err(Unreadable::Gone)));
        for wrong in ["GET\r\n\r\n", "GET http://h/ HTTP/1.1\r\n\r\n", "GET /%zz HTTP/1.1\r\n\r\n"]
        {
            assert!(matches!(read(wrong), Err(Unreadable::Wrong(_))), "{wrong}");
        }
        assert!(matches!(read("GET /%00 HTTP/1.1\r\n\r\n"), Err(Unreadable::Wrong(_))));
        let long = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(1 << 20));
        assert!(matches!(read(&long), Err(Unreadable::Wrong(_))));
    }
}
