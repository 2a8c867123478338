//! `twos`: the better of two random real servers (`net/netfilter/ipvs/ip_vs_twos.c`; Mitzenmacher, Richa and Sitaraman,
//! "The Power of Two Random Choices: A Survey of Techniques and Results", 2001).
//!
//! Two random numbers fall on real servers by their weights; of the two, the one with fewer connections for its weight
//! gets the client. What is random is a hash of the client under the tables' seed and the numbers before, which the
//! service's cursor keeps: nobody outside can foresee it, and whoever has the tables can repeat it.

use super::least_connection::{Best, overhead};
use super::{CursorMove, Newcomer, Pick, locality, threshold};
use crate::hash;
use crate::layout::{NO_REAL, Service, limits};
use crate::tables::{Scan, Tables};

#[inline(always)]
pub fn pick<T: Tables>(t: &T, service: u32, settings: &Service, newcomer: &Newcomer) -> Pick {
    let Some(cursor) = t.cursor(service) else { return Pick::NOBODY };
    let cursor = cursor.get();
    let servers = settings.servers_len.min(limits::SERVERS);
    let mut all = Weights { servers: settings.servers, sum: 0 };
    t.scan(servers, &mut all);
    if all.sum == 0 {
        return Pick::NOBODY;
    }
    let random = draw(newcomer, cursor);
    // As in the kernel, from 0 to the sum, both included. 4,096 weights are less than 2^28.
    let sum = all.sum.wrapping_add(1);
    let mut two = Two {
        servers: settings.servers,
        left: [hash::reduce(random as u32, sum), hash::reduce((random >> 32) as u32, sum)],
        first: Best::NOBODY,
        second: Best::NOBODY,
    };
    t.scan(servers, &mut two);
    let second = two.second.real != NO_REAL && two.first.costs_more(two.second.cost, two.second.weight);
    let real = if second { two.second.real } else { two.first.real };
    let cursor = CursorMove { moves: true, before: cursor, after: random };
    Pick { real, cursor, locality: locality::Change::NOTHING }
}

/// The next random numbers, in each half one.
#[inline(always)]
pub fn draw(newcomer: &Newcomer, cursor: u64) -> u64 {
    hash::address(newcomer.seed ^ cursor, newcomer.client, u64::from(newcomer.client_port))
}

/// The weights of those that take clients, added up.
struct Weights {
    servers: u32,
    sum: u32,
}

impl<T: Tables> Scan<T> for Weights {
    #[inline(always)]
    fn visit(&mut self, t: &T, index: u32) -> bool {
        let Some(server) = t.server(self.servers.wrapping_add(index)) else { return false };
        let Some(load) = t.load(server.real) else { return true };
        if !threshold::is_overloaded(load) {
            self.sum = self.sum.wrapping_add(server.weight);
        }
        true
    }
}

/// The real servers that the two numbers fall on.
struct Two {
    servers: u32,
    left: [u32; 2],
    first: Best,
    second: Best,
}

impl<T: Tables> Scan<T> for Two {
    #[inline(always)]
    fn visit(&mut self, t: &T, index: u32) -> bool {
        let Some(server) = t.server(self.servers.wrapping_add(index)) else { return false };
        let Some(load) = t.load(server.real) else { return true };
        if server.weight == 0 || threshold::is_overloaded(load) {
            return true;
        }
        let here = Best { real: server.real, cost: overhead(load), weight: u64::from(server.weight) };
        self.left = [self.left[0].saturating_sub(server.weight), self.left[1].saturating_sub(server.weight)];
        if self.left[0] == 0 && self.first.real == NO_REAL {
            self.first = here;
        }
        if self.left[1] == 0 && self.second.real == NO_REAL {
            self.second = here;
        }
        self.first.real == NO_REAL || self.second.real == NO_REAL
    }
}
