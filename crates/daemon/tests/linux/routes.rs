//! The copy of the kernel's routes: where it has an answer, it is the kernel's.

use crate::namespace::Namespace;
use marca_daemon::linux::network::Network;
use marca_daemon::routes::{Fib, NextHops};
use marca_engine::layout::NextHop;
use std::net::IpAddr;

/// Routes of most of the kinds that there are, in both families.
const ROUTES: [&str; 20] = [
    "0.0.0.0/0 via 192.0.2.254",
    "198.51.100.0/24 via 192.0.2.253",
    "198.51.100.128/25 dev eth1",
    "198.51.100.129/32 via 10.0.0.253",
    "203.0.113.0/24 nexthop via 192.0.2.253 nexthop via 192.0.2.254",
    "unreachable 203.0.112.0/24",
    "blackhole 203.0.112.7/32",
    "100.64.0.0/10 via 192.0.2.253 metric 20",
    "100.64.0.0/10 via 192.0.2.254 metric 10",
    "100.65.0.0/16 via 192.0.2.252",
    "100.66.0.0/16 via 192.0.2.254 tos 0x10",
    "100.66.0.0/16 via 192.0.2.253",
    "100.67.0.0/16 via inet6 2001:db8::fe dev eth0",
    "::/0 via 2001:db8::fe",
    "2001:db8:51::/48 via 2001:db8::fd",
    "2001:db8:51:1::/64 dev eth1",
    "unreachable 2001:db8:52::/48",
    "2001:db8:53::/48 nexthop via 2001:db8::fd nexthop via 2001:db8::fe",
    "2001:db8:54::/48 via 2001:db8::fd metric 20",
    "2001:db8:54::/48 via 2001:db8::fe metric 10",
];

/// In `eth0`, but those of 10.0.0.0/24. The last byte of the address is that of the MAC address.
const NEIGHBOURS: [&str; 8] = [
    "192.0.2.253",
    "192.0.2.254",
    "192.0.2.7",
    "10.0.0.253",
    "10.0.0.7",
    "198.51.100.200",
    "2001:db8::fd",
    "2001:db8::fe",
];

/// Whom the copy must know, so that it is not right by saying nothing.
const KNOWN: [&str; 11] = [
    "8.8.8.8",
    "192.0.2.7",
    "192.0.2.254",
    "10.0.0.7",
    "198.51.100.1",
    "198.51.100.129",
    "198.51.100.200",
    "100.67.0.1",
    "100.64.0.1",
    "2001:db8:99::1",
    "2001:db8:51::1",
];

const UNKNOWN: [&str; 16] = [
    "192.0.2.8",
    "192.0.2.1",
    "192.0.2.255",
    "127.0.0.1",
    "198.51.100.130",
    "203.0.113.1",
    "203.0.112.1",
    "203.0.112.7",
    "100.65.0.1",
    "100.66.0.1",
    "2001:db8::1",
    "2001:db8:51:1::1",
    "2001:db8:52::1",
    "2001:db8:53::1",
    "2001:db8:54::1",
    "ff02::1",
];

fn director(label: &str) -> (Namespace, Namespace) {
    let (near, far) = (Namespace::new(&format!("{label}-near")), Namespace::new(&format!("{label}-far")));
    Namespace::connect((&near, "eth0", &["192.0.2.1/24", "2001:db8::1/64"]), (&far, "eth0", &[]));
    Namespace::connect((&near, "eth1", &["10.0.0.1/24"]), (&far, "eth1", &[]));
    for neighbour in NEIGHBOURS {
        let mac = mac(neighbour.parse().unwrap()).map(|byte| format!("{byte:02x}")).join(":");
        let inside = neighbour.starts_with("10.") || neighbour.starts_with("198.");
        let interface = if inside { "eth1" } else { "eth0" };
        near.ip(&format!("neighbour add {neighbour} lladdr {mac} nud permanent dev {interface}"));
    }
    for route in ROUTES {
        near.ip(&format!("route add {route}"));
    }
    (near, far)
}

fn mac(address: IpAddr) -> [u8; 6] {
    let last = match address {
        IpAddr::V4(v4) => v4.octets()[3],
        IpAddr::V6(v6) => v6.octets()[15],
    };
    [2, 0, 0, 0, 0, last]
}

async fn copied(network: &Network, address: &str) -> Option<NextHop> {
    NextHops::of(&Fib::read(network).await.unwrap()).find(address.parse().unwrap())
}

#[test]
fn the_copy_of_the_routes_leads_where_the_kernel_does_or_says_nothing() {
    let (near, _far) = director("copy");
    near.run_async(|| async {
        let network = Network::open().unwrap();
        let copy = NextHops::of(&Fib::read(&network).await.unwrap());
        for text in KNOWN.into_iter().chain(UNKNOWN) {
            let address: IpAddr = text.parse().unwrap();
            let Some(hop) = copy.find(address) else {
                assert!(!KNOWN.contains(&text), "{text} is asked of the kernel");
                continue;
            };
            assert!(!UNKNOWN.contains(&text), "{text}: {hop:?}");
            let route = network.route_to(address).await.unwrap();
            assert!(!route.local, "{text}");
            let neighbour = route.gateway.unwrap_or(address);
            assert_eq!((hop.interface, hop.macs.destination()), (route.interface, mac(neighbour)), "{text}");
            let interface =
                if route.interface == network.interface("eth0").await.unwrap().index { "eth0" } else { "eth1" };
            assert_eq!(hop.macs.source(), network.interface(interface).await.unwrap().mac, "{text}");
        }
    });
}

#[test]
fn rules_dead_links_and_lost_neighbours_leave_the_routes_to_the_kernel() {
    let (near, far) = director("nocopy");
    near.run_async(|| async {
        let network = Network::open().unwrap();
        near.ip("rule add from 192.0.2.10 table 100");
        assert_eq!(copied(&network, "8.8.8.8").await, None);
        assert!(copied(&network, "2001:db8:99::1").await.is_some(), "rules are a family's own");
        near.ip("rule delete from 192.0.2.10 table 100");
        assert!(copied(&network, "8.8.8.8").await.is_some());

        near.ip("neighbour delete 192.0.2.254 dev eth0");
        assert_eq!(copied(&network, "8.8.8.8").await, None);

        assert!(copied(&network, "198.51.100.1").await.is_some());
        far.ip("link set eth0 down");
        let asked =
            crate::namespace::eventually(async || copied(&network, "198.51.100.1").await.is_none().then_some(()));
        asked.await;
    });
}
