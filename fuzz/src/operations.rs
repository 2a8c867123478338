//! Sequences of what clients, real servers, an operator and the daemon do, held against the model of the property tests.

use crate::Reader;
use crate::simulation::{Op, Setup, Simulation};
use marca_config::model::{OnFailure, Scheduler};

/// Longer ones find nothing that several short ones don't.
const MOST: usize = 500;

/// A setup of eight bytes, then operations of eight bytes each.
pub fn operations(data: &[u8]) {
    let mut reader = Reader(data);
    let [scheduler, persist, bits, start, more, ..] = reader.array::<8>();
    let stateless = bits & 1 != 0;
    let known = if stateless { TABLES } else { &Scheduler::ALL };
    let setup = Setup {
        scheduler: known[usize::from(scheduler) % known.len()],
        persist: [None, Some(20), Some(100), Some(1000)][usize::from(persist % 4)],
        nets: bits & 2 != 0,
        stateless,
        direct_routing: bits & 4 != 0,
        ranges: bits & 8 != 0,
        on_failure: [OnFailure::Reset, OnFailure::Drop, OnFailure::Keep][usize::from(bits >> 4) % 3],
        per_port: more & 1 != 0 && !stateless,
        // Sometimes shortly before the clock wraps.
        start: if start & 1 == 0 { 1000 } else { u32::MAX - u32::from(start) * 20 },
    };
    let mut simulation = Simulation::new(setup);
    for _ in 0..MOST {
        if reader.is_empty() {
            break;
        }
        simulation.run(Op::of(u64::from_le_bytes(reader.array())));
    }
    simulation.check_loads();
}

/// What stateless UDP needs.
const TABLES: &[Scheduler] = &[Scheduler::Sh, Scheduler::Maglev];
