//! Fullnat: no two connections have the same source towards the same port of a real server, replies find their clients,
//! and reverse records come and go with their connections.

use crate::configuration::{config, ip, server, service, tcp, udp};
use crate::director::{Director, SECOND, SMALL};
use crate::packet::{Segment, Way};
use marca_config::model::{Config, Forward, Scheduler, SourceRange};
use marca_engine::Reason;
use marca_engine::layout::state_bits;
use marca_engine::tables::CellTable;
use marca_tables::Capacity;
use std::collections::HashMap;
use std::time::Duration;

/// One address in each family.
fn shop(scheduler: Scheduler) -> Config {
    let mut shop = service("shop", &["192.0.2.10", "2001:db8::10"], &[tcp(80), udp(53)]);
    shop.scheduler = scheduler;
    shop.servers = vec![server(1, 1), server(2, 1)];
    shop.servers.iter_mut().for_each(|server| server.forward = Forward::FullNat);
    shop.sources = SOURCES.map(|source| SourceRange::new(ip(source), ip(source)).unwrap()).to_vec();
    config([shop])
}

const SOURCES: [&str; 2] = ["10.0.9.9", "fd00::9:9"];
const TCP: u8 = 6;
const UDP: u8 = 17;

fn way(protocol: u8, client: u16, port: u16) -> Way {
    let v6 = client % 2 == 1;
    let from = if v6 { format!("2001:db8:ff::{client:x}") } else { format!("198.51.{}.{}", client >> 8, client & 255) };
    let to = ip(if v6 { "2001:db8::10" } else { "192.0.2.10" });
    Way { protocol, from: (ip(&from), port), to: (to, if protocol == TCP { 80 } else { 53 }) }
}

/// What the real server sees of a client's packet.
fn seen(director: &Director, way: &Way, segment: Segment) -> Way {
    let (outcome, frame) = director.process(way.frame(segment), 1);
    assert_eq!(outcome.reason, Reason::FullNat);
    Way::of(&frame)
}

fn back(seen: &Way) -> Way {
    Way { protocol: seen.protocol, from: seen.to, to: seen.from }
}

/// The client's side of what a real server answers.
fn answered(director: &Director, seen: &Way, segment: Segment) -> Result<Way, Reason> {
    let (outcome, frame) = director.process(back(seen).frame(segment), 2);
    if outcome.reason == Reason::Reply { Ok(Way::of(&frame)) } else { Err(outcome.reason) }
}

fn reverse_records(director: &Director, table: CellTable) -> usize {
    director.records(table).iter().filter(|(_, record)| record.state & state_bits::REVERSE != 0).count()
}

#[test]
fn no_two_connections_look_alike_to_a_real_server_and_answers_find_their_clients() {
    let large = Capacity { flows: 1 << 14, half_open: 1 << 14, ..SMALL };
    for scheduler in [Scheduler::Rr, Scheduler::Wlc, Scheduler::Maglev] {
        let director = Director::with(large, &shop(scheduler));
        // As the real server sees them, and as the client does.
        let mut connections: HashMap<Way, Way> = HashMap::new();
        for client in 0..1000 {
            for (protocol, port) in [(TCP, 4242), (UDP, 4242), (TCP, 4243)] {
                let way = way(protocol, client, port);
                let at_server = seen(&director, &way, Segment::Syn);
                let before = connections.insert(at_server, way);
                assert_eq!(before, None, "{at_server:?}");
            }
        }
        for (&at_server, way) in &connections {
            assert_eq!(answered(&director, &at_server, Segment::SynAck), Ok(back(way)));
            assert_eq!(seen(&director, way, Segment::Data), at_server);
            assert_eq!(seen(&director, way, Segment::Data), at_server);
            assert_eq!(answered(&director, &at_server, Segment::Data), Ok(back(way)));
        }
        assert_eq!(reverse_records(&director, CellTable::HalfOpen), 0, "all handshakes are finished");
        assert_eq!(reverse_records(&director, CellTable::Flows), connections.len());
        director.check_loads();
    }
}

#[test]
fn reverse_records_end_after_their_connections() {
    let mut director = Director::with(SMALL, &shop(Scheduler::Maglev));
    let ways: Vec<Way> = (0..40).map(|client| way(if client < 20 { TCP } else { UDP }, client, 4242)).collect();
    let at_server: Vec<Way> = ways.iter().map(|way| seen(&director, way, Segment::Syn)).collect();
    ways.iter().for_each(|way| _ = seen(&director, way, Segment::Data));
    assert_eq!(reverse_records(&director, CellTable::Flows), 40);
    // Some close; others are silent.
    for (way, at_server) in ways.iter().zip(&at_server).take(10) {
        seen(&director, way, Segment::Fin);
        assert_eq!(answered(&director, at_server, Segment::Fin), Ok(back(way)));
    }
    director.wait(Duration::from_secs(100));
    assert_eq!(reverse_records(&director, CellTable::Flows), 40, "while the connections close they are remembered");
    director.wait(Duration::from_secs(120));
    assert_eq!(reverse_records(&director, CellTable::Flows), 30);
    assert_eq!(answered(&director, &at_server[0], Segment::Data), Err(Reason::NotAReply));
    // What only the real server sends keeps a connection, too.
    for _ in 0..20 {
        director.wait(Duration::from_secs(60));
        assert_eq!(answered(&director, &at_server[15], Segment::Data), Ok(back(&ways[15])));
    }
    assert_eq!(reverse_records(&director, CellTable::Flows), 1);
    director.wait(Duration::from_secs(1100));
    assert_eq!(reverse_records(&director, CellTable::Flows), 0);
    assert!(director.records(CellTable::Flows).is_empty());
    director.check_loads();
}

#[test]
fn half_open_connections_end_with_both_their_records() {
    let mut director = Director::with(SMALL, &shop(Scheduler::Rr));
    (0..100).for_each(|client| _ = seen(&director, &way(TCP, client, 4242), Segment::Syn));
    assert_eq!(reverse_records(&director, CellTable::HalfOpen), 100);
    director.wait(Duration::from_secs(130));
    assert!(director.records(CellTable::HalfOpen).is_empty());
    director.check_loads();
}

#[test]
fn a_flood_pushes_out_no_connection_under_fullnat() {
    let mut director = Director::with(SMALL, &shop(Scheduler::Rr));
    let ways: Vec<Way> = (0..50).map(|client| way(TCP, client, 4242)).collect();
    let at_server: Vec<Way> = ways.iter().map(|way| seen(&director, way, Segment::Syn)).collect();
    ways.iter().for_each(|way| _ = seen(&director, way, Segment::Data));
    for client in 0..20_000 {
        // A connection whose record another one's has pushed out at once is as lost as any other of a flood.
        let (outcome, _) =
            director.process(way(TCP, 1000 + client % 10_000, 5000 + client / 10_000).frame(Segment::Syn), 1);
        assert!(matches!(outcome.reason, Reason::FullNat | Reason::NoSource), "{:?}", outcome.reason);
        if client % 1000 == 0 {
            director.now = director.now.wrapping_add(SECOND / 5);
        }
    }
    for (way, at_server) in ways.iter().zip(&at_server) {
        assert_eq!(seen(&director, way, Segment::Data), *at_server);
        assert_eq!(answered(&director, at_server, Segment::Data), Ok(back(way)));
    }
    // A client that tries again gets through.
    let late = way(TCP, 60, 4242);
    let at_server = seen(&director, &late, Segment::Syn);
    assert_eq!(answered(&director, &at_server, Segment::SynAck), Ok(back(&late)));
    assert_eq!(seen(&director, &late, Segment::Data), at_server);
    director.check_loads();
}

#[test]
fn a_connection_has_one_reverse_record_where_tables_are_full_too() {
    let full = Capacity { flows: 1 << 10, half_open: 1 << 11, ..SMALL };
    let mut director = Director::with(full, &shop(Scheduler::Rr));
    for client in 0..700 {
        let way = way(TCP, client, 4242);
        for segment in [Segment::Syn, Segment::Data, Segment::Data, Segment::Syn, Segment::Data] {
            director.process(way.frame(segment), 1);
            director.now += 1;
        }
    }
    let mut keys = Vec::new();
    for table in [CellTable::Flows, CellTable::HalfOpen] {
        let reverse = director.records(table).into_iter().filter(|(_, record)| record.state & state_bits::REVERSE != 0);
        keys.extend(reverse.map(|(key, _)| (key.words(), key.vip)));
    }
    let all = keys.len();
    keys.sort_by_key(|(words, _)| *words);
    keys.dedup();
    assert_eq!(keys.len(), all);
    assert!(all > 500, "{all}");
}

#[test]
fn a_reload_keeps_the_sources_of_connections() {
    let mut director = Director::with(SMALL, &shop(Scheduler::Wlc));
    let way = way(TCP, 8, 4242);
    let at_server = seen(&director, &way, Segment::Syn);
    seen(&director, &way, Segment::Data);
    let mut other = shop(Scheduler::Maglev);
    let more = SourceRange::new(ip("10.0.9.1"), ip("10.0.9.20")).unwrap();
    other.services[0].sources.insert(0, more);
    for config in [&other, &shop(Scheduler::Rr), &other] {
        director.apply(config);
        assert_eq!(seen(&director, &way, Segment::Data), at_server);
        assert_eq!(answered(&director, &at_server, Segment::Data), Ok(back(&way)));
    }
    director.check_loads();
}

#[test]
fn connections_keep_to_how_they_began_when_their_service_changes_between_nat_and_fullnat() {
    let full = shop(Scheduler::Maglev);
    let mut nat = full.clone();
    nat.services[0].servers.iter_mut().for_each(|server| server.forward = Forward::Nat);
    nat.services[0].sources.clear();
    let mut director = Director::with(SMALL, &nat);
    let plain = way(TCP, 8, 4242);
    let before = director.request(&plain, Segment::Syn);
    director.request(&plain, Segment::Data);
    director.apply(&full);
    let hidden = way(TCP, 10, 4242);
    let at_server = seen(&director, &hidden, Segment::Syn);
    seen(&director, &hidden, Segment::Data);
    assert_eq!(director.request(&plain, Segment::Data), before);
    director.wait(Duration::from_secs(5));
    director.apply(&nat);
    for _ in 0..3 {
        assert_eq!(director.request(&plain, Segment::Data), before);
        // It would come from its source; that this is not an address of the director's any more is not the packet's fault.
        assert_eq!(seen(&director, &hidden, Segment::Data), at_server);
        director.wait(Duration::from_secs(5));
    }
    director.check_loads();
}
