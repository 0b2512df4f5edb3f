//! A name server that knows no name and remembers who was asked for (RFC 1035).

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::sync::Mutex;
use std::thread::Scope;

use super::question::{Answer, Question};
use super::server::{Serving, stopper, wait};

/// Names that are remembered, at most.
const MOST: usize = 1000;

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
    let question = Question::parse(query)?;
    let shown = |c: &char| !c.is_control() && !c.is_whitespace();
    let answer = question.answer(Answer::NoSuchName);
    Some((question.name.chars().filter(shown).collect(), answer))
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
}
