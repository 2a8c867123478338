//! The director's surroundings: one network namespace with two interfaces, addresses, neighbours that are known and
//! routes. The kernel gets them by `ip`, the engine's native run as values, both from the same tables.

use super::format::Side;
use ipnet::IpNet;
use marca_engine::layout::Macs;
use marca_engine::tables::Route;
use marca_tables::services::Hop;
use nix::sched::{CloneFlags, unshare};
use std::collections::HashMap;
use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};

/// Outside: clients next door, and a gateway to others. Inside: the real servers.
const ADDRESSES: [(Side, &str); 4] = [
    (Side::Outside, "198.51.100.1/24"),
    (Side::Outside, "2001:db8:51::1/64"),
    (Side::Inside, "10.0.0.1/24"),
    (Side::Inside, "fd00::1/64"),
];

/// Neighbours whose MAC addresses are known; the last byte of the address is that of the MAC address.
const NEIGHBOURS: [(Side, &str); 12] = [
    (Side::Outside, "198.51.100.7"),
    (Side::Outside, "198.51.100.8"),
    (Side::Outside, "198.51.100.21"),
    (Side::Outside, "198.51.100.254"),
    (Side::Outside, "2001:db8:51::7"),
    (Side::Outside, "2001:db8:51::8"),
    (Side::Outside, "2001:db8:51::fe"),
    (Side::Inside, "10.0.0.7"),
    (Side::Inside, "10.0.0.11"),
    (Side::Inside, "10.0.0.12"),
    (Side::Inside, "10.0.0.13"),
    (Side::Inside, "fd00::11"),
];

/// Routes beyond the neighbours, and to nowhere.
const GATEWAYS: [(&str, &str); 2] = [("203.0.113.0/24", "198.51.100.254"), ("2001:db8:99::/64", "2001:db8:51::fe")];
const UNREACHABLE: [&str; 2] = ["203.0.113.66/32", "2001:db8:99::66/128"];

/// The namespace of this thread, which ends with it.
pub struct Network {
    outside: u32,
    inside: u32,
}

impl Network {
    /// Moves this thread into a namespace of its own and fills it.
    pub fn enter() -> Self {
        unshare(CloneFlags::CLONE_NEWNET).expect("root may make a namespace");
        let mut commands = vec!["link set lo up".to_owned()];
        for side in [Side::Outside, Side::Inside] {
            let (name, mac) = (name(side), text(mac_of_director(side)));
            commands.push(format!("link add {name} address {mac} type veth peer name {name}-far"));
            for end in [name.to_owned(), format!("{name}-far")] {
                commands.push(format!("link set {end} addrgenmode none up"));
            }
        }
        for (side, address) in ADDRESSES {
            let nodad = if address.contains(':') { "nodad" } else { "" };
            commands.push(format!("address add {address} dev {} {nodad}", name(side)));
        }
        for (side, address) in NEIGHBOURS {
            let mac = text(mac_of(address.parse().unwrap()));
            commands.push(format!("neighbour add {address} lladdr {mac} nud permanent dev {}", name(side)));
        }
        for (net, gateway) in GATEWAYS {
            commands.push(format!("route add {net} via {gateway}"));
        }
        for net in UNREACHABLE {
            commands.push(format!("route add unreachable {net}"));
        }
        ip(&commands);
        for key in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
            marca_daemon::linux::sysctl::write(key, "1").unwrap();
        }
        let index = |side| nix::net::if_::if_nametoindex(name(side)).unwrap();
        Self { outside: index(Side::Outside), inside: index(Side::Inside) }
    }

    pub fn index(&self, side: Side) -> u32 {
        match side {
            Side::Outside => self.outside,
            Side::Inside => self.inside,
        }
    }

    /// By their names in configurations.
    pub fn interfaces(&self) -> HashMap<String, u32> {
        [Side::Outside, Side::Inside].map(|side| (name(side).to_owned(), self.index(side))).into()
    }

    /// What the kernel's routing table answers for this destination.
    pub fn route(&self, to: IpAddr) -> Route {
        if UNREACHABLE.iter().any(|net| contains(net, to)) {
            return Route::None;
        }
        let next = GATEWAYS.iter().find(|(net, _)| contains(net, to)).map_or(to, |(_, via)| via.parse().unwrap());
        let local = |(_, own): &&(Side, &str)| contains(own, next);
        let Some(&(side, own)) = ADDRESSES.iter().find(local) else {
            // No route at all: the kernel says no more than that it will not forward (`BPF_FIB_LKUP_RET_NOT_FWDED`).
            return Route::Here;
        };
        let net: IpNet = own.parse().unwrap();
        // An IPv4 network's lowest address is a host's since Linux 5.14; an IPv6 network's is the routers' anycast address
        // (RFC 4291 §2.6.1).
        let of_all = if next.is_ipv4() { net.broadcast() } else { net.network() };
        let own = next == net.addr() || next == of_all;
        let interface = self.index(side);
        if own {
            Route::Here
        } else if NEIGHBOURS.iter().any(|(_, known)| known.parse() == Ok(next)) {
            Route::Via { interface, macs: Macs::new(mac_of(next), mac_of_director(side)) }
        } else {
            Route::NoNeighbour { interface }
        }
    }

    /// The way to a real server. Those that end in 66 have not answered yet.
    pub fn hop(&self, to: IpAddr) -> Hop {
        let side = match ADDRESSES.iter().find(|(_, own)| contains(own, to)) {
            Some((side, _)) => *side,
            None => Side::Inside,
        };
        let source =
            ADDRESSES.iter().filter(|(at, _)| *at == Side::Inside).map(|(_, own)| own.parse::<IpNet>().unwrap());
        let source = source.map(|net| net.addr()).find(|own| own.is_ipv4() == to.is_ipv4());
        let mac = mac_of(to);
        Hop {
            interface: self.index(side),
            source_mac: mac_of_director(side),
            destination_mac: Some(mac).filter(|mac| mac[5] != 66 && mac[5] != 0x66),
            source,
            mtu: 1500,
        }
    }
}

fn contains(net: &str, address: IpAddr) -> bool {
    net.parse::<IpNet>().unwrap().contains(&address)
}

/// As in configurations.
fn name(side: Side) -> &'static str {
    match side {
        Side::Outside => "outside",
        Side::Inside => "inside",
    }
}

/// `02:00:00:00:00:01` outside, as frames are sent to by default; `02:00:00:00:01:01` inside.
fn mac_of_director(side: Side) -> [u8; 6] {
    [2, 0, 0, 0, u8::from(side == Side::Inside), 1]
}

/// `02:00:00:00:04:XX` and `02:00:00:00:06:XX`, with the last byte of the address.
fn mac_of(address: IpAddr) -> [u8; 6] {
    match address {
        IpAddr::V4(ip) => [2, 0, 0, 0, 4, ip.octets()[3]],
        IpAddr::V6(ip) => [2, 0, 0, 0, 6, ip.octets()[15]],
    }
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// In this thread's namespace, which children of a thread start in.
fn ip(commands: &[String]) {
    let mut child = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all((commands.join("\n") + "\n").as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{commands:#?}");
}
