//! Ten thousand services of ten real servers each.

use crate::configuration::{config, service, tcp, udp};
use crate::director::{CLOCK, Director, SMALL, Seen};
use crate::packet::{Segment, Way};
use marca_config::model::{Config, Forward, Limits, Scheduler, Server};
use marca_config::plan::{Family, Plan};
use marca_engine::layout::{Real, Server as Listed, ServiceCell};
use marca_engine::tables::Tables;
use marca_tables::{Capacity, services};
use std::net::Ipv4Addr;

const SERVICES: u32 = 10_000;

fn vip(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0xac10_0000 + number)
}

fn real(service: u32, server: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_0000 + service * 16 + server)
}

/// Each scheduler in its turn.
fn configuration() -> Config {
    let service = |number: u32| {
        let mut service = service(&format!("s{number}"), &[&vip(number).to_string()], &[tcp(80), udp(443)]);
        service.scheduler = Scheduler::ALL[number as usize % Scheduler::ALL.len()];
        service.servers = (0..10)
            .map(|server| Server {
                name: format!("{server}"),
                addresses: vec![real(number, server).into()],
                weight: 1 + server as u16,
                upper: 0,
                lower: 0,
                forward: Forward::Nat,
                drain: None,
            })
            .collect();
        service
    };
    config((0..SERVICES).map(service).collect::<Vec<_>>())
}

fn check(director: &Director, number: u32) {
    let way = Way {
        protocol: 6,
        from: (Ipv4Addr::new(198, 51, 100, number as u8).into(), 40_000 + (number % 20_000) as u16),
        to: (vip(number).into(), 80),
    };
    let Seen::Server(address, 80) = director.request(&way, Segment::Syn) else { panic!("service {number}") };
    assert!((0..10).any(|server| address == real(number, server)), "{address} is not of service {number}");
    assert_eq!(director.request(&way, Segment::Data), Seen::Server(address, 80));
    let reply = Way { from: (address, 80), to: way.from, ..way };
    assert_eq!(director.reply(&reply, Segment::Data), Seen::Client(way.to.0, 80));
}

/// Everything that services are made of.
#[derive(PartialEq)]
struct Snapshot {
    services: Vec<ServiceCell>,
    servers: Vec<Listed>,
    reals: Vec<Real>,
    slots: Vec<u64>,
}

fn snapshot(director: &Director) -> Snapshot {
    let memory = &director.memory;
    Snapshot {
        services: (0..memory.services.len()).map(|i| memory.services.get(i).unwrap()).collect(),
        servers: (0..memory.servers.len()).map(|i| memory.servers.get(i).unwrap()).collect(),
        // A weight is beside what packets read.
        reals: (0..memory.reals.len()).map(|i| Real { last_weight: 0, ..memory.reals.get(i).unwrap() }).collect(),
        slots: (0..memory.slots.len()).map(|i| memory.slots.at(i).unwrap().get()).collect(),
    }
}

#[test]
fn ten_thousand_services_are_written_and_a_change_of_one_rewrites_that_one() {
    let mut config = configuration();
    let plan = Plan::of(&config).unwrap();
    let limits = Limits { flows: 1 << 15, half_open: SMALL.half_open, templates: SMALL.templates };
    let capacity = Capacity::for_plan(&plan, &limits);
    assert!(capacity.holds(&plan));
    let mut director = Director::with(capacity, &config);
    (0..SERVICES).step_by(7).for_each(|number| check(&director, number));

    // The same plan again writes nothing.
    let before = snapshot(&director);
    services::write(&director.memory, &director.plan, &director.ids, CLOCK).unwrap();
    assert!(snapshot(&director) == before);

    for changed in [4320u32, 4321, 4324, 4325] {
        let before = snapshot(&director);
        config.services[changed as usize].servers[3].weight += 5;
        let plan = Plan::of(&config).unwrap();
        services::write(&director.memory, &plan, &director.ids, CLOCK).unwrap();
        director.plan = plan;
        let after = snapshot(&director);
        let number = director.ids.service(&format!("s{changed}"), Family::V4).unwrap();
        let differing: Vec<usize> =
            (0..before.services.len()).filter(|&i| before.services[i] != after.services[i]).collect();
        assert_eq!(differing, [number as usize]);
        assert!(before.reals == after.reals);
        let new = director.view().service(number).unwrap();
        let outside = |start: u32, len: u32| move |i: &usize| *i < start as usize || *i >= (start + len) as usize;
        let slots = (0..before.slots.len()).filter(outside(new.slots, new.slots_len));
        assert!(slots.into_iter().all(|i| before.slots[i] == after.slots[i]), "only its own slots were written");
        let servers = (0..before.servers.len()).filter(outside(new.servers, new.servers_len));
        assert!(servers.into_iter().all(|i| before.servers[i] == after.servers[i]), "only its own list was written");
        [changed - 1, changed, changed + 1].into_iter().for_each(|number| check(&director, number));
    }
    director.check_loads();
}
