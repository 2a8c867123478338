//! What is told of a director: the shape of `marca status --json`, and of the API's answers.

use super::of_both;
use marca_config::model::{Availability, BelowQuorum, Service};
use marca_engine::layout::Traffic;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use utoipa::ToSchema;

/// A director, counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Process id of the daemon; null when packets are forwarded without one.
    pub daemon: Option<u32>,
    /// What a restart would not know, since it cannot be written down now, and why; null when all is written.
    #[serde(default)]
    pub unwritten: Option<String>,
    pub interfaces: Vec<InterfaceStatus>,
    pub services: Vec<ServiceStatus>,
    pub tables: BTreeMap<String, TableStatus>,
    #[serde(default)]
    pub checks: ChecksStatus,
    /// Packets by the reason that they left with.
    pub reasons: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InterfaceStatus {
    pub name: String,
    /// `native XDP`, `generic XDP` or `TC`.
    pub attached: String,
    /// Why, where the configuration does not say so by name.
    pub why: Option<String>,
}

/// A service of many ports, both families together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceStatus {
    pub name: String,
    #[schema(value_type = Vec<String>)]
    pub vips: Vec<IpAddr>,
    /// Member ports, or the mark.
    pub ports: Vec<String>,
    pub scheduler: String,
    /// Those that are not the default.
    pub scheduler_flags: Vec<String>,
    pub udp: String,
    pub persist_seconds: Option<u64>,
    pub forward: String,
    pub quorum: QuorumStatus,
    /// New connections that were dropped, because they were beyond the rate limit.
    pub rate_limited: u64,
    /// Its real servers, without a sorry server.
    pub pool: u32,
    /// How many real servers are in which state.
    pub states: BTreeMap<String, u32>,
    /// Connections that are established, as `ActiveConn` of ipvsadm.
    pub active: u64,
    /// Connections that are not yet or no longer, as `InActConn`.
    pub inactive: u64,
    #[serde(flatten)]
    pub traffic: TrafficStatus,
    /// What each of its real servers is asked, as `failures` names it.
    #[serde(default)]
    pub checks: Vec<String>,
    /// None with `servers=false`.
    pub servers: Vec<ServerStatus>,
    /// Real servers that have been removed and still have connections.
    pub leaving: Vec<LeavingStatus>,
}

/// How many real servers a service needs, and has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QuorumStatus {
    /// What is counted: `weight` or `servers`.
    pub measure: String,
    pub needed: u32,
    pub hysteresis: u32,
    /// Of the address family that has less.
    pub up: Option<u64>,
    /// One address family at least is below the quorum.
    pub below: bool,
    /// What becomes of new clients then: `sorry`, `refuse`, `drop` or `serve`.
    pub policy: String,
}

impl QuorumStatus {
    pub(super) fn of(service: &Service) -> Self {
        let Availability { quorum, below_quorum, sorry, .. } = &service.availability;
        let policy = match below_quorum {
            _ if sorry.is_some() => "sorry",
            BelowQuorum::Refuse => "refuse",
            BelowQuorum::Drop => "drop",
            BelowQuorum::Serve => "serve",
        };
        Self {
            measure: quorum.measure.name().into(),
            needed: quorum.needed,
            hysteresis: quorum.hysteresis,
            up: None,
            below: false,
            policy: policy.into(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeavingStatus {
    pub name: String,
    /// None: local.
    #[schema(value_type = Option<String>)]
    pub address: Option<IpAddr>,
    /// `leaving`, or `ending` when the deadline has passed.
    pub state: String,
    /// Until the deadline, if there is one.
    pub seconds_left: Option<u64>,
    pub active: u64,
    pub inactive: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServerStatus {
    pub name: String,
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    pub forward: String,
    /// Of the configuration, or an operator's hand.
    pub weight: u16,
    /// What an operator has said of it by hand.
    pub by_hand: Option<HandStatus>,
    /// `up`; `down`: it has failed; `waiting`: for the first verdict of its checks; `draining`: weight 0; `drained`: weight 0,
    /// and its deadline has passed; `disabled`: by hand. A sorry server is `serving` or `standby`: see also `only_ports`.
    pub state: String,
    /// It takes clients while the service is below its quorum.
    pub sorry: bool,
    /// Of a sorry server that serves, because no real server takes new connections to them: these member ports and no others.
    #[serde(default)]
    pub only_ports: Vec<String>,
    /// What keeps clients from it, beside its weight: `by hand`, `checks`, `no verdict yet`.
    pub causes: Vec<String>,
    /// Until its persistent clients move, if there is a deadline.
    pub seconds_left: Option<u64>,
    /// What its checks say; null: it has none, or is disabled.
    pub health: Option<HealthStatus>,
    /// Thresholds as configured; 0: none.
    pub upper: u32,
    pub lower: u32,
    /// The upper one is reached, by one family at least: it takes no new clients.
    pub overloaded: bool,
    /// Connections that are established, as `ActiveConn` of ipvsadm.
    pub active: u64,
    /// Connections that are not yet or no longer, as `InActConn`.
    pub inactive: u64,
    #[serde(flatten)]
    pub traffic: TrafficStatus,
}

/// What an operator has said of a real server by hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HandStatus {
    /// `drained` or `disabled`.
    pub duty: Option<String>,
    /// When that ends, as RFC 3339 has it; null: when it is taken back.
    pub duty_until: Option<String>,
    pub weight: Option<u16>,
    pub weight_until: Option<String>,
    /// What the configuration says.
    pub configured_weight: u16,
}

impl ServerStatus {
    /// The same real server of the other family.
    pub(super) fn add(&mut self, other: &Self) {
        self.addresses.extend(other.addresses.iter().filter(|a| !self.addresses.contains(a)).collect::<Vec<_>>());
        self.state = of_both(&self.state, &other.state).to_owned();
        let only_ports = other.only_ports.iter().filter(|port| !self.only_ports.contains(port));
        self.only_ports.extend(only_ports.cloned().collect::<Vec<_>>());
        if self.by_hand.is_none() {
            self.by_hand.clone_from(&other.by_hand);
        }
        self.causes
            .extend(other.causes.iter().filter(|cause| !self.causes.contains(cause)).cloned().collect::<Vec<_>>());
        self.seconds_left = self.seconds_left.max(other.seconds_left);
        match (&mut self.health, &other.health) {
            (Some(own), Some(other)) => own.add(other),
            (own @ None, Some(other)) => *own = Some(other.clone()),
            (_, None) => {}
        }
        self.overloaded |= other.overloaded;
        self.active += other.active;
        self.inactive += other.inactive;
        self.traffic.add(&other.traffic);
    }
}

/// What the health checks of a real server say, of both families together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HealthStatus {
    /// How many there are.
    pub checks: usize,
    /// Whether the server is down for them.
    pub down: bool,
    pub failures: Vec<FailureStatus>,
    /// Member ports that take no new connections, while the others do.
    pub without_ports: Vec<String>,
    /// Said by a script or an agent, in the place of the configured one.
    pub weight: Option<u16>,
}

/// A check that a real server fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FailureStatus {
    pub check: String,
    /// What was wrong when it began to fail.
    pub why: String,
    /// For how long.
    pub seconds: u64,
}

impl HealthStatus {
    /// The same real server of the other family.
    fn add(&mut self, other: &Self) {
        self.checks += other.checks;
        self.down |= other.down;
        self.failures.extend(other.failures.iter().cloned());
        self.without_ports.extend(
            other.without_ports.iter().filter(|p| !self.without_ports.contains(p)).cloned().collect::<Vec<_>>(),
        );
        self.weight = self.weight.min(other.weight).or(self.weight).or(other.weight);
    }
}

/// Traffic since the counters began. Bytes are of IP packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TrafficStatus {
    pub connections: u64,
    /// From clients.
    pub in_packets: u64,
    pub in_bytes: u64,
    /// To clients; only NAT shows them to the director.
    pub out_packets: u64,
    pub out_bytes: u64,
}

impl TrafficStatus {
    pub(crate) fn add(&mut self, other: &Self) {
        self.connections += other.connections;
        self.in_packets += other.in_packets;
        self.in_bytes += other.in_bytes;
        self.out_packets += other.out_packets;
        self.out_bytes += other.out_bytes;
    }
}

impl From<Traffic> for TrafficStatus {
    fn from(t: Traffic) -> Self {
        Self {
            connections: t.connections,
            in_packets: t.in_packets,
            in_bytes: t.in_bytes,
            out_packets: t.out_packets,
            out_bytes: t.out_bytes,
        }
    }
}

/// How full a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TableStatus {
    /// Counted by the daemon's sweep on its way, which takes two seconds, and longer in tables of more than two million records;
    /// without a daemon now.
    pub used: u32,
    pub size: u32,
    /// Since the sweep came to its end.
    #[serde(default)]
    pub seconds_old: u64,
}

/// What the daemon has asked real servers since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChecksStatus {
    pub good: u64,
    pub bad: u64,
    /// Could not be asked, for want of sockets or permission, say.
    pub unasked: u64,
}
