//! What happens, told to whoever listens. The last events are kept for those that were away for a moment; whoever is
//! slower than what happens is told that it has missed something.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::broadcast::{self, Receiver};
use utoipa::ToSchema;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A real server has failed or serves again, or says another weight.
    Health,
    /// A check of a real server fails, or answers again.
    Check,
    /// A service is below its quorum, or has it again.
    Quorum,
    /// Another configuration is in force, or is not.
    Reload,
    /// An operator's hand: drains, weights, servers out of service; or their end.
    Override,
    /// The daemon ends.
    Stop,
    /// It takes away what it has set up.
    Detach,
}

impl Kind {
    /// As `event:` names it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Health => "health",
            Kind::Check => "check",
            Kind::Quorum => "quorum",
            Kind::Reload => "reload",
            Kind::Override => "override",
            Kind::Stop => "stop",
            Kind::Detach => "detach",
        }
    }
}

/// Something that has happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Ascending from 1 while a daemon runs.
    pub id: u64,
    /// As RFC 3339 has it.
    #[schema(format = DateTime)]
    pub at: String,
    pub kind: Kind,
    /// One line for people.
    pub text: String,
    /// Of which service and real server, where it is about one.
    pub service: Option<String>,
    pub server: Option<String>,
    /// Of which check of the real server.
    pub check: Option<String>,
}

/// Whom it is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct About<'a> {
    pub service: Option<&'a str>,
    pub server: Option<&'a str>,
    pub check: Option<&'a str>,
}

/// Where events are told, and listened to.
#[derive(Clone)]
pub struct Events(Arc<Mutex<Told>>);

struct Told {
    next: u64,
    last: VecDeque<Event>,
    /// None: it has ended.
    sender: Option<broadcast::Sender<Event>>,
}

impl Default for Events {
    fn default() -> Self {
        let (sender, _) = broadcast::channel(KEPT);
        Self(Arc::new(Mutex::new(Told { next: 1, last: VecDeque::with_capacity(KEPT), sender: Some(sender) })))
    }
}

impl Events {
    /// Never waits for a listener.
    pub fn tell(&self, kind: Kind, about: About, text: impl Into<String>) {
        let mut told = self.lock();
        let event = Event {
            id: told.next,
            at: format!("{:.3}", Timestamp::now()),
            kind,
            text: text.into(),
            service: about.service.map(str::to_owned),
            server: about.server.map(str::to_owned),
            check: about.check.map(str::to_owned),
        };
        told.next += 1;
        if told.last.len() == KEPT {
            told.last.pop_front();
        }
        told.last.push_back(event.clone());
        if let Some(sender) = &told.sender {
            // Nobody listens: an error that is none.
            let _ = sender.send(event);
        }
    }

    /// Nothing happens any more: listeners hear what they have not heard yet, and the end.
    pub fn end(&self) {
        self.lock().sender = None;
    }

    /// What has happened since this event, as far as it is kept, and what happens from now on.
    pub fn since(&self, id: Option<u64>) -> (Vec<Event>, Receiver<Event>) {
        let told = self.lock();
        let missed = id.map(|id| told.last.iter().filter(|event| event.id > id).cloned().collect());
        let coming = told.sender.as_ref().map_or_else(|| broadcast::channel(1).1, broadcast::Sender::subscribe);
        (missed.unwrap_or_default(), coming)
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        // Nothing in here panics half-way.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// How many events are kept, for one that comes back and for one that is slow.
pub const KEPT: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_comes_back_hears_what_it_has_missed() {
        let events = Events::default();
        let (missed, mut listening) = events.since(None);
        assert!(missed.is_empty());
        for text in ["one", "two", "three"] {
            events.tell(Kind::Health, About { service: Some("shop"), ..About::default() }, text);
        }
        let heard = listening.try_recv().unwrap();
        assert_eq!((heard.id, heard.text.as_str(), heard.service.as_deref()), (1, "one", Some("shop")));
        let (missed, mut later) = events.since(Some(1));
        assert_eq!(missed.iter().map(|event| event.id).collect::<Vec<_>>(), [2, 3]);
        assert!(later.try_recv().is_err());
    }

    #[test]
    fn a_slow_listener_costs_no_more_than_what_is_kept() {
        let events = Events::default();
        let (_, mut slow) = events.since(None);
        for _ in 0..KEPT * 2 {
            events.tell(Kind::Reload, About::default(), "again");
        }
        assert!(matches!(slow.try_recv(), Err(broadcast::error::TryRecvError::Lagged(_))));
        assert_eq!(events.since(Some(0)).0.len(), KEPT);
    }

    #[test]
    fn at_the_end_what_was_told_is_heard() {
        let events = Events::default();
        let (_, mut listening) = events.since(None);
        events.tell(Kind::Stop, About::default(), "the daemon ends");
        events.end();
        assert_eq!(listening.try_recv().unwrap().text, "the daemon ends");
        let (_, mut later) = events.since(None);
        for ended in [listening.try_recv(), later.try_recv()] {
            assert_eq!(ended, Err(broadcast::error::TryRecvError::Closed));
        }
    }

    #[test]
    fn times_are_of_rfc_3339() {
        let events = Events::default();
        events.tell(Kind::Reload, About::default(), "now");
        let at = events.since(Some(0)).0[0].at.clone();
        assert!(at.parse::<Timestamp>().is_ok() && at.ends_with('Z'), "{at}");
    }
}
