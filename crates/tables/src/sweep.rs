//! What has timed out: connections, half-open connections, persistence templates, localities. One pass looks at every
//! record; a pass is done in pieces, so that its share of a processor is small however large the tables are.
//!
//! Ages deserve care. Packets of table services that follow their slot do not touch their record, so an old record is
//! not a dead connection: before it may go, its slot has to ask records for a whole timeout (an *audit*), a sixteenth
//! of a service's slots at a time. A slot that asks because its real server changed goes back to asking none when a
//! pass has met no record that differs from it.
//!
//! Tens of millions of records must not keep a processor busy: what is needed of every record is in arrays by number, what is
//! needed of its service is looked up once a piece, and only templates whose time is over are looked for.
//!
//! When the classifier has changed, a record's packets may be another service's: a mark rule has come before a port, or a
//! service has another name. The record becomes that service's then, whose slots ask until a pass has seen to it.
//!
//! Half-open connections come first and flows after them: a connection that is promoted during a pass is met in the one
//! table or in the other. Slots are remembered by their place in their service's table, not in the slots' memory, which
//! another table may take over between two looks.

use crate::claims::Claims;
use crate::memory::{Memory, WATCH_WORDS};
use crate::view::View;
use marca_engine::commit;
use marca_engine::flow::{self, FromClient, FromServer, Key, Record};
use marca_engine::forward::fullnat;
use marca_engine::hash;
use marca_engine::layout::{Address, Cell, Control, SCTP, Service, TCP, UDP, service_flags, slot_bits, state_bits};
use marca_engine::persist;
use marca_engine::schedule;
use marca_engine::tables::{CellTable, Tables};
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

/// A slot: the service's number, and its number in the service's table.
type Place = (u32, u32);

/// How long a connection is remembered after a reset: IPVS's `IP_VS_TCP_S_CLOSE`, in seconds.
pub const RESET_SECONDS: u64 = 10;

/// Of a service's slots, how many may be audited at one time.
const AUDIT_SHARE: u32 = 16;

/// A pass over all records, and what is remembered from one pass to the next.
pub struct Sweep {
    /// Ticks that a reset connection is remembered.
    reset: u32,
    /// Place in the half-open connections, then in the flows.
    half_open: u32,
    flows: u32,
    started: u32,
    /// Slots that some record of this pass differs from.
    differing: HashSet<Place>,
    /// Since when slots ask records. A slot not seen before asks since now.
    asking: Asking,
    /// Slots that should be audited, by service.
    stale: HashMap<u32, HashSet<u32>>,
    /// What sends the services' clients to slots, and since when.
    mappings: HashMap<u32, (Mapping, u32)>,
    /// The services as a piece has met them, by number; pieces are counted.
    services: Vec<Known>,
    piece: u64,
    /// Templates whose time was over when the pass began.
    over: Over,
    /// Those of them that live connections hold, by index.
    held: HashSet<u32>,
    /// Records of each real server, by number, in this pass and in the last whole one.
    records: Vec<u32>,
    last_records: Vec<u32>,
    passes: u64,
    /// Templates that the cell at hand has made it look up.
    looks: u32,
    /// `Control::written` when this pass began.
    written: u32,
    /// The classifier is not the one of the pass before: whose a record's packets are must be asked.
    claims: Option<Claims>,
    /// Records that this pass has met so far, those of the table where it is; and all of the last whole pass.
    met: Counted,
    met_here: u32,
    counted: Option<Counted>,
}

/// Records of each table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    pub flows: u32,
    pub half_open: u32,
    pub templates: u32,
}

impl Counted {
    /// Looks at every cell: with tens of millions of them that takes a while.
    pub fn now(memory: &Memory) -> Self {
        Self {
            flows: count_valid(&memory.flows),
            half_open: count_valid(&memory.half_open),
            templates: count_valid(&memory.templates),
        }
    }
}

/// A service, and since when its clients have been sent to slots as they are now.
#[derive(Clone, Copy, Default)]
struct Known {
    settings: Service,
    mapped: u32,
    /// As many stale slots are known as can be audited next.
    has_stale: bool,
    /// In which this was so; it may have changed since.
    piece: u64,
}

/// Slots and ticks. Millions of records ask for their slot; nobody but the configuration chooses the numbers.
type Asking = HashMap<Place, u32, BuildHasherDefault<PlaceHasher>>;

#[derive(Default)]
struct PlaceHasher(u64);

impl Hasher for PlaceHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u32(byte.into()));
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = hash::word(self.0, number.into());
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The hashes of some templates, so that a connection need not look for one that is not among them. Like every filter of
/// its kind it may take a few for one of them.
struct Over {
    bits: Vec<u64>,
    any: bool,
}

impl Over {
    fn new() -> Self {
        Self { bits: vec![0; OVER_BITS / 64], any: false }
    }

    fn clear(&mut self) {
        if self.any {
            self.bits.fill(0);
            self.any = false;
        }
    }

    fn add(&mut self, hash: u64) {
        let bit = hash as usize % OVER_BITS;
        self.bits[bit / 64] |= 1 << (bit % 64);
        self.any = true;
    }

    fn may_have(&self, hash: u64) -> bool {
        let bit = hash as usize % OVER_BITS;
        self.any && self.bits[bit / 64] & 1 << (bit % 64) != 0
    }
}

/// Eight for each template of the default limits: 256 KiB.
const OVER_BITS: usize = 1 << 21;

/// While this stays the same, so does a client's slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mapping {
    table: bool,
    scheduler: u8,
    slots_len: u32,
    mask: Address,
    hash_port: bool,
    recorded: bool,
}

impl Mapping {
    fn of(settings: &Service) -> Self {
        Self {
            table: settings.flags & service_flags::TABLE != 0,
            scheduler: settings.scheduler,
            slots_len: settings.slots_len,
            mask: settings.mask,
            hash_port: settings.flags & service_flags::HASH_PORT != 0,
            recorded: settings.flags & service_flags::RECORDED != 0,
        }
    }
}

/// What one pass found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    pub flows: u32,
    pub half_open: u32,
    pub templates: u32,
}

impl Sweep {
    /// `reset`: ticks that a reset connection is remembered ([`RESET_SECONDS`]).
    pub fn new(reset: u32) -> Self {
        Self {
            reset,
            half_open: 0,
            flows: 0,
            started: 0,
            differing: HashSet::new(),
            asking: Asking::default(),
            stale: HashMap::new(),
            mappings: HashMap::new(),
            services: Vec::new(),
            piece: 0,
            over: Over::new(),
            held: HashSet::new(),
            records: Vec::new(),
            last_records: Vec::new(),
            passes: 0,
            looks: 0,
            written: 0,
            claims: None,
            met: Counted::default(),
            met_here: 0,
            counted: None,
        }
    }

    /// Whole passes so far.
    pub fn passes(&self) -> u64 {
        self.passes
    }

    /// How many records the last whole pass has met and left where they were; `None` before there was one.
    pub fn counted(&self) -> Option<Counted> {
        self.counted
    }

    /// Whether a real server has records: connections by its load, and connections and templates in the last whole
    /// pass; true before there was one.
    pub fn has_records(&self, memory: &Memory, real: u32) -> bool {
        // Two processors may confuse the two counts, but not their sum.
        let load = memory.loads.at(real).map_or(0, |load| load.active.get().wrapping_add(load.inactive.get()));
        self.passes == 0 || load != 0 || self.last_records.get(real as usize).is_some_and(|&n| n > 0)
    }

    /// Goes on for at most `cells` cells of connections, fewer where many are freed or have templates whose time is over; templates and slots are seen to at the
    /// end of a pass. Answers what was freed, and whether the pass is complete. `now` in ticks.
    pub fn step(&mut self, memory: &Memory, now: u32, cells: u32) -> (Freed, bool) {
        let mut freed = Freed::default();
        let view = View::new(memory, now);
        let control = memory.control();
        self.piece += 1;
        self.services.resize(memory.services.len() as usize, Known::default());
        self.records.resize(memory.reals.len() as usize, 0);
        if self.flows == 0 && self.half_open == 0 {
            self.begin(&view, memory, &control);
        }
        let mut left = cells;
        while left > 0 && self.half_open < memory.half_open.len() {
            let is_freed = self.half_open(&view, &control, self.half_open);
            freed.half_open += u32::from(is_freed);
            self.half_open += 1;
            left = left.saturating_sub(work(is_freed));
        }
        self.met.half_open += std::mem::take(&mut self.met_here);
        while left > 0 && self.flows < memory.flows.len() {
            let is_freed = self.flow(&view, &control, self.flows);
            freed.flows += u32::from(is_freed);
            self.flows += 1;
            left = left.saturating_sub(work(is_freed) + std::mem::take(&mut self.looks) * LOOK);
        }
        self.met.flows += std::mem::take(&mut self.met_here);
        let complete = self.flows == memory.flows.len() && self.half_open == memory.half_open.len();
        if complete {
            freed.templates = self.templates(&view, &control);
            self.met.templates += std::mem::take(&mut self.met_here);
            localities(&view);
            self.finish(&view);
        }
        (freed, complete)
    }

    /// The other watch filter is cleared; packets set their bits in both, and this pass adds what it meets.
    fn begin(&mut self, view: &View, memory: &Memory, control: &Control) {
        self.started = view.now;
        self.written = control.written;
        self.claims = (control.written != control.swept).then(|| Claims::of(memory));
        self.over.clear();
        for cell in (0..memory.templates.len()).filter_map(|index| memory.templates.at(index)) {
            if let Some((key, record)) = flow::read(cell)
                && is_over(self.started, record.seen)
            {
                self.over.add(key.hash(control.seed, 0));
            }
        }
        let words = WATCH_WORDS / 2;
        let other = (control.watch & 1) ^ 1;
        (other * words..(other + 1) * words).for_each(|i| {
            if let Some(word) = memory.watch.at(i)
                && word.get() != 0
            {
                word.set(0);
            }
        });
    }

    /// Whether the record was freed.
    fn flow(&mut self, view: &View, control: &Control, index: u32) -> bool {
        let Some((key, mut record)) = view.cell(CellTable::Flows, index).and_then(flow::read) else { return false };
        if let Some(claims) = &self.claims {
            claims.hand_over(view, control, (CellTable::Flows, index), &key, &mut record);
        }
        let Known { settings, mapped, has_stale, .. } = self.service(view, record.service);
        if record.state & state_bits::REVERSE != 0 {
            return self.reverse(view, CellTable::Flows, index, &key, &record, &settings);
        }
        let timeout = self.timeout(&key, &record, &settings);
        let slot = slot_that_spares(view, control, &settings, &key);
        let place = slot.map(|slot| (record.service, slot.index.wrapping_sub(settings.slots)));
        let over = flow::idle(view.now, record.seen) > timeout;
        // Ends are watched, so their records are fresh; so are datagrams', which always ask.
        let fresh = key.protocol != TCP || record.state & state_bits::ENDING != 0;
        let dead = over
            && match (slot, place) {
                _ if fresh => true,
                (Some(slot), Some(place)) => self.audited(view, slot, place, timeout),
                // Until a while ago a table may have spared the packets the look at their record.
                _ => flow::idle(view.now, mapped) > timeout,
            };
        if dead {
            commit::release(view, CellTable::Flows, index);
            return true;
        }
        self.count(record.real);
        self.hold_control(view, control, &key, &record);
        if let (Some(slot), Some(place)) = (slot, place) {
            // A service that was under fullnat until a while ago has connections with sources.
            let differs = record.state & state_bits::DIRECT != 0 || fullnat::of_state(record.state) != 0;
            if slot.real != record.real || differs {
                self.differing.insert(place);
            }
            if record.state & state_bits::ENDING != 0 {
                flow::watch::set(view, key.hash(control.seed, record.state as u16));
            }
            if over && !slot.record && !has_stale {
                let stale = self.stale.entry(record.service).or_default();
                stale.insert(place.1);
                if stale.len() >= audits(&settings)
                    && let Some(known) = self.services.get_mut(record.service as usize)
                {
                    known.has_stale = true;
                }
            }
        }
        if settings.persist != 0 && record.state & (state_bits::ENDING | state_bits::DIRECT) == 0 {
            let template = persist::key(&settings, key.family, &key.client);
            if self.over.may_have(template.hash(control.seed, 0)) {
                self.looks += 1;
                let m = FromClient::new(&template, control.seed, 0);
                let found = flow::find(view, control, CellTable::Templates, &m);
                if found.exists() {
                    self.held.insert(found.index);
                }
            }
        }
        false
    }

    /// A service as it is in this piece.
    fn service(&mut self, view: &View, number: u32) -> Known {
        if let Some(known) = self.services.get(number as usize)
            && known.piece == self.piece
        {
            return *known;
        }
        let settings = view.service(number).unwrap_or_default();
        let has_stale = self.stale.get(&number).is_some_and(|stale| stale.len() >= audits(&settings));
        let mapped = self.mapped(number, &settings, view.now);
        let known = Known { settings, mapped, has_stale, piece: self.piece };
        if let Some(place) = self.services.get_mut(number as usize) {
            *place = known;
        }
        known
    }

    /// A record that stays.
    fn count(&mut self, real: u32) {
        self.met_here += 1;
        if let Some(records) = self.records.get_mut(real as usize) {
            *records += 1;
        }
    }

    /// While an FTP data connection lives, so does the control connection that has announced it, which is silent meanwhile.
    fn hold_control(&self, view: &View, control: &Control, key: &Key, record: &Record) {
        if record.state & (state_bits::DATA | state_bits::ENDING) != state_bits::DATA {
            return;
        }
        let ports = (record.state >> state_bits::UPPER) as u32;
        let Some(real) = view.real(record.real) else { return };
        let (client, server) = ((&key.client, ports as u16), (&real.address, (ports >> 16) as u16));
        let m = FromServer::of(key.family, TCP, client, server, control.seed);
        let found = flow::find(view, control, CellTable::Flows, &m);
        if found.state & state_bits::CONTROL != 0
            && let Some(cell) = view.cell(CellTable::Flows, found.index)
        {
            flow::touch(cell, view.now);
        }
    }

    /// Since when clients have been sent to slots as they are now.
    fn mapped(&mut self, service: u32, settings: &Service, now: u32) -> u32 {
        let mapping = Mapping::of(settings);
        match self.mappings.get(&service) {
            Some((known, since)) if *known == mapping => *since,
            _ => {
                self.asking.retain(|place, _| place.0 != service);
                self.mappings.insert(service, (mapping, now));
                now
            }
        }
    }

    fn timeout(&self, key: &Key, record: &Record, settings: &Service) -> u32 {
        let ending = record.state & state_bits::ENDING != 0;
        match key.protocol {
            _ if record.state & state_bits::RESET != 0 => self.reset,
            SCTP if ending => settings.sctp_closing,
            SCTP => settings.sctp,
            UDP => settings.udp,
            _ if ending => settings.closing,
            _ => settings.established,
        }
    }

    /// Whether the record's slot has been asking for longer than its timeout, so that a live connection would have
    /// touched it.
    fn audited(&mut self, view: &View, slot: schedule::SlotView, place: Place, timeout: u32) -> bool {
        if !slot.record {
            return false;
        }
        let since = *self.asking.entry(place).or_insert(view.now);
        flow::idle(view.now, since) > timeout
    }

    /// Whether the record was freed.
    fn half_open(&mut self, view: &View, control: &Control, index: u32) -> bool {
        let Some((key, mut record)) = view.cell(CellTable::HalfOpen, index).and_then(flow::read) else { return false };
        if let Some(claims) = &self.claims {
            claims.hand_over(view, control, (CellTable::HalfOpen, index), &key, &mut record);
        }
        let Known { settings, .. } = self.service(view, record.service);
        if record.state & state_bits::REVERSE != 0 {
            return self.reverse(view, CellTable::HalfOpen, index, &key, &record, &settings);
        }
        let timeout = if record.state & state_bits::RESET != 0 {
            self.reset
        } else if record.state & state_bits::HALF_OPEN != 0 {
            settings.half_open
        } else if record.state & state_bits::TEMPLATE != 0 {
            settings.persist
        } else {
            settings.udp
        };
        if flow::idle(view.now, record.seen) > timeout {
            commit::release(view, CellTable::HalfOpen, index);
            return true;
        }
        if record.state & state_bits::TEMPLATE != 0 {
            self.template(view, control, &key, &record);
            return false;
        }
        self.count(record.real);
        if record.state & state_bits::ANNOUNCED != 0 {
            return false;
        }
        let slot = slot_that_spares(view, control, &settings, &key);
        if let Some(slot) = slot {
            if key.protocol == TCP {
                flow::watch::set(view, key.hash(control.seed, record.state as u16));
            }
            if slot.real != record.real || fullnat::of_state(record.state) != 0 {
                self.differing.insert((record.service, slot.index.wrapping_sub(settings.slots)));
            }
        }
        false
    }

    /// The reverse record of a connection under fullnat lives as long as the connection's own; and some time longer, in
    /// which the real server may not have forgotten who had the source. Whether it was freed.
    fn reverse(
        &mut self,
        view: &View,
        table: CellTable,
        index: u32,
        key: &Key,
        record: &Record,
        settings: &Service,
    ) -> bool {
        let is_over = flow::idle(view.now, record.seen) > settings.half_open;
        if is_over && !fullnat::has_connection(view, key, record) {
            commit::release(view, table, index);
            return true;
        }
        self.count(record.real);
        false
    }

    /// Frees the templates whose time was over when the pass began, and that no connection has held since.
    fn templates(&mut self, view: &View, control: &Control) -> u32 {
        let mut freed = 0;
        let mut index = 0;
        while let Some(cell) = view.cell(CellTable::Templates, index) {
            if let Some((key, record)) = flow::read(cell) {
                if is_over(self.started, record.seen) && !self.held.contains(&index) && flow::release(cell) {
                    freed += 1;
                } else {
                    self.template(view, control, &key, &record);
                }
            }
            index += 1;
        }
        freed
    }

    /// A template stays. Datagrams without records follow their slot, unless it asks: it does while a template differs.
    fn template(&mut self, view: &View, control: &Control, key: &Key, record: &Record) {
        // Under another real server's number it would send all its clients to that one.
        self.count(record.real);
        let Known { settings, .. } = self.service(view, record.service);
        if settings.flags & service_flags::UDP_STATELESS == 0 {
            return;
        }
        if let Some(slot) = schedule::slot(view, control, &settings, key.family, &key.client, 0)
            && slot.real != record.real
        {
            self.differing.insert((record.service, slot.index.wrapping_sub(settings.slots)));
        }
    }

    fn finish(&mut self, view: &View) {
        let Some(mut control) = view.control() else { return };
        self.slots(view);
        control.watch = (control.watch & 1) ^ 1;
        control.swept = self.written;
        view.set_control(&control);
        self.last_records = std::mem::take(&mut self.records);
        self.counted = Some(std::mem::take(&mut self.met));
        self.held.clear();
        self.differing.clear();
        self.stale.clear();
        (self.half_open, self.flows) = (0, 0);
        self.passes += 1;
    }

    /// Ends the asking of slots that need it no more, and begins audits.
    fn slots(&mut self, view: &View) {
        let mut asking = Asking::default();
        for service in 0..view.services() {
            let Some(settings) = view.service(service) else { continue };
            if settings.flags & service_flags::TABLE == 0 {
                continue;
            }
            self.service(view, service);
            let mut audited = 0;
            for number in 0..settings.slots_len {
                let place = (service, number);
                let Some(slot) = view.slot(settings.slots + number) else { break };
                let bits = slot.get();
                if bits & slot_bits::RECORD == 0 {
                    continue;
                }
                let since = self.asking.get(&place).copied().unwrap_or(view.now);
                if bits & slot_bits::FRESH != 0 {
                    slot.and(!slot_bits::FRESH);
                } else if bits & slot_bits::CONSULT != 0 && !self.differing.contains(&place) {
                    // Fails when a packet has just set the bits again.
                    slot.replace(bits, bits & !slot_bits::CONSULT);
                }
                if bits & slot_bits::AUDIT != 0 {
                    if flow::idle(view.now, since) > settings.established.saturating_mul(2) {
                        slot.and(!slot_bits::AUDIT);
                    } else {
                        audited += 1;
                    }
                }
                if slot.get() & slot_bits::RECORD != 0 {
                    asking.insert(place, since);
                }
            }
            let room = audits(&settings).saturating_sub(audited);
            for &number in self.stale.get(&service).into_iter().flatten().take(room) {
                if number < settings.slots_len
                    && let Some(slot) = view.slot(settings.slots + number)
                {
                    slot.or(slot_bits::AUDIT);
                    asking.insert((service, number), view.now);
                }
            }
        }
        self.asking = asking;
    }
}

/// How many of a service's slots may be audited at one time.
fn audits(settings: &Service) -> usize {
    (settings.slots_len / AUDIT_SHARE).max(1) as usize
}

/// What a cell takes, in units of one whose record stays. Freeing one writes to it, and by instructions that wait for the
/// memory: with millions to free, `cargo xtask bench scale` saw eight times the work.
fn work(is_freed: bool) -> u32 {
    if is_freed { 8 } else { 1 }
}

/// What looking up a connection's template takes, in the same units: it is anywhere in its table.
const LOOK: u32 = 2;

/// Whether a template's time, `expires`, was over at this tick.
fn is_over(now: u32, expires: u32) -> bool {
    now.wrapping_sub(expires) < u32::MAX / 2
}

/// The slot of a connection whose packets it may spare the look at their records.
fn slot_that_spares(view: &View, control: &Control, settings: &Service, key: &Key) -> Option<schedule::SlotView> {
    if settings.flags & service_flags::RECORDED != 0 {
        return None;
    }
    schedule::slot(view, control, settings, key.family, &key.client, key.client_port)
}

/// Forgets that clients stay with these real servers.
pub fn forget_clients(memory: &Memory, reals: &HashSet<u32>) -> u32 {
    let view = View::new(memory, 0);
    let mut forgotten = 0;
    let mut forget = |table, len, such: fn(&Record) -> bool| {
        for index in 0..len {
            let Some((_, record)) = view.cell(table, index).and_then(flow::read) else { continue };
            if such(&record) && reals.contains(&record.real) {
                commit::release(&view, table, index);
                forgotten += 1;
            }
        }
    };
    forget(CellTable::Templates, memory.templates.len(), |_| true);
    forget(CellTable::HalfOpen, memory.half_open.len(), |record| record.state & state_bits::TEMPLATE != 0);
    forgotten
}

/// Frees what is remembered of destinations that nobody has asked for lately, or whose service has another scheduler.
fn localities(view: &View) {
    let mut index = 0;
    while let Some(cell) = view.cell(CellTable::Localities, index) {
        if let Some((key, record)) = flow::read(cell) {
            let settings = view.service(key.vip.parts()[0]).unwrap_or_default();
            let asks = matches!(settings.scheduler, LBLC | LBLCR);
            if !asks || flow::idle(view.now, record.seen) > settings.locality {
                flow::release(cell);
            }
        }
        index += 1;
    }
}

const LBLC: u8 = schedule::Scheduler::Lblc as u8;
const LBLCR: u8 = schedule::Scheduler::Lblcr as u8;

/// Valid cells of a table.
pub fn count_valid(region: &crate::region::Region<Cell>) -> u32 {
    (0..region.len()).filter(|&i| region.at(i).is_some_and(flow::is_valid)).count() as u32
}
