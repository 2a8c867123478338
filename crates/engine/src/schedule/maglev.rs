//! `maglev`, in IPVS `mh`: Maglev consistent hashing, weighted (Eisenbud et al., "Maglev: A Fast and Reliable Software
//! Network Load Balancer", NSDI 2016, §3.4; weights by turns as in `net/netfilter/ipvs/ip_vs_mh.c`).

/// Sizes of tables: primes next below powers of two, as IPVS has them.
pub const SIZES: [u32; 10] = [251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521, 131_071];

/// Slots for each real server that the paper advises, so that shares differ by less than one percent.
const SLOTS_PER_SERVER: usize = 100;

/// The table's size for a pool, unequal weights or not: the smallest that gives every real server its slots.
pub fn table_size(servers: usize) -> u32 {
    let wanted = servers.saturating_mul(SLOTS_PER_SERVER);
    *SIZES.iter().find(|&&size| size as usize >= wanted).unwrap_or(&SIZES[SIZES.len() - 1])
}

/// A real server as the algorithm sees it.
#[derive(Clone, Copy, Debug)]
pub struct Member {
    /// Two independent hashes of the server's name: the same servers make the same table in whatever order they are.
    pub offset: u32,
    pub skip: u32,
    pub weight: u32,
}

/// Fills `table` (a prime long) with indices into `members`; `next` is scratch as long as `members`. False, and nothing
/// written, when every weight is 0.
pub fn fill(members: &[Member], table: &mut [u32], next: &mut [Place]) -> bool {
    let gcd = members.iter().fold(0, |a, m| gcd(a, m.weight));
    if gcd == 0 {
        return false;
    }
    let size = table.len() as u64;
    for (place, member) in next.iter_mut().zip(members) {
        place.at = u64::from(member.offset) % size;
        place.skip = u64::from(member.skip) % (size - 1) + 1;
    }
    // More turns than slots would let the first server take all: scale so that one round of turns fits.
    let rounds: u64 = members.iter().map(|m| u64::from(m.weight / gcd)).sum();
    let scale = rounds.div_ceil(size).max(1);
    table.fill(FREE);
    let mut filled = 0;
    loop {
        for (number, member) in members.iter().enumerate() {
            let turns = (u64::from(member.weight / gcd) / scale).max(u64::from(member.weight > 0));
            let place = &mut next[number];
            for _ in 0..turns {
                while table[place.at as usize] != FREE {
                    place.at = (place.at + place.skip) % size;
                }
                table[place.at as usize] = number as u32;
                filled += 1;
                if filled == table.len() {
                    return true;
                }
            }
        }
    }
}

/// A server's place in its permutation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    at: u64,
    skip: u64,
}

const FREE: u32 = u32::MAX;

/// Greatest common divisor; `gcd(0, n) = n`.
pub fn gcd(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
