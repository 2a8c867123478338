//! `rr` and `wrr`: round robin, plain and weighted (`net/netfilter/ipvs/ip_vs_rr.c`, `ip_vs_wrr.c`).
//!
//! The place in the round is one word for each service, moved by compare-and-swap when the choice is taken; two
//! processors that meet there may choose the same real server once.

use super::{CursorMove, Pick, has_room, locality};
use crate::layout::{NO_REAL, Server, Service, limits, service_flags};
use crate::tables::{Scan, Tables};

/// The next real server of weight above 0 in the order of the configuration.
#[inline(always)]
pub fn rr<T: Tables>(t: &T, service: u32, settings: &Service) -> Pick {
    let Some(cursor) = t.cursor(service) else { return Pick::NOBODY };
    let cursor = cursor.get();
    let mut next = Next {
        servers: settings.servers,
        round: Round::from(cursor as u32, settings),
        bounded: bounded(settings),
        at: 0,
        real: NO_REAL,
    };
    t.scan(settings.servers_len.min(limits::SERVERS), &mut next);
    // The cursor is the number of the next one to ask, so that a fresh 0 starts with the first.
    let after = u64::from(next.at) + 1;
    chosen(next.real, cursor, after)
}

#[inline(always)]
fn chosen(real: u32, before: u64, after: u64) -> Pick {
    Pick { real, cursor: CursorMove { moves: true, before, after }, locality: locality::Change::NOTHING }
}

/// Whether some real server may have reached a threshold.
#[inline(always)]
fn bounded(settings: &Service) -> bool {
    settings.flags & service_flags::THRESHOLDS != 0
}

#[inline(always)]
fn takes<T: Tables>(t: &T, server: &Server, bounded: bool) -> bool {
    server.weight > 0 && (!bounded || has_room(t, server.real))
}

/// A round through a service's real servers from some place in it. Places are counted from the step's number, not by
/// adding up: the verifier would follow every sum.
struct Round {
    start: u32,
    len: u32,
}

impl Round {
    #[inline(always)]
    fn from(place: u32, settings: &Service) -> Self {
        let len = settings.servers_len;
        Self { start: if place < len { place } else { 0 }, len }
    }

    /// The place of a step; steps are fewer than two rounds and one.
    #[inline(always)]
    fn place(&self, step: u32) -> u32 {
        let mut place = self.start.wrapping_add(step);
        if place >= self.len {
            place = place.wrapping_sub(self.len);
        }
        if place >= self.len {
            place = place.wrapping_sub(self.len);
        }
        place
    }
}

struct Next {
    servers: u32,
    round: Round,
    bounded: bool,
    at: u32,
    real: u32,
}

impl<T: Tables> Scan<T> for Next {
    #[inline(always)]
    fn visit(&mut self, t: &T, step: u32) -> bool {
        let at = self.round.place(step);
        match t.server(self.servers.wrapping_add(at)) {
            Some(server) if takes(t, &server, self.bounded) => {
                self.at = at;
                self.real = server.real;
                false
            }
            _ => true,
        }
    }
}

/// The interleaved weighted round robin of LVS: rounds at a falling weight, from the greatest down in steps of the
/// greatest common divisor; each round takes those whose weight reaches it.
#[inline(always)]
pub fn wrr<T: Tables>(t: &T, service: u32, settings: &Service) -> Pick {
    let Some(cursor) = t.cursor(service) else { return Pick::NOBODY };
    let cursor = cursor.get();
    let bounded = bounded(settings);
    let servers = settings.servers_len.min(limits::SERVERS);
    let mut greatest = Greatest { servers: settings.servers, weight: settings.max_weight };
    if bounded {
        greatest.weight = 0;
        t.scan(servers, &mut greatest);
    }
    let mut next = NextWeighted {
        servers: settings.servers,
        round: Round::from(cursor as u32, settings),
        max: settings.max_weight,
        gcd: settings.gcd_weight,
        greatest: greatest.weight,
        bounded,
        at: 0,
        weight: (cursor >> 32) as u32,
        real: NO_REAL,
    };
    // A round that finds nobody is followed by the next lower one; the greatest weight is met within two. An empty list
    // has no first server to end on: what lies there is another service's.
    let rounds = servers.wrapping_mul(2);
    t.scan(if rounds == 0 { 0 } else { rounds.wrapping_add(1) }, &mut next);
    let after = (u64::from(next.at) + 1) | (u64::from(next.weight) << 32);
    chosen(next.real, cursor, after)
}

/// The greatest weight of those that take clients.
struct Greatest {
    servers: u32,
    weight: u32,
}

impl<T: Tables> Scan<T> for Greatest {
    #[inline(always)]
    fn visit(&mut self, t: &T, index: u32) -> bool {
        let Some(server) = t.server(self.servers.wrapping_add(index)) else { return false };
        if server.weight > self.weight && has_room(t, server.real) {
            self.weight = server.weight;
        }
        true
    }
}

struct NextWeighted {
    servers: u32,
    round: Round,
    max: u32,
    gcd: u32,
    /// Of those that take clients: rounds above that would find nobody, and are left out.
    greatest: u32,
    bounded: bool,
    at: u32,
    /// The round's weight; 0 before the first.
    weight: u32,
    real: u32,
}

impl<T: Tables> Scan<T> for NextWeighted {
    #[inline(always)]
    fn visit(&mut self, t: &T, step: u32) -> bool {
        let at = self.round.place(step);
        if at == 0 {
            let lower = self.weight > self.gcd && self.weight <= self.max;
            self.weight = if lower { self.weight - self.gcd } else { self.max };
            self.weight = self.weight.min(self.greatest);
        }
        match t.server(self.servers.wrapping_add(at)) {
            Some(server) if server.weight >= self.weight && takes(t, &server, self.bounded) => {
                self.at = at;
                self.real = server.real;
                false
            }
            _ => true,
        }
    }
}
