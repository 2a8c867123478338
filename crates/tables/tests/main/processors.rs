//! Packets on several processors, while the daemon sweeps and changes the pool.

use crate::configuration::{addresses, config, ip, persist, server, service, tcp, unlimited};
use crate::director::{CLOCK, Director, SMALL, Seen};
use crate::packet::{Segment, Way};
use marca_config::model::{Config, Scheduler};
use marca_config::plan::Plan;
use marca_engine::{Reason, process};
use marca_tables::services::Prepared;
use marca_tables::sweep::Sweep;
use marca_tables::{Capacity, Frame, Memory, View};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

const CAPACITY: Capacity = Capacity { flows: 1 << 14, ..SMALL };
const NOW: u32 = 1000;
/// Connections that a processor opens between two changes of the pool, at the most.
const EACH_CHANGE: u16 = 64;

/// Who is sent where, and by what.
#[derive(Clone, Copy)]
struct Case {
    scheduler: Scheduler,
    persistent: bool,
}

impl Case {
    fn pool(self, round: u32) -> Config {
        let mut shop = service("shop", &["192.0.2.10"], &[tcp(80)]);
        shop.scheduler = self.scheduler;
        shop.persistence = persist(300).filter(|_| self.persistent);
        shop.servers = (0..6).map(|number| server(number, ((round >> number) & 1) as u16)).collect();
        shop.servers[5].weight = 1;
        config([shop])
    }
}

/// The processors, each with a count of when it began with a packet and when it was done; and how often the daemon has
/// changed the pool.
#[derive(Default)]
struct Processors {
    packets: [AtomicU64; 3],
    changes: AtomicU64,
}

impl Processors {
    fn packet<R>(&self, number: usize, about: impl FnOnce() -> R) -> R {
        self.packets[number].fetch_add(1, SeqCst);
        let done = about();
        self.packets[number].fetch_add(1, SeqCst);
        done
    }

    /// Waits as the daemon does before it writes where packets may still look. Threads are held up in the midst of a packet
    /// for as long as others like to run, which nothing does to a processor.
    fn settle(&self) {
        for processor in &self.packets {
            let now = processor.load(SeqCst);
            while now % 2 == 1 && processor.load(SeqCst) == now {
                std::thread::yield_now();
            }
        }
    }
}

fn send(memory: &Memory, way: &Way, segment: Segment) -> Seen {
    let mut frame = Frame::new(way.frame(segment), 1);
    let outcome = process(&mut frame, &mut View::new(memory, NOW));
    let Way { to: (address, port), .. } = Way::of(&frame.bytes);
    if outcome.reason == Reason::Nat { Seen::Server(address, port) } else { Seen::Not(outcome.reason) }
}

/// Clients of one processor, each with four connections: they open, send and close.
fn clients(memory: &Memory, processors: &Processors, number: u8, rounds: u16) {
    let send = |way: &Way, segment| processors.packet(number.into(), || send(memory, way, segment));
    let mut live: Vec<(Way, Seen)> = Vec::new();
    for round in 0..rounds {
        // Else they would be done before the daemon has begun.
        while round % EACH_CHANGE == 0 && processors.changes.load(Relaxed) < u64::from(round / EACH_CHANGE) {
            std::thread::yield_now();
        }
        let [high, low] = (round / 4).to_be_bytes();
        let client: IpAddr = Ipv4Addr::new(198, 51 + number, high, low).into();
        let way = Way { protocol: 6, from: (client, 1024 + round), to: (ip("192.0.2.10"), 80) };
        let went = send(&way, Segment::Syn);
        assert!(matches!(went, Seen::Server(address, 80) if (0..6).any(|n| addresses(n)[0] == address)), "{went:?}");
        assert_eq!(send(&way, Segment::Data), went, "round {round}");
        live.push((way, went));
        for step in 0..4 {
            let (way, went) = live[(usize::from(round) * 31 + step * 17) % live.len()];
            assert_eq!(send(&way, Segment::Data), went, "{way:?} in round {round}");
        }
        if live.len() > 300 {
            let (way, went) = live.swap_remove(usize::from(round) % live.len());
            assert_eq!(send(&way, Segment::Reset), went, "{way:?} in round {round}");
        }
    }
}

fn stay_where_they_began(case: Case) {
    let mut director = Director::with(CAPACITY, &case.pool(63));
    director.now = NOW;
    let done = AtomicBool::new(false);
    let processors = Processors::default();
    let (memory, ids, processors) = (&director.memory, &director.ids, &processors);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut sweep = Sweep::new(1);
            while !done.load(Relaxed) {
                let round = processors.changes.fetch_add(1, Relaxed) as u32 + 1;
                processors.settle();
                let plan = Plan::of(&case.pool(round)).unwrap();
                let prepared = Prepared::new(memory, &plan, None, ids, CLOCK).unwrap();
                prepared.write_reals(memory);
                let left = prepared.switch(memory);
                processors.settle();
                left.follow(memory);
                // Reset connections are swept by and by. A pass takes seconds, and so longer than any packet.
                for now in [NOW, NOW + 2] {
                    processors.settle();
                    (0..3).for_each(|_| _ = sweep.step(memory, now, 6000));
                }
            }
        });
        let threads: Vec<_> =
            (0..3).map(|number| scope.spawn(move || clients(memory, processors, number, 12_000))).collect();
        let outcomes: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        done.store(true, Relaxed);
        assert!(outcomes.iter().all(|outcome| outcome.is_ok()), "{}", case.scheduler.name());
    });
    director.check_loads();
}

#[test]
fn connections_stay_where_they_began_on_several_processors() {
    for scheduler in unlimited() {
        stay_where_they_began(Case { scheduler, persistent: scheduler == Scheduler::Wlc });
    }
}

#[test]
fn connections_that_follow_their_client_and_no_table_stay_where_they_began() {
    for scheduler in [Scheduler::Maglev, Scheduler::Sh] {
        stay_where_they_began(Case { scheduler, persistent: true });
    }
}
