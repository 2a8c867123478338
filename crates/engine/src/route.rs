//! Where replies leave: by the routes that the daemon has copied from the kernel, else by the kernel's own lookup.
//!
//! `bpf_fib_lookup` costs more than the rest of a reply's work, and remembering its answer for each client costs as much
//! again once the clients are more than the caches hold. A copy of the routes costs little for any number of clients. It
//! holds only what is simple, and the daemon takes it back at once when anything changes that it was made of; it is
//! good until `Control::routes_until`, which the daemon moves on, so that no copy outlives its maker.
//!
//! The copy is a map of the kernel's, where finding the longest prefix costs as much as a fifth of a reply's work. Each processor
//! remembers what it has found, until the daemon has written the copy anew ([`Processor::generation`]): for a client's whole
//! block ([`block_bits`]) where that has one way ([`NextHop::whole`]), else for the client alone.

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

/// How many bits the addresses of a block have in common, of the small ones and the large ones. A block with one way is
/// remembered as one: a processor has room for the large ones of an Internet service's clients (of IPv6, what a provider is
/// given, RFC 6177); in the director's neighbourhood, where large ones have several ways, small ones may still have one.
pub const fn block_bits(family: u8) -> [u8; 2] {
    if family == V4 { [24, 16] } else { [48, 32] }
}

/// Of whom a hop is remembered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    /// An address.
    One = 0,
    /// A small block of them.
    Small = 1,
    /// A large one.
    Large = 2,
}

/// Where a hop is remembered, and of whom.
struct Remembered<'p> {
    hop: &'p Hop,
    address: Address,
    foundation: u64,
}

impl<'p> Remembered<'p> {
    /// Not seeded: where addresses meet each other the newest stays, and the rest are looked up.
    #[inline(always)]
    fn of(of: Of, processor: &'p Processor, family: u8, address: &Address) -> Option<Self> {
        const BITS: u32 = limits::HOPS.trailing_zeros();
        let mask = match (of, family) {
            (Of::One, _) => Address::of_words([u64::MAX; 2]),
            (Of::Small, V4) => Address::v4([0xff, 0xff, 0xff, 0]),
            (Of::Large, V4) => Address::v4([0xff, 0xff, 0, 0]),
            (Of::Small, _) => Address::of_words([0xffff_ffff_ffff, 0]),
            (Of::Large, _) => Address::of_words([0xffff_ffff, 0]),
        };
        let address = address.masked(&mask);
        let [a, b] = address.words();
        let place = (a ^ b ^ of as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - BITS);
        let hop = processor.hops.get(place as usize)?;
        // Read before the routes are: what is found in old ones will count as old.
        let generation = u64::from(processor.generation.get());
        Some(Self { hop, address, foundation: u64::from(family) | (of as u64) << 8 | generation << 32 })
    }

    #[inline(always)]
    fn is_there(&self) -> bool {
        let ([a, b], hop) = (self.address.words(), self.hop);
        hop.foundation.get() == self.foundation && hop.address[0].get() == a && hop.address[1].get() == b
    }

    #[inline(always)]
    fn get(&self) -> NextHop {
        let [m0, m1, m2] = &self.hop.macs;
        let macs = Macs([m0.get(), m1.get(), m2.get()]);
        NextHop { interface: self.hop.interface.get(), macs, ..NextHop::default() }
    }

    #[inline(always)]
    fn set(&self, next: &NextHop) {
        let ([a, b], Macs([m0, m1, m2]), hop) = (self.address.words(), next.macs, self.hop);
        hop.address[0].set(a);
        hop.address[1].set(b);
        hop.foundation.set(self.foundation);
        hop.interface.set(next.interface);
        hop.macs[0].set(m0);
        hop.macs[1].set(m1);
        hop.macs[2].set(m2);
    }
}

/// As [`copied`], and remembered for the packets that follow.
#[inline(always)]
pub fn recalled<T: Tables>(
    t: &T,
    control: &Control,
    processor: &Processor,
    family: u8,
    destination: &Address,
) -> Option<NextHop> {
    let large = Remembered::of(Of::Large, processor, family, destination)?;
    let small = Remembered::of(Of::Small, processor, family, destination)?;
    let one = Remembered::of(Of::One, processor, family, destination)?;
    let next = if large.is_there() {
        large.get()
    } else if small.is_there() {
        small.get()
    } else if one.is_there() {
        one.get()
    } else {
        let next = copied(t, control, family, destination)?;
        match next.whole {
            0 => one.set(&next),
            1 => small.set(&next),
            _ => large.set(&next),
        }
        return Some(next);
    };
    if holds(control, t.now()) { Some(next) } else { None }
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
