//! The way to each real server: interface, MAC addresses, tunnel source. Asked of the kernel, kept fresh there, and
//! written to where packets look.

use crate::linux::network::{Interface, Network, NetworkError, Route};
use marca_config::model::Forward;
use marca_config::plan::Plan;
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
}

impl Hops {
    /// Looks up the way to every real server of the plan, anew.
    pub async fn look_up(network: &Network, plan: &Plan, ids: &Ids, known: &[Interface]) -> Self {
        let mut hops = Self { reals: addresses(plan, ids), ..Self::default() };
        let by_index: HashMap<u32, &Interface> = known.iter().map(|i| (i.index, i)).collect();
        for &address in hops.reals.keys() {
            match way(network, address, &by_index, &plan.vips).await {
                Ok(way) => _ = hops.ways.insert(address, way),
                Err(why) => tracing::warn!("no way to real server {address}: {why}"),
            }
        }
        hops
    }

    /// The neighbours that are needed: interface and address.
    pub fn neighbours(&self) -> BTreeSet<(u32, IpAddr)> {
        self.ways.values().map(|(hop, neighbour)| (hop.interface, *neighbour)).collect()
    }

    /// Those that are not known yet.
    pub fn unresolved(&self) -> BTreeSet<(u32, IpAddr)> {
        let unknown = self.ways.values().filter(|(hop, _)| hop.destination_mac.is_none());
        unknown.map(|(hop, neighbour)| (hop.interface, *neighbour)).collect()
    }

    /// Asks the kernel to find, or to make sure of, all neighbours.
    pub async fn refresh(&self, network: &Network) {
        for (interface, neighbour) in self.neighbours() {
            ask(network, interface, neighbour).await;
        }
    }

    /// A neighbour was found, moved or was lost: the real servers behind it get the new way at once.
    pub fn neighbour(&mut self, memory: &Memory, interface: u32, address: IpAddr, mac: Option<[u8; 6]>) -> bool {
        let mut concerned = false;
        for (real, (hop, neighbour)) in &mut self.ways {
            if (hop.interface, *neighbour) != (interface, address) {
                continue;
            }
            concerned = true;
            if hop.destination_mac != mac {
                hop.destination_mac = mac;
                self.reals.get(real).into_iter().flatten().for_each(|&n| services::set_hop(memory, n, hop));
            }
        }
        concerned
    }

    /// Tells packets all ways.
    pub fn write(&self, memory: &Memory) {
        for (address, (hop, _)) in &self.ways {
            self.reals.get(address).into_iter().flatten().for_each(|&n| services::set_hop(memory, n, hop));
        }
    }
}

/// Numbers of the real servers at each address. The director itself has no way to be looked up.
fn addresses(plan: &Plan, ids: &Ids) -> BTreeMap<IpAddr, Vec<u32>> {
    let mut reals: BTreeMap<IpAddr, Vec<u32>> = BTreeMap::new();
    for service in &plan.services {
        for real in service.reals.iter().filter(|real| real.forward != Forward::Local) {
            if let (Some(address), Some(number)) = (real.address, ids.real(&service.name, service.family, real.address))
            {
                reals.entry(address).or_default().push(number);
            }
        }
    }
    reals
}

async fn way(
    network: &Network,
    address: IpAddr,
    interfaces: &HashMap<u32, &Interface>,
    vips: &BTreeSet<IpAddr>,
) -> Result<(Hop, IpAddr), String> {
    let route = network.route_to(address).await.map_err(|e| e.to_string())?;
    if route.local {
        return Err("it is the director itself; a local real server has `forward = \"local\"`".into());
    }
    let Some(interface) = interfaces.get(&route.interface) else {
        return Err(format!(
            "its route leaves through interface {}, which is neither outside nor inside in [router]",
            route.interface
        ));
    };
    let neighbour = route.gateway.unwrap_or(address);
    let mac = network.neighbour(route.interface, neighbour).await.map_err(|e| e.to_string())?;
    let hop = Hop { source: tunnel_source(&route, interface, address, vips), ..hop(&route, interface, mac) };
    Ok((hop, neighbour))
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
