//! Hashes. Seeded where a stranger could otherwise choose collisions; the seed is drawn when the tables are made.

use crate::layout::Address;

// Odd 64-bit constants with about half of their bits set (from the fractional parts of the golden ratio, and of the
// square roots of 3 and 7): a multiplication by one of them carries every input bit upwards, the shift brings it down.
const K0: u64 = 0x9e37_79b9_7f4a_7c15;
const K1: u64 = 0xbb67_ae85_84ca_a73b;
const K2: u64 = 0xa54f_f53a_5f1d_36f1;

#[inline(always)]
fn step(h: u64, word: u64, k: u64) -> u64 {
    let x = (h ^ word).wrapping_mul(k);
    x ^ (x >> 32)
}

/// Of an address and one more word.
#[inline(always)]
pub fn address(seed: u64, address: &Address, word: u64) -> u64 {
    let [high, low] = address.words();
    let h = step(seed, low, K0);
    let h = step(h, high ^ word, K1);
    // The last shift alone leaves the top bits unmixed: fold once more so that both halves can be used.
    step(h, h >> 29, K2)
}

/// Of an address of the configuration's own: no stranger chooses those, so two multiplications are enough for IPv4, and three
/// for IPv6. A product's last bits depend on few of its factor's, its first ones on all of them: with the bytes exchanged
/// the second product depends on all as well, where it is taken from.
#[inline(always)]
pub fn own_address(seed: u64, address: &Address) -> u32 {
    let [high, low] = address.words();
    let word = low ^ step(0, high, K2);
    ((word ^ seed).wrapping_mul(K0).swap_bytes().wrapping_mul(K1) >> 32) as u32
}

/// Of one word.
#[inline(always)]
pub fn word(seed: u64, word: u64) -> u64 {
    let h = step(seed, word, K0);
    step(h, h >> 29, K1)
}

/// The kernel's `hash_32` (`include/linux/hash.h`), which `ip_vs_sh` uses: the top `bits` bits.
#[inline(always)]
pub fn kernel_hash_32(value: u32, bits: u32) -> u32 {
    value.wrapping_mul(0x61c8_8647) >> ((32 - bits) & 31)
}

/// Maps a hash to `0..len` without a division: the high half of the product.
#[inline(always)]
pub fn reduce(hash: u32, len: u32) -> u32 {
    ((u64::from(hash) * u64::from(len)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    /// Counts of 65,536 consecutive clients in 256 bins by each 8-bit part of the hash stay within six standard
    /// deviations of even.
    #[test]
    fn every_part_of_the_hash_spreads_consecutive_clients_evenly() {
        for shift in (0..64).step_by(8) {
            let mut bins = vec![0u32; 256];
            for client in 0..65_536u32 {
                let a = Address::v4((0x0a00_0000 + client).to_be_bytes());
                bins[(address(7, &a, 80) >> shift) as u8 as usize] += 1;
            }
            assert!(bins.iter().all(|&n| n.abs_diff(256) < 6 * 16), "shift {shift}: {bins:?}");
        }
    }

    #[test]
    fn reduce_stays_below_its_length() {
        assert_eq!(reduce(u32::MAX, 7), 6);
        assert_eq!(reduce(0, 7), 0);
    }
}
