//! Pieces of packets follow the first one of each, and only so many packets are remembered.

use crate::configuration::{config, server, service, udp};
use crate::director::{Director, SECOND, SMALL};
use marca_config::model::Scheduler;
use marca_engine::Reason;
use marca_engine::layout::limits;
use marca_tables::Frame;
use marca_testkit::frame;
use std::net::Ipv4Addr;

fn director() -> Director {
    let mut shop = service("shop", &["192.0.2.10"], &[udp(53)]);
    shop.scheduler = Scheduler::Rr;
    shop.servers = (1..6).map(|number| server(number, 1)).collect();
    Director::with(SMALL, &config([shop]))
}

/// Where a fragment of this client's packet goes.
fn take(director: &Director, client: u32, id: u16, first: bool) -> Option<Ipv4Addr> {
    let client = Ipv4Addr::from(0xc633_6400 + client);
    let text = if first {
        format!("ip4 {client} > 192.0.2.10 id={id} mf / udp {} > 53 len=3000 / data 16", 1024 + id % 64)
    } else {
        format!("ip4 {client} > 192.0.2.10 id={id} frag=3 proto=17 / data 16")
    };
    let (outcome, bytes) = director.process(frame::build(&text).unwrap(), 1);
    match outcome.reason {
        Reason::Nat => {
            let h = marca_engine::wire::network(&Frame::new(bytes, 0)).unwrap();
            Some(h.destination.octets_v4().into())
        }
        reason => {
            assert_eq!(reason, Reason::Fragment);
            None
        }
    }
}

#[test]
fn pieces_of_a_thousand_packets_at_once_find_their_own() {
    let director = director();
    let went: Vec<_> = (0..1000u16).map(|id| take(&director, u32::from(id) % 7, id, true)).collect();
    for _ in 0..2 {
        let followed: Vec<_> = (0..1000u16).map(|id| take(&director, u32::from(id) % 7, id, false)).collect();
        assert_eq!(followed, went);
    }
    let servers: std::collections::BTreeSet<_> = went.iter().flatten().collect();
    assert_eq!(servers.len(), 5);
}

#[test]
fn a_packet_is_remembered_for_its_time_and_no_longer() {
    let mut director = director();
    let went = take(&director, 1, 1, true);
    director.now += 5 * SECOND;
    assert_eq!(take(&director, 1, 1, false), went);
    director.now += 1;
    assert_eq!(take(&director, 1, 1, false), None);
}

/// Balls into bins: with 8 records a bucket and the flood filling the table once, the last eighth is nearly all there.
#[test]
fn a_flood_displaces_the_oldest() {
    let mut director = director();
    let flood = limits::FRAGMENTS * 3;
    for number in 0..flood {
        // Another tick now and then: the oldest is known by it.
        director.now += u32::from(number % 512 == 0);
        take(&director, number >> 12, (number & 4095) as u16, true);
    }
    let known = |range: std::ops::Range<u32>| {
        range.filter(|number| take(&director, number >> 12, (number & 4095) as u16, false).is_some()).count()
    };
    // Some buckets had little of the flood.
    assert!(known(0..flood - 2 * limits::FRAGMENTS) < limits::FRAGMENTS as usize / 100, "the oldest are gone");
    assert!(
        known(flood - limits::FRAGMENTS / 8..flood) > limits::FRAGMENTS as usize / 8 * 99 / 100,
        "the latest are there"
    );
}
