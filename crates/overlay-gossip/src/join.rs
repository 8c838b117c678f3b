//! Finds the cluster: turns `--join` names into addresses, for ever.
//!
//! chitchat has seeds of its own, but it resolves them before it starts (a slow
//! name server would keep the daemon from starting) and then once a minute.
//! Here nothing waits: a name is tried every few seconds while nobody is heard,
//! and every half minute after that, so that two halves of a cluster that each
//! think themselves whole find each other.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::driver::Command;

/// Between attempts while nobody is heard.
const ALONE: Duration = Duration::from_secs(2);
/// Between attempts otherwise.
const IN_COMPANY: Duration = Duration::from_secs(30);
/// How long a name server may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks for the addresses of a `HOST:PORT`.
pub(crate) type Lookup = Arc<dyn Fn(String) -> Answer + Send + Sync>;
/// What comes of it.
pub(crate) type Answer = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// Asks the machine's resolver.
pub(crate) fn system_lookup() -> Lookup {
    Arc::new(|name| Box::pin(async move { Ok(tokio::net::lookup_host(name).await?.collect()) }))
}

pub(crate) struct Resolver {
    pub(crate) names: Vec<String>,
    pub(crate) own: Vec<SocketAddr>,
    pub(crate) live: watch::Receiver<Vec<SocketAddr>>,
    /// Weak: that we look for names keeps nobody alive.
    pub(crate) commands: mpsc::WeakUnboundedSender<Command>,
    pub(crate) lookup: Lookup,
}

impl Resolver {
    pub(crate) async fn run(mut self) {
        if self.names.is_empty() {
            return;
        }
        let mut said: Vec<bool> = vec![false; self.names.len()];
        loop {
            let mut found = Vec::new();
            let answers = join_all(self.names.iter().map(|name| self.resolve(name))).await;
            for ((name, said), answer) in self.names.iter().zip(&mut said).zip(answers) {
                match answer {
                    Ok(addrs) => {
                        if std::mem::take(said) {
                            tracing::info!(peer = name, ?addrs, "a peer's name resolves again");
                        }
                        found.extend(addrs);
                    }
                    Err(err) if !*said => {
                        *said = true;
                        tracing::warn!(
                            peer = name, %err,
                            "cannot resolve a peer given by --join; trying again for ever",
                        );
                    }
                    Err(_) => {}
                }
            }
            found.retain(|addr| !self.own.contains(addr));
            let Some(commands) = self.commands.upgrade() else { return };
            if !found.is_empty() && commands.send(Command::Contact(found)).is_err() {
                return;
            }
            drop(commands);
            let alone = self.live.borrow_and_update().is_empty();
            // The moment that we lose or find company ends the wait.
            let wait = if alone { ALONE } else { IN_COMPANY };
            let changed = self.live.wait_for(|live| live.is_empty() != alone);
            if let Ok(Err(_)) = timeout(wait, changed).await {
                return;
            }
        }
    }

    async fn resolve(&self, name: &str) -> Result<Vec<SocketAddr>, String> {
        if let Ok(addr) = name.parse() {
            return Ok(vec![addr]);
        }
        match timeout(PATIENCE, (self.lookup)(name.to_owned())).await {
            Ok(Ok(addrs)) if addrs.is_empty() => Err("it has no address".to_owned()),
            Ok(Ok(addrs)) => Ok(addrs),
            Ok(Err(err)) => Err(err.to_string()),
            Err(_) => Err(format!("no answer in {} s", PATIENCE.as_secs())),
        }
    }
}
