//! The flow property: a packet of a live connection goes where the connection began, whatever happens to the pool, the
//! scheduler and the daemon meanwhile. What is live, and what happens, is in `simulation`.

use crate::simulation::{Op, Setup, Simulation};
use marca_config::model::{OnFailure, Scheduler};
use proptest::prelude::*;

fn setups() -> impl Strategy<Value = Setup> {
    let scheduler = proptest::sample::select(Scheduler::ALL.to_vec());
    let persist = proptest::option::of(prop_oneof![Just(8), Just(40), Just(200)]);
    let start = prop_oneof![Just(1000), any::<u32>(), (0u32..4000).prop_map(|back| u32::MAX - back)];
    let policy = proptest::sample::select(vec![OnFailure::Reset, OnFailure::Drop, OnFailure::Keep]);
    (scheduler, persist, any::<[bool; 5]>(), policy, start).prop_map(
        |(scheduler, persist, flags, on_failure, start)| {
            let [nets, stateless, direct_routing, ranges, per_port] = flags;
            let stateless = stateless && matches!(scheduler, Scheduler::Sh | Scheduler::Maglev);
            let per_port = per_port && !stateless;
            Setup { scheduler, persist, nets, stateless, direct_routing, ranges, on_failure, per_port, start }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, max_shrink_iters: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_packet_of_a_live_connection_goes_where_the_connection_began(
        setup in setups(),
        ops in proptest::collection::vec(any::<u64>().prop_map(Op::of), 1..400),
    ) {
        let _named = Named(format!("{setup:?}, {ops:?}"));
        let mut simulation = Simulation::new(setup);
        for op in ops {
            simulation.run(op);
            simulation.check_loads();
        }
    }
}

/// Found by the property, which once took such an association for closed.
#[test]
fn an_association_that_has_not_begun_outlives_its_clients_shutdown() {
    let mut simulation = Simulation::new(Setup {
        scheduler: Scheduler::Rr,
        persist: None,
        nets: false,
        stateless: false,
        direct_routing: false,
        ranges: false,
        on_failure: OnFailure::Reset,
        per_port: false,
        start: 1000,
    });
    let shutdown = Op::Close { flow: 0, from_server: false, reset: false };
    simulation.run(Op::Open { port: 4, client: 2, v6: true, finish: false, slow: false });
    simulation.run(shutdown);
    // Nothing is closed, hence nothing opened anew; the handshake goes on where it began, though the server is taken away.
    simulation.run(Op::Toggle(0));
    simulation.run(Op::Reopen(0));
    simulation.run(Op::Finish(0));
    simulation.run(shutdown);
    simulation.run(Op::Reopen(0));
    // Both SHUTDOWNs, the COOKIE ECHO, and the handshake of the association behind them.
    assert_eq!(simulation.judged, 5);
}

/// `splitmix64` (Steele, Lea and Flood 2014): a run is its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Operations of all long runs together.
const OPERATIONS: u64 = 2_400_000;

fn long_runs(scheduler: Scheduler) {
    const RUNS: u64 = 20;
    for run in 0..RUNS {
        let flag = |bit: u64| run >> bit & 1 != 0;
        let table = matches!(scheduler, Scheduler::Sh | Scheduler::Maglev);
        let setup = Setup {
            scheduler,
            persist: [None, Some(8), None, Some(200), Some(40)][run as usize % 5],
            nets: flag(1),
            stateless: flag(0) && table,
            direct_routing: run % 4 == 3,
            ranges: flag(2),
            on_failure: [OnFailure::Reset, OnFailure::Drop, OnFailure::Keep][run as usize % 3],
            per_port: flag(3) && !(flag(0) && table),
            start: if run % 3 == 0 { u32::MAX - 10_000 } else { (run as u32).wrapping_mul(0x1234_5678) },
        };
        let seed = 0x6d61_7263_6100 + run;
        let mut random = Random(seed);
        let mut simulation = Simulation::new(setup);
        let operations = OPERATIONS / RUNS / Scheduler::ALL.len() as u64;
        let named = Named(format!("seed {seed:#x} with {setup:?}"));
        for step in 0..operations {
            simulation.run(Op::of(random.next()));
            if step % 64 == 0 {
                simulation.check_loads();
            }
        }
        drop(named);
        assert!(simulation.judged > operations / 3, "{} of {operations} packets judged", simulation.judged);
    }
}

/// Says which run it was when one fails.
struct Named(String);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

#[test]
fn connections_of_a_long_run_stay_where_they_began_under_rr() {
    long_runs(Scheduler::Rr);
}

#[test]
fn connections_of_a_long_run_stay_where_they_began_under_wrr() {
    long_runs(Scheduler::Wrr);
}

#[test]
fn connections_of_a_long_run_stay_where_they_began_under_lc() {
    long_runs(Scheduler::Lc);
}

#[test]
fn connections_of_a_long_run_stay_where_they_began_under_wlc() {
    long_runs(Scheduler::Wlc);
}

#[test]
fn connections_of_a_long_run_stay_where_they_began_under_sh() {
    long_runs(Scheduler::Sh);
}

#[test]
fn connections_of_a_long_run_stay_where_they_began_under_maglev() {
    long_runs(Scheduler::Maglev);
}
