//! What lets an instance out: a policy, and the relay that holds to it.
//!
//! The relay is a process of this machine's network that holds sockets of another one, the gate's
//! ([`Gate`](crate::jail::instance::Gate)). It answers questions for names: one that the policy knows
//! is given an address of a range that is nobody's, others there are not. A connection to such an
//! address is one to that name, so programs need not know of any proxy; those that do find one there,
//! too, for ports that no socket waits on. The relay then looks the name up, judges what it finds
//! (`judge`), and connects to the very address that it judged. Bytes are carried as they are, TLS
//! untouched, but a client that shows another name than it connected to is refused: an allowed
//! name's server may well serve others.
//!
//! Who asks may be hostile: connections are counted, waits are short, buffers have an end, and the
//! process has no right left anywhere. What is refused is written down, with the reason.

mod book;
mod flow;
mod guard;
mod hello;
mod journal;
mod judge;
mod policy;
mod proxy;
mod reach;
mod serve;

pub use guard::{Sink, guard};
pub use journal::Journal;
pub use policy::{Policy, Wish};
pub use serve::serve;

/// Where the proxy waits, at the name server's address.
pub const PROXY_PORT: u16 = 3128;
