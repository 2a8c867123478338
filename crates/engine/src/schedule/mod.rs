//! Schedulers: which real server a new connection gets.
//!
//! Two families. *Per connection* ([`round_robin`], [`least_connection`], [`two_choices`], [`locality`],
//! [`destination_hash`]): asked once for each new connection. *By table* ([`maglev`], [`source_hash`]): the daemon fills
//! a table of slots, a packet only hashes its client.
//! Each algorithm is one file; a new one adds its file, its number here, and its line in [`pick`].

pub mod destination_hash;
pub mod least_connection;
pub mod locality;
pub mod maglev;
pub mod round_robin;
pub mod source_hash;
pub mod threshold;
pub mod two_choices;

use crate::hash;
use crate::layout::{Address, Control, NO_REAL, Service, Word64, limits, service_flags};
use crate::tables::{Scan, Step, Tables};

/// The scheduler's number in [`Service::scheduler`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Scheduler {
    Rr = 0,
    Wrr = 1,
    Lc = 2,
    Wlc = 3,
    Sh = 4,
    Maglev = 5,
    Sed = 6,
    Nq = 7,
    Fo = 8,
    Ovf = 9,
    Dh = 10,
    Twos = 11,
    Lblc = 12,
    Lblcr = 13,
}

const RR: u8 = Scheduler::Rr as u8;
const WRR: u8 = Scheduler::Wrr as u8;
const SH: u8 = Scheduler::Sh as u8;
const MAGLEV: u8 = Scheduler::Maglev as u8;
const DH: u8 = Scheduler::Dh as u8;
const TWOS: u8 = Scheduler::Twos as u8;
const LBLC: u8 = Scheduler::Lblc as u8;
const LBLCR: u8 = Scheduler::Lblcr as u8;

/// A choice, and what changes once it is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick {
    /// [`NO_REAL`]: none takes clients.
    pub real: u32,
    pub cursor: CursorMove,
    pub locality: locality::Change,
}

impl Pick {
    pub const NOBODY: Self = Self::of(NO_REAL);

    /// A choice that changes nothing.
    #[inline(always)]
    pub const fn of(real: u32) -> Self {
        Self { real, cursor: CursorMove::NONE, locality: locality::Change::NOTHING }
    }
}

/// How the scheduler's cursor moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CursorMove {
    pub moves: bool,
    pub before: u64,
    pub after: u64,
}

impl CursorMove {
    pub const NONE: Self = Self { moves: false, before: 0, after: 0 };
}

/// Who wants a real server.
#[derive(Clone, Copy, Debug)]
pub struct Newcomer<'p> {
    pub family: u8,
    pub client: &'p Address,
    pub client_port: u16,
    pub destination: &'p Address,
    /// What the table says, where a table decides; else [`SlotView::NONE`].
    pub slot: SlotView,
    /// Its connection counts: thresholds hold for it.
    pub counts: bool,
    pub seed: u64,
    pub now: u32,
}

/// Chooses a real server for a new connection.
#[inline(always)]
pub fn pick<T: Tables>(t: &T, control: &Control, service: u32, settings: &Service, newcomer: &Newcomer) -> Pick {
    let pick = match settings.scheduler {
        RR => round_robin::rr(t, service, settings),
        WRR => round_robin::wrr(t, service, settings),
        SH | MAGLEV | DH => by_table(t, settings, newcomer),
        TWOS => two_choices::pick(t, service, settings, newcomer),
        LBLC | LBLCR => locality::pick(t, control, service, settings, newcomer),
        _ => least_connection::pick(t, settings),
    };
    if pick.real != NO_REAL {
        t.note(Step::Scheduled { real: pick.real });
    }
    pick
}

/// The real server of the slot; where that has reached its threshold, another one, unless the service does not fall
/// back.
#[inline(always)]
fn by_table<T: Tables>(t: &T, settings: &Service, newcomer: &Newcomer) -> Pick {
    let (real, number) = if newcomer.slot.index != SlotView::NONE.index {
        (newcomer.slot.real, newcomer.slot.index.wrapping_sub(settings.slots))
    } else {
        destination_hash::find(t, settings, newcomer.destination)
    };
    if settings.flags & service_flags::THRESHOLDS == 0 || !newcomer.counts || real == NO_REAL || has_room(t, real) {
        return Pick::of(real);
    }
    t.note(Step::Overloaded { real });
    if settings.flags & service_flags::NO_FALLBACK != 0 {
        return Pick::NOBODY;
    }
    let mut elsewhere = Elsewhere {
        slots: settings.slots,
        slots_len: settings.slots_len,
        servers: settings.servers,
        servers_len: settings.servers_len,
        rehash: settings.scheduler == MAGLEV,
        number,
        // The slot's number may be many times the list's length.
        start: if number < settings.servers_len { number } else { 0 },
        real: NO_REAL,
    };
    t.scan(limits::FALLBACKS.wrapping_add(settings.servers_len.min(limits::SERVERS)), &mut elsewhere);
    Pick::of(elsewhere.real)
}

#[inline(always)]
fn has_room<T: Tables>(t: &T, real: u32) -> bool {
    match t.load(real) {
        Some(load) => !threshold::is_overloaded(load),
        None => false,
    }
}

/// The search for another real server than the slot's: through other slots, as `ip_vs_sh_get_fallback` and
/// `ip_vs_mh_get_fallback` go, then through the list.
struct Elsewhere {
    slots: u32,
    slots_len: u32,
    servers: u32,
    servers_len: u32,
    /// Slots are found by hashing anew, as the tables of a prime size do; else from twice the slot's own number on.
    rehash: bool,
    number: u32,
    /// Where the list is begun.
    start: u32,
    real: u32,
}

impl<T: Tables> Scan<T> for Elsewhere {
    #[inline(always)]
    fn visit(&mut self, t: &T, step: u32) -> bool {
        let real = if step < limits::FALLBACKS {
            let number = if self.rehash {
                let word = u64::from(self.number) << 32 | u64::from(step);
                hash::reduce(hash::word(0, word) as u32, self.slots_len)
            } else {
                self.number.wrapping_mul(2).wrapping_add(step) & self.slots_len.wrapping_sub(1)
            };
            match t.slot(self.slots.wrapping_add(number)) {
                Some(slot) => slot.get() as u32,
                None => NO_REAL,
            }
        } else {
            let mut place = self.start.wrapping_add(step - limits::FALLBACKS);
            if place >= self.servers_len {
                place = place.wrapping_sub(self.servers_len);
            }
            match t.server(self.servers.wrapping_add(place)) {
                Some(server) if server.weight > 0 => server.real,
                _ => NO_REAL,
            }
        };
        if real == NO_REAL || !has_room(t, real) {
            return true;
        }
        self.real = real;
        false
    }
}

/// A slot of a table scheduler as a packet met it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotView {
    pub index: u32,
    pub real: u32,
    /// The connection's record must be asked.
    pub record: bool,
}

impl SlotView {
    pub const NONE: Self = Self { index: u32::MAX, real: NO_REAL, record: false };
}

/// The slot of a client; `None` when the service has no table.
#[inline(always)]
pub fn slot<T: Tables>(
    t: &T,
    control: &Control,
    settings: &Service,
    family: u8,
    client: &Address,
    client_port: u16,
) -> Option<SlotView> {
    slot_foreseen(t, control, settings, family, client, client_port, None)
}

/// The same; `foreseen`: what [`foresee`] says of the client. A processor need not wait then until it knows the service
/// before it can begin to hash.
#[inline(always)]
pub fn slot_foreseen<T: Tables>(
    t: &T,
    control: &Control,
    settings: &Service,
    family: u8,
    client: &Address,
    client_port: u16,
    foreseen: Option<&Word64>,
) -> Option<SlotView> {
    if settings.flags & service_flags::TABLE == 0 {
        return None;
    }
    let number = match foreseen {
        // In memory, or LLVM makes one hash of both.
        Some(hash) if is_foreseen(settings, client) => hash::reduce(hash.get() as u32, settings.slots_len),
        _ => slot_number(control, settings, family, client, client_port),
    };
    let index = settings.slots.wrapping_add(number);
    let slot = t.slot(index)?.get();
    Some(SlotView { index, real: slot as u32, record: slot & crate::layout::slot_bits::RECORD != 0 })
}

/// The hash of a client to most services.
#[inline(always)]
pub fn foresee(control: &Control, family: u8, client: &Address) -> u64 {
    hash::address(control.seed, client, u64::from(family) << 16)
}

/// Whether [`foresee`]'s hash is this service's.
#[inline(always)]
fn is_foreseen(settings: &Service, client: &Address) -> bool {
    settings.scheduler != SH
        && settings.flags & service_flags::HASH_PORT == 0
        && client.masked(&settings.mask) == *client
}

/// Which of the service's slots is a client's.
#[inline(always)]
pub fn slot_number(control: &Control, settings: &Service, family: u8, client: &Address, client_port: u16) -> u32 {
    let client = client.masked(&settings.mask);
    let port = if settings.flags & service_flags::HASH_PORT != 0 { client_port } else { 0 };
    if settings.scheduler == SH {
        source_hash::slot(&client, port, settings.sh_bits)
    } else {
        let hash = hash::address(control.seed, &client, u64::from(family) << 16 | u64::from(port));
        hash::reduce(hash as u32, settings.slots_len)
    }
}
