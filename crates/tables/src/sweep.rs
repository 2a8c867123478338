//! What has timed out: connections, half-open connections, persistence templates. One pass looks at every record; a
//! pass is done in pieces, so that its share of a processor is small however large the tables are.
//!
//! Ages deserve care. Packets of table services that follow their slot do not touch their record, so an old record is
//! not a dead connection: before it may go, its slot has to ask records for a whole timeout (an *audit*), a sixteenth
//! of a service's slots at a time. A slot that asks because its real server changed goes back to asking none when a
//! pass has met no record that differs from it.

use crate::memory::{Memory, WATCH_WORDS};
use crate::view::View;
use marca_engine::commit;
use marca_engine::flow::{self, FromClient, Key, Record};
use marca_engine::layout::{Cell, SCTP, Service, TCP, service_flags, slot_bits, state_bits};
use marca_engine::persist;
use marca_engine::schedule;
use marca_engine::tables::{CellTable, Tables};
use std::collections::{HashMap, HashSet};

/// How long a connection is remembered after a reset: IPVS's `IP_VS_TCP_S_CLOSE`, in seconds.
pub const RESET_SECONDS: u64 = 10;

/// Of a service's slots, how many may be audited at one time.
const AUDIT_SHARE: u32 = 16;

/// A pass over all records, and what is remembered from one pass to the next.
pub struct Sweep {
    /// Ticks that a reset connection is remembered.
    reset: u32,
    /// Place in the flows, then in the half-open connections.
    flows: u32,
    half_open: u32,
    started: u32,
    /// Slots that some record of this pass differs from.
    differing: HashSet<u32>,
    /// Since when slots ask records, by slot. A slot not seen before asks since now.
    asking: HashMap<u32, u32>,
    /// Slots that should be audited, by service.
    stale: HashMap<u32, Vec<u32>>,
    /// Templates that live connections hold, by index.
    held: HashSet<u32>,
    /// Records of each real server, in this pass and in the last whole one.
    records: HashMap<u32, u32>,
    last_records: HashMap<u32, u32>,
    passes: u64,
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
            flows: 0,
            half_open: 0,
            started: 0,
            differing: HashSet::new(),
            asking: HashMap::new(),
            stale: HashMap::new(),
            held: HashSet::new(),
            records: HashMap::new(),
            last_records: HashMap::new(),
            passes: 0,
        }
    }

    /// Whole passes so far.
    pub fn passes(&self) -> u64 {
        self.passes
    }

    /// Whether a real server had records in the last whole pass; true before there was one.
    pub fn has_records(&self, real: u32) -> bool {
        self.passes == 0 || self.last_records.get(&real).is_some_and(|&n| n > 0)
    }

    /// Goes on for at most `cells` cells of connections; templates and slots are seen to at the end of a pass. Answers
    /// what was freed, and whether the pass is complete. `now` in ticks.
    pub fn step(&mut self, memory: &Memory, now: u32, cells: u32) -> (Freed, bool) {
        let mut freed = Freed::default();
        let view = View::new(memory, now);
        if self.flows == 0 && self.half_open == 0 {
            self.begin(memory, now);
        }
        let mut left = cells;
        while left > 0 && self.flows < memory.flows.len() {
            freed.flows += u32::from(self.flow(&view, self.flows));
            self.flows += 1;
            left -= 1;
        }
        while left > 0 && self.half_open < memory.half_open.len() {
            freed.half_open += u32::from(self.half_open(&view, self.half_open));
            self.half_open += 1;
            left -= 1;
        }
        let complete = self.flows == memory.flows.len() && self.half_open == memory.half_open.len();
        if complete {
            freed.templates = self.templates(memory, now);
            self.finish(&view);
        }
        (freed, complete)
    }

    /// The other watch filter is cleared; packets set their bits in both, and this pass adds what it meets.
    fn begin(&mut self, memory: &Memory, now: u32) {
        self.started = now;
        let words = WATCH_WORDS / 2;
        let other = (memory.control().watch & 1) ^ 1;
        (other * words..(other + 1) * words).for_each(|i| {
            if let Some(word) = memory.watch.at(i)
                && word.get() != 0
            {
                word.set(0);
            }
        });
    }

    /// Whether the record was freed.
    fn flow(&mut self, view: &View, index: u32) -> bool {
        let Some((key, record)) = view.cell(CellTable::Flows, index).and_then(flow::read) else { return false };
        let Some(control) = view.control() else { return false };
        let settings = view.service(record.service).unwrap_or_default();
        let idle = view.now.wrapping_sub(record.seen);
        let timeout = self.timeout(&key, &record, &settings);
        let slot = schedule::slot(view, &control, &settings, key.family, &key.client, key.client_port);
        let over = idle > timeout && idle < u32::MAX / 2;
        // Ends are watched, so their records are fresh; so are datagrams', which always ask.
        let fresh = slot.is_none() || key.protocol != TCP || record.state & state_bits::ENDING != 0;
        let dead = match slot {
            Some(slot) if over && !fresh => self.audited(view, slot, &record, timeout),
            _ => over,
        };
        if dead {
            commit::release(view, CellTable::Flows, index);
            return true;
        }
        *self.records.entry(record.real).or_default() += 1;
        if let Some(slot) = slot {
            if slot.real != record.real || record.state & state_bits::DIRECT != 0 {
                self.differing.insert(slot.index);
            }
            if record.state & state_bits::ENDING != 0 {
                flow::watch::set(view, key.hash(control.seed, record.state as u16));
            }
            if over && !slot.record {
                self.stale.entry(record.service).or_default().push(slot.index);
            }
        }
        if settings.persist != 0 && record.state & (state_bits::ENDING | state_bits::DIRECT) == 0 {
            let template = persist::key(record.service, &settings, key.family, &key.client);
            let m = FromClient::new(&template, control.seed, 0);
            let found = flow::find(view, &control, CellTable::Templates, &m);
            if found.exists() {
                self.held.insert(found.index);
            }
        }
        false
    }

    fn timeout(&self, key: &Key, record: &Record, settings: &Service) -> u32 {
        if record.state & state_bits::RESET != 0 {
            self.reset
        } else if record.state & state_bits::ENDING != 0 {
            settings.closing
        } else if key.protocol == TCP || key.protocol == SCTP {
            settings.established
        } else {
            settings.udp
        }
    }

    /// Whether the record's slot has been asking for longer than its timeout, so that a live connection would have
    /// touched it.
    fn audited(&mut self, view: &View, slot: schedule::SlotView, record: &Record, timeout: u32) -> bool {
        if !slot.record {
            return false;
        }
        let since = *self.asking.entry(slot.index).or_insert(view.now);
        view.now.wrapping_sub(since) > timeout && view.now.wrapping_sub(record.seen) > timeout
    }

    /// Whether the record was freed.
    fn half_open(&mut self, view: &View, index: u32) -> bool {
        let Some((key, record)) = view.cell(CellTable::HalfOpen, index).and_then(flow::read) else { return false };
        let Some(control) = view.control() else { return false };
        let settings = view.service(record.service).unwrap_or_default();
        let idle = view.now.wrapping_sub(record.seen);
        let timeout = if record.state & state_bits::RESET != 0 { self.reset } else { settings.half_open };
        if idle > timeout && idle < u32::MAX / 2 {
            commit::release(view, CellTable::HalfOpen, index);
            return true;
        }
        if record.state & state_bits::TEMPLATE != 0 {
            return false;
        }
        *self.records.entry(record.real).or_default() += 1;
        let slot = schedule::slot(view, &control, &settings, key.family, &key.client, key.client_port);
        if let Some(slot) = slot {
            flow::watch::set(view, key.hash(control.seed, record.state as u16));
            if slot.real != record.real {
                self.differing.insert(slot.index);
            }
        }
        false
    }

    /// Frees the templates whose time is over and that no connection holds.
    fn templates(&mut self, memory: &Memory, now: u32) -> u32 {
        let mut freed = 0;
        for index in 0..memory.templates.len() {
            let Some(cell) = memory.templates.at(index) else { break };
            let Some((_, record)) = flow::read(cell) else { continue };
            let over = now.wrapping_sub(record.seen) < u32::MAX / 2;
            if over && !self.held.contains(&index) && flow::release(cell) {
                freed += 1;
            }
        }
        freed
    }

    fn finish(&mut self, view: &View) {
        let Some(mut control) = view.control() else { return };
        self.slots(view);
        control.watch = (control.watch & 1) ^ 1;
        view.set_control(&control);
        self.last_records = std::mem::take(&mut self.records);
        self.held.clear();
        self.differing.clear();
        self.stale.clear();
        (self.flows, self.half_open) = (0, 0);
        self.passes += 1;
    }

    /// Ends the asking of slots that need it no more, and begins audits.
    fn slots(&mut self, view: &View) {
        let mut asking = HashMap::new();
        for service in 0..view.services() {
            let Some(settings) = view.service(service) else { continue };
            if settings.flags & service_flags::TABLE == 0 {
                continue;
            }
            let mut audited = 0;
            for index in settings.slots..settings.slots + settings.slots_len {
                let Some(slot) = view.slot(index) else { break };
                let bits = slot.get();
                if bits & slot_bits::RECORD == 0 {
                    continue;
                }
                let since = self.asking.get(&index).copied().unwrap_or(self.started);
                let asked = view.now.wrapping_sub(since);
                if bits & slot_bits::FRESH != 0 {
                    slot.and(!slot_bits::FRESH);
                } else if bits & slot_bits::CONSULT != 0 && !self.differing.contains(&index) {
                    // Fails when a packet has just set the bits again.
                    slot.replace(bits, bits & !slot_bits::CONSULT);
                }
                if bits & slot_bits::AUDIT != 0 {
                    if asked > settings.established.saturating_mul(2) {
                        slot.and(!slot_bits::AUDIT);
                    } else {
                        audited += 1;
                    }
                }
                if slot.get() & slot_bits::RECORD != 0 {
                    asking.insert(index, since);
                }
            }
            let room = (settings.slots_len / AUDIT_SHARE).max(1).saturating_sub(audited) as usize;
            for &index in self.stale.get(&service).into_iter().flatten().collect::<HashSet<_>>().into_iter().take(room)
            {
                if let Some(slot) = view.slot(index) {
                    slot.or(slot_bits::AUDIT);
                    asking.insert(index, view.now);
                }
            }
        }
        self.asking = asking;
    }
}

/// Valid cells of a table.
pub fn count_valid(region: &crate::region::Region<Cell>) -> u32 {
    (0..region.len()).filter(|&i| region.at(i).is_some_and(flow::is_valid)).count() as u32
}
