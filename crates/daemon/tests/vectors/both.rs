//! Two directors with the same tables: one native, on the heap, and one in the kernel. Every packet meets both, and
//! they must do the same with it.

use super::format::{Arrival, Out, Side, Step, Tamper, Vector};
use super::kernel::{Kernel, Ran, Verdict};
use super::network::Network;
use marca_config::model::{Gue, PortMatch};
use marca_config::plan::{Plan, RealPlan, ServicePlan, Standing};
use marca_daemon::linux::data_plane::Hook;
use marca_daemon::linux::network;
use marca_daemon::routes::Routes;
use marca_daemon::standings::{Health, HealthPort, Standings};
use marca_engine::decap::{Policy, decapsulate};
use marca_engine::flow::{self, Key, Record};
use marca_engine::layout::{Address, Cell, Fragment, Real, Word32, real_flags, state_bits};
use marca_engine::reason::Action;
use marca_engine::tables::Route;
use marca_engine::wire::Headers;
use marca_engine::{Outcome, Reason, icmp, wire};
use marca_tables::explain::Director;
use marca_tables::ids::Ids;
use marca_tables::memory::{Capacity, Memory, WATCH_WORDS};
use marca_tables::sweep::{Sweep, forget_clients};
use marca_tables::{Frame, Region, View, classifier, services};
use marca_testkit::frame;
use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

/// So that every run of the suite is the same.
const SEED: u64 = 0x6d61_7263_6120_3031;

const CAPACITY: Capacity = Capacity {
    addresses: 256,
    ports: 1024,
    half: 256,
    services: 64,
    slots: 4096,
    servers: 256,
    reals: 64,
    flows: 1024,
    half_open: 1024,
    templates: 1024,
};

/// Whose tunnels the decapsulator takes apart.
const DIRECTORS: [&str; 2] = ["10.0.0.1", "fd00::1"];

pub struct Both {
    pub network: Network,
    kernel: Kernel,
    native: Memory,
    plan: Plan,
    /// Without what has failed.
    configured: Plan,
    standings: Standings,
    ids: Ids,
    /// Of the next packet's headroom, bytes that are taken.
    reserved: usize,
}

impl Both {
    /// On a thread of its own, because it moves into a namespace of its own.
    pub fn new(label: &str, hook: Hook) -> Self {
        let network = Network::enter();
        let interfaces: Vec<String> = network.interfaces().into_keys().collect();
        let directors = DIRECTORS.map(|text| text.parse().unwrap());
        let kernel = Kernel::load(label, hook, &CAPACITY, SEED, &interfaces, &directors);
        let native = Memory::on_heap(CAPACITY, SEED);
        Self {
            network,
            kernel,
            native,
            plan: Plan::default(),
            configured: Plan::default(),
            standings: Standings::default(),
            ids: Ids::default(),
            reserved: 0,
        }
    }

    /// Lets replies in the kernel leave by a copy of its routes, which must lead where its own lookup does.
    pub fn copy_routes(&mut self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut routes = Routes::default();
        let network = async { network::Network::open() };
        let maps = self.kernel.maps();
        runtime.block_on(async { routes.look_up(&network.await.unwrap(), maps).await }).unwrap();
        let now = self.kernel.plane.now().unwrap();
        routes.renew(&self.kernel.plane.maps, now.wrapping_add(u32::MAX / 4));
    }

    /// Whether a vector says anything about this place in the kernel.
    pub fn concerns(&self, vector: &Vector) -> bool {
        let tampered = |step: &Step| matches!(step, Step::Tamper(Tamper::NoHeadroom));
        self.kernel.headroom_ends() || !(vector.xdp_only || vector.before.iter().any(tampered))
    }

    /// Brings a vector up to its packet.
    pub fn prepare(&mut self, vector: &Vector) {
        let Some(configuration) = &vector.configuration else { return };
        self.start(configuration);
        for step in &vector.before {
            match step {
                Step::Packet(arrival) => _ = self.take(arrival),
                Step::Age(time) => self.age(*time),
                Step::Load(configuration) => self.load(configuration),
                Step::Health { name, up } => self.health(name, *up),
                Step::Port { name, port, open } => self.port(name, *port, *open),
                Step::Tamper(tamper) => self.tamper(*tamper),
            }
        }
    }

    /// A director that has just been started with this configuration.
    pub fn start(&mut self, configuration: &str) {
        self.ids = Ids::default();
        self.reserved = 0;
        for half in 0..2 {
            self.kernel.maps().write_prefixes(half, &[]).unwrap();
        }
        self.native.prefixes.clear();
        for memory in [&self.native, &self.kernel.plane.maps.memory] {
            clear(memory);
        }
        self.load(configuration);
    }

    /// Another configuration, as a reload brings it.
    pub fn load(&mut self, configuration: &str) {
        let text = format!("[router]\noutside = \"outside\"\ninside = \"inside\"\n{configuration}");
        let loaded = marca_config::load("marca.toml", &text).unwrap_or_else(|e| panic!("{}", e.render(false)));
        self.configured = Plan::of(&loaded.config).unwrap();
        self.standings = Standings::default();
        self.standings.settle(&self.configured, None, Duration::ZERO);
        self.plan = self.standings.apply(&self.configured);
        self.write();
    }

    /// A real server has failed, or serves again: somebody says so, and its checks.
    fn health(&mut self, name: &str, up: bool) {
        self.restand(name, |standings, service, real| {
            standings.set_failed(service, real, !up);
            Health { is_down: !up, ..Health::default() }
        });
    }

    /// Checks of a member port fail at a real server, or hold again.
    fn port(&mut self, name: &str, port: PortMatch, open: bool) {
        self.restand(name, |standings, service, real| {
            let mut health = standings.health(service, real).cloned().unwrap_or_default();
            match open {
                true => _ = health.ports.remove(&HealthPort::from(port)),
                false => _ = health.ports.insert(HealthPort::from(port)),
            }
            health
        });
    }

    /// As the daemon does it when checks have come to a verdict.
    fn restand(&mut self, name: &str, verdict: impl Fn(&mut Standings, &ServicePlan, &RealPlan) -> Health) {
        let before = std::mem::take(&mut self.plan);
        let mut known = false;
        for service in &self.configured.services {
            for real in service.reals.iter().filter(|real| real.name == name) {
                let health = verdict(&mut self.standings, service, real);
                self.standings.set_health(service, real, health);
                known = true;
            }
            self.standings.weigh(service);
        }
        assert!(known, "there is no {name}");
        self.plan = self.standings.apply(&self.configured);
        self.write();
        let mut gone = HashSet::new();
        for (before, service) in before.services.iter().zip(&self.plan.services) {
            for (before, real) in before.reals.iter().zip(&service.reals) {
                if before.standing == Standing::Serving && real.standing != Standing::Serving {
                    gone.extend(self.ids.real(&service.name, service.family, real.address));
                }
            }
        }
        for memory in [&self.native, &self.kernel.plane.maps.memory] {
            forget_clients(memory, &gone);
        }
    }

    fn write(&mut self) {
        self.ids.assign(&self.plan, CAPACITY.services, CAPACITY.reals).unwrap();
        let interfaces = self.network.interfaces();
        let clock = self.kernel.plane.clock;
        let mut prefixes = Vec::new();
        for memory in [&self.native, &self.kernel.plane.maps.memory] {
            services::write(memory, &self.plan, &self.ids, clock).unwrap();
            // Never again in a run, lest it depend on the clock which answers are given.
            memory.set_answer_ticks(NEVER_AGAIN);
            for number in 0..CAPACITY.services {
                let mut cell = memory.services.get(number).unwrap();
                for service in cell.versions.iter_mut().filter(|service| service.rate_each < 1 << 40) {
                    (service.rate_each, service.rate_most) = (service.rate_each << 20, service.rate_most << 20);
                }
                memory.services.set(number, &cell);
            }
            memory.set_fragment_ticks(clock.ticks(Duration::from_secs(5)));
            for number in 0..CAPACITY.reals {
                let real = memory.reals.get(number).unwrap();
                if real.family != 0 {
                    services::set_hop(memory, number, &self.network.hop(classifier::ip(real.family, &real.address)));
                }
            }
            prefixes = vec![classifier::write(memory, &self.plan, &self.ids, &interfaces).unwrap()];
        }
        let written = prefixes.remove(0);
        self.native.prefixes.retain(|prefix| prefix.half != written.half);
        self.native.prefixes.extend(&written.prefixes);
        self.kernel.maps().write_prefixes(written.half, &written.prefixes).unwrap();
        for memory in [&self.native, &self.kernel.plane.maps.memory] {
            classifier::switch(memory, &written);
        }
    }

    fn age(&self, time: Duration) {
        let ticks = self.kernel.plane.clock.ticks(time);
        for memory in [&self.native, &self.kernel.plane.maps.memory] {
            let older = |seen: &Word32| seen.set(seen.get().wrapping_sub(ticks));
            touched_cells(memory).for_each(|cell| older(&cell.seen));
            let fragments = &memory.fragments;
            fragments.touched().into_iter().filter_map(|i| fragments.at(i)).for_each(|fragment| older(&fragment.seen));
            for cell in touched(&memory.localities) {
                let [service, modified] = [cell.key[3].get() as u32, (cell.key[3].get() >> 32) as u32];
                cell.key[3].set(u64::from(service) | u64::from(modified.wrapping_sub(ticks)) << 32);
            }
        }
    }

    fn tamper(&mut self, tamper: Tamper) {
        for memory in [&self.native, &self.kernel.plane.maps.memory] {
            match tamper {
                Tamper::FullFlows => cells_of(&memory.flows).for_each(|cell| cell.stamp.set(VALID)),
                Tamper::UnknownMethod => {
                    for number in 0..CAPACITY.reals {
                        let real = memory.reals.get(number).unwrap();
                        memory.reals.set(number, &Real { method: UNKNOWN_METHOD, ..real });
                    }
                }
                Tamper::Failed => {
                    for number in 0..CAPACITY.reals {
                        let real = memory.reals.get(number).unwrap();
                        let flags = (real.flags | real_flags::DOWN) & !real_flags::UP;
                        memory.reals.set(number, &Real { flags, ..real });
                    }
                }
                Tamper::NoSources => {
                    for number in 0..CAPACITY.services {
                        let mut cell = memory.services.get(number).unwrap();
                        cell.versions.iter_mut().for_each(|service| service.sources_len = 0);
                        memory.services.set(number, &cell);
                    }
                }
                Tamper::NoHeadroom => self.reserved = METADATA,
            }
            memory.outdate_shortcuts();
        }
    }

    /// Packets that only the kernel's director sees.
    pub fn flood(&mut self, frames: impl Iterator<Item = Vec<u8>>) {
        let interface = self.network.index(Side::Outside);
        for frame in frames {
            let ran = self.kernel.run(&frame, interface, 0, Reason::Nat);
            assert_eq!(ran.verdict, Verdict::Redirect, "a new client is served all the time: {}", ran.reason.label());
        }
    }

    /// Keys of the kernel's flows and templates.
    pub fn lasting(&self) -> Vec<Key> {
        let memory = &self.kernel.plane.maps.memory;
        let cells = [&memory.flows, &memory.templates].into_iter().flat_map(touched);
        cells.filter_map(flow::read).map(|(key, _)| key).collect()
    }

    /// A packet's way through both directors and the explanation, which agree.
    pub fn take(&mut self, arrival: &Arrival) -> Ran {
        let interface = self.network.index(arrival.interface);
        let now = self.kernel.plane.now().unwrap();
        let reserved = std::mem::take(&mut self.reserved);
        let route = self.route(&arrival.frame);
        let director = Director {
            memory: &self.native,
            plan: &self.plan,
            ids: &self.ids,
            clock: self.kernel.plane.clock,
            now,
            route: Some(route),
            interfaces: None,
        };
        let explained = director.explain(&arrival.frame, interface);
        let mut view = View::new(&self.native, now).with_shortcuts();
        view.route = route;
        let mut frame = Frame::new(arrival.frame.clone(), interface);
        frame.headroom -= reserved;
        let outcome = marca_engine::process(&mut frame, &mut view);
        let verdict = verdict(&outcome, interface);
        let sent = (outcome.action() == Action::Send).then_some(outcome.interface);
        let native = Ran { reason: outcome.reason, verdict, interface: sent, frame: frame.bytes };
        if self.kernel.takes(&arrival.frame) {
            agree(&arrival.frame, &native, &self.kernel.run(&arrival.frame, interface, reserved, native.reason));
        }
        if reserved == 0 {
            let text = || frame::describe(&arrival.frame);
            assert_eq!(explained.reason, native.reason, "explained otherwise: {}\n{explained}", text());
            assert_eq!(explained.frame, native.frame, "explained otherwise: {}\n{explained}", text());
            assert_eq!(explained.lines.last().map(String::as_str), Some(native.reason.sentence()));
        }
        native
    }

    /// What the kernel answers about a reply's way.
    fn route(&self, bytes: &[u8]) -> Route {
        let frame = Frame::new(bytes.to_vec(), 0);
        let Ok(mut h) = wire::network(&frame) else { return Route::None };
        let walked = if wire::has_extensions(&h) { wire::extensions(&frame, &mut h) } else { Ok(()) };
        let quoted = wire::is_icmp(&h).then(|| wire::quote(&frame, usize::from(h.l4) + 8, h.family).ok()).flatten();
        // An error about a tunnel leads to an answer to whoever has sent what was inside.
        let inside = |quoted: &Headers| match icmp::carried(&frame, quoted) {
            (0, _) => None,
            (family, between) => wire::quote(&frame, quoted.transport_at() + between, family).ok(),
        };
        if let Some(packet) = quoted.as_ref().and_then(inside) {
            return self.network.route(classifier::ip(packet.family, &packet.source));
        }
        let to = classifier::ip(h.family, &h.destination);
        if !self.plan.sources.contains(&to) {
            return self.network.route(to);
        }
        // Under fullnat it is asked about the client.
        let client = match quoted {
            Some(quoted) => {
                self.client_of((&quoted.source, quoted.source_port), quoted.destination_port, quoted.protocol)
            }
            None if h.later => self.client_of_fragment(&h),
            None if walked.and_then(|()| wire::transport(&frame, &mut h)).is_err() => None,
            None => self.client_of((&h.destination, h.destination_port), h.source_port, h.protocol),
        };
        client.map_or(Route::None, |client| self.network.route(classifier::ip(h.family, &client)))
    }

    /// Whom the reverse record knows that has this source, and a real server's port.
    fn client_of(&self, (source, source_port): (&Address, u16), port: u16, protocol: u8) -> Option<Address> {
        let is_of = |(key, record): &(Key, Record)| {
            record.state & state_bits::REVERSE != 0
                && (key.client, key.client_port, key.protocol) == (*source, source_port, protocol)
                && record.state as u16 == port
        };
        touched_cells(&self.native).filter_map(flow::read).find(is_of).map(|(key, _)| key.vip)
    }

    /// Whom the first fragment of this one's packet went to.
    fn client_of_fragment(&self, h: &Headers) -> Option<Address> {
        let fragments = &self.native.fragments;
        let [a, b] = h.source.words();
        let is_of = |record: &&Fragment| {
            [record.key[0].get(), record.key[1].get()] == [a, b] && record.key[4].get() as u32 == h.identification
        };
        let record = fragments.touched().into_iter().filter_map(|index| fragments.at(index)).find(is_of)?;
        Some(Address::of_words([record.peer[0].get(), record.peer[1].get()]))
    }

    /// A packet's way through the decapsulator.
    pub fn decapsulate(&mut self, arrival: &Arrival) -> Ran {
        let interface = self.network.index(arrival.interface);
        let mut frame = Frame::new(arrival.frame.clone(), interface);
        let reason = decapsulate(&mut frame, &Directors);
        let outcome = Outcome { reason, interface: 0 };
        let native = Ran { reason, verdict: verdict(&outcome, interface), interface: None, frame: frame.bytes };
        if self.kernel.takes(&arrival.frame) {
            agree(&arrival.frame, &native, &self.kernel.decapsulate(&arrival.frame, interface, reason));
        }
        native
    }

    /// The packet of a vector, through what it is for.
    pub fn run(&mut self, vector: &Vector, arrival: &Arrival) -> Ran {
        if vector.configuration.is_some() { self.take(arrival) } else { self.decapsulate(arrival) }
    }

    /// A whole pass over each director's records.
    pub fn sweep(&mut self, sweeps: &mut [Sweep; 2]) {
        let now = self.kernel.plane.now().unwrap();
        for (memory, sweep) in [&self.native, &self.kernel.plane.maps.memory].into_iter().zip(sweeps) {
            let (_, complete) = sweep.step(memory, now, u32::MAX);
            assert!(complete);
        }
    }

    /// Everything that packets have written, but for when, is the same natively and in the kernel; counters included.
    pub fn assert_same_tables(&self, what: &str) {
        self.kernel.assert_counted(what);
        let [native, kernel] = [&self.native, &self.kernel.plane.maps.memory].map(written);
        let only = |these: &Written, those: &Written| Written {
            records: these.records.iter().filter(|record| !those.records.contains(record)).copied().collect(),
            words: these.words.iter().filter(|word| !those.words.contains(word)).copied().collect(),
        };
        if native != kernel {
            let (native, kernel) = (only(&native, &kernel), only(&kernel, &native));
            panic!("{what}: the tables differ\n    native {native:?}\n    kernel {kernel:?}");
        }
    }

    /// What packets have written, natively.
    pub fn written(&self) -> Written {
        written(&self.native)
    }

    /// Whether the vector's expectation is met; else what is different.
    pub fn judge(&self, vector: &Vector, ran: &Ran) -> Result<(), String> {
        let (verdict, bytes) = match &vector.out {
            Out::Pass => (Verdict::Pass, Some(&vector.packet.frame)),
            Out::PassAs(bytes) => (Verdict::Pass, Some(bytes)),
            // What is left of a frame that is dropped is nobody's business.
            Out::Drop => (Verdict::Drop, None),
            Out::Send(out) if out.interface == vector.packet.interface => (Verdict::Transmit, Some(&out.frame)),
            Out::Send(out) => (Verdict::Redirect, Some(&out.frame)),
        };
        if vector.reason == ran.reason && verdict == ran.verdict && bytes.is_none_or(|bytes| *bytes == ran.frame) {
            return Ok(());
        }
        Err(format!(
            "{}\n    expected {} {verdict:?} {}\n    found    {} {:?} {}",
            vector.name,
            vector.reason.label(),
            bytes.map_or(String::new(), |bytes| frame::describe(bytes)),
            ran.reason.label(),
            ran.verdict,
            frame::describe(&ran.frame),
        ))
    }
}

/// As many ticks as no run lasts, of which a bucket holds some.
const NEVER_AGAIN: u32 = 1 << 24;

/// A valid cell's stamp.
const VALID: u32 = 2;
const UNKNOWN_METHOD: u8 = 99;
/// Bytes of metadata in front of a packet: what is left has no room for an outer header.
const METADATA: usize = 200;

struct Directors;

impl Policy for Directors {
    fn accepts(&self, family: u8, outer_source: &Address, _: &Address) -> bool {
        DIRECTORS.iter().any(|text| text.parse() == Ok::<IpAddr, _>(classifier::ip(family, outer_source)))
    }

    fn gue_port(&self) -> u16 {
        Gue::DEFAULT.port
    }
}

fn verdict(outcome: &Outcome, interface: u32) -> Verdict {
    match outcome.action() {
        Action::Pass => Verdict::Pass,
        Action::Drop => Verdict::Drop,
        Action::Send if outcome.interface == interface => Verdict::Transmit,
        Action::Send => Verdict::Redirect,
    }
}

fn agree(frame: &[u8], native: &Ran, kernel: &Ran) {
    let interface = kernel.interface.or(native.interface);
    if *native == (Ran { interface, ..kernel.clone() }) {
        return;
    }
    panic!(
        "native and kernel differ\n    in     {}\n    native {} {:?} {}\n    kernel {} {:?} {}",
        frame::describe(frame),
        native.reason.label(),
        native.verdict,
        frame::describe(&native.frame),
        kernel.reason.label(),
        kernel.verdict,
        frame::describe(&kernel.frame),
    );
}

/// What packets write, without the times.
#[derive(Debug, PartialEq, Eq)]
pub struct Written {
    /// Where it is, whose it is; real server, service, state.
    records: Vec<(u32, Key, [u64; 3])>,
    /// Of what, which one, and what is in it.
    words: Vec<(&'static str, u32, [u64; 9])>,
}

/// Only what is not empty is looked at closely: nearly all is.
fn written(memory: &Memory) -> Written {
    let mut records = Vec::new();
    let mut first = 0;
    for region in [&memory.flows, &memory.half_open, &memory.templates, &memory.localities] {
        for index in region.touched() {
            let Some((mut key, record)) = region.at(index).and_then(flow::read) else { continue };
            if std::ptr::eq(region, &memory.localities) {
                // The tick of its last change.
                let [service, _, a, b] = key.vip.parts();
                key.vip = Address::new([service, 0, a, b]);
            }
            let whose = [u64::from(record.real), u64::from(record.service), record.state];
            records.push((first + index, key, whose));
        }
        first += region.len();
    }
    let mut words = Vec::new();
    for (what, region) in [("slot", &memory.slots), ("cursor", &memory.cursors), ("watch", &memory.watch)] {
        let touched = region.touched().into_iter();
        words.extend(touched.map(|index| (what, index, [region.at(index).unwrap().get(), 0, 0, 0, 0, 0, 0, 0, 0])));
    }
    for index in memory.loads.touched() {
        let load = memory.loads.at(index).unwrap();
        words.push(("load", index, [load.active.get(), load.inactive.get(), load.bounds.get(), 0, 0, 0, 0, 0, 0]));
    }
    for index in memory.neighbours.touched() {
        let n = memory.neighbours.at(index).unwrap();
        let ends = u64::from(n.family.get()) << 32 | u64::from(n.interface.get());
        let [a, b, c, d] = [&n.address[0], &n.address[1], &n.macs[0], &n.macs[1]].map(|word| word.get());
        words.push(("neighbour", index, [ends, a, b, c, d, n.asked.get(), 0, 0, 0]));
    }
    for index in memory.fragments.touched() {
        let f = memory.fragments.at(index).unwrap();
        let [a, b, c, d, e] = std::array::from_fn(|i| f.key[i].get());
        let stamp = u64::from(f.stamp.get());
        words.push(("fragment", index, [stamp, a, b, c, d, e, f.vip[0].get(), f.vip[1].get(), f.way.get()]));
        words.push(("fragment's peer", index, [f.peer[0].get(), f.peer[1].get(), 0, 0, 0, 0, 0, 0, 0]));
    }
    // A time alone is nothing.
    words.retain(|(_, _, words)| *words != [0; 9]);
    Written { records, words }
}

fn cells_of(region: &Region<Cell>) -> impl Iterator<Item = &Cell> {
    (0..region.len()).filter_map(|i| region.at(i))
}

/// Those that are not empty.
fn touched(region: &Region<Cell>) -> impl Iterator<Item = &Cell> {
    region.touched().into_iter().filter_map(|index| region.at(index))
}

fn touched_cells(memory: &Memory) -> impl Iterator<Item = &Cell> {
    [&memory.flows, &memory.half_open, &memory.templates, &memory.localities].into_iter().flat_map(touched)
}

/// As new.
fn clear(memory: &Memory) {
    macro_rules! clear {
        ($($table:ident)*) => { $(memory.$table.clear(0..memory.$table.len());)* }
    }
    clear! {
        control addresses ports ranges conditions destinations vips sources services cursors rates slots servers reals loads flows
        half_open templates localities watch neighbours fragments answers
    }
    memory.initialise(SEED);
    // The vector's before.
    memory.outdate_shortcuts();
    debug_assert_eq!(memory.watch.len(), WATCH_WORDS);
}
