//! How many servers a service needs, and what holds while it has fewer.

use super::Server;

/// What holds while servers are missing, and before anything is known of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Availability {
    pub quorum: Quorum,
    pub below_quorum: BelowQuorum,
    /// Takes new clients while the service is below its quorum.
    pub sorry: Option<Server>,
    pub start: Start,
}

/// What of a service's servers must be up, in each address family by itself. As keepalived has it: below `needed` less
/// `hysteresis` it is lost, from both together on it is there again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quorum {
    pub measure: Measure,
    /// At least 1.
    pub needed: u32,
    /// Less than `needed`.
    pub hysteresis: u32,
}

impl Default for Quorum {
    fn default() -> Self {
        Self { measure: Measure::Weight, needed: 1, hysteresis: 0 }
    }
}

impl Quorum {
    /// Whether so much is too little; `was`: it has been until now.
    pub fn is_lost(&self, up: u64, was: bool) -> bool {
        let (needed, hysteresis) = (u64::from(self.needed), u64::from(self.hysteresis));
        up < if was { needed + hysteresis } else { needed.saturating_sub(hysteresis) }
    }
}

/// What is counted. Servers of weight 0 count nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Measure {
    #[default]
    Weight,
    Servers,
}

impl Measure {
    pub fn name(self) -> &'static str {
        match self {
            Measure::Weight => "weight",
            Measure::Servers => "servers",
        }
    }
}

/// What becomes of new clients below the quorum, without a sorry server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BelowQuorum {
    /// They are told at once.
    #[default]
    Refuse,
    /// Their packets are dropped.
    Drop,
    /// The servers that are left take them; when there are none, they are refused.
    Serve,
}

/// What a server that is checked is before the first verdict on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Start {
    /// What it was when the last daemon ended; up if nothing is known of it.
    #[default]
    Last,
    Up,
    /// It takes no new clients until it has been found to be up.
    Down,
}
