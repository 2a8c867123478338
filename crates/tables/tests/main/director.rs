//! The director of these tests: tables on the heap, a plan, a clock, a sweep.

use crate::packet::{Segment, Way};
use marca_config::model::Config;
use marca_config::plan::{Difference, Family, Plan, Standing, Touched};
use marca_engine::layout::{Cell, Macs, Service};
use marca_engine::tables::{CellTable, Route, Tables};
use marca_engine::{Action, Outcome, Reason, flow};
use marca_tables::classifier::Classifier;
use marca_tables::ids::{IdKind, Ids};
use marca_tables::services::{self, Clock, Hop, Prepared};
use marca_tables::slots::Left;
use marca_tables::sweep::{Sweep, forget_clients};
use marca_tables::{Capacity, Frame, Memory, Region, View, classifier};
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

/// 25 ticks a second.
pub const CLOCK: Clock = Clock { hz: 100 };
/// Ticks in a second.
pub const SECOND: u32 = 25;
const OUTSIDE: u32 = 1;
const INSIDE: u32 = 2;

pub struct Director {
    pub memory: Memory,
    pub ids: Ids,
    pub plan: Plan,
    pub sweep: Sweep,
    /// Real servers of services that have failed.
    pub failed: BTreeSet<(String, IpAddr)>,
    /// Those that take no new flows to some parts of theirs: a bit for each.
    pub closed: HashMap<(String, IpAddr), u16>,
    /// Ticks.
    pub now: u32,
    classifier: Classifier,
    /// What awaits the packets that were on their way at the last change.
    left: Left,
    /// What the classifier was written from, beside the plan.
    leaving: BTreeSet<IpAddr>,
    applied: u32,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// At this real server, at this port.
    Server(IpAddr, u16),
    /// At the client, from this VIP and port.
    Client(IpAddr, u16),
    /// Passed up, or dropped.
    Not(Reason),
}

/// Small tables for small plans.
pub const SMALL: Capacity = Capacity {
    addresses: 256,
    ports: 1024,
    half: 256,
    services: 16,
    slots: 1 << 15,
    servers: 512,
    reals: 64,
    flows: 1 << 12,
    half_open: 1 << 10,
    templates: 1 << 10,
};

impl Director {
    pub fn new(capacity: Capacity) -> Self {
        let sweep = Sweep::new(10 * SECOND);
        let memory = Memory::on_heap(capacity, 0x5eed);
        memory.set_fragment_ticks(5 * SECOND);
        let (ids, plan, classifier, left, leaving, failed, closed) = Default::default();
        Self { memory, ids, plan, sweep, failed, closed, now: 1000, classifier, left, leaving, applied: 0 }
    }

    pub fn with(capacity: Capacity, config: &Config) -> Self {
        let mut director = Self::new(capacity);
        director.apply(config);
        director
    }

    /// Puts a configuration in force as the daemon does: when it starts, and when it is told to reload, by turns.
    pub fn apply(&mut self, config: &Config) {
        self.applied += 1;
        if self.applied % 2 == 1 { self.start(config) } else { _ = self.replace(config) }
    }

    /// As a daemon that starts, and knows nothing but its numbers.
    pub fn start(&mut self, config: &Config) {
        let plan = self.plan_of(config);
        let capacity = self.memory.capacity;
        self.ids.assign(&plan, capacity.services, capacity.reals).unwrap();
        self.write(plan, None);
    }

    /// As a running daemon; answers what was different.
    pub fn replace(&mut self, config: &Config) -> Difference {
        let plan = self.plan_of(config);
        let capacity = self.memory.capacity;
        let difference = Difference::of(&self.plan, &plan);
        self.ids.replace((&self.plan, &plan), &difference, capacity.services, capacity.reals).unwrap();
        self.write(plan, Some(&difference));
        difference
    }

    /// With what has failed, as a whole or for a port.
    fn plan_of(&self, config: &Config) -> Plan {
        let mut plan = Plan::of(config).unwrap();
        for service in &mut plan.services {
            for real in &mut service.reals {
                let Some(server) = real.address.map(|address| (service.name.clone(), address)) else { continue };
                if self.failed.contains(&server) {
                    *real = real.standing(Standing::Failed);
                }
                real.closed = self.closed.get(&server).copied().unwrap_or_default();
            }
        }
        plan
    }

    /// A real server of a service has failed, or serves again.
    pub fn health(&mut self, config: &Config, service: &str, addresses: [IpAddr; 2], up: bool) {
        for address in addresses {
            let server = (service.to_owned(), address);
            if up {
                self.failed.remove(&server)
            } else {
                self.failed.insert(server)
            };
        }
        self.replace(config);
        let gone = addresses.map(|address| self.real(service, address));
        if !up {
            forget_clients(&self.memory, &gone.into());
        }
    }

    /// Parts of a service are closed at a real server, or open again.
    pub fn close(&mut self, config: &Config, service: &str, addresses: [IpAddr; 2], closed: u16) {
        self.closed.extend(addresses.map(|address| ((service.to_owned(), address), closed)));
        self.replace(config);
    }

    /// In the daemon's order.
    fn write(&mut self, plan: Plan, difference: Option<&Difference>) {
        self.settle();
        let prepared = Prepared::new(&self.memory, &plan, difference, &self.ids, CLOCK).unwrap();
        let leaving = classifier::leaving(&self.memory, &self.ids);
        let touched = difference.map(|difference| &difference.classifier);
        let is_same = touched.is_some_and(Touched::is_empty) && leaving == self.leaving;
        let half = (!is_same).then(|| {
            let interfaces = HashMap::from([("eth0".to_owned(), OUTSIDE), ("eth1".to_owned(), INSIDE)]);
            let written = self.classifier.write(&self.memory, &plan, &self.ids, &interfaces, touched).unwrap();
            self.memory.prefixes.retain(|prefix| prefix.half != written.half);
            self.memory.prefixes.extend(&written.prefixes);
            self.leaving = leaving;
            written
        });
        prepared.write_reals(&self.memory);
        for service in &plan.services {
            for real in &service.reals {
                let index = self.ids.real(&service.name, service.family, real.address).unwrap();
                services::set_hop(&self.memory, index, &hop(real.address));
            }
        }
        self.left = prepared.switch(&self.memory);
        half.into_iter().for_each(|half| self.classifier.switch(&self.memory, half));
        services::end_leaving(&self.memory, &self.ids);
        // Sometimes the next change is sooner.
        let Self { classifier, memory, ids, .. } = self;
        classifier.catch_up(memory, &plan, ids, memory.control().written as usize % 4 * 3);
        self.plan = plan;
    }

    /// The packets are gone that were on their way at the last change.
    fn settle(&mut self) {
        std::mem::take(&mut self.left).follow(&self.memory);
    }

    /// What packets do that were on their way at the last change of a service.
    pub fn before_the_change<R>(&self, service: &str, family: Family, packets: impl FnOnce() -> R) -> R {
        let number = self.ids.service(service, family).unwrap();
        let turn = || {
            let mut cell = self.memory.services.get(number).unwrap();
            cell.current ^= 1;
            self.memory.services.set(number, &cell);
        };
        turn();
        let done = packets();
        turn();
        done
    }

    /// The same real servers under the same plan and numbers, whose classifier is written as a whole.
    pub fn anew(&self) -> Self {
        let mut anew = Self { ids: self.ids.clone(), ..Self::new(self.memory.capacity) };
        for (number, real) in (0..self.memory.reals.len()).filter_map(|n| Some((n, self.memory.reals.get(n)?))) {
            anew.memory.reals.set(number, &real);
        }
        anew.write(self.plan.clone(), None);
        anew
    }

    pub fn view(&self) -> View<'_> {
        let mut view = View::new(&self.memory, self.now).with_shortcuts();
        view.route = Route::Via { interface: OUTSIDE, macs: Macs::new([2, 9, 9, 9, 9, 9], [2; 6]) };
        view
    }

    /// One frame through the engine.
    pub fn process(&self, bytes: Vec<u8>, interface: u32) -> (Outcome, Vec<u8>) {
        let mut frame = Frame::new(bytes, interface);
        let outcome = marca_engine::process(&mut frame, &mut self.view());
        (outcome, frame.bytes)
    }

    /// A client's packet.
    pub fn request(&self, way: &Way, segment: Segment) -> Seen {
        let before = way.frame(segment);
        let (outcome, frame) = self.process(before.clone(), OUTSIDE);
        self.seen(way, &before, outcome, &frame)
    }

    /// A real server's packet.
    pub fn reply(&self, way: &Way, segment: Segment) -> Seen {
        let before = way.frame(segment);
        let (outcome, frame) = self.process(before.clone(), INSIDE);
        self.seen(way, &before, outcome, &frame)
    }

    fn seen(&self, sent: &Way, before: &[u8], outcome: Outcome, frame: &[u8]) -> Seen {
        if outcome.reason.action() != Action::Send {
            assert_eq!(frame, before, "a frame that is not sent is as it was");
            return Seen::Not(outcome.reason);
        }
        let arrived = Way::of(frame);
        match outcome.reason {
            Reason::Reply => {
                assert_eq!(arrived.to, sent.to, "a reply goes to its client");
                Seen::Client(arrived.from.0, arrived.from.1)
            }
            // By ICMP, which has no ports, or by a segment that has.
            Reason::Refused | Reason::Reset => {
                assert_eq!((arrived.from.0, arrived.to.0), (sent.to.0, sent.from.0), "the client is told");
                Seen::Not(outcome.reason)
            }
            Reason::Nat => {
                assert_eq!(arrived.from, sent.from, "the client stays who it is");
                assert_eq!(frame[..6], mac(arrived.to.0), "{}", arrived.to.0);
                Seen::Server(arrived.to.0, arrived.to.1)
            }
            _ => {
                assert_eq!(&arrived, sent, "direct routing changes no address");
                let mut reals = self.reals().into_values();
                let real = reals.find(|real| frame[..6] == mac(*real)).expect("the MAC address of a real server");
                Seen::Server(real, arrived.to.1)
            }
        }
    }

    /// Addresses of all real servers that have a number, the leaving ones included.
    pub fn reals(&self) -> HashMap<u32, IpAddr> {
        let reals = (0..self.memory.reals.len()).map(|i| (i, self.memory.reals.get(i).unwrap()));
        reals.filter(|(_, r)| r.family != 0).map(|(i, r)| (i, classifier::ip(r.family, &r.address))).collect()
    }

    pub fn real(&self, service: &str, address: IpAddr) -> u32 {
        self.ids.real(service, Family::of(address), Some(address)).unwrap()
    }

    /// The service as packets meet it.
    pub fn settings(&self, service: &str, family: Family) -> (u32, Service) {
        let number = self.ids.service(service, family).unwrap();
        (number, self.view().service(number).unwrap())
    }

    /// Active and inactive connections of a real server, as the schedulers see them.
    pub fn load(&self, real: u32) -> (u64, u64) {
        let load = self.memory.loads.at(real).unwrap();
        (load.active.get(), load.inactive.get())
    }

    /// The same, counted in the records.
    pub fn counted(&self) -> HashMap<u32, (u64, u64)> {
        let mut counted: HashMap<u32, (u64, u64)> = HashMap::new();
        for record in [&self.memory.flows, &self.memory.half_open].into_iter().flat_map(records) {
            use marca_engine::layout::state_bits::{ANNOUNCED, DIRECT, REVERSE, TEMPLATE};
            if record.1.state & (ANNOUNCED | DIRECT | REVERSE | TEMPLATE) != 0 {
                continue;
            }
            let count = counted.entry(record.1.real).or_default();
            if flow::is_active(record.1.state) {
                count.0 += 1;
            } else {
                count.1 += 1;
            }
        }
        counted
    }

    /// Every load is the count of records.
    pub fn check_loads(&self) {
        let counted = self.counted();
        for real in 0..self.memory.loads.len() {
            assert_eq!(self.load(real), counted.get(&real).copied().unwrap_or_default(), "real server {real}");
        }
    }

    /// A whole pass of the sweep, begun anew.
    pub fn pass(&mut self) {
        self.settle();
        while !self.sweep.step(&self.memory, self.now, u32::MAX).1 {}
    }

    /// Time passes, with a whole pass of the sweep after each second.
    pub fn wait(&mut self, duration: Duration) {
        let end = self.now.wrapping_add(CLOCK.ticks(duration));
        while self.now != end {
            self.now = self.now.wrapping_add(SECOND.min(end.wrapping_sub(self.now)));
            self.pass();
        }
    }

    /// Numbers that nobody needs any more become free, as after each pass of the daemon's sweep.
    pub fn release_numbers(&mut self) {
        let Self { sweep, memory, .. } = self;
        self.ids.release(|kind| match kind {
            IdKind::Real(real) => sweep.has_records(memory, *real),
            IdKind::Service(_) => false,
        });
    }

    /// Records of a table.
    pub fn records(&self, table: CellTable) -> Vec<(flow::Key, flow::Record)> {
        match table {
            CellTable::Flows => records(&self.memory.flows),
            CellTable::HalfOpen => records(&self.memory.half_open),
            CellTable::Templates => records(&self.memory.templates),
            CellTable::Localities => records(&self.memory.localities),
        }
    }
}

fn records(region: &Region<Cell>) -> Vec<(flow::Key, flow::Record)> {
    (0..region.len()).filter_map(|i| flow::read(region.at(i).unwrap())).collect()
}

/// The MAC address that the way to a real server ends at.
pub fn mac(address: IpAddr) -> [u8; 6] {
    match address {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            [2, 4, a, b, c, d]
        }
        IpAddr::V6(ip) => {
            let o = ip.octets();
            [2, 6, o[0], o[1], o[14], o[15]]
        }
    }
}

fn hop(address: Option<IpAddr>) -> Hop {
    Hop {
        interface: INSIDE,
        source_mac: [2, 0, 0, 0, 0, 1],
        destination_mac: address.map(mac),
        source: address,
        mtu: 1500,
    }
}
