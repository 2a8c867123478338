//! Changes of the network, as they happen.

use crate::namespace::Namespace;
use marca_daemon::linux::network::{Change, Changes, Network};
use std::time::Duration;

/// Reads changes until one is as wanted.
async fn expect(changes: &mut Changes, wanted: impl Fn(&Change) -> bool, what: &str) {
    let search = async {
        loop {
            if wanted(&changes.next().await.unwrap()) {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), search).await.unwrap_or_else(|_| panic!("no change: {what}"));
}

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

#[test]
fn addresses_and_routes_that_come_and_go_are_reported() {
    let (near, _far) = pair("change-address");
    near.run_async(|| async {
        let mut changes = Changes::open().unwrap();
        for (address, bits) in [("192.0.2.10", 32), ("2001:db8::10", 128)] {
            let came = Change::Came { address: address.parse().unwrap() };
            near.ip(&format!("address add {address}/{bits} dev eth0"));
            expect(&mut changes, |change| *change == came, address).await;
            near.ip(&format!("address delete {address}/{bits} dev eth0"));
            expect(&mut changes, |change| *change == Change::Address, address).await;
        }
        for (add, delete) in [
            ("route add 198.51.100.0/24 via 192.0.2.2", "route delete 198.51.100.0/24"),
            ("route add 2001:db8:1::/48 via 2001:db8::2", "route delete 2001:db8:1::/48"),
            ("rule add fwmark 7 lookup 100", "rule delete fwmark 7 lookup 100"),
        ] {
            near.ip(add);
            expect(&mut changes, |change| *change == Change::Route, add).await;
            near.ip(delete);
            expect(&mut changes, |change| *change == Change::Route, delete).await;
        }
    });
}

#[test]
fn a_link_that_goes_down_comes_back_and_disappears_is_reported() {
    let (near, far) = pair("change-link");
    near.run_async(|| async {
        let mut changes = Changes::open().unwrap();
        let interface = Network::open().unwrap().interface("eth0").await.unwrap().index;
        let link = |up, carrier| move |change: &Change| *change == Change::Link { interface, up, carrier };
        far.ip("link set eth0 down");
        expect(&mut changes, link(true, false), "the carrier is lost").await;
        far.ip("link set eth0 up");
        expect(&mut changes, link(true, true), "the carrier is back").await;
        near.ip("link set eth0 down");
        expect(&mut changes, link(false, false), "switched off").await;
        near.ip("link set eth0 up");
        expect(&mut changes, link(true, true), "switched on").await;
        far.ip("link delete eth0");
        expect(&mut changes, link(false, false), "gone").await;
    });
}

#[test]
fn a_neighbour_that_is_found_moves_and_is_lost_is_reported() {
    let (near, far) = pair("change-neighbour");
    near.run_async(|| async {
        let mut changes = Changes::open().unwrap();
        let network = Network::open().unwrap();
        let interface = network.interface("eth0").await.unwrap().index;
        for peer in ["192.0.2.2", "2001:db8::2"] {
            let address = peer.parse().unwrap();
            let at = |mac| move |change: &Change| *change == Change::Neighbour { interface, address, mac };
            network.resolve(interface, address).await.unwrap();
            expect(&mut changes, at(Some([2, 0, 0, 0, 0, 2])), "found").await;
            near.ip(&format!("neighbour replace {peer} lladdr 02:00:00:00:00:03 dev eth0 nud stale"));
            expect(&mut changes, at(Some([2, 0, 0, 0, 0, 3])), "moved").await;
            near.ip(&format!("neighbour delete {peer} dev eth0"));
            expect(&mut changes, at(None), "lost").await;
        }
        drop(far);
    });
}

#[test]
fn a_listener_that_does_not_keep_up_learns_that_it_missed_changes_and_goes_on() {
    let namespace = Namespace::new("change-missed");
    namespace.run_async(|| async {
        let mut changes = Changes::open().unwrap();
        let network = Network::open().unwrap();
        let interface = network.interface("lo").await.unwrap().index;
        let address: ipnet::IpNet = "192.0.2.10/32".parse().unwrap();
        for _ in 0..1000 {
            assert!(network.add_address(interface, address).await.unwrap());
            assert!(network.remove_address(interface, address).await.unwrap());
        }
        expect(&mut changes, |change| *change == Change::Missed, "missed").await;
        // What was queued before comes first; then there is room again.
        while tokio::time::timeout(Duration::from_millis(50), changes.next()).await.is_ok() {}
        assert!(network.add_address(interface, address).await.unwrap());
        let came = Change::Came { address: address.addr() };
        expect(&mut changes, |change| *change == came, "an address after the flood").await;
    });
}
