//! `maglev`, in IPVS `mh`: Maglev consistent hashing, weighted (Eisenbud et al., "Maglev: A Fast and Reliable Software
//! Network Load Balancer", NSDI 2016, §3.4; weights by turns).

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
    /// Two independent hashes of the server's name, so that two directors with the same servers in the same order make
    /// the same table.
    pub offset: u32,
    pub skip: u32,
    pub weight: u32,
}

/// Fills `table` (a prime long) with indices into `members`; `next` is scratch as long as `members`. False, and nothing
/// written, when every weight is 0.
///
/// In each round those of the greatest weight take a turn, the others in as many rounds as their weight is to the
/// greatest; everybody begins with one. `ip_vs_mh.c` gives each server all turns of its weight in a row: where a round
/// has more turns than fit twice into the table, its last servers get half of their share.
pub fn fill(members: &[Member], table: &mut [u32], next: &mut [Place]) -> bool {
    let greatest = members.iter().map(|m| u64::from(m.weight)).max().unwrap_or(0);
    if greatest == 0 {
        return false;
    }
    let size = table.len() as u64;
    for (place, member) in next.iter_mut().zip(members) {
        let at = u64::from(member.offset) % size;
        let skip = u64::from(member.skip) % (size - 1) + 1;
        let due = if member.weight > 0 { 0 } else { u64::MAX };
        *place = Place { at, skip, turns: 0, due };
    }
    table.fill(FREE);
    let mut filled = 0;
    let mut round = 0;
    loop {
        for (number, place) in next.iter_mut().enumerate().take(members.len()) {
            if round < place.due {
                continue;
            }
            while table[place.at as usize] != FREE {
                place.at = (place.at + place.skip) % size;
            }
            table[place.at as usize] = number as u32;
            place.turns += 1;
            place.due = (place.turns * greatest).div_ceil(u64::from(members[number].weight));
            filled += 1;
            if filled == table.len() {
                return true;
            }
        }
        round += 1;
    }
}

/// A server's place in its permutation, and when it goes on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    at: u64,
    skip: u64,
    turns: u64,
    /// Round of its next turn.
    due: u64,
}

const FREE: u32 = u32::MAX;

/// Greatest common divisor; `gcd(0, n) = n`.
pub fn gcd(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
