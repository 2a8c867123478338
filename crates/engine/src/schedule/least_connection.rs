//! The schedulers that look at every real server and take the first of the best: `lc` and `wlc`, least connection,
//! plain and weighted; `sed` and `nq`, shortest expected delay, the latter never queueing while a server is idle; `fo`
//! and `ovf`, the one of the greatest weight, the latter until that many connections are active there
//! (`net/netfilter/ipvs/ip_vs_{lc,wlc,sed,nq,fo,ovf}.c`).
//!
//! They differ in what a real server costs and how that is weighed, so that one scan serves all.

use super::{Pick, Scheduler, threshold};
use crate::layout::{Load, NO_REAL, Service, limits};
use crate::tables::{Scan, Tables};

/// The real server with the least cost for its weight; the first of equals. Weight 0 takes no new clients, nor does
/// who has reached a threshold.
#[inline(always)]
pub fn pick<T: Tables>(t: &T, settings: &Service) -> Pick {
    let mut least = Least { servers: settings.servers, scheduler: settings.scheduler, best: Best::NOBODY };
    t.scan(settings.servers_len.min(limits::SERVERS), &mut least);
    Pick::of(least.best.real)
}

const LC: u8 = Scheduler::Lc as u8;
const SED: u8 = Scheduler::Sed as u8;
const NQ: u8 = Scheduler::Nq as u8;
const FO: u8 = Scheduler::Fo as u8;
const OVF: u8 = Scheduler::Ovf as u8;

/// What a new connection costs at a real server, and its weight: 0 where it may not go.
#[inline(always)]
fn measure(scheduler: u8, load: &Load, weight: u32) -> (u64, u64) {
    let (active, weight) = (load.active.get(), u64::from(weight));
    match scheduler {
        LC => (overhead(load), weight.min(1)),
        SED => (active.wrapping_add(1), weight),
        NQ => (if active == 0 { 0 } else { active.wrapping_add(1) }, weight),
        FO => (1, weight),
        // The kernel goes on to the next when the active connections are more than the weight, not as many.
        OVF => (1, if active > weight { 0 } else { weight }),
        _ => (overhead(load), weight),
    }
}

/// An active connection weighs as much as 256 inactive ones (`include/net/ip_vs.h`, `ip_vs_dest_conn_overhead`).
#[inline(always)]
pub fn overhead(load: &Load) -> u64 {
    (load.active.get() << 8).wrapping_add(load.inactive.get())
}

/// The best so far.
#[derive(Clone, Copy)]
pub struct Best {
    /// [`NO_REAL`]: none so far.
    pub real: u32,
    pub cost: u64,
    pub weight: u64,
}

impl Best {
    pub const NOBODY: Self = Self { real: NO_REAL, cost: 0, weight: 0 };

    /// Whether this one costs more for its weight.
    #[inline(always)]
    pub fn costs_more(&self, cost: u64, weight: u64) -> bool {
        // a/w > b/v without a division; 2^40 connections times 2^16 fit.
        self.cost.wrapping_mul(weight) > cost.wrapping_mul(self.weight)
    }
}

struct Least {
    servers: u32,
    scheduler: u8,
    best: Best,
}

impl<T: Tables> Scan<T> for Least {
    #[inline(always)]
    fn visit(&mut self, t: &T, index: u32) -> bool {
        let Some(server) = t.server(self.servers.wrapping_add(index)) else { return false };
        let Some(load) = t.load(server.real) else { return true };
        let (cost, weight) = measure(self.scheduler, load, server.weight);
        if weight == 0 || threshold::is_overloaded(load) {
            return true;
        }
        if self.best.real == NO_REAL || self.best.costs_more(cost, weight) {
            self.best = Best { real: server.real, cost, weight };
        }
        true
    }
}
