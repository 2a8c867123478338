//! The way to each real server: interface, MAC addresses, tunnel source. Asked of the kernel, kept fresh there, and
//! written to where packets look.

use crate::linux::network::{Interface, Network, NetworkError, Route};
use crate::prefixes::Prefixes;
use ipnet::IpNet;
use marca_config::model::Forward;
use marca_config::plan::{Difference, Plan, ServicePlan};
use marca_tables::Memory;
use marca_tables::ids::Ids;
use marca_tables::services::{self, Hop};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

/// Ways to the real servers' addresses.
#[derive(Default)]
pub struct Hops {
    /// By real server's address: the way, and whose MAC address it needs.
    ways: BTreeMap<IpAddr, (Hop, IpAddr)>,
    /// Numbers of real servers at each address.
    reals: BTreeMap<IpAddr, Vec<u32>>,
    /// Real servers' addresses behind each neighbour, which is given by its interface and address.
    behind: BTreeMap<(u32, IpAddr), BTreeSet<IpAddr>>,
    /// The neighbour that the kernel was last asked to make sure of.
    refreshed: Option<(u32, IpAddr)>,
}

/// What ways are found from: the director's interfaces, and its addresses that come and go, VIPs and sources.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    pub interfaces: &'a [Interface],
    pub vips: &'a BTreeSet<IpAddr>,
}

impl Hops {
    /// Looks up the way to every real server of the plan, anew.
    pub async fn look_up(network: &Network, plan: &Plan, ids: &Ids, interfaces: &[Interface]) -> Self {
        let mut hops = Self::default();
        plan.services.iter().for_each(|service| hops.add(service, ids));
        let all: Vec<IpAddr> = hops.reals.keys().copied().collect();
        hops.find(network, &all, Surroundings { interfaces, vips: &lent(plan) }).await;
        hops
    }

    /// Looks up the ways to real servers that are new in a plan. `ids` has the numbers of those that have left it, too.
    pub async fn replace(
        &mut self,
        network: &Network,
        (old, new): (&Plan, &Plan),
        difference: &Difference,
        ids: &Ids,
        interfaces: &[Interface],
    ) {
        let former = difference.changed.iter().filter_map(|(before, _)| *before).chain(difference.gone.iter().copied());
        former.for_each(|index| self.remove(&old.services[index], ids));
        difference.changed.iter().for_each(|(_, index)| self.add(&new.services[*index], ids));
        let gone: Vec<IpAddr> = former_addresses(old, difference).filter(|a| !self.reals.contains_key(a)).collect();
        for address in gone {
            self.forget(address);
        }
        let changed = difference.changed.iter().flat_map(|(_, index)| addresses(&new.services[*index]));
        let unknown: BTreeSet<IpAddr> = changed.filter(|address| !self.ways.contains_key(address)).collect();
        let unknown: Vec<IpAddr> = unknown.into_iter().collect();
        self.find(network, &unknown, Surroundings { interfaces, vips: &lent(new) }).await;
    }

    fn add(&mut self, service: &ServicePlan, ids: &Ids) {
        for address in addresses(service) {
            if let Some(number) = ids.real(&service.name, service.family, Some(address)) {
                self.reals.entry(address).or_default().push(number);
            }
        }
    }

    fn remove(&mut self, service: &ServicePlan, ids: &Ids) {
        for address in addresses(service) {
            let number = ids.real(&service.name, service.family, Some(address));
            if let Some(numbers) = self.reals.get_mut(&address) {
                numbers.retain(|known| Some(*known) != number);
                if numbers.is_empty() {
                    self.reals.remove(&address);
                }
            }
        }
    }

    fn forget(&mut self, address: IpAddr) {
        let Some((hop, neighbour)) = self.ways.remove(&address) else { return };
        if let Some(behind) = self.behind.get_mut(&(hop.interface, neighbour)) {
            behind.remove(&address);
            if behind.is_empty() {
                self.behind.remove(&(hop.interface, neighbour));
            }
        }
    }

    async fn find(&mut self, network: &Network, addresses: &[IpAddr], around: Surroundings<'_>) {
        let mut failed = 0;
        let mut finder = Finder::new(network, addresses.len(), around).await;
        for &address in addresses {
            match finder.way(address).await {
                Ok((hop, neighbour)) => {
                    self.behind.entry((hop.interface, neighbour)).or_default().insert(address);
                    self.ways.insert(address, (hop, neighbour));
                }
                Err(why) => {
                    failed += 1;
                    if failed <= MOST_LINES {
                        tracing::warn!("no way to real server {address}: {why}");
                    }
                }
            }
        }
        if failed > MOST_LINES {
            tracing::warn!("nor to {} others", failed - MOST_LINES);
        }
    }

    /// Neighbours that are not known yet: interface and address.
    pub fn unresolved(&self) -> Vec<(u32, IpAddr)> {
        let is_unknown = |address: &IpAddr| self.ways.get(address).is_none_or(|(hop, _)| hop.destination_mac.is_none());
        let unknown = self.behind.iter().filter(|(_, behind)| behind.first().is_none_or(is_unknown));
        unknown.map(|(neighbour, _)| *neighbour).collect()
    }

    /// Asks the kernel to find the neighbours that are not known.
    pub async fn ask_for_unresolved(&self, network: &Network) {
        for (interface, neighbour) in self.unresolved() {
            ask(network, interface, neighbour).await;
        }
    }

    /// Looks whether the kernel has found those that were not known.
    pub async fn look_for_unresolved(&mut self, network: &Network, memory: &Memory) -> Result<(), NetworkError> {
        let unresolved = self.unresolved();
        if unresolved.len() <= ONE_BY_ONE {
            for (interface, address) in unresolved {
                let mac = network.neighbour(interface, address).await?;
                self.neighbour(memory, interface, address, mac);
            }
            return Ok(());
        }
        let known = network.neighbours().await?;
        for (interface, address) in unresolved {
            self.neighbour(memory, interface, address, known.get(&(interface, address)).copied());
        }
        Ok(())
    }

    /// Asks the kernel to make sure of the next neighbours, of all in `rounds` calls.
    pub async fn refresh(&mut self, network: &Network, rounds: usize) {
        let share = self.behind.len().div_ceil(rounds);
        let next: Vec<(u32, IpAddr)> = match self.refreshed {
            Some(last) => {
                let after = (std::ops::Bound::Excluded(last), std::ops::Bound::Unbounded);
                self.behind.range(after).map(|(neighbour, _)| *neighbour).take(share).collect()
            }
            None => self.behind.keys().copied().take(share).collect(),
        };
        // From the beginning, in the next call.
        self.refreshed = next.last().copied();
        for (interface, neighbour) in next {
            ask(network, interface, neighbour).await;
        }
    }

    /// A neighbour was found, moved or was lost: the real servers behind it get the new way at once.
    pub fn neighbour(&mut self, memory: &Memory, interface: u32, address: IpAddr, mac: Option<[u8; 6]>) -> bool {
        let Some(behind) = self.behind.get(&(interface, address)) else { return false };
        for real in behind {
            let Some((hop, _)) = self.ways.get_mut(real) else { continue };
            if hop.destination_mac != mac {
                hop.destination_mac = mac;
                self.reals.get(real).into_iter().flatten().for_each(|&n| services::set_hop(memory, n, hop));
            }
        }
        true
    }

    /// Tells packets all ways.
    pub fn write(&self, memory: &Memory) {
        for (address, (hop, _)) in &self.ways {
            self.reals.get(address).into_iter().flatten().for_each(|&n| services::set_hop(memory, n, hop));
        }
    }

    /// Tells packets the ways to the real servers of what has changed.
    pub fn write_changed(&self, memory: &Memory, new: &Plan, difference: &Difference, ids: &Ids) {
        for service in difference.changed.iter().map(|(_, index)| &new.services[*index]) {
            for address in addresses(service) {
                if let (Some((hop, _)), Some(number)) =
                    (self.ways.get(&address), ids.real(&service.name, service.family, Some(address)))
                {
                    services::set_hop(memory, number, hop);
                }
            }
        }
    }
}

/// More than this many addresses are looked up among all routes and neighbours, and not one by one: a request to the
/// kernel takes some 20 microseconds.
const ONE_BY_ONE: usize = 64;
/// Of real servers without a way, those that are named.
pub const MOST_LINES: usize = 10;

/// Addresses of a service's real servers. The director itself has no way to be looked up.
fn addresses(service: &ServicePlan) -> impl Iterator<Item = IpAddr> {
    service.reals.iter().filter(|real| real.forward != Forward::Local).filter_map(|real| real.address)
}

fn former_addresses<'a>(old: &'a Plan, difference: &'a Difference) -> impl Iterator<Item = IpAddr> + 'a {
    let former = difference.changed.iter().filter_map(|(before, _)| *before).chain(difference.gone.iter().copied());
    former.flat_map(|index| addresses(&old.services[index]))
}

/// Finds ways.
struct Finder<'a> {
    network: &'a Network,
    around: Surroundings<'a>,
    interfaces: HashMap<u32, &'a Interface>,
    /// For many addresses.
    known: Option<Known>,
    /// The kernel's answer for one address of each prefix.
    routes: HashMap<IpNet, Result<Route, String>>,
}

/// All prefixes and neighbours.
struct Known {
    /// By whether the prefix leads everywhere in it to the same next hop, or to the same error.
    prefixes: Prefixes<bool>,
    plain_rules: [bool; 2],
    neighbours: HashMap<(u32, IpAddr), [u8; 6]>,
}

impl Known {
    async fn read(network: &Network) -> Result<Self, NetworkError> {
        let mut single: HashMap<IpNet, bool> = HashMap::new();
        for route in network.fib().await? {
            *single.entry(route.destination.trunc()).or_insert(true) &= route.target.is_some();
        }
        Ok(Self {
            prefixes: single.into_iter().collect(),
            plain_rules: network.plain_rules().await?,
            neighbours: network.neighbours().await?,
        })
    }

    /// The prefix whose other addresses have the same route: the longest one of all tables, since whatever else contains
    /// the address contains all of it.
    fn prefix(&self, address: IpAddr) -> Option<IpNet> {
        let (net, single) = self.prefixes.longest(address.into())?;
        (*single && self.plain_rules[usize::from(address.is_ipv6())]).then_some(net)
    }
}

impl<'a> Finder<'a> {
    async fn new(network: &'a Network, addresses: usize, around: Surroundings<'a>) -> Self {
        let known = if addresses > ONE_BY_ONE { Known::read(network).await.ok() } else { None };
        let interfaces = around.interfaces.iter().map(|interface| (interface.index, interface)).collect();
        Self { network, around, interfaces, known, routes: HashMap::new() }
    }

    async fn way(&mut self, address: IpAddr) -> Result<(Hop, IpAddr), String> {
        let route = self.route(address).await?;
        if route.local {
            return Err("it is the director itself; a local real server has `forward = \"local\"`".into());
        }
        let Some(interface) = self.interfaces.get(&route.interface) else {
            return Err(format!(
                "its route leaves through interface {}, which is neither outside nor inside in [router]",
                route.interface
            ));
        };
        let neighbour = route.gateway.unwrap_or(address);
        let mac = match &self.known {
            Some(known) => known.neighbours.get(&(route.interface, neighbour)).copied(),
            None => self.network.neighbour(route.interface, neighbour).await.map_err(|e| e.to_string())?,
        };
        let source = tunnel_source(&route, interface, address, self.around.vips);
        Ok((Hop { source, ..hop(&route, interface, mac) }, neighbour))
    }

    async fn route(&mut self, address: IpAddr) -> Result<Route, String> {
        let prefix = self.known.as_ref().and_then(|known| known.prefix(address));
        if let Some(route) = prefix.and_then(|prefix| self.routes.get(&prefix)) {
            return route.clone();
        }
        let route = self.network.route_to(address).await.map_err(|error| error.to_string());
        // A path MTU that was discovered is of this address alone.
        let is_shared = route.as_ref().map_or(true, |route| route.mtu.is_none() && !route.local);
        if let Some(prefix) = prefix.filter(|_| is_shared) {
            self.routes.insert(prefix, route.clone());
        }
        route
    }
}

fn hop(route: &Route, interface: &Interface, destination_mac: Option<[u8; 6]>) -> Hop {
    let mtu = route.mtu.unwrap_or(interface.mtu).min(interface.mtu);
    Hop {
        interface: route.interface,
        source_mac: interface.mac,
        destination_mac,
        source: route.source,
        mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
    }
}

/// The outer source of tunnels: never a VIP, which the real server has itself, and which may be another director's
/// tomorrow. The kernel takes an IPv6 VIP readily (RFC 6724 §5, rule 8: the longest matching prefix).
fn tunnel_source(route: &Route, interface: &Interface, to: IpAddr, vips: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let source = route.source?;
    if !vips.contains(&source) {
        return Some(source);
    }
    let own = || {
        interface.addresses.iter().filter(|net| {
            let address = net.addr();
            let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
            address.is_ipv4() == to.is_ipv4() && !link_local && !vips.contains(&address)
        })
    };
    let on_link = own().find(|net| net.contains(&to));
    on_link.or_else(|| own().next()).map(|net| net.addr()).or(Some(source))
}

/// The director's addresses that come and go with the configuration.
fn lent(plan: &Plan) -> BTreeSet<IpAddr> {
    plan.vips.union(&plan.sources).copied().collect()
}

/// Asks the kernel for a neighbour.
pub async fn ask(network: &Network, interface: u32, address: IpAddr) {
    match network.resolve(interface, address).await {
        Ok(()) => {}
        // The next change of the link or of routes looks everything up again.
        Err(error @ NetworkError::Request { .. }) => tracing::debug!("resolve {address}: {error}"),
        Err(error) => tracing::warn!("resolve {address}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_begins_at_an_address_of_the_directors_own() {
        let interface = |addresses: &[&str]| Interface {
            index: 2,
            name: "eth0".into(),
            mtu: 1500,
            mac: [2, 0, 0, 0, 0, 1],
            up: true,
            carrier: true,
            kind: None,
            addresses: addresses.iter().map(|net| net.parse().unwrap()).collect(),
        };
        let vips: BTreeSet<IpAddr> = ["192.0.2.10", "2001:db8::10"].map(|vip| vip.parse().unwrap()).into();
        let source = |chosen: &str, to: &str, addresses: &[&str]| {
            let source = Some(chosen.parse().unwrap());
            let route = Route { interface: 2, gateway: None, source, mtu: None, local: false };
            tunnel_source(&route, &interface(addresses), to.parse().unwrap(), &vips).unwrap().to_string()
        };
        let all = ["fe80::1/64", "2001:db8:9::1/64", "2001:db8::1/64", "2001:db8::10/128", "192.0.2.1/24"];
        assert_eq!(source("192.0.2.1", "192.0.2.21", &all), "192.0.2.1");
        assert_eq!(source("2001:db8::10", "2001:db8::21", &all), "2001:db8::1");
        assert_eq!(source("2001:db8::10", "2001:db8:5::21", &all), "2001:db8:9::1");
        assert_eq!(source("192.0.2.10", "192.0.2.21", &all), "192.0.2.1");
        // Better than none.
        assert_eq!(source("192.0.2.10", "192.0.2.21", &["192.0.2.10/32"]), "192.0.2.10");
    }
}
