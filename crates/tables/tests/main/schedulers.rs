//! Each scheduler, asked through the tables as a new connection asks it, against its published algorithm written down
//! naively here.

use crate::configuration::{addresses, config, ip, server, service, tcp, udp};
use crate::director::{Director, SMALL};
use marca_config::model::{Scheduler, Service};
use marca_config::plan::Family;
use marca_engine::hash;
use marca_engine::layout::{Address, Load, NO_REAL, V4};
use marca_engine::schedule::{self, Newcomer, locality, threshold};
use marca_engine::tables::Tables;
use marca_tables::Capacity;
use marca_tables::classifier::address;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

/// A service under test: real servers are numbers, in the order of the configuration.
pub struct Pool {
    pub director: Director,
    shop: Service,
    numbers: HashMap<u32, usize>,
}

const LARGE: Capacity = Capacity {
    addresses: 1 << 15,
    ports: 1 << 15,
    slots: 1 << 22,
    servers: 1 << 15,
    reals: 1 << 13,
    half: 1 << 13,
    ..SMALL
};

/// A service of several ports.
pub fn shop(scheduler: Scheduler, weights: &[u16]) -> Service {
    let mut shop = service("shop", &["192.0.2.10"], &[tcp(80), tcp(443), udp(443)]);
    shop.scheduler = scheduler;
    shop.servers = weights.iter().zip(0..).map(|(&weight, number)| server(number, weight)).collect();
    shop
}

impl Pool {
    pub fn of(scheduler: Scheduler, weights: &[u16]) -> Self {
        Self::with(shop(scheduler, weights))
    }

    pub fn with(shop: Service) -> Self {
        let (scheduler, weights) = (shop.scheduler, shop.servers.iter().map(|server| server.weight));
        let weights: Vec<u16> = weights.collect();
        let turns: usize = weights.iter().map(|&w| usize::from(w.max(1))).sum();
        let capacity = if weights.len() > 30 || (scheduler == Scheduler::Sh && turns > 8192) { LARGE } else { SMALL };
        let director = Director::with(capacity, &config([shop.clone()]));
        let number = |i: usize| (director.real("shop", addresses(i as u16)[0]), i);
        let numbers = (0..weights.len()).map(number).collect();
        Self { director, shop, numbers }
    }

    /// Other weights for the same servers.
    pub fn reweigh(&mut self, weights: &[u16]) {
        self.shop.servers.iter_mut().zip(weights).for_each(|(server, &weight)| server.weight = weight);
        self.director.apply(&config([self.shop.clone()]));
    }

    /// A new connection of this client.
    pub fn pick(&self, client: Ipv4Addr, port: u16) -> Option<usize> {
        self.pick_for(client, port, Ipv4Addr::new(192, 0, 2, 10))
    }

    /// The same to some destination.
    pub fn pick_for(&self, client: Ipv4Addr, port: u16, destination: Ipv4Addr) -> Option<usize> {
        let view = self.director.view();
        let control = self.director.memory.control();
        let (number, settings) = self.director.settings("shop", Family::V4);
        let [client, destination] = [client, destination].map(|ip| Address::v4(ip.octets()));
        let slot = schedule::slot(&view, &control, &settings, V4, &client, port);
        let newcomer = Newcomer {
            family: V4,
            client: &client,
            client_port: port,
            destination: &destination,
            slot: slot.unwrap_or(schedule::SlotView::NONE),
            counts: true,
            seed: control.seed,
            now: self.director.now,
        };
        let pick = schedule::pick(&view, &control, number, &settings, &newcomer);
        if pick.real == NO_REAL {
            return None;
        }
        if pick.cursor.moves {
            assert!(view.cursor(number).unwrap().replace(pick.cursor.before, pick.cursor.after));
        }
        let ends = (number, pick.real);
        locality::remember(&view, &control, &pick.locality, ends, V4, &destination, self.director.now);
        Some(self.numbers[&pick.real])
    }

    fn picks(&self, count: usize) -> Vec<Option<usize>> {
        (0..count).map(|_| self.pick(Ipv4Addr::LOCALHOST, 1)).collect()
    }

    pub fn load(&self, number: usize) -> &Load {
        let real = self.director.real("shop", addresses(number as u16)[0]);
        self.director.memory.loads.at(real).unwrap()
    }

    pub fn set_load(&self, number: usize, active: u64, inactive: u64) {
        let load = self.load(number);
        load.active.set(active);
        load.inactive.set(inactive);
    }

    /// Thresholds that the real server has just reached, or that are far away.
    pub fn set_overloaded(&self, number: usize, overloaded: bool) {
        threshold::set(self.load(number), if overloaded { 1 } else { threshold::MAX }, 0);
    }

    /// The table of a table scheduler; `None` is a slot of nobody.
    pub fn table(&self) -> Vec<Option<usize>> {
        let (_, settings) = self.director.settings("shop", Family::V4);
        let slots =
            (0..settings.slots_len).map(|i| self.director.view().slot(settings.slots + i).unwrap().get() as u32);
        slots.map(|real| (real != NO_REAL).then(|| self.numbers[&real])).collect()
    }
}

/// Few and many servers; small, equal, zero and extreme weights.
pub fn weights() -> impl Strategy<Value = Vec<u16>> {
    let weight = || {
        prop_oneof![
            3 => 0u16..6,
            1 => select(vec![0, 1, 2, 4, 100, 150, 32768, 65534, 65535]),
            1 => any::<u16>(),
        ]
    };
    prop_oneof![6 => vec(weight(), 1..12), 1 => vec(weight(), 12..30)]
}

/// `ip_vs_rr.c`, `ip_vs_rr_schedule`: the next one after the last, among those that take anybody.
pub struct RoundRobin(pub usize);

impl RoundRobin {
    pub fn pick(&mut self, weights: &[u16]) -> Option<usize> {
        let next = (1..=weights.len()).map(|step| (self.0 + step) % weights.len()).find(|&i| weights[i] > 0)?;
        self.0 = next;
        Some(next)
    }
}

/// "Weighted Round-Robin Scheduling" of the LVS knowledge base, line by line. A current weight that a change has left
/// above the greatest is the greatest in the next round.
pub struct Interleaved {
    pub i: i64,
    pub cw: i64,
}

impl Interleaved {
    pub fn pick(&mut self, weights: &[u16]) -> Option<usize> {
        self.pick_open(weights, |_| true)
    }

    /// With `ip_vs_wrr.c`'s test of `IP_VS_DEST_F_OVERLOAD`.
    pub fn pick_open(&mut self, weights: &[u16], is_open: impl Fn(usize) -> bool) -> Option<usize> {
        let n = weights.len() as i64;
        let max = i64::from(*weights.iter().max()?);
        let gcd = weights.iter().fold(0, |a, &w| naive_gcd(a, i64::from(w)));
        if !(0..weights.len()).any(|i| weights[i] > 0 && is_open(i)) {
            return None;
        }
        loop {
            self.i = (self.i + 1) % n;
            if self.i == 0 {
                self.cw = if self.cw > max { max } else { self.cw - gcd };
                if self.cw <= 0 {
                    self.cw = max;
                }
            }
            let i = self.i as usize;
            if i64::from(weights[i]) >= self.cw && weights[i] > 0 && is_open(i) {
                return Some(i);
            }
        }
    }
}

fn naive_gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { naive_gcd(b, a % b) }
}

/// `ip_vs_lc.c` and `ip_vs_wlc.c`: the first with the least overhead, or the least overhead for its weight.
pub fn least(weights: &[u16], loads: &[(u64, u64)], weighted: bool) -> Option<usize> {
    let overhead = |i: usize| u128::from(loads[i].0) * 256 + u128::from(loads[i].1);
    let weight = |i: usize| if weighted { u128::from(weights[i]) } else { 1 };
    (0..weights.len())
        .filter(|&i| weights[i] > 0)
        .reduce(|best, i| if overhead(best) * weight(i) > overhead(i) * weight(best) { i } else { best })
}

/// `ip_vs_sh.c`, over a table of `1 << bits` where the kernel has 256.
pub struct SourceHash {
    bits: u32,
    pub table: Vec<usize>,
    weights: Vec<u16>,
}

impl SourceHash {
    pub fn of(weights: &[u16]) -> Self {
        let mut bits = 8;
        while bits < 20 && weights.iter().map(|&w| u64::from(w.max(1))).sum::<u64>() > 1 << bits {
            bits += 1;
        }
        // `ip_vs_sh_reassign`
        let (mut table, mut p, mut d_count) = (Vec::new(), 0, 0);
        for _ in 0..1 << bits {
            table.push(p);
            d_count += 1;
            if d_count >= weights[p] {
                p = (p + 1) % weights.len();
                d_count = 0;
            }
        }
        Self { bits, table, weights: weights.to_vec() }
    }

    /// `ip_vs_sh_hashkey`, `hash_32`: the port is 0 without the flag `sh-port`.
    pub fn hashkey(&self, client: Ipv4Addr, offset: u32) -> u32 {
        let hash = u32::from(client).wrapping_mul(0x61C8_8647) >> (32 - self.bits);
        offset.wrapping_add(hash) & ((1 << self.bits) - 1)
    }

    /// `ip_vs_sh_get_fallback`
    fn pick(&self, client: Ipv4Addr) -> Option<usize> {
        self.pick_among(client, |dest| self.weights[dest] > 0)
    }

    pub fn pick_among(&self, client: Ipv4Addr, is_available: impl Fn(usize) -> bool) -> Option<usize> {
        let size = 1 << self.bits;
        let ihash = self.hashkey(client, 0);
        let takes = |hash: u32| Some(self.table[hash as usize]).filter(|&dest| is_available(dest));
        let fallback = |offset: u32| takes(self.hashkey(client, (offset + ihash) % size));
        takes(ihash).or_else(|| (0..size).find_map(fallback))
    }
}

/// Eisenbud et al. §3.4, POPULATE. With weights, a server has had as many turns after `k` rounds as `k` rounds have
/// for its share of the greatest weight, the first at once.
fn populate(backends: &[(u64, u64)], weights: &[u16], m: u64) -> Vec<Option<usize>> {
    let max = u64::from(*weights.iter().max().unwrap());
    let mut entry = vec![None; m as usize];
    if max == 0 {
        return entry;
    }
    let permutation = |i: usize, j: u64| {
        let (h1, h2) = backends[i];
        let (offset, skip) = (h1 % m, h2 % (m - 1) + 1);
        ((offset + j * skip) % m) as usize
    };
    let mut next = vec![0; backends.len()];
    let mut turns = vec![0; backends.len()];
    let mut n = 0;
    for round in 0.. {
        for i in 0..backends.len() {
            if weights[i] == 0 || round * u64::from(weights[i]) < turns[i] * max {
                continue;
            }
            turns[i] += 1;
            let mut c = permutation(i, next[i]);
            while entry[c].is_some() {
                next[i] += 1;
                c = permutation(i, next[i]);
            }
            entry[c] = Some(i);
            next[i] += 1;
            n += 1;
            if n == m {
                return entry;
            }
        }
    }
    unreachable!()
}

fn backends(count: usize) -> Vec<(u64, u64)> {
    let hashes = (0..count).map(|i| hash::address(0, &address(addresses(i as u16)[0]).1, u64::from(V4)));
    hashes.map(|hash| (hash & 0xffff_ffff, hash >> 32)).collect()
}

pub fn client() -> impl Strategy<Value = Ipv4Addr> {
    any::<u32>().prop_map(Ipv4Addr::from)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rr_takes_the_next_server_that_takes_anybody(changes in vec((weights(), 1usize..40), 1..4)) {
        let (first, _) = &changes[0];
        let mut pool = Pool::of(Scheduler::Rr, first);
        let mut reference = RoundRobin(first.len() - 1);
        for (weights, picks) in &changes {
            let weights: Vec<u16> = (0..first.len()).map(|i| weights[i % weights.len()]).collect();
            pool.reweigh(&weights);
            for _ in 0..*picks {
                prop_assert_eq!(pool.pick(Ipv4Addr::LOCALHOST, 1), reference.pick(&weights));
            }
        }
    }

    #[test]
    fn wrr_is_the_interleaved_algorithm_of_the_lvs_project(changes in vec((weights(), 1usize..150), 1..4)) {
        let (first, _) = &changes[0];
        let mut pool = Pool::of(Scheduler::Wrr, first);
        let mut reference = Interleaved { i: -1, cw: 0 };
        for (weights, picks) in &changes {
            let weights: Vec<u16> = (0..first.len()).map(|i| weights[i % weights.len()]).collect();
            pool.reweigh(&weights);
            for _ in 0..*picks {
                prop_assert_eq!(pool.pick(Ipv4Addr::LOCALHOST, 1), reference.pick(&weights));
            }
        }
    }

    #[test]
    fn lc_and_wlc_take_the_first_of_the_least_loaded(
        weights in weights(),
        loads in vec(prop_oneof![(0u64..4, 0u64..600), (0u64..1 << 32, 0u64..1 << 32)], 30),
        opened in 0usize..40,
        weighted: bool,
    ) {
        let mut loads = loads;
        let pool = Pool::of(if weighted { Scheduler::Wlc } else { Scheduler::Lc }, &weights);
        for (number, load) in loads.iter().enumerate().take(weights.len()) {
            pool.set_load(number, load.0, load.1);
        }
        for _ in 0..opened {
            let picked = pool.pick(Ipv4Addr::LOCALHOST, 1);
            prop_assert_eq!(picked, least(&weights, &loads, weighted));
            let Some(number) = picked else { break };
            loads[number].0 += 1;
            pool.set_load(number, loads[number].0, loads[number].1);
        }
    }

    #[test]
    fn sh_is_the_kernels_with_its_fallback(
        weights in weights().prop_filter("a table that holds all weights", |w| {
            w.iter().map(|&w| u64::from(w.max(1))).sum::<u64>() <= 1 << 20
        }),
        clients in vec(client(), 50),
        port: u16,
    ) {
        let pool = Pool::of(Scheduler::Sh, &weights);
        let reference = SourceHash::of(&weights);
        prop_assert_eq!(pool.table().len(), 1 << reference.bits);
        for client in clients {
            prop_assert_eq!(pool.pick(client, port), reference.pick(client));
        }
    }

    #[test]
    fn maglev_fills_its_table_as_the_paper_does(weights in weights(), clients in vec(client(), 20)) {
        let pool = Pool::of(Scheduler::Maglev, &weights);
        let table = pool.table();
        prop_assert!(table.len() >= 100 * weights.len());
        prop_assert_eq!(&table, &populate(&backends(weights.len()), &weights, table.len() as u64));
        let (_, settings) = pool.director.settings("shop", Family::V4);
        let control = pool.director.memory.control();
        for client in clients {
            let slot = schedule::slot_number(&control, &settings, V4, &Address::v4(client.octets()), 7);
            prop_assert_eq!(pool.pick(client, 7), table[slot as usize]);
        }
    }

    #[test]
    fn a_maglev_server_has_its_weights_share_of_the_slots(weights in weights()) {
        let table = Pool::of(Scheduler::Maglev, &weights).table();
        let sum: f64 = weights.iter().map(|&w| f64::from(w)).sum();
        for (number, &weight) in weights.iter().enumerate() {
            let slots = table.iter().filter(|&&owner| owner == Some(number)).count() as f64;
            let share = if sum == 0.0 { 0.0 } else { f64::from(weight) / sum * table.len() as f64 };
            if weight == 0 {
                prop_assert_eq!(slots, 0.0);
            } else if share >= 100.0 {
                prop_assert!((slots - share).abs() <= share * 0.03, "{} slots for {}", slots, share);
            } else {
                prop_assert!(slots >= 1.0, "everybody of some weight has a slot");
            }
        }
    }

    #[test]
    fn few_maglev_slots_change_when_a_server_leaves(
        count in 2usize..25, gone in any::<proptest::sample::Index>(), weight in prop_oneof![Just(None), (1u16..8).prop_map(Some)],
    ) {
        let gone = gone.index(count);
        let mut weights: Vec<u16> = (0..count).map(|i| weight.map_or(1, |w| 1 + (i as u16 * 7) % w)).collect();
        let mut pool = Pool::of(Scheduler::Maglev, &weights);
        let before = pool.table();
        weights[gone] = 0;
        pool.reweigh(&weights);
        let after = pool.table();
        prop_assert_eq!(before.len(), after.len());
        prop_assert!(after.iter().all(|&owner| owner != Some(gone) && (owner.is_some() || count == 1)));
        let kept = before.iter().zip(&after).filter(|(was, _)| **was != Some(gone));
        let moved = kept.clone().filter(|(was, is)| was != is).count();
        // The paper's figure 11 has a few percent for small tables; weights move more, as their rounds change.
        prop_assert!(moved * 100 <= kept.count() * 30, "{} moved", moved);
    }
}

#[test]
fn nobody_is_chosen_where_all_weights_are_0_and_the_first_again_when_one_is_not() {
    for scheduler in Scheduler::ALL {
        let mut pool = Pool::of(scheduler, &[0, 0, 0]);
        assert_eq!(pool.picks(7), [None; 7], "{}", scheduler.name());
        pool.reweigh(&[0, 5000, 0]);
        assert_eq!(pool.picks(7), [Some(1); 7], "{}", scheduler.name());
        pool.reweigh(&[0, 0, 0]);
        assert_eq!(pool.picks(7), [None; 7], "{}", scheduler.name());
    }
}

#[test]
fn a_service_without_servers_never_chooses_another_services_server() {
    for scheduler in Scheduler::ALL {
        let mut shop = service("shop", &["192.0.2.10"], &[tcp(80)]);
        let mut neighbour = service("aaa", &["192.0.2.20"], &[tcp(80)]);
        shop.scheduler = scheduler;
        neighbour.scheduler = scheduler;
        neighbour.servers = vec![server(1, 1), server(2, 1)];
        let director = Director::with(SMALL, &config([neighbour, shop.clone()]));
        let pool = Pool { director, shop, numbers: HashMap::new() };
        assert_eq!(pool.picks(3), [None; 3], "{}", scheduler.name());
    }
}

#[test]
fn an_emptied_service_chooses_none_of_its_former_servers() {
    for scheduler in Scheduler::ALL {
        let mut pool = Pool::of(scheduler, &[3, 2]);
        let number = pool.director.settings("shop", Family::V4).0;
        let mut other = service("other", &["192.0.2.20"], &[tcp(80)]);
        other.servers = vec![server(9, 1)];
        pool.director.apply(&config([other]));
        let view = pool.director.view();
        let settings = view.service(number).unwrap();
        let control = pool.director.memory.control();
        let client = Address::v4([1, 2, 3, 4]);
        let slot = schedule::slot(&view, &control, &settings, V4, &client, 5);
        let newcomer = Newcomer {
            family: V4,
            client: &client,
            client_port: 5,
            destination: &client,
            slot: slot.unwrap_or(schedule::SlotView::NONE),
            counts: true,
            seed: control.seed,
            now: 0,
        };
        let pick = schedule::pick(&view, &control, number, &settings, &newcomer);
        assert_eq!(pick.real, NO_REAL, "{}", scheduler.name());
    }
}

#[test]
fn wrr_gives_every_server_its_weight_in_a_round() {
    let weights = [4, 3, 2, 0, 6];
    let pool = Pool::of(Scheduler::Wrr, &weights);
    for round in 0..5 {
        let picks = pool.picks(15);
        for (number, &weight) in weights.iter().enumerate() {
            let count = picks.iter().filter(|pick| **pick == Some(number)).count();
            assert_eq!(count, usize::from(weight), "server {number} in round {round}");
        }
    }
}

/// Weights of a pool as large as may be, in no pattern.
fn many_weights() -> Vec<u16> {
    (0..4096u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as u16).collect()
}

#[test]
fn four_thousand_servers_are_scheduled_as_few_are() {
    let weights = many_weights();
    let mut reference = RoundRobin(weights.len() - 1);
    let pool = Pool::of(Scheduler::Rr, &weights);
    assert!(pool.picks(9000).into_iter().all(|pick| pick == reference.pick(&weights)));
    let mut reference = Interleaved { i: -1, cw: 0 };
    let pool = Pool::of(Scheduler::Wrr, &weights);
    assert!(pool.picks(300).into_iter().all(|pick| pick == reference.pick(&weights)));
    let pool = Pool::of(Scheduler::Wlc, &weights);
    let loads: Vec<(u64, u64)> = (0..weights.len() as u64).map(|i| (i * 7919 % 1000, i % 300)).collect();
    loads.iter().enumerate().for_each(|(number, load)| pool.set_load(number, load.0, load.1));
    assert_eq!(pool.picks(1)[0], least(&weights, &loads, true));
    let pool = Pool::of(Scheduler::Maglev, &weights);
    let table = pool.table();
    assert_eq!(table.len(), 131_071);
    assert_eq!(table, populate(&backends(weights.len()), &weights, table.len() as u64));
}

#[test]
fn sh_leaves_no_server_out_when_the_weights_are_more_than_its_table_has_slots() {
    let weights = many_weights();
    let table = Pool::of(Scheduler::Sh, &weights).table();
    let sum: f64 = weights.iter().map(|&w| f64::from(w)).sum();
    let mut counts = vec![0.0; weights.len()];
    table.iter().for_each(|owner| counts[owner.unwrap()] += 1.0);
    for (number, &weight) in weights.iter().enumerate() {
        let share = f64::from(weight) / sum * table.len() as f64;
        // As in the kernel, the first ones may have begun another round when the table ends.
        let slots = counts[number];
        assert!(slots >= share * 0.9 - 2.0 && slots <= share * 2.1 + 2.0, "{number}: {slots} slots for {share}");
    }
}

#[test]
fn the_same_servers_in_the_same_order_make_the_same_table_on_every_director() {
    for scheduler in [Scheduler::Sh, Scheduler::Maglev] {
        let one = Pool::of(scheduler, &[3, 0, 9, 4]);
        let mut other = Pool::of(scheduler, &[1, 1, 1, 1]);
        other.reweigh(&[3, 0, 9, 4]);
        assert_eq!(one.table(), other.table(), "{}", scheduler.name());
    }
}

#[test]
fn clients_of_both_families_reach_servers_of_their_family() {
    let mut shop = service("shop", &["192.0.2.10", "2001:db8::10"], &[tcp(80)]);
    shop.servers = (0..5).map(|number| server(number, 1)).collect();
    for scheduler in Scheduler::ALL {
        shop.scheduler = scheduler;
        let director = Director::with(SMALL, &config([shop.clone()]));
        for (vip, client) in [("192.0.2.10", "198.51.100.1"), ("2001:db8::10", "2001:db8:ff::1")] {
            let way = crate::packet::Way { protocol: 6, from: (ip(client), 999), to: (ip(vip), 80) };
            let seen = director.request(&way, crate::packet::Segment::Syn);
            let crate::director::Seen::Server(address, 80) = seen else { panic!("{seen:?}") };
            assert_eq!(matches!(address, IpAddr::V4(_)), vip.starts_with("192"), "{}", scheduler.name());
        }
    }
}
