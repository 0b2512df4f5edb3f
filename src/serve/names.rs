//! A name server that knows no name and remembers who was asked for (RFC 1035).

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::sync::Mutex;
use std::thread::Scope;

use super::server::{Serving, stopper, wait};

/// Names that are remembered, at most.
const MOST: usize = 1000;

/// Header of a message.
const HEADER: usize = 12;

/// Answers every question with "no such name", on a thread of `scope`.
pub fn answer_names<'scope>(
    scope: &'scope Scope<'scope, '_>,
    socket: UdpSocket,
    asked: &'scope Mutex<BTreeSet<String>>,
) -> std::io::Result<Serving> {
    socket.set_nonblocking(true)?;
    let (ended, stop) = stopper()?;
    scope.spawn(move || {
        let mut query = [0; 1500];
        while wait(&socket, &ended) {
            let Ok((length, from)) = socket.recv_from(&mut query) else { continue };
            let Some((name, answer)) = refuse(&query[..length]) else { continue };
            let mut asked = asked.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if asked.len() < MOST {
                asked.insert(name);
            }
            // who does not wait for the answer needs none
            socket.send_to(&answer, from).unwrap_or_default();
        }
    });
    Ok(Serving::until(stop))
}

/// The name that a query asks for, and the answer that there is no such name; `None` for what is no
/// query.
fn refuse(query: &[u8]) -> Option<(String, Vec<u8>)> {
    let flags = *query.get(2)?;
    let questions = u16::from_be_bytes([*query.get(4)?, *query.get(5)?]);
    if flags & 0x80 != 0 || questions != 1 {
        return None;
    }
    let mut at = HEADER;
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        // a question has nothing before it that it could point to
        let label = query.get(at..at + length).filter(|_| length < 64)?;
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        at += length;
    }
    let end = at + 4;
    let mut answer = query.get(..end)?.to_vec();
    // a response, recursion as desired and available; code 3: no such name
    answer[2] = 0x80 | (flags & 0x79);
    answer[3] = 0x83;
    answer[6..HEADER].fill(0);
    let shown = |c: char| !c.is_control() && !c.is_whitespace();
    Some((labels.join(".").chars().filter(|c| shown(*c)).collect(), answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_answered_with_no_such_name() {
        let mut query = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
        query.extend(b"\x08Registry\x07example\0\0\x01\0\x01");
        let question = query.len();
        query.extend([0; 11]);
        let (name, answer) = refuse(&query).unwrap();
        assert_eq!(name, "registry.example");
        assert_eq!(answer.len(), question, "without the additional record");
        assert_eq!(answer[..12], [7, 7, 0x81, 0x83, 0, 1, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn what_is_no_question_gets_no_answer() {
        assert_eq!(refuse(b""), None);
        assert_eq!(refuse(&[0; 12]), None);
        let mut cut = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        cut.extend(b"\x08Reg");
        assert_eq!(refuse(&cut), None);
        let mut pointing = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        pointing.extend(b"\xc0\x0c\0\x01\0\x01");
        assert_eq!(refuse(&pointing), None);
    }
}
