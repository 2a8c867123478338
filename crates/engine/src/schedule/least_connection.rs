//! `lc` and `wlc`: least connection, plain and weighted (`net/netfilter/ipvs/ip_vs_lc.c`, `ip_vs_wlc.c`).

use super::{CursorMove, Pick};
use crate::layout::{Load, NO_REAL, Service, limits};
use crate::tables::{Scan, Tables};

/// The real server with the least overhead, or the least overhead per weight; the first of equals. Weight 0 takes no
/// new clients.
#[inline(always)]
pub fn pick<T: Tables>(t: &T, settings: &Service, weighted: bool) -> Pick {
    let mut least = Least { servers: settings.servers, weighted, real: NO_REAL, overhead: 0, weight: 0 };
    t.scan(settings.servers_len.min(limits::SERVERS), &mut least);
    Pick { real: least.real, cursor: CursorMove::NONE }
}

/// An active connection weighs as much as 256 inactive ones (`include/net/ip_vs.h`, `ip_vs_dest_conn_overhead`).
#[inline(always)]
pub fn overhead(load: &Load) -> u64 {
    (load.active.get() << 8).wrapping_add(load.inactive.get())
}

struct Least {
    servers: u32,
    weighted: bool,
    real: u32,
    overhead: u64,
    weight: u64,
}

impl<T: Tables> Scan<T> for Least {
    #[inline(always)]
    fn visit(&mut self, t: &T, index: u32) -> bool {
        let Some(server) = t.server(self.servers.wrapping_add(index)) else { return false };
        if server.weight == 0 {
            return true;
        }
        let Some(load) = t.load(server.real) else { return true };
        let (overhead, weight) = (overhead(load), if self.weighted { u64::from(server.weight) } else { 1 });
        // a/w < b/v without a division; 2^40 connections times 2^16 fit.
        if self.real == NO_REAL || self.overhead.wrapping_mul(weight) > overhead.wrapping_mul(self.weight) {
            self.real = server.real;
            self.overhead = overhead;
            self.weight = weight;
        }
        true
    }
}
