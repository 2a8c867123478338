//! A flood of forged clients pushes out only each other.

use crate::configuration::{config, ip, persist, server, service, tcp, udp};
use crate::director::{Director, SECOND, SMALL, Seen};
use crate::packet::{Segment, Way};
use marca_config::model::{RateLimit, Scheduler};
use marca_engine::Reason;
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

/// At the sizes that a director has: SYNs of four million sources, and then single datagrams of another million.
#[test]
fn four_million_forged_sources_touch_no_lasting_record_and_cost_no_more_than_the_first() {
    const SIZES: Capacity = Capacity { flows: 1 << 20, half_open: 1 << 18, templates: 1 << 18, ..SMALL };
    const CLIENTS: u32 = 100_000;
    let mut shop = service("shop", &["192.0.2.10"], &[tcp(80), tcp(443), udp(53)]);
    shop.persistence = persist(300);
    shop.servers = (0..5).map(|number| server(number, 1)).collect();
    let mut director = Director::with(SIZES, &config([shop]));
    let way = |client: u32, protocol, port| {
        let client: IpAddr = Ipv4Addr::from(0xc633_0000 + client).into();
        Way { protocol, from: (client, 5000), to: (ip("192.0.2.10"), port) }
    };
    let homes: Vec<Seen> = (0..CLIENTS)
        .map(|client| {
            let seen = director.request(&way(client, 6, 80), Segment::Syn);
            assert_eq!(director.request(&way(client, 6, 80), Segment::Data), seen);
            seen
        })
        .collect();
    let lasting = |director: &Director| [CellTable::Flows, CellTable::Templates].map(|table| director.records(table));
    let before = lasting(&director);
    // Some few find both of their buckets taken.
    assert!(before.iter().all(|records| records.len() as u32 > CLIENTS - 10));
    for (protocol, sources, port) in [(6, 4_000_000, 443), (17, 1_000_000, 53)] {
        let mut most = 0;
        let first = Way { protocol, from: (Ipv4Addr::from(0x0b00_0000).into(), 99), to: (ip("192.0.2.10"), port) };
        let mut frame = first.frame(Segment::Syn);
        for number in 0..sources {
            frame[26..30].copy_from_slice(&(0x0b00_0000u32 + number).to_be_bytes());
            let mut view = director.view();
            let mut sent = marca_tables::Frame::new(frame.clone(), 1);
            let outcome = marca_engine::process(&mut sent, &mut view);
            assert_eq!(outcome.reason, Reason::Nat, "a new client is served all the time");
            most = view.looks.get().max(most);
            if number % 500_000 == 0 {
                director.now += 1;
            }
        }
        // Two buckets for each look-up, and twice that to insert: of the flow, of its half-open record, and of the
        // template in both tables, however full these are.
        assert!(most <= 100, "{most} records were looked at for one packet");
        assert!(lasting(&director) == before, "protocol {protocol}");
    }
    for (client, home) in (0..CLIENTS).zip(homes).step_by(97) {
        assert_eq!(director.request(&way(client, 6, 80), Segment::Data), home);
        let Seen::Server(address, _) = home else { panic!("{home:?}") };
        assert_eq!(director.request(&way(client, 17, 53), Segment::Data), Seen::Server(address, 53));
    }
}

#[test]
fn a_client_of_single_datagrams_keeps_its_server_when_nobody_floods() {
    let mut shop = service("shop", &["192.0.2.10"], &[udp(53)]);
    shop.persistence = persist(300);
    shop.servers = (0..5).map(|number| server(number, 1)).collect();
    let mut director = Director::with(CAPACITY, &config([shop]));
    let way = |port| Way { protocol: 17, from: (ip("198.51.100.1"), port), to: (ip("192.0.2.10"), 53) };
    let home = director.request(&way(1), Segment::Data);
    for port in 2..20 {
        director.wait(std::time::Duration::from_secs(200));
        assert_eq!(director.request(&way(port), Segment::Data), home);
    }
    assert_eq!(director.records(CellTable::Templates).len(), 0);
    director.request(&way(19), Segment::Data);
    assert_eq!(director.records(CellTable::Templates).len(), 1, "a second datagram of one flow");
    director.wait(std::time::Duration::from_secs(700));
    assert_eq!(director.records(CellTable::HalfOpen).len(), 0);
    director.check_loads();
}

#[test]
fn a_service_takes_as_many_new_connections_as_its_rate_limit_says() {
    let mut shop = service("shop", &["192.0.2.10"], &[tcp(80)]);
    shop.rate_limit = Some(RateLimit { connections: 100, burst: 50 });
    shop.servers = (0..5).map(|number| server(number, 1)).collect();
    let mut other = service("other", &["192.0.2.20"], &[tcp(80)]);
    other.servers = vec![server(9, 1)];
    let mut director = Director::with(CAPACITY, &config([shop, other]));
    let mut number = 0;
    let mut syns = |director: &Director, vip: &str, count: u32| {
        let seen = (0..count).map(|_| {
            number += 1;
            let client: IpAddr = Ipv4Addr::from(0x0b00_0000 + number).into();
            director.request(&Way { protocol: 6, from: (client, 99), to: (ip(vip), 80) }, Segment::Syn)
        });
        let refused = seen.filter(|seen| *seen == Seen::Not(Reason::RateLimited)).count() as u32;
        count - refused
    };
    assert_eq!(syns(&director, "192.0.2.10", 1000), 50);
    assert_eq!(syns(&director, "192.0.2.20", 1000), 1000, "the other service has no limit");
    let mut taken = 0;
    for _ in 0..10 * SECOND {
        director.now += 1;
        taken += syns(&director, "192.0.2.10", 20);
    }
    assert!((990..=1010).contains(&taken), "{taken} in ten seconds");
    director.wait(std::time::Duration::from_secs(2));
    assert_eq!(syns(&director, "192.0.2.10", 1000), 50);
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
