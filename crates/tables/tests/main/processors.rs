//! Packets on several processors, while the daemon sweeps and changes the pool.

use crate::configuration::{addresses, config, ip, persist, server, service, tcp, unlimited};
use crate::director::{CLOCK, Director, SMALL, Seen};
use crate::packet::{Segment, Way};
use marca_config::model::{Config, Scheduler};
use marca_config::plan::Plan;
use marca_engine::{Action, process};
use marca_tables::sweep::Sweep;
use marca_tables::{Capacity, Frame, Memory, View, services};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

const CAPACITY: Capacity = Capacity { flows: 1 << 14, ..SMALL };
const NOW: u32 = 1000;

fn pool(scheduler: Scheduler, round: u32) -> Config {
    let mut shop = service("shop", &["192.0.2.10"], &[tcp(80)]);
    shop.scheduler = scheduler;
    shop.persistence = persist(300).filter(|_| scheduler == Scheduler::Wlc);
    shop.servers = (0..6).map(|number| server(number, ((round >> number) & 1) as u16)).collect();
    shop.servers[5].weight = 1;
    config([shop])
}

fn send(memory: &Memory, way: &Way, segment: Segment) -> Seen {
    let mut frame = Frame::new(way.frame(segment), 1);
    let outcome = process(&mut frame, &mut View::new(memory, NOW));
    match outcome.reason.action() {
        Action::Send => Seen::Server(Way::of(&frame.bytes).to.0, Way::of(&frame.bytes).to.1),
        _ => Seen::Not(outcome.reason),
    }
}

/// Clients of one processor: they open, send and close.
fn clients(memory: &Memory, processor: u8, rounds: u32) {
    let mut live: Vec<(Way, Seen)> = Vec::new();
    for round in 0..rounds {
        let client: IpAddr = Ipv4Addr::new(198, 51 + processor, (round >> 8) as u8, round as u8).into();
        let way = Way { protocol: 6, from: (client, 1024 + (round >> 16) as u16), to: (ip("192.0.2.10"), 80) };
        let went = send(memory, &way, Segment::Syn);
        assert!(matches!(went, Seen::Server(address, 80) if (0..6).any(|n| addresses(n)[0] == address)), "{went:?}");
        assert_eq!(send(memory, &way, Segment::Data), went, "round {round}");
        live.push((way, went));
        for step in 0..4 {
            let (way, went) = live[(round as usize * 31 + step * 17) % live.len()];
            assert_eq!(send(memory, &way, Segment::Data), went, "{way:?} in round {round}");
        }
        if live.len() > 300 {
            let (way, went) = live.swap_remove(round as usize % live.len());
            assert_eq!(send(memory, &way, Segment::Reset), went, "{way:?} in round {round}");
        }
    }
}

#[test]
fn connections_stay_where_they_began_on_several_processors() {
    for scheduler in unlimited() {
        let mut director = Director::with(CAPACITY, &pool(scheduler, 63));
        director.now = NOW;
        let done = AtomicBool::new(false);
        let (memory, ids) = (&director.memory, &director.ids);
        std::thread::scope(|scope| {
            let daemon = scope.spawn(|| {
                let mut sweep = Sweep::new(1);
                let mut round = 0;
                while !done.load(Relaxed) {
                    round += 1;
                    services::write(memory, &Plan::of(&pool(scheduler, round)).unwrap(), ids, CLOCK).unwrap();
                    (0..3).for_each(|_| _ = sweep.step(memory, NOW, 6000));
                    // Reset connections are swept by and by.
                    (0..3).for_each(|_| _ = sweep.step(memory, NOW + 2, 6000));
                }
                round
            });
            let processors: Vec<_> =
                (0..3).map(|processor| scope.spawn(move || clients(memory, processor, 12_000))).collect();
            let outcomes: Vec<_> = processors.into_iter().map(|processor| processor.join()).collect();
            done.store(true, Relaxed);
            assert!(daemon.join().unwrap() > 10, "the pool has changed meanwhile");
            assert!(outcomes.iter().all(|outcome| outcome.is_ok()), "{}", scheduler.name());
        });
        director.check_loads();
    }
}
