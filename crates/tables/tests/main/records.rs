//! Connections and persistence, listed and ended by hand.

use crate::configuration::{config, ip, persist, server, service, tcp, udp};
use crate::director::{Director, SMALL, Seen};
use crate::packet::{Segment, Way};
use marca_config::model::{Config, Scheduler};
use marca_config::plan::Family;
use marca_engine::Reason;
use marca_engine::layout::slot_bits;
use marca_tables::records::{Ended, Filter, Flow, FlowState, Piece, end, flows, masked, templates, unpin};
use std::collections::HashSet;

const ALL: Piece = Piece { from: 0, looks: u64::MAX, most: usize::MAX };

fn shop(scheduler: Scheduler) -> Config {
    let mut shop = service("shop", &["192.0.2.10"], &[tcp(80), udp(443)]);
    shop.scheduler = scheduler;
    shop.persistence = persist(100);
    shop.servers = (0..2).map(|number| server(number, 1)).collect();
    config([shop])
}

fn way(client: &str, port: u16) -> Way {
    Way { protocol: 6, from: (ip(client), port), to: (ip("192.0.2.10"), 80) }
}

/// Twenty clients with a connection each, and one that has only begun.
fn director(scheduler: Scheduler) -> Director {
    let director = Director::with(SMALL, &shop(scheduler));
    for client in 1..=20 {
        let way = way(&format!("198.51.100.{client}"), 1000 + client);
        director.request(&way, Segment::Syn);
        director.request(&way, Segment::Data);
    }
    director.request(&way("203.0.113.1", 7), Segment::Syn);
    director
}

fn all(director: &Director, filter: &Filter) -> Vec<Flow> {
    let (found, next) = flows(&director.memory, director.now, ALL, filter);
    assert_eq!(next, None);
    found
}

#[test]
fn connections_are_listed_in_pieces_and_by_what_they_are() {
    let director = director(Scheduler::Rr);
    let every = all(&director, &Filter::default());
    assert_eq!(every.len(), 21);
    let begun: Vec<&Flow> = every.iter().filter(|flow| flow.state == FlowState::HalfOpen).collect();
    assert_eq!((begun.len(), begun[0].client.to_string().as_str()), (1, "203.0.113.1:7"));
    assert_eq!((every[0].vip.to_string().as_str(), every[0].server_port), ("192.0.2.10:80", 80));
    let number = director.ids.service("shop", Family::V4).unwrap();
    let by = |client: Option<&str>, services: Option<u32>, reals: Option<u32>| {
        let set = |number: Option<u32>| number.map(|number| HashSet::from([number]));
        let filter =
            Filter { client: client.map(|net| net.parse().unwrap()), services: set(services), reals: set(reals) };
        all(&director, &filter).len()
    };
    assert_eq!(by(Some("198.51.100.16/28"), None, None), 5);
    assert_eq!((by(None, Some(number), None), by(None, Some(number + 1), None)), (21, 0));
    let real = director.ids.real("shop", Family::V4, Some(ip("10.0.0.0"))).or_else(|| Some(every[0].real));
    assert!((9..=11).contains(&by(None, None, real)));
    // Page by page, whatever ends a page.
    for (looks, most) in [(100, 1000), (u64::MAX, 4)] {
        let (mut from, mut listed) = (0, Vec::new());
        loop {
            let (page, next) = flows(&director.memory, director.now, Piece { from, looks, most }, &Filter::default());
            assert!(page.len() <= most);
            listed.extend(page);
            match next {
                Some(next) => from = next,
                None => break,
            }
        }
        assert_eq!(listed, every);
    }
}

#[test]
fn a_connection_that_is_ended_is_known_no_more() {
    let director = director(Scheduler::Rr);
    let one = Filter { client: Some("198.51.100.3/32".parse().unwrap()), ..Filter::default() };
    let listed = all(&director, &one).remove(0);
    assert!(matches!(director.request(&way("198.51.100.3", 1003), Segment::Data), Seen::Server(..)));
    assert_eq!(end(&director.memory, director.now, &listed), Ended::Yes);
    assert_eq!(end(&director.memory, director.now, &listed), Ended::Before);
    assert_eq!(director.request(&way("198.51.100.3", 1003), Segment::Data), Seen::Not(Reason::NoFlow));
    assert_eq!(all(&director, &Filter::default()).len(), 20);
    let mut another = all(&director, &Filter::default()).remove(0);
    another.client.set_port(9);
    assert_eq!(end(&director.memory, director.now, &another), Ended::Before, "its place is another's");
}

#[test]
fn a_busy_connection_that_is_ended_takes_no_shortcut() {
    let director = director(Scheduler::Maglev);
    // Where slots ask records, busy connections have shortcuts.
    let slots = &director.memory.slots;
    (0..slots.len()).filter_map(|number| slots.at(number)).for_each(|slot| slot.or(slot_bits::CONSULT));
    let way3 = way("198.51.100.3", 1003);
    for _ in 0..3 {
        assert!(matches!(director.request(&way3, Segment::Data), Seen::Server(..)));
    }
    let one = Filter { client: Some("198.51.100.3/32".parse().unwrap()), ..Filter::default() };
    let listed = all(&director, &one).remove(0);
    assert_eq!(end(&director.memory, director.now, &listed), Ended::Yes);
    assert_eq!(director.request(&way3, Segment::Data), Seen::Not(Reason::Reset));
}

#[test]
fn a_connection_that_follows_a_table_is_ended_as_if_its_server_had_failed() {
    for scheduler in [Scheduler::Maglev, Scheduler::Sh] {
        let mut director = director(scheduler);
        let one = Filter { client: Some("198.51.100.3/32".parse().unwrap()), ..Filter::default() };
        let listed = all(&director, &one).remove(0);
        let loads = |director: &Director| director.reals().into_keys().map(|real| director.load(real).0).sum::<u64>();
        assert_eq!(loads(&director), 20);
        assert_eq!(end(&director.memory, director.now, &listed), Ended::Yes);
        assert_eq!(end(&director.memory, director.now, &listed), Ended::Before);
        assert_eq!(all(&director, &Filter::default()).len(), 20);
        assert_eq!(loads(&director), 19);
        director.pass();
        let way3 = way("198.51.100.3", 1003);
        assert_eq!(director.request(&way3, Segment::Data), Seen::Not(Reason::Reset), "it is told");
        for client in (1..=20).filter(|&client| client != 3) {
            let seen = director.request(&way(&format!("198.51.100.{client}"), 1000 + client), Segment::Data);
            assert!(matches!(seen, Seen::Server(..)), "{client} goes on");
        }
        director.pass();
        director.pass();
        assert!(matches!(director.request(&way3, Segment::Syn), Seen::Server(..)), "another one");
        assert!(matches!(director.request(&way3, Segment::Data), Seen::Server(..)));
        assert_eq!(loads(&director), 20);
        // A client that opens another one by the same port at once.
        let listed = all(&director, &one).remove(0);
        assert_eq!(end(&director.memory, director.now, &listed), Ended::Yes);
        assert!(matches!(director.request(&way3, Segment::Syn), Seen::Server(..)));
        assert!(matches!(director.request(&way3, Segment::Data), Seen::Server(..)));
        assert_eq!(loads(&director), 20);
    }
}

#[test]
fn a_client_is_unpinned_from_one_service_and_its_connections_go_on() {
    let director = director(Scheduler::Rr);
    let number = director.ids.service("shop", Family::V4).unwrap();
    let list = || templates(&director.memory, director.now, ALL, &Filter::default()).0;
    let known = list();
    assert_eq!(known.len(), 21);
    assert_eq!(known.iter().filter(|template| template.left.is_none()).count(), 1, "one has proved nothing");
    assert!(known.iter().filter_map(|template| template.left).all(|left| left > 0));
    assert_eq!(masked(&director.memory, number, ip("198.51.100.3")), Some(ip("198.51.100.3")));
    assert!(unpin(&director.memory, number, ip("198.51.100.3")));
    assert!(!unpin(&director.memory, number, ip("198.51.100.3")));
    assert!(unpin(&director.memory, number, ip("203.0.113.1")));
    assert_eq!(list().len(), 19);
    assert!(matches!(director.request(&way("198.51.100.3", 1003), Segment::Data), Seen::Server(..)));
}
