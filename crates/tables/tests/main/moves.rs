//! Connections that were lost or led astray, one story a bug: what the operator and the daemon did, and the packet that
//! went wrong.

use crate::configuration::{
    addresses, config, ip, mapped, persist, persistence, range, sctp, server, service, tcp, udp, unlimited,
};
use crate::director::{Director, SECOND, SMALL, Seen};
use crate::packet::{Segment, Way};
use marca_config::model::{Forward, MemberPort, Protocol, Scheduler, Service, Timeouts, Udp};
use marca_config::plan::Family;
use marca_engine::Reason;
use marca_engine::layout::state_bits;
use marca_engine::tables::CellTable;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

const MINUTE: u32 = 60 * SECOND;

/// Under NAT, with connections that live for a minute; servers by number and weight.
fn shop(scheduler: Scheduler, ports: &[MemberPort], servers: &[(u16, u16)]) -> Service {
    let mut shop = service("shop", &["192.0.2.10"], ports);
    shop.scheduler = scheduler;
    shop.timeouts = Timeouts { established: Duration::from_secs(60), ..Timeouts::default() };
    shop.servers = servers.iter().map(|&(number, weight)| server(number, weight)).collect();
    shop
}

fn way(client: u16, port: u16) -> Way {
    let [high, low] = client.to_be_bytes();
    let client = Ipv4Addr::new(198, 51, high, low);
    Way { protocol: 6, from: (client.into(), 40_000), to: (ip("192.0.2.10"), port) }
}

/// The server's packet of a connection that `way` opened.
fn answer(director: &Director, way: &Way, server: (IpAddr, u16), segment: Segment) -> Seen {
    director.reply(&Way { from: server, to: way.from, ..*way }, segment)
}

/// A handshake; answers where it went.
fn open(director: &Director, way: &Way) -> (IpAddr, u16) {
    let Seen::Server(address, port) = director.request(way, Segment::Syn) else { panic!("{way:?}") };
    assert_eq!(answer(director, way, (address, port), Segment::SynAck), Seen::Client(way.to.0, way.to.1));
    assert_eq!(director.request(way, Segment::Data), Seen::Server(address, port));
    (address, port)
}

/// Connections of a hundred clients, and where they went.
fn open_many(director: &Director) -> Vec<(Way, (IpAddr, u16))> {
    (0..100).map(|client| way(client, 80)).map(|way| (way, open(director, &way))).collect()
}

fn check(director: &Director, connections: &[(Way, (IpAddr, u16))]) {
    for (way, (address, port)) in connections {
        assert_eq!(director.request(way, Segment::Data), Seen::Server(*address, *port), "{way:?}");
        let vip = Seen::Client(way.to.0, way.to.1);
        assert_eq!(answer(director, way, (*address, *port), Segment::Data), vip, "{way:?}");
    }
    director.check_loads();
}

/// As many cells as a pass looks at, but for the last.
fn nearly_a_pass(director: &Director) -> u32 {
    director.memory.flows.len() + director.memory.half_open.len() - 1
}

/// Part of a pass of the sweep.
fn step(director: &mut Director, cells: u32) -> bool {
    director.sweep.step(&director.memory, director.now, cells).1
}

#[test]
fn replies_of_a_server_that_left_still_come_from_the_vip() {
    for scheduler in unlimited() {
        for ports in [&[tcp(80)][..], &[tcp(80), range(Protocol::Tcp, 9000, 9009)]] {
            let mut director = Director::with(SMALL, &config([shop(scheduler, ports, &[(1, 1), (2, 1)])]));
            let connections = open_many(&director);
            director.apply(&config([shop(scheduler, ports, &[(2, 1)])]));
            check(&director, &connections);
        }
    }
}

#[test]
fn a_server_that_left_one_service_does_not_answer_for_the_other_in_its_place() {
    let mut other = shop(Scheduler::Maglev, &[tcp(80)], &[(1, 1)]);
    other.name = "other".to_owned();
    other.selector = service("", &["192.0.2.20"], &[tcp(80)]).selector;
    let one = shop(Scheduler::Maglev, &[tcp(80)], &[(1, 1), (2, 1)]);
    let mut director = Director::with(SMALL, &config([one, other.clone()]));
    let connections = open_many(&director);
    director.apply(&config([shop(Scheduler::Maglev, &[tcp(80)], &[(2, 1)]), other]));
    check(&director, &connections);
}

#[test]
fn another_netmask_moves_no_connection_of_a_table_service() {
    for scheduler in [Scheduler::Sh, Scheduler::Maglev] {
        let mut shop = shop(scheduler, &[tcp(80)], &[(1, 1), (2, 1), (3, 1)]);
        let mut director = Director::with(SMALL, &config([shop.clone()]));
        let connections = open_many(&director);
        director.pass();
        shop.persistence = persistence(300, Ipv4Addr::new(255, 255, 255, 0), 64);
        director.apply(&config([shop.clone()]));
        director.wait(Duration::from_secs(10));
        check(&director, &connections);
        shop.persistence = None;
        director.apply(&config([shop]));
        director.wait(Duration::from_secs(10));
        check(&director, &connections);
    }
}

#[test]
fn connections_outlive_an_emptied_pool_and_its_return() {
    for scheduler in unlimited() {
        let mut director =
            Director::with(SMALL, &config([shop(scheduler, &[tcp(80)], &[(1, 1), (2, 1), (3, 1), (4, 1)])]));
        let connections = open_many(&director);
        director.apply(&config([shop(scheduler, &[tcp(80)], &[])]));
        check(&director, &connections);
        director.wait(Duration::from_secs(10));
        director.apply(&config([shop(scheduler, &[tcp(80)], &[(4, 1), (5, 1)])]));
        check(&director, &connections);
        director.wait(Duration::from_secs(10));
        check(&director, &connections);
    }
}

#[test]
fn connections_outlive_a_service_that_is_gone_for_a_moment() {
    let mut other = service("other", &["192.0.2.20"], &[tcp(80)]);
    other.servers = vec![server(9, 1)];
    for scheduler in unlimited() {
        let all = [shop(scheduler, &[tcp(80)], &[(1, 1), (2, 1)]), other.clone()];
        let mut director = Director::with(SMALL, &config(all));
        let connections = open_many(&director);
        director.apply(&config([other.clone()]));
        director.wait(Duration::from_secs(5));
        director.apply(&config([shop(scheduler, &[tcp(80)], &[(1, 1), (2, 3), (3, 1)]), other.clone()]));
        check(&director, &connections);
    }
}

#[test]
fn busy_connections_survive_the_change_from_a_table_to_another_scheduler() {
    for scheduler in [Scheduler::Sh, Scheduler::Maglev] {
        let servers = [(1, 1), (2, 1)];
        let mut director = Director::with(SMALL, &config([shop(scheduler, &[tcp(80)], &servers)]));
        let connections = open_many(&director);
        for _ in 0..30 {
            director.wait(Duration::from_secs(5));
            check(&director, &connections);
        }
        director.apply(&config([shop(Scheduler::Rr, &[tcp(80)], &servers)]));
        director.pass();
        check(&director, &connections);
        director.wait(Duration::from_secs(70));
        let (way, server) = connections[0];
        assert_eq!(director.request(&way, Segment::Data), Seen::Not(Reason::NoFlow), "silent for too long: {server:?}");
    }
}

#[test]
fn a_handshake_that_ends_during_a_pass_is_not_overlooked_by_its_slot() {
    for first_table_swept in [SMALL.flows, SMALL.half_open] {
        let servers = |weight| [(1, weight), (2, 1)];
        let mut director = Director::with(SMALL, &config([shop(Scheduler::Maglev, &[tcp(80)], &servers(1))]));
        let begun: Vec<_> = (0..100).map(|client| way(client, 80)).collect();
        let begun: Vec<_> = begun.into_iter().map(|way| (way, director.request(&way, Segment::Syn))).collect();
        director.apply(&config([shop(Scheduler::Maglev, &[tcp(80)], &servers(0))]));
        director.pass();
        assert!(!step(&mut director, first_table_swept));
        begun.iter().for_each(|(way, went)| assert_eq!(director.request(way, Segment::Data), *went));
        assert!(step(&mut director, u32::MAX));
        director.pass();
        director.pass();
        begun.iter().for_each(|(way, went)| assert_eq!(director.request(way, Segment::Data), *went));
    }
}

#[test]
fn a_real_servers_number_is_not_given_away_while_a_handshake_moves_between_tables() {
    for first_table_swept in [SMALL.flows, SMALL.half_open] {
        let mut director = Director::with(SMALL, &config([shop(Scheduler::Rr, &[tcp(80)], &[(1, 1)])]));
        director.pass();
        let way = way(1, 80);
        let went = director.request(&way, Segment::Syn);
        director.apply(&config([shop(Scheduler::Rr, &[tcp(80)], &[(2, 1)])]));
        assert!(!step(&mut director, first_table_swept));
        assert_eq!(director.request(&way, Segment::Data), went);
        assert!(step(&mut director, u32::MAX));
        director.release_numbers();
        director.apply(&config([shop(Scheduler::Rr, &[tcp(80)], &[(3, 1), (4, 1)])]));
        assert_eq!(director.request(&way, Segment::Data), went);
    }
}

#[test]
fn a_connection_opened_behind_the_sweep_keeps_its_real_servers_number() {
    let mut director = Director::with(SMALL, &config([shop(Scheduler::Rr, &[tcp(80)], &[(1, 1)])]));
    director.pass();
    let cells = nearly_a_pass(&director);
    assert!(!step(&mut director, cells));
    let way = way(1, 80);
    let went = open(&director, &way);
    director.apply(&config([shop(Scheduler::Rr, &[tcp(80)], &[(2, 1)])]));
    assert!(step(&mut director, u32::MAX));
    director.release_numbers();
    director.apply(&config([shop(Scheduler::Rr, &[tcp(80)], &[(3, 1), (4, 1)])]));
    check(&director, &[(way, went)]);
}

#[test]
fn two_changes_during_a_pass_leave_no_connection_behind() {
    let weights = |a, b| config([shop(Scheduler::Maglev, &[tcp(80)], &[(1, a), (2, 1), (3, b)])]);
    let mut director = Director::with(SMALL, &weights(1, 1));
    let connections = open_many(&director);
    director.pass();
    let cells = nearly_a_pass(&director);
    assert!(!step(&mut director, cells));
    director.apply(&weights(0, 1));
    director.apply(&weights(0, 2));
    assert!(step(&mut director, u32::MAX));
    check(&director, &connections);
}

#[test]
fn a_change_during_a_pass_forgets_no_slot_that_the_pass_has_seen_to_differ() {
    let weights = |a, b| config([shop(Scheduler::Maglev, &[tcp(80)], &[(1, a), (2, 1), (3, b)])]);
    let mut director = Director::with(SMALL, &weights(1, 1));
    let connections = open_many(&director);
    director.apply(&weights(0, 1));
    director.pass();
    let cells = nearly_a_pass(&director);
    assert!(!step(&mut director, cells));
    director.apply(&weights(0, 2));
    assert!(step(&mut director, u32::MAX));
    check(&director, &connections);
}

#[test]
fn a_slot_begins_to_ask_when_it_does_and_not_when_the_pass_began() {
    let weights = |a| config([shop(Scheduler::Maglev, &[tcp(80)], &[(1, a), (2, 1)])]);
    let mut director = Director::with(SMALL, &weights(1));
    let connections = open_many(&director);
    director.wait(Duration::from_secs(100));
    let cells = nearly_a_pass(&director);
    assert!(!step(&mut director, cells));
    director.now += 50 * SECOND;
    check(&director, &connections);
    director.apply(&weights(0));
    assert!(step(&mut director, u32::MAX));
    director.wait(Duration::from_secs(59));
    check(&director, &connections);
}

#[test]
fn a_slot_does_not_inherit_how_long_another_tables_slot_has_asked() {
    let pools = |x: u16, y: u16| {
        let mut first = shop(Scheduler::Maglev, &[tcp(80)], &[(1, x), (2, 1), (3, 1)]);
        first.name = "first".to_owned();
        first.selector = service("", &["192.0.2.20"], &[tcp(80)]).selector;
        config([first, shop(Scheduler::Maglev, &[tcp(80)], &[(1, y), (2, 1), (3, 1)])])
    };
    let mut director = Director::with(SMALL, &pools(1, 1));
    // The same clients have the same slots in both services, and go on asking for records in the first one.
    let connections = open_many(&director);
    let another = |way: Way| Way { from: (way.from.0, 40_001), to: (ip("192.0.2.20"), 80), ..way };
    let others: Vec<_> = (0..100).map(|client| another(way(client, 80))).map(|w| (w, open(&director, &w))).collect();
    director.apply(&pools(0, 1));
    for _ in 0..40 {
        director.wait(Duration::from_secs(5));
        check(&director, &others);
        // Replies would touch the records.
        connections
            .iter()
            .for_each(|(way, went)| assert_eq!(director.request(way, Segment::Data), Seen::Server(went.0, went.1)));
    }
    assert!(!step(&mut director, 1));
    director.apply(&pools(1, 1));
    director.apply(&pools(1, 0));
    assert!(step(&mut director, u32::MAX));
    check(&director, &connections);
}

#[test]
fn a_slow_connection_of_a_table_survives_every_later_change_of_its_slot() {
    let weights = |a, b| config([shop(Scheduler::Maglev, &[tcp(80)], &[(1, a), (2, b)])]);
    let mut director = Director::with(SMALL, &weights(1, 1));
    let connections = open_many(&director);
    for round in 0..60 {
        director.wait(Duration::from_secs(59));
        check(&director, &connections);
        if round % 7 == 3 {
            director.apply(&weights(round % 2, 1 - round % 2));
        }
        if round % 11 == 5 {
            director.sweep = marca_tables::sweep::Sweep::new(10 * SECOND);
        }
    }
}

#[test]
fn a_connection_that_began_on_another_slots_place_is_found_by_its_slot() {
    let weights = |a, b, c| {
        let mut shop = shop(Scheduler::Maglev, &[tcp(80)], &[(1, a), (2, b), (3, c)]);
        shop.persistence = persist(3600);
        config([shop])
    };
    let mut director = Director::with(SMALL, &weights(1, 1, 1));
    let first = open_many(&director);
    director.replace(&weights(1, 1, 2));
    // Clients stay where they are by their templates; no slot asks any more.
    for (way, (address, port)) in &first {
        assert_eq!(director.request(way, Segment::Reset), Seen::Server(*address, *port));
    }
    director.wait(Duration::from_secs(15));
    // Some slot must be another one's for the service to move its table.
    director.replace(&weights(1, 2, 2));
    let again = |way: &Way| Way { from: (way.from.0, 50_000), ..*way };
    let connections = director.before_the_change("shop", Family::V4, || {
        let connections = first.iter().map(|(way, server)| (again(way), *server));
        connections.inspect(|(way, server)| assert_eq!(open(&director, way), *server)).collect::<Vec<_>>()
    });
    check(&director, &connections);
    for _ in 0..10 {
        director.wait(Duration::from_secs(2));
        check(&director, &connections);
    }
}

#[test]
fn a_dead_connection_of_a_table_is_forgotten_after_an_audit_of_its_slot() {
    let mut director = Director::with(SMALL, &config([shop(Scheduler::Maglev, &[tcp(80)], &[(1, 1), (2, 1)])]));
    open_many(&director);
    director.wait(Duration::from_secs(65));
    assert_eq!(director.records(CellTable::Flows).len(), 100, "no slot has asked for a timeout");
    for _ in 0..40 {
        director.wait(Duration::from_secs(60));
    }
    assert_eq!(director.records(CellTable::Flows).len(), 0);
    director.check_loads();
}

#[test]
fn a_real_servers_own_address_answers_for_itself_though_its_slot_comes_later() {
    for weight in [0, 1] {
        let weights = |a| config([shop(Scheduler::Maglev, &[tcp(80), mapped(443, 8443)], &[(1, a), (2, 1 - a)])]);
        let mut director = Director::with(SMALL, &weights(weight));
        let direct = |client, port| Way { to: (addresses(1)[0], port), ..way(client, port) };
        let ways: Vec<Way> = (0..100).flat_map(|client| [direct(client, 80), direct(client, 8443)]).collect();
        for way in &ways {
            assert_eq!(director.request(way, Segment::Syn), Seen::Not(Reason::NotOurs));
        }
        director.wait(Duration::from_secs(5));
        director.apply(&weights(1));
        for _ in 0..3 {
            for way in &ways {
                let seen = director.reply(&way.reversed(), Segment::Data);
                assert!(matches!(seen, Seen::Not(_)), "{way:?}: {seen:?}");
            }
            director.wait(Duration::from_secs(50));
        }
    }
}

#[test]
fn a_real_servers_own_address_answers_for_itself_though_a_service_has_just_left_it() {
    let shop = shop(Scheduler::Maglev, &[tcp(80)], &[(1, 1)]);
    let mut other = service("other", &["192.0.2.20"], &[tcp(80)]);
    other.servers = vec![server(1, 1)];
    let mut director = Director::with(SMALL, &config([shop.clone(), other]));
    director.apply(&config([shop.clone()]));
    let way = Way { to: (addresses(1)[0], 80), ..way(1, 80) };
    assert_eq!(director.request(&way, Segment::Syn), Seen::Not(Reason::NotOurs));
    director.wait(Duration::from_secs(5));
    director.release_numbers();
    director.apply(&config([shop]));
    assert!(matches!(director.reply(&way.reversed(), Segment::Data), Seen::Not(_)));
}

#[test]
fn a_second_connection_past_the_vip_from_the_same_port_is_no_older_than_itself() {
    let mut director = Director::with(SMALL, &config([shop(Scheduler::Maglev, &[tcp(80)], &[(1, 1)])]));
    let way = Way { to: (addresses(1)[0], 80), ..way(1, 80) };
    director.request(&way, Segment::Syn);
    director.reply(&way.reversed(), Segment::Reset);
    director.request(&way, Segment::Syn);
    director.wait(Duration::from_secs(30));
    assert!(matches!(director.reply(&way.reversed(), Segment::Data), Seen::Not(_)));
}

#[test]
fn only_stateless_datagrams_are_answered_without_a_record() {
    let mut shop = shop(Scheduler::Maglev, &[tcp(80), udp(53), sctp(5000)], &[(1, 1)]);
    shop.udp = Udp::Stateless;
    let director = Director::with(SMALL, &config([shop]));
    let reply = |protocol, port| {
        let way = Way { protocol, from: (addresses(1)[0], port), to: way(1, 80).from };
        director.reply(&way, Segment::Data)
    };
    assert_eq!(reply(17, 53), Seen::Client(ip("192.0.2.10"), 53));
    assert_eq!(reply(132, 5000), Seen::Not(Reason::NotAReply), "an association past the VIP, perhaps");
}

#[test]
fn a_client_that_was_refused_may_try_again_from_the_same_port() {
    for scheduler in unlimited() {
        let mut director = Director::with(SMALL, &config([shop(scheduler, &[tcp(80)], &[(1, 1), (2, 1)])]));
        let way = way(1, 80);
        let Seen::Server(address, port) = director.request(&way, Segment::Syn) else { panic!() };
        answer(&director, &way, (address, port), Segment::Reset);
        director.now += SECOND / 2;
        let went = open(&director, &way);
        let records = director.records(CellTable::Flows);
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].1.state & state_bits::ENDING, 0, "it has not ended");
        director.wait(Duration::from_secs(30));
        check(&director, &[(way, went)]);
    }
}

#[test]
fn a_processor_whose_clock_is_a_tick_behind_ends_no_datagram_flow() {
    for protocol in [17, 132] {
        let ports = [udp(53), sctp(53)];
        let mut director = Director::with(SMALL, &config([shop(Scheduler::Rr, &ports, &[(1, 1), (2, 1)])]));
        let way = Way { protocol, ..way(1, 53) };
        let went = director.request(&way, Segment::Syn);
        director.now -= 1;
        for _ in 0..3 {
            assert_eq!(director.request(&way, Segment::Data), went);
        }
        director.pass();
        assert_eq!(director.records(CellTable::Flows).len(), 1);
    }
}

#[test]
fn the_end_of_a_connection_to_a_range_of_ports_is_watched() {
    let ports = [range(Protocol::Tcp, 9000, 9009)];
    let mut director = Director::with(SMALL, &config([shop(Scheduler::Maglev, &ports, &[(1, 1), (2, 1)])]));
    let way = way(1, 9001);
    let went = open(&director, &way);
    director.wait(Duration::from_secs(10));
    answer(&director, &way, went, Segment::Fin);
    director.now += SECOND;
    director.request(&way, Segment::Data);
    assert_eq!(director.records(CellTable::Flows)[0].1.seen, director.now);
}

#[test]
fn a_full_table_pushes_out_no_connection() {
    let capacity = marca_tables::Capacity { flows: 64, half_open: 64, ..SMALL };
    for scheduler in [Scheduler::Rr, Scheduler::Maglev] {
        let mut pool = shop(scheduler, &[tcp(80), udp(53)], &[(1, 1), (2, 1)]);
        let director = Director::with(capacity, &config([pool.clone()]));
        let mut kept = Vec::new();
        for client in 0..500 {
            let way = way(client, 80);
            let went = director.request(&way, Segment::Syn);
            assert_eq!(director.request(&way, Segment::Data), went);
            let promoted = director.records(CellTable::Flows).iter().any(|(key, _)| key.client == client_of(&way));
            kept.extend(promoted.then_some((way, went)));
            let datagram = Way { protocol: 17, ..self::way(client, 53) };
            let seen = director.request(&datagram, Segment::Data);
            assert!(matches!(seen, Seen::Server(..) | Seen::Not(Reason::TableFull)), "{seen:?}");
        }
        assert!(kept.len() >= 20 && kept.len() <= 64, "{}", kept.len());
        pool.servers[0].weight = 0;
        let mut director = director;
        director.apply(&config([pool]));
        for (way, went) in kept {
            assert_eq!(director.request(&way, Segment::Data), went);
        }
        director.check_loads();
    }
}

fn client_of(way: &Way) -> marca_engine::layout::Address {
    marca_tables::classifier::address(way.from.0).1
}

#[test]
fn datagrams_without_records_follow_their_clients_template_as_long_as_it_lives() {
    let pool = |a, b| {
        let mut shop = shop(Scheduler::Maglev, &[tcp(80), udp(53)], &[(1, a), (2, b)]);
        shop.udp = Udp::Stateless;
        shop.persistence = persist(300);
        shop.forward = Forward::Nat;
        config([shop])
    };
    let mut director = Director::with(SMALL, &pool(1, 0));
    let connections = open_many(&director);
    director.apply(&pool(1, 1));
    connections.iter().for_each(|(way, _)| _ = director.request(way, Segment::Reset));
    director.wait(Duration::from_secs(100));
    assert_eq!(director.records(CellTable::Flows).len(), 0);
    for (way, (address, _)) in connections {
        let datagram = Way { protocol: 17, to: (way.to.0, 53), ..way };
        assert_eq!(director.request(&datagram, Segment::Data), Seen::Server(address, 53));
    }
}

#[test]
fn ticks_wrap_without_harm() {
    for scheduler in unlimited() {
        let mut director = Director::new(SMALL);
        director.now = u32::MAX - MINUTE;
        let mut pool = shop(scheduler, &[tcp(80)], &[(1, 1), (2, 1)]);
        pool.persistence = persist(300);
        director.apply(&config([pool.clone()]));
        let connections = open_many(&director);
        for _ in 0..4 {
            director.wait(Duration::from_secs(50));
            check(&director, &connections);
            pool.servers[0].weight ^= 1;
            director.apply(&config([pool.clone()]));
        }
        assert!(director.now < 1 << 16);
        director.wait(Duration::from_secs(600));
        // Connections of a table may be dead for longer before they are known to be.
        if !matches!(scheduler, Scheduler::Sh | Scheduler::Maglev) {
            assert_eq!(director.records(CellTable::Templates).len(), 0, "{}", scheduler.name());
        }
    }
}
