//! Model → plan: what a service is for each family, where packets may go, and what becomes of them there.
//!
//! The rules are those of `iptables -j MARK --set-mark` and IPVS: the last rule that matches gives the mark; a service
//! by mark comes before one by address and port; an unknown mark is no mark.

use super::ports::{self, Member, Rule};
use super::replies;
use super::services::{Services, part};
use super::{DestinationPlan, Family, Outcome, Plan, PlanError, Reply, ServiceIndex};
use crate::model::{Config, MemberPort, PortMatch, PortRange, Protocol, Selector};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};

impl Plan {
    /// What a configuration asks of the tables.
    ///
    /// # Errors
    /// If the tables cannot hold it.
    pub fn of(config: &Config) -> Result<Plan, PlanError> {
        let services = Services::of(config);
        let mut destinations = Vec::new();
        let mut beside_rules = BTreeSet::new();
        for each in nest(destinations_of(config, &services)) {
            let (net, family) = (each.net, Family::of(each.net.addr()));
            let rules = each.rules.iter().filter_map(|index| {
                let rule = &config.marks[*index];
                let outcome = services.by_mark(rule.value, family);
                let parts = outcome.map_or(&[][..], |outcome| &services.plans[outcome.service].parts);
                Rule::of(rule, family, outcome, parts)
            });
            if !each.rules.is_empty() {
                beside_rules.extend(each.members.iter().map(|member| member.outcome.service));
            }
            let ports = ports::compile(net, &rules.collect::<Vec<_>>(), &each.members)?;
            destinations.push(DestinationPlan { net, ports });
        }
        let (mut replies, mut range_nodes) = replies::collect(&services.plans, &destinations);
        // A rule may have come before a port whose connections live on.
        range_nodes
            .extend(beside_rules.into_iter().flat_map(|service| replies::nat_addresses(&services.plans[service])));
        let outbound = replies::outbound(config, &services);
        // What leaves such a port may be of a connection that the real server has opened.
        replies.extend(outbound.keys().map(|from| (*from, Reply::Ambiguous)));
        let vips = config.services.iter().flat_map(|service| service.selector.vips()).copied().collect();
        let sources = services.plans.iter().flat_map(|service| &service.sources).copied().collect();
        Ok(Plan { services: services.plans, destinations, replies, outbound, range_nodes, vips, sources })
    }
}

/// What the file says about one address or prefix.
struct Destination {
    net: IpNet,
    /// Mark rules, as indices, in the order of the file.
    rules: Vec<usize>,
    members: Vec<Member>,
}

/// What is said about exactly this address or prefix.
#[derive(Default)]
struct Said {
    rules: Vec<usize>,
    members: Vec<Member>,
}

fn destinations_of(config: &Config, services: &Services) -> BTreeMap<IpNet, Said> {
    let mut destinations: BTreeMap<IpNet, Said> = BTreeMap::new();
    for (index, rule) in config.marks.iter().enumerate() {
        for to in &rule.to {
            destinations.entry(to.trunc()).or_default().rules.push(index);
        }
    }
    for (place, service) in config.services.iter().enumerate() {
        for vip in service.selector.vips() {
            let said = destinations.entry(IpNet::from(*vip)).or_default();
            if let (Selector::Ports { ports, .. }, Some(index)) =
                (&service.selector, services.by_place(place, Family::of(*vip)))
            {
                let parts = &services.plans[index].parts;
                said.members.extend(ports.iter().map(|port| member(*port, index, parts)));
                // Which of them is settled when they are announced, as is the port that a server opens one from.
                said.members.extend(service.ftp.map(|_| expected(ANY_TCP, index)));
            }
        }
        for vip in services.outbound_vips(service) {
            let said = destinations.entry(IpNet::from(vip)).or_default();
            if let Some(index) = services.by_place(place, Family::of(vip)) {
                said.members.extend(service.outbound.iter().map(|port| expected(*port, index)));
            }
        }
    }
    destinations
}

const ANY_TCP: PortMatch = PortMatch { protocol: Protocol::Tcp, ports: PortRange::ALL };

fn member(port: MemberPort, service: ServiceIndex, parts: &[PortMatch]) -> Member {
    let part = part(parts, &port.matching);
    Member { matching: port.matching, outcome: Outcome { service, part, target: port.target, expected: false } }
}

fn expected(matching: PortMatch, service: ServiceIndex) -> Member {
    Member { matching, outcome: Outcome { service, part: None, target: None, expected: true } }
}

/// Hands the rules of a prefix on to every destination within it. A packet belongs to the longest prefix that contains
/// its destination; as the prefixes of all rules are destinations, the rules that match it are those of that prefix
/// and of the prefixes around it.
fn nest(destinations: BTreeMap<IpNet, Said>) -> Vec<Destination> {
    let mut nested: Vec<Destination> = Vec::with_capacity(destinations.len());
    // Prefixes, as indices into `nested`, each within the one before. In the order of the map a prefix comes right
    // before everything that it contains.
    let mut around: Vec<usize> = Vec::new();
    for (net, mut said) in destinations {
        while around.pop_if(|outer| !nested[*outer].net.contains(&net)).is_some() {}
        if let Some(outer) = around.last() {
            said.rules.extend(&nested[*outer].rules);
        }
        said.rules.sort_unstable();
        said.rules.dedup();
        around.push(nested.len());
        nested.push(Destination { net, rules: said.rules, members: said.members });
    }
    nested
}
