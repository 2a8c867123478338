//! All tables of a director together, and their sizes.

use crate::region::Region;
use marca_config::model::{Limits, Scheduler};
use marca_config::plan::Plan;
use marca_engine::layout::{
    Address, AddressCell, Cell, Condition, Control, Destination, Fragment, LAYOUT_VERSION, Load, Neighbour, PortCell,
    Processor, RangeCell, Real, Server, ServiceCell, Vip, Word64, control_flags, limits,
};
use marca_engine::schedule::{destination_hash, maglev, source_hash};
use serde::{Deserialize, Serialize};

/// Lengths of the tables. Fixed when the maps are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// Cells in one half of the address table; a power of two, as the next.
    pub addresses: u32,
    /// Cells in one half of the port table.
    pub ports: u32,
    /// Elements in one half of the destination, range, condition and VIP tables.
    pub half: u32,
    /// Numbers of services; the last is `services - 1`.
    pub services: u32,
    pub slots: u32,
    pub servers: u32,
    pub reals: u32,
    /// Cells; a power of two, as the next two.
    pub flows: u32,
    pub half_open: u32,
    pub templates: u32,
}

impl Capacity {
    /// For this plan, with room to grow to about twice its size before the maps must be made anew.
    pub fn for_plan(plan: &Plan, limits: &Limits) -> Self {
        let reals: usize = plan.services.iter().map(|s| s.reals.len()).sum();
        let parts: usize = plan.services.iter().map(|s| s.parts.len()).sum();
        // Each part has a table and a list of its own.
        let servers: usize = plan.services.iter().map(|s| s.reals.len() * (1 + s.parts.len())).sum();
        let slots: usize = plan.services.iter().map(|s| slots_wanted(s) * (1 + s.parts.len())).sum();
        let hosts = plan.destinations.len() + reals + plan.sources.len();
        let exact: usize = plan.destinations.iter().map(|d| d.ports.len()).sum::<usize>() + plan.replies.len();
        let candidates: usize = plan.destinations.iter().flat_map(|d| &d.ports).map(|p| p.candidates.len()).sum();
        let room = |count: usize, least: u32| (count as u32).saturating_mul(2).max(least).next_power_of_two();
        Self {
            // A quarter full at the most, so that a miss is usually seen at the first cell.
            addresses: room(hosts * 2, 256),
            ports: room(exact * 2, 1024),
            half: room(candidates + plan.destinations.len(), 1024),
            services: room(plan.services.len() + parts, 256),
            // A changed service is written beside its old self.
            slots: room(slots, 1 << 16),
            servers: room(servers * 2, 4096),
            reals: room(reals, 1024),
            flows: limits.flows.next_power_of_two(),
            half_open: limits.half_open.next_power_of_two(),
            templates: limits.templates.next_power_of_two(),
        }
    }

    /// Whether tables of this size serve a plan that asks for `other`, halved where there was room to grow.
    pub fn holds(&self, plan: &Plan) -> bool {
        let need = Self::for_plan(plan, &Limits { flows: 1, half_open: 1, templates: 1 });
        let fits = |have: u32, wanted: u32| have >= wanted / 2;
        fits(self.addresses, need.addresses)
            && fits(self.ports, need.ports)
            && fits(self.half, need.half)
            && fits(self.services, need.services)
            && fits(self.slots, need.slots)
            && fits(self.servers, need.servers)
            && fits(self.reals, need.reals)
    }

    /// Lengths by the names of the BPF maps, on a machine with so many processors.
    pub fn maps(&self, processors: u32) -> [(&'static str, u32); 21] {
        [
            ("CONTROL", 1),
            ("ADDRESSES", self.addresses * 2),
            ("PORTS", self.ports * 2),
            ("RANGES", self.half * 2),
            ("CONDITIONS", self.half * 2),
            ("DESTINATIONS", self.half * 2),
            ("VIPS", self.half * 2),
            ("SERVICES", self.services),
            ("CURSORS", self.services),
            ("RATES", self.services),
            ("REFUSED", self.services),
            ("SLOTS", self.slots),
            ("SERVERS", self.servers),
            ("REALS", self.reals),
            ("LOADS", self.reals),
            ("TRAFFIC", self.reals * processors),
            ("PROCESSORS", processors),
            ("FLOWS", self.flows),
            ("HALF_OPEN", self.half_open),
            ("TEMPLATES", self.templates),
            ("PREFIXES", self.half * 2),
        ]
    }
}

fn slots_wanted(service: &marca_config::plan::ServicePlan) -> usize {
    match service.scheduler {
        Scheduler::Maglev => maglev::table_size(service.reals.len()) as usize,
        Scheduler::Sh => {
            let weights: Vec<u32> = service.reals.iter().map(|r| u32::from(r.weight)).collect();
            1 << source_hash::table_bits(&weights)
        }
        Scheduler::Dh => 1 << destination_hash::table_bits(service.reals.len()),
        _ => 0,
    }
}

/// A prefix of mark rules, as the prefix table holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    pub half: u32,
    pub net: ipnet::IpNet,
    pub destination: u32,
}

/// All tables.
pub struct Memory {
    pub capacity: Capacity,
    pub control: Region<Control>,
    pub addresses: Region<AddressCell>,
    pub ports: Region<PortCell>,
    pub ranges: Region<RangeCell>,
    pub conditions: Region<Condition>,
    pub destinations: Region<Destination>,
    pub vips: Region<Vip>,
    pub sources: Region<Address>,
    pub services: Region<ServiceCell>,
    pub cursors: Region<Word64>,
    pub rates: Region<Word64>,
    pub slots: Region<Word64>,
    pub servers: Region<Server>,
    pub reals: Region<Real>,
    pub loads: Region<Load>,
    pub flows: Region<Cell>,
    pub half_open: Region<Cell>,
    pub templates: Region<Cell>,
    pub localities: Region<Cell>,
    pub watch: Region<Word64>,
    pub neighbours: Region<Neighbour>,
    pub fragments: Region<Fragment>,
    pub answers: Region<Word64>,
    pub processors: Region<Processor>,
    /// A copy of the prefix table, which is the one that cannot be mapped.
    pub prefixes: Vec<Prefix>,
}

/// Words in the two watch filters.
pub const WATCH_WORDS: u32 = limits::WATCH_BITS / 64 * 2;

impl Memory {
    /// Empty tables on the heap; `seed` for their hashes.
    pub fn on_heap(capacity: Capacity, seed: u64) -> Self {
        let memory = Self {
            capacity,
            control: Region::on_heap(1),
            addresses: Region::on_heap(capacity.addresses * 2),
            ports: Region::on_heap(capacity.ports * 2),
            ranges: Region::on_heap(capacity.half * 2),
            conditions: Region::on_heap(capacity.half * 2),
            destinations: Region::on_heap(capacity.half * 2),
            vips: Region::on_heap(capacity.half * 2),
            sources: Region::on_heap(limits::SOURCES),
            services: Region::on_heap(capacity.services),
            cursors: Region::on_heap(capacity.services),
            rates: Region::on_heap(capacity.services),
            slots: Region::on_heap(capacity.slots),
            servers: Region::on_heap(capacity.servers),
            reals: Region::on_heap(capacity.reals),
            loads: Region::on_heap(capacity.reals),
            flows: Region::on_heap(capacity.flows),
            half_open: Region::on_heap(capacity.half_open),
            templates: Region::on_heap(capacity.templates),
            localities: Region::on_heap(limits::LOCALITIES),
            watch: Region::on_heap(WATCH_WORDS),
            neighbours: Region::on_heap(limits::NEIGHBOURS),
            fragments: Region::on_heap(limits::FRAGMENTS),
            answers: Region::on_heap(limits::ANSWERS),
            processors: Region::on_heap(1),
            prefixes: Vec::new(),
        };
        memory.initialise(seed);
        memory
    }

    /// Writes the sizes into empty tables; the version last, which says that they are there.
    pub fn initialise(&self, seed: u64) {
        let buckets = |cells: u32| cells / limits::WAYS - 1;
        let control = Control {
            seed,
            address_mask: self.capacity.addresses - 1,
            port_mask: self.capacity.ports - 1,
            half_len: self.capacity.half,
            flow_mask: buckets(self.capacity.flows),
            half_open_mask: buckets(self.capacity.half_open),
            template_mask: buckets(self.capacity.templates),
            ..Control::default()
        };
        self.control.set(0, &control);
        self.control.set(0, &Control { version: LAYOUT_VERSION, ..control });
    }

    /// How many ticks of its group's bucket an ICMP error uses up: see `marca_engine::answer`.
    pub fn set_answer_ticks(&self, ticks: u32) {
        self.control.set(0, &Control { answer_ticks: ticks, ..self.control() });
    }

    /// How long a fragmented packet is remembered, in ticks: see `marca_engine::fragment`.
    pub fn set_fragment_ticks(&self, ticks: u32) {
        self.control.set(0, &Control { fragment_ticks: ticks, ..self.control() });
    }

    /// No packet takes a shortcut any more, goes through a door or by a remembered next hop, that rests on what has been
    /// written before.
    pub fn outdate_shortcuts(&self) {
        for processor in (0..self.processors.len()).filter_map(|number| self.processors.at(number)) {
            processor.generation.add(1);
        }
    }

    /// Until when packets may use the copied routes, in ticks; `holds` false: not at all.
    pub fn set_routes_until(&self, tick: u32, holds: bool) {
        let mut control = self.control();
        // Tick 0 is as far from now as any other: so the flag.
        control.flags =
            if holds { control.flags | control_flags::ROUTES } else { control.flags & !control_flags::ROUTES };
        control.routes_until = tick;
        self.control.set(0, &control);
    }

    /// The control record, which always is there.
    pub fn control(&self) -> Control {
        self.control.get(0).unwrap_or_default()
    }
}
