//! Interfaces, addresses and routes.

use crate::namespace::Namespace;
use ipnet::IpNet;
use marca_daemon::linux::network::{Network, NetworkError, Route, RouteEntry};
use marca_daemon::linux::sysctl;
use std::net::IpAddr;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn an_interface_is_described_as_ip_shows_it() {
    let (near, far) = (Namespace::new("interface-near"), Namespace::new("interface-far"));
    Namespace::connect((&near, "eth0", &["192.0.2.1/24", "2001:db8::1/64"]), (&far, "eth0", &[]));
    near.ip("link set eth0 address 02:00:00:00:00:01 mtu 1400");
    near.run_async(|| async {
        let network = Network::open().unwrap();
        let interface = network.interface("eth0").await.unwrap();
        assert_eq!(interface.name, "eth0");
        assert_eq!(interface.mac, [2, 0, 0, 0, 0, 1]);
        assert_eq!(interface.mtu, 1400);
        assert!(interface.up && interface.carrier);
        assert_eq!(interface.kind.as_deref(), Some("veth"));
        assert!(interface.addresses.contains(&net("192.0.2.1/24")), "{interface:?}");
        assert!(interface.addresses.contains(&net("2001:db8::1/64")), "{interface:?}");

        let loopback = network.interface("lo").await.unwrap();
        assert_eq!((loopback.mac, loopback.kind), ([0; 6], None));
        assert!(network.addresses().await.unwrap().contains(&(loopback.index, net("127.0.0.1/8"))));
        assert!(network.addresses().await.unwrap().contains(&(interface.index, net("192.0.2.1/24"))));
    });
}

#[test]
fn an_interface_whose_peer_is_down_is_up_without_carrier() {
    let (near, far) = (Namespace::new("carrier-near"), Namespace::new("carrier-far"));
    Namespace::connect((&near, "eth0", &[]), (&far, "eth0", &[]));
    far.ip("link set eth0 down");
    near.run_async(|| async {
        let interface = Network::open().unwrap().interface("eth0").await.unwrap();
        assert!(interface.up && !interface.carrier, "{interface:?}");
    });
}

#[test]
fn an_unknown_interface_is_an_error_that_lists_those_that_exist() {
    let (near, far) = (Namespace::new("unknown-near"), Namespace::new("unknown-far"));
    Namespace::connect((&near, "eth0", &[]), (&far, "eth0", &[]));
    near.run_async(|| async {
        let network = Network::open().unwrap();
        for name in ["eth1", "", "a-name-longer-than-fifteen-bytes"] {
            let error = network.interface(name).await.unwrap_err();
            assert!(matches!(error, NetworkError::NoInterface { .. }), "{error}");
            assert!(error.to_string().starts_with(&format!("there is no interface {name:?}; there are lo, ")));
            assert!(error.to_string().contains("eth0"), "{error}");
        }
    });
}

#[test]
fn adding_and_removing_an_address_touches_no_other() {
    let (near, far) = (Namespace::new("add-remove-near"), Namespace::new("add-remove-far"));
    Namespace::connect((&near, "eth0", &["192.0.2.1/24", "2001:db8::1/64"]), (&far, "eth0", &[]));
    // The kernel would add its link-local address in the middle of the test.
    near.ip("link set eth0 addrgenmode none");
    near.run_async(|| async {
        let network = Network::open().unwrap();
        let index = network.interface("eth0").await.unwrap().index;
        let before = network.addresses().await.unwrap();
        for vip in ["192.0.2.10/32", "2001:db8::10/128"] {
            assert!(network.add_address(index, net(vip)).await.unwrap());
            assert!(!network.add_address(index, net(vip)).await.unwrap(), "{vip} a second time");
            assert_eq!(network.addresses().await.unwrap().len(), before.len() + 1);
            assert!(network.addresses().await.unwrap().contains(&(index, net(vip))));
            assert!(network.remove_address(index, net(vip)).await.unwrap());
            assert!(!network.remove_address(index, net(vip)).await.unwrap(), "{vip} a second time");
            assert_eq!(network.addresses().await.unwrap(), before);
        }
    });
}

#[test]
fn an_address_that_is_there_with_another_prefix_length_stays() {
    let (near, far) = (Namespace::new("other-prefix-near"), Namespace::new("other-prefix-far"));
    Namespace::connect((&near, "eth0", &["192.0.2.1/24", "2001:db8::1/64"]), (&far, "eth0", &[]));
    // The kernel would add its link-local address in the middle of the test.
    near.ip("link set eth0 addrgenmode none");
    near.run_async(|| async {
        let network = Network::open().unwrap();
        let index = network.interface("eth0").await.unwrap().index;
        let before = network.addresses().await.unwrap();
        // To IPv4 these are two addresses, to IPv6 one.
        assert!(network.add_address(index, net("192.0.2.1/32")).await.unwrap());
        assert!(!network.add_address(index, net("2001:db8::1/128")).await.unwrap());
        assert!(network.remove_address(index, net("192.0.2.1/32")).await.unwrap());
        assert!(!network.remove_address(index, net("2001:db8::1/128")).await.unwrap());
        assert!(!network.remove_address(index, net("192.0.2.1/25")).await.unwrap());
        assert_eq!(network.addresses().await.unwrap(), before);
    });
}

#[test]
fn an_ipv6_vip_is_usable_at_once_and_no_source_of_others() {
    let (near, far) = (Namespace::new("nodad-near"), Namespace::new("nodad-far"));
    Namespace::connect((&near, "eth0", &[]), (&far, "eth0", &[]));
    near.run(|| sysctl::write("net.ipv6.conf.eth0.accept_dad", "1").unwrap());
    near.run_async(|| async {
        let network = Network::open().unwrap();
        let index = network.interface("eth0").await.unwrap().index;
        assert!(network.add_address(index, net("2001:db8::10/128")).await.unwrap());
        std::net::TcpListener::bind("[2001:db8::10]:80").unwrap();
    });
    let shown = near.ip("-6 -oneline address show dev eth0 to 2001:db8::10");
    assert!(shown.contains("nodad") && !shown.contains("tentative") && shown.contains("deprecated"), "{shown}");
}

#[test]
fn a_refused_address_names_the_address_the_interface_and_the_cause() {
    let (near, far) = (Namespace::new("refused-near"), Namespace::new("refused-far"));
    Namespace::connect((&near, "eth0", &[]), (&far, "eth0", &[]));
    near.run(|| sysctl::write("net.ipv6.conf.eth0.disable_ipv6", "1").unwrap());
    near.run_async(|| async {
        let network = Network::open().unwrap();
        let index = network.interface("eth0").await.unwrap().index;
        let refused = network.add_address(index, net("2001:db8::10/128")).await.unwrap_err();
        assert_eq!(
            refused.to_string(),
            "add 2001:db8::10/128 to eth0: IPv6 is disabled there (net.ipv6.conf.eth0.disable_ipv6)"
        );
        let gone = network.add_address(999, net("192.0.2.10/32")).await.unwrap_err();
        assert_eq!(gone.to_string(), "add 192.0.2.10/32 to interface 999: No such device (os error 19)");
        let gone = network.remove_address(999, net("192.0.2.10/32")).await.unwrap_err();
        assert_eq!(gone.to_string(), "remove 192.0.2.10/32 from interface 999: No such device (os error 19)");
    });
}

#[test]
fn a_route_leads_over_the_link_through_a_gateway_or_home() {
    let (near, far) = (Namespace::new("route-near"), Namespace::new("route-far"));
    Namespace::connect((&near, "eth0", &["192.0.2.1/24", "2001:db8::1/64"]), (&far, "eth0", &[]));
    near.ip("route add 198.51.100.0/24 via 192.0.2.254 mtu 1280");
    near.ip("route add 2001:db8:1::/48 via 2001:db8::ff mtu 1300");
    near.ip("route add 203.0.113.0/24 via inet6 2001:db8::ff dev eth0");
    near.run_async(|| async {
        let network = Network::open().unwrap();
        let eth0 = network.interface("eth0").await.unwrap().index;
        let lo = network.interface("lo").await.unwrap().index;
        let route = |interface, gateway: Option<&str>, source: &str, mtu, local| Route {
            interface,
            gateway: gateway.map(addr),
            source: Some(addr(source)),
            mtu,
            local,
        };
        for (destination, wanted) in [
            ("192.0.2.9", route(eth0, None, "192.0.2.1", None, false)),
            ("198.51.100.9", route(eth0, Some("192.0.2.254"), "192.0.2.1", Some(1280), false)),
            ("203.0.113.9", route(eth0, Some("2001:db8::ff"), "192.0.2.1", None, false)),
            ("192.0.2.1", route(lo, None, "192.0.2.1", None, true)),
            ("2001:db8::9", route(eth0, None, "2001:db8::1", None, false)),
            ("2001:db8:1::9", route(eth0, Some("2001:db8::ff"), "2001:db8::1", Some(1300), false)),
            ("2001:db8::1", route(lo, None, "2001:db8::1", None, true)),
        ] {
            assert_eq!(network.route_to(addr(destination)).await.unwrap(), wanted, "to {destination}");
        }
    });
}

#[test]
fn an_unreachable_destination_is_an_error_that_says_why() {
    let namespace = Namespace::new("unreachable");
    for (kind, v4, v6) in [
        ("unreachable", "198.51.100.1", "2001:db8:1::1"),
        ("prohibit", "198.51.100.2", "2001:db8:1::2"),
        ("blackhole", "198.51.100.3", "2001:db8:1::3"),
    ] {
        namespace.ip(&format!("route add {kind} {v4}"));
        namespace.ip(&format!("route add {kind} {v6}"));
    }
    namespace.run_async(|| async {
        let network = Network::open().unwrap();
        for (destination, wanted) in [
            ("192.0.2.1", "192.0.2.1 cannot be reached: there is no route"),
            ("2001:db8::1", "2001:db8::1 cannot be reached: there is no route"),
            ("198.51.100.1", "198.51.100.1 cannot be reached: its route is of type unreachable"),
            ("2001:db8:1::1", "2001:db8:1::1 cannot be reached: its route is of type unreachable"),
            ("198.51.100.2", "198.51.100.2 cannot be reached: its route is of type prohibit"),
            ("2001:db8:1::2", "2001:db8:1::2 cannot be reached: its route is of type prohibit"),
            ("198.51.100.3", "198.51.100.3 cannot be reached: its route is of type blackhole"),
            ("2001:db8:1::3", "2001:db8:1::3 cannot be reached: its route is of type blackhole"),
        ] {
            let error = network.route_to(addr(destination)).await.unwrap_err();
            assert!(matches!(error, NetworkError::Unreachable { .. }), "{error:?}");
            assert_eq!(error.to_string(), wanted);
        }
    });
}

#[test]
fn the_unicast_routes_of_the_main_table_are_listed_and_no_others() {
    let (near, far) = (Namespace::new("routes-near"), Namespace::new("routes-far"));
    Namespace::connect((&near, "eth0", &["192.0.2.1/24", "2001:db8::1/64"]), (&far, "eth0", &[]));
    near.ip("route add default via 192.0.2.254");
    near.ip("route add default via 2001:db8::ff");
    near.ip("route add 198.51.100.0/24 nexthop via 192.0.2.2 nexthop via 192.0.2.3");
    near.ip("route add 203.0.113.0/24 via 192.0.2.2 table 1000");
    near.ip("route add unreachable 203.0.113.0/24");
    near.run_async(|| async {
        let network = Network::open().unwrap();
        let interface = network.interface("eth0").await.unwrap().index;
        let mut routes = network.routes().await.unwrap();
        routes.retain(|route| route.destination != net("fe80::/64"));
        routes.sort_by_key(|route| (route.destination, route.gateway));
        let entry = |destination: &str, gateway: Option<&str>| RouteEntry {
            destination: net(destination),
            gateway: gateway.map(addr),
            interface,
        };
        assert_eq!(
            routes,
            [
                entry("0.0.0.0/0", Some("192.0.2.254")),
                entry("192.0.2.0/24", None),
                entry("198.51.100.0/24", Some("192.0.2.2")),
                entry("198.51.100.0/24", Some("192.0.2.3")),
                entry("::/0", Some("2001:db8::ff")),
                entry("2001:db8::/64", None),
            ]
        );
    });
}

#[test]
fn a_network_stays_in_the_namespace_in_which_it_was_opened() {
    let (one, two) = (Namespace::new("stays-one"), Namespace::new("stays-two"));
    Namespace::connect((&one, "only-one", &[]), (&two, "only-two", &[]));
    let (file, name) = (std::fs::File::open("/proc/self/ns/net").unwrap(), "only-one");
    one.run_async(|| async {
        let network = Network::open().unwrap();
        nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        assert_eq!(network.interface(name).await.unwrap().name, name);
        assert!(Network::open().unwrap().interface(name).await.is_err());
    });
}

#[test]
fn the_task_behind_a_network_ends_with_its_last_clone() {
    let namespace = Namespace::new("task-ends");
    namespace.run_async(|| async {
        let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
        let network = Network::open().unwrap();
        let clone = network.clone();
        drop(network);
        clone.addresses().await.unwrap();
        assert_eq!(tasks(), 1);
        drop(clone);
        crate::namespace::eventually(async || (tasks() == 0).then_some(())).await;
    });
}
