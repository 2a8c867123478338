//! What a real server's port means when a packet leaves it, under NAT.
//!
//! A packet from a real server tells its address and port, and nothing else of the service. Where only one VIP and
//! port lead there, that is enough, and the reply needs no connection's record.

use super::services::Services;
use super::{DestinationPlan, Family, Outbound, PortPlan, Reply, ReplyPort, ServiceIndex, ServicePlan};
use crate::model::{Config, Forward, PortRange, Protocol};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

/// The replies, and the real servers that have other ports, too.
pub(super) fn collect(
    services: &[ServicePlan],
    destinations: &[DestinationPlan],
) -> (BTreeMap<ReplyPort, Reply>, BTreeSet<IpAddr>) {
    let landings = Landings::of(destinations, services);
    let mut replies = Vec::new();
    for ((service, protocol, port), reply) in settled(landings.single) {
        let addresses = nat_addresses(&services[service]);
        replies.extend(addresses.map(|address| (ReplyPort { address, protocol, port }, reply)));
    }
    let mut wide: HashMap<(IpAddr, Protocol), Vec<PortRange>> = HashMap::new();
    for (service, protocol, ports) in landings.wide {
        for address in nat_addresses(&services[service]) {
            wide.entry((address, protocol)).or_default().push(ports);
        }
    }
    for ranges in wide.values_mut() {
        unite(ranges);
    }
    let mut replies = settled(replies);
    for (from, reply) in &mut replies {
        // The packet may come from that range's connection just as well.
        if wide.get(&(from.address, from.protocol)).is_some_and(|ranges| is_in(ranges, from.port)) {
            *reply = Reply::Ambiguous;
        }
    }
    // Fullnat's replies are known by their destination. But a server may have been under NAT until a moment ago.
    let full = services.iter().flat_map(|service| &service.reals).filter(|real| real.forward == Forward::FullNat);
    let nodes = wide.into_keys().map(|(address, _)| address).chain(full.filter_map(|real| real.address));
    // FTP data connections have any port.
    let ftp = services.iter().filter(|service| service.ftp.is_some()).flat_map(nat_addresses);
    (replies.into_iter().collect(), nodes.chain(ftp).collect())
}

/// From which ports real servers open connections as a VIP. Of services that say so of the same port of a server, the
/// first decides.
pub(super) fn outbound(config: &Config, services: &Services) -> BTreeMap<ReplyPort, Outbound> {
    let mut outbound = BTreeMap::new();
    for (place, model) in config.services.iter().enumerate() {
        for vip in services.outbound_vips(model) {
            let Some(service) = services.by_place(place, Family::of(vip)) else { continue };
            for address in nat_addresses(&services.plans[service]) {
                for port in &model.outbound {
                    let from = ReplyPort { address, protocol: port.protocol, port: port.ports.first };
                    outbound.entry(from).or_insert(Outbound { service, vip });
                }
            }
        }
    }
    outbound
}

/// Where clients' packets arrive, on whichever real server of a service.
#[derive(Default)]
struct Landings {
    /// The real servers' port, and what it means if this is the only way there.
    single: Vec<((ServiceIndex, Protocol, u16), Reply)>,
    /// The real servers' ports, of many ports or addresses of clients' choice.
    wide: BTreeSet<(ServiceIndex, Protocol, PortRange)>,
}

impl Landings {
    fn of(destinations: &[DestinationPlan], services: &[ServicePlan]) -> Self {
        let mut landings = Self::default();
        for destination in destinations {
            let is_host = destination.net.prefix_len() == destination.net.max_prefix_len();
            for plan in &destination.ports {
                landings.add(is_host.then(|| destination.net.addr()), plan, services);
            }
        }
        landings
    }

    fn add(&mut self, host: Option<IpAddr>, plan: &PortPlan, services: &[ServicePlan]) {
        let PortPlan { protocol, ports, candidates } = plan;
        for outcome in candidates.iter().filter_map(|candidate| candidate.outcome) {
            match host.filter(|_| ports.is_single()) {
                Some(vip) => {
                    let port = ports.first;
                    let reply = match &candidates[..] {
                        // An FTP control connection has a record, which says that it is one.
                        [only]
                            if only.condition.is_always()
                                && !outcome.expected
                                && services[outcome.service].ftp.is_none() =>
                        {
                            Reply::Unique { service: outcome.service, part: outcome.part, vip, port }
                        }
                        _ => Reply::Ambiguous,
                    };
                    self.single.push(((outcome.service, *protocol, outcome.target.unwrap_or(port)), reply));
                }
                // A port that a real server serves has no data connections: it keeps its meaning.
                None if outcome.expected => {}
                None => match outcome.target {
                    Some(target) => self.single.push(((outcome.service, *protocol, target), Reply::Ambiguous)),
                    None => _ = self.wide.insert((outcome.service, *protocol, *ports)),
                },
            }
        }
    }
}

/// The real servers whose answers come back through the director.
pub(super) fn nat_addresses(service: &ServicePlan) -> impl Iterator<Item = IpAddr> {
    service.reals.iter().filter(|real| real.forward == Forward::Nat).filter_map(|real| real.address)
}

/// In ascending order, with one meaning for each key.
fn settled<K: Ord + Copy>(mut replies: Vec<(K, Reply)>) -> Vec<(K, Reply)> {
    replies.sort_unstable_by_key(|(key, _)| *key);
    replies.dedup_by(|(key, reply), (kept_key, kept)| {
        let same = key == kept_key;
        if same && reply != kept {
            *kept = Reply::Ambiguous;
        }
        same
    });
    replies
}

/// Makes ranges ascending and disjoint.
fn unite(ranges: &mut Vec<PortRange>) {
    ranges.sort_unstable();
    ranges.dedup_by(|next, kept| {
        let overlaps = next.overlaps(*kept);
        if overlaps {
            kept.last = kept.last.max(next.last);
        }
        overlaps
    });
}

fn is_in(ranges: &[PortRange], port: u16) -> bool {
    let after = ranges.partition_point(|ports| ports.first <= port);
    ranges[..after].last().is_some_and(|ports| port <= ports.last)
}
