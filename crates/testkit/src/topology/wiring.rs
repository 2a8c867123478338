//! Makes namespaces into a network: wires, addresses, routes, the bridge, and what veth needs for XDP.

use super::{
    CLIENT_ADDRESSES, DualStack, ETH0, Error, IN, Layout, Namespace, OUT, Topology, names, namespace, offload, xdp_pass,
};
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Wires up namespaces that are still empty. Returns what keeps the pass programs attached.
pub(super) fn wire(topology: &Topology) -> Result<Vec<OwnedFd>, Error> {
    topology.namespaces().try_for_each(Namespace::prepare)?;
    let wires = wires(topology);
    let ends: Vec<&End> = wires.iter().flatten().collect();
    let links = wires.iter().map(|[one, other]| format!("link add {} type veth peer {}", one.made(), other.made()));
    namespace::ip_batch(None, &links.collect::<Vec<_>>())?;
    configure(topology, &ends)?;
    let passes = fit_for_xdp(topology, &ends)?;
    wait_until_running(&ends)?;
    Ok(passes)
}

/// See [`Topology::with_offloads`].
pub(super) fn switch_offloads_on(topology: &Topology) -> Result<(), Error> {
    let wires = wires(topology);
    let mut ends = wires.iter().flatten();
    ends.try_for_each(|end| end.namespace.enter(|| offload::switch_transmit_checksum(&end.interface, true)))
}

/// One end of a veth pair.
struct End<'t> {
    namespace: &'t Namespace,
    interface: String,
    /// The last octet: known addresses make captures readable.
    mac: u8,
}

impl End<'_> {
    /// As `ip link add` wants it.
    fn made(&self) -> String {
        let End { namespace, interface, mac } = self;
        format!("name {interface} address 02:00:00:00:00:{mac:02x} netns {}", namespace.name())
    }

    fn is_in(&self, namespace: &Namespace) -> bool {
        self.namespace.name() == namespace.name()
    }
}

/// Both ends of each veth pair.
fn wires(topology: &Topology) -> Vec<[End<'_>; 2]> {
    let end = |namespace, interface: &str, mac| End { namespace, interface: interface.to_owned(), mac };
    // The bridge's own ports send nothing, but no two addresses of a LAN may be equal.
    let port = |name: &str, mac: u8| end(&topology.switch, name, mac | PORT_MAC);
    let mut wires = match topology.layout {
        Layout::Routed => vec![
            [end(&topology.director, OUT, DIRECTOR_MAC), end(&topology.client, ETH0, CLIENT_MAC)],
            [end(&topology.director, IN, DIRECTOR_INSIDE_MAC), port("director", DIRECTOR_INSIDE_MAC)],
        ],
        Layout::Flat => vec![
            [end(&topology.director, ETH0, DIRECTOR_MAC), port("director", DIRECTOR_MAC)],
            [end(&topology.client, ETH0, CLIENT_MAC), port("client", CLIENT_MAC)],
        ],
        Layout::Triangle => {
            let server = &topology.servers[0];
            return vec![
                [
                    end(&topology.director, OUT, DIRECTOR_MAC),
                    end(&topology.client, "director", DIRECTOR_MAC | PORT_MAC),
                ],
                [end(server, OUT, SERVER_OUTSIDE_MAC), end(&topology.client, "server", SERVER_OUTSIDE_MAC | PORT_MAC)],
                [end(&topology.director, IN, DIRECTOR_INSIDE_MAC), end(server, ETH0, SERVER_MAC)],
            ];
        }
    };
    wires.extend(topology.servers.iter().enumerate().map(|(index, server)| {
        let mac = SERVER_MAC + index as u8;
        [end(server, ETH0, mac), port(&names::server(index), mac)]
    }));
    wires
}

fn configure(topology: &Topology, ends: &[&End<'_>]) -> Result<(), Error> {
    let up = |namespace: &Namespace| -> Vec<String> {
        ends.iter().filter(|end| end.is_in(namespace)).map(|end| format!("link set {} up", end.interface)).collect()
    };
    let mut commands = Vec::new();
    if topology.layout == Layout::Triangle {
        commands.extend(bridge(ETH0, ends, &topology.client));
    }
    commands.extend(up(&topology.client));
    for index in 0..CLIENT_ADDRESSES {
        commands.extend(add_addresses(topology.client_address(index), ETH0));
    }
    topology.client.ip(&commands)?;

    let mut commands = up(&topology.director);
    commands.extend(add_addresses(topology.director_outside(), topology.outside_interface()));
    if topology.layout.has_two_sides() {
        commands.extend(add_addresses(topology.director_inside(), IN));
        topology.director.sysctl("net.ipv4.ip_forward", 1)?;
        topology.director.sysctl("net.ipv6.conf.all.forwarding", 1)?;
    }
    topology.director.ip(&commands)?;

    for (index, server) in topology.servers.iter().enumerate() {
        let mut commands = up(server);
        commands.extend(add_addresses(topology.server_address(index), ETH0));
        if topology.layout == Layout::Routed {
            let DualStack { v4, v6 } = topology.director_inside();
            commands.extend([format!("route add default via {v4}"), format!("route add default via {v6}")]);
        }
        if topology.layout == Layout::Triangle {
            commands.extend(add_addresses(Layout::Flat.server(index), OUT));
        }
        server.ip(&commands)?;
    }

    if topology.layout == Layout::Triangle {
        return Ok(());
    }
    let mut commands = bridge("lan", ends, &topology.switch);
    commands.extend(up(&topology.switch));
    topology.switch.sysctl("net.ipv6.conf.all.disable_ipv6", 1)?;
    topology.switch.sysctl("net.ipv6.conf.default.disable_ipv6", 1)?;
    topology.switch.ip(&commands)
}

/// All veths of a namespace become ports of a bridge.
fn bridge(name: &str, ends: &[&End<'_>], namespace: &Namespace) -> Vec<String> {
    // Without snooping, multicast (which carries IPv6's neighbour discovery) reaches all ports from the start.
    let mut commands = vec![format!("link add {name} type bridge stp_state 0 mcast_snooping 0")];
    let ports = ends.iter().filter(|end| end.is_in(namespace));
    commands.extend(ports.map(|port| format!("link set {} master {name}", port.interface)));
    commands.push(format!("link set {name} up"));
    commands
}

fn add_addresses(addresses: DualStack, interface: &str) -> [String; 2] {
    let DualStack { v4, v6 } = addresses;
    [format!("addr add {v4}/24 dev {interface}"), format!("addr add {v6}/64 dev {interface} nodad")]
}

/// Every sender computes its checksums, and every veth whose peer may transmit from XDP can take such frames: those
/// of the switch and of the client, but not those on which the tests' own programs go.
fn fit_for_xdp(topology: &Topology, ends: &[&End<'_>]) -> Result<Vec<OwnedFd>, Error> {
    let pass = xdp_pass::load()?;
    let mut passes = Vec::new();
    for namespace in topology.namespaces() {
        let interfaces: Vec<&str> =
            ends.iter().filter(|end| end.is_in(namespace)).map(|end| end.interface.as_str()).collect();
        let takes_pass = [topology.switch.name(), topology.client.name()].contains(&namespace.name());
        let attached = namespace.enter(|| {
            interfaces.iter().try_for_each(|interface| offload::switch_transmit_checksum(interface, false))?;
            let pass_on = if takes_pass { interfaces.as_slice() } else { &[] };
            pass_on.iter().map(|interface| xdp_pass::attach(&pass, interface)).collect::<Result<Vec<_>, Error>>()
        })?;
        passes.extend(attached);
    }
    Ok(passes)
}

/// A veth that is up carries nothing until the kernel's link watcher has seen its carrier, which takes a moment.
fn wait_until_running(ends: &[&End<'_>]) -> Result<(), Error> {
    let deadline = Instant::now() + RUNNING_WITHIN;
    for end in ends {
        while !end.namespace.enter(|| offload::is_running(&end.interface))? {
            if Instant::now() > deadline {
                let doing = format!("wait for the carrier of {} in {}", end.interface, end.namespace.name());
                return Err(Error::new(doing, io::ErrorKind::TimedOut.into()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

/// The link watcher may put off a device's event by a second (`net/core/link_watch.c`, `linkwatch_schedule_work`).
const RUNNING_WITHIN: Duration = Duration::from_secs(5);

const SERVER_MAC: u8 = 0x11;
const SERVER_OUTSIDE_MAC: u8 = 0x31;
const CLIENT_MAC: u8 = 0x61;
const DIRECTOR_MAC: u8 = 0x71;
const DIRECTOR_INSIDE_MAC: u8 = 0x72;
/// Set in the address of a bridge's port, clear in all others.
const PORT_MAC: u8 = 0x80;

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::net::UdpSocket;

    #[test]
    fn no_veth_leaves_checksums_to_be_computed_by_others() {
        let net = Topology::flat("unit offload", 1).unwrap();
        for namespace in [net.client(), net.director(), net.server(0)] {
            assert!(!namespace.enter(|| offload::transmit_checksum(ETH0)).unwrap(), "{}", namespace.name());
        }
        for port in ["client", "director", "server1"] {
            assert!(!net.switch().enter(|| offload::transmit_checksum(port)).unwrap(), "{port}");
        }
    }

    #[test]
    fn frames_that_a_director_sends_from_xdp_arrive_all() {
        const XDP_TX: i32 = 3;
        const FRAMES: u64 = 2000;
        let net = Topology::routed("unit xdp", 1).unwrap();
        let program = xdp_pass::load_constant(XDP_TX).unwrap();
        let _attached = net.director().enter(|| xdp_pass::attach(&program, OUT)).unwrap();
        let director = net.director_outside().v4;
        // The director is deaf now: it sends everything back.
        net.client().ip(&[format!("neigh replace {director} lladdr 02:00:00:00:00:71 dev {ETH0}")]).unwrap();
        net.client().enter(|| {
            let before = received(ETH0);
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            for _ in 0..FRAMES {
                socket.send_to(&[0; 1000], (director, 9)).unwrap();
            }
            let deadline = Instant::now() + Duration::from_secs(2);
            while received(ETH0) < before + FRAMES {
                assert!(Instant::now() < deadline, "{} of {FRAMES} came back", received(ETH0) - before);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
    }

    /// Frames that the interface has taken, from the second column of `/proc/net/dev`.
    fn received(interface: &str) -> u64 {
        let table = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let row = table.lines().find_map(|line| line.trim_start().strip_prefix(&format!("{interface}:"))).unwrap();
        row.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}
