//! Slots of table schedulers: which real server each has, and what they are told when a service's table takes another place.

use crate::classifier::address;
use crate::memory::Memory;
use marca_config::model::{Scheduler as Name, SchedulerFlags};
use marca_config::plan::{RealPlan, ServicePlan};
use marca_engine::hash;
use marca_engine::layout::{Address, NO_REAL, Service, service_flags, slot_bits};
use marca_engine::schedule::{Scheduler, destination_hash, maglev, source_hash};

/// Slots whose real server changes ask records from now on; what asked them before goes on asking.
pub(crate) fn write(memory: &Memory, table: &[u32], old: &Service, new: &Service) {
    for (number, &real) in (0..).zip(table) {
        let mut bits = 0;
        if same_mapping(old, new) {
            let before = memory.slots.at(old.slots + number).map_or(0, |slot| slot.get());
            bits = before & (slot_bits::RECORD | slot_bits::FRESH);
            if before as u32 != real {
                bits |= slot_bits::CONSULT | slot_bits::FRESH;
            }
        } else if *old != Service::default() {
            // Clients have other slots now, or had none; records are where they were.
            bits = slot_bits::CONSULT | slot_bits::FRESH;
        }
        if let Some(slot) = memory.slots.at(new.slots + number) {
            slot.set(u64::from(real) | bits);
        }
    }
}

/// Whether every client that has a slot has the one of the same number in both.
pub(crate) fn same_mapping(old: &Service, new: &Service) -> bool {
    let flags = service_flags::TABLE | service_flags::HASH_PORT | service_flags::RECORDED;
    old.slots_len == new.slots_len
        && old.scheduler == new.scheduler
        && old.mask == new.mask
        && old.flags & flags == new.flags & flags
}

/// Which real server each slot has; empty for services without a table.
pub(crate) fn table(plan: &ServicePlan, reals: &[u32], shares: &[u32], old: &Service) -> Vec<u32> {
    let weights: Vec<u32> = plan.reals.iter().map(|r| u32::from(r.weight)).collect();
    let SchedulerFlags { fallback, .. } = plan.scheduler_flags;
    let mut table;
    match plan.scheduler {
        Name::Maglev => {
            let size = maglev::table_size(reals.len());
            // A table that is large enough stays as large as it is: another size would move every client's slot.
            let kept = old.scheduler == Scheduler::Maglev as u8 && old.slots_len >= size && old.slots_len <= size * 8;
            let size = if kept { old.slots_len } else { size };
            table = vec![0; size as usize];
            let shares = if fallback { &weights } else { shares };
            let members: Vec<maglev::Member> = plan.reals.iter().zip(shares).map(|(r, &w)| member(r, w)).collect();
            if !maglev::fill(&members, &mut table, &mut vec![maglev::Place::default(); members.len()]) {
                return vec![NO_REAL; table.len()];
            }
        }
        Name::Sh => {
            table = vec![0; 1 << source_hash::table_bits(&weights)];
            if reals.is_empty() {
                return vec![NO_REAL; table.len()];
            }
            source_hash::fill(&weights, &mut table);
        }
        Name::Dh => {
            table = vec![0; 1 << destination_hash::table_bits(reals.len())];
            if reals.is_empty() {
                return vec![NO_REAL; table.len()];
            }
            destination_hash::fill(reals.len(), &mut table);
        }
        _ => return Vec::new(),
    }
    if fallback && plan.scheduler != Name::Maglev {
        source_hash::fall_back(&weights, &mut table);
    }
    let takes = |server: &u32| if weights[*server as usize] > 0 { reals[*server as usize] } else { NO_REAL };
    table.iter().map(takes).collect()
}

/// The hashes are of what names a real server for all directors alike, and unseeded, so that two directors make the
/// same table.
fn member(real: &RealPlan, weight: u32) -> maglev::Member {
    let (family, address) = real.address.map_or((0, Address::default()), address);
    let hash = hash::address(0, &address, u64::from(family));
    maglev::Member { offset: hash as u32, skip: (hash >> 32) as u32, weight }
}

/// Places that services have left. Packets that were on their way have told slots there to ask records, perhaps when
/// they had been copied already.
#[derive(Debug, Default)]
#[must_use = "slots that have moved are told what their former selves were"]
pub struct Left(Vec<Moved>);

/// Slots, where they were and where they are.
#[derive(Debug)]
struct Moved {
    from: u32,
    to: u32,
    len: u32,
}

impl Left {
    /// A service that was `old` is `new`.
    pub(crate) fn add(&mut self, old: &Service, new: &Service) {
        if same_mapping(old, new) {
            self.0.push(Moved { from: old.slots, to: new.slots, len: new.slots_len });
        }
    }

    /// Has slots do what their former selves were told. To be called when all packets are gone that were on their way
    /// before the switch, and in the same pass of the sweep: so long the watch filter has the packets of new connections
    /// ask their records.
    pub fn follow(self, memory: &Memory) {
        let mut any = false;
        for Moved { from, to, len } in self.0 {
            for number in 0..len {
                let (Some(old), Some(new)) = (memory.slots.at(from + number), memory.slots.at(to + number)) else {
                    break;
                };
                let told = old.get() & (slot_bits::CONSULT | slot_bits::FRESH);
                if new.get() & told != told {
                    new.or(told);
                    any = true;
                }
            }
        }
        if any {
            memory.outdate_shortcuts();
        }
    }
}
