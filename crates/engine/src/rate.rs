//! How many new connections a service takes: a token bucket for each service, in one word.
//!
//! The generic cell rate algorithm (ITU-T I.371 Annex A): the word is the time at which the bucket will be full again, in
//! ticks with 32 bits of fraction, so that a tick may hold many connections. It wraps as the clock does.

use crate::layout::Service;
use crate::tables::Tables;

/// Bits of a tick's fraction.
pub const FRACTION: u32 = 32;

/// Whether a service takes one more new connection now; if so it is counted.
#[inline(always)]
pub fn admits<T: Tables>(t: &T, settings: &Service, now: u32) -> bool {
    if settings.rate_each == 0 {
        return true;
    }
    let Some(bucket) = t.rate(settings.owner) else { return true };
    let mut attempt = 0;
    while attempt < ATTEMPTS {
        let before = bucket.get();
        let after = full_again(before, now, settings.rate_each, settings.rate_most);
        // Who finds it empty writes nothing: in a flood the word stays in every processor's cache.
        if after == NEVER {
            return false;
        }
        if bucket.replace(before, after) {
            return true;
        }
        attempt += 1;
    }
    // There was room each time, and somebody else was faster.
    true
}

const ATTEMPTS: u32 = 4;
const NEVER: u64 = u64::MAX;

/// When a bucket will be full again after one more connection; [`NEVER`] when it is empty.
#[inline(always)]
fn full_again(full: u64, now: u32, each: u64, most: u64) -> u64 {
    let now = u64::from(now) << FRACTION;
    let ahead = full.wrapping_sub(now);
    // The clock wraps: what is further ahead than a bucket can be filled is of the past.
    let ahead = if ahead > most { 0 } else { ahead };
    let ahead = ahead.wrapping_add(each);
    if ahead > most { NEVER } else { now.wrapping_add(ahead) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TICK: u64 = 1 << FRACTION;

    /// How many connections a bucket takes at once, up to a million.
    fn drain(full: &mut u64, now: u32, each: u64, most: u64) -> u64 {
        let mut taken = 0;
        while taken < 1_000_000 {
            match full_again(*full, now, each, most) {
                NEVER => break,
                next => (taken, *full) = (taken + 1, next),
            }
        }
        taken
    }

    proptest! {
        #[test]
        fn in_any_time_no_more_than_the_burst_and_the_rate_of_that_time(
            start in any::<u32>(), a_tick in 1u64..200, burst in 200u64..1000,
            pauses in prop::collection::vec(0u32..10, 1..20),
        ) {
            let (each, most) = (TICK / a_tick, burst * (TICK / a_tick));
            let (mut full, mut now, mut taken, mut ticks) = (0, start, 0, 0);
            // Whatever the word was: it is full, or less so.
            for pause in pauses {
                now = now.wrapping_add(pause);
                ticks += u64::from(pause);
                taken += drain(&mut full, now, each, most);
                prop_assert!(taken <= burst + (a_tick + 1) * ticks + 1, "{taken} in {ticks} ticks");
            }
            // And no fewer, when they come at all.
            let long = (burst / a_tick + 2) as u32;
            prop_assert_eq!(drain(&mut full, now.wrapping_add(long), each, most), burst);
        }

        #[test]
        fn a_bucket_that_nobody_has_asked_for_long_is_full(now in any::<u32>(), ago in 1u32..u32::MAX - (1 << 20)) {
            let mut full = u64::from(now.wrapping_sub(ago)) << FRACTION;
            prop_assert_eq!(drain(&mut full, now, TICK / 10, TICK), 10);
        }
    }

    #[test]
    fn less_than_one_in_a_tick_is_a_rate_too() {
        let (mut full, each) = (0, TICK * 25);
        assert_eq!(drain(&mut full, 1000, each, each * 2), 2);
        assert_eq!(drain(&mut full, 1024, each, each * 2), 0);
        assert_eq!(drain(&mut full, 1025, each, each * 2), 1);
    }
}
