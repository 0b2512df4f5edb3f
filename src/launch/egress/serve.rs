//! The relay at work: accepts, asks the policy, carries.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{LocalSet, spawn_local};

use super::PROXY_PORT;
use super::book::Book;
use super::flow::carry;
use super::journal::Journal;
use super::policy::{Knowledge, Policy, is_name};
use super::proxy::{Asked, Parsed, parse};
use super::reach::{Refusal, look_up, reach};
use crate::jail::instance::{GateSockets, NEAR};
use crate::serve::{Answer, Question};

/// Connections at a time: further ones wait to be accepted.
const CONNECTIONS: usize = 256;
/// Questions that are looked into at a time; further ones are dropped, as questions may be.
const QUESTIONS: usize = 32;
/// Threads that look names up.
const LOOKERS: usize = 8;
/// How long a client may take to say what it wants of the proxy, and how much it may say.
const ASKING: Duration = Duration::from_secs(30);
const LONGEST_HEAD: usize = 16 << 10;

struct Relay {
    policy: Policy,
    book: RefCell<Book>,
    journal: Journal,
    connections: Arc<Semaphore>,
    questions: Arc<Semaphore>,
}

/// Serves sockets of a gate's by a policy, until the process is killed.
pub fn serve(policy: Policy, sockets: GateSockets, journal: Journal) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(LOOKERS)
        .build()?;
    let relay = Rc::new(Relay {
        policy,
        book: RefCell::default(),
        journal,
        connections: Arc::new(Semaphore::new(CONNECTIONS)),
        questions: Arc::new(Semaphore::new(QUESTIONS)),
    });
    LocalSet::new().block_on(&runtime, async {
        sockets.names.set_nonblocking(true)?;
        let names = UdpSocket::from_std(sockets.names)?;
        for listener in sockets.listeners {
            listener.set_nonblocking(true)?;
            spawn_local(accept(Rc::clone(&relay), TcpListener::from_std(listener)?));
        }
        answer_all(relay, Rc::new(names)).await;
        Ok(())
    })
}

async fn accept(relay: Rc<Relay>, listener: TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // out of descriptors, or the caller is gone again: others may come
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        // the next waits in the kernel's queue meanwhile
        if let Ok(permit) = Arc::clone(&relay.connections).acquire_owned().await {
            drop(spawn_local(receive(Rc::clone(&relay), stream, permit)));
        }
    }
}

async fn receive(relay: Rc<Relay>, stream: TcpStream, _permit: OwnedSemaphorePermit) {
    match stream.local_addr() {
        Ok(SocketAddr::V4(to)) if *to.ip() == NEAR && to.port() == PROXY_PORT => {
            relay.mediate(stream).await;
        }
        Ok(to) => relay.pass(stream, to).await,
        Err(_) => {}
    }
}

impl Relay {
    /// A connection to an address, which may stand for a name.
    async fn pass(&self, mut inner: TcpStream, to: SocketAddr) {
        let name = match to.ip() {
            IpAddr::V4(address) => self.book.borrow().find(address),
            IpAddr::V6(_) => None,
        };
        let host = name.as_deref().map_or_else(|| to.ip().to_string(), str::to_owned);
        let outcome = match reach(&self.policy, &host, to.port()).await {
            Ok(mut outer) => carry(&mut inner, &mut outer, name.as_deref()).await,
            Err(refusal) => Err(refusal.to_string()),
        };
        if let Err(reason) = outcome {
            self.journal.refused(&format!("{host}:{}", to.port()), &reason).await;
            // closing with a reset says "refused" to those who look
            inner.set_zero_linger().unwrap_or_default();
        }
    }

    /// A connection to the proxy.
    async fn mediate(&self, mut inner: TcpStream) {
        let Ok(Some((asked, rest))) = tokio::time::timeout(ASKING, read_head(&mut inner)).await
        else {
            return answer(&mut inner, "400 Bad Request", "no request that a proxy is asked").await;
        };
        let Asked { host, port, head, .. } = asked;
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let what = format!("{}:{port}", printable(&host));
        let sound = host.parse::<IpAddr>().is_ok() || is_name(&host);
        let reached = match sound {
            true => reach(&self.policy, &host, port).await,
            false => Err(Refusal::NoName),
        };
        let mut outer = match reached {
            Ok(outer) => outer,
            Err(refusal) => {
                self.journal.refused(&what, &refusal.to_string()).await;
                let status = match refusal {
                    Refusal::Undeclared | Refusal::Address(..) => "403 Forbidden",
                    _ => "502 Bad Gateway",
                };
                return answer(&mut inner, status, &format!("egress refused: {what}: {refusal}"))
                    .await;
            }
        };
        let tunnel = head.is_none();
        let begun = match head {
            Some(head) => outer.write_all(&[head, rest].concat()).await,
            // who asks for a tunnel waits for the answer: what came before it is in no hello
            None if rest.is_empty() => {
                inner.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await
            }
            None => return answer(&mut inner, "400 Bad Request", "bytes before the tunnel").await,
        };
        let name = Some(host.as_str()).filter(|host| tunnel && host.parse::<IpAddr>().is_err());
        if begun.is_ok()
            && let Err(reason) = carry(&mut inner, &mut outer, name).await
        {
            self.journal.refused(&what, &reason).await;
            inner.set_zero_linger().unwrap_or_default();
        }
    }

    /// What a question is answered with. Every name that may be reached has one address.
    async fn resolve(&self, question: &Question<'_>) -> Answer {
        let name = &question.name;
        let known = if is_name(name) { self.policy.knows(name) } else { Knowledge::No };
        let there = match known {
            Knowledge::No => false,
            Knowledge::Written => true,
            Knowledge::Allowed => look_up(name).await.is_some(),
        };
        if known == Knowledge::No {
            self.journal.refused(&printable(name), &Refusal::Undeclared.to_string()).await;
        }
        if !there {
            return Answer::NoSuchName;
        }
        if !question.is_for_address() {
            return Answer::Nothing;
        }
        let entered = self.book.borrow_mut().enter(name);
        match entered {
            Some(address) => Answer::Address(address),
            None => {
                self.journal.refused(name, "too many names were asked for").await;
                Answer::Failure
            }
        }
    }
}

async fn answer_all(relay: Rc<Relay>, socket: Rc<UdpSocket>) {
    let mut bytes = [0; 1500];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut bytes).await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let Ok(permit) = Arc::clone(&relay.questions).try_acquire_owned() else { continue };
        let (relay, socket, query) =
            (Rc::clone(&relay), Rc::clone(&socket), bytes[..length].to_vec());
        drop(spawn_local(async move {
            if let Some(question) = Question::parse(&query) {
                let answer = question.answer(relay.resolve(&question).await);
                // who does not wait for the answer needs none
                socket.send_to(&answer, from).await.unwrap_or_default();
            }
            drop(permit);
        }));
    }
}

/// A request, and what came after its head.
async fn read_head(stream: &mut TcpStream) -> Option<(Asked, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        let mut more = [0; 4096];
        let n = stream.read(&mut more).await.ok().filter(|n| *n > 0)?;
        bytes.extend(&more[..n]);
        match parse(&bytes) {
            Parsed::Asked(asked) => {
                let rest = bytes.split_off(asked.length);
                return Some((asked, rest));
            }
            Parsed::More if bytes.len() < LONGEST_HEAD => {}
            Parsed::More | Parsed::Wrong => return None,
        }
    }
}

async fn answer(stream: &mut TcpStream, status: &str, text: &str) {
    let length = text.len() + 1;
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{text}\n"
    );
    // one that went away needs no answer
    stream.write_all(answer.as_bytes()).await.unwrap_or_default();
    stream.shutdown().await.unwrap_or_default();
}

/// What may be hostile, for a log.
fn printable(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic()).take(253).collect()
}
