//! A configuration in the place of another one: packets cannot tell it from one that was loaded into empty tables.

use crate::configuration::{config, ip, mapped, range, server, service, tcp, udp};
use crate::director::{CLOCK, Director, SMALL, Seen};
use crate::packet::{Segment, Way};
use marca_config::model::{Config, MemberPort, Protocol, Scheduler};
use marca_config::plan::{Difference, Plan, ServicePlan};
use marca_tables::services::{NoRoom, Prepared};
use marca_tables::{Capacity, Memory};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::IpAddr;

const VIPS: [&str; 3] = ["192.0.2.10", "192.0.2.20", "2001:db8::10"];

const ROOM: Capacity = Capacity { services: 64, reals: 256, ..SMALL };

/// A service: its VIPs as bits, one of the ways with ports, numbers and weights of its servers.
#[derive(Clone, Debug)]
struct Shape {
    name: usize,
    scheduler: Scheduler,
    vips: usize,
    ports: usize,
    servers: Vec<(u16, u16)>,
}

fn shapes() -> impl Strategy<Value = Vec<Shape>> {
    // Two at the most: tables of `maglev` have one size then, and do not depend on what was before.
    let servers = proptest::collection::btree_map(1u16..6, 0u16..4, 0..3);
    let scheduler = proptest::sample::select(Scheduler::ALL.to_vec());
    let shape = (scheduler, 1usize..8, 0usize..4, servers);
    let shapes = proptest::collection::btree_map(0usize..5, shape, 0..5).prop_map(|all| {
        let shape = |(name, (scheduler, vips, ports, servers)): (usize, (_, _, _, BTreeMap<u16, u16>))| {
            let servers = servers.into_iter().collect();
            Shape { name, scheduler, vips, ports, servers }
        };
        all.into_iter().map(shape).collect::<Vec<_>>()
    });
    shapes.prop_shuffle()
}

/// Ports that only this service has, however it is made.
fn ports(shape: &Shape) -> Vec<MemberPort> {
    let base = 1000 + shape.name as u16 * 100;
    match shape.ports {
        0 => vec![tcp(base)],
        1 => vec![tcp(base), udp(base + 1)],
        2 => vec![mapped(base, 8000 + shape.name as u16)],
        _ => vec![range(Protocol::Tcp, base, base + 9)],
    }
}

fn configuration(shapes: &[Shape]) -> Config {
    let service = |shape: &Shape| {
        let vips: Vec<&str> = (0..3).filter(|bit| shape.vips >> bit & 1 != 0).map(|bit| VIPS[bit]).collect();
        let mut service = service(&format!("s{}", shape.name), &vips, &ports(shape));
        service.scheduler = shape.scheduler;
        service.servers = shape.servers.iter().map(|&(number, weight)| server(number, weight)).collect();
        service
    };
    config(shapes.iter().map(service).collect::<Vec<_>>())
}

/// What becomes of new clients everywhere, and of the replies to them.
fn seen(director: &Director) -> Vec<(Seen, Option<Seen>)> {
    let ports = (0..5).flat_map(|name| [0, 1, 5, 50].map(|port| 1000 + name * 100 + port));
    let to: Vec<(IpAddr, u16)> = ports.flat_map(|port| VIPS.map(|vip| (ip(vip), port))).collect();
    let mut seen = Vec::new();
    for (protocol, client) in [(6, 1u8), (6, 2), (17, 3)] {
        for &to in &to {
            let from: IpAddr = match to.0 {
                IpAddr::V4(_) => [198, 51, 100, client].into(),
                IpAddr::V6(_) => [0x2001, 0xdb8, 9, 0, 0, 0, 0, u16::from(client)].into(),
            };
            let way = Way { protocol, from: (from, 40_000), to };
            let there = director.request(&way, Segment::Syn);
            let back = match there {
                Seen::Server(address, port) => {
                    Some(director.reply(&Way { from: (address, port), to: way.from, ..way }, Segment::SynAck))
                }
                _ => None,
            };
            seen.push((there, back));
        }
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_replaced_others_is_as_if_it_had_been_loaded_cold(all in proptest::collection::vec(shapes(), 2..5)) {
        let mut running = Director::with(ROOM, &configuration(&all[0]));
        for shapes in &all[1..] {
            running.replace(&configuration(shapes));
        }
        let cold = Director::with(ROOM, &configuration(&all[all.len() - 1]));
        prop_assert_eq!(seen(&running), seen(&cold));
    }

    #[test]
    fn the_same_again_writes_nothing(shapes in shapes()) {
        let mut director = Director::with(ROOM, &configuration(&shapes));
        let before = words(&director.memory);
        prop_assert!(director.replace(&configuration(&shapes)).is_empty());
        prop_assert!(words(&director.memory) == before);
    }

    #[test]
    fn what_has_no_room_changes_nothing(old in shapes(), new in shapes()) {
        let full = Capacity { servers: 4, slots: 400, ..ROOM };
        let mut director = Director::new(full);
        let old = configuration(&old);
        let fits = |plan: &Plan| {
            let servers: usize = plan.services.iter().map(|service| service.reals.len()).sum();
            let by_table = |s: &&ServicePlan| matches!(s.scheduler, Scheduler::Sh | Scheduler::Maglev | Scheduler::Dh);
            servers <= 4 && plan.services.iter().filter(by_table).count() < 2
        };
        prop_assume!(fits(&Plan::of(&old).unwrap()));
        director.start(&old);
        let plan = Plan::of(&configuration(&new)).unwrap();
        let difference = Difference::of(&director.plan, &plan);
        let before = words(&director.memory);
        let mut ids = director.ids.clone();
        ids.replace((&director.plan, &plan), &difference, full.services, full.reals).unwrap();
        let prepared: Result<Prepared, NoRoom> = Prepared::new(&director.memory, &plan, Some(&difference), &ids, CLOCK);
        prop_assert!(words(&director.memory) == before);
        if let Ok(prepared) = prepared {
            prepared.switch(&director.memory).follow(&director.memory);
        }
        // Taking the numbers back leaves those of the running plan as they were.
        let back = Difference::of(&plan, &director.plan);
        ids.replace((&plan, &director.plan), &back, full.services, full.reals).unwrap();
        for service in &director.plan.services {
            prop_assert_eq!(
                ids.service(&service.name, service.family),
                director.ids.service(&service.name, service.family)
            );
        }
    }
}

/// All that is written of a configuration.
fn words(memory: &Memory) -> Vec<u64> {
    let mut words: Vec<u64> = (0..memory.slots.len()).map(|i| memory.slots.at(i).unwrap().get()).collect();
    let servers = (0..memory.servers.len()).map(|i| memory.servers.get(i).unwrap());
    words.extend(servers.map(|server| u64::from(server.real) << 32 | u64::from(server.weight)));
    for index in 0..memory.services.len() {
        let cell = memory.services.get(index).unwrap();
        words.push(u64::from(cell.current));
        words.extend(
            cell.versions
                .iter()
                .flat_map(|v| [v.slots, v.slots_len, v.servers, v.servers_len, v.config])
                .map(u64::from),
        );
    }
    words.push(u64::from(memory.control().half));
    words
}
