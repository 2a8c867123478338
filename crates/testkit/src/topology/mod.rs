//! A small network on this machine: a client, a director and real servers, each in a network namespace, wired with
//! veth. One value owns it; dropping the value, also by a panic, removes all of it. Needs root, `ip` and `nsenter`.
//! With three servers it is up in about 0.15 s.
//!
//! Every layout is dual stack. Nothing puts the VIPs on the director: that is the director program's work.
//!
//! ```no_run
//! use marca_testkit::topology::Topology;
//!
//! let net = Topology::routed("my-test", 3)?;
//! let director = net.director().spawn("marca", ["run", "marca.toml"])?;
//! let connected = net.client().enter(|| std::net::TcpStream::connect("192.0.2.10:80"));
//! # Ok::<(), marca_testkit::topology::Error>(())
//! ```
//!
//! What is set on every namespace and every veth, and why, is in [`Namespace`]; who has which address, in [`Layout`].

mod names;
mod namespace;
mod offload;
mod process;
mod wiring;
mod xdp_pass;

pub use crate::Error;
pub use namespace::Namespace;
pub use process::Process;

use names::Names;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

/// For the director to put on itself, all in the outside LAN and held by nobody.
pub const VIPS: [DualStack; 2] = [outside(10), outside(11)];

/// A topology has at most this many real servers: their addresses are consecutive.
pub const SERVERS_MAX: usize = 16;

/// The client holds this many addresses of each family.
pub const CLIENT_ADDRESSES: usize = 64;

/// The only interface of clients, servers, and of the director of the flat layout.
pub const ETH0: &str = "eth0";
/// The interface towards the client, where there are two: of the director, and of the triangle's real server.
pub const OUT: &str = "out";
/// The interface of a director with two towards the real servers.
pub const IN: &str = "in";

/// Namespaces, wires, and the guard that removes them.
#[derive(Debug)]
pub struct Topology {
    layout: Layout,
    client: Namespace,
    director: Namespace,
    switch: Namespace,
    servers: Vec<Namespace>,
    /// Each keeps one "pass everything" program on a veth. See [`xdp_pass`].
    passes: Vec<OwnedFd>,
    /// Declared last, so that it is dropped last: removes the namespaces by name.
    _names: Names,
}

/// Who is wired to whom, and who has which address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// For NAT. The client and the director's `out` share the outside LAN, 192.0.2.0/24 and 2001:db8:1::/64, on one
    /// wire. The director's `in` and the servers share the inside LAN, 10.0.0.0/24 and fd00::/64, on a bridge. The
    /// director forwards, and is the servers' default gateway. The client has no route to the inside.
    ///
    /// | | IPv4 | IPv6 |
    /// |---|---|---|
    /// | client 0 to 63 | 192.0.2.101 to .164 | 2001:db8:1::101 to ::164 |
    /// | director `out`, `in` | 192.0.2.1, 10.0.0.1 | 2001:db8:1::1, fd00::1 |
    /// | server 0 to 15 | 10.0.0.11 to .26 | fd00::11 to ::26 |
    Routed,
    /// For direct routing and tunnels. Client, director and servers share one LAN, 192.0.2.0/24 and 2001:db8:1::/64,
    /// on a bridge; servers answer the client without the director. See [`Namespace::hold_vip`].
    ///
    /// | | IPv4 | IPv6 |
    /// |---|---|---|
    /// | client 0 to 63 | 192.0.2.101 to .164 | 2001:db8:1::101 to ::164 |
    /// | director | 192.0.2.1 | 2001:db8:1::1 |
    /// | server 0 to 15 | 192.0.2.21 to .36 | 2001:db8:1::21 to ::36 |
    Flat,
    /// Client, director and one real server, each wired to both others, as the kernel tests its own IPVS
    /// (`tools/testing/selftests/net/netfilter/ipvs.sh`): what the client sends comes by the director, what the real
    /// server answers need not. The client has both its wires on a bridge, `eth0`, and with them the outside LAN, in
    /// which the real server is as well, with `out`. Director (`in`) and real server (`eth0`) share the inside LAN.
    /// The director forwards; nobody has a default route. The switch is not used.
    ///
    /// | | IPv4 | IPv6 |
    /// |---|---|---|
    /// | client 0 to 63 | 192.0.2.101 to .164 | 2001:db8:1::101 to ::164 |
    /// | director `out`, `in` | 192.0.2.1, 10.0.0.1 | 2001:db8:1::1, fd00::1 |
    /// | server `out`, `eth0` | 192.0.2.21, 10.0.0.11 | 2001:db8:1::21, fd00::11 |
    Triangle,
}

impl Topology {
    /// Builds the layout [`Layout::Routed`] with 1 to [`SERVERS_MAX`] real servers.
    ///
    /// `test` makes the names of the namespaces, `marca-<test>-<role>`. What a crashed run with the same name left
    /// behind is removed; its processes, if any, are not touched.
    ///
    /// # Errors
    /// Not root, no `ip`, or a live run has the same name.
    ///
    /// # Panics
    /// When the number of servers is out of bounds.
    pub fn routed(test: &str, servers: usize) -> Result<Self, Error> {
        Self::build(Layout::Routed, test, servers)
    }

    /// Builds the layout [`Layout::Flat`]; otherwise as [`Topology::routed`].
    ///
    /// # Errors
    /// As [`Topology::routed`].
    pub fn flat(test: &str, servers: usize) -> Result<Self, Error> {
        Self::build(Layout::Flat, test, servers)
    }

    /// Builds the layout [`Layout::Triangle`]; otherwise as [`Topology::routed`].
    ///
    /// # Errors
    /// As [`Topology::routed`].
    pub fn triangle(test: &str) -> Result<Self, Error> {
        Self::build(Layout::Triangle, test, 1)
    }

    /// Gives every veth back the offloads with which the kernel makes it, and takes the pass programs away: senders leave
    /// checksums to be computed and bulk to be cut into segments by whoever comes last. What forwards in XDP does not
    /// work then; what forwards in TC must.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn with_offloads(mut self) -> Result<Self, Error> {
        self.passes.clear();
        wiring::switch_offloads_on(&self)?;
        Ok(self)
    }

    /// Clients live here; bind to a [`client_address`](Self::client_address) to be one of them.
    pub fn client(&self) -> &Namespace {
        &self.client
    }

    /// Where the load balancer is to run.
    pub fn director(&self) -> &Namespace {
        &self.director
    }

    /// The bridge, to which nobody speaks. A good place to watch frames pass.
    pub fn switch(&self) -> &Namespace {
        &self.switch
    }

    /// Real server `index`, from 0. Its namespace's name counts from 1.
    ///
    /// # Panics
    /// When there are not so many.
    pub fn server(&self, index: usize) -> &Namespace {
        &self.servers[index]
    }

    /// All real servers.
    pub fn servers(&self) -> &[Namespace] {
        &self.servers
    }

    /// Address `index` of the client, 0 to [`CLIENT_ADDRESSES`] - 1.
    ///
    /// # Panics
    /// When the client does not have so many.
    pub fn client_address(&self, index: usize) -> DualStack {
        assert!(index < CLIENT_ADDRESSES, "the client has {CLIENT_ADDRESSES} addresses");
        outside(101 + index as u8)
    }

    /// The director's own address where the client sees it.
    pub fn director_outside(&self) -> DualStack {
        outside(1)
    }

    /// The director's own address where the servers see it. In the flat layout it is the same as outside.
    pub fn director_inside(&self) -> DualStack {
        match self.layout {
            Layout::Routed | Layout::Triangle => inside(1),
            Layout::Flat => outside(1),
        }
    }

    /// The address of real server `index`.
    ///
    /// # Panics
    /// When there are not so many.
    pub fn server_address(&self, index: usize) -> DualStack {
        assert!(index < self.servers.len(), "there are {} servers", self.servers.len());
        self.layout.server(index)
    }

    /// The interface on which the director meets clients.
    pub fn outside_interface(&self) -> &'static str {
        self.layout.outside_interface()
    }

    /// The interface on which the director meets servers.
    pub fn inside_interface(&self) -> &'static str {
        self.layout.inside_interface()
    }

    fn build(layout: Layout, test: &str, servers: usize) -> Result<Self, Error> {
        assert!((1..=SERVERS_MAX).contains(&servers), "a topology has 1 to {SERVERS_MAX} servers, not {servers}");
        let names = Names::claim(test)?;
        names.remove()?;
        let roles: Vec<String> = names::roles(servers).collect();
        let add: Vec<String> = roles.iter().map(|role| format!("netns add {}", names.namespace(role))).collect();
        namespace::ip_batch(None, &add)?;
        let mut opened = roles.iter().map(|role| Namespace::open(names.namespace(role)));
        let mut next = || opened.next().expect("a name was made for each role");
        let (client, director, switch) = (next()?, next()?, next()?);
        let servers = opened.collect::<Result<Vec<_>, _>>()?;
        let mut topology = Topology { layout, client, director, switch, servers, passes: Vec::new(), _names: names };
        topology.passes = wiring::wire(&topology)?;
        Ok(topology)
    }

    fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        [&self.client, &self.director, &self.switch].into_iter().chain(&self.servers)
    }
}

impl Layout {
    fn outside_interface(self) -> &'static str {
        match self {
            Layout::Routed | Layout::Triangle => OUT,
            Layout::Flat => ETH0,
        }
    }

    fn inside_interface(self) -> &'static str {
        match self {
            Layout::Routed | Layout::Triangle => IN,
            Layout::Flat => ETH0,
        }
    }

    fn server(self, index: usize) -> DualStack {
        match self {
            Layout::Routed | Layout::Triangle => inside(11 + index as u8),
            Layout::Flat => outside(21 + index as u8),
        }
    }

    /// Whether the director has one interface for clients and another one for servers.
    fn has_two_sides(self) -> bool {
        self != Layout::Flat
    }
}

/// The IPv4 and the IPv6 address of one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DualStack {
    /// In a /24.
    pub v4: Ipv4Addr,
    /// In a /64.
    pub v6: Ipv6Addr,
}

impl DualStack {
    /// For tests that do the same in both families.
    pub fn both(self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

/// 192.0.2.N and 2001:db8:1::N, where N looks the same in both.
const fn outside(n: u8) -> DualStack {
    DualStack { v4: Ipv4Addr::new(192, 0, 2, n), v6: Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, decimal_look(n)) }
}

/// 10.0.0.N and fd00::N
const fn inside(n: u8) -> DualStack {
    DualStack { v4: Ipv4Addr::new(10, 0, 0, n), v6: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, decimal_look(n)) }
}

/// The number that prints in hexadecimal as `n` does in decimal.
const fn decimal_look(n: u8) -> u16 {
    let n = n as u16;
    ((n / 100) << 8) | ((n / 10 % 10) << 4) | (n % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_look_alike_in_both_families() {
        let look = |pair: DualStack| pair.both().map(|address| address.to_string());
        assert_eq!(look(outside(1)), ["192.0.2.1", "2001:db8:1::1"]);
        assert_eq!(look(outside(164)), ["192.0.2.164", "2001:db8:1::164"]);
        assert_eq!(look(Layout::Routed.server(15)), ["10.0.0.26", "fd00::26"]);
        assert_eq!(look(Layout::Flat.server(0)), ["192.0.2.21", "2001:db8:1::21"]);
    }
}
