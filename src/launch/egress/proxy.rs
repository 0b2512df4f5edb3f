//! What a client asks of a proxy: a tunnel (CONNECT), or one request to be passed on (RFC 9110, 9112).

use url::Url;

/// Fields of a request that concern the proxy alone, and the host, which is stated anew.
const NOT_PASSED: &[&str] =
    &["connection", "host", "keep-alive", "proxy-authorization", "proxy-connection"];
/// How many fields a head may have.
const FIELDS: usize = 100;

/// A request and where it is for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub host: String,
    pub port: u16,
    /// What is to be sent there in the client's stead; `None` for a tunnel.
    pub head: Option<Vec<u8>>,
    /// How many bytes of what was read this was.
    pub length: usize,
}

/// What is known of a request so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    More,
    Asked(Asked),
    /// None that a proxy is asked.
    Wrong,
}

pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Parsed::More,
        Err(_) => return Parsed::Wrong,
    };
    let (Some(method), Some(target)) = (request.method, request.path) else { return Parsed::Wrong };
    let asked = match method {
        "CONNECT" => tunnel(target, length),
        _ => pass_on(method, target, request.headers, length),
    };
    asked.map_or(Parsed::Wrong, Parsed::Asked)
}

fn tunnel(target: &str, length: usize) -> Option<Asked> {
    let (host, port) = target.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Some(Asked { host, port: port.parse().ok()?, head: None, length })
}

/// One request a connection: the next may be for another host.
fn pass_on(
    method: &str,
    target: &str,
    fields: &[httparse::Header<'_>],
    length: usize,
) -> Option<Asked> {
    let url = Url::parse(target).ok().filter(|url| url.scheme() == "http")?;
    let host = url.host_str()?;
    let port = url.port_or_known_default()?;
    let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let shown = &url[url::Position::BeforeHost..url::Position::AfterPort];
    let mut head =
        format!("{method} {path} HTTP/1.1\r\nHost: {shown}\r\nConnection: close\r\n").into_bytes();
    let passed = |field: &&httparse::Header<'_>| {
        !NOT_PASSED.iter().any(|name| field.name.eq_ignore_ascii_case(name))
    };
    for field in fields.iter().filter(passed) {
        head.extend([field.name.as_bytes(), b": ", field.value, b"\r\n"].concat());
    }
    head.extend(b"\r\n");
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Some(Asked { host, port, head: Some(head), length })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> Asked {
        match parse(text.as_bytes()) {
            Parsed::Asked(asked) => asked,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_tunnel_has_a_host_and_a_port() {
        let text = "CONNECT one.test:443 HTTP/1.1\r\nHost: two.test\r\n\r\nmore";
        let found = asked(text);
        assert_eq!((&*found.host, found.port, found.head), ("one.test", 443, None));
        assert_eq!(&text[found.length..], "more");
        assert_eq!(asked("CONNECT [::1]:1 HTTP/1.1\r\n\r\n").host, "::1");
        assert_eq!(parse(b"CONNECT one.test HTTP/1.1\r\n\r\n"), Parsed::Wrong);
    }

    #[test]
    fn a_request_is_passed_on_for_the_host_of_its_target() {
        let text = "GET http://one.test:81/a?b=c HTTP/1.1\r\nHost: two.test\r\nAccept: x\r\n\
                    Proxy-Authorization: secret\r\nConnection: keep-alive\r\n\r\n";
        let found = asked(text);
        assert_eq!((&*found.host, found.port), ("one.test", 81));
        assert_eq!(
            String::from_utf8(found.head.unwrap()).unwrap(),
            "GET /a?b=c HTTP/1.1\r\nHost: one.test:81\r\nConnection: close\r\nAccept: x\r\n\r\n"
        );
        assert_eq!(asked("GET http://one.test HTTP/1.1\r\n\r\n").port, 80);
    }

    #[test]
    fn what_is_not_asked_of_a_proxy_is_wrong() {
        assert_eq!(parse(b"GET http://one.test/ HT"), Parsed::More);
        for wrong in
            ["GET / HTTP/1.1\r\n\r\n", "GET ftp://one.test/ HTTP/1.1\r\n\r\n", "\0\0\r\n\r\n"]
        {
            assert_eq!(parse(wrong.as_bytes()), Parsed::Wrong, "{wrong}");
        }
    }
}
