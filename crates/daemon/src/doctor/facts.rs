//! What is known of a host. Plain values: a test writes them down.

use crate::linux::attach::Mode;
use ipnet::IpNet;
use marca_config::model::Protocol;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// A host, or one network namespace of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// As `uname -r` has it.
    pub kernel: String,
    pub bpf_file_system: bool,
    /// Whether the clock on the wall is kept right by somebody.
    pub clock_is_kept: Option<bool>,
    pub links: Vec<Link>,
    /// By name: `net.ipv4.ip_forward`. Those that exist among what [`super::gather`] asks for.
    pub sysctls: BTreeMap<String, String>,
    pub listeners: Vec<Listener>,
    /// Of all packet filters.
    pub rules: Vec<Rule>,
    /// Virtual services of kernel IPVS.
    pub ipvs: Vec<SocketAddr>,
    pub default_gateways: Vec<IpAddr>,
    /// The director that has this place.
    pub director: Option<Director>,
    /// Interfaces that have marca's decapsulator.
    pub decapsulators: Vec<String>,
    pub unread: Vec<Unread>,
}

/// A director whose data plane is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Director {
    pub daemon: Option<u32>,
    pub attached: Vec<(String, Mode)>,
    /// Name, used, size.
    pub tables: Vec<(String, u32, u32)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    pub name: String,
    pub up: bool,
    pub carrier: bool,
    pub mtu: u32,
    /// `veth`, `vlan`, `ipip`; none for hardware.
    pub kind: Option<String>,
    /// Of hardware.
    pub driver: Option<String>,
    /// Whether the driver has native XDP, if the kernel says so.
    pub native_xdp: Option<bool>,
    pub addresses: Vec<IpNet>,
    /// It has an XDP program, whose ever.
    pub xdp: bool,
    /// Filters of TC on what comes in, but for marca's.
    pub filters: usize,
    /// The same on what goes out.
    pub filters_out: usize,
    /// Programs that others have attached to TC by links (tcx).
    pub programs: Vec<TcProgram>,
    pub lro: bool,
    pub tx_checksum: bool,
}

/// A program that somebody else has attached to TC by a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcProgram {
    pub name: String,
    /// It sees what goes out; else what comes in.
    pub out: bool,
    /// Of what comes in: before marca, if that is there.
    pub first: bool,
}

/// A socket that waits for clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    pub protocol: Protocol,
    pub address: SocketAddr,
}

/// A rule of a packet filter, as its program prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `nft`, `iptables`, `ip6tables`.
    pub of: &'static str,
    /// Table and chain.
    pub chain: String,
    pub text: String,
    /// What is in the sets and maps that it names, as their programs print it: addresses, networks, ranges `a-b`, and these
    /// joined by ` . ` with other things.
    pub elements: Vec<String>,
}

/// What could not be found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    pub what: String,
    pub why: String,
    pub mend: String,
}

impl Facts {
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// A sysctl's value as a number.
    pub fn number(&self, name: &str) -> Option<i64> {
        self.sysctls.get(name)?.parse().ok()
    }

    /// Of a sysctl of which the kernel takes the greater one of `all` and the interface's.
    pub fn greater(&self, name: &str, interface: &str) -> i64 {
        let of = |of: &str| self.number(&format!("net.ipv4.conf.{of}.{name}")).unwrap_or(0);
        of("all").max(of(interface))
    }

    /// Interfaces that have an address, whatever its prefix.
    pub fn holders(&self, address: IpAddr) -> impl Iterator<Item = (&Link, IpNet)> {
        let of = move |link: &'_ Link| link.addresses.iter().find(|net| net.addr() == address).copied();
        self.links.iter().filter_map(move |link| Some((link, of(link)?)))
    }

    /// Whether somebody waits at this port for what comes to this address.
    pub fn listens(&self, protocol: Protocol, address: IpAddr, port: u16) -> bool {
        self.listeners.iter().any(|listener| {
            let is = listener.address.ip();
            // A wildcard of IPv6 takes IPv4 as well, unless it is told not to, which /proc does not show.
            let meets = is == address || (is.is_unspecified() && (is.is_ipv6() || address.is_ipv4()));
            listener.protocol == protocol && listener.address.port() == port && meets
        })
    }
}
