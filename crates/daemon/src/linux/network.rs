//! Interfaces, addresses, routes and neighbours, through route netlink. Owns every use of the netlink crates; no type
//! of theirs leaves this module, because they change with each release.

mod changes;
mod decode;

pub use changes::{Change, Changes};

use futures_util::{Stream, StreamExt};
use ipnet::IpNet;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, CacheInfo};
use rtnetlink::packet_route::link::{LinkLayerType, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::packet_route::tc::TcHandle;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{AddressMessageBuilder, Handle, IpVersion};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::pin;
use std::time::Duration;

/// The network of one namespace: the one in which [`open`](Self::open) was called, whatever thread uses it later.
/// Clones share one socket.
#[derive(Clone, Debug)]
pub struct Network {
    handle: Handle,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub index: u32,
    pub name: String,
    /// Zero when the interface has no Ethernet address.
    pub mac: [u8; 6],
    /// Bytes.
    pub mtu: u32,
    /// Switched on (`ip link set … up`).
    pub up: bool,
    /// There is a cable and somebody at its other end.
    pub carrier: bool,
    /// What kind of virtual device it is (`veth`, `vlan`, `bond`); `None` for hardware.
    pub kind: Option<String>,
    /// Its own addresses, each with the length of its prefix.
    pub addresses: Vec<IpNet>,
}

/// The way that the kernel would send a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Index of the interface; the loopback's when `local`.
    pub interface: u32,
    /// The router to give it to, which may be of the other family (RFC 5549); `None` when the destination is on the
    /// link.
    pub gateway: Option<IpAddr>,
    /// The source address that the kernel would choose.
    pub source: Option<IpAddr>,
    /// Bytes, when the route or a path MTU discovery says so; otherwise the interface's counts.
    pub mtu: Option<u32>,
    /// The destination is an address of this host.
    pub local: bool,
}

/// One unicast route of the main table. A route with several next hops is several entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteEntry {
    pub destination: IpNet,
    /// `None` when the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Index of the interface.
    pub interface: u32,
}

/// A route of the tables that plain rules lead to: `local`, `main` and `default`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FibRoute {
    pub destination: IpNet,
    /// Lower goes first.
    pub metric: u32,
    /// Of the table `local`, which goes before the others.
    pub local_table: bool,
    /// `None` when it does not lead every packet to one next hop, or to none now.
    pub target: Option<Target>,
}

/// A next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Index of the interface.
    pub interface: u32,
    /// `None` when the destination is on the link.
    pub gateway: Option<IpAddr>,
}

impl Network {
    /// Opens a netlink socket in the network namespace of the calling thread, and starts the task that serves it,
    /// which ends when the last clone is dropped.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time enabled.
    pub fn open() -> Result<Self, NetworkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetworkError::Open)?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// The interface of this name. When there is none, the error lists those that exist.
    pub async fn interface(&self, name: &str) -> Result<Interface, NetworkError> {
        let doing = || format!("look up the interface {name}");
        let mut links = match collect(self.handle.link().get().match_name(name).execute()).await {
            Ok(links) => links,
            // A name longer than a name may be is out of the attribute's range.
            Err(cause) if matches!(cause.raw_os_error(), Some(libc::ENODEV | libc::ERANGE | libc::EINVAL)) => {
                Vec::new()
            }
            Err(cause) => return Err(NetworkError::request(doing(), cause)),
        };
        let Some(link) = links.pop() else {
            let existing = self.links().await?.iter().map(decode::link_name).collect();
            return Err(NetworkError::NoInterface { name: name.to_owned(), existing });
        };
        let index = link.header.index;
        let addresses = self.addresses().await?;
        let addresses = addresses.into_iter().filter(|(of, _)| *of == index).map(|(_, address)| address).collect();
        Ok(decode::interface(&link, addresses))
    }

    /// Every address of this namespace, with the index of its interface.
    pub async fn addresses(&self) -> Result<Vec<(u32, IpNet)>, NetworkError> {
        let messages = collect(self.handle.address().get().execute())
            .await
            .map_err(|cause| NetworkError::request("list the addresses", cause))?;
        Ok(messages.iter().filter_map(decode::address).collect())
    }

    /// Takes the qdisc `clsact` off an interface when nobody has a filter in it; false when somebody has.
    pub async fn remove_idle_clsact(&self, interface: &str) -> Result<bool, NetworkError> {
        let doing = || format!("take the qdisc clsact off {interface}");
        // With its interface it has gone.
        let Ok(found) = self.interface(interface).await else { return Ok(true) };
        let filters = self.handle.traffic_filter(found.index as i32);
        for request in [filters.clone().get().ingress(), filters.clone().get().egress()] {
            let filters = collect(request.execute()).await.map_err(|cause| NetworkError::request(doing(), cause))?;
            if !filters.is_empty() {
                return Ok(false);
            }
        }
        let mut request = self.handle.qdisc().del(found.index as i32);
        request.message_mut().header.parent = TcHandle::CLSACT;
        request.message_mut().header.handle = TcHandle { major: TcHandle::CLSACT.major, minor: 0 };
        let removed = within_limit(async { request.execute().await.map_err(io_error) }).await;
        removed.map(|()| true).map_err(|cause| NetworkError::request(doing(), cause))
    }

    /// Adds an address to the interface with this index. `false` when it was there already; the kernel tells IPv4
    /// addresses apart by their prefix length too, IPv6 addresses not.
    ///
    /// An IPv6 address is usable at once: without duplicate address detection, which a VIP that moves from the other
    /// director would fail as long as that one still answers for it. And it is deprecated (RFC 4862 §5.5.4): the kernel takes
    /// it as a source only if there is no other one. A real server that has the VIP itself could not answer a check from it.
    pub async fn add_address(&self, index: u32, address: IpNet) -> Result<bool, NetworkError> {
        let mut request = self.handle.address().add(index, address.addr(), address.prefix_len());
        if address.addr().is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
            let mut lifetimes = CacheInfo::default();
            (lifetimes.ifa_preferred, lifetimes.ifa_valid) = (0, FOR_EVER);
            request.message_mut().attributes.push(AddressAttribute::CacheInfo(lifetimes));
        }
        match within_limit(async { request.execute().await.map_err(io_error) }).await {
            Ok(()) => Ok(true),
            Err(cause) if cause.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(cause) => {
                let interface = self.name(index).await;
                // net/ipv6/addrconf.c, `addrconf_add_dev`. Missing privilege is EPERM, so this is unambiguous, and
                // its text would send the operator the wrong way.
                let cause = match (address, cause.raw_os_error()) {
                    (IpNet::V6(_), Some(libc::EACCES)) => {
                        io::Error::other(format!("IPv6 is disabled there (net.ipv6.conf.{interface}.disable_ipv6)"))
                    }
                    _ => cause,
                };
                Err(NetworkError::request(format!("add {address} to {interface}"), cause))
            }
        }
    }

    /// Removes an address from the interface with this index. `false` when it was not there with just this prefix
    /// length.
    ///
    /// Mind that the kernel removes with an IPv4 address those that were added later within the same prefix, unless
    /// `net.ipv4.conf.*.promote_secondaries` is set. A `/32` has no such company.
    pub async fn remove_address(&self, index: u32, address: IpNet) -> Result<bool, NetworkError> {
        let request = self.handle.address().del(address_message(index, address));
        match within_limit(async { request.execute().await.map_err(io_error) }).await {
            Ok(()) => Ok(true),
            Err(cause) if cause.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(false),
            Err(cause) => {
                let interface = self.name(index).await;
                Err(NetworkError::request(format!("remove {address} from {interface}"), cause))
            }
        }
    }

    /// The way to `destination`, for packets without a mark from this host.
    pub async fn route_to(&self, destination: IpAddr) -> Result<Route, NetworkError> {
        let unreachable = |reason| NetworkError::Unreachable { destination, reason };
        let replies = match collect(self.handle.route().get(route_query(destination)).execute()).await {
            Ok(replies) => replies,
            // net/ipv4/fib_semantics.c, `fib_props`; net/ipv6/route.c, `ip6_rt_type_to_error`. A lookup needs no
            // privilege and is well formed, so these two can only come from a route of that type.
            Err(cause) => match cause.raw_os_error() {
                Some(libc::ENETUNREACH) => return Err(unreachable("there is no route")),
                Some(libc::EHOSTUNREACH) => return Err(unreachable("its route is of type unreachable")),
                Some(libc::EACCES) => return Err(unreachable("its route is of type prohibit")),
                Some(libc::EINVAL) => return Err(unreachable("its route is of type blackhole")),
                _ => return Err(NetworkError::request(format!("look up the route to {destination}"), cause)),
            },
        };
        replies.first().and_then(decode::route).ok_or_else(|| unreachable("its route leads nowhere"))
    }

    /// The MAC address of a neighbour, when the kernel has one that it would use: not while it still asks, nor when
    /// nobody answered.
    pub async fn neighbour(&self, index: u32, address: IpAddr) -> Result<Option<[u8; 6]>, NetworkError> {
        Ok(self.neighbour_entry(index, address).await?.as_ref().and_then(decode::neighbour_mac))
    }

    /// Makes the kernel find or refresh a neighbour as if it had a packet for it (`ip neigh … use`), and returns at
    /// once. The outcome is seen in [`neighbour`](Self::neighbour) or as a [`Change::Neighbour`].
    ///
    /// A neighbour that changed its MAC address in silence is lost first, since the kernel probes the old address, and
    /// is found by the next call.
    ///
    /// XDP sends without the kernel's knowledge, so that to the kernel a busy neighbour looks unused: it neither
    /// confirms nor keeps the entry unless it is reminded.
    pub async fn resolve(&self, index: u32, address: IpAddr) -> Result<(), NetworkError> {
        // NTF_USE strips NUD_PERMANENT from an entry that the operator has set: net/core/neighbour.c,
        // `__neigh_update`. Such an entry needs no refreshing anyway.
        if let Some(entry) = self.neighbour_entry(index, address).await?
            && matches!(entry.header.state, NeighbourState::Permanent | NeighbourState::Noarp)
        {
            return Ok(());
        }
        let mut message = neighbour_message(index, address);
        message.header.flags = NeighbourFlags::Use;
        // Not `handle.neighbours().add()`: that sends NLM_F_EXCL, or NLM_F_REPLACE, which would override the entry.
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
        match self.transact(RouteNetlinkMessage::NewNeighbour(message), flags).await {
            Ok(_) => Ok(()),
            Err(cause) => {
                let interface = self.name(index).await;
                Err(NetworkError::request(format!("resolve {address} on {interface}"), cause))
            }
        }
    }

    /// The unicast routes of the main table, of both families.
    pub async fn routes(&self) -> Result<Vec<RouteEntry>, NetworkError> {
        let mut entries = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut query = RouteMessage::default();
            query.header.address_family = family;
            let routes = collect(self.handle.route().get(query).execute())
                .await
                .map_err(|cause| NetworkError::request("list the routes", cause))?;
            entries.extend(routes.iter().flat_map(decode::route_entries));
        }
        Ok(entries)
    }

    /// All routes of the tables `local`, `main` and `default`, of both families.
    pub async fn fib(&self) -> Result<Vec<FibRoute>, NetworkError> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut query = RouteMessage::default();
            query.header.address_family = family;
            let messages = collect(self.handle.route().get(query).execute())
                .await
                .map_err(|cause| NetworkError::request("list the routes", cause))?;
            routes.extend(messages.iter().filter_map(decode::fib_route));
        }
        Ok(routes)
    }

    /// Whether IPv4 and IPv6 have only the rules that every kernel begins with: `local`, `main`, and IPv4's `default`.
    pub async fn plain_rules(&self) -> Result<[bool; 2], NetworkError> {
        let mut plain = [false; 2];
        for (plain, version) in plain.iter_mut().zip([IpVersion::V4, IpVersion::V6]) {
            let rules = collect(self.handle.rule().get(version).execute())
                .await
                .map_err(|cause| NetworkError::request("list the routing rules", cause))?;
            *plain = rules.iter().all(decode::is_plain_rule);
        }
        Ok(plain)
    }

    /// MAC addresses of all Ethernet interfaces, by index.
    pub async fn ethernet(&self) -> Result<HashMap<u32, [u8; 6]>, NetworkError> {
        let links = self.links().await?;
        let links = links.iter().filter(|link| link.header.link_layer_type == LinkLayerType::Ether);
        Ok(links.map(|link| decode::interface(link, Vec::new())).map(|link| (link.index, link.mac)).collect())
    }

    /// MAC addresses of all neighbours that packets can be sent to, by interface and address.
    pub async fn neighbours(&self) -> Result<HashMap<(u32, IpAddr), [u8; 6]>, NetworkError> {
        let messages = collect(self.handle.neighbours().get().execute())
            .await
            .map_err(|cause| NetworkError::request("list the neighbours", cause))?;
        let usable = messages.iter().filter_map(|message| {
            let address = decode::neighbour_address(message)?;
            Some(((message.header.ifindex, address), decode::neighbour_mac(message)?))
        });
        Ok(usable.collect())
    }

    async fn links(&self) -> Result<Vec<LinkMessage>, NetworkError> {
        collect(self.handle.link().get().execute())
            .await
            .map_err(|cause| NetworkError::request("list the interfaces", cause))
    }

    /// The interface's name for a message, or its number when it has gone.
    async fn name(&self, index: u32) -> String {
        match collect(self.handle.link().get().match_index(index).execute()).await.as_deref() {
            Ok([link, ..]) => decode::link_name(link),
            _ => format!("interface {index}"),
        }
    }

    async fn neighbour_entry(&self, index: u32, address: IpAddr) -> Result<Option<NeighbourMessage>, NetworkError> {
        // One entry (since Linux 5.0), not a dump: a table may hold thousands.
        let query = RouteNetlinkMessage::GetNeighbour(neighbour_message(index, address));
        match self.transact(query, NLM_F_REQUEST).await {
            Ok(replies) => Ok(replies.into_iter().find_map(|reply| match reply {
                RouteNetlinkMessage::NewNeighbour(entry) => Some(entry),
                _ => None,
            })),
            Err(cause) if cause.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(cause) => {
                let interface = self.name(index).await;
                Err(NetworkError::request(format!("look up the neighbour {address} on {interface}"), cause))
            }
        }
    }

    /// For requests that rtnetlink has no builder for.
    async fn transact(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = flags;
        let replies = self.handle.clone().request(request).map_err(io_error)?;
        let replies = replies.filter_map(async |reply| match reply.payload {
            NetlinkPayload::InnerMessage(message) => Some(Ok(message)),
            NetlinkPayload::Error(error) => Some(Err(rtnetlink::Error::NetlinkError(error))),
            _ => None,
        });
        collect(replies).await
    }
}

/// What could not be done with the network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("open a route netlink socket: {0}")]
    Open(io::Error),
    #[error("there is no interface {name:?}; there are {}", existing.join(", "))]
    NoInterface { name: String, existing: Vec<String> },
    #[error("{destination} cannot be reached: {reason}")]
    Unreachable { destination: IpAddr, reason: &'static str },
    /// The kernel refused, or did not answer.
    #[error("{doing}: {cause}")]
    Request { doing: String, cause: io::Error },
}

impl NetworkError {
    fn request(doing: impl Into<String>, cause: io::Error) -> Self {
        Self::Request { doing: doing.into(), cause }
    }
}

fn address_message(index: u32, address: IpNet) -> AddressMessage {
    match address {
        IpNet::V4(v4) => {
            AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(v4.addr(), v4.prefix_len()).build()
        }
        IpNet::V6(v6) => {
            AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(v6.addr(), v6.prefix_len()).build()
        }
    }
}

fn route_query(destination: IpAddr) -> RouteMessage {
    let mut query = RouteMessage::default();
    query.header.address_family = family(destination);
    query.header.destination_prefix_length = if destination.is_ipv4() { 32 } else { 128 };
    query.attributes.push(RouteAttribute::Destination(RouteAddress::from(destination)));
    query
}

fn neighbour_message(index: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = index;
    message.attributes.push(NeighbourAttribute::Destination(address.into()));
    message
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

async fn collect<T>(replies: impl Stream<Item = Result<T, rtnetlink::Error>>) -> io::Result<Vec<T>> {
    let mut replies = pin!(replies);
    within_limit(async {
        let mut all = Vec::new();
        while let Some(reply) = replies.next().await {
            all.push(reply.map_err(io_error)?);
        }
        Ok(all)
    })
    .await
}

/// `include/net/addrconf.h`, `INFINITY_LIFE_TIME`.
const FOR_EVER: u32 = u32::MAX;

/// netlink-proto waits for ever for a reply that was lost, or that its decoder did not understand.
async fn within_limit<T>(request: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(REPLY_LIMIT, request)
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel's answer did not arrive")))
}

fn io_error(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        rtnetlink::Error::RequestFailed => io::Error::new(io::ErrorKind::BrokenPipe, "the netlink socket is closed"),
        other => io::Error::other(other.to_string()),
    }
}

/// The kernel answers in microseconds; a full routing table takes about a second.
const REPLY_LIMIT: Duration = Duration::from_secs(10);
