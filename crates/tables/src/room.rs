//! Where in a table there is room for what a service needs.

use crate::memory::Memory;
use marca_engine::layout::Address;
use std::collections::BTreeMap;

/// Pieces of a table that are in use, and the first gap that is large enough. What was in force until now is taken last:
/// a packet on another processor may still be reading it.
#[derive(Default)]
pub(crate) struct Spans {
    used: BTreeMap<u32, u32>,
    freed: Vec<u32>,
    /// Nothing smaller than this is free below.
    hint: u32,
}

impl Spans {
    pub fn take(&mut self, start: u32, len: u32) {
        if len != 0 {
            self.used.insert(start, len);
        }
    }

    pub fn free(&mut self, start: u32, len: u32) {
        if len != 0 && self.used.get(&start) == Some(&len) {
            self.freed.push(start);
        }
    }

    pub fn find(&mut self, len: u32, capacity: u32) -> Option<u32> {
        if len == 0 {
            return Some(0);
        }
        let start = match self.gap(self.hint, len, capacity).or_else(|| self.gap(0, len, capacity)) {
            Some(start) => start,
            None => {
                self.freed.drain(..).for_each(|start| _ = self.used.remove(&start));
                self.gap(0, len, capacity)?
            }
        };
        self.used.insert(start, len);
        self.hint = start + len;
        Some(start)
    }

    fn gap(&self, from: u32, len: u32, capacity: u32) -> Option<u32> {
        let before = self.used.range(..from).next_back().map_or(0, |(s, l)| s + l);
        let mut start = from.max(before);
        for (&at, &used) in self.used.range(start..) {
            if at - start >= len {
                return Some(start);
            }
            start = at + used;
        }
        (capacity.checked_sub(start)? >= len).then_some(start)
    }
}

/// Fullnat's addresses. Records name them by number, so an address keeps its number as long as the tables are there, and
/// services with the same addresses share them.
#[derive(Default)]
pub(crate) struct Sources {
    known: Option<Vec<Address>>,
    pub new: Vec<(u32, Address)>,
}

impl Sources {
    /// The number of the first of these addresses, which follow each other; `None`: there is no room.
    pub fn number(&mut self, memory: &Memory, wanted: &[Address]) -> Option<u32> {
        let known = self.known.get_or_insert_with(|| {
            let all = (0..memory.sources.len()).filter_map(|number| memory.sources.get(number));
            all.take_while(|address| *address != Address::default()).collect()
        });
        if let Some(first) = known.windows(wanted.len().max(1)).position(|window| window == wanted) {
            return Some(first as u32);
        }
        let first = known.len() as u32;
        if first + wanted.len() as u32 > memory.sources.len() {
            return None;
        }
        known.extend(wanted);
        self.new.extend((first..).zip(wanted.iter().copied()));
        Some(first)
    }
}
