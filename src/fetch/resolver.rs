//! Host names, each asked for once.
//!
//! Eight connections opened together would put the same question to the name server eight times, and
//! name servers drop bursts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::OnceCell;

type Answer = Arc<OnceCell<Vec<SocketAddr>>>;

/// The addresses of hosts, as the system's resolver knows them. Failures are not kept.
#[derive(Clone, Default)]
pub(super) struct Names(Arc<Mutex<BTreeMap<String, Answer>>>);

impl Names {
    fn cell(&self, host: &str) -> Answer {
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(answers.entry(host.to_owned()).or_default())
    }

    /// Asks anew next time: nobody answered at the addresses known.
    pub(super) fn forget(&self, host: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(host);
    }
}

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let cell = self.cell(name.as_str());
        Box::pin(async move {
            // the port is the connection's business
            let ask = || async { Ok(tokio::net::lookup_host((name.as_str(), 0)).await?.collect()) };
            let found: Result<_, std::io::Error> = cell.get_or_try_init(ask).await;
            let addresses: Addrs = Box::new(found?.clone().into_iter());
            Ok(addresses)
        })
    }
}
