//! Schedulers: which real server a new connection gets.
//!
//! Two families. *Per connection* ([`round_robin`], [`least_connection`]): asked once for each new connection.
//! *By table* ([`maglev`], [`source_hash`]): the daemon fills a table of slots, a packet only hashes its client.
//! Each algorithm is one file; a new one adds its file, its number here, and its line in [`pick`].

pub mod least_connection;
pub mod maglev;
pub mod round_robin;
pub mod source_hash;

use crate::hash;
use crate::layout::{Address, Control, NO_REAL, Service, service_flags};
use crate::tables::{Step, Tables};

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
}

const RR: u8 = Scheduler::Rr as u8;
const WRR: u8 = Scheduler::Wrr as u8;
const LC: u8 = Scheduler::Lc as u8;
const WLC: u8 = Scheduler::Wlc as u8;
const SH: u8 = Scheduler::Sh as u8;

/// A choice, and how the scheduler's cursor moves once it is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick {
    /// [`NO_REAL`]: none takes clients.
    pub real: u32,
    pub cursor: CursorMove,
}

impl Pick {
    pub const NOBODY: Self = Self { real: NO_REAL, cursor: CursorMove::NONE };
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

/// Chooses a real server for a new connection. `slot` is what the table says, where a table decides.
#[inline(always)]
pub fn pick<T: Tables>(t: &T, service: u32, settings: &Service, slot: Option<SlotView>) -> Pick {
    let pick = if let Some(slot) = slot {
        Pick { real: slot.real, cursor: CursorMove::NONE }
    } else {
        match settings.scheduler {
            RR => round_robin::rr(t, service, settings),
            WRR => round_robin::wrr(t, service, settings),
            LC => least_connection::pick(t, settings, false),
            WLC => least_connection::pick(t, settings, true),
            _ => Pick::NOBODY,
        }
    };
    if pick.real != NO_REAL {
        t.note(Step::Scheduled { real: pick.real });
    }
    pick
}

/// A slot of a table scheduler as a packet met it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotView {
    pub index: u32,
    pub real: u32,
    /// The connection's record must be asked.
    pub record: bool,
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
    if settings.flags & service_flags::TABLE == 0 {
        return None;
    }
    let index = settings.slots.wrapping_add(slot_number(control, settings, family, client, client_port));
    let slot = t.slot(index)?.get();
    Some(SlotView { index, real: slot as u32, record: slot & crate::layout::slot_bits::RECORD != 0 })
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
