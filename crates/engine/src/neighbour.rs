//! Neighbours that packets show, and neighbours that packets miss.
//!
//! A reply leaves by the kernel's own routes and neighbours. The kernel learns a client's MAC address only when it sends
//! to it, and packets that XDP sends are not its own: so the frame that opens a connection leaves its MAC addresses
//! here, and the replies use them until the daemon, which is asked at the same time, has made the kernel find out.
//!
//! One place for each hash of an address; a later client takes an earlier one's.

use crate::hash;
use crate::layout::{Address, Macs, Neighbour, limits};
use crate::packet::Packet;
use crate::tables::Tables;
use crate::wire::Headers;

/// Remembers where a client's packet came from.
#[inline(always)]
pub fn learn<P: Packet, T: Tables>(p: &P, t: &T, h: &Headers) {
    let Some([a, b, c, d, e, f, g, i, j, k, l, m]) = p.read::<12>(0) else { return };
    let Some(place) = t.neighbour(place(&h.source)) else { return };
    let (ours, theirs) = (word([a, b, c, d, e, f]), word([g, i, j, k, l, m]));
    // Usually the same client again, by the same way.
    if is(place, h.family, p.interface(), &h.source) && place.macs[0].get() == theirs {
        return;
    }
    write(place, h.family, p.interface(), &h.source, [theirs, ours]);
}

/// The MAC addresses that a client's own frames have shown, if they came in on this interface.
#[inline(always)]
pub fn find<T: Tables>(t: &T, family: u8, interface: u32, address: &Address) -> Option<Macs> {
    let place = t.neighbour(place(address))?;
    let [theirs, ours] = [place.macs[0].get(), place.macs[1].get()];
    // Looked at last: whoever takes the place clears the family first.
    if theirs == 0 || !is(place, family, interface, address) {
        return None;
    }
    Some(Macs::new(bytes(theirs), bytes(ours)))
}

/// Asks the daemon to have the kernel find a neighbour.
#[inline(always)]
pub fn ask<T: Tables>(t: &T, family: u8, interface: u32, address: &Address) {
    let Some(place) = t.neighbour(place(address)) else { return };
    if !is(place, family, interface, address) {
        write(place, family, interface, address, [0, 0]);
    }
    if place.asked.get() == 0 {
        place.asked.set(1);
    }
}

#[inline(always)]
fn place(address: &Address) -> u32 {
    let [a, b] = address.words();
    hash::word(0, a ^ b) as u32 & (limits::NEIGHBOURS - 1)
}

#[inline(always)]
fn is(place: &Neighbour, family: u8, interface: u32, address: &Address) -> bool {
    let [a, b] = address.words();
    place.family.get() == u32::from(family)
        && place.interface.get() == interface
        && place.address[0].get() == a
        && place.address[1].get() == b
}

#[inline(always)]
fn write(place: &Neighbour, family: u8, interface: u32, address: &Address, [theirs, ours]: [u64; 2]) {
    let [a, b] = address.words();
    place.family.swap(0);
    place.interface.set(interface);
    place.address[0].set(a);
    place.address[1].set(b);
    place.macs[0].set(theirs);
    place.macs[1].set(ours);
    place.asked.set(0);
    place.family.swap(u32::from(family));
}

#[inline(always)]
fn word([a, b, c, d, e, f]: [u8; 6]) -> u64 {
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
}

#[inline(always)]
fn bytes(word: u64) -> [u8; 6] {
    let [a, b, c, d, e, f, _, _] = word.to_le_bytes();
    [a, b, c, d, e, f]
}
