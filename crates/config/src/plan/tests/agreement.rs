//! A plan says what iptables and IPVS would do, packet by packet.

use super::*;
use crate::model::{
    Availability, Config, Gue, Mark, MarkRule, MemberPort, OnFailure, PortMatch, Reuse, Selector, Server, Service,
};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use std::num::NonZeroU32;

#[derive(Clone, Copy, Debug)]
struct Packet {
    source: IpAddr,
    destination: IpAddr,
    interface: &'static str,
    protocol: Protocol,
    port: u16,
}

/// The service's place in the file, and the real servers' port.
type Decision = Option<(usize, u16)>;

/// Rule by rule in the order of the file, then the services by mark, then those by port.
fn directly(config: &Config, packet: &Packet) -> Decision {
    let mut mark = None;
    for rule in &config.marks {
        let takes_port = |entry: &PortMatch| entry.protocol == packet.protocol && holds(entry.ports, packet.port);
        if rule.to.iter().any(|to| to.contains(&packet.destination))
            && (rule.from.is_empty() || rule.from.iter().any(|from| from.contains(&packet.source)))
            && (rule.interfaces.is_empty() || rule.interfaces.iter().any(|name| name == packet.interface))
            && (rule.ports.is_empty() || rule.ports.iter().any(takes_port))
        {
            mark = Some(rule.value);
        }
    }
    let services = config.services.iter();
    let by_mark = services.enumerate().find_map(|(place, service)| match service.selector {
        Selector::Mark { mark: own, target, .. } if mark == Some(own) => Some((place, target.unwrap_or(packet.port))),
        _ => None,
    });
    by_mark.or_else(|| by_port(config, packet))
}

fn by_port(config: &Config, packet: &Packet) -> Decision {
    let find = |has_rank: fn(PortRange) -> bool| {
        config.services.iter().enumerate().find_map(|(place, service)| {
            let Selector::Ports { vips, ports } = &service.selector else { return None };
            let mut ports = ports.iter().filter(|_| vips.contains(&packet.destination));
            let member = ports.find(|member| {
                let PortMatch { protocol, ports } = member.matching;
                protocol == packet.protocol && holds(ports, packet.port) && has_rank(ports)
            })?;
            Some((place, member.target.unwrap_or(packet.port)))
        })
    };
    find(PortRange::is_single)
        .or_else(|| find(|ports| !ports.is_single() && ports != PortRange::ALL))
        .or_else(|| find(|ports| ports == PortRange::ALL))
}

/// As the data plane does it: longest prefix, port, first condition that holds.
fn by_plan(plan: &Plan, packet: &Packet) -> Option<Outcome> {
    let around = plan.destinations.iter().filter(|destination| destination.net.contains(&packet.destination));
    let destination = around.max_by_key(|destination| destination.net.prefix_len())?;
    let mut ports = destination.ports.iter();
    let port = ports.find(|port| port.protocol == packet.protocol && holds(port.ports, packet.port))?;
    let applies = |condition: &Condition| {
        condition.from.is_none_or(|from| from.contains(&packet.source))
            && condition.interface.as_ref().is_none_or(|name| name == packet.interface)
    };
    port.candidates.iter().find(|candidate| applies(&candidate.condition))?.outcome
}

fn holds(ports: PortRange, port: u16) -> bool {
    ports.first <= port && port <= ports.last
}

const PORTS: [u16; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 65534, 65535];
const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];
const INTERFACES: [&str; 3] = ["eth0", "eth1", "eth2"];
const HOSTS_V4: [&str; 4] = ["192.0.2.0", "192.0.2.1", "192.0.2.2", "192.0.2.3"];
const HOSTS_V6: [&str; 3] = ["2001:db8::", "2001:db8::1", "2001:db8::2"];
const SOURCES_V4: [&str; 3] = ["10.0.0.1", "10.0.1.1", "10.1.0.1"];
const SOURCES_V6: [&str; 2] = ["2001:db8:1::1", "2001:db8:2::1"];
const TO: [&str; 10] = [
    "192.0.2.0/32",
    "192.0.2.1/32",
    "192.0.2.2/32",
    "192.0.2.0/31",
    "192.0.2.2/31",
    "192.0.2.0/30",
    "0.0.0.0/0",
    "2001:db8::1/128",
    "2001:db8::/127",
    "2001:db8::/32",
];
const FROM: [&str; 7] =
    ["10.0.0.1/32", "10.0.0.0/24", "10.0.0.0/16", "0.0.0.0/0", "2001:db8:1::/48", "2001:db8:1::1/128", "::/0"];
const SERVERS: [&str; 5] = ["10.9.0.1", "10.9.0.2", "10.9.0.3", "fd00::1", "fd00::2"];

/// Every packet that the pieces above can tell apart.
fn packets() -> Vec<Packet> {
    let mut packets = Vec::new();
    for (sources, hosts) in [(&SOURCES_V4[..], &HOSTS_V4[..]), (&SOURCES_V6[..], &HOSTS_V6[..])] {
        for (source, destination) in sources.iter().flat_map(|source| hosts.iter().map(move |host| (source, host))) {
            let (source, destination) = (ip(source), ip(destination));
            for interface in INTERFACES {
                for protocol in PROTOCOLS {
                    packets.extend(PORTS.map(|port| Packet { source, destination, interface, protocol, port }));
                }
            }
        }
    }
    packets
}

fn some_of(texts: &'static [&'static str], count: std::ops::RangeInclusive<usize>) -> BoxedStrategy<Vec<&'static str>> {
    subsequence(texts.to_vec(), count).boxed()
}

fn any_matching() -> impl Strategy<Value = PortMatch> {
    let ends = (select(PORTS.to_vec()), select(PORTS.to_vec()));
    let range = ends.prop_map(|(one, other)| PortRange { first: one.min(other), last: one.max(other) });
    let single = select(PORTS.to_vec()).prop_map(|port| PortRange { first: port, last: port });
    let ports = prop_oneof![3 => single, 3 => range, 1 => Just(PortRange::ALL)];
    (select(PROTOCOLS.to_vec()), ports).prop_map(|(protocol, ports)| PortMatch { protocol, ports })
}

prop_compose! {
    fn any_rule()(
        value in 1..5_u32,
        to in some_of(&TO, 1..=3),
        from in prop_oneof![Just(Vec::new()), some_of(&FROM, 1..=3)],
        ports in prop::collection::vec(any_matching(), 0..4),
        interfaces in prop_oneof![2 => Just(Vec::new()), 1 => some_of(&INTERFACES, 1..=2)],
    ) -> MarkRule {
        MarkRule {
            value: Mark(NonZeroU32::new(value).unwrap()),
            to: to.iter().map(|net| net.parse().unwrap()).collect(),
            from: from.iter().map(|net| net.parse().unwrap()).collect(),
            ports,
            interfaces: interfaces.into_iter().map(str::to_string).collect(),
        }
    }
}

prop_compose! {
    fn any_member()(matching in any_matching(), target in prop::option::of(1..12_u16)) -> MemberPort {
        MemberPort { matching, target: target.filter(|target| matching.ports.is_single() && *target != matching.ports.first) }
    }
}

fn any_servers() -> impl Strategy<Value = Vec<Server>> {
    let forwards = prop::collection::vec(
        select(vec![
            Forward::Nat,
            Forward::Nat,
            Forward::Dr,
            Forward::Tunnel,
            Forward::Gre,
            Forward::Gue(Gue::DEFAULT),
        ]),
        5,
    );
    (some_of(&SERVERS, 1..=4), forwards).prop_map(|(addresses, forwards)| {
        let server = |(address, forward): (&str, Forward)| Server {
            name: address.to_string(),
            addresses: vec![ip(address)],
            weight: 1,
            upper: 0,
            lower: 0,
            forward,
            drain: None,
        };
        addresses.into_iter().zip(forwards).map(server).collect()
    })
}

fn service(name: String, selector: Selector, servers: Vec<Server>) -> Service {
    Service {
        name,
        selector,
        scheduler: Scheduler::Wlc,
        scheduler_flags: SchedulerFlags::default(),
        persistence: None,
        forward: Forward::Nat,
        timeouts: Timeouts::default(),
        udp: Udp::Tracked,
        reuse: Reuse::Schedule,
        on_failure: OnFailure::Reset,
        drain: None,
        rate_limit: None,
        outbound: Vec::new(),
        sources: Vec::new(),
        ftp: None,
        availability: Availability::default(),
        checks: Vec::new(),
        check_policy: CheckPolicy::All,
        servers,
    }
}

/// A mark's one port; members have others.
const OF_A_MARK: u16 = 8080;

fn services_by_mark() -> impl Strategy<Value = Vec<Service>> {
    let marks = subsequence(vec![1, 2, 3], 0..=3);
    (marks, prop::collection::vec(any_servers(), 3)).prop_map(|(marks, servers)| {
        let by_mark = |(mark, servers): (u32, _)| {
            let mark = Mark(NonZeroU32::new(mark).unwrap());
            let target = (mark.0.get() == 3).then_some(OF_A_MARK);
            service(format!("mark-{mark}"), Selector::Mark { mark, vips: Vec::new(), target }, servers)
        };
        marks.into_iter().zip(servers).map(by_mark).collect()
    })
}

fn services_by_port(member: impl Strategy<Value = MemberPort>) -> impl Strategy<Value = Vec<Service>> {
    let vips = [HOSTS_V4.as_slice(), HOSTS_V6.as_slice()].concat();
    let one = (subsequence(vips, 1..=3), prop::collection::vec(member, 1..5), any_servers());
    prop::collection::vec(one, 0..4).prop_map(|all| {
        let by_port = |(number, (vips, ports, servers)): (usize, (Vec<&str>, _, _))| {
            let vips = vips.into_iter().map(ip).collect();
            service(format!("port-{number}"), Selector::Ports { vips, ports }, servers)
        };
        without_collisions(all.into_iter().enumerate().map(by_port).collect())
    })
}

/// As the loader does, though it refuses what is taken out here: claims of one rank to a port do not meet.
fn without_collisions(mut services: Vec<Service>) -> Vec<Service> {
    let rank = |ports: PortRange| (ports.is_single(), ports == PortRange::ALL);
    let mut claimed: Vec<(IpAddr, PortMatch)> = Vec::new();
    for service in &mut services {
        let Selector::Ports { vips, ports } = &mut service.selector else { continue };
        ports.retain(|MemberPort { matching, .. }| {
            let free = claimed.iter().all(|(vip, other)| {
                !vips.contains(vip)
                    || other.protocol != matching.protocol
                    || rank(other.ports) != rank(matching.ports)
                    || !other.ports.overlaps(matching.ports)
            });
            if free {
                claimed.extend(vips.iter().map(|vip| (*vip, *matching)));
            }
            free
        });
    }
    services.retain(|service| !matches!(&service.selector, Selector::Ports { ports, .. } if ports.is_empty()));
    services
}

prop_compose! {
    fn any_config()(
        marks in prop::collection::vec(any_rule(), 0..6),
        by_mark in services_by_mark(),
        by_port in services_by_port(any_member()),
        mark_first: bool,
    ) -> Config {
        let services = if mark_first { [by_mark, by_port].concat() } else { [by_port, by_mark].concat() };
        Config { marks, services, ..Config::default() }
    }
}

/// What the contract of [`Plan`] says about its shape.
fn check_shape(plan: &Plan) {
    for pair in plan.destinations.windows(2) {
        assert!(pair[0].net < pair[1].net);
    }
    for DestinationPlan { net, ports } in &plan.destinations {
        for pair in ports.windows(2) {
            assert!(pair[0].protocol < pair[1].protocol || pair[0].ports.last < pair[1].ports.first, "{net}");
        }
        for PortPlan { ports, candidates, .. } in ports {
            let (last, others) = candidates.split_last().unwrap();
            assert!(others.iter().all(|candidate| !candidate.condition.is_always()));
            assert!(last.outcome.is_some() && candidates.len() <= MAX_CONDITIONS);
            let mut outcomes = candidates.iter().filter_map(|candidate| candidate.outcome);
            assert!(ports.is_single() || outcomes.all(|o| o.target.is_none_or(|target| target == OF_A_MARK)));
        }
    }
}

/// Where clients' packets come out of NAT, and what they were.
type Landed = BTreeMap<ReplyPort, BTreeSet<(ServiceIndex, IpAddr, u16)>>;

fn landed(plan: &Plan, packets: &[Packet]) -> Landed {
    let mut landed = Landed::new();
    for packet in packets {
        let Packet { destination, protocol, port, .. } = *packet;
        let Some(outcome) = by_plan(plan, packet) else { continue };
        for real in plan.services[outcome.service].reals.iter().filter(|real| real.forward == Forward::Nat) {
            let address = real.address.unwrap();
            let from = ReplyPort { address, protocol, port: outcome.target.unwrap_or(port) };
            landed.entry(from).or_default().insert((outcome.service, destination, port));
        }
    }
    landed
}

proptest! {
    #[test]
    fn a_plan_decides_as_its_configuration_says(config in any_config()) {
        // More than 32 conditions are no subject here.
        let Ok(plan) = Plan::of(&config) else { return Ok(()) };
        check_shape(&plan);
        for packet in packets() {
            let named = by_plan(&plan, &packet).map(|outcome| {
                let service = &plan.services[outcome.service];
                assert_eq!(service.family, Family::of(packet.destination));
                (service.name.as_str(), outcome.target.unwrap_or(packet.port))
            });
            let expected = directly(&config, &packet).map(|(place, port)| (config.services[place].name.as_str(), port));
            prop_assert_eq!(named, expected, "{:?}", packet);
        }
    }

    #[test]
    fn a_reply_with_one_meaning_has_no_other(config in any_config()) {
        let Ok(plan) = Plan::of(&config) else { return Ok(()) };
        let landed = landed(&plan, &packets());
        for (from, meanings) in &landed {
            match plan.replies.get(from) {
                Some(Reply::Unique { service, vip, port, .. }) => {
                    prop_assert_eq!(meanings, &BTreeSet::from([(*service, *vip, *port)]), "{:?}", from);
                }
                Some(Reply::Ambiguous) => {}
                None => prop_assert!(plan.range_nodes.contains(&from.address), "{:?} is unknown", from),
            }
        }
        for (from, reply) in &plan.replies {
            prop_assert!(*reply == Reply::Ambiguous || landed.contains_key(from), "no packet lands on {:?}", from);
        }
    }

    #[test]
    fn a_reply_of_exact_ports_is_ambiguous_only_if_it_must_be(
        services in services_by_port(any_member().prop_filter("exact", |member| member.matching.ports.is_single())),
    ) {
        let plan = Plan::of(&Config { services, ..Config::default() }).unwrap();
        let landed = landed(&plan, &packets());
        prop_assert!(plan.range_nodes.is_empty());
        prop_assert!(landed.keys().eq(plan.replies.keys()));
        for (from, meanings) in landed {
            prop_assert_eq!(plan.replies[&from] == Reply::Ambiguous, meanings.len() > 1, "{:?}", from);
        }
    }
}
