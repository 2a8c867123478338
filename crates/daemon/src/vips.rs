//! VIPs on the outside interfaces, and their announcements. An address that was there before is nobody's business.

use crate::linux::announce::PacketSocket;
use crate::linux::network::{Interface, Network, NetworkError};
use crate::place::PlacedVip;
use crate::prefixes::Prefixes;
use futures_util::{StreamExt, stream};
use ipnet::IpNet;
use marca_proto::announce::Announcer;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::time::Instant;

/// Which interface gets which VIP: the outside interface whose network it is in, else the first.
pub fn places(vips: &BTreeSet<IpAddr>, outside: &[Interface]) -> Vec<PlacedVip> {
    let networks =
        |interface: &Interface| -> Prefixes<()> { interface.addresses.iter().map(|net| (*net, ())).collect() };
    let outside: Vec<(&str, Prefixes<()>)> = outside.iter().map(|i| (i.name.as_str(), networks(i))).collect();
    let place = |vip: &IpAddr| {
        let on_link = outside.iter().find(|(_, networks)| networks.longest((*vip).into()).is_some());
        let (interface, _) = on_link.or(outside.first())?;
        Some(PlacedVip { interface: (*interface).to_owned(), address: IpNet::from(*vip) })
    };
    vips.iter().filter_map(place).collect()
}

/// Those of `places` whose address no interface has yet: the ones that are ours to put there and to take away.
pub fn missing(places: &[PlacedVip], present: &[(u32, IpNet)]) -> Vec<PlacedVip> {
    let present: HashSet<IpAddr> = present.iter().map(|(_, net)| net.addr()).collect();
    places.iter().filter(|vip| !present.contains(&vip.address.addr())).cloned().collect()
}

/// Puts addresses on their interfaces, which are among these. The kernel is not waited for after each of them.
pub async fn put(network: &Network, vips: &[PlacedVip], interfaces: &[Interface]) -> Result<(), NetworkError> {
    let index = |vip: &PlacedVip| interfaces.iter().find(|interface| interface.name == vip.interface).map(|i| i.index);
    let requests = vips.iter().filter_map(|vip| Some(network.add_address(index(vip)?, vip.address)));
    let mut answers = stream::iter(requests).buffer_unordered(AT_ONCE);
    while let Some(added) = answers.next().await {
        added?;
    }
    Ok(())
}

/// Addresses that the kernel has been asked to add and has not answered for.
const AT_ONCE: usize = 64;

/// Takes addresses off their interfaces; an interface that has gone has taken them along.
pub async fn take(network: &Network, vips: &[PlacedVip]) -> Result<(), NetworkError> {
    let mut indices: HashMap<&str, Option<u32>> = HashMap::new();
    for vip in vips {
        let index = match indices.get(vip.interface.as_str()) {
            Some(index) => *index,
            None => match network.interface(&vip.interface).await {
                Ok(interface) => Some(interface.index),
                Err(NetworkError::NoInterface { .. }) => None,
                Err(error) => return Err(error),
            },
        };
        indices.insert(&vip.interface, index);
        if let Some(index) = index {
            network.remove_address(index, vip.address).await?;
        }
    }
    Ok(())
}

/// Announces VIPs on one interface.
pub struct Announcements {
    interface: u32,
    mac: [u8; 6],
    name: String,
    socket: PacketSocket,
    announcer: Announcer,
}

impl Announcements {
    pub fn open(interface: &Interface) -> Result<Self, crate::linux::announce::PacketError> {
        let socket = PacketSocket::open(interface.index)?;
        let (index, mac, name) = (interface.index, interface.mac, interface.name.clone());
        Ok(Self { interface: index, mac, name, socket, announcer: Announcer::new(mac) })
    }

    /// Whether it is this interface, and not another one in its place.
    pub fn is_of(&self, interface: &Interface) -> bool {
        (self.interface, self.mac, &self.name) == (interface.index, interface.mac, &interface.name)
    }

    /// Whether it is one of that name.
    pub fn is_named(&self, name: &str) -> bool {
        self.name == name
    }

    /// Announces none but these any more.
    pub fn keep(&mut self, vips: &BTreeSet<IpAddr>) {
        self.announcer.retain(|vip| vips.contains(&vip));
    }

    pub fn add(&mut self, vip: IpAddr, now: Instant) {
        self.announcer.add(vip, now);
    }

    /// Sends what is due.
    pub fn poll(&mut self, now: Instant) {
        for frame in self.announcer.poll(now) {
            if let Err(error) = self.socket.send(&frame) {
                tracing::warn!("announce a VIP on {}: {error}", self.name);
            }
        }
    }
}
