//! Thresholds: how many connections a real server may have before it gets no new clients, and how few before it gets
//! some again (`net/netfilter/ipvs/ip_vs_conn.c`, `ip_vs_bind_dest` and `ip_vs_unbind_dest`; `IP_VS_DEST_F_OVERLOAD`).
//!
//! All of it is one word beside the real server's counts: the upper threshold, the lower one, and whether the upper one
//! has been reached and the lower one not yet. Packets set and clear that bit where connections open and end, the daemon
//! where thresholds change.

use crate::layout::Load;

/// The greatest threshold.
pub const MAX: u32 = (1 << 31) - 1;

const OVERLOADED: u64 = 1 << 63;
const UPPER_SHIFT: u32 = 32;

/// Connections of a real server, active and inactive (`ip_vs_dest_totalconns`).
#[inline(always)]
fn total(load: &Load) -> u64 {
    // Two processors may confuse the two counts, but not their sum.
    load.active.get().wrapping_add(load.inactive.get())
}

#[inline(always)]
fn upper(bounds: u64) -> u64 {
    (bounds & !OVERLOADED) >> UPPER_SHIFT
}

#[inline(always)]
fn lower(bounds: u64) -> u64 {
    u64::from(bounds as u32)
}

/// Whether the real server gets no new clients. The bit alone could stay when two processors open and end a
/// connection at one time.
#[inline(always)]
pub fn is_overloaded(load: &Load) -> bool {
    let bounds = load.bounds.get();
    bounds & OVERLOADED != 0 && total(load) >= lower(bounds)
}

/// After a connection has been added.
#[inline(always)]
pub fn opened(load: &Load) {
    let bounds = load.bounds.get();
    if bounds != 0 && total(load) >= upper(bounds) {
        load.bounds.or(OVERLOADED);
    }
}

/// After a connection has been taken off.
#[inline(always)]
pub fn ended(load: &Load) {
    let bounds = load.bounds.get();
    if bounds & OVERLOADED != 0 && total(load) < lower(bounds) {
        load.bounds.and(!OVERLOADED);
    }
}

/// Other thresholds, 0 for none; without a lower one it is three quarters of the upper one.
pub fn set(load: &Load, upper: u32, lower: u32) {
    let lower = if lower == 0 { upper - upper / 4 } else { lower };
    let wanted = if upper == 0 { 0 } else { u64::from(upper.min(MAX)) << UPPER_SHIFT | u64::from(lower) };
    loop {
        let before = load.bounds.get();
        let total = total(load);
        let stays = before & OVERLOADED != 0 && total >= u64::from(lower);
        let overloaded = upper != 0 && (total >= u64::from(upper) || stays);
        let after = if overloaded { wanted | OVERLOADED } else { wanted };
        if load.bounds.replace(before, after) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `ip_vs_conn.c`, with a new real server's flags.
    struct Reference {
        total: u64,
        upper: u64,
        lower: u64,
        overloaded: bool,
    }

    impl Reference {
        fn bind(&mut self) {
            self.total += 1;
            if self.upper != 0 && self.total >= self.upper {
                self.overloaded = true;
            }
        }

        fn unbind(&mut self) {
            self.total -= 1;
            if self.lower != 0 {
                if self.total < self.lower {
                    self.overloaded = false;
                }
            } else if self.upper != 0 {
                if self.total * 4 < self.upper * 3 {
                    self.overloaded = false;
                }
            } else {
                self.overloaded = false;
            }
        }
    }

    proptest! {
        #[test]
        fn a_real_server_is_overloaded_when_ipvs_says_so(
            upper in 0u32..12, lower in 0u32..12, opens in proptest::collection::vec(any::<bool>(), 1..200),
        ) {
            let lower = lower.min(upper);
            let load = Load::default();
            set(&load, upper, lower);
            let mut reference =
                Reference { total: 0, upper: upper.into(), lower: lower.into(), overloaded: false };
            for (number, open) in opens.into_iter().enumerate() {
                // Which of the two counts it is makes no difference.
                let count = if number % 3 == 0 { &load.inactive } else { &load.active };
                if open {
                    count.add(1);
                    opened(&load);
                    reference.bind();
                } else if reference.total > 0 {
                    count.sub(1);
                    ended(&load);
                    reference.unbind();
                }
                prop_assert_eq!(is_overloaded(&load), reference.overloaded);
            }
        }
    }

    #[test]
    fn other_thresholds_hold_at_once() {
        let load = Load::default();
        load.active.set(10);
        set(&load, 10, 0);
        assert!(is_overloaded(&load));
        set(&load, 11, 10);
        assert!(is_overloaded(&load), "not below the lower threshold yet");
        set(&load, 16, 0);
        assert!(!is_overloaded(&load), "below three quarters");
        set(&load, 5, 5);
        assert!(is_overloaded(&load));
        set(&load, 0, 0);
        assert!(!is_overloaded(&load));
        opened(&load);
        assert!(!is_overloaded(&load));
    }

    #[test]
    fn a_bit_that_a_race_has_left_over_keeps_nobody_out() {
        let load = Load::default();
        set(&load, 1, 1);
        load.bounds.or(OVERLOADED);
        assert!(!is_overloaded(&load));
    }
}
