//! What is told to Prometheus: one table of metrics, from which the text of a scrape, the reference and the test of the
//! dashboard are made.
//!
//! | module | owns |
//! |---|---|
//! | `sums` | counters of services and of the director, which outlive their real servers |
//! | `text` | the two formats that Prometheus reads |
//! | `listener` | who may ask, and where |
//!
//! Names are Prometheus's conventions: base units, `_total` for counters. Every label has few values, or as many as the
//! configuration says; [`Detail`] bounds those.

mod listener;
mod sums;
mod text;

pub use listener::{Answered, Scraper, serve};
pub use sums::Sums;
pub use text::Format;

use crate::live::Took;
use crate::status::{ChecksStatus, HealthStatus, ServerStatus, ServiceStatus, Status, TrafficStatus};
use marca_config::model::Detail;
use marca_engine::reason::{Action, Reason};
use std::collections::BTreeMap;
use std::time::Duration;
use sums::Sum;

/// One metric.
pub struct Metric {
    /// Without the unit and `_total`.
    base: &'static str,
    pub kind: Kind,
    pub unit: Option<Unit>,
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
    value: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    /// As Prometheus calls it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    Seconds,
}

impl Unit {
    pub fn name(self) -> &'static str {
        match self {
            Unit::Bytes => "bytes",
            Unit::Seconds => "seconds",
        }
    }
}

impl Metric {
    /// As queries have it: `marca_in_bytes_total`.
    pub fn name(&self) -> String {
        let total = if self.kind == Kind::Counter { "_total" } else { "" };
        format!("{}{total}", self.family())
    }

    /// Without `_total`, as OpenMetrics calls all its series together.
    fn family(&self) -> String {
        match self.unit {
            Some(unit) => format!("{}_{}", self.base, unit.name()),
            None => self.base.to_owned(),
        }
    }

    /// What must be looked at in this detail for it to be there.
    pub fn needs(&self) -> Detail {
        match self.value {
            Value::Director(_) | Value::Took(_) => Detail::Totals,
            Value::Service(_) => Detail::Services,
            Value::Server(_) | Value::Checks(_) => Detail::Servers,
        }
    }
}

/// Where a metric's numbers come from, and for whom there is one. Whoever gives several gives each with the values of
/// the labels that follow the service's and the server's.
enum Value {
    Director(fn(&Scrape, Give)),
    /// Histograms: each with the values of its labels.
    Took(fn(&Scrape, GiveTook)),
    Service(fn(&ServiceStatus, &Sum, Give)),
    Server(fn(&ServerStatus) -> Number),
    /// For each check of a real server, by its name.
    Checks(fn(&ServerStatus, &str) -> Number),
}

/// Takes the values of labels, in the order of [`Metric::labels`], and the number.
type Give<'a> = &'a mut dyn FnMut(&[&str], Number);

/// The same for histograms.
type GiveTook<'a> = &'a mut dyn FnMut(&[&str], &Took);

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    Whole(u64),
    Fraction(f64),
}

impl From<u64> for Number {
    fn from(n: u64) -> Self {
        Number::Whole(n)
    }
}

impl From<bool> for Number {
    fn from(n: bool) -> Self {
        Number::Whole(n.into())
    }
}

/// All that one scrape tells.
pub struct Scrape<'a> {
    pub status: &'a Status,
    pub sums: &'a Sums,
    pub detail: Detail,
    /// How long it took to read the status.
    pub took: Duration,
    /// How long checks have taken, by their kind.
    pub checks: &'a BTreeMap<&'static str, Took>,
}

impl<'a> Scrape<'a> {
    /// In the finest detail that is not too much.
    pub fn resolved(self) -> Self {
        Self { detail: resolve(self.detail, self.status), ..self }
    }

    /// The histograms of a metric, each with the values of its labels.
    fn histograms(&self, metric: &Metric, give: GiveTook) {
        if let Value::Took(histograms) = metric.value {
            histograms(self, give);
        }
    }

    /// The numbers of a metric, each with the values of its labels.
    fn samples(&self, metric: &Metric, give: Give) {
        match metric.value {
            Value::Director(numbers) => numbers(self, give),
            Value::Took(_) => {}
            Value::Service(numbers) => {
                for service in &self.status.services {
                    let sum = self.sums.service(&service.name);
                    numbers(service, sum, &mut |rest, number| match rest {
                        [] => give(&[&service.name], number),
                        rest => give(&[&[service.name.as_str()], rest].concat(), number),
                    });
                }
            }
            Value::Server(number) => {
                for service in &self.status.services {
                    service.servers.iter().for_each(|server| give(&[&service.name, &server.name], number(server)));
                }
            }
            Value::Checks(number) => {
                if self.checked().map(|(service, _)| service.checks.len()).sum::<usize>() > MOST_CHECKS {
                    return;
                }
                for (service, server) in self.checked() {
                    let check = |check: &String| give(&[&service.name, &server.name, check], number(server, check));
                    service.checks.iter().for_each(check);
                }
            }
        }
    }

    /// Real servers that have had a verdict of their checks.
    fn checked(&self) -> impl Iterator<Item = (&ServiceStatus, &ServerStatus)> {
        let all = self.status.services.iter().flat_map(|service| service.servers.iter().map(move |one| (service, one)));
        all.filter(|(_, server)| server.health.is_some() && server.state != "waiting")
    }

    /// The metrics that this detail has.
    fn metrics(&self) -> impl Iterator<Item = &'static Metric> {
        let has = |metric: &&Metric| match metric.needs() {
            Detail::Servers => self.detail == Detail::Servers,
            Detail::Services => self.detail != Detail::Totals,
            Detail::Totals | Detail::Auto => true,
        };
        METRICS.iter().filter(has)
    }
}

/// How many services or real servers have series of their own by themselves: some 25,000 series are what a Prometheus
/// takes from one target without anybody having thought about it.
pub const MOST_LABEL_SETS: usize = 2_000;

/// How many checks have series of their own: none, when there are more.
pub const MOST_CHECKS: usize = 5_000;

/// The finest detail that is not too many.
fn resolve(detail: Detail, status: &Status) -> Detail {
    let servers = || status.services.iter().map(|service| service.servers.len()).sum::<usize>();
    match detail {
        Detail::Auto if servers() <= MOST_LABEL_SETS => Detail::Servers,
        Detail::Auto if status.services.len() <= MOST_LABEL_SETS => Detail::Services,
        Detail::Auto => Detail::Totals,
        named => named,
    }
}

/// The states that a real server may have, as [`ServerStatus::state`] has them.
const STATES: [&str; 8] = ["up", "down", "waiting", "draining", "drained", "disabled", "serving", "standby"];

fn by_state<'a>(servers: impl Iterator<Item = &'a ServerStatus>, mut give: impl FnMut(&'static str, u64)) {
    let mut counts = [0u64; STATES.len()];
    for server in servers {
        if let Some(place) = STATES.iter().position(|state| *state == server.state) {
            counts[place] += 1;
        }
    }
    std::iter::zip(STATES, counts).for_each(|(state, count)| give(state, count));
}

fn action(reason: &str) -> &'static str {
    let reason = Reason::ALL.iter().find(|known| known.label() == reason);
    match reason.map(|reason| reason.action()) {
        Some(Action::Send) => "send",
        Some(Action::Drop) => "drop",
        Some(Action::Pass) | None => "pass",
    }
}

fn all(scrape: &Scrape) -> TrafficStatus {
    scrape.sums.all().traffic
}

fn servers<'a>(scrape: &Scrape<'a>) -> impl Iterator<Item = &'a ServerStatus> {
    scrape.status.services.iter().flat_map(|service| &service.servers)
}

/// Connections of a service, also with real servers that are leaving it.
fn active(service: &ServiceStatus) -> u64 {
    service.servers.iter().map(|s| s.active).chain(service.leaving.iter().map(|s| s.active)).sum()
}

fn inactive(service: &ServiceStatus) -> u64 {
    service.servers.iter().map(|s| s.inactive).chain(service.leaving.iter().map(|s| s.inactive)).sum()
}

const fn counter(
    base: &'static str,
    unit: Option<Unit>,
    labels: &'static [&'static str],
    help: &'static str,
    value: Value,
) -> Metric {
    Metric { base, kind: Kind::Counter, unit, labels, help, value }
}

const fn gauge(
    base: &'static str,
    unit: Option<Unit>,
    labels: &'static [&'static str],
    help: &'static str,
    value: Value,
) -> Metric {
    Metric { base, kind: Kind::Gauge, unit, labels, help, value }
}

const NONE: &[&str] = &[];
const SERVICE: &[&str] = &["service"];
const SERVER: &[&str] = &["service", "server"];
const BYTES: Option<Unit> = Some(Unit::Bytes);

/// Every metric, coarse ones first.
pub const METRICS: &[Metric] = &[
    gauge(
        "marca_build_info",
        None,
        &["version"],
        "The version of the daemon; always 1.",
        Value::Director(|_, give| give(&[env!("CARGO_PKG_VERSION")], 1.into())),
    ),
    gauge(
        "marca_interface_info",
        None,
        &["interface", "attached"],
        "How packets are met on an interface: `native XDP`, `generic XDP` or `TC`; always 1.",
        Value::Director(|scrape, give| {
            scrape.status.interfaces.iter().for_each(|i| give(&[&i.name, &i.attached], 1.into()));
        }),
    ),
    gauge(
        "marca_metrics_detail_info",
        None,
        &["detail"],
        "What has series of its own: `servers`, `services` or `totals`; always 1.",
        Value::Director(|scrape, give| give(&[scrape.detail.name()], 1.into())),
    ),
    gauge(
        "marca_status_read",
        Some(Unit::Seconds),
        NONE,
        "How long it took to read what this answer tells.",
        Value::Director(|scrape, give| give(&[], Number::Fraction(scrape.took.as_secs_f64()))),
    ),
    gauge(
        "marca_services",
        None,
        NONE,
        "Virtual services.",
        Value::Director(|scrape, give| give(&[], (scrape.status.services.len() as u64).into())),
    ),
    gauge(
        "marca_servers",
        None,
        &["state"],
        "Real servers of all services by their state, as `marca status` has it.",
        Value::Director(|scrape, give| by_state(servers(scrape), |state, count| give(&[state], count.into()))),
    ),
    counter(
        "marca_packets",
        None,
        &["reason", "action"],
        "Packets by the reason that they left with, and by what became of them: `send`, `pass` to the director's kernel, or `drop`.",
        Value::Director(|scrape, give| {
            scrape.status.reasons.iter().for_each(|(reason, n)| give(&[reason, action(reason)], (*n).into()));
        }),
    ),
    gauge(
        "marca_table_records",
        None,
        &["table"],
        "Records in a table: `flows` (connections), `half_open` or `templates` (persistence).",
        Value::Director(|scrape, give| {
            scrape.status.tables.iter().for_each(|(name, table)| give(&[name], u64::from(table.used).into()));
        }),
    ),
    gauge(
        "marca_table_size_records",
        None,
        &["table"],
        "Records that a table has room for; new connections are refused before it is quite full.",
        Value::Director(|scrape, give| {
            scrape.status.tables.iter().for_each(|(name, table)| give(&[name], u64::from(table.size).into()));
        }),
    ),
    gauge(
        "marca_table_age",
        Some(Unit::Seconds),
        &["table"],
        "How old the number of a table's records is: they are counted by the way, a table of ten million in some ten seconds.",
        Value::Director(|scrape, give| {
            scrape.status.tables.iter().for_each(|(name, table)| give(&[name], table.seconds_old.into()));
        }),
    ),
    counter(
        "marca_checks",
        None,
        &["result"],
        "Questions of health checks by what came of them: `good`, `bad`, or `unasked`, when the director itself is at fault.",
        Value::Director(|scrape, give| {
            let ChecksStatus { good, bad, unasked } = scrape.status.checks;
            [("good", good), ("bad", bad), ("unasked", unasked)]
                .into_iter()
                .for_each(|(result, n)| give(&[result], n.into()));
        }),
    ),
    Metric {
        base: "marca_check_duration",
        kind: Kind::Histogram,
        unit: Some(Unit::Seconds),
        labels: &["kind"],
        help: "How long questions of health checks have taken, good or bad, by their kind: `tcp`, `http`, `script` and so on; one that has had no answer, its timeout.",
        value: Value::Took(|scrape, give| scrape.checks.iter().for_each(|(kind, took)| give(&[kind], took))),
    },
    counter(
        "marca_connections",
        None,
        NONE,
        "New connections of all services.",
        Value::Director(|scrape, give| give(&[], all(scrape).connections.into())),
    ),
    counter(
        "marca_rate_limited_connections",
        None,
        NONE,
        "New connections of all services that were dropped beyond their rate limits.",
        Value::Director(|scrape, give| give(&[], scrape.sums.all().rate_limited.into())),
    ),
    counter(
        "marca_in_packets",
        None,
        NONE,
        "Packets from clients to real servers.",
        Value::Director(|scrape, give| give(&[], all(scrape).in_packets.into())),
    ),
    counter(
        "marca_in",
        BYTES,
        NONE,
        "Bytes of IP packets from clients to real servers.",
        Value::Director(|scrape, give| give(&[], all(scrape).in_bytes.into())),
    ),
    counter(
        "marca_out_packets",
        None,
        NONE,
        "Packets from real servers to clients; only NAT and fullnat show them to the director.",
        Value::Director(|scrape, give| give(&[], all(scrape).out_packets.into())),
    ),
    counter(
        "marca_out",
        BYTES,
        NONE,
        "Bytes of IP packets from real servers to clients; only NAT and fullnat show them to the director.",
        Value::Director(|scrape, give| give(&[], all(scrape).out_bytes.into())),
    ),
    gauge(
        "marca_active_connections",
        None,
        NONE,
        "Connections of all services that are established.",
        Value::Director(|scrape, give| give(&[], scrape.status.services.iter().map(active).sum::<u64>().into())),
    ),
    gauge(
        "marca_inactive_connections",
        None,
        NONE,
        "Connections of all services that are not yet or no longer established.",
        Value::Director(|scrape, give| give(&[], scrape.status.services.iter().map(inactive).sum::<u64>().into())),
    ),
    gauge(
        "marca_service_servers",
        None,
        &["service", "state"],
        "Real servers of a service by their state.",
        Value::Service(|service, _, give| {
            by_state(service.servers.iter(), |state, count| give(&[state], count.into()));
        }),
    ),
    gauge(
        "marca_service_below_quorum",
        None,
        SERVICE,
        "Whether less of a service's real servers is up than its quorum wants.",
        Value::Service(|service, _, give| give(&[], service.quorum.below.into())),
    ),
    gauge(
        "marca_service_leaving_servers",
        None,
        SERVICE,
        "Real servers that have been removed from a service and still have connections.",
        Value::Service(|service, _, give| give(&[], (service.leaving.len() as u64).into())),
    ),
    counter(
        "marca_service_connections",
        None,
        SERVICE,
        "New connections of a service.",
        Value::Service(|_, sum, give| give(&[], sum.traffic.connections.into())),
    ),
    counter(
        "marca_service_rate_limited_connections",
        None,
        SERVICE,
        "New connections of a service that were dropped beyond its rate limit.",
        Value::Service(|_, sum, give| give(&[], sum.rate_limited.into())),
    ),
    counter(
        "marca_service_in_packets",
        None,
        SERVICE,
        "Packets from clients to a service's real servers.",
        Value::Service(|_, sum, give| give(&[], sum.traffic.in_packets.into())),
    ),
    counter(
        "marca_service_in",
        BYTES,
        SERVICE,
        "Bytes of IP packets from clients to a service's real servers.",
        Value::Service(|_, sum, give| give(&[], sum.traffic.in_bytes.into())),
    ),
    counter(
        "marca_service_out_packets",
        None,
        SERVICE,
        "Packets from a service's real servers to clients; only NAT and fullnat show them to the director.",
        Value::Service(|_, sum, give| give(&[], sum.traffic.out_packets.into())),
    ),
    counter(
        "marca_service_out",
        BYTES,
        SERVICE,
        "Bytes of IP packets from a service's real servers to clients; only NAT and fullnat show them to the director.",
        Value::Service(|_, sum, give| give(&[], sum.traffic.out_bytes.into())),
    ),
    gauge(
        "marca_service_active_connections",
        None,
        SERVICE,
        "Connections of a service that are established.",
        Value::Service(|service, _, give| give(&[], active(service).into())),
    ),
    gauge(
        "marca_service_inactive_connections",
        None,
        SERVICE,
        "Connections of a service that are not yet or no longer established.",
        Value::Service(|service, _, give| give(&[], inactive(service).into())),
    ),
    gauge(
        "marca_server_up",
        None,
        SERVER,
        "Whether a real server has not failed: 0 when it is `down` or `waiting` for its checks, else 1, also while it is drained.",
        Value::Server(|server| (!matches!(server.state.as_str(), "down" | "waiting")).into()),
    ),
    gauge(
        "marca_server_check_up",
        None,
        &["service", "server", "check"],
        "Whether a check of a real server is good, as `rise` and `fall` have it; none while it waits for its first verdict, nor when there are more than 5,000 of them.",
        Value::Checks(|server, check| {
            let fails = |health: &HealthStatus| health.failures.iter().any(|failure| failure.check == check);
            (!server.health.as_ref().is_some_and(fails)).into()
        }),
    ),
    gauge(
        "marca_server_closed_ports",
        None,
        SERVER,
        "Member ports that take no new connections at a real server, because their checks fail, while the others do.",
        Value::Server(|server| server.health.as_ref().map_or(0, |health| health.without_ports.len() as u64).into()),
    ),
    gauge(
        "marca_server_weight",
        None,
        SERVER,
        "The weight of a real server; 0 takes no new clients.",
        Value::Server(|server| u64::from(server.weight).into()),
    ),
    gauge(
        "marca_server_overloaded",
        None,
        SERVER,
        "Whether a real server takes no new clients because it has reached its upper threshold.",
        Value::Server(|server| server.overloaded.into()),
    ),
    gauge(
        "marca_server_active_connections",
        None,
        SERVER,
        "Connections of a real server that are established.",
        Value::Server(|server| server.active.into()),
    ),
    gauge(
        "marca_server_inactive_connections",
        None,
        SERVER,
        "Connections of a real server that are not yet or no longer established.",
        Value::Server(|server| server.inactive.into()),
    ),
    counter(
        "marca_server_connections",
        None,
        SERVER,
        "New connections of a real server.",
        Value::Server(|server| server.traffic.connections.into()),
    ),
    counter(
        "marca_server_in_packets",
        None,
        SERVER,
        "Packets from clients to a real server.",
        Value::Server(|server| server.traffic.in_packets.into()),
    ),
    counter(
        "marca_server_in",
        BYTES,
        SERVER,
        "Bytes of IP packets from clients to a real server.",
        Value::Server(|server| server.traffic.in_bytes.into()),
    ),
    counter(
        "marca_server_out_packets",
        None,
        SERVER,
        "Packets from a real server to clients; only NAT and fullnat show them to the director.",
        Value::Server(|server| server.traffic.out_packets.into()),
    ),
    counter(
        "marca_server_out",
        BYTES,
        SERVER,
        "Bytes of IP packets from a real server to clients; only NAT and fullnat show them to the director.",
        Value::Server(|server| server.traffic.out_bytes.into()),
    ),
];

#[cfg(test)]
mod tests;
