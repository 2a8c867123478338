//! As `schedulers`: the schedulers that weigh all real servers or remember destinations, table schedulers with their
//! flags, and thresholds with all of them.

use crate::configuration::{addresses, config, ip, persist};
use crate::director::{Director, SECOND, SMALL, Seen};
use crate::packet::{Segment, Way};
use crate::schedulers::{Interleaved, Pool, RoundRobin, SourceHash, client, least, shop, weights};
use marca_config::model::{Scheduler, SchedulerFlags, Udp};
use marca_config::plan::Family;
use marca_engine::Reason;
use marca_engine::layout::{Address, V4};
use marca_engine::schedule::{threshold, two_choices};
use marca_engine::tables::{CellTable, Tables};
use marca_engine::{hash, schedule};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

/// Active and inactive connections.
type Loads = Vec<(u64, u64)>;

/// Idle ones among them, and some that are as loaded as others.
fn loads() -> impl Strategy<Value = Loads> {
    vec(
        prop_oneof![3 => (0u64..4, 0u64..600), 1 => (0u64..70_000, 0u64..70_000), 1 => (0u64..1 << 29, 0u64..1 << 29)],
        30,
    )
}

/// A pool in which every real server has a threshold, those in `full` one that it has reached.
fn bounded(scheduler: Scheduler, weights: &[u16], loads: &Loads, full: &[bool]) -> Pool {
    let mut shop = shop(scheduler, weights);
    shop.servers.iter_mut().for_each(|server| server.upper = threshold::MAX);
    let pool = Pool::with(shop);
    for number in 0..weights.len() {
        pool.set_load(number, loads[number].0, loads[number].1);
        pool.set_overloaded(number, full[number]);
    }
    pool
}

/// Whether `IP_VS_DEST_F_OVERLOAD` is set: a threshold of 1 is not reached by nothing.
fn is_full(full: &[bool], loads: &Loads) -> impl Fn(usize) -> bool {
    let full: Vec<bool> = full.iter().zip(loads).map(|(&full, load)| full && load.0 + load.1 > 0).collect();
    move |i| full[i]
}

/// `ip_vs_sed.c`
fn sed(weights: &[u16], loads: &Loads, full: impl Fn(usize) -> bool) -> Option<usize> {
    let cost = |i: usize| u128::from(loads[i].0) + 1;
    let fewer = |best: usize, i: usize| cost(best) * u128::from(weights[i]) > cost(i) * u128::from(weights[best]);
    (0..weights.len()).filter(|&i| weights[i] > 0 && !full(i)).reduce(|best, i| if fewer(best, i) { i } else { best })
}

/// `ip_vs_nq.c`
fn nq(weights: &[u16], loads: &Loads, full: impl Fn(usize) -> bool) -> Option<usize> {
    let idle = (0..weights.len()).find(|&i| weights[i] > 0 && !full(i) && loads[i].0 == 0);
    idle.or_else(|| sed(weights, loads, full))
}

/// `ip_vs_fo.c`
fn fo(weights: &[u16], full: impl Fn(usize) -> bool) -> Option<usize> {
    let (mut chosen, mut greatest) = (None, 0);
    for (i, &weight) in weights.iter().enumerate() {
        if !full(i) && weight > greatest {
            (chosen, greatest) = (Some(i), weight);
        }
    }
    chosen
}

/// `ip_vs_ovf.c`: a real server is left out when `activeconns > weight`.
fn ovf(weights: &[u16], loads: &Loads, full: impl Fn(usize) -> bool) -> Option<usize> {
    fo(weights, |i| full(i) || loads[i].0 > u64::from(weights[i]))
}

/// `ip_vs_twos.c`, with these random numbers.
fn twos(
    weights: &[u16],
    loads: &Loads,
    full: impl Fn(usize) -> bool,
    random: impl Fn(u32) -> [u32; 2],
) -> Option<usize> {
    let overhead = |i: usize| u128::from(loads[i].0) * 256 + u128::from(loads[i].1);
    let there: Vec<usize> = (0..weights.len()).filter(|&i| weights[i] > 0 && !full(i)).collect();
    let total: i64 = there.iter().map(|&i| i64::from(weights[i])).sum();
    if total == 0 {
        return None;
    }
    let falls_on = |random: u32| {
        let mut left = i64::from(random);
        there.iter().copied().find(|&i| {
            left -= i64::from(weights[i]);
            left <= 0
        })
    };
    let [one, two] = random(total as u32 + 1).map(|random| falls_on(random).unwrap());
    let better = u128::from(weights[two]) * overhead(one) > u128::from(weights[one]) * overhead(two);
    Some(if better { two } else { one })
}

/// `ip_vs_wlc.c` with thresholds.
fn wlc(weights: &[u16], loads: &Loads, full: impl Fn(usize) -> bool) -> Option<usize> {
    let open: Vec<u16> = weights.iter().enumerate().map(|(i, &w)| if full(i) { 0 } else { w }).collect();
    least(&open, loads, true)
}

/// `ip_vs_lblc.c` and `ip_vs_lblcr.c`, the pseudo code at their heads, where "conns" are the active connections and
/// "alive" is of some weight and below the upper threshold.
struct Locality {
    replicates: bool,
    expiration: u32,
    /// The set in the order of the configuration, and the tick of its last change.
    sets: BTreeMap<Ipv4Addr, (Vec<usize>, u32)>,
}

impl Locality {
    fn pick(
        &mut self,
        weights: &[u16],
        loads: &Loads,
        full: impl Fn(usize) -> bool,
        destination: Ipv4Addr,
        now: u32,
    ) -> Option<usize> {
        let weight = |i: usize| u128::from(weights[i]);
        let overhead = |i: usize| u128::from(loads[i].0) * 256 + u128::from(loads[i].1);
        let heavier = |a: usize, b: usize| overhead(a) * weight(b) > overhead(b) * weight(a);
        let anybody = wlc(weights, loads, &full);
        let Some((set, modified)) = self.sets.get_mut(&destination) else {
            self.sets.insert(destination, (vec![anybody?], now));
            return anybody;
        };
        let alive = set.iter().copied().filter(|&i| weights[i] > 0 && !full(i));
        let member = alive.reduce(|best, i| if heavier(best, i) { i } else { best });
        let good = member.filter(|&n| {
            let slack = (0..weights.len()).any(|m| loads[m].0 * 2 < u64::from(weights[m]));
            loads[n].0 <= u64::from(weights[n]) || !slack
        });
        if good.is_none() {
            anybody?;
        }
        let most = set.iter().copied().filter(|&i| weights[i] > 0);
        let most = most.reduce(|worst, i| if heavier(i, worst) { i } else { worst });
        let mut changed = false;
        if self.replicates && set.len() > 1 && now - *modified > self.expiration {
            set.retain(|i| Some(*i) != most);
            changed = most.is_some();
        }
        let chosen = good.or(anybody);
        if good.is_none() {
            let new = anybody.unwrap();
            if !self.replicates {
                *set = vec![new];
            } else if !set.contains(&new) {
                if set.len() == 6 {
                    set.retain(|i| Some(*i) != most);
                }
                set.push(new);
                set.sort_unstable();
                changed = true;
            }
        }
        if changed {
            *modified = now;
        }
        chosen
    }
}

fn by_flag() -> impl Strategy<Value = Vec<bool>> {
    prop_oneof![2 => Just(vec![false; 30]), 3 => vec(proptest::bool::weighted(0.3), 30)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn who_weighs_all_servers_does_as_the_kernel_does(
        weights in weights(), loads in loads(), full in by_flag(), opened in 0usize..40,
    ) {
        for scheduler in [
            Scheduler::Lc, Scheduler::Wlc, Scheduler::Sed, Scheduler::Nq, Scheduler::Fo, Scheduler::Ovf,
        ] {
            let mut loads = loads.clone();
            let pool = bounded(scheduler, &weights, &loads, &full);
            for _ in 0..opened {
                let open: Vec<u16> =
                    (0..weights.len()).map(|i| if is_full(&full, &loads)(i) { 0 } else { weights[i] }).collect();
                let expected = match scheduler {
                    Scheduler::Lc => least(&open, &loads, false),
                    Scheduler::Wlc => least(&open, &loads, true),
                    Scheduler::Sed => sed(&weights, &loads, is_full(&full, &loads)),
                    Scheduler::Nq => nq(&weights, &loads, is_full(&full, &loads)),
                    Scheduler::Fo => fo(&weights, is_full(&full, &loads)),
                    _ => ovf(&weights, &loads, is_full(&full, &loads)),
                };
                let picked = pool.pick(Ipv4Addr::LOCALHOST, 1);
                prop_assert_eq!(picked, expected, "{}", scheduler.name());
                let Some(number) = picked else { break };
                loads[number].0 += 1;
                pool.set_load(number, loads[number].0, loads[number].1);
                pool.set_overloaded(number, full[number]);
            }
        }
    }

    #[test]
    fn rr_and_wrr_pass_over_who_has_reached_a_threshold(
        weights in weights(), rounds in vec((by_flag(), 1usize..60), 1..4),
    ) {
        let loads = vec![(1, 1); 30];
        let mut one = RoundRobin(weights.len() - 1);
        let mut other = Interleaved { i: -1, cw: 0 };
        let (rr, wrr) = [Scheduler::Rr, Scheduler::Wrr].map(|s| bounded(s, &weights, &loads, &[false; 30])).into();
        for (full, picks) in rounds {
            for pool in [&rr, &wrr] {
                (0..weights.len()).for_each(|i| pool.set_overloaded(i, full[i]));
            }
            let open: Vec<u16> = (0..weights.len()).map(|i| if full[i] { 0 } else { weights[i] }).collect();
            for _ in 0..picks {
                prop_assert_eq!(rr.pick(Ipv4Addr::LOCALHOST, 1), one.pick(&open));
                prop_assert_eq!(wrr.pick(Ipv4Addr::LOCALHOST, 1), other.pick_open(&weights, |i| !full[i]));
            }
        }
    }

    #[test]
    fn twos_takes_the_better_of_two_that_chance_has_chosen_by_weight(
        weights in weights(), loads in loads(), full in by_flag(), clients in vec((client(), any::<u16>()), 30),
    ) {
        let pool = bounded(Scheduler::Twos, &weights, &loads, &full);
        let control = pool.director.memory.control();
        let (number, _) = pool.director.settings("shop", Family::V4);
        for (client, port) in clients {
            let cursor = pool.director.view().cursor(number).unwrap().get();
            let address = Address::v4(client.octets());
            let drawn = hash::address(control.seed ^ cursor, &address, u64::from(port));
            let random = |below| [hash::reduce(drawn as u32, below), hash::reduce((drawn >> 32) as u32, below)];
            let expected = twos(&weights, &loads, is_full(&full, &loads), random);
            prop_assert_eq!(pool.pick(client, port), expected);
        }
    }

    #[test]
    fn lblc_and_lblcr_are_their_pseudo_code(
        weights in vec(0u16..6, 1..9),
        steps in vec((0u8..5, 0usize..9, 0u64..8, 0u64..300, any::<bool>(), 0u32..30), 1..120),
        replicates: bool,
    ) {
        let scheduler = if replicates { Scheduler::Lblcr } else { Scheduler::Lblc };
        let mut loads = vec![(1, 0); 30];
        let mut full = vec![false; 30];
        let mut pool = bounded(scheduler, &weights, &loads, &full);
        let expiration = pool.director.settings("shop", Family::V4).1.locality;
        let mut reference = Locality { replicates, expiration, sets: BTreeMap::new() };
        for (destination, number, active, inactive, is_over, hours) in steps {
            let number = number % weights.len();
            loads[number] = (active, inactive);
            full[number] = is_over && active + inactive > 0;
            pool.set_load(number, active, inactive);
            pool.set_overloaded(number, full[number]);
            pool.director.now += hours * 3600 * SECOND;
            let now = pool.director.now;
            let destination = Ipv4Addr::new(203, 0, 113, destination);
            let expected = reference.pick(&weights, &loads, |i| full[i], destination, now);
            prop_assert_eq!(pool.pick_for(Ipv4Addr::LOCALHOST, 1, destination), expected);
        }
    }

    #[test]
    fn dh_gives_every_server_its_turn_among_the_destinations(weights in weights(), to in vec(client(), 50)) {
        for fallback in [true, false] {
            let mut shop = shop(Scheduler::Dh, &weights);
            shop.scheduler_flags.fallback = fallback;
            let pool = Pool::with(shop);
            // `ip_vs_dh_reassign`: one slot each, whatever the weight.
            let reference = SourceHash::of(&vec![1; weights.len()]);
            for &destination in &to {
                let takes = |dest: usize| weights[dest] > 0;
                let own = reference.table[reference.hashkey(destination, 0) as usize];
                let expected =
                    if fallback { reference.pick_among(destination, takes) } else { Some(own).filter(|&i| takes(i)) };
                prop_assert_eq!(pool.pick_for(Ipv4Addr::LOCALHOST, 1, destination), expected);
                prop_assert_eq!(pool.pick_for(Ipv4Addr::new(1, 2, 3, 4), 9, destination), expected);
            }
        }
    }

    #[test]
    fn sh_refuses_the_clients_of_a_server_that_takes_nobody_without_its_fallback(
        weights in vec(0u16..6, 1..12), loads in loads(), full in by_flag(), clients in vec(client(), 40),
    ) {
        let mut shop = shop(Scheduler::Sh, &weights);
        shop.scheduler_flags.fallback = false;
        shop.servers.iter_mut().for_each(|server| server.upper = threshold::MAX);
        let pool = Pool::with(shop);
        for number in 0..weights.len() {
            pool.set_load(number, loads[number].0, loads[number].1);
            pool.set_overloaded(number, full[number]);
        }
        let (reference, full) = (SourceHash::of(&weights), is_full(&full, &loads));
        for client in clients {
            let own = reference.table[reference.hashkey(client, 0) as usize];
            prop_assert_eq!(pool.pick(client, 7), Some(own).filter(|&i| weights[i] > 0 && !full(i)));
        }
    }

    #[test]
    fn sh_falls_back_from_a_full_server_as_the_kernel_does(
        weights in vec(1u16..6, 1..12), full in vec(any::<bool>(), 30), clients in vec(client(), 40),
    ) {
        let loads = vec![(1, 1); 30];
        let pool = bounded(Scheduler::Sh, &weights, &loads, &full);
        let reference = SourceHash::of(&weights);
        for client in clients {
            prop_assert_eq!(pool.pick(client, 7), reference.pick_among(client, |dest| !full[dest]));
        }
    }

    #[test]
    fn whoever_has_room_is_found_from_any_slot(
        weights in weights(), full in vec(proptest::bool::weighted(0.8), 30), clients in vec(client(), 20),
    ) {
        let loads = vec![(1, 1); 30];
        let takes = |i: usize| weights[i] > 0 && !full[i];
        for scheduler in [Scheduler::Sh, Scheduler::Maglev, Scheduler::Dh] {
            let pool = bounded(scheduler, &weights, &loads, &full);
            for &client in &clients {
                match pool.pick_for(client, 7, client) {
                    Some(number) => prop_assert!(takes(number), "{} took {}", scheduler.name(), number),
                    None => prop_assert!((0..weights.len()).all(|i| !takes(i)), "{}", scheduler.name()),
                }
            }
        }
    }

    #[test]
    fn maglev_refuses_those_of_a_quiesced_server_and_moves_nobody_else_without_its_fallback(
        weights in vec(1u16..9, 2..12), quiesced in any::<proptest::sample::Index>(),
    ) {
        let mut shop = shop(Scheduler::Maglev, &weights);
        shop.scheduler_flags.fallback = false;
        let mut pool = Pool::with(shop);
        let (before, quiesced) = (pool.table(), quiesced.index(weights.len()));
        let mut fewer = weights.clone();
        fewer[quiesced] = 0;
        // Twice: the daemon that has just started knows its last weight as well.
        for _ in 0..2 {
            pool.reweigh(&fewer);
            let after = pool.table();
            for (was, is) in before.iter().zip(&after) {
                prop_assert_eq!(*is, was.filter(|&number| number != quiesced));
            }
        }
        pool.reweigh(&weights);
        prop_assert_eq!(pool.table(), before);
    }

    #[test]
    fn the_port_flag_makes_every_port_of_a_client_a_client(ports in vec(any::<u16>(), 40), from in client()) {
        for scheduler in [Scheduler::Sh, Scheduler::Maglev] {
            let mut shop = shop(scheduler, &[1, 1, 1, 1]);
            shop.scheduler_flags = SchedulerFlags { port: true, fallback: true };
            let pool = Pool::with(shop);
            let (_, settings) = pool.director.settings("shop", Family::V4);
            let (control, table) = (pool.director.memory.control(), pool.table());
            for &port in &ports {
                let own = if scheduler == Scheduler::Sh {
                    // `ip_vs_sh_hashkey`: the port is added to the address.
                    let sum = u32::from(from).wrapping_add(u32::from(port));
                    (sum.wrapping_mul(0x61C8_8647) >> (32 - 8)) as usize
                } else {
                    schedule::slot_number(&control, &settings, V4, &Address::v4(from.octets()), port) as usize
                };
                prop_assert_eq!(pool.pick(from, port), table[own]);
            }
        }
    }
}

#[test]
fn two_random_numbers_are_not_the_same_for_every_client() {
    let pool = Pool::of(Scheduler::Twos, &[1; 10]);
    let mut counts = [0; 10];
    for number in 0..2000 {
        let picked = pool.pick(Ipv4Addr::from(number), 80).unwrap();
        counts[picked] += 1;
        pool.set_load(picked, counts[picked], 0);
    }
    // Two choices keep the fullest within a few of the mean (Azar et al.: log log n).
    assert!(counts.iter().all(|n| n.abs_diff(200) < 10), "{counts:?}");
    let newcomer = |client| schedule::Newcomer {
        family: V4,
        client,
        client_port: 1,
        destination: client,
        slot: schedule::SlotView::NONE,
        counts: true,
        seed: 7,
        now: 0,
    };
    let [one, other] = [Address::v4([1, 2, 3, 4]), Address::v4([1, 2, 3, 5])];
    assert_ne!(two_choices::draw(&newcomer(&one), 0), two_choices::draw(&newcomer(&other), 0));
    assert_ne!(two_choices::draw(&newcomer(&one), 0), two_choices::draw(&newcomer(&one), 1));
}

fn way(client: u8, port: u16, vip_port: u16) -> Way {
    Way { protocol: 6, from: (Ipv4Addr::new(198, 51, 100, client).into(), port), to: (ip("192.0.2.10"), vip_port) }
}

/// A handshake; where it went, as a number.
fn open(director: &Director, way: &Way) -> Option<u16> {
    let seen = director.request(way, Segment::Syn);
    let Seen::Server(address, _) = seen else {
        assert_eq!(seen, Seen::Not(Reason::Refused));
        return None;
    };
    assert_eq!(director.request(way, Segment::Data), seen, "the connection stays where it began");
    (0..30).find(|&number| addresses(number)[0] == address)
}

#[test]
fn a_server_at_its_threshold_gets_no_new_clients_until_enough_of_them_have_gone() {
    for scheduler in Scheduler::ALL {
        let mut shop = shop(scheduler, &[50, 50]);
        shop.servers[0].upper = 4;
        shop.servers[1].upper = 4;
        let mut director = Director::with(SMALL, &config([shop.clone()]));
        let mut opened: Vec<(Way, u16)> = Vec::new();
        for port in 1000..1008 {
            // Both ports of the service count, and so does every destination and client.
            let way = way(port as u8, port, if port % 2 == 0 { 80 } else { 443 });
            let number = open(&director, &way).unwrap_or_else(|| panic!("{}: {opened:?}", scheduler.name()));
            opened.push((way, number));
        }
        director.check_loads();
        let on_first = opened.iter().filter(|(_, number)| *number == 0).count();
        assert_eq!(on_first, 4, "{}: each has as many as it may", scheduler.name());
        assert_eq!(open(&director, &way(99, 9, 80)), None, "{}", scheduler.name());
        // One less is not below three quarters of 4; two less is.
        for gone in 0..2 {
            let at = opened.iter().position(|(_, number)| *number == 0).unwrap();
            let (way, _) = opened.swap_remove(at);
            director.request(&way, Segment::Reset);
            director.now += 11 * SECOND;
            director.pass();
            let takes = open(&director, &self::way(100 + gone, 9, 80));
            assert_eq!(takes.is_some(), gone == 1, "{}: after {gone}", scheduler.name());
            assert!(takes.is_none_or(|number| number == 0));
        }
        // A higher threshold holds at once.
        shop.servers[1].upper = 10;
        director.apply(&config([shop.clone()]));
        director.apply(&config([shop]));
        director.check_loads();
        assert!((0..4).all(|n| open(&director, &way(200 + n, 9, 443)).is_some()), "{}", scheduler.name());
    }
}

#[test]
fn a_client_who_stays_with_a_server_may_pass_its_threshold() {
    for scheduler in Scheduler::ALL {
        let mut shop = shop(scheduler, &[1, 1, 1]);
        shop.persistence = persist(100);
        shop.servers.iter_mut().for_each(|server| server.upper = 1);
        let director = Director::with(SMALL, &config([shop]));
        let first = open(&director, &way(1, 1000, 80)).unwrap();
        for port in 1001..1004 {
            assert_eq!(open(&director, &way(1, port, 443)), Some(first), "{}", scheduler.name());
        }
        let others: Vec<Option<u16>> = (2..5).map(|client| open(&director, &way(client, 1000, 80))).collect();
        assert_eq!(others.iter().flatten().count(), 2, "{}: {others:?}", scheduler.name());
        assert!(!others.contains(&Some(first)), "{}", scheduler.name());
    }
}

#[test]
fn destinations_that_nobody_asks_for_are_forgotten() {
    let mut shop = shop(Scheduler::Lblcr, &[1, 1]);
    shop.timeouts.locality = Duration::from_secs(60);
    let mut director = Director::with(SMALL, &config([shop.clone()]));
    open(&director, &way(1, 1000, 80)).unwrap();
    assert_eq!(director.records(CellTable::Localities).len(), 1);
    director.wait(Duration::from_secs(59));
    open(&director, &way(1, 1001, 443)).unwrap();
    director.wait(Duration::from_secs(59));
    assert_eq!(director.records(CellTable::Localities).len(), 1);
    director.wait(Duration::from_secs(2));
    assert_eq!(director.records(CellTable::Localities).len(), 0);
    open(&director, &way(1, 1002, 80)).unwrap();
    shop.scheduler = Scheduler::Wlc;
    director.apply(&config([shop]));
    director.pass();
    assert_eq!(director.records(CellTable::Localities).len(), 0, "nobody looks at it any more");
}

#[test]
fn a_member_that_has_left_the_configuration_is_none_any_more() {
    for scheduler in [Scheduler::Lblc, Scheduler::Lblcr] {
        let mut shop = shop(scheduler, &[2, 1]);
        let mut director = Director::with(SMALL, &config([shop.clone()]));
        assert_eq!(open(&director, &way(1, 1000, 80)), Some(0));
        shop.servers.remove(0);
        director.apply(&config([shop]));
        assert_eq!(open(&director, &way(1, 1001, 80)), Some(1));
    }
}

/// A datagram of a client, and the server that gets it.
fn datagram(director: &Director, client: u8, port: u16) -> Option<u16> {
    let way =
        Way { protocol: 17, from: (Ipv4Addr::new(198, 51, 100, client).into(), port), to: (ip("192.0.2.10"), 443) };
    match director.request(&way, Segment::Data) {
        Seen::Server(address, 443) => (0..30).find(|&number| addresses(number)[0] == address),
        seen => panic!("{seen:?}"),
    }
}

#[test]
fn one_packet_scheduling_chooses_for_each_datagram_and_records_nothing() {
    for scheduler in Scheduler::ALL {
        let mut shop = shop(scheduler, &[1, 1, 1]);
        shop.udp = Udp::OnePacket;
        let director = Director::with(SMALL, &config([shop]));
        let went: Vec<Option<u16>> = (0..6).map(|_| datagram(&director, 1, 1000)).collect();
        if matches!(scheduler, Scheduler::Rr | Scheduler::Wrr) {
            assert_eq!(went, [0, 1, 2, 0, 1, 2].map(Some), "{}", scheduler.name());
        }
        assert!(director.records(CellTable::Flows).is_empty(), "{}", scheduler.name());
        director.check_loads();
        // Its TCP connections are recorded as ever.
        open(&director, &way(1, 1000, 443)).unwrap();
        assert_eq!(director.records(CellTable::Flows).len(), 1, "{}", scheduler.name());
    }
}

#[test]
fn with_persistence_the_template_decides_where_datagrams_go_that_are_scheduled_one_by_one() {
    let mut shop = shop(Scheduler::Rr, &[1, 1, 1]);
    shop.udp = Udp::OnePacket;
    shop.persistence = persist(100);
    let mut director = Director::with(SMALL, &config([shop]));
    let first = datagram(&director, 1, 1000);
    assert_eq!(datagram(&director, 1, 1001), first, "and this proves that the client is there");
    assert_ne!(datagram(&director, 2, 1000), first);
    for port in 1000..1005 {
        director.wait(Duration::from_secs(60));
        assert_eq!(datagram(&director, 1, port), first, "each datagram renews it");
    }
    assert_eq!(open(&director, &way(1, 7, 80)), first, "and it brings TCP along");
    assert!(director.records(CellTable::Templates).len() == 1, "the other client's has ended");
}

#[test]
fn replies_to_single_datagrams_come_from_the_vip_where_the_servers_port_says_which() {
    let mut one = shop(Scheduler::Rr, &[1, 1]);
    one.udp = Udp::OnePacket;
    let director = Director::with(SMALL, &config([one.clone()]));
    let client = (ip("198.51.100.1"), 1000);
    for server in [0, 1, 0] {
        let way = Way { protocol: 17, from: (addresses(server)[0], 443), to: client };
        assert_eq!(director.reply(&way, Segment::Data), Seen::Client(ip("192.0.2.10"), 443));
    }
    // Of an unknown TCP connection a reply is none, as ever.
    let stray = Way { protocol: 6, from: (addresses(0)[0], 443), to: client };
    assert_eq!(director.reply(&stray, Segment::Data), Seen::Not(Reason::NotAReply));
    // As in IPVS where two VIPs lead to one port.
    let mut other = one.clone();
    other.name = "other".into();
    other.selector = marca_config::model::Selector::Ports {
        vips: vec![ip("192.0.2.11")],
        ports: vec![crate::configuration::udp(443)],
    };
    let director = Director::with(SMALL, &config([one, other]));
    let way = Way { protocol: 17, from: (addresses(0)[0], 443), to: client };
    assert_eq!(director.reply(&way, Segment::Data), Seen::Not(Reason::NotAReply));
}
