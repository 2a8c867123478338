//! Topologies come up, join who should be joined, and go away.

use marca_testkit::topology::{DualStack, ETH0, Namespace, Topology, VIPS};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

/// Where nobody listens.
const DISCARD: u16 = 9;
const SOON: Duration = Duration::from_secs(2);
/// A new one each time: a listener that is closed here may live on for a moment in a child that another test has just
/// forked.
const ANY_PORT: u16 = 0;

#[test]
fn the_routed_layout_joins_client_director_and_servers() {
    let net = Topology::routed("it routed", 3).unwrap();
    for address in net.director_outside().both() {
        assert_eq!(reaches(net.client(), net.director(), address), Ok(()));
    }
    for server in net.servers() {
        for address in net.director_inside().both() {
            assert_eq!(reaches(server, net.director(), address), Ok(()), "{}", server.name());
        }
    }
    for address in net.server_address(2).both() {
        assert_eq!(reaches(net.server(0), net.server(2), address), Ok(()));
        assert_eq!(reaches(net.director(), net.server(2), address), Ok(()));
        assert!(reaches(net.client(), net.server(2), address).is_err(), "only the director's program leads inside");
    }
}

#[test]
fn the_routed_director_forwards_from_the_servers_to_the_client() {
    let net = Topology::routed("it forward", 1).unwrap();
    let client = net.client_address(63);
    net.client().ip(&["route add 10.0.0.0/24 via 192.0.2.1", "route add fd00::/64 via 2001:db8:1::1"]).unwrap();
    for address in client.both() {
        assert_eq!(reaches(net.server(0), net.client(), address), Ok(()));
    }
}

#[test]
fn the_flat_layout_joins_all_without_the_director() {
    let net = Topology::flat("it flat", 16).unwrap();
    for (index, server) in net.servers().iter().enumerate() {
        let [v4, v6] = net.server_address(index).both();
        assert_eq!(reaches(net.client(), server, v4), Ok(()));
        assert_eq!(reaches(net.director(), server, v6), Ok(()));
    }
    for address in net.director_outside().both() {
        assert_eq!(reaches(net.client(), net.director(), address), Ok(()));
    }
}

#[test]
fn a_client_can_be_many_clients() {
    let net = Topology::routed("it clients", 1).unwrap();
    for address in [0, 63].into_iter().flat_map(|index| net.client_address(index).both()) {
        let director = match address {
            IpAddr::V4(_) => net.director_outside().v4.into(),
            IpAddr::V6(_) => IpAddr::from(net.director_outside().v6),
        };
        let listener = net.director().enter(|| UdpSocket::bind((director, ANY_PORT)).unwrap());
        let to = listener.local_addr().unwrap();
        listener.set_read_timeout(Some(SOON)).unwrap();
        net.client().enter(|| UdpSocket::bind((address, ANY_PORT)).unwrap().send_to(b"x", to).unwrap());
        assert_eq!(listener.recv_from(&mut [0; 8]).unwrap().1.ip(), address);
    }
}

#[test]
fn a_server_that_holds_a_vip_takes_its_packets_and_does_not_answer_for_it() {
    let net = Topology::flat("it vip", 2).unwrap();
    let DualStack { v4, v6 } = VIPS[0];
    // The same address held without care is answered for: this test can fail.
    net.server(0).ip(&[format!("addr add {}/32 dev lo", VIPS[1].v4)]).unwrap();
    assert!(answers_for(net.client(), VIPS[1].v4.into()));
    for vip in [v4.into(), v6.into()] {
        net.servers().iter().for_each(|server| server.hold_vip(vip).unwrap());
        assert!(!answers_for(net.client(), vip), "{vip}");
        // As a director would, by the MAC address.
        net.client().ip(&[format!("neigh replace {vip} lladdr 02:00:00:00:00:12 dev {ETH0}")]).unwrap();
        assert_eq!(reaches(net.client(), net.server(1), vip), Ok(()));
    }
}

#[test]
fn two_topologies_do_not_see_each_other() {
    let one = Topology::flat("it twin a", 1).unwrap();
    let other = Topology::flat("it twin b", 1).unwrap();
    let address = IpAddr::from(one.server_address(0).v4);
    let listener = one.server(0).enter(|| TcpListener::bind((address, ANY_PORT)).unwrap());
    let to = listener.local_addr().unwrap();
    assert!(connect(one.client(), to).is_ok());
    assert!(connect(other.client(), to).is_err());
    drop(one);
    assert_eq!(reaches(other.client(), other.server(0), address), Ok(()));
}

#[test]
fn nothing_is_left_behind() {
    let net = Topology::routed("it gone", 2).unwrap();
    assert_eq!(namespaces("marca-it-gone-").len(), 5);
    drop(net);
    assert_eq!(namespaces("marca-it-gone-"), [""; 0]);

    let panicked = std::panic::catch_unwind(|| {
        let _net = Topology::flat("it gone", 2).unwrap();
        panic!("a test fails");
    });
    assert!(panicked.is_err());
    assert_eq!(namespaces("marca-it-gone-"), [""; 0]);
}

#[test]
fn what_a_crashed_run_left_is_removed_and_what_a_live_run_has_is_not() {
    for leftover in ["client", "server1", "server16"] {
        let status = Command::new("ip").args(["netns", "add", &format!("marca-it-left-{leftover}")]).status().unwrap();
        assert!(status.success());
    }
    let net = Topology::flat("it left", 1).unwrap();
    assert_eq!(namespaces("marca-it-left-").len(), 4);
    let error = Topology::flat("it left", 1).unwrap_err().to_string();
    assert_eq!(error, "set up the topology `it-left`: a topology of this name is up already");
    assert_eq!(namespaces("marca-it-left-").len(), 4);
    drop(net);
    assert_eq!(namespaces("marca-it-left-"), [""; 0]);
}

#[test]
fn a_command_runs_inside_and_still_sees_pinned_bpf_objects() {
    let net = Topology::routed("it command", 1).unwrap();
    let output = net.server(0).command("ip").args(["-brief", "addr", "show", "dev", ETH0]).output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("10.0.0.11/24") && shown.contains("fd00::11/64"), "{shown}");
    let mounts = |mut command: Command| command.arg("/proc/self/ns/mnt").output().unwrap().stdout;
    assert_eq!(mounts(net.server(0).command("readlink")), mounts(Command::new("readlink")));
}

#[test]
fn errors_of_ip_are_shown() {
    let net = Topology::flat("it errors", 1).unwrap();
    let error = net.client().ip(&["link set nothere up"]).unwrap_err().to_string();
    assert!(error.contains("marca-it-errors-client") && error.contains("nothere"), "{error}");
    let error = net.client().sysctl("net.ipv4.nothere", 1).unwrap_err().to_string();
    assert!(error.starts_with("set net.ipv4.nothere in marca-it-errors-client: "), "{error}");
    net.server(0).hold_vip(VIPS[0].v4.into()).unwrap();
    let error = net.server(0).hold_vip(VIPS[0].v4.into()).unwrap_err().to_string();
    assert!(error.contains("addr add 192.0.2.10/32 dev lo"), "{error}");
}

/// Says something over TCP and hears it back.
fn reaches(from: &Namespace, to: &Namespace, address: IpAddr) -> Result<(), String> {
    let listener = to.enter(|| TcpListener::bind((address, ANY_PORT))).map_err(|error| format!("bind: {error}"))?;
    let to = listener.local_addr().map_err(|error| error.to_string())?;
    let mut ours = connect(from, to).map_err(|error| format!("connect to {address}: {error}"))?;
    let (mut theirs, _) = listener.accept().map_err(|error| error.to_string())?;
    // More than a segment, so that segmentation and checksums have their chance to fail.
    let said = vec![7; 50_000];
    let heard = std::thread::scope(|scope| {
        scope.spawn(|| {
            ours.write_all(&said)?;
            ours.shutdown(std::net::Shutdown::Write)
        });
        let mut heard = Vec::new();
        theirs.set_read_timeout(Some(SOON))?;
        theirs.read_to_end(&mut heard).map(|_| heard)
    });
    match heard {
        Ok(heard) if heard == said => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

fn connect(from: &Namespace, to: SocketAddr) -> std::io::Result<TcpStream> {
    from.enter(|| TcpStream::connect_timeout(&to, Duration::from_millis(500)))
}

/// Whether anybody on the LAN tells a MAC address for it.
fn answers_for(from: &Namespace, address: IpAddr) -> bool {
    from.enter(|| {
        let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        UdpSocket::bind((any, ANY_PORT)).unwrap().send_to(b"x", (address, DISCARD)).unwrap();
    });
    let deadline = Instant::now() + Duration::from_millis(300);
    while Instant::now() < deadline {
        let shown = from.command("ip").args(["neigh", "show", &address.to_string()]).output().unwrap().stdout;
        if String::from_utf8(shown).unwrap().contains("lladdr") {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

fn namespaces(prefix: &str) -> Vec<String> {
    let listed = Command::new("ip").args(["netns", "list"]).output().unwrap().stdout;
    let listed = String::from_utf8(listed).unwrap();
    let names = listed.lines().filter_map(|line| line.split_whitespace().next());
    names.filter(|name| name.starts_with(prefix)).map(str::to_owned).collect()
}
