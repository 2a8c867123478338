//! Persistence: a client's template brings all its connections to one real server.

use crate::configuration::{
    addresses, config, ip, mapped, persist, persistence, range, sctp, server, service, tcp, udp, unlimited,
};
use crate::director::{Director, SMALL, Seen};
use crate::packet::{Segment, Way};
use marca_config::model::{Protocol, Scheduler, Service};
use marca_engine::tables::CellTable;
use marca_tables::sweep::Counted;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// What clients ask for: protocol and port.
const MEMBERS: [(u8, u16); 6] = [(6, 80), (6, 443), (17, 53), (17, 443), (132, 5000), (6, 9005)];

/// Remembers its clients for 100 seconds.
fn shop(scheduler: Scheduler) -> Service {
    let ports = [tcp(80), mapped(443, 8443), udp(53), udp(443), sctp(5000), range(Protocol::Tcp, 9000, 9009)];
    let mut shop = service("shop", &["192.0.2.10", "192.0.2.11", "2001:db8::10"], &ports);
    shop.scheduler = scheduler;
    shop.persistence = persist(100);
    shop.servers = (0..5).map(|number| server(number, 1)).collect();
    shop
}

struct Clients {
    next_port: u16,
}

impl Clients {
    /// A new connection, with its handshake if there is one; answers where it went.
    fn open(&mut self, director: &Director, client: IpAddr, vip: &str, member: (u8, u16)) -> (Way, IpAddr) {
        self.next_port += 1;
        let way = Way { protocol: member.0, from: (client, self.next_port), to: (ip(vip), member.1) };
        let seen = director.request(&way, Segment::Syn);
        let Seen::Server(address, _) = seen else { panic!("{seen:?} of {way:?}") };
        assert_eq!(director.request(&way, Segment::Data), seen);
        (way, address)
    }

    fn go(&mut self, director: &Director, client: &str) -> IpAddr {
        self.open(director, ip(client), "192.0.2.10", (6, 80)).1
    }
}

fn clients() -> Clients {
    Clients { next_port: 20_000 }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_clients_connections_to_every_port_protocol_and_address_meet_one_server() {
    for scheduler in unlimited() {
        let director = Director::with(SMALL, &config([shop(scheduler)]));
        let mut clients = clients();
        let mut used = BTreeSet::new();
        for number in 0..40u16 {
            let v4 = Ipv4Addr::new(198, 51, 100, number as u8).into();
            let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, number).into();
            for (client, vips) in [(v4, &["192.0.2.10", "192.0.2.11"][..]), (v6, &["2001:db8::10"])] {
                // Whichever comes first.
                let members = (0..12).map(|i| MEMBERS[(i + usize::from(number)) % MEMBERS.len()]);
                let mut asked = members.enumerate();
                let went = |(i, member)| clients.open(&director, client, vips[i % vips.len()], member).1;
                let servers: BTreeSet<IpAddr> = asked.by_ref().map(went).collect();
                assert_eq!(servers.len(), 1, "{client} under {}", scheduler.name());
                used.extend(servers);
            }
        }
        // The others prefer one server, or one for each destination.
        if !matches!(scheduler, Scheduler::Fo | Scheduler::Dh | Scheduler::Lblc | Scheduler::Lblcr) {
            assert_eq!(used.len(), 10, "different clients meet different servers under {}", scheduler.name());
        }
    }
}

#[test]
fn an_unfinished_handshake_brings_the_clients_next_connections_to_its_server() {
    let director = Director::with(SMALL, &config([shop(Scheduler::Rr)]));
    let syn = |port| {
        let way = Way { protocol: 6, from: (ip("198.51.100.1"), port), to: (ip("192.0.2.10"), 80) };
        director.request(&way, Segment::Syn)
    };
    let first = syn(1);
    assert_eq!(director.records(CellTable::Templates).len(), 0, "only a client that is there has a template");
    assert!((2..10).all(|port| syn(port) == first));
    let way = Way { protocol: 6, from: (ip("198.51.100.1"), 5), to: (ip("192.0.2.10"), 80) };
    assert_eq!(director.request(&way, Segment::Data), first);
    assert_eq!(director.records(CellTable::Templates).len(), 1);
    assert!((10..20).all(|port| syn(port) == first));
}

#[test]
fn new_connections_renew_a_template_and_packets_do_not() {
    let mut director = Director::with(SMALL, &config([shop(Scheduler::Rr)]));
    let mut clients = clients();
    let expires = |director: &Director| director.records(CellTable::Templates)[0].1.seen;
    let (way, first) = clients.open(&director, ip("198.51.100.1"), "192.0.2.10", (6, 80));
    let begun = expires(&director);
    for _ in 0..5 {
        director.wait(seconds(15));
        director.request(&way, Segment::Data);
        assert_eq!(expires(&director), begun);
    }
    let (_, second) = clients.open(&director, ip("198.51.100.1"), "192.0.2.10", (6, 443));
    assert_eq!(second, first);
    assert_eq!(expires(&director), begun + crate::director::CLOCK.ticks(seconds(75)));
}

#[test]
fn a_template_is_held_while_connections_live_and_gone_after_them() {
    let mut director = Director::with(SMALL, &config([shop(Scheduler::Rr)]));
    let mut clients = clients();
    let (way, first) = clients.open(&director, ip("198.51.100.1"), "192.0.2.10", (6, 80));
    for _ in 0..10 {
        director.wait(seconds(60));
        director.request(&way, Segment::Data);
    }
    assert_eq!(director.records(CellTable::Templates).len(), 1);
    assert_eq!(clients.go(&director, "198.51.100.1"), first);
    director.wait(seconds(101));
    director.request(&way, Segment::Fin);
    director.pass();
    assert_eq!(director.records(CellTable::Templates).len(), 1, "the second connection lives");
    director.wait(seconds(1000));
    assert_eq!(director.records(CellTable::Templates).len(), 0);
}

#[test]
fn a_template_without_connections_is_gone_after_its_time_and_a_pass() {
    for proved in [true, false] {
        let mut director = Director::with(SMALL, &config([shop(Scheduler::Rr)]));
        let way = Way { protocol: 6, from: (ip("198.51.100.1"), 77), to: (ip("192.0.2.10"), 80) };
        director.request(&way, Segment::Syn);
        if proved {
            director.request(&way, Segment::Data);
            director.request(&way, Segment::Reset);
            director.wait(seconds(99));
            assert_eq!(director.records(CellTable::Templates).len(), 1);
            director.wait(seconds(1));
        } else {
            director.wait(seconds(61));
        }
        let left: usize = [CellTable::Flows, CellTable::HalfOpen, CellTable::Templates]
            .map(|table| director.records(table).len())
            .iter()
            .sum();
        assert_eq!(left, 0, "proved: {proved}");
    }
}

#[test]
fn a_template_that_is_renewed_during_a_pass_outlives_the_pass() {
    let mut director = Director::with(SMALL, &config([shop(Scheduler::Rr)]));
    let mut clients = clients();
    let cells = director.memory.flows.len() + director.memory.half_open.len() - 1;
    assert!(!director.sweep.step(&director.memory, director.now, cells).1);
    let first = clients.go(&director, "198.51.100.1");
    director.now += crate::director::CLOCK.ticks(seconds(150));
    assert!(director.sweep.step(&director.memory, director.now, cells).1);
    assert_eq!(clients.go(&director, "198.51.100.1"), first, "its connection has lived all the time");
}

#[test]
fn a_pass_counts_the_records_that_it_leaves() {
    let mut director = Director::with(SMALL, &config([shop(Scheduler::Rr)]));
    let mut clients = clients();
    assert_eq!(director.sweep.counted(), None, "nobody has looked yet");
    for number in 1..=5 {
        clients.go(&director, &format!("198.51.100.{number}"));
    }
    director.pass();
    let counted = director.sweep.counted().unwrap();
    assert_eq!(counted, Counted::now(&director.memory));
    assert!(counted.flows + counted.half_open >= 5 && counted.templates + counted.half_open >= 5, "{counted:?}");
    // All of it times out.
    director.wait(seconds(3000));
    director.pass();
    assert_eq!(director.sweep.counted(), Some(Counted::default()));
}

#[test]
fn clients_of_a_removed_server_move_at_once_and_together() {
    for scheduler in unlimited() {
        for unfinished in [false, true] {
            let mut pool = shop(scheduler);
            let mut director = Director::with(SMALL, &config([pool.clone()]));
            let mut clients = clients();
            let names: Vec<String> = (0..30).map(|n| format!("198.51.100.{n}")).collect();
            let before: Vec<IpAddr> = names
                .iter()
                .map(|name| match unfinished {
                    false => clients.go(&director, name),
                    true => {
                        let way = Way { protocol: 6, from: (ip(name), 7), to: (ip("192.0.2.10"), 80) };
                        let Seen::Server(address, _) = director.request(&way, Segment::Syn) else { panic!() };
                        address
                    }
                })
                .collect();
            pool.servers.remove(1);
            director.apply(&config([pool.clone()]));
            let syn = |name: &str, port| {
                let way = Way { protocol: 6, from: (ip(name), port), to: (ip("192.0.2.10"), 80) };
                let Seen::Server(address, _) = director.request(&way, Segment::Syn) else { panic!() };
                address
            };
            for (name, before) in names.iter().zip(before) {
                let after: BTreeSet<IpAddr> = (100..110).map(|port| syn(name, port)).collect();
                assert_eq!(after.len(), 1, "{name} under {}, unfinished: {unfinished}", scheduler.name());
                assert!(!after.contains(&addresses(1)[0]));
                assert!(before == addresses(1)[0] || after.contains(&before), "{name} had no reason to move");
            }
        }
    }
}

#[test]
fn a_drained_server_keeps_the_clients_it_has() {
    for scheduler in unlimited() {
        let mut pool = shop(scheduler);
        let mut director = Director::with(SMALL, &config([pool.clone()]));
        let mut clients = clients();
        let names: Vec<String> = (0..30).map(|n| format!("198.51.100.{n}")).collect();
        let before: Vec<IpAddr> = names.iter().map(|name| clients.go(&director, name)).collect();
        pool.servers[1].weight = 0;
        director.apply(&config([pool.clone()]));
        let after: Vec<IpAddr> = names.iter().map(|name| clients.go(&director, name)).collect();
        assert_eq!(before, after);
        let new: Vec<IpAddr> = (0..30).map(|n| clients.go(&director, &format!("203.0.113.{n}"))).collect();
        assert!(!new.contains(&addresses(1)[0]), "it takes no new ones under {}", scheduler.name());
    }
}

#[test]
fn a_template_does_not_lead_to_whoever_has_its_servers_number_next() {
    let mut pool = shop(Scheduler::Rr);
    pool.servers.truncate(2);
    let mut director = Director::with(SMALL, &config([pool.clone()]));
    let mut clients = clients();
    let names: Vec<String> = (0..20).map(|n| format!("198.51.100.{n}")).collect();
    for name in &names {
        let (way, _) = clients.open(&director, ip(name), "192.0.2.10", (6, 80));
        director.request(&way, Segment::Reset);
    }
    director.wait(seconds(20));
    pool.servers.remove(0);
    director.apply(&config([pool.clone()]));
    director.wait(seconds(5));
    director.release_numbers();
    pool.servers.extend((10..14).map(|number| server(number, 1)));
    director.apply(&config([pool]));
    let mut counts = [0; 4];
    for name in &names {
        let went = clients.go(&director, name);
        (10..14)
            .filter(|&number| went == addresses(number)[0])
            .for_each(|number| counts[usize::from(number - 10)] += 1);
    }
    assert!(counts.iter().all(|&count| count <= 3), "the ten that lost their server are spread: {counts:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn clients_equal_under_the_netmask_are_one_client(
        mask: [u8; 4], bits in 0u8..=128, one: [u8; 4], other: [u8; 4], one_v6: u128, other_v6: u128, table: bool,
    ) {
        let mut pool = shop(if table { Scheduler::Maglev } else { Scheduler::Rr });
        pool.persistence = persistence(100, mask.into(), bits);
        let director = Director::with(SMALL, &config([pool]));
        let mut clients = clients();
        let mut same = |one: IpAddr, other: IpAddr, vip: &str| {
            let first = clients.open(&director, one, vip, (6, 80)).1;
            (0..5).all(|_| clients.open(&director, other, vip, (6, 443)).1 == first)
        };
        let [mask, one, other] = [mask, one, other].map(u32::from_be_bytes);
        // Another client, and another way to write the same one.
        let like = one & mask | other & !mask;
        prop_assume!(![one, other, like].contains(&u32::from(Ipv4Addr::UNSPECIFIED)));
        prop_assert!(same(Ipv4Addr::from(one).into(), Ipv4Addr::from(like).into(), "192.0.2.10"));
        let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
        let like = one_v6 & mask | other_v6 & !mask;
        prop_assert!(same(Ipv6Addr::from(one_v6).into(), Ipv6Addr::from(like).into(), "2001:db8::10"));
    }
}

#[test]
fn clients_that_the_netmask_tells_apart_are_two() {
    let mut pool = shop(Scheduler::Rr);
    pool.persistence = persistence(100, Ipv4Addr::new(255, 0, 255, 0), 48);
    let director = Director::with(SMALL, &config([pool]));
    let mut clients = clients();
    let first = clients.go(&director, "10.1.5.1");
    assert_eq!(clients.go(&director, "10.99.5.200"), first);
    assert_ne!(clients.go(&director, "10.1.6.1"), first);
}
