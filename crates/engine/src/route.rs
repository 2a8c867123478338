//! Where replies leave: by the routes that the daemon has copied from the kernel, else by the kernel's own lookup.
//!
//! `bpf_fib_lookup` costs more than the rest of a reply's work, and remembering its answer for each client costs as much
//! again once the clients are more than the caches hold. A copy of the routes costs little for any number of clients. It
//! holds only what is simple, and the daemon takes it back at once when anything changes that it was made of; it is
//! good until `Control::routes_until`, which the daemon moves on, so that no copy outlives its maker.
//!
//! The copy is a map of the kernel's, where finding the longest prefix costs as much as a fifth of a reply's work. Each processor
//! remembers what it has found, until the daemon has written the copy anew ([`Processor::generation`]): for a client's whole
//! block ([`block_bits`]) where that has one way ([`NextHop::whole`]), else for the client.

use crate::layout::{Address, Control, Hop, Macs, NextHop, Processor, V4, control_flags, limits};
use crate::tables::{Route, RouteQuery, Tables};

/// The way to a client. Every field always has a value: see [`crate::decide::Decision`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaving {
    pub kind: Kind,
    pub interface: u32,
    /// Of [`Kind::Via`].
    pub macs: Macs,
}

/// As the variants of [`Route`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Via,
    NoNeighbour,
    Here,
    None,
}

impl Leaving {
    const NONE: Self = Self { kind: Kind::None, interface: 0, macs: Macs([0; 3]) };
}

/// The way to a client.
#[inline(always)]
pub fn find<T: Tables>(t: &T, query: &RouteQuery) -> Leaving {
    if let Some(control) = t.control()
        && let Some(next) = copied(t, &control, query.family, &query.destination)
    {
        return Leaving { kind: Kind::Via, interface: next.interface, macs: next.macs };
    }
    match t.route(query) {
        Route::Via { interface, macs } => Leaving { kind: Kind::Via, interface, macs },
        Route::NoNeighbour { interface } => Leaving { kind: Kind::NoNeighbour, interface, ..Leaving::NONE },
        Route::Here => Leaving { kind: Kind::Here, ..Leaving::NONE },
        Route::None => Leaving::NONE,
    }
}

/// The next hop that the copied routes say, where they say one.
#[inline(always)]
pub fn copied<T: Tables>(t: &T, control: &Control, family: u8, destination: &Address) -> Option<NextHop> {
    if !holds(control, t.now()) {
        return None;
    }
    let next = t.next_hop(family, destination)?;
    if next.interface != 0 { Some(next) } else { None }
}

/// Addresses that have so many bits in common are a block: few enough of those for a processor to remember the ways to
/// the clients of an Internet service, and so small that most have one way (IPv6: what a provider is given, RFC 6177).
pub const fn block_bits(family: u8) -> u8 {
    if family == V4 { 16 } else { 32 }
}

/// The block of an address.
#[inline(always)]
fn block(family: u8, address: &Address) -> Address {
    const V4_BLOCK: Address = Address::v4([0xff, 0xff, 0, 0]);
    const V6_BLOCK: Address = Address::of_words([0xffff_ffff, 0]);
    address.masked(if family == V4 { &V4_BLOCK } else { &V6_BLOCK })
}

/// As [`copied`], and remembered for the packets that follow. `hash`: any one of the destination.
#[inline(always)]
pub fn recalled<T: Tables>(
    t: &T,
    control: &Control,
    processor: &Processor,
    family: u8,
    destination: &Address,
    hash: u64,
) -> Option<NextHop> {
    // Read before the routes are: what is found in old ones will count as old.
    let foundation = u64::from(family) | u64::from(processor.generation.get()) << 32;
    let block = block(family, destination);
    let shared = processor.hops.get(place(&block))?;
    let own = processor.hops.get(hash as usize & (limits::HOPS - 1))?;
    let hop = if is(shared, foundation | OF_BLOCK, &block) {
        shared
    } else if is(own, foundation, destination) {
        own
    } else {
        let next = copied(t, control, family, destination)?;
        if next.whole != 0 {
            remember(shared, foundation | OF_BLOCK, &block, &next);
        } else {
            remember(own, foundation, destination, &next);
        }
        return Some(next);
    };
    if !holds(control, t.now()) {
        return None;
    }
    let [m0, m1, m2] = &hop.macs;
    let macs = Macs([m0.get(), m1.get(), m2.get()]);
    Some(NextHop { interface: hop.interface.get(), macs, ..NextHop::default() })
}

/// In [`Hop::foundation`], above the family.
const OF_BLOCK: u64 = 1 << 8;

/// Where a block's hop is. Not seeded: where blocks meet each other the newest stays, and the rest are looked up.
#[inline(always)]
fn place(block: &Address) -> usize {
    const BITS: u32 = limits::HOPS.trailing_zeros();
    let [a, b] = block.words();
    ((a ^ b).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - BITS)) as usize
}

#[inline(always)]
fn is(hop: &Hop, foundation: u64, address: &Address) -> bool {
    let [a, b] = address.words();
    hop.foundation.get() == foundation && hop.address[0].get() == a && hop.address[1].get() == b
}

#[inline(always)]
fn remember(hop: &Hop, foundation: u64, address: &Address, next: &NextHop) {
    let ([a, b], Macs([m0, m1, m2])) = (address.words(), next.macs);
    hop.address[0].set(a);
    hop.address[1].set(b);
    hop.foundation.set(foundation);
    hop.interface.set(next.interface);
    hop.macs[0].set(m0);
    hop.macs[1].set(m1);
    hop.macs[2].set(m2);
}

/// Whether the copied routes may be used now.
#[inline(always)]
fn holds(control: &Control, now: u32) -> bool {
    // The clock wraps: what is over lies in the half of it behind now.
    control.flags & control_flags::ROUTES != 0 && control.routes_until.wrapping_sub(now).wrapping_sub(1) < u32::MAX / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copied_routes_hold_until_their_tick_and_across_the_wrap_of_the_clock() {
        let until = |routes_until| Control { flags: control_flags::ROUTES, routes_until, ..Control::default() };
        assert!(holds(&until(10), 9));
        assert!(!holds(&until(10), 10));
        assert!(!holds(&until(10), 11));
        assert!(holds(&until(3), u32::MAX - 3));
        assert!(!holds(&until(u32::MAX - 3), 3));
    }
}
