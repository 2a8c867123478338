//! What operators and programs ask of a running daemon: HTTP and JSON over a socket in the director's folder.
//!
//! Requests are served on a thread of their own. What reads, reads the kernel's tables and the director's files there,
//! beside the task that owns the director; what changes something is an event to that task ([`ask`]). So neither ten
//! thousand services as JSON nor a hundred slow clients hold up what packets wait for.
//!
//! | module | owns |
//! |---|---|
//! | [`ask`] | what the owner of the director is asked, and answers |
//! | [`client`] | the other end: the command line's |
//! | [`events`] | what happens, told to whoever listens |
//! | [`problem`] | errors as `application/problem+json` |
//! | `extract` | bodies and parameters of requests, and what is wrong with them |
//! | `hand` | requests of operators: drains, weights, servers out of service |
//! | `listen` | sockets, who may ask, how long a connection may take |
//! | `network` | TLS and tokens |
//! | `read` | tables and files, read beside the owner |
//! | `records` | requests for connections and persistence |
//! | `routes` | the other requests |

pub mod ask;
pub mod client;
pub mod events;
mod extract;
mod hand;
mod listen;
mod network;
pub mod problem;
mod read;
mod records;
mod routes;

pub use ask::{Asked, Done, Reloaded, Stopping};
pub use events::{About, Event, Events, Kind};
pub use network::new_token;
pub use problem::Problem;
pub use records::{ClientStatus, FlowStatus, Flows, FlowsEnded, Persist, Unpinned};
pub use routes::{Stop, document};

use crate::metrics::Scraper;
use crate::place::Place;
use listen::Listener;
use network::Endpoints;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};
use tokio::sync::{mpsc, oneshot};

/// The daemon's end. Requests are taken while this lives.
pub struct Api {
    asked: mpsc::Receiver<Asked>,
    events: Events,
    /// Where requests over the network are taken.
    addresses: BTreeSet<SocketAddr>,
    /// Dropped with the rest, which ends the thread.
    endpoints: mpsc::UnboundedSender<Endpoints>,
    /// Of the thread.
    ended: oneshot::Receiver<()>,
}

/// What every request may need.
struct Shared {
    owner: mpsc::Sender<Asked>,
    events: Events,
    reader: read::Reader,
    /// The daemon's configuration.
    file: PathBuf,
    scraper: Scraper,
}

impl Api {
    /// To be called by whoever has the place's lock; `file` is the daemon's configuration.
    ///
    /// # Errors
    /// When the socket cannot be made: its path may have 107 bytes.
    pub fn open(place: &Place, file: &Path, scraper: Scraper) -> io::Result<Self> {
        let listener = Listener::bind(&place.control_socket())?;
        let (owner, asked) = mpsc::channel(WAITING);
        let (endpoints, network) = mpsc::unbounded_channel();
        let events = Events::default();
        let (reader, file) = (read::Reader::new(place.clone()), file.to_owned());
        let shared = Arc::new(Shared { owner, events: events.clone(), reader, file, scraper });
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(READERS).build()?;
        // In the network namespace of this thread, as the director is.
        let (ends, ended) = oneshot::channel::<()>();
        thread::Builder::new().name("api".into()).spawn(move || {
            let _ends = ends;
            runtime.block_on(listen::listen(listener, shared, network));
            // Reads in progress are nobody's any more.
            runtime.shutdown_background();
        })?;
        Ok(Self { asked, events, addresses: BTreeSet::new(), endpoints, ended })
    }

    /// The next request.
    pub async fn next(&mut self) -> Asked {
        match self.asked.recv().await {
            Some(asked) => asked,
            None => std::future::pending().await,
        }
    }

    /// What waits for the owner, and what comes yet, is answered: the daemon ends.
    pub fn refuse(&mut self) {
        self.asked.close();
        // With their replies.
        while self.asked.try_recv().is_ok() {}
    }

    /// Takes no more requests. What has been answered is sent, and listeners hear the last events.
    pub async fn end(self) {
        let Self { asked, events, endpoints, ended, .. } = self;
        events.end();
        drop((asked, endpoints));
        // It ends by itself, or not at all.
        let _ = tokio::time::timeout(LAST_PATIENCE * 2, ended).await;
    }

    /// Where to tell what happens.
    pub fn events(&self) -> &Events {
        &self.events
    }
}

/// Requests that wait for the owner; further ones wait at their senders.
const WAITING: usize = 16;
/// How long connections have at the end to take what they are sent.
const LAST_PATIENCE: Duration = Duration::from_secs(1);
/// Threads that read tables: one for whoever waits for a scan of ten million records, and others beside it.
const READERS: usize = 4;
