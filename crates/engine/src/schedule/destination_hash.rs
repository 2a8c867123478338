//! `dh`: destination hashing (`net/netfilter/ipvs/ip_vs_dh.c`), for services whose destinations are many: caches in
//! front of which mark rules put whole prefixes.
//!
//! A table of a power of two slots is filled with the real servers in turn, whatever their weight. It is asked when a
//! connection opens; its packets ask their record, as with the schedulers that have no table.

use super::source_hash;
use crate::layout::{Address, NO_REAL, Service};
use crate::tables::Tables;

/// The number of the destination's slot; the hash is the one of `sh`.
#[inline(always)]
pub fn slot(destination: &Address, bits: u8) -> u32 {
    source_hash::slot(destination, 0, bits)
}

/// The real server of a destination's slot, or [`NO_REAL`]; and the slot's number.
#[inline(always)]
pub fn find<T: Tables>(t: &T, settings: &Service, destination: &Address) -> (u32, u32) {
    let number = slot(destination, settings.sh_bits);
    if settings.slots_len == 0 {
        return (NO_REAL, number);
    }
    match t.slot(settings.slots.wrapping_add(number)) {
        Some(slot) => (slot.get() as u32, number),
        None => (NO_REAL, number),
    }
}

/// Bits of the table for so many real servers: every one has a slot.
pub fn table_bits(servers: usize) -> u8 {
    let mut bits = source_hash::MIN_BITS;
    while 1 << bits < servers {
        bits += 1;
    }
    bits
}

/// Fills `table` (a power of two long) with the numbers of so many real servers, in turn; of those of weight 0 as well,
/// whose clients fall back or not.
pub fn fill(servers: usize, table: &mut [u32]) {
    let servers = servers.max(1);
    for (number, slot) in table.iter_mut().enumerate() {
        *slot = (number % servers) as u32;
    }
}
