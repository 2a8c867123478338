//! The Internet checksum (RFC 1071), whole and incremental (RFC 1624).
//!
//! Sums are over words in memory order: the one's complement sum does not depend on byte order, only the result's
//! placement does (RFC 1071 §2(B)), so nothing is swapped.

use crate::layout::Address;

/// What changed under a checksum: the sum of `!old + new` over words.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change(u64);

impl Change {
    /// A word of four bytes, in memory order.
    #[inline(always)]
    pub fn word(self, old: u32, new: u32) -> Self {
        Self(self.0 + u64::from(u32::MAX) - u64::from(old) + u64::from(new))
    }

    /// A word of two bytes, in memory order.
    #[inline(always)]
    pub fn half(self, old: u16, new: u16) -> Self {
        Self(self.0 + u64::from(u16::MAX) - u64::from(old) + u64::from(new))
    }

    #[inline(always)]
    pub fn address(self, old: &Address, new: &Address) -> Self {
        let ([a, b, c, d], [p, q, r, s]) = (old.parts(), new.parts());
        self.word(a, p).word(b, q).word(c, r).word(d, s)
    }

    /// By lowering the time to live of an IPv4 header: the same for each.
    #[inline(always)]
    pub fn aging() -> Self {
        Self::default().half(u16::from_ne_bytes([1, 0]), 0)
    }

    /// Both changes.
    #[inline(always)]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The change's sum in 16 bits, with end-around carry.
    #[inline(always)]
    pub fn folded(self) -> u32 {
        fold(self.0).into()
    }

    /// The change's sum in 32 bits, with end-around carry.
    #[inline(always)]
    pub fn sum(self) -> u32 {
        (self.0.wrapping_add(self.0.rotate_right(32)) >> 32) as u32
    }

    /// The same change at an odd offset (RFC 1071 §2(B)).
    #[inline(always)]
    pub fn shifted(self) -> Self {
        Self(u64::from(fold(self.0).swap_bytes()))
    }

    /// As [`Self::apply`], of a change in 16 bits.
    #[inline(always)]
    pub fn apply_folded(self, checksum: u16) -> u16 {
        let sum = u32::from(!checksum) + self.0 as u32;
        !((sum & 0xffff) + (sum >> 16)) as u16
    }

    /// The new checksum, in memory order as the old. RFC 1624 §3, equation 3.
    #[inline(always)]
    pub fn apply(self, checksum: u16) -> u16 {
        !fold(u64::from(!checksum) + self.0)
    }
}

/// To 16 bits, with end-around carry: in a sum of a word and itself with its halves exchanged, the upper half has that of both.
#[inline(always)]
pub fn fold(sum: u64) -> u16 {
    let s = (sum.wrapping_add(sum.rotate_right(32)) >> 32) as u32;
    (s.wrapping_add(s.rotate_right(16)) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn full(words: &[u32]) -> u16 {
        !fold(words.iter().map(|&w| u64::from(w)).sum())
    }

    /// As RFC 1071 §4.1 does it.
    fn fold_by_steps(mut sum: u64) -> u64 {
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum
    }

    proptest! {
        #[test]
        fn a_sum_is_folded_as_by_steps(sum: u64, few in 0u64..8, shift in 0u32..64) {
            for sum in [sum, sum >> shift, few << shift, (few << shift).wrapping_sub(1)] {
                prop_assert_eq!(u64::from(fold(sum)), fold_by_steps(sum));
            }
        }

        #[test]
        fn an_incremental_checksum_equals_the_full_one(
            words in proptest::collection::vec(any::<u32>(), 5..20), at in 0usize..5, new in any::<u32>(), rest in 1u32..,
        ) {
            let mut words: Vec<u32> = words;
            // RFC 1624 §3: the one case where they differ is a sum of zero over all words, which no packet has.
            words.push(rest);
            let change = Change::default().word(words[at], new);
            let before = full(&words);
            words[at] = new;
            prop_assert_eq!(change.apply(before), full(&words));
        }
    }
}
