//! A flood of forged clients pushes out only each other.

use crate::configuration::{config, ip, persist, server, service, tcp};
use crate::director::{Director, SMALL, Seen};
use crate::packet::{Segment, Way};
use marca_config::model::Scheduler;
use marca_engine::tables::CellTable;
use marca_tables::Capacity;
use std::net::{IpAddr, Ipv4Addr};

const CAPACITY: Capacity = Capacity { flows: 1 << 13, half_open: 1 << 12, templates: 1 << 12, ..SMALL };

fn flooded(scheduler: Scheduler, forged: u32) {
    let mut shop = service("shop", &["192.0.2.10"], &[tcp(80), tcp(443)]);
    shop.scheduler = scheduler;
    shop.persistence = persist(300);
    shop.servers = (0..5).map(|number| server(number, 1)).collect();
    let director = Director::with(CAPACITY, &config([shop.clone()]));
    let way = |client: u32, port| {
        let client: IpAddr = Ipv4Addr::from(0xc633_0000 + client).into();
        Way { protocol: 6, from: (client, 5000), to: (ip("192.0.2.10"), port) }
    };
    let established: Vec<(Way, Seen)> = (0..500)
        .map(|client| way(client, 80))
        .map(|way| {
            let seen = director.request(&way, Segment::Syn);
            assert_eq!(director.request(&way, Segment::Data), seen);
            (way, seen)
        })
        .collect();
    // So that no slot says where a client went.
    let mut director = director;
    shop.servers.remove(0);
    shop.servers[0].weight = 7;
    director.apply(&config([shop]));
    for number in 0..forged {
        let forged: IpAddr = Ipv4Addr::from(0x0b00_0000 + number).into();
        let way = Way { protocol: 6, from: (forged, number as u16), to: (ip("192.0.2.10"), 443) };
        let seen = director.request(&way, Segment::Syn);
        assert!(matches!(seen, Seen::Server(..)), "a new client is served all the time: {seen:?}");
        if number % 50_000 == 0 {
            director.now += 1;
            director.pass();
        }
    }
    director.pass();
    assert_eq!(director.records(CellTable::Flows).len(), 500);
    assert_eq!(director.records(CellTable::Templates).len(), 500);
    let gone = crate::configuration::addresses(0)[0];
    for (way, went) in established {
        assert_eq!(director.request(&way, Segment::Data), went);
        let Seen::Server(address, _) = went else { panic!("{went:?}") };
        if address != gone {
            let next = Way { from: (way.from.0, 6000), to: (way.to.0, 443), ..way };
            assert_eq!(director.request(&next, Segment::Syn), Seen::Server(address, 443));
        }
    }
    director.check_loads();
}

#[test]
fn a_million_forged_clients_evict_no_connection_and_no_template() {
    flooded(Scheduler::Wlc, 1_000_000);
}

#[test]
fn nor_do_they_where_a_table_decides() {
    flooded(Scheduler::Maglev, 300_000);
}

#[test]
fn a_client_that_answers_during_a_flood_is_let_in() {
    let mut shop = service("shop", &["192.0.2.10"], &[tcp(80)]);
    shop.servers = (0..3).map(|number| server(number, 1)).collect();
    let director = Director::with(CAPACITY, &config([shop]));
    let mut number = 0u32;
    for client in 0..200u32 {
        let client: IpAddr = Ipv4Addr::from(0xc633_0000 + client).into();
        let way = Way { protocol: 6, from: (client, 5000), to: (ip("192.0.2.10"), 80) };
        director.request(&way, Segment::Syn);
        // A round trip's worth of forged ones, an eighth of the table.
        for _ in 0..CAPACITY.half_open / 8 {
            number += 1;
            let forged: IpAddr = Ipv4Addr::from(0x0b00_0000 + number).into();
            director.request(&Way { from: (forged, 99), ..way }, Segment::Syn);
        }
        director.request(&way, Segment::Data);
    }
    let let_in = director.records(CellTable::Flows).len();
    // An eighth was overwritten since, if the victims were spread as evenly as can be.
    assert!(let_in >= 160, "{let_in} of 200");
}
