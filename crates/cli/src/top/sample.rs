//! What was read once, and the rates since what was read before.

use marca_daemon::api::FlowStatus;
use marca_daemon::status::{FailureStatus, HealthStatus, ServerStatus, ServiceStatus, Status, TrafficStatus};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A director at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// Since boot.
    pub at: Duration,
    /// How long it took to read.
    pub took: Duration,
    pub daemon: Option<u32>,
    /// Name, and how packets are met there.
    pub interfaces: Vec<(String, String)>,
    pub services: Vec<Service>,
    /// Name, records, room.
    pub tables: Vec<(String, u64, u64)>,
    /// Of packets, by reason.
    pub reasons: BTreeMap<String, u64>,
    /// Packets in a second, by reasons that drop; those that do at all.
    pub drops: Vec<(String, f64)>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Service {
    pub name: String,
    pub vips: Vec<IpAddr>,
    pub ports: Vec<String>,
    /// Scheduler, method, persistence.
    pub settings: String,
    /// None, unless they are looked at.
    pub servers: Vec<Server>,
    /// When they were read, since boot.
    pub at: Duration,
    /// How many of them are in which state.
    pub states: BTreeMap<String, u32>,
    /// Real servers that have been removed and still have connections, in words.
    pub leaving: Vec<String>,
    /// Of its real servers, without a sorry server; those that are up.
    pub pool: u32,
    pub up: u32,
    pub active: u64,
    pub inactive: u64,
    /// As [`Rates`], since they began.
    pub counters: [u64; 5],
    pub rates: Rates,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Server {
    pub name: String,
    pub addresses: Vec<IpAddr>,
    pub forward: String,
    pub weight: u16,
    pub state: String,
    pub seconds_left: Option<u64>,
    pub upper: u32,
    pub overloaded: bool,
    pub active: u64,
    pub inactive: u64,
    /// What its checks say, in words: those that fail first.
    pub checks: Vec<String>,
    /// As [`Rates`], since they began.
    pub counters: [u64; 5],
    pub rates: Rates,
}

/// In a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    pub connections: f64,
    pub in_packets: f64,
    pub in_bytes: f64,
    pub out_packets: f64,
    pub out_bytes: f64,
}

impl Rates {
    pub fn add(&mut self, other: &Rates) {
        self.connections += other.connections;
        self.in_packets += other.in_packets;
        self.in_bytes += other.in_bytes;
        self.out_packets += other.out_packets;
        self.out_bytes += other.out_bytes;
    }

    /// A counter that has fallen has begun anew.
    fn of_server(now: &[u64; 5], before: &[u64; 5], seconds: f64) -> Self {
        let rate = |i: usize| now[i].checked_sub(before[i]).unwrap_or(now[i]) as f64 / seconds;
        let [connections, in_packets, in_bytes, out_packets, out_bytes] = std::array::from_fn(rate);
        Self { connections, in_packets, in_bytes, out_packets, out_bytes }
    }

    /// A sum that has fallen is one of fewer servers.
    fn of_service(now: &[u64; 5], before: &[u64; 5], seconds: f64) -> Self {
        let rate = |i: usize| now[i].saturating_sub(before[i]) as f64 / seconds;
        let [connections, in_packets, in_bytes, out_packets, out_bytes] = std::array::from_fn(rate);
        Self { connections, in_packets, in_bytes, out_packets, out_bytes }
    }
}

impl Sample {
    /// With the rates since an earlier one.
    pub fn after(mut self, before: &Sample) -> Self {
        let seconds = self.at.saturating_sub(before.at).as_secs_f64();
        if seconds <= 0.0 {
            return self;
        }
        // Of ten thousand services nearly all stand where they stood.
        let mut elsewhere: Option<HashMap<&str, &Service>> = None;
        for (place, service) in self.services.iter_mut().enumerate() {
            let same = before.services.get(place).filter(|known| known.name == service.name);
            let known = same.or_else(|| {
                let by_name = || before.services.iter().map(|service| (service.name.as_str(), service)).collect();
                elsewhere.get_or_insert_with(by_name).get(service.name.as_str()).copied()
            });
            let Some(known) = known else { continue };
            service.rates = Rates::of_service(&service.counters, &known.counters, seconds);
            service.rate_servers(known);
        }
        let drops = |reason: &&marca_engine::reason::Reason| reason.action() == marca_engine::reason::Action::Drop;
        for reason in marca_engine::reason::Reason::ALL.iter().filter(drops) {
            let count = |sample: &Sample| sample.reasons.get(reason.label()).copied().unwrap_or(0);
            let rate = count(&self).saturating_sub(count(before)) as f64 / seconds;
            if rate > 0.0 {
                self.drops.push((reason.label().to_owned(), rate));
            }
        }
        self.drops.sort_by(|a, b| b.1.total_cmp(&a.1));
        self
    }

    pub fn service(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.name == name)
    }

    /// Real servers in this state.
    pub fn servers_in(&self, state: &str) -> u32 {
        self.services.iter().filter_map(|service| service.states.get(state)).sum()
    }

    /// Puts a service that was looked at more closely in its place.
    pub fn put(&mut self, looked_at: Service) {
        if let Some(service) = self.services.iter_mut().find(|service| service.name == looked_at.name) {
            (service.servers, service.at) = (looked_at.servers, looked_at.at);
        }
    }
}

impl Service {
    /// Rates of its real servers, if they have been looked at before.
    fn rate_servers(&mut self, before: &Service) {
        let seconds = self.at.saturating_sub(before.at).as_secs_f64();
        if seconds <= 0.0 || before.servers.is_empty() {
            return;
        }
        for (place, server) in self.servers.iter_mut().enumerate() {
            let same = before.servers.get(place).filter(|known| known.name == server.name);
            let known = same.or_else(|| before.servers.iter().find(|known| known.name == server.name));
            // A new one has counted since it came.
            let counted = known.map_or([0; 5], |known| known.counters);
            server.rates = Rates::of_server(&server.counters, &counted, seconds);
        }
    }
}

impl From<Status> for Sample {
    fn from(status: Status) -> Self {
        Self {
            daemon: status.daemon,
            interfaces: status.interfaces.into_iter().map(|i| (i.name, i.attached)).collect(),
            services: status.services.into_iter().map(Service::from).collect(),
            tables: status
                .tables
                .iter()
                .map(|(name, table)| (name.clone(), table.used.into(), table.size.into()))
                .collect(),
            reasons: status.reasons,
            ..Self::default()
        }
    }
}

impl From<ServiceStatus> for Service {
    fn from(status: ServiceStatus) -> Self {
        let persist = status.persist_seconds.map(|seconds| format!(" persist {}", duration(seconds)));
        let flags: String = status.scheduler_flags.iter().map(|flag| format!(" {flag}")).collect();
        let leaving =
            status.leaving.iter().map(|server| format!("{} {} ({} active)", server.name, server.state, server.active));
        Self {
            settings: format!("{}{flags} {}{}", status.scheduler, status.forward, persist.unwrap_or_default()),
            name: status.name,
            vips: status.vips,
            ports: status.ports,
            leaving: leaving.collect(),
            pool: status.pool,
            up: status.states.get("up").copied().unwrap_or(0),
            active: status.active,
            inactive: status.inactive,
            counters: counters(&status.traffic),
            states: status.states,
            servers: status.servers.into_iter().map(|server| Server::of(server, &status.checks)).collect(),
            at: Duration::ZERO,
            rates: Rates::default(),
        }
    }
}

impl Server {
    /// `checks`: of the service.
    fn of(status: ServerStatus, checks: &[String]) -> Self {
        Self {
            name: status.name,
            addresses: status.addresses,
            forward: status.forward,
            weight: status.weight,
            state: status.state,
            seconds_left: status.seconds_left,
            upper: status.upper,
            overloaded: status.overloaded,
            active: status.active,
            inactive: status.inactive,
            checks: match &status.health {
                Some(health) => in_words(health, checks),
                None if status.only_ports.is_empty() => Vec::new(),
                None => vec![format!("serves {} alone", status.only_ports.join(" "))],
            },
            counters: counters(&status.traffic),
            rates: Rates::default(),
        }
    }
}

fn counters(t: &TrafficStatus) -> [u64; 5] {
    [t.connections, t.in_packets, t.in_bytes, t.out_packets, t.out_bytes]
}

/// What checks say of a real server.
fn in_words(health: &HealthStatus, checks: &[String]) -> Vec<String> {
    let fails =
        |failure: &FailureStatus| format!("{} FAILS for {}: {}", failure.check, duration(failure.seconds), failure.why);
    let mut words: Vec<String> = health.failures.iter().map(fails).collect();
    let is_good = |check: &&String| !health.failures.iter().any(|failure| failure.check == **check);
    words.extend(checks.iter().filter(is_good).map(|check| format!("{check} good")));
    if !health.without_ports.is_empty() {
        words.push(format!("no new connections to {}", health.without_ports.join(" ")));
    }
    words.extend(health.weight.map(|weight| format!("weight {weight}")));
    words
}

pub fn duration(seconds: u64) -> String {
    marca_config::text::duration::print(Duration::from_secs(seconds))
}

/// Connections of one real server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Flows {
    pub service: String,
    pub server: String,
    pub flows: Vec<Flow>,
    /// There are more than these.
    pub more: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Flow {
    pub protocol: String,
    pub client: SocketAddr,
    pub vip: SocketAddr,
    pub state: String,
    /// Since its last packet.
    pub idle: Duration,
}

impl From<FlowStatus> for Flow {
    fn from(flow: FlowStatus) -> Self {
        let FlowStatus { protocol, client, vip, state, idle_seconds, .. } = flow;
        Self { protocol, client, vip, state, idle: Duration::from_secs(idle_seconds) }
    }
}
