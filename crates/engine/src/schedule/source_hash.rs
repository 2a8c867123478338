//! `sh`: source hashing (`net/netfilter/ipvs/ip_vs_sh.c`).
//!
//! A table of a power of two slots is filled with the real servers in the order of the configuration, each as many
//! times in a row as its weight, round and round. Slots of a server that takes nobody fall back to others when the table
//! is made ([`fall_back`]), as IPVS does with its fallback flag at each look; without that flag they are nobody's.

use crate::hash;
use crate::layout::Address;

/// The smallest table: IPVS's own (`CONFIG_IP_VS_SH_TAB_BITS`).
pub const MIN_BITS: u8 = 8;
/// The largest: 256 slots for each of 4,096 real servers.
pub const MAX_BITS: u8 = 20;

/// `ip_vs_sh_hashkey`: of the address folded to 32 bits, and the port.
#[inline(always)]
pub fn slot(client: &Address, port: u16, bits: u8) -> u32 {
    let [a, b, c, d] = client.parts();
    let folded = u32::from_be(a ^ b ^ c ^ d);
    hash::kernel_hash_32(folded.wrapping_add(u32::from(port)), u32::from(bits))
}

/// Bits of the table for these weights: every real server gets its weight at least once round, within the limits.
pub fn table_bits(weights: &[u32]) -> u8 {
    let rounds: u64 = weights.iter().map(|&w| u64::from(w.max(1))).sum();
    let mut bits = MIN_BITS;
    while bits < MAX_BITS && 1 << bits < rounds {
        bits += 1;
    }
    bits
}

/// Fills `table` (a power of two long) with indices into `weights`, of which there is at least one. As in the kernel,
/// who has weight 0 has a slot in its turn.
pub fn fill(weights: &[u32], table: &mut [u32]) {
    let scale = scale(weights, table.len());
    let (mut server, mut given) = (0, 0);
    for slot in table.iter_mut() {
        *slot = server as u32;
        given += 1;
        if given >= weights[server] / scale {
            server = (server + 1) % weights.len();
            given = 0;
        }
    }
}

/// What weights are divided by so that every real server's turn comes before the table ends; 1 where it does anyway.
fn scale(weights: &[u32], len: usize) -> u32 {
    let (sum, servers) = weights.iter().fold((0, 0), |(sum, servers), &w| (sum + u64::from(w.max(1)), servers + 1));
    let len = len as u64;
    if sum <= len || servers >= len {
        return 1;
    }
    // Quotients below 1 still take a slot each.
    u32::try_from(sum.div_ceil(len - servers)).unwrap_or(u32::MAX)
}

/// Marks a slot that was moved while the others are, so that it attracts no search: those ask for the first owner.
const MOVED: u32 = 1 << 31;

/// `ip_vs_sh_get_fallback`: a slot whose real server takes nobody is served by the first slot that does, where the
/// search starts at twice the slot's own number (the kernel adds the hash to an offset that starts at the hash). There
/// is one, unless all weights are 0: nothing changes then.
pub fn fall_back(weights: &[u32], table: &mut [u32]) {
    let mask = table.len() - 1;
    for start in 0..table.len() {
        if weights[table[start] as usize] > 0 {
            continue;
        }
        let takes = |slot: &usize| table[*slot] & MOVED == 0 && weights[table[*slot] as usize] > 0;
        if let Some(slot) = (0..table.len()).map(|step| (step + 2 * start) & mask).find(takes) {
            table[start] = table[slot] | MOVED;
        }
    }
    table.iter_mut().for_each(|slot| *slot &= !MOVED);
}
