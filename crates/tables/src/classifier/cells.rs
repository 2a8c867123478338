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

    /// As [`AddressCell::reach`], if the place knows it.
    fn reach(&self) -> u32 {
        limits::PROBES
    }

    fn set_reach(&mut self, _: u32) {}
}

impl Keyed for AddressCell {
    fn hash(&self, seed: u64) -> u32 {
        hash::own_address(seed, &self.address)
    }

    fn is_free(&self) -> bool {
        self.family == 0
    }

    fn is_of(&self, other: &Self) -> bool {
        (self.family, self.address) == (other.family, other.address)
    }

    fn reach(&self) -> u32 {
        u32::from(self.reach)
    }

    fn set_reach(&mut self, reach: u32) {
        self.reach = reach as u8;
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
            Some(at) => self.set(at, cell),
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
                self.extend_reach(&cell, distance);
                return self.set(at, cell);
            }
            let residents = self.distance(&resident, at);
            if residents < distance {
                self.extend_reach(&cell, distance);
                self.set(at, cell);
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
                    self.set(at, resident);
                    at = next;
                }
                _ => break,
            }
        }
        self.set(at, T::default());
    }

    fn find(&self, key: &T) -> Option<u32> {
        let home = key.hash(self.seed);
        let reach = self.table.get(self.index(home & self.mask))?.reach();
        for distance in 0..reach.min(limits::PROBES) {
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

    /// Writes a cell; the place keeps its reach.
    fn set(&self, at: u32, mut cell: T) -> bool {
        let Some(before) = self.table.get(self.index(at)) else { return false };
        cell.set_reach(before.reach());
        self.table.set(self.index(at), &cell)
    }

    /// Who looks for this cell from its home on shall come as far as this. Nobody takes that back but [`Cells::clear`].
    fn extend_reach(&self, cell: &T, distance: u32) {
        let home = self.index(cell.hash(self.seed) & self.mask);
        if let Some(mut resident) = self.table.get(home)
            && resident.reach() <= distance
        {
            resident.set_reach(distance + 1);
            self.table.set(home, &resident);
        }
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
    use marca_engine::layout::{Address, Target, V4, V6};
    use std::collections::BTreeMap;

    #[test]
    fn who_has_no_key_at_home_looks_at_one_cell() {
        let table = Region::on_heap(64);
        let cells = Cells { table: &table, half: 0, mask: 63, seed: 7 };
        let cell = |number: u32| AddressCell {
            address: Address::of_last(number),
            destination: number,
            family: V4,
            ..AddressCell::default()
        };
        let home = |number: u32| cell(number).hash(7) & 63;
        assert!((1..=24).all(|number| cells.settle(cell(number))));
        let reach = |at: u32| u32::from(table.get(at).unwrap().reach);
        for at in 0..64 {
            let at_home = (1..=24).filter(|&number| home(number) == at);
            let furthest = at_home.map(|number| cells.find(&cell(number)).unwrap().wrapping_sub(at) & 63).max();
            assert_eq!(reach(at), furthest.map_or(0, |distance| distance + 1), "at {at}");
        }
        // Whoever goes and comes anew, or moves up, is found, and so are all others.
        for gone in 1..=24 {
            cells.take(&cell(gone));
            assert_eq!(cells.find(&cell(gone)), None);
            let others = (1..=24).filter(|&number| number != gone);
            others.for_each(|number| assert!(cells.find(&cell(number)).is_some(), "{number} without {gone}"));
            assert!(cells.put(cell(gone)));
        }
    }

    /// Addresses as people give them out, among four times as many cells.
    #[test]
    fn regular_addresses_find_room_near_their_homes() {
        let v4 = |number: u32| (Address::v4((0x0a00_0000 + number).to_be_bytes()), V4);
        let v6 = |high: u64, low: u64| {
            let words = [0x2001_0db8_0000_0000 + high, low].map(u64::to_be_bytes);
            (Address::v6(words.concat().try_into().unwrap()), V6)
        };
        type Numbered<'a> = &'a dyn Fn(u32) -> (Address, u8);
        let kinds: [(&str, Numbered); 9] = [
            ("one after the other", &v4),
            ("every fourth", &|n| v4(4 * n)),
            ("ten in each network of 16", &|n| v4(16 * (n / 10) + n % 10)),
            ("one in each network of 256", &|n| v4(256 * n + 10)),
            ("ten in each network of 256", &|n| v4(256 * (n / 10) + 10 + n % 10)),
            ("one in each network of 65,536, of 256", &|n| v4((n % 256) << 16 | (n / 256) << 8 | 1)),
            ("IPv6, one after the other", &|n| v6(0, n.into())),
            ("IPv6, one in each network", &|n| v6(n.into(), 1)),
            ("IPv6, by MAC addresses", &|n| v6(u64::from(n / 16), 0x5054_00ff_fe00_0000 + u64::from(n) * 4)),
        ];
        for (kind, address) in kinds {
            for (count, seed) in [(16u32, 1), (250, 2), (2_500, 3), (65_536, 0x1234_5678_9abc_def0)] {
                let mask = (4 * count).next_power_of_two() - 1;
                let table = Region::on_heap(mask + 1);
                let cells = Cells { table: &table, half: 0, mask, seed };
                for number in 0..count {
                    let (address, family) = address(number);
                    let cell = AddressCell { address, destination: number + 1, family, ..AddressCell::default() };
                    assert!(cells.settle(cell), "{kind}: {number} of {count}, seed {seed}");
                }
            }
        }
    }

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
