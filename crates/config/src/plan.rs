//! What the tables must hold, as a value that can be printed and compared: services by address family, destinations
//! with their ports already settled (marks before ports, exact ports before ranges before all), and what real servers'
//! ports mean under NAT. Knows names and addresses; knows no index, no MAC address, no memory.

mod compile;
mod difference;
mod ports;
mod replies;
mod services;
#[cfg(test)]
mod tests;

pub use difference::{Difference, Touched};

use crate::model::{
    BelowQuorum, Check, CheckPolicy, Forward, Ftp, OnFailure, Persistence, PortMatch, PortRange, Protocol, Quorum,
    RateLimit, Reuse, Scheduler, SchedulerFlags, Start, Timeouts, Udp,
};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// The address family of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

/// Everything that a configuration asks of the tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// One for each family that a service serves; in the order of the configuration.
    pub services: Vec<ServicePlan>,
    /// VIPs and prefixes of mark rules; no two alike.
    pub destinations: Vec<DestinationPlan>,
    /// What a real server's port means when a packet leaves it, under NAT.
    pub replies: BTreeMap<ReplyPort, Reply>,
    /// Ports from which real servers under NAT open connections as a VIP.
    pub outbound: BTreeMap<ReplyPort, Outbound>,
    /// Real servers under NAT whose other ports may mean something, too: some service has ranges or wide prefixes, or its
    /// ports may have been a service's before a mark rule was there.
    pub range_nodes: BTreeSet<IpAddr>,
    /// The addresses that the director puts on its outside interfaces.
    pub vips: BTreeSet<IpAddr>,
    /// The addresses that fullnat lends: the director puts them on its inside interfaces.
    pub sources: BTreeSet<IpAddr>,
}

/// Index into [`Plan::services`].
pub type ServiceIndex = usize;

/// One address family of a virtual service: with the other one it shares its name, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePlan {
    pub name: String,
    /// Of clients and VIPs.
    pub family: Family,
    pub scheduler: Scheduler,
    pub scheduler_flags: SchedulerFlags,
    pub persistence: Option<Persistence>,
    pub timeouts: Timeouts,
    pub udp: Udp,
    pub reuse: Reuse,
    /// What real servers under fullnat take for clients' addresses, if there are such servers.
    pub sources: Vec<IpAddr>,
    pub on_failure: OnFailure,
    pub drain: Option<Duration>,
    pub rate_limit: Option<RateLimit>,
    pub ftp: Option<Ftp>,
    pub quorum: Quorum,
    pub below_quorum: BelowQuorum,
    /// No configuration says so, but what happens to the real servers.
    pub is_below_quorum: bool,
    pub start: Start,
    /// Its first VIP, if it has one.
    pub vip: Option<IpAddr>,
    /// Of each of its real servers.
    pub checks: Arc<[CheckPlan]>,
    pub check_policy: CheckPolicy,
    /// Member ports of which a real server may lose each by itself, with `check_policy = "per-port"`; at most
    /// [`MAX_PARTS`](crate::model::MAX_PARTS).
    pub parts: Vec<PortMatch>,
    /// In the order of the configuration; those that can serve this family. The sorry server is the last, and not checked.
    pub reals: Vec<RealPlan>,
}

/// A check of a service's real servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckPlan {
    pub check: Check,
    /// To which it goes, on the way of clients' packets; None: straight to the real server.
    pub vip: Option<IpAddr>,
    /// The member ports that it speaks for; none: it speaks for the server.
    pub ports: Vec<PortMatch>,
}

/// As listings call it: `tcp/80`, `http/80 /healthz via 192.0.2.10`.
impl fmt::Display for CheckPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.check.fmt(f)?;
        self.vip.map_or(Ok(()), |vip| write!(f, " via {vip}"))
    }
}

/// A real server of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealPlan {
    pub name: String,
    /// None for `local`. Of the service's family, or of any with a tunnel (the service's family is preferred).
    pub address: Option<IpAddr>,
    pub weight: u16,
    /// See [`crate::model::Server`].
    pub upper: u32,
    pub lower: u32,
    pub forward: Forward,
    pub drain: Option<Duration>,
    /// A bit for each of [`ServicePlan::parts`] that takes no new flows to it: no configuration says so, but its checks.
    pub closed: u16,
    pub role: Role,
    pub standing: Standing,
}

/// When a real server takes clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    #[default]
    Regular,
    /// While its service is below its quorum.
    Sorry,
}

/// What a real server takes, beside its weight: no configuration says so, but what happens to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// New clients by its weight, and those that come back.
    #[default]
    Serving,
    /// Its time to drain is over: no client that comes back, but its connections go on.
    Drained,
    /// It has failed: nobody, and its connections end as [`ServicePlan::on_failure`] says.
    Failed,
    /// It waits, for the first verdict on it or, as sorry server, for its turn: nobody, but its connections go on.
    Waiting,
}

impl ServicePlan {
    pub fn sorry(&self) -> Option<&RealPlan> {
        self.reals.last().filter(|real| real.role == Role::Sorry)
    }

    /// Those of its [`parts`](Self::parts) to which no real server takes new flows, as the service is in force: the sorry
    /// server takes them, if there is one.
    pub fn left(&self) -> impl Iterator<Item = &PortMatch> {
        let takes = |real: &RealPlan, part: usize| real.weight > 0 && real.closed & 1 << part == 0;
        let is_left = move |part: usize| !self.reals.iter().any(|real| takes(real, part));
        self.parts.iter().enumerate().filter(move |(part, _)| is_left(*part)).map(|(_, port)| port)
    }
}

impl RealPlan {
    /// The same with another standing; one that has failed, or waits, has no weight.
    pub fn standing(&self, standing: Standing) -> Self {
        let weight = if matches!(standing, Standing::Failed | Standing::Waiting) { 0 } else { self.weight };
        Self { weight, standing, ..self.clone() }
    }
}

/// An address, or a prefix, that packets are sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationPlan {
    pub net: IpNet,
    /// Disjoint, ascending by protocol and port. Ports that lead nowhere are left out.
    pub ports: Vec<PortPlan>,
}

/// What happens to packets to these ports: the first candidate whose condition holds decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortPlan {
    pub protocol: Protocol,
    pub ports: PortRange,
    /// Never empty. Only the last may be without a condition.
    pub candidates: Vec<Candidate>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub condition: Condition,
    /// None: the packet carries a mark that no service takes, and no service has the port either.
    pub outcome: Option<Outcome>,
}

/// Of a mark rule. Nothing set: always holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    pub from: Option<IpNet>,
    pub interface: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub service: ServiceIndex,
    /// One of [`ServicePlan::parts`].
    pub part: Option<u8>,
    /// The real servers' port; None keeps the packet's.
    pub target: Option<u16>,
    /// Only for connections that a real server has opened or announced.
    pub expected: bool,
}

/// As whom a real server opens connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outbound {
    pub service: ServiceIndex,
    pub vip: IpAddr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReplyPort {
    pub address: IpAddr,
    pub protocol: Protocol,
    pub port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Always this service, VIP and port.
    Unique { service: ServiceIndex, part: Option<u8>, vip: IpAddr, port: u16 },
    /// Several, or it depends: only a connection's record can tell.
    Ambiguous,
}

/// A configuration that the tables cannot hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error(
        "{destination} {protocol}/{port}: {count} mark rules with a source or an interface meet here, and the data \
         plane looks at {limit} at most; merge their prefixes"
    )]
    TooManyConditions { destination: IpNet, protocol: &'static str, port: u16, count: usize, limit: usize },
}

/// As many candidates as the data plane looks at for one packet (`limits::CONDITIONS` of the engine's layout): a bound on
/// its time, and on the instructions that the kernel's verifier follows.
pub const MAX_CONDITIONS: usize = 32;

impl Family {
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

impl Condition {
    /// Holds for every packet.
    pub const ALWAYS: Condition = Condition { from: None, interface: None };

    pub fn is_always(&self) -> bool {
        *self == Condition::ALWAYS
    }

    /// Whether this one holds wherever the other one does.
    pub fn covers(&self, other: &Condition) -> bool {
        let has_source = match (&self.from, &other.from) {
            (None, _) => true,
            (Some(net), Some(other)) => net.contains(other),
            (Some(_), None) => false,
        };
        has_source && (self.interface.is_none() || self.interface == other.interface)
    }
}
