//! Plans as packets meet them: what was written is found, and only that, in either half of the tables.

use crate::configuration::{addresses, config, ip, mapped, range, server, service, tcp, udp};
use crate::director::{Director, SMALL};
use ipnet::IpNet;
use marca_config::model::{Config, Mark, MarkRule, MemberPort, PortRange, Protocol, Selector};
use marca_config::plan::{Family, Plan, Reply, ReplyPort};
use marca_engine::Reason;
use marca_engine::classify::{self, Class};
use marca_engine::layout::{Address, V4, V6};
use marca_engine::tables::Tables;
use marca_engine::wire::Headers;
use marca_tables::Capacity;
use marca_tables::classifier::address;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use std::net::IpAddr;
use std::num::NonZeroU32;

#[derive(Clone, Copy, Debug)]
struct Packet {
    from: (IpAddr, u16),
    to: (IpAddr, u16),
    protocol: Protocol,
    /// `eth0` or `eth1` by the director's numbers, or another one.
    interface: u32,
}

/// What a packet is, in the plan's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// Of the plan's service, and the real servers' port.
    Request(usize, u16),
    /// `None`: a connection's record tells.
    Reply(Option<(usize, IpAddr, u16)>),
    Not(Reason),
}

/// Straight from the plan: longest prefix, port, first condition that holds.
fn by_plan(plan: &Plan, packet: &Packet) -> Meaning {
    let around = plan.destinations.iter().filter(|d| d.net.contains(&packet.to.0));
    let destination = around.max_by_key(|d| d.net.prefix_len());
    let is_host = destination.is_some_and(|d| d.net.prefix_len() == d.net.max_prefix_len());
    if !is_host && let Some(reply) = reply(plan, packet) {
        return reply;
    }
    let Some(destination) = destination else { return Meaning::Not(Reason::NotOurs) };
    let mut ports = destination.ports.iter().filter(|plan| plan.protocol == packet.protocol);
    let plan = ports.find(|plan| plan.ports.first <= packet.to.1 && packet.to.1 <= plan.ports.last);
    let candidates = plan.iter().flat_map(|plan| &plan.candidates);
    let name = ["", "eth0", "eth1", "eth2"][packet.interface as usize];
    let mut holding = candidates.filter(|candidate| {
        let condition = &candidate.condition;
        condition.from.is_none_or(|from| from.contains(&packet.from.0))
            && condition.interface.as_ref().is_none_or(|interface| interface == name)
    });
    match holding.next().and_then(|candidate| candidate.outcome) {
        Some(outcome) => Meaning::Request(outcome.service, outcome.target.unwrap_or(packet.to.1)),
        None => Meaning::Not(Reason::NotMember),
    }
}

/// What a packet of a real server under NAT is.
fn reply(plan: &Plan, packet: &Packet) -> Option<Meaning> {
    let address = packet.from.0;
    let key = ReplyPort { address, protocol: packet.protocol, port: packet.from.1 };
    let known = plan.replies.keys().any(|key| key.address == address) || plan.range_nodes.contains(&address);
    known.then(|| match plan.replies.get(&key) {
        Some(Reply::Unique { service, vip, port, .. }) => Meaning::Reply(Some((*service, *vip, *port))),
        Some(Reply::Ambiguous) => Meaning::Reply(None),
        None if plan.range_nodes.contains(&address) => Meaning::Reply(None),
        None => Meaning::Not(Reason::NotAReply),
    })
}

/// As the engine finds it in the tables.
fn by_tables(director: &Director, packet: &Packet) -> Meaning {
    let view = director.view();
    let control = director.memory.control();
    let (family, source) = address(packet.from.0);
    let (_, destination) = address(packet.to.0);
    let headers = Headers {
        source,
        destination,
        source_port: packet.from.1,
        destination_port: packet.to.1,
        family,
        protocol: packet.protocol.number(),
        ..Headers::default()
    };
    let Some(party) = classify::party(&view, &control, &headers) else { return Meaning::Not(Reason::NotOurs) };
    let plan_index = |number: u32| {
        let mut services = director.plan.services.iter();
        services.position(|s| director.ids.service(&s.name, s.family) == Some(number)).expect("a service of the plan")
    };
    match classify::class(&view, &control, &party, &headers, packet.interface) {
        Ok(Class::Request { service, port, .. }) => Meaning::Request(plan_index(service), port),
        Ok(Class::Reply { unique, .. }) => Meaning::Reply(unique.map(|unique| {
            let vip = view.vip(unique.vip).unwrap().address;
            (plan_index(unique.service), marca_tables::classifier::ip(family, &vip), unique.port)
        })),
        Err(reason) => Meaning::Not(reason),
    }
}

const HOSTS: [&str; 7] =
    ["192.0.2.0", "192.0.2.1", "192.0.2.2", "192.0.2.5", "2001:db8::", "2001:db8::1", "2001:db8::5"];
const NETS: [&str; 9] = [
    "192.0.2.0/24",
    "192.0.2.0/31",
    "192.0.2.0/30",
    "192.0.2.1/32",
    "0.0.0.0/0",
    "2001:db8::/32",
    "2001:db8::/126",
    "2001:db8::1/128",
    "::/0",
];
const CLIENTS: [&str; 6] =
    ["198.51.100.1", "198.51.100.200", "203.0.113.1", "192.0.2.1", "2001:db8:ff::1", "2001:db9::1"];
const SOURCES: [&str; 5] = ["198.51.100.0/24", "198.51.100.128/25", "0.0.0.0/0", "2001:db8:ff::/48", "2001:db9::1/128"];
const PORTS: [u16; 9] = [0, 1, 79, 80, 81, 443, 8443, 9000, 65535];

fn port() -> impl Strategy<Value = u16> {
    select(PORTS.to_vec())
}

fn members() -> impl Strategy<Value = Vec<MemberPort>> {
    let protocol = || select(Protocol::ALL.to_vec());
    let member = prop_oneof![
        4 => (protocol(), port()).prop_map(|(protocol, port)| range(protocol, port, port)),
        1 => Just(mapped(443, 8443)),
        2 => (protocol(), port(), port()).prop_map(|(protocol, a, b)| range(protocol, a.min(b), a.max(b))),
    ];
    // The loader refuses what overlaps without being narrower.
    vec(member, 1..5).prop_map(|members| {
        let mut kept: Vec<MemberPort> = Vec::new();
        for member in members {
            let overlaps = |other: &MemberPort| {
                let (a, b) = (other.matching, member.matching);
                a.protocol == b.protocol && a.ports.overlaps(b.ports)
            };
            if !kept.iter().any(overlaps) {
                kept.push(member);
            }
        }
        kept
    })
}

fn mark(value: u32) -> Mark {
    Mark(NonZeroU32::new(value).unwrap())
}

fn rules() -> impl Strategy<Value = Vec<MarkRule>> {
    let nets = |all: &[&str], count| {
        let nets: Vec<IpNet> = all.iter().map(|net| net.parse().unwrap()).collect();
        subsequence(nets, count)
    };
    let interfaces = subsequence(vec!["eth0".to_owned(), "eth1".to_owned()], 0..=2);
    let rule = (1u32..4, nets(&NETS, 1..=3), nets(&SOURCES, 0..=2), members(), any::<bool>(), interfaces).prop_map(
        |(value, to, from, members, all, interfaces)| MarkRule {
            value: mark(value),
            to,
            from,
            ports: if all { Vec::new() } else { members.iter().map(|member| member.matching).collect() },
            interfaces,
        },
    );
    vec(rule, 0..4)
}

/// Each host belongs to one service by ports at the most, as the loader would have it.
fn configurations() -> impl Strategy<Value = Config> {
    let ports = vec(members(), HOSTS.len());
    let servers = vec(subsequence((0u16..6).collect::<Vec<_>>(), 1..=3), HOSTS.len() + 3);
    (rules(), ports, servers, subsequence((0..HOSTS.len()).collect::<Vec<_>>(), 1..=5)).prop_map(
        |(marks, ports, servers, used)| {
            let mut services = Vec::new();
            for host in used {
                services.push(service(&format!("port{host}"), &[HOSTS[host]], &ports[host]));
            }
            for value in 1..=2 {
                let mut by_mark = service(&format!("mark{value}"), &[], &[]);
                by_mark.selector =
                    Selector::Mark { mark: mark(value), vips: Vec::new(), target: (value == 2).then_some(8080) };
                services.push(by_mark);
            }
            for (service, servers) in services.iter_mut().zip(servers) {
                service.servers = servers.into_iter().map(|number| server(number, 1)).collect();
            }
            Config { marks, ..config(services) }
        },
    )
}

fn packets() -> impl Strategy<Value = Vec<Packet>> {
    let nodes = (0u16..7).flat_map(addresses);
    let from: Vec<IpAddr> = CLIENTS.iter().map(|text| ip(text)).chain(nodes.clone()).collect();
    let to: Vec<IpAddr> = HOSTS.iter().chain(&CLIENTS).map(|text| ip(text)).chain(nodes).collect();
    let packet = (select(from), port(), select(to), port(), select(Protocol::ALL.to_vec()), 1u32..4).prop_map(
        |(from, from_port, to, to_port, protocol, interface)| Packet {
            from: (from, from_port),
            to: (to, to_port),
            protocol,
            interface,
        },
    );
    let one_family =
        |packets: Vec<Packet>| packets.into_iter().filter(|p| p.from.0.is_ipv4() == p.to.0.is_ipv4()).collect();
    vec(packet, 300).prop_map(one_family)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn packets_meet_the_plan_that_was_written_last(configs in vec(configurations(), 1..4), packets in packets()) {
        let mut director = Director::new(Capacity { services: 64, reals: 256, half: 1024, ..SMALL });
        for config in configs {
            // Too many conditions at one place are refused before any table sees them.
            if Plan::of(&config).is_err() {
                continue;
            }
            // Who is leaving has connections that a fresh director does not know.
            director.pass();
            director.apply(&config);
            director.release_numbers();
            director.apply(&config);
            for packet in &packets {
                prop_assert_eq!(by_tables(&director, packet), by_plan(&director.plan, packet), "{:?}", packet);
            }
        }
    }
}

/// Cells of the half in force that are taken.
fn taken(director: &Director) -> (usize, usize) {
    let (memory, control) = (&director.memory, director.memory.control());
    let half = |mask: u32| control.half * (mask + 1)..(control.half + 1) * (mask + 1);
    let addresses = half(control.address_mask).filter(|&at| memory.addresses.get(at).unwrap().family != 0);
    let ports = half(control.port_mask).filter(|&at| memory.ports.get(at).unwrap().key != 0);
    (addresses.count(), ports.count())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_classifier_brought_up_to_date_is_as_one_written_anew(
        configs in vec((configurations(), any::<bool>()), 2..7),
        packets in packets(),
    ) {
        let mut director = Director::new(Capacity { services: 64, reals: 256, half: 1024, ..SMALL });
        for (config, release) in configs.iter().filter(|(config, _)| Plan::of(config).is_ok()) {
            director.replace(config);
            if *release {
                director.pass();
                director.release_numbers();
                director.replace(config);
            }
            let anew = director.anew();
            prop_assert_eq!(taken(&director), taken(&anew));
            for packet in &packets {
                prop_assert_eq!(by_tables(&director, packet), by_tables(&anew, packet), "{:?}", packet);
            }
        }
    }
}

#[test]
fn what_was_replaced_leaves_room_again_when_the_half_is_full() {
    let mut shop = service("shop", &["192.0.2.10"], &[tcp(80), range(Protocol::Udp, 100, 200)]);
    shop.servers = vec![server(1, 1)];
    let mut director = Director::with(SMALL, &config([shop.clone()]));
    for number in 1..1000u16 {
        let last = 200 + number % 7;
        shop.selector =
            service("shop", &["192.0.2.10"], &[tcp(80 + number % 5), range(Protocol::Udp, 100, last)]).selector;
        let written = director.memory.control().written;
        director.replace(&config([shop.clone()]));
        assert_eq!(director.memory.control().written, written + 1);
        let packet = |protocol, port| Packet {
            from: (ip("198.51.100.1"), 999),
            to: (ip("192.0.2.10"), port),
            protocol,
            interface: 1,
        };
        assert_eq!(by_tables(&director, &packet(Protocol::Udp, last)), Meaning::Request(0, last));
        assert_eq!(by_tables(&director, &packet(Protocol::Udp, last + 1)), Meaning::Not(Reason::NotMember));
        assert_eq!(by_tables(&director, &packet(Protocol::Tcp, 80 + number % 5)), Meaning::Request(0, 80 + number % 5));
    }
}

#[test]
fn a_real_server_that_is_leaving_is_known_by_the_records_of_its_connections() {
    let mut shop = service("shop", &["192.0.2.10"], &[tcp(80), udp(53)]);
    shop.servers = vec![server(1, 1), server(2, 1)];
    let mut director = Director::with(SMALL, &config([shop.clone()]));
    shop.servers.remove(0);
    director.apply(&config([shop]));
    let reply = |number, port| Packet {
        from: (addresses(number)[0], port),
        to: (ip("198.51.100.1"), 999),
        protocol: Protocol::Tcp,
        interface: 2,
    };
    assert_eq!(by_tables(&director, &reply(1, 80)), Meaning::Reply(None));
    assert_eq!(by_tables(&director, &reply(2, 80)), Meaning::Reply(Some((0, ip("192.0.2.10"), 80))));
    assert_eq!(by_tables(&director, &reply(2, 81)), Meaning::Not(Reason::NotAReply));
}

#[test]
fn a_plan_that_does_not_fit_leaves_the_one_in_force_as_it_is() {
    let mut shop = service("shop", &["192.0.2.10"], &[tcp(80)]);
    shop.servers = vec![server(1, 1)];
    let mut director = Director::with(SMALL, &config([shop.clone()]));
    let before = director.memory.control();
    let ports: Vec<MemberPort> = (0..600).map(|n| range(Protocol::Udp, n * 100, n * 100 + 1)).collect();
    let mut wide = service("wide", &["192.0.2.11"], &ports);
    wide.servers = shop.servers.clone();
    let plan = Plan::of(&config([wide, shop])).unwrap();
    director.ids.assign(&plan, 8, 64).unwrap();
    let refused = marca_tables::classifier::write(&director.memory, &plan, &director.ids, &Default::default());
    assert!(refused.is_err());
    assert_eq!(director.memory.control(), before);
    let packet =
        Packet { from: (ip("198.51.100.1"), 999), to: (ip("192.0.2.10"), 80), protocol: Protocol::Tcp, interface: 1 };
    assert_eq!(by_tables(&director, &packet), Meaning::Request(0, 80));
}

#[test]
fn an_address_is_of_its_family() {
    let v4 = Address::v4([1, 2, 3, 4]);
    assert_eq!(address(ip("1.2.3.4")), (V4, v4));
    assert_eq!(address(ip("::1.2.3.4")), (V6, v4), "the same words, told apart by the family beside them");
    assert_eq!(Family::of(ip("::1.2.3.4")), Family::V6);
    assert_eq!(PortRange::ALL.last, u16::MAX);
}
