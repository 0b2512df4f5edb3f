//! Servers on a build sandbox's loopback, which are all the network that a program in it has.
//!
//! Two answer HTTP: a *relay* takes what a resolver asks at lock time to its one registry, through
//! this program's own client, so that mirrors, proxies, certificates and credentials stay outside;
//! a *shelf* answers a build step from the lock's pins and the store, and knows no network at all.
//! Both rewrite addresses so that they lead back to themselves, and refuse everything else. A third,
//! for names, resolves none and remembers which were asked for: that is how a step which reaches for
//! the network can be told what it reached for.
//!
//! Whoever asks is untrusted: requests are small, bodies are refused, connections are counted.

mod http;
mod names;
mod npm;
mod question;
mod relay;
mod server;
mod shelf;
mod simple;

pub use http::{Body, Request, Response};
pub use names::answer_names;
pub use question::{Answer, Question};
pub use relay::{Registry, Relay, Upstream};
pub use server::{Closed, Serving, Site, serve};
pub use shelf::{Shelf, Shelved, Shelving, python_index};

use std::net::Ipv4Addr;

use serde_json::value::RawValue;

/// Where the server is, seen from inside; fixed, for it may end in what a step writes.
pub const PORT: u16 = 4873;

/// Where name servers are.
pub const NAMES_PORT: u16 = 53;

/// The server's address, without a slash at its end.
pub fn address() -> String {
    format!("http://{}:{PORT}", Ipv4Addr::LOCALHOST)
}

/// Replaces strings of a JSON text that it was parsed from, leaving all other bytes as they are.
fn splice<'a>(
    text: &'a str,
    raws: impl Iterator<Item = &'a RawValue>,
    change: &mut impl FnMut(&str) -> Option<String>,
) -> Result<String, serde_json::Error> {
    let mut changes = std::collections::BTreeMap::new();
    for raw in raws.map(RawValue::get) {
        let old: Option<String> = serde_json::from_str(raw)?;
        if let Some(new) = old.and_then(|old| change(&old)) {
            // the value is a part of the text it was parsed from
            let start = raw.as_ptr() as usize - text.as_ptr() as usize;
            changes.insert(start, (start + raw.len(), serde_json::to_string(&new)?));
        }
    }
    let mut spliced = String::with_capacity(text.len());
    let mut at = 0;
    for (start, (end, new)) in changes {
        spliced.push_str(&text[at..start]);
        spliced.push_str(&new);
        at = end;
    }
    spliced.push_str(&text[at..]);
    Ok(spliced)
}
