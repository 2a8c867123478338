//! The tables of [`Cell`]s: established connections, half-open connections, persistence templates, localities.
//!
//! Each is an array of buckets of [`limits::WAYS`] cells; a key may be in either of two buckets. Packets on several
//! processors, the daemon's sweep and readers share the memory without locks: a cell is taken by compare-and-swap of its
//! stamp, written, and published by the stamp; whoever copies a cell looks at the stamp before and after.
//!
//! A connection is recorded once and found from both sides: the bucket depends on what is the same in both directions
//! (the client's address and port, the real server's port, the protocol), the comparison on the rest.

use crate::hash;
use crate::layout::{ANNOUNCED, Address, Cell, Control, limits, state_bits};
use crate::tables::{CellTable, Tables};
use crate::wire::Headers;

const EMPTY: u32 = 0;
pub(crate) const WRITING: u32 = 1;
pub(crate) const VALID: u32 = 2;
pub(crate) const PHASE: u32 = 3;
/// What taking a cell adds to its stamp.
pub(crate) const TAKEN: u32 = 4;

/// Three bits of the hash that no bucket's number has: tables are smaller than 2^29 cells.
const TIE_SHIFT: u32 = 29;

/// What identifies a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Key {
    /// Templates: masked.
    pub client: Address,
    /// As the client sees it. Templates: the service's number in the first word.
    pub vip: Address,
    pub client_port: u16,
    pub vip_port: u16,
    /// 0: a template; [`ANNOUNCED`]: not a connection yet, and the port that nobody knows yet is 0.
    pub protocol: u8,
    pub family: u8,
}

impl Key {
    #[inline(always)]
    pub fn words(&self) -> [u64; 5] {
        let ([a, b], [c, d]) = (self.client.words(), self.vip.words());
        let ports = u64::from(self.client_port)
            | u64::from(self.vip_port) << VIP_PORT_SHIFT
            | u64::from(self.protocol) << 32
            | u64::from(self.family) << 40;
        [ports, a, b, c, d]
    }

    #[inline(always)]
    pub fn from_words(w: [u64; 5]) -> Self {
        Self {
            client: Address::of_words([w[1], w[2]]),
            vip: Address::of_words([w[3], w[4]]),
            client_port: w[0] as u16,
            vip_port: (w[0] >> VIP_PORT_SHIFT) as u16,
            protocol: (w[0] >> 32) as u8,
            family: (w[0] >> 40) as u8,
        }
    }

    /// Where the record is; `server_port` is 0 for templates.
    #[inline(always)]
    pub fn hash(&self, seed: u64, server_port: u16) -> u64 {
        flow_hash(seed, self.family, self.protocol, &self.client, self.client_port, server_port, self.vip.parts()[0])
    }
}

const VIP_PORT_SHIFT: u32 = 16;
const VIP_PORT_BITS: u64 = 0xffff << VIP_PORT_SHIFT;

/// Of what both directions of a connection have in common.
#[inline(always)]
fn flow_hash(
    seed: u64,
    family: u8,
    protocol: u8,
    client: &Address,
    client_port: u16,
    server_port: u16,
    template: u32,
) -> u64 {
    let template = if protocol == 0 { u64::from(template) } else { 0 };
    let rest = u64::from(client_port)
        | u64::from(server_port) << 16
        | u64::from(protocol) << 32
        | u64::from(family) << 40
        | template << 16;
    hash::address(seed, client, rest)
}

/// No index of a record.
pub const NO_RECORD: u32 = u32::MAX;

/// A copy of a record, and where it was; [`Found::NOTHING`] where there was none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub index: u32,
    pub vip: Address,
    pub vip_port: u16,
    pub real: u32,
    pub service: u32,
    pub state: u64,
    pub seen: u32,
}

impl Found {
    pub const NOTHING: Self =
        Self { index: NO_RECORD, vip: Address::NONE, vip_port: 0, real: 0, service: 0, state: 0, seen: 0 };

    #[inline(always)]
    pub fn exists(&self) -> bool {
        self.index != NO_RECORD
    }
}

/// How a packet is held against a record.
pub trait Match<T> {
    fn hash(&self) -> u64;
    fn matches(&self, tables: &T, cell: &Cell) -> bool;
}

/// From the client: everything must be equal.
pub struct FromClient {
    words: [u64; 5],
    hash: u64,
}

impl FromClient {
    /// `server_port` is 0 for templates.
    #[inline(always)]
    pub fn new(key: &Key, seed: u64, server_port: u16) -> Self {
        Self { words: key.words(), hash: key.hash(seed, server_port) }
    }
}

impl<T> Match<T> for FromClient {
    #[inline(always)]
    fn hash(&self) -> u64 {
        self.hash
    }

    #[inline(always)]
    fn matches(&self, _: &T, cell: &Cell) -> bool {
        cell.key[0].get() == self.words[0]
            && cell.key[1].get() == self.words[1]
            && cell.key[2].get() == self.words[2]
            && cell.key[3].get() == self.words[3]
            && cell.key[4].get() == self.words[4]
    }
}

/// From the real server: its address stands for the VIP, its port for the VIP's.
pub struct FromServer {
    /// Which of `state_bits::KIND` are looked at, and what they are.
    mask: u64,
    kind: u64,
    /// Client's port, protocol and family, as in a key.
    ports: u64,
    client: Address,
    server: Address,
    server_port: u16,
    hash: u64,
}

impl FromServer {
    /// Of a packet from the real server.
    #[inline(always)]
    pub fn new(h: &Headers, seed: u64) -> Self {
        Self::of(h.family, h.protocol, (&h.destination, h.destination_port), (&h.source, h.source_port), seed)
    }

    /// Of a packet that opens a connection, for the announcement that it may follow: one of whichever port of the real
    /// server.
    #[inline(always)]
    pub fn announced(h: &Headers, seed: u64) -> Self {
        Self::of(h.family, ANNOUNCED, (&h.destination, h.destination_port), (&h.source, 0), seed)
    }

    /// Between this client's port and this real server's.
    #[inline(always)]
    pub fn of(
        family: u8,
        protocol: u8,
        (client, client_port): (&Address, u16),
        (server, server_port): (&Address, u16),
        seed: u64,
    ) -> Self {
        let ports = u64::from(client_port) | u64::from(protocol) << 32 | u64::from(family) << 40;
        let hash = flow_hash(seed, family, protocol, client, client_port, server_port, 0);
        Self { mask: state_bits::KIND, kind: 0, ports, client: *client, server: *server, server_port, hash }
    }

    /// The reverse record of a connection under fullnat, whose "client" is its source.
    #[inline(always)]
    pub fn reverse(self) -> Self {
        Self { mask: state_bits::REVERSE, kind: state_bits::REVERSE, ..self }
    }

    /// The record of a connection under fullnat that has this source.
    #[inline(always)]
    pub fn with_source(self, source: u32) -> Self {
        Self { kind: u64::from(source) << state_bits::SOURCE_SHIFT, ..self }
    }
}

impl<T: Tables> Match<T> for FromServer {
    #[inline(always)]
    fn hash(&self) -> u64 {
        self.hash
    }

    #[inline(always)]
    fn matches(&self, t: &T, cell: &Cell) -> bool {
        let [a, b] = self.client.words();
        let state = cell.state.get();
        if cell.key[0].get() & !VIP_PORT_BITS != self.ports
            || cell.key[1].get() != a
            || cell.key[2].get() != b
            || state as u16 != self.server_port
            || kind(state) & self.mask != self.kind
        {
            return false;
        }
        if state & state_bits::DIRECT != 0 {
            // What the client asked for is the real server itself, whichever its slot has now.
            let [c, d] = self.server.words();
            return cell.key[3].get() == c && cell.key[4].get() == d;
        }
        match t.real(cell.owner.get() as u32) {
            Some(real) => real.address == self.server,
            None => false,
        }
    }
}

/// The state without upper bits that are no source.
#[inline(always)]
fn kind(state: u64) -> u64 {
    if state & state_bits::FTP != 0 { u64::from(state as u32) } else { state }
}

#[inline(always)]
fn mask(control: &Control, table: CellTable) -> u32 {
    match table {
        CellTable::Flows => control.flow_mask,
        CellTable::HalfOpen => control.half_open_mask,
        CellTable::Templates => control.template_mask,
        CellTable::Localities => limits::LOCALITIES / limits::WAYS - 1,
    }
}

/// Index of a way: the first bucket is in the low half of the hash, the second in the high half.
#[inline(always)]
fn index(control: &Control, table: CellTable, hash: u64, way: u32) -> u32 {
    let bucket = if way < limits::WAYS { hash as u32 } else { (hash >> 32) as u32 };
    (bucket & mask(control, table)) * limits::WAYS + (way & (limits::WAYS - 1))
}

/// The record that matches.
#[inline(always)]
pub fn find<T: Tables, M: Match<T>>(t: &T, control: &Control, table: CellTable, m: &M) -> Found {
    let hash = m.hash();
    let mut way = 0;
    let mut place = NO_RECORD;
    let mut stamp = 0;
    while way < limits::WAYS * limits::CHOICES {
        let at = index(control, table, hash, way);
        let Some(cell) = t.cell(table, at) else { return Found::NOTHING };
        stamp = cell.stamp.get();
        if stamp & PHASE == VALID && m.matches(t, cell) {
            place = at;
            break;
        }
        way += 1;
    }
    if place == NO_RECORD {
        return Found::NOTHING;
    }
    let Some(cell) = t.cell(table, place) else { return Found::NOTHING };
    let owner = cell.owner.get();
    let found = Found {
        index: place,
        vip: Address::of_words([cell.key[3].get(), cell.key[4].get()]),
        vip_port: (cell.key[0].get() >> VIP_PORT_SHIFT) as u16,
        real: owner as u32,
        service: (owner >> 32) as u32,
        state: cell.state.get(),
        seen: cell.seen.get(),
    };
    // Released and taken by another connection while it was read: that one is not ours.
    if cell.stamp.get() == stamp { found } else { Found::NOTHING }
}

/// What a new record says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    pub real: u32,
    pub service: u32,
    pub state: u64,
    pub seen: u32,
}

/// What to do when both buckets are full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// Take no cell of a live record.
    Refuse,
    /// Take the cell of the record that was looked up the longest ago; its former owner is answered.
    Evict,
}

/// What became of an insertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inserted {
    pub place: Place,
    /// If somebody else's record made room: its real server and state.
    pub real: u32,
    pub state: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It was free.
    Free,
    /// Somebody else's record made room.
    Evicted,
    /// There is none.
    Full,
}

impl Inserted {
    const FREE: Self = Self { place: Place::Free, real: 0, state: 0 };
    const FULL: Self = Self { place: Place::Full, real: 0, state: 0 };
}

/// Writes a new record, into the emptier of its two buckets (Azar, Broder, Karlin and Upfal, "Balanced Allocations", 1994:
/// by that a bucket overflows only when the table is nearly full). It does not look for an equal one.
#[inline(always)]
pub fn insert<T: Tables>(
    t: &T,
    control: &Control,
    table: CellTable,
    key: &Key,
    record: &Record,
    when_full: WhenFull,
) -> Inserted {
    let hash = key.hash(control.seed, record.state as u16);
    let first = emptier(t, control, table, hash);
    let (mut oldest, mut oldest_rank) = (0, 0);
    let mut way = 0;
    while way < limits::WAYS * limits::CHOICES {
        let at = index(control, table, hash, way ^ first);
        let Some(cell) = t.cell(table, at) else { return Inserted::FULL };
        let stamp = cell.stamp.get();
        if stamp & PHASE == EMPTY {
            if take(cell, stamp, key, record) {
                return Inserted::FREE;
            }
        } else {
            // Templates keep their end in `seen`: the one that ends first has the greatest age here, too.
            let age = record.seen.wrapping_sub(cell.seen.get()).wrapping_add(u32::MAX / 2);
            // Of equally old ones not always the same: a flood within a tick would wear out one cell of each bucket.
            let rank = u64::from(age) << 3 | u64::from((way ^ (hash >> TIE_SHIFT) as u32) & 7);
            if stamp & PHASE == VALID && rank >= oldest_rank {
                (oldest, oldest_rank) = (at, rank);
            }
        }
        way += 1;
    }
    if when_full == WhenFull::Refuse {
        return Inserted::FULL;
    }
    let Some(cell) = t.cell(table, oldest) else { return Inserted::FULL };
    let stamp = cell.stamp.get();
    let (owner, state) = (cell.owner.get(), cell.state.get());
    if stamp & PHASE == VALID && take(cell, stamp, key, record) {
        return Inserted { place: Place::Evicted, real: owner as u32, state };
    }
    Inserted::FULL
}

/// The first way of the bucket with more free cells; the first bucket's when both have as many. Whoever inserts has looked
/// for an equal record before, so the lines of both are in the cache.
#[inline(always)]
fn emptier<T: Tables>(t: &T, control: &Control, table: CellTable, hash: u64) -> u32 {
    let (mut used, mut other) = (0, 0);
    let mut way = 0;
    while way < limits::WAYS {
        let Some(cell) = t.cell(table, index(control, table, hash, way)) else { return 0 };
        used += taken(cell);
        let Some(cell) = t.cell(table, index(control, table, hash, way + limits::WAYS)) else { return 0 };
        other += taken(cell);
        way += 1;
    }
    if other < used { limits::WAYS } else { 0 }
}

/// 0: free, 1: not; without a branch, which the verifier would follow for each cell.
#[inline(always)]
fn taken(cell: &Cell) -> u32 {
    const { assert!(EMPTY == 0 && WRITING == 1 && VALID == 2) }
    ((cell.stamp.get() & PHASE) + 1) >> 1
}

/// Takes the cell if its stamp is still the one that was seen, and fills it.
#[inline(always)]
fn take(cell: &Cell, stamp: u32, key: &Key, record: &Record) -> bool {
    let writing = (stamp & !PHASE).wrapping_add(TAKEN) | WRITING;
    if !cell.stamp.replace(stamp, writing) {
        return false;
    }
    let words = key.words();
    cell.key[0].set(words[0]);
    cell.key[1].set(words[1]);
    cell.key[2].set(words[2]);
    cell.key[3].set(words[3]);
    cell.key[4].set(words[4]);
    cell.owner.set(u64::from(record.real) | u64::from(record.service) << 32);
    cell.state.set(record.state);
    cell.seen.set(record.seen);
    // A swap, not a store: BPF orders atomics with a result fully, and has no release store before v4.
    cell.stamp.swap(writing & !PHASE | VALID);
    true
}

/// Frees a cell that was seen valid; false when somebody else did first.
#[inline(always)]
pub fn release(cell: &Cell) -> bool {
    let stamp = cell.stamp.get();
    stamp & PHASE == VALID && cell.stamp.replace(stamp, stamp & !PHASE | EMPTY)
}

/// Of records that match: where one with this key is, and whether there is one with another.
#[inline(always)]
pub fn only<T: Tables, M: Match<T>>(t: &T, control: &Control, table: CellTable, m: &M, key: &Key) -> (u32, bool) {
    let words = key.words();
    let hash = m.hash();
    let (mut own, mut other) = (NO_RECORD, false);
    let mut way = 0;
    while way < limits::WAYS * limits::CHOICES {
        let at = index(control, table, hash, way);
        if let Some(cell) = t.cell(table, at)
            && cell.stamp.get() & PHASE == VALID
            && m.matches(t, cell)
        {
            // The rest of the key is what matched.
            if cell.key[0].get() == words[0] && cell.key[3].get() == words[3] && cell.key[4].get() == words[4] {
                own = at;
            } else {
                other = true;
            }
        }
        way += 1;
    }
    (own, other)
}

/// Whether the cell holds a record.
#[inline(always)]
pub fn is_valid(cell: &Cell) -> bool {
    cell.stamp.get() & PHASE == VALID
}

/// A record whole, for listings and sweeps; `None` when empty or changed while it was read.
pub fn read(cell: &Cell) -> Option<(Key, Record)> {
    let stamp = cell.stamp.get();
    if stamp & PHASE != VALID {
        return None;
    }
    let key = Key::from_words(core::array::from_fn(|i| cell.key[i].get()));
    let owner = cell.owner.get();
    let record =
        Record { real: owner as u32, service: (owner >> 32) as u32, state: cell.state.get(), seen: cell.seen.get() };
    (cell.stamp.get() == stamp).then_some((key, record))
}

/// Ticks since a record was looked up. Another processor's clock may be a tick ahead: its packet has come just now.
#[inline(always)]
pub fn idle(now: u32, seen: u32) -> u32 {
    let idle = now.wrapping_sub(seen);
    if idle < u32::MAX / 2 { idle } else { 0 }
}

/// Notes that a packet looked the record up.
#[inline(always)]
pub fn touch(cell: &Cell, now: u32) {
    // Once a tick at most, so that a busy connection does not dirty its cache line with every packet.
    if cell.seen.get() != now {
        cell.seen.set(now);
    }
}

/// Whether a record counts as an active connection of its real server: as in IPVS, established TCP and every datagram
/// flow (`net/netfilter/ipvs/ip_vs_proto_tcp.c`, `set_tcp_state`).
#[inline(always)]
pub fn is_active(state: u64) -> bool {
    state & (state_bits::ENDING | state_bits::HALF_OPEN) == 0
}

/// The watch filter: bits of connections whose next packet must be held against their record even if their slot has
/// not changed, because a handshake or a close is under way. False positives cost a lookup; there are no false
/// negatives. The daemon writes it anew now and then, since bits cannot be taken back singly.
pub mod watch {
    use super::*;

    const WORDS: u32 = limits::WATCH_BITS / 64;

    /// Whether packets of this connection must ask for its record.
    #[inline(always)]
    pub fn is_set<T: Tables>(t: &T, control: &Control, hash: u64) -> bool {
        let bit = hash as u32 & (limits::WATCH_BITS - 1);
        match t.watch((control.watch & 1) * WORDS + bit / 64) {
            Some(word) => word.get() & 1 << (bit % 64) != 0,
            None => true,
        }
    }

    /// Sets the bit in both filters: the one in force, and the one that may be in the making.
    #[inline(always)]
    pub fn set<T: Tables>(t: &T, hash: u64) {
        let bit = hash as u32 & (limits::WATCH_BITS - 1);
        if let Some(word) = t.watch(bit / 64) {
            word.or(1 << (bit % 64));
        }
        if let Some(word) = t.watch(WORDS + bit / 64) {
            word.or(1 << (bit % 64));
        }
    }
}
