//! `rr` and `wrr`: round robin, plain and weighted (`net/netfilter/ipvs/ip_vs_rr.c`, `ip_vs_wrr.c`).
//!
//! The place in the round is one word for each service, moved by compare-and-swap when the choice is taken; two
//! processors that meet there may choose the same real server once.

use super::Pick;
use crate::layout::{Service, limits};
use crate::tables::{Scan, Tables};

/// The next real server of weight above 0 in the order of the configuration.
#[inline(always)]
pub fn rr<T: Tables>(t: &T, service: u32, settings: &Service) -> Option<Pick> {
    let cursor = t.cursor(service)?.get();
    let mut next = Next { settings: *settings, at: cursor as u32, found: None };
    t.scan(settings.servers_len.min(limits::SERVERS), &mut next);
    let (at, real) = next.found?;
    // The cursor is the number of the next one to ask, so that a fresh 0 starts with the first.
    Some(Pick { real, cursor: Some((cursor, u64::from(at) + 1)) })
}

struct Next {
    settings: Service,
    at: u32,
    found: Option<(u32, u32)>,
}

impl<T: Tables> Scan<T> for Next {
    #[inline(always)]
    fn visit(&mut self, t: &T, _: u32) -> bool {
        if self.at >= self.settings.servers_len {
            self.at = 0;
        }
        match t.server(self.settings.servers.wrapping_add(self.at)) {
            Some(server) if server.weight > 0 => {
                self.found = Some((self.at, server.real));
                false
            }
            _ => {
                self.at += 1;
                true
            }
        }
    }
}

/// The interleaved weighted round robin of LVS: rounds at a falling weight, from the greatest down in steps of the
/// greatest common divisor; each round takes those whose weight reaches it.
#[inline(always)]
pub fn wrr<T: Tables>(t: &T, service: u32, settings: &Service) -> Option<Pick> {
    if settings.max_weight == 0 {
        return None;
    }
    let cursor = t.cursor(service)?.get();
    let mut next = NextWeighted { settings: *settings, at: cursor as u32, weight: (cursor >> 32) as u32, found: None };
    // A round that finds nobody is followed by the next lower one; the greatest weight is met within two.
    t.scan(settings.servers_len.min(limits::SERVERS).wrapping_mul(2).wrapping_add(1), &mut next);
    let real = next.found?;
    let moved = (u64::from(next.at) + 1) | (u64::from(next.weight) << 32);
    Some(Pick { real, cursor: Some((cursor, moved)) })
}

struct NextWeighted {
    settings: Service,
    /// The number of the next one to ask.
    at: u32,
    /// The round's weight; 0 before the first.
    weight: u32,
    found: Option<u32>,
}

impl<T: Tables> Scan<T> for NextWeighted {
    #[inline(always)]
    fn visit(&mut self, t: &T, _: u32) -> bool {
        if self.at >= self.settings.servers_len {
            self.at = 0;
        }
        if self.at == 0 {
            let (max, gcd) = (self.settings.max_weight, self.settings.gcd_weight);
            self.weight = if self.weight > gcd && self.weight <= max { self.weight - gcd } else { max };
        }
        match t.server(self.settings.servers.wrapping_add(self.at)) {
            Some(server) if server.weight >= self.weight && server.weight > 0 && self.weight > 0 => {
                self.found = Some(server.real);
                false
            }
            _ => {
                self.at += 1;
                true
            }
        }
    }
}
