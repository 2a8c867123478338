//! Neighbours, with a real peer that answers.

use crate::namespace::{Namespace, eventually};
use marca_daemon::linux::network::Network;
use marca_daemon::linux::sysctl;
use std::net::IpAddr;

const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const PEERS: [&str; 2] = ["192.0.2.2", "2001:db8::2"];

fn pair(label: &str) -> (Namespace, Namespace) {
    let (near, far) = (Namespace::new(&format!("{label}-near")), Namespace::new(&format!("{label}-far")));
    Namespace::connect(
        (&near, "eth0", &["192.0.2.1/24", "2001:db8::1/64"]),
        (&far, "eth0", &["192.0.2.2/24", "2001:db8::2/64"]),
    );
    far.ip("link set eth0 address 02:00:00:00:00:02");
    near.ip("neighbour flush dev eth0");
    (near, far)
}

/// Lets the kernel doubt a neighbour after one second, not five, and probe it every 100 ms, not every second.
fn hurry(near: &Namespace) {
    near.run(|| {
        for family in ["ipv4", "ipv6"] {
            for (key, value) in [("delay_first_probe_time", "1"), ("retrans_time_ms", "100")] {
                sysctl::write(&format!("net.{family}.neigh.eth0.{key}"), value).unwrap();
            }
        }
    });
}

#[test]
fn a_peer_that_was_never_spoken_to_is_found() {
    let (near, _far) = pair("resolve");
    near.run_async(|| async {
        let network = Network::open().unwrap();
        let index = network.interface("eth0").await.unwrap().index;
        for peer in PEERS {
            let peer: IpAddr = peer.parse().unwrap();
            assert_eq!(network.neighbour(index, peer).await.unwrap(), None);
            network.resolve(index, peer).await.unwrap();
            let mac = eventually(async || network.neighbour(index, peer).await.unwrap()).await;
            assert_eq!(mac, PEER_MAC);
        }
    });
}

#[test]
fn a_stale_peer_is_confirmed() {
    let (near, _far) = pair("refresh");
    hurry(&near);
    for peer in PEERS {
        near.ip(&format!("neighbour replace {peer} lladdr 02:00:00:00:00:02 dev eth0 nud stale"));
    }
    near.run_async(|| async {
        let network = Network::open().unwrap();
        let index = network.interface("eth0").await.unwrap().index;
        for peer in PEERS {
            network.resolve(index, peer.parse().unwrap()).await.unwrap();
            eventually(async || near.ip("neighbour show nud reachable").contains(peer).then_some(())).await;
        }
    });
}

#[test]
fn a_peer_that_changed_its_mac_in_silence_is_lost_and_then_found_again() {
    let (near, _far) = pair("moved");
    hurry(&near);
    for peer in PEERS {
        near.ip(&format!("neighbour replace {peer} lladdr 02:00:00:00:00:99 dev eth0 nud stale"));
    }
    near.run_async(|| async {
        let network = Network::open().unwrap();
        let index = network.interface("eth0").await.unwrap().index;
        for peer in PEERS {
            let peer: IpAddr = peer.parse().unwrap();
            network.resolve(index, peer).await.unwrap();
            // The old address counts until the probes, which go to it, have found nobody.
            assert_eq!(network.neighbour(index, peer).await.unwrap(), Some([2, 0, 0, 0, 0, 0x99]));
            eventually(async || network.neighbour(index, peer).await.unwrap().is_none().then_some(())).await;
            network.resolve(index, peer).await.unwrap();
            assert_eq!(eventually(async || network.neighbour(index, peer).await.unwrap()).await, PEER_MAC);
        }
    });
}

#[test]
fn an_address_that_nobody_has_is_no_neighbour() {
    let (near, _far) = pair("nobody");
    near.run_async(|| async {
        let network = Network::open().unwrap();
        let index = network.interface("eth0").await.unwrap().index;
        for nobody in ["192.0.2.77", "2001:db8::77"] {
            let nobody: IpAddr = nobody.parse().unwrap();
            network.resolve(index, nobody).await.unwrap();
            // The entry is there, and incomplete.
            assert_eq!(network.neighbour(index, nobody).await.unwrap(), None);
        }
    });
    let shown = near.ip("neighbour show dev eth0 nud incomplete");
    assert!(shown.contains("192.0.2.77") && shown.contains("2001:db8::77"), "{shown}");
}

#[test]
fn a_permanent_neighbour_stays_permanent() {
    let (near, _far) = pair("permanent");
    for peer in PEERS {
        near.ip(&format!("neighbour replace {peer} lladdr 02:00:00:00:00:99 dev eth0 nud permanent"));
    }
    near.run_async(|| async {
        let network = Network::open().unwrap();
        let index = network.interface("eth0").await.unwrap().index;
        for peer in PEERS {
            let peer = peer.parse().unwrap();
            network.resolve(index, peer).await.unwrap();
            assert_eq!(network.neighbour(index, peer).await.unwrap(), Some([2, 0, 0, 0, 0, 0x99]));
        }
    });
    let shown = near.ip("neighbour show dev eth0 nud permanent");
    assert!(PEERS.iter().all(|peer| shown.contains(peer)), "{shown}");
}

#[test]
fn an_interface_that_is_not_there_is_named() {
    let namespace = Namespace::new("neighbour-error");
    namespace.run_async(|| async {
        let network = Network::open().unwrap();
        let error = network.resolve(999, "192.0.2.1".parse().unwrap()).await.unwrap_err();
        assert_eq!(error.to_string(), "look up the neighbour 192.0.2.1 on interface 999: No such device (os error 19)");
    });
}
