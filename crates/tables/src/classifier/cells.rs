//! Open addressing in one half of a table. Who is further from home takes the place (Celis, "Robin Hood Hashing", 1986):
//! among a million cells a quarter full, the greatest distance is then 5 or 6 and not 9 to 14, and a packet looks at
//! [`limits::PROBES`] cells.

use crate::region::Region;
use marca_engine::hash;
use marca_engine::layout::{AddressCell, PortCell, limits};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A cell that is found by a hash of its key.
pub(super) trait Keyed: FromBytes + IntoBytes + Immutable + Default {
    fn hash(&self, seed: u64) -> u32;
    fn is_free(&self) -> bool;
    fn is_of(&self, other: &Self) -> bool;
}

impl Keyed for AddressCell {
    fn hash(&self, seed: u64) -> u32 {
        hash::own_address(seed, &self.address, self.family)
    }

    fn is_free(&self) -> bool {
        self.family == 0
    }

    fn is_of(&self, other: &Self) -> bool {
        (self.family, self.address) == (other.family, other.address)
    }
}

impl Keyed for PortCell {
    fn hash(&self, seed: u64) -> u32 {
        hash::word(seed, self.key) as u32
    }

    fn is_free(&self) -> bool {
        self.key == 0
    }

    fn is_of(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

/// A half of a table.
#[derive(Clone, Copy)]
pub(super) struct Cells<'m, T> {
    pub table: &'m Region<T>,
    pub half: u32,
    /// Its length, less one.
    pub mask: u32,
    pub seed: u64,
}

impl<T: Keyed> Cells<'_, T> {
    pub fn clear(&self) {
        self.table.clear(self.index(0)..self.index(self.mask) + 1);
    }

    /// Puts the cell in, in the place of the one with its key; false when somebody would be too far from home. Then
    /// somebody else may be missing.
    pub fn put(&self, cell: T) -> bool {
        match self.find(&cell) {
            Some(at) => self.table.set(self.index(at), &cell),
            None => self.settle(cell),
        }
    }

    /// The same for a key that is not there.
    pub fn settle(&self, mut cell: T) -> bool {
        let mut at = cell.hash(self.seed) & self.mask;
        let mut distance = 0;
        while distance < limits::PROBES {
            let Some(resident) = self.table.get(self.index(at)) else { return false };
            if resident.is_free() {
                return self.table.set(self.index(at), &cell);
            }
            let residents = self.distance(&resident, at);
            if residents < distance {
                self.table.set(self.index(at), &cell);
                (cell, distance) = (resident, residents);
            }
            at = (at + 1) & self.mask;
            distance += 1;
        }
        false
    }

    /// Takes out the cell with this one's key, if there is one. Those behind it that are not at home come one closer, so
    /// that no gap ends a search too early.
    pub fn take(&self, key: &T) {
        let Some(mut at) = self.find(key) else { return };
        loop {
            let next = (at + 1) & self.mask;
            match self.table.get(self.index(next)) {
                Some(resident) if !resident.is_free() && self.distance(&resident, next) != 0 => {
                    self.table.set(self.index(at), &resident);
                    at = next;
                }
                _ => break,
            }
        }
        self.table.set(self.index(at), &T::default());
    }

    fn find(&self, key: &T) -> Option<u32> {
        let home = key.hash(self.seed);
        for distance in 0..limits::PROBES {
            let at = home.wrapping_add(distance) & self.mask;
            let resident = self.table.get(self.index(at))?;
            if resident.is_free() {
                return None;
            }
            if resident.is_of(key) {
                return Some(at);
            }
        }
        None
    }

    /// How far a cell at this place is from home.
    fn distance(&self, cell: &T, at: u32) -> u32 {
        at.wrapping_sub(cell.hash(self.seed)) & self.mask
    }

    fn index(&self, at: u32) -> u32 {
        self.half * (self.mask + 1) + at
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use marca_engine::layout::Target;
    use std::collections::BTreeMap;

    #[test]
    fn what_was_put_in_and_not_taken_out_is_found_as_it_was_put_in_last() {
        let table = Region::on_heap(128);
        let cells = Cells { table: &table, half: 1, mask: 63, seed: 7 };
        let mut known: BTreeMap<u64, u32> = BTreeMap::new();
        let mut noise = 1u64;
        let mut full = 0;
        for step in 0..20_000u32 {
            // Marsaglia, "Xorshift RNGs", 2003.
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            let key = 1 + noise % 40;
            if noise >> 32 & 1 == 0 && known.len() < 32 {
                if cells.put(PortCell { key, target: Target { owner: step, ..Target::default() } }) {
                    known.insert(key, step);
                } else {
                    // Somebody fell out.
                    full += 1;
                    cells.clear();
                    known.clear();
                }
            } else {
                cells.take(&PortCell { key, ..PortCell::default() });
                known.remove(&key);
            }
            for key in 1..=40 {
                let found = cells.find(&PortCell { key, ..PortCell::default() });
                let owner = found.and_then(|at| table.get(64 + at)).map(|cell| cell.target.owner);
                assert_eq!(owner, known.get(&key).copied(), "key {key} after step {step}");
            }
            assert!((0..64).all(|at| table.get(at) == Some(PortCell::default())), "the other half is not touched");
        }
        assert!(full < 200, "{full} times too far from home");
    }
}
