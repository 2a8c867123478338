//! Where replies leave: by the routes that the daemon has copied from the kernel, else by the kernel's own lookup.
//!
//! `bpf_fib_lookup` costs more than the rest of a reply's work, and remembering its answer for each client costs as much
//! again once the clients are more than the caches hold. A copy of the routes costs little for any number of clients. It
//! holds only what is simple, and the daemon takes it back at once when anything changes that it was made of; it is
//! good until `Control::routes_until`, which the daemon moves on, so that no copy outlives its maker.

use crate::layout::{Address, Control, Macs, NextHop, control_flags};
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
