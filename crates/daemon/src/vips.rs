//! VIPs on the outside interfaces, and their announcements. An address that was there before is nobody's business.

use crate::linux::announce::PacketSocket;
use crate::linux::network::{Interface, Network, NetworkError};
use crate::place::PlacedVip;
use ipnet::IpNet;
use marca_proto::announce::Announcer;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

/// Which interface gets which VIP: the outside interface whose network it is in, else the first.
pub fn places(vips: &BTreeSet<IpAddr>, outside: &[Interface]) -> Vec<PlacedVip> {
    let interface = |vip: &IpAddr| {
        let on_link = outside.iter().find(|i| i.addresses.iter().any(|net| net.contains(vip)));
        on_link.or(outside.first())
    };
    vips.iter()
        .filter_map(|vip| {
            let interface = interface(vip)?.name.clone();
            Some(PlacedVip { interface, address: IpNet::from(*vip) })
        })
        .collect()
}

/// Those of `places` whose address no interface has yet: the ones that are ours to put there and to take away.
pub fn missing(places: &[PlacedVip], present: &[(u32, IpNet)]) -> Vec<PlacedVip> {
    let has = |vip: &PlacedVip| present.iter().any(|(_, net)| net.addr() == vip.address.addr());
    places.iter().filter(|vip| !has(vip)).cloned().collect()
}

/// Puts an address on its interface.
pub async fn put(network: &Network, vip: &PlacedVip) -> Result<(), NetworkError> {
    let interface = network.interface(&vip.interface).await?;
    network.add_address(interface.index, vip.address).await.map(drop)
}

/// Takes an address off its interface; an interface that has gone has taken it along.
pub async fn take(network: &Network, vip: &PlacedVip) -> Result<(), NetworkError> {
    match network.interface(&vip.interface).await {
        Ok(interface) => network.remove_address(interface.index, vip.address).await.map(drop),
        Err(NetworkError::NoInterface { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Announces VIPs on one interface.
pub struct Announcements {
    interface: String,
    socket: PacketSocket,
    announcer: Announcer,
}

impl Announcements {
    pub fn open(interface: &Interface) -> Result<Self, crate::linux::announce::PacketError> {
        let socket = PacketSocket::open(interface.index)?;
        Ok(Self { interface: interface.name.clone(), socket, announcer: Announcer::new(interface.mac) })
    }

    pub fn interface(&self) -> &str {
        &self.interface
    }

    pub fn add(&mut self, vip: IpAddr, now: Instant) {
        self.announcer.add(vip, now);
    }

    /// Sends what is due.
    pub fn poll(&mut self, now: Instant) {
        for frame in self.announcer.poll(now) {
            if let Err(error) = self.socket.send(&frame) {
                tracing::warn!("announce a VIP on {}: {error}", self.interface);
            }
        }
    }
}
