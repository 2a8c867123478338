//! Netlink messages → values of this module. What a message does not say is `None`, zero or absent.

use super::{FibRoute, Interface, Route, RouteEntry, Target};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteType, RouteVia,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(super) fn interface(link: &LinkMessage, addresses: Vec<IpNet>) -> Interface {
    let (up, carrier) = link_state(link);
    let mut interface = Interface {
        index: link.header.index,
        name: link_name(link),
        mac: [0; 6],
        mtu: 0,
        up,
        carrier,
        kind: None,
        addresses,
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => interface.mac = bytes.as_slice().try_into().unwrap_or_default(),
            LinkAttribute::Mtu(mtu) => interface.mtu = *mtu,
            LinkAttribute::LinkInfo(infos) => {
                interface.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    interface
}

pub(super) fn link_name(link: &LinkMessage) -> String {
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        })
        .unwrap_or_else(|| format!("interface {}", link.header.index))
}

/// Whether it is switched on, and whether it has a carrier.
pub(super) fn link_state(link: &LinkMessage) -> (bool, bool) {
    (link.header.flags.contains(LinkFlags::Up), link.header.flags.contains(LinkFlags::LowerUp))
}

pub(super) fn address(message: &AddressMessage) -> Option<(u32, IpNet)> {
    // rtnetlink(7): on a point-to-point link IFA_ADDRESS is the other end's and IFA_LOCAL the own; otherwise they are
    // the same, or IFA_LOCAL is missing.
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let own = local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })?;
    Some((message.header.index, IpNet::new(own, message.header.prefix_len).ok()?))
}

/// The address, of a route to nothing else.
pub(super) fn only_destination(message: &RouteMessage) -> Option<IpAddr> {
    let net = destination(message)?;
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

/// `None` when the route has a type that no packet gets through.
pub(super) fn route(message: &RouteMessage) -> Option<Route> {
    let local = match message.header.kind {
        RouteType::Local => true,
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit | RouteType::Throw => return None,
        _ => false,
    };
    let source = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::PrefSource(address) => ip(address),
        _ => None,
    });
    let mtu = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) => metrics.iter().find_map(|metric| match metric {
            // 0 is "not set", as the IPv6 side says it.
            RouteMetric::Mtu(mtu @ 1..) => Some(*mtu),
            _ => None,
        }),
        _ => None,
    });
    let (interface, gateway) = next_hop(&message.attributes);
    Some(Route { interface: interface?, gateway, source, mtu, local })
}

/// Nothing unless it is a unicast route of the main table.
pub(super) fn route_entries(message: &RouteMessage) -> Vec<RouteEntry> {
    // RTA_TABLE has the table's full number, the header only one byte of it.
    let table = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    if message.header.kind != RouteType::Unicast
        || table.unwrap_or(message.header.table.into()) != u32::from(RouteHeader::RT_TABLE_MAIN)
    {
        return Vec::new();
    }
    let Some(destination) = destination(message) else { return Vec::new() };
    let hops = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) => Some(hops),
        _ => None,
    });
    let hops = match hops {
        Some(hops) => {
            hops.iter().map(|hop| (Some(hop.interface_index), next_hop(&hop.attributes).1)).collect::<Vec<_>>()
        }
        None => vec![next_hop(&message.attributes)],
    };
    hops.into_iter()
        .filter_map(|(interface, gateway)| Some(RouteEntry { destination, gateway, interface: interface? }))
        .collect()
}

/// `None` when it is of another table.
pub(super) fn fib_route(message: &RouteMessage) -> Option<FibRoute> {
    let table = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    let table = u8::try_from(table.unwrap_or(message.header.table.into())).ok()?;
    if !matches!(table, LOCAL_TABLE | RouteHeader::RT_TABLE_MAIN | DEFAULT_TABLE) {
        return None;
    }
    let metric = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    });
    let local_table = table == LOCAL_TABLE;
    Some(FibRoute {
        destination: destination(message)?,
        metric: metric.unwrap_or(0),
        local_table,
        target: target(message),
    })
}

/// `include/uapi/linux/rtnetlink.h`, `RT_TABLE_LOCAL` and `RT_TABLE_DEFAULT`.
const LOCAL_TABLE: u8 = 255;
const DEFAULT_TABLE: u8 = 253;

/// The next hop, unless there are several, or it depends on more than the destination, or it is not usable now.
fn target(message: &RouteMessage) -> Option<Target> {
    let header = &message.header;
    // Flags: dead, link down, and IPv6's clones for single destinations.
    let plain = header.kind == RouteType::Unicast
        && header.table == RouteHeader::RT_TABLE_MAIN
        && header.tos == 0
        && header.source_prefix_length == 0
        && !header.flags.intersects(RouteFlags::Dead | RouteFlags::Linkdown | RouteFlags::Cloned);
    // A new attribute may mean anything: so those that change nothing are listed.
    let understood = message.attributes.iter().all(|attribute| {
        matches!(
            attribute,
            RouteAttribute::Table(_)
                | RouteAttribute::Destination(_)
                | RouteAttribute::Oif(_)
                | RouteAttribute::Gateway(_)
                | RouteAttribute::Via(_)
                | RouteAttribute::Priority(_)
                | RouteAttribute::PrefSource(_)
                | RouteAttribute::Metrics(_)
                | RouteAttribute::Preference(_)
                | RouteAttribute::CacheInfo(_)
                | RouteAttribute::Expires(_)
        )
    });
    let (interface, gateway) = next_hop(&message.attributes);
    interface.filter(|_| plain && understood).map(|interface| Target { interface, gateway })
}

/// `from all lookup local`, `main` or `default`, and nothing else.
pub(super) fn is_plain_rule(message: &RuleMessage) -> bool {
    let header = &message.header;
    let tables = [LOCAL_TABLE, RouteHeader::RT_TABLE_MAIN, DEFAULT_TABLE];
    header.action == RuleAction::ToTable
        && header.flags.is_empty()
        && (header.src_len, header.dst_len, header.tos) == (0, 0, 0)
        && tables.contains(&header.table)
        && message.attributes.iter().all(|attribute| {
            let unset = matches!(attribute, RuleAttribute::SuppressPrefixLen(u32::MAX));
            let known = matches!(
                attribute,
                RuleAttribute::Table(_) | RuleAttribute::Priority(0 | 32766 | 32767) | RuleAttribute::Protocol(_)
            );
            unset || known
        })
}

/// The neighbour's link-layer address, unless the entry's state says that it is not to be used: `NUD_VALID` of
/// `include/net/neighbour.h`.
pub(super) fn neighbour_mac(message: &NeighbourMessage) -> Option<[u8; 6]> {
    use NeighbourState::{Delay, Noarp, Permanent, Probe, Reachable, Stale};
    if !matches!(message.header.state, Permanent | Noarp | Reachable | Probe | Stale | Delay) {
        return None;
    }
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => bytes.as_slice().try_into().ok(),
        _ => None,
    })
}

/// `None` for the entries of bridges, which have no IP address.
pub(super) fn neighbour_address(message: &NeighbourMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    })
}

fn destination(message: &RouteMessage) -> Option<IpNet> {
    let length = message.header.destination_prefix_length;
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => ip(address),
        _ => None,
    });
    match (address, message.header.address_family) {
        (Some(address), _) => IpNet::new(address, length).ok(),
        // The default route has no RTA_DST.
        (None, AddressFamily::Inet) => Ipv4Net::new(Ipv4Addr::UNSPECIFIED, length).ok().map(IpNet::V4),
        (None, AddressFamily::Inet6) => Ipv6Net::new(Ipv6Addr::UNSPECIFIED, length).ok().map(IpNet::V6),
        _ => None,
    }
}

/// Interface and gateway.
fn next_hop(attributes: &[RouteAttribute]) -> (Option<u32>, Option<IpAddr>) {
    let interface = attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    let gateway = attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        RouteAttribute::Via(RouteVia::Inet(v4)) => Some(IpAddr::V4(*v4)),
        RouteAttribute::Via(RouteVia::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    });
    (interface, gateway)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}
