//! The name that a TLS client shows when it begins, which is to be the one that it connected to.

use rustls::server::Acceptor;

/// The first byte of a client that speaks TLS: a handshake's record.
const HANDSHAKE: u8 = 22;
/// A hello that does not end is none.
const LONGEST: usize = 64 << 10;

/// Bytes of a client that have not been let through yet.
pub(super) struct Hello {
    acceptor: Acceptor,
    held: Vec<u8>,
}

/// What is to be done with what was heard.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The hello is not complete.
    More,
    /// It may pass; these bytes did not yet.
    Pass(Vec<u8>),
    /// It shows another name, or is none.
    Refuse(String),
}

impl Hello {
    pub(super) fn new() -> Self {
        Hello { acceptor: Acceptor::default(), held: Vec::new() }
    }

    /// Takes the next bytes of a client that connected to `name`.
    pub(super) fn hear(&mut self, bytes: &[u8], name: &str) -> Heard {
        self.held.extend(bytes);
        if self.held.first().is_some_and(|first| *first != HANDSHAKE) {
            return Heard::Pass(std::mem::take(&mut self.held));
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.acceptor.read_tls(&mut rest).is_err() {
                return Heard::Refuse("its TLS hello is not sound".to_owned());
            }
            match self.acceptor.accept() {
                Ok(None) if self.held.len() > LONGEST => break,
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    return self.decide(accepted.client_hello().server_name(), name);
                }
                Err(_) => break,
            }
        }
        match rest.is_empty() && self.held.len() <= LONGEST {
            true => Heard::More,
            false => Heard::Refuse("its TLS hello is not sound".to_owned()),
        }
    }

    /// A client that shows no name gets what the server has for everybody.
    fn decide(&mut self, shown: Option<&str>, name: &str) -> Heard {
        match shown {
            Some(shown) if !shown.trim_end_matches('.').eq_ignore_ascii_case(name) => {
                Heard::Refuse(format!("TLS shows the name `{shown}`"))
            }
            _ => Heard::Pass(std::mem::take(&mut self.held)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    fn hello(name: &'static str) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let mut client = ClientConnection::new(Arc::new(config), name.try_into().unwrap()).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_client_shows_the_name_that_it_connected_to() {
        let bytes = hello("one.test");
        assert_eq!(Hello::new().hear(&bytes, "one.test"), Heard::Pass(bytes.clone()));
        assert!(matches!(Hello::new().hear(&bytes, "two.test"), Heard::Refuse(_)));
        let mut slow = Hello::new();
        let (last, first) = bytes.split_last().unwrap();
        for byte in first {
            assert_eq!(slow.hear(&[*byte], "one.test"), Heard::More);
        }
        assert_eq!(slow.hear(&[*last], "one.test"), Heard::Pass(bytes));
    }

    #[test]
    fn what_is_no_hello_is_let_through_only_when_it_does_not_pretend() {
        let plain = b"GET / HTTP/1.1\r\n";
        assert_eq!(Hello::new().hear(plain, "one.test"), Heard::Pass(plain.to_vec()));
        let junk = [&[22, 3, 1, 0, 5][..], &[9; 64]].concat();
        assert!(matches!(Hello::new().hear(&junk, "one.test"), Heard::Refuse(_)));
    }
}
