//! Counters of services and of the director as a whole.
//!
//! A service's traffic is that of its real servers, but a sum over those that are there now falls when one of them is
//! removed, and Prometheus takes a counter that falls for one that has begun anew, and all of it for new traffic. So what
//! is added here is what each has counted since the last look. The sums begin with the daemon: at nothing, if it adopts
//! a data plane that has counted before.

use crate::status::{Status, TrafficStatus};
use std::collections::HashMap;

/// Sums that never fall while the daemon lives.
#[derive(Debug, Default)]
pub struct Sums {
    all: Sum,
    services: HashMap<String, Known>,
    looks: u64,
}

/// What has been counted since the daemon began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    pub traffic: TrafficStatus,
    pub rate_limited: u64,
}

#[derive(Debug, Default)]
struct Known {
    sum: Sum,
    /// As it was counted at the last look.
    rate_limited: u64,
    servers: HashMap<String, Last>,
    look: u64,
}

#[derive(Debug, Default)]
struct Last {
    traffic: TrafficStatus,
    look: u64,
}

static NOTHING: Sum = Sum {
    traffic: TrafficStatus { connections: 0, in_packets: 0, in_bytes: 0, out_packets: 0, out_bytes: 0 },
    rate_limited: 0,
};

impl Sums {
    /// Begins: what has been counted so far is not counted again.
    pub fn begin(status: &Status) -> Self {
        let mut sums = Self::default();
        sums.add(status);
        sums.all = Sum::default();
        sums.services.values_mut().for_each(|known| known.sum = Sum::default());
        sums
    }

    /// Adds what has been counted since the last look.
    pub fn add(&mut self, status: &Status) {
        self.looks += 1;
        let look = self.looks;
        for service in &status.services {
            let known = entry(&mut self.services, &service.name);
            known.look = look;
            let limited = since(service.rate_limited, known.rate_limited);
            known.rate_limited = service.rate_limited;
            known.sum.rate_limited += limited;
            self.all.rate_limited += limited;
            for server in &service.servers {
                let last = entry(&mut known.servers, &server.name);
                last.look = look;
                let new = difference(&server.traffic, &last.traffic);
                last.traffic = server.traffic;
                known.sum.traffic.add(&new);
                self.all.traffic.add(&new);
            }
            if known.servers.len() > service.servers.len() + MOST_GONE {
                known.servers.retain(|_, last| last.look == look);
            }
        }
        if self.services.len() > status.services.len() + MOST_GONE {
            self.services.retain(|_, known| known.look == look);
        }
    }

    /// Of all services, also of those that are gone.
    pub fn all(&self) -> &Sum {
        &self.all
    }

    /// How many services and servers are remembered.
    #[cfg(test)]
    pub fn known(&self) -> usize {
        self.services.values().map(|known| 1 + known.servers.len()).sum()
    }

    pub fn service(&self, name: &str) -> &Sum {
        self.services.get(name).map_or(&NOTHING, |known| &known.sum)
    }
}

/// Servers and services that are gone are remembered, because one that comes back while it has connections has its old
/// counters; but not more of them than that beside those that are there.
const MOST_GONE: usize = 256;

fn entry<'m, T: Default>(map: &'m mut HashMap<String, T>, name: &str) -> &'m mut T {
    if !map.contains_key(name) {
        map.insert(name.to_owned(), T::default());
    }
    map.get_mut(name).expect("it is there now")
}

/// A number that has fallen has begun anew.
fn since(now: u64, before: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

fn difference(now: &TrafficStatus, before: &TrafficStatus) -> TrafficStatus {
    TrafficStatus {
        connections: since(now.connections, before.connections),
        in_packets: since(now.in_packets, before.in_packets),
        in_bytes: since(now.in_bytes, before.in_bytes),
        out_packets: since(now.out_packets, before.out_packets),
        out_bytes: since(now.out_bytes, before.out_bytes),
    }
}
