//! What health checks say of real servers, as a value that outlives the daemon.

use marca_config::model::{PortMatch, PortRange, Protocol};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

/// What health checks say of a real server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// It is to be taken for failed.
    pub is_down: bool,
    /// Member ports that are to take no new flows while the others do (`check_policy = "per-port"`).
    #[serde(default)]
    pub ports: BTreeSet<HealthPort>,
    /// In the place of the configured weight.
    pub weight: Option<u16>,
    /// Checks that it fails, in the order of the configuration.
    pub failures: Vec<Failure>,
}

/// A check that a real server fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What listings call it.
    pub check: String,
    /// In words that follow "failed:".
    pub why: String,
    /// Since boot.
    pub since: Duration,
}

/// A member port, as a file can have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HealthPort {
    /// IANA's number.
    pub protocol: u8,
    pub first: u16,
    pub last: u16,
}

impl From<PortMatch> for HealthPort {
    fn from(port: PortMatch) -> Self {
        Self { protocol: port.protocol.number(), first: port.ports.first, last: port.ports.last }
    }
}

impl HealthPort {
    /// None: of no protocol that there is.
    pub fn matching(self) -> Option<PortMatch> {
        let protocol = Protocol::ALL.into_iter().find(|protocol| protocol.number() == self.protocol)?;
        Some(PortMatch { protocol, ports: PortRange { first: self.first, last: self.last } })
    }
}

/// As in the configuration.
impl fmt::Display for HealthPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.matching() {
            Some(port) => port.fmt(f),
            None => write!(f, "{}/{}-{}", self.protocol, self.first, self.last),
        }
    }
}
