//! The engine's [`Tables`] over a [`Memory`]: what tests run packets against, and what explains a packet.

use crate::memory::Memory;
use marca_engine::layout::{
    Address, AddressCell, Cell as Record, Condition, Control, Destination, Fragment, Load, Neighbour, NextHop,
    PortCell, Processor, RangeCell, Real, Server, Service, Slot, Traffic, V4, Vip, Word64,
};
use marca_engine::reason::Reason;
use marca_engine::tables::{CellTable, Route, RouteQuery, Scan, Step, Tables};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A memory at one moment, with counters and notes of its own.
pub struct View<'a> {
    memory: &'a Memory,
    /// Ticks.
    pub now: u32,
    /// Where replies to clients leave.
    pub route: Route,
    /// What the copied routes say of any address.
    pub hop: Option<NextHop>,
    pub reasons: BTreeMap<&'static str, u64>,
    pub traffic: RefCell<BTreeMap<u32, Traffic>>,
    /// How many records of connections and templates were looked at.
    pub looks: Cell<u64>,
    /// New connections beyond their services' rate limits.
    pub refused: BTreeMap<u32, u64>,
    processor: Option<&'a Processor>,
    steps: RefCell<Vec<Step>>,
}

impl<'a> View<'a> {
    pub fn new(memory: &'a Memory, now: u32) -> Self {
        Self {
            memory,
            now,
            route: Route::None,
            hop: None,
            reasons: BTreeMap::new(),
            traffic: RefCell::default(),
            looks: Cell::new(0),
            refused: BTreeMap::new(),
            processor: None,
            steps: RefCell::default(),
        }
    }

    /// Packets take shortcuts, and lay them: for one thread at a time.
    #[must_use]
    pub fn with_shortcuts(self) -> Self {
        Self { processor: self.memory.processors.at(0), ..self }
    }

    /// How many numbers of services there are.
    pub fn services(&self) -> u32 {
        self.memory.services.len()
    }

    /// Overwrites the control record.
    pub fn set_control(&self, control: &Control) {
        self.memory.control.set(0, control);
    }

    /// The steps that decisions have taken since the last call.
    pub fn take_steps(&self) -> Vec<Step> {
        self.steps.take()
    }
}

impl Tables for View<'_> {
    fn control(&self) -> Option<Control> {
        self.memory.control.get(0)
    }

    fn address(&self, index: u32) -> Option<AddressCell> {
        self.memory.addresses.get(index)
    }

    fn port(&self, index: u32) -> Option<PortCell> {
        self.memory.ports.get(index)
    }

    fn range(&self, index: u32) -> Option<RangeCell> {
        self.memory.ranges.get(index)
    }

    fn condition(&self, index: u32) -> Option<Condition> {
        self.memory.conditions.get(index)
    }

    fn destination(&self, index: u32) -> Option<Destination> {
        self.memory.destinations.get(index)
    }

    fn prefix(&self, half: u32, family: u8, address: &Address) -> Option<u32> {
        let address: IpAddr = if family == V4 { address.octets_v4().into() } else { address.octets_v6().into() };
        let holding = self.memory.prefixes.iter().filter(|p| p.half == half && p.net.contains(&address));
        holding.max_by_key(|p| p.net.prefix_len()).map(|p| p.destination)
    }

    fn vip(&self, index: u32) -> Option<Vip> {
        self.memory.vips.get(index)
    }

    fn source(&self, number: u32) -> Option<Address> {
        self.memory.sources.get(number)
    }

    fn service(&self, index: u32) -> Option<Service> {
        let cell = self.memory.services.get(index)?;
        Some(cell.versions[(cell.current & 1) as usize])
    }

    fn slot(&self, index: u32) -> Option<&Slot> {
        self.memory.slots.at(index)
    }

    fn server(&self, index: u32) -> Option<Server> {
        self.memory.servers.get(index)
    }

    fn real(&self, index: u32) -> Option<Real> {
        self.memory.reals.get(index)
    }

    fn load(&self, index: u32) -> Option<&Load> {
        self.memory.loads.at(index)
    }

    fn cursor(&self, service: u32) -> Option<&Word64> {
        self.memory.cursors.at(service)
    }

    fn cell(&self, table: CellTable, index: u32) -> Option<&Record> {
        self.looks.set(self.looks.get() + 1);
        match table {
            CellTable::Flows => self.memory.flows.at(index),
            CellTable::HalfOpen => self.memory.half_open.at(index),
            CellTable::Templates => self.memory.templates.at(index),
            CellTable::Localities => self.memory.localities.at(index),
        }
    }

    fn watch(&self, index: u32) -> Option<&Word64> {
        self.memory.watch.at(index)
    }

    fn neighbour(&self, index: u32) -> Option<&Neighbour> {
        self.memory.neighbours.at(index)
    }

    fn fragment(&self, index: u32) -> Option<&Fragment> {
        self.memory.fragments.at(index)
    }

    fn processor(&self) -> Option<&Processor> {
        self.processor
    }

    fn answers(&self, group: u32) -> Option<&Word64> {
        self.memory.answers.at(group)
    }

    fn rate(&self, service: u32) -> Option<&Word64> {
        self.memory.rates.at(service)
    }

    fn now(&self) -> u32 {
        self.now
    }

    fn next_hop(&self, _: u8, _: &Address) -> Option<NextHop> {
        self.hop
    }

    fn route(&self, _: &RouteQuery) -> Route {
        self.route
    }

    fn scan<S: Scan<Self>>(&self, count: u32, visitor: &mut S) {
        for index in 0..count {
            if !visitor.visit(self, index) {
                return;
            }
        }
    }

    fn count_in(&mut self, real: u32, bytes: u32, new_connection: bool) {
        self.count_at(real, bytes, false);
        self.traffic.get_mut().entry(real).or_default().connections += u64::from(new_connection);
    }

    fn count_out(&mut self, real: u32, bytes: u32) {
        self.count_at(real, bytes, true);
    }

    fn traffic(&self, real: u32) -> u32 {
        real
    }

    fn count_at(&self, real: u32, bytes: u32, out: bool) {
        let mut traffic = self.traffic.borrow_mut();
        let traffic = traffic.entry(real).or_default();
        if out {
            traffic.out_packets += 1;
            traffic.out_bytes += u64::from(bytes);
        } else {
            traffic.in_packets += 1;
            traffic.in_bytes += u64::from(bytes);
        }
    }

    fn count(&mut self, reason: Reason) {
        *self.reasons.entry(reason.label()).or_default() += 1;
    }

    fn count_refused(&mut self, service: u32) {
        *self.refused.entry(service).or_default() += 1;
    }

    fn note(&self, step: Step) {
        self.steps.borrow_mut().push(step);
    }
}
