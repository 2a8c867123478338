//! A copy of the kernel's routes for replies to clients, whose lookup in the kernel costs more than all else that is
//! done to them. Holds what is simple, and leaves the rest to the kernel: where a prefix has no entry, or an empty one,
//! packets ask there.
//!
//! [`NextHops::of`] is the copy, as a value: pure, and compared with the kernel's own answers in a test. [`Routes`] keeps
//! it in the tables: what contradicts a change of the network is not used for a moment longer.

use crate::hops;
use crate::linux::data_plane::{DataPlaneError, Maps};
use crate::linux::network::{FibRoute, Network, NetworkError, Target};
use crate::prefixes::Prefixes;
use ipnet::IpNet;
use marca_engine::layout::{Macs, NextHop, limits};
use marca_engine::route::block_bits;
use marca_tables::classifier::address;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

/// What the kernel knows about ways.
#[derive(Clone, Debug, Default)]
pub struct Fib {
    pub routes: Vec<FibRoute>,
    /// Whether IPv4 and IPv6 packets are routed by the rules that every kernel begins with, and no others.
    pub plain_rules: [bool; 2],
    /// MAC addresses of Ethernet interfaces, by index.
    pub interfaces: HashMap<u32, [u8; 6]>,
    /// By interface and address.
    pub neighbours: HashMap<(u32, IpAddr), [u8; 6]>,
}

impl Fib {
    pub async fn read(network: &Network) -> Result<Self, NetworkError> {
        Ok(Self {
            routes: network.fib().await?,
            plain_rules: network.plain_rules().await?,
            interfaces: network.ethernet().await?,
            neighbours: network.neighbours().await?,
        })
    }
}

/// Next hops by prefix. `None`: packets ask the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NextHops {
    pub by_prefix: BTreeMap<IpNet, Option<NextHop>>,
    /// Routers whose MAC addresses are in it, or should be.
    pub gateways: BTreeSet<(u32, IpAddr)>,
}

impl NextHops {
    /// The copy of what is simple.
    pub fn of(fib: &Fib) -> Self {
        let mut copy = Self::default();
        let routes =
            fib.routes.iter().filter(|route| fib.plain_rules[usize::from(!route.destination.addr().is_ipv4())]);
        let mut by_prefix: BTreeMap<IpNet, Vec<&FibRoute>> = BTreeMap::new();
        for route in routes {
            by_prefix.entry(route.destination.trunc()).or_default().push(route);
        }
        // The kernel asks the table `local` first, whatever the prefixes in the others (net/ipv4/fib_rules.c).
        let before: Prefixes<()> =
            fib.routes.iter().filter(|r| r.local_table).map(|r| (r.destination.trunc(), ())).collect();
        let simple = |net: IpNet, target: Option<Target>| target.filter(|_| before.longest(net).is_none());
        let targets: BTreeMap<IpNet, Option<Target>> =
            by_prefix.iter().map(|(net, routes)| (*net, simple(*net, only(routes)))).collect();
        for (net, target) in &targets {
            let gateway = target.and_then(|target| Some((target.interface, target.gateway?)));
            copy.gateways.extend(gateway);
            copy.by_prefix.insert(*net, gateway.and_then(|(interface, gateway)| fib.next_hop(interface, gateway)));
        }
        let targets: Prefixes<Option<Target>> = targets.into_iter().collect();
        // Clients on the link, of a route without a gateway.
        for (interface, address) in fib.neighbours.keys() {
            let host = IpNet::from(*address);
            let longest = targets.longest(host);
            let on_link = longest.is_some_and(|(net, target)| {
                net != host && target.is_some_and(|t| t.interface == *interface && t.gateway.is_none())
            });
            if on_link && simple(host, longest.and_then(|(_, target)| *target)).is_some() {
                copy.by_prefix.insert(host, fib.next_hop(*interface, *address));
            }
        }
        copy.tell_blocks();
        if copy.by_prefix.len() > limits::ROUTES as usize { Self::default() } else { copy }
    }

    /// Says of each prefix whether it leads the whole block of an address: it does but for blocks with longer ones in them,
    /// which become prefixes of their own.
    fn tell_blocks(&mut self) {
        let known: Prefixes<Option<NextHop>> = self.by_prefix.iter().map(|(net, next)| (*net, *next)).collect();
        let nets: Vec<IpNet> = self.by_prefix.keys().copied().collect();
        let mut mixed = BTreeSet::new();
        for block in nets.iter().flat_map(blocks_around) {
            if mixed.insert(block)
                && let Some((_, next)) = known.longest(block)
            {
                self.by_prefix.entry(block).or_insert(*next);
            }
        }
        for (net, next) in &mut self.by_prefix {
            let Some(next) = next else { continue };
            let [small, large] = block_bits(address(net.addr()).0);
            next.whole = match net.prefix_len() {
                len if len > small || (len == small && mixed.contains(net)) => 0,
                len if len > large || (len == large && mixed.contains(net)) => 1,
                _ => 2,
            };
        }
    }

    /// As packets look it up.
    pub fn find(&self, address: IpAddr) -> Option<NextHop> {
        let holding = self.by_prefix.iter().filter(|(net, _)| net.contains(&address));
        *holding.max_by_key(|(net, _)| net.prefix_len())?.1
    }
}

impl Fib {
    fn next_hop(&self, interface: u32, neighbour: IpAddr) -> Option<NextHop> {
        let source = *self.interfaces.get(&interface)?;
        let destination = *self.neighbours.get(&(interface, neighbour))?;
        Some(NextHop { interface, macs: Macs::new(destination, source), ..NextHop::default() })
    }
}

/// The blocks of which a net is a part.
fn blocks_around(net: &IpNet) -> impl Iterator<Item = IpNet> + use<> {
    let net = *net;
    let bits = block_bits(address(net.addr()).0).into_iter().filter(move |bits| *bits < net.prefix_len());
    bits.map(move |bits| IpNet::new_assert(net.addr(), bits).trunc())
}

/// Where the routes of one prefix lead, if that is one way for every packet.
fn only(routes: &[&FibRoute]) -> Option<Target> {
    match routes {
        [FibRoute { target: Some(target), local_table: false, .. }] => Some(*target),
        // IPv4 takes the first by its metric; IPv6 takes the next one when a neighbour is not reachable.
        [first, rest @ ..] if first.destination.addr().is_ipv4() => {
            let best = rest.iter().fold(first, |best, route| if route.metric < best.metric { route } else { best });
            let alone = routes.iter().filter(|route| route.metric == best.metric).count() == 1;
            best.target.filter(|_| alone && routes.iter().all(|route| route.target.is_some() && !route.local_table))
        }
        _ => None,
    }
}

/// Keeps the copy in the tables.
#[derive(Default)]
pub struct Routes {
    copy: NextHops,
    neighbours: HashMap<(u32, IpAddr), [u8; 6]>,
    /// The copy is true; packets may use it.
    holds: bool,
}

impl Routes {
    /// Copies the routes anew.
    pub async fn look_up(&mut self, network: &Network, maps: &mut Maps) -> Result<(), RoutesError> {
        self.distrust(maps);
        let fib = Fib::read(network).await?;
        let copy = NextHops::of(&fib);
        maps.write_next_hops(&copy.by_prefix)?;
        (self.copy, self.neighbours, self.holds) = (copy, fib.neighbours, true);
        Ok(())
    }

    /// Packets ask the kernel, from now until the next look.
    pub fn distrust(&mut self, maps: &Maps) {
        self.holds = false;
        maps.memory.set_routes_until(0, false);
    }

    /// The copy is good for a while longer; to be called more often than that. `now` in ticks.
    pub fn renew(&self, maps: &Maps, until: u32) {
        if self.holds {
            maps.memory.set_routes_until(until, true);
        }
    }

    /// A neighbour was found, moved or was lost. Whether the routes must be looked up again.
    pub fn neighbour(&mut self, maps: &Maps, interface: u32, address: IpAddr, mac: Option<[u8; 6]>) -> bool {
        let known = self.neighbours.get(&(interface, address)).copied();
        if known == mac {
            return false;
        }
        // What is not in the copy cannot be wrong in it.
        if known.is_some() {
            self.distrust(maps);
        }
        true
    }

    /// Makes the kernel make sure of the gateways: packets that XDP sends do not.
    pub async fn refresh(&self, network: &Network) {
        for &(interface, gateway) in &self.copy.gateways {
            hops::ask(network, interface, gateway).await;
        }
    }
}

/// What kept the routes from being copied. Packets ask the kernel then.
#[derive(Debug, thiserror::Error)]
pub enum RoutesError {
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    DataPlane(#[from] DataPlaneError),
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xee];
    const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn route(destination: &str, gateway: Option<&str>, metric: u32) -> FibRoute {
        let target = Target { interface: 2, gateway: gateway.map(|g| g.parse().unwrap()) };
        FibRoute { destination: destination.parse().unwrap(), metric, local_table: false, target: Some(target) }
    }

    fn fib(routes: Vec<FibRoute>) -> Fib {
        Fib {
            routes,
            plain_rules: [true, true],
            interfaces: [(2, OWN_MAC)].into(),
            neighbours: ["192.0.2.254", "192.0.2.7", "2001:db8::fe"]
                .map(|ip| ((2, ip.parse().unwrap()), GATEWAY_MAC))
                .into(),
        }
    }

    fn known(fib: &Fib, address: &str) -> bool {
        let found = NextHops::of(fib).find(address.parse().unwrap());
        let way = (2, Macs::new(GATEWAY_MAC, OWN_MAC));
        assert!(found.is_none_or(|found| (found.interface, found.macs) == way));
        found.is_some()
    }

    #[test]
    fn clients_behind_a_gateway_and_neighbours_on_the_link_need_not_ask() {
        let fib = fib(vec![
            route("0.0.0.0/0", Some("192.0.2.254"), 0),
            route("192.0.2.0/24", None, 0),
            route("::/0", Some("2001:db8::fe"), 1024),
        ]);
        assert!(known(&fib, "198.51.100.7") && known(&fib, "2001:db8:9::1"));
        assert!(known(&fib, "192.0.2.7"));
        assert!(!known(&fib, "192.0.2.8"), "its MAC address is not known");
    }

    #[test]
    fn whatever_is_not_one_plain_way_is_left_to_the_kernel() {
        let default = || route("0.0.0.0/0", Some("192.0.2.254"), 0);
        let reject = FibRoute { target: None, ..route("198.51.100.0/24", None, 0) };
        assert!(!known(&fib(vec![default(), reject]), "198.51.100.7"), "no single next hop");
        let local = FibRoute { local_table: true, ..route("198.51.0.0/16", None, 0) };
        let inside = route("198.51.100.0/24", Some("192.0.2.254"), 0);
        assert!(!known(&fib(vec![default(), local, inside]), "198.51.100.7"), "the local table comes first");
        assert!(!known(&fib(vec![route("0.0.0.0/0", Some("192.0.2.253"), 0)]), "198.51.100.7"), "no MAC address");
        let mut ruled = fib(vec![default()]);
        ruled.plain_rules = [false, true];
        assert!(!known(&ruled, "198.51.100.7"), "rules may choose other tables");
        let twice = ["2001:db8::fe", "2001:db8::fd"].map(|gateway| route("::/0", Some(gateway), 1024));
        assert!(!known(&fib(twice.into()), "2001:db8:9::1"), "two next hops");
    }

    #[test]
    fn the_lowest_metric_decides_among_routes_to_one_prefix() {
        let routes = |first, second| {
            fib(vec![route("0.0.0.0/0", Some("192.0.2.253"), first), route("0.0.0.0/0", Some("192.0.2.254"), second)])
        };
        assert!(known(&routes(200, 100), "198.51.100.7"));
        assert!(!known(&routes(100, 200), "198.51.100.7"));
        assert!(!known(&routes(100, 100), "198.51.100.7"));
    }

    #[test]
    fn a_block_is_whole_where_all_of_its_addresses_go_one_way() {
        let gateway = |destination| route(destination, Some("192.0.2.254"), 0);
        let fib = fib(vec![
            gateway("0.0.0.0/0"),
            gateway("198.51.0.0/16"),
            gateway("203.0.113.128/25"),
            route("192.0.2.0/24", None, 0),
            route("::/0", Some("2001:db8::fe"), 0),
            route("2001:db8:7::/48", Some("2001:db8::fe"), 0),
        ]);
        let copy = NextHops::of(&fib);
        let whole = |address: &str| copy.find(address.parse().unwrap()).unwrap().whole;
        assert_eq!([whole("8.8.8.8"), whole("2001:db9::1")], [2, 2], "behind the default route");
        assert_eq!(whole("198.51.100.7"), 2, "a block itself");
        assert_eq!([whole("203.0.113.200"), whole("203.0.113.7")], [0, 0], "a part goes another way, if only by name");
        assert_eq!([whole("203.0.7.7"), whole("203.1.7.7")], [1, 2], "other blocks around and beside it");
        assert_eq!([whole("192.0.2.7"), whole("192.0.77.1")], [0, 1], "some are on the link");
        assert_eq!(
            [whole("2001:db8:7::1"), whole("2001:db8:8::1")],
            [1, 1],
            "a small block, and another one in the same large one"
        );
        assert!(known(&fib, "203.0.7.7") && known(&fib, "192.0.77.1"), "the rest of a block goes where it would");
        assert!(!known(&fib, "192.0.2.8"));
    }

    #[test]
    fn the_rest_of_a_block_whose_way_is_not_known_is_left_to_the_kernel() {
        let routes = vec![route("0.0.0.0/0", Some("192.0.2.253"), 0), route("203.0.113.0/24", Some("192.0.2.254"), 0)];
        assert!(known(&fib(routes.clone()), "203.0.113.7"));
        assert!(!known(&fib(routes), "203.0.7.7"));
    }

    #[test]
    fn more_routes_than_the_table_holds_are_no_copy_at_all() {
        let many = (0..limits::ROUTES + 1)
            .map(|i| route(&format!("{}.{}.{}.0/24", 10 + i / 65_536, i / 256 % 256, i % 256), Some("192.0.2.254"), 0))
            .collect();
        assert_eq!(NextHops::of(&fib(many)), NextHops::default());
    }
}
